"""Beams: sequences against `generate` on a fresh model, rows against a bare hook on each alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from by_hand import rows_of_text
from tiny_models import build, by_family
from transformers import AutoModelForCausalLM, GenerationConfig
from typer.testing import CliRunner

import probekit
from probekit.capture import beams, run
from probekit.cli.commands import app
from probekit.config import load_config
from probekit.errors import CaptureError, PlanError

LAYER = {"gpt2": "transformer.h.1", "llama": "model.layers.1", "phi3": "model.layers.1"}
N_NEW, N_BEAMS = 7, 4
FAMILIES = by_family(LAYER, often=("gpt2", "phi3"))


def config(folder: Path, store: str = "run", model_type: str = "gpt2", **generate: Any) -> Any:
    return {
        "model": {"name": str(folder / "model")},
        "inputs": {
            "random": {"examples": 4, "min_tokens": 3, "max_tokens": 4, "seed": 5},
            "batch_tokens": 120,
        },
        "probes": [
            {"modules": LAYER[model_type]},
            {"modules": "lm_head", "record": ["output", "token_logprob"]},
        ],
        "generate": {"max_new_tokens": N_NEW, "beams": N_BEAMS, **generate},
        "execution_order": True,
        "store": {"path": str(folder / store), "shard_bytes": 30_000},
    }


ENDS = list(range(10, 22))


def saved(folder: Path, model_type: str) -> Any:
    """A model that is surer than random ones are, and ends its texts early and late."""
    model = build(model_type)
    with torch.no_grad():
        model.get_submodule("lm_head").weight.mul_(6)
    model.generation_config = GenerationConfig(eos_token_id=ENDS)
    model.save_pretrained(folder / "model")
    return model


def by_generate(folder: Path, prompt: list[int], **settings: Any) -> tuple[list[list[int]], Any]:
    """What `generate` of a fresh model returns of one prompt: sequences, and their scores."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "model")
    ends = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig()
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=N_NEW,
        num_beams=N_BEAMS,
        num_return_sequences=N_BEAMS,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=99,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    found = []
    for sequence in out.sequences.tolist():
        new = sequence[len(prompt) :]
        stop = next((n + 1 for n, token in enumerate(new) if token in ends), len(new))
        assert set(new[stop:]) <= {99}
        found.append(prompt + new[:stop])
    return found, out.sequences_scores.numpy()


def prompt_of(example: Any) -> list[int]:
    found: list[int] = example.token_ids[: example.n_tokens - example.n_generated].tolist()
    return found


@pytest.mark.parametrize("model_type", FAMILIES)
def test_sequences_and_scores_are_those_of_generate(tmp_path: Path, model_type: str) -> None:
    saved(tmp_path, model_type)
    trace = run(config(tmp_path, model_type=model_type))
    assert len(trace.examples) == 16 and len(trace.prompts) == 4
    for prompt in trace.prompts:
        examples = [trace.examples[n] for n in prompt.examples]
        sequences, scores = by_generate(tmp_path, prompt_of(examples[0]))
        assert [e.token_ids.tolist() for e in examples] == sequences
        np.testing.assert_allclose([e.score for e in examples], scores, rtol=1e-4)
        assert [e.sample for e in examples] == [0, 1, 2, 3]
        assert sorted(scores)[::-1] == scores.tolist()  # the best first
    assert len({e.n_generated for e in trace.examples}) > 1  # some ended, and were filled up


@pytest.mark.parametrize("model_type", FAMILIES)
def test_rows_are_those_of_a_bare_hook_on_each_sequence(tmp_path: Path, model_type: str) -> None:
    model = saved(tmp_path, model_type)
    trace = run(config(tmp_path, model_type=model_type))
    for example in trace.examples:
        tokens = example.token_ids.tolist()
        for module in (LAYER[model_type], "lm_head"):
            rows = rows_of_text(model, tokens, module)
            found = trace[module].example(example.number)
            np.testing.assert_allclose(found, rows, rtol=1e-4, atol=1e-3)
        logprobs = torch.log_softmax(torch.tensor(rows).double(), -1).numpy()
        said = trace["lm_head/token_logprob"].example(example.number)
        np.testing.assert_allclose(
            said[:-1], logprobs[np.arange(len(tokens) - 1), tokens[1:]], rtol=1e-3, atol=1e-3
        )
        assert np.isnan(said[-1])
        new = said[-example.n_generated - 1 : -1]
        assert example.score == pytest.approx(new.mean(), rel=1e-3)


def test_a_prompt_gets_in_a_batch_what_it_gets_alone(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")
    together = run(config(tmp_path, "together"))
    alone = config(tmp_path, "alone")
    alone["inputs"]["batch_tokens"] = 1
    for one, other in zip(together.examples, run(alone).examples, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert one.score == pytest.approx(other.score, rel=1e-5)


def test_the_checkpoints_own_settings_stay_out(tmp_path: Path) -> None:
    model = saved(tmp_path, "gpt2")
    plain = [e.token_ids.tolist() for e in run(config(tmp_path, "plain")).examples]
    own = GenerationConfig(
        eos_token_id=ENDS,
        num_beams=2,
        length_penalty=-3.0,
        early_stopping=True,
        do_sample=True,
        repetition_penalty=3.0,
        temperature=5.0,
    )
    model.generation_config = own
    model.save_pretrained(tmp_path / "model")
    assert [e.token_ids.tolist() for e in run(config(tmp_path, "own")).examples] == plain


def test_penalties_are_those_of_generate(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")
    settings = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2}
    trace = run(config(tmp_path, **settings))
    plain = run(config(tmp_path, "plain"))
    assert trace.tokens.id[:].tolist() != plain.tokens.id[:].tolist()
    for prompt in trace.prompts:
        examples = [trace.examples[n] for n in prompt.examples]
        sequences, _ = by_generate(tmp_path, prompt_of(examples[0]), **settings)
        assert [e.token_ids.tolist() for e in examples] == sequences


@pytest.mark.parametrize("use_cache", [False, "both"])
def test_the_cache_changes_nothing_and_is_timed(tmp_path: Path, use_cache: Any) -> None:
    saved(tmp_path, "gpt2")
    plain = run(config(tmp_path, "plain"))
    other = run(config(tmp_path, "other", use_cache=use_cache))
    assert plain.tokens.id[:].tolist() == other.tokens.id[:].tolist()
    times = {k: v for k, v in other.provenance.items() if k.startswith("generate_")}
    assert times["generate_naive_s"] > 0
    if use_cache == "both":
        assert times["generate_cached_s"] > 0
        assert times["generate_same"] == times["generate_compared"] == 16


def test_a_search_that_ends_at_no_token_goes_on_to_the_limit(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")
    trace = run(config(tmp_path, stop_at_eos=False))
    assert {e.n_generated for e in trace.examples} == {N_NEW}


POSITIONS = {
    "prompt": lambda n_prompt, n: range(n_prompt),
    "generated": lambda n_prompt, n: range(n_prompt, n),
    "last": lambda n_prompt, n: [n_prompt - 1],
    "1:": lambda n_prompt, n: range(1, n_prompt),
}


@pytest.mark.parametrize("positions", POSITIONS)
def test_positions_are_counted_in_the_prompt(tmp_path: Path, positions: str) -> None:
    model = saved(tmp_path, "gpt2")
    written = config(tmp_path)
    module = LAYER["gpt2"]
    written["probes"] = [{"modules": module, "positions": positions}]
    written["probes"] += [{"modules": "lm_head", "positions": positions, "pool": "mean"}]
    trace = run(written)
    for example in trace.examples:
        tokens, n_prompt = example.token_ids.tolist(), len(prompt_of(example))
        kept = list(POSITIONS[positions](n_prompt, len(tokens)))
        rows = rows_of_text(model, tokens, module)[kept]
        found = trace[module].example(example.number)
        np.testing.assert_allclose(found, rows, rtol=1e-4, atol=1e-4)
        pooled = rows_of_text(model, tokens, "lm_head")[kept].mean(0)
        one = trace["lm_head"].example(example.number)
        np.testing.assert_allclose(one, pooled, rtol=1e-3, atol=1e-3)


def test_a_trace_says_what_was_recorded(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")
    trace = run(config(tmp_path))
    assert trace.provenance["n_shards"] > 1
    with h5py.File(tmp_path / "run" / "trace.h5") as file:
        assert file.attrs["n_beams"] == N_BEAMS
        assert "read again in one pass" in file.attrs["recorded"]
        assert file["examples/score"].dtype == np.float32
        assert file["examples/prompt"][:].tolist() == [n // N_BEAMS for n in range(16)]
        steps = file["tokens/step"][:]
    assert {f.phase for f in trace.execution.forwards} == {"forward"}
    assert sum(f.n_tokens for f in trace.execution.forwards) == len(trace.tokens) == len(steps)
    for example in trace.examples:
        own = steps[example.first_token : example.first_token + example.n_tokens]
        n_prompt = example.n_tokens - example.n_generated
        assert own.tolist() == [0] * n_prompt + list(range(1, example.n_generated + 1))
    said = CliRunner().invoke(app, ["info", str(tmp_path / "run")]).output
    assert "4 beams" in " ".join(said.split()) and "read again" in " ".join(said.split())
    assert probekit.verify(tmp_path / "run").whole
    scores = trace.to_pandas("examples")["score"].tolist()
    assert scores == [e.score for e in trace.examples]


def test_a_shard_holds_whole_prompts_and_a_killed_run_goes_on_to_equal_bytes(
    tmp_path: Path,
) -> None:
    saved(tmp_path, "gpt2")

    def shards_of(store: str) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (tmp_path / store / "shards").glob("*.h5")}

    def stop(progress: Any) -> None:
        if progress.examples > 9:
            raise KeyboardInterrupt

    run(config(tmp_path, "whole"))
    for shard in probekit.plan(config(tmp_path, "planned")).shards:
        assert (shard.first_example % N_BEAMS, shard.n_examples % N_BEAMS) == (0, 0)
    with pytest.raises(KeyboardInterrupt):
        run(config(tmp_path, "cut"), on_progress=stop)
    assert 0 < len(shards_of("cut")) < len(shards_of("whole"))
    run(config(tmp_path, "cut"))
    assert shards_of("cut") == shards_of("whole")


def test_one_beam_is_no_other_run(tmp_path: Path) -> None:
    one, plain = config(tmp_path, beams=1), config(tmp_path)
    del plain["generate"]["beams"]
    assert load_config(one).digest == load_config(plain).digest != load_config(config(tmp_path))


@pytest.mark.filterwarnings("ignore:a batch of")
def test_a_batch_that_is_too_large_is_split(tmp_path: Path, monkeypatch: Any) -> None:
    saved(tmp_path, "gpt2")
    whole = [e.token_ids.tolist() for e in run(config(tmp_path, "whole")).examples]
    real = beams._returned

    def small(walk: Any, prompts: Any, *rest: Any, **more: Any) -> Any:
        return None if len(prompts) > 1 else real(walk, prompts, *rest, **more)

    monkeypatch.setattr(beams, "_returned", small)
    trace = run(config(tmp_path, "split"))
    assert [e.token_ids.tolist() for e in trace.examples] == whole
    monkeypatch.setattr(beams, "_returned", lambda *_, **__: None)
    with pytest.raises(CaptureError, match=r"4 beams of \d+ tokens are too large .*generate.beams"):
        run(config(tmp_path, "none"))


def test_what_cannot_be_asked_for_is_said(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")
    for settings, words in [
        ({"beams": 101}, "generate.beams: given 101, and the model's vocabulary has 101 tokens"),
        ({"temperature": 0.5}, "generate.temperature: a beam search draws nothing, and does not"),
        ({"strategy": "top_p"}, "generate.beams: given 4 with strategy: top_p"),
    ]:
        with pytest.raises(probekit.ProbekitError, match=re.escape(words)):
            probekit.plan(config(tmp_path, **settings))
    assert probekit.plan(config(tmp_path, beams=100)).sites


def test_sequences_that_there_are_not_are_an_error(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")
    wanted = config(tmp_path, beams=99, no_repeat_ngram_size=1, max_new_tokens=1)
    with pytest.raises((CaptureError, PlanError), match=r"of 99 sequences .*generate.beams"):
        run(wanted, self_check=False)
