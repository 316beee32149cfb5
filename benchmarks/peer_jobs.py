"""One tool's way to record every `mlp.act` of ragged texts to disk: a process that `peers.py` runs.

Each job is written as the tool's own documentation shows it:

- TransformerLens 4: `TransformerBridge` over the Hugging Face model, `run_with_cache` with a
  `names_filter` on `hook_post`, `torch.save` of the cached tensors of each batch.
- nnsight 0.8: `TransformersModel`, `tracer.cache(modules=...)` under `torch.no_grad()`,
  `torch.save` of each batch; tuned, `tracer.stop()` behind the last module.
- torchlens 2.36: `extract_dataset(..., output_dir=..., ragged="trim")`, its shards of safetensors.
- by hand: a forward hook a module, `.cpu()`, one h5py dataset a batch and module; tuned, an
  exception in the last hook ends the pass.
- probekit: the capture of a plan, index included; loading the model and planning are not timed.

Where the tool leaves padding to its user, the rows of real tokens are picked with the mask before
they are saved. A job is run "documented", in batches of 16 texts in the order given, or "tuned":
with the batches that probekit makes and whatever the tool offers to end a pass early. torchlens
offers neither: its batches have one size, and one of 16 long texts takes it nine gigabytes.

The process reads commands from standard input, one JSON object a line, and answers on standard
output: `{"do": "run", "how": ..., "to": folder}` gives the seconds on the wall's clock and those of
the processor; `{"do": "rows", "how": ...,
"of": folder, "to": file}` writes what the job left as one float32 array [layer, token, d_mlp].
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

Array = np.ndarray[Any, Any]

N_LAYERS = 6
BATCH = 16  # texts in a batch of the documented way


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every tool is given."""

    folder: Path  # holds model/, a Hugging Face folder
    texts: list[torch.Tensor]  # token ids, int64 [token]
    tuned: list[list[int]]  # texts of each of probekit's batches

    def batches(self, how: str) -> list[list[int]]:
        """Give the numbers of the texts in each batch."""
        if how == "tuned":
            return self.tuned
        numbers = list(range(len(self.texts)))
        return [numbers[n : n + BATCH] for n in range(0, len(numbers), BATCH)]

    def padded(self, how: str) -> Iterator[dict[str, torch.Tensor]]:
        """Give every batch, padded on the right: int64 [text, pos] each."""
        for numbers in self.batches(how):
            yield padded([self.texts[n] for n in numbers])

    def in_order(self, rows: Array, how: str) -> Array:
        """Put rows [..., token, d_mlp] that came batch by batch into the order of the texts."""
        numbers = [n for batch in self.batches(how) for n in batch]
        ends = np.cumsum([0, *(len(self.texts[n]) for n in numbers)])
        spans = dict(zip(numbers, pairwise(ends.tolist()), strict=True))
        picked = np.concatenate([np.arange(*spans[n]) for n in range(len(self.texts))])
        return rows[..., picked, :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that is ready to run."""

    run: Callable[[str, Path], None]  # how, and the folder to write
    rows: Callable[[str, Path], Array]  # what a run left: [layer, token, d_mlp]


def padded(texts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pad texts on the right: int64 [text, pos] each."""
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    n_tokens = torch.tensor([len(t) for t in texts])
    mask = torch.arange(ids.shape[1]) < n_tokens[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def hf_model(work: Work) -> Any:
    """Load the model, in eval mode."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(work.folder / "model").eval()


def some_tokenizer() -> Any:
    """Load a tokenizer for tools that ask for one; the job gives token ids and never uses it."""
    from importlib.resources import files

    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(files("probekit.samples") / "tiny-gpt2"))


def saved_batches(work: Work, how: str, folder: Path) -> Array:
    """Read what was saved with torch.save a batch: {layer: [token, d_mlp]} each."""
    files = [folder / f"{n}.pt" for n in range(len(work.batches(how)))]
    parts = [torch.load(file, weights_only=True) for file in files]
    rows = [torch.cat([part[layer] for part in parts]) for layer in range(N_LAYERS)]
    return work.in_order(torch.stack(rows).numpy(), how)


# --- the tools


def transformer_lens(work: Work) -> Tool:
    """Make TransformerLens 4 ready: the bridge's cache."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        "distilgpt2", hf_model=hf_model(work), tokenizer=some_tokenizer(), device="cpu"
    )
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(N_LAYERS)]

    def run(how: str, folder: Path) -> None:
        with torch.inference_mode():
            for number, batch in enumerate(work.padded(how)):
                mask = batch["attention_mask"]
                _, cache = bridge.run_with_cache(
                    batch["input_ids"],
                    attention_mask=mask,
                    names_filter=lambda name: name.endswith("mlp.hook_post"),
                )
                kept = {layer: cache[name][mask.bool()] for layer, name in enumerate(names)}
                torch.save(kept, folder / f"{number}.pt")

    return Tool(run=run, rows=lambda how, folder: saved_batches(work, how, folder))


def nnsight(work: Work) -> Tool:
    """Make nnsight 0.8 ready: a trace with a cache."""
    from nnsight import TransformersModel

    model = TransformersModel(hf_model(work), tokenizer=some_tokenizer())
    modules = [block.mlp.act for block in model.transformer.h]
    names = [f"model.transformer.h.{layer}.mlp.act" for layer in range(N_LAYERS)]

    def run(how: str, folder: Path) -> None:
        with torch.no_grad():
            for number, batch in enumerate(work.padded(how)):
                with model.trace(**batch) as tracer:
                    cache = tracer.cache(modules=modules)
                    if how == "tuned":
                        modules[-1].output  # noqa: B018 (waits for it)
                        tracer.stop()
                mask = batch["attention_mask"].bool()
                kept = {layer: cache[name].output[mask] for layer, name in enumerate(names)}
                torch.save(kept, folder / f"{number}.pt")

    return Tool(run=run, rows=lambda how, folder: saved_batches(work, how, folder))


def torchlens(work: Work) -> Tool:
    """Make torchlens 2.36 ready: a dataset's extraction."""
    import torchlens as tl
    from torchlens.dataset_extraction import load_extraction

    model = hf_model(work)
    layers = [f"transformer.h.{layer}.mlp.act" for layer in range(N_LAYERS)]

    def run(how: str, folder: Path) -> None:
        tl.extract_dataset(
            model,
            work.texts,
            layers,
            batch_size=BATCH,
            output_dir=folder,
            collate=padded,
            ragged="trim",
            progress=False,
        )

    def rows(how: str, folder: Path) -> Array:
        found = load_extraction(folder).activations
        return np.stack([found[name].values.numpy() for name in layers])

    return Tool(run=run, rows=rows)


class _Enough(Exception):  # noqa: N818 (it is no error)
    """Ends a forward pass after the last hook."""


def by_hand(work: Work) -> Tool:
    """Make plain hooks and h5py ready."""
    model = hf_model(work)
    acts = [model.transformer.h[layer].mlp.act for layer in range(N_LAYERS)]

    def run(how: str, folder: Path) -> None:
        seen: dict[int, torch.Tensor] = {}

        def hook(layer: int) -> Callable[..., None]:
            def keep(module: Any, args: Any, output: torch.Tensor) -> None:
                seen[layer] = output.detach().cpu()
                if how == "tuned" and layer == N_LAYERS - 1:
                    raise _Enough

            return keep

        handles = [act.register_forward_hook(hook(layer)) for layer, act in enumerate(acts)]
        try:
            with torch.no_grad(), h5py.File(folder / "acts.h5", "w") as file:
                for number, batch in enumerate(work.padded(how)):
                    with suppress(_Enough):
                        model(**batch)
                    mask = batch["attention_mask"].bool()
                    for layer, output in seen.items():
                        file[f"{layer}/{number}"] = output[mask].numpy()
        finally:
            for handle in handles:
                handle.remove()

    def rows(how: str, folder: Path) -> Array:
        with h5py.File(folder / "acts.h5") as file:
            parts = [
                np.concatenate([file[f"{layer}/{n}"][:] for n in range(len(work.batches(how)))])
                for layer in range(N_LAYERS)
            ]
        return work.in_order(np.stack(parts), how)

    return Tool(run=run, rows=rows)


def probekit(work: Work) -> Tool:
    """Make probekit ready: it has one way."""
    import probekit as pk
    from probekit import models
    from probekit.capture import running as capture
    from probekit.capture.provenance import about
    from probekit.config.loading import load_config
    from probekit.planning.making import make_plan
    from probekit.store.sealed import sealed_specs
    from probekit.store.writing.index import build_index

    lengths = [len(text) for text in work.texts]
    plan = make_plan(load_config(json.loads((work.folder / "config.json").read_text())))
    assert plan.examples is not None and plan.examples.n_tokens.tolist() == lengths
    assert (plan.examples.token_ids(0, len(lengths)) == torch.cat(work.texts).numpy()).all()
    cpu = torch.device("cpu")
    model = models.load_model(plan.config, plan.skeleton.hf_config, cpu)

    def run(how: str, folder: Path) -> None:
        capture.capture(model, plan, plan.shards, folder, cpu)
        build_index(folder, sealed_specs(folder), [s.spec for s in plan.sites], about(plan), None)

    def rows(how: str, folder: Path) -> Array:
        return np.stack([site[:] for site in pk.open(folder).match("transformer.h.*.mlp.act")])

    return Tool(run=run, rows=rows)


TOOLS = {
    "probekit": probekit,
    "by hand": by_hand,
    "TransformerLens": transformer_lens,
    "nnsight": nnsight,
    "torchlens": torchlens,
}


def main() -> None:
    """Answer commands until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the tools print goes to standard error
    name, folder = sys.argv[1], Path(sys.argv[2])

    def answer(**what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    given = np.load(folder / "texts.npz")
    texts = torch.from_numpy(given["ids"]).long().split(given["n_tokens"].tolist())
    tuned = json.loads((folder / "tuned.json").read_text())
    try:
        tool = TOOLS[name](Work(folder=folder, texts=list(texts), tuned=tuned))
    except ModuleNotFoundError as error:
        answer(missing=error.name)
        return
    answer(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "run":
            begin = time.perf_counter(), time.process_time()
            try:
                tool.run(command["how"], Path(command["to"]))
            except Exception as error:  # whatever a tool raises: it is said, and the tool left out
                answer(failed=f"{type(error).__name__}: {error}")
                return
            answer(wall=time.perf_counter() - begin[0], cpu=time.process_time() - begin[1])
        else:
            np.save(command["to"], tool.rows(command["how"], Path(command["of"])))
            answer(saved=True)


if __name__ == "__main__":
    main()
