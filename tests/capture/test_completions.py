"""Several completions of a prompt, against `generate` on a fresh model with noise by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from by_hand import rows_of_text
from tiny_models import build, by_family
from transformers import GenerationConfig
from typer.testing import CliRunner

import probekit
from probekit import PlanError, StoreError
from probekit.analysis.readouts.targets import units_of
from probekit.capture import run
from probekit.cli.commands import app
from probekit.cli.terminal import show_plan
from probekit.config import load_config

LAYER = {"gpt2": "transformer.h.1", "llama": "model.layers.1", "phi3": "model.layers.1"}
N_NEW, TEMPERATURE = 6, 0.8
TEXTS = ["The capital of Japan is", "What is the capital of France?", "Cats are"]


def config(folder: Path, store: str, n_prompts: int = 3, **generate: Any) -> dict[str, Any]:
    return {
        "model": {"name": str(folder / "model")},
        "inputs": {
            "random": {"examples": n_prompts, "min_tokens": 3, "max_tokens": 4, "seed": 5},
            "batch_tokens": 80,
        },
        "probes": [{"modules": ["transformer.h.1", "model.layers.1"]}],
        "generate": {
            "max_new_tokens": N_NEW,
            "strategy": "sample",
            "temperature": TEMPERATURE,
            "stop_at_eos": False,
            "seed": 11,
            **generate,
        },
        "store": {"path": str(folder / store), "shard_bytes": 4_000},
    }


def on_sample(store: Path, probes: Any = None, **generate: Any) -> dict[str, Any]:
    """The model that ships with probekit, on texts."""
    settings = {"max_new_tokens": N_NEW, "strategy": "sample", "samples": 3}
    return {
        "model": {"name": "sample:tiny-gpt2"},
        "inputs": {"texts": TEXTS},
        "probes": probes or [{"sites": "resid_post", "layers": [-1]}],
        "generate": {**settings, **generate},
        "store": {"path": str(store)},
    }


def saved(folder: Path, model_type: str) -> Any:
    model = build(model_type)
    model.save_pretrained(folder / "model")
    return model


def drawn_by_hand(model: Any, prompt: list[int], place: tuple[int, int]) -> list[int]:
    """Let `generate` go on from one prompt alone: the largest of logits and Gumbel noise."""
    seed = int(np.random.SeedSequence((11, *place)).generate_state(1)[0])
    random = torch.Generator().manual_seed(seed)

    def noise(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        uniform = torch.rand(logits.shape[1], generator=random).clamp(min=torch.finfo().tiny)
        return logits / TEMPERATURE - torch.log(-torch.log(uniform))

    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        logits_processor=[noise],
        generation_config=GenerationConfig(max_new_tokens=N_NEW, do_sample=False, pad_token_id=0),
        eos_token_id=None,
    )
    return [int(token) for token in out[0]]


@pytest.mark.parametrize("model_type", by_family(LAYER, often=("gpt2", "phi3")))
def test_each_sample_is_what_generate_draws_with_its_noise(tmp_path: Path, model_type: str) -> None:
    model = saved(tmp_path, model_type)
    model.generation_config = GenerationConfig()
    written = config(tmp_path, "run", samples=4)
    written["probes"] = [{"modules": LAYER[model_type]}]
    trace = run(written)
    assert len(trace.examples) == 12
    assert trace.provenance["n_shards"] > 3  # samples of a prompt lie in several
    for example in trace.examples:
        assert (example.prompt, example.sample) == divmod(example.number, 4)
        tokens = example.token_ids.tolist()
        prompt = tokens[: len(tokens) - example.n_generated]
        assert tokens == drawn_by_hand(model, prompt, (example.prompt, example.sample))
        rows = rows_of_text(model, tokens, LAYER[model_type])
        found = trace[LAYER[model_type]].example(example.number)
        np.testing.assert_allclose(found, rows, rtol=1e-4, atol=1e-4)
    said = {tuple(e.token_ids[-N_NEW:].tolist()) for e in trace.examples}
    assert len(said) == 12


def test_a_sample_is_the_same_however_many_there_are(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")

    def rows(store: str, **generate: Any) -> dict[tuple[int, int], tuple[list[int], bytes]]:
        written = config(tmp_path, store, **generate)
        written["probes"] = [{"modules": "transformer.h.1"}]
        written["inputs"]["batch_tokens"] = 1
        trace = run(written)
        site = trace["transformer.h.1"]
        return {
            (e.prompt, e.sample): (e.token_ids.tolist(), site.example(e.number).tobytes())
            for e in trace.examples
        }

    four, eight, plain = rows("4", samples=4), rows("8", samples=8), rows("plain")
    assert four == {place: found for place, found in eight.items() if place[1] < 4}
    assert plain == {place: found for place, found in eight.items() if place[1] == 0}


def test_one_sample_is_no_other_run_and_has_no_more_columns(tmp_path: Path) -> None:
    plain, one = (load_config(config(tmp_path, "a", **more)) for more in ({}, {"samples": 1}))
    assert plain.digest == one.digest
    assert "samples" not in plain.decisions["generate"]
    assert load_config(config(tmp_path, "a", samples=2)).digest != plain.digest
    trace = probekit.run(on_sample(tmp_path / "one", samples=1), self_check=False)
    with h5py.File(tmp_path / "one" / "shards" / "00000.h5") as file:
        assert {*file["examples"]} == {"id", "text", "first_token", "n_tokens"}
        assert "n_samples" not in file.attrs
    assert [(e.prompt, e.sample, e.score) for e in trace.examples] == [
        (n, 0, None) for n in range(3)
    ]
    assert [p.examples for p in trace.prompts] == [(0,), (1,), (2,)]
    assert [p.id for p in trace.prompts] == ["0", "1", "2"]
    with pytest.raises(StoreError, match=r"made without examples/prompt .*generate\.samples"):
        trace.examples.prompt  # noqa: B018


def test_a_plain_file_says_which_prompt_and_which_sample(tmp_path: Path) -> None:
    written = on_sample(tmp_path / "run")
    lines = [{"text": text, "id": f"q{n}", "label": n} for n, text in enumerate(TEXTS)]
    del written["inputs"]["texts"]
    written["inputs"] |= {"examples": lines, "columns": ["label"]}
    probekit.run(written, self_check=False)
    with h5py.File(tmp_path / "run" / "trace.h5") as file:
        examples = file["examples"]
        assert examples["prompt"][:].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert examples["sample"][:].tolist() == [0, 1, 2] * 3
        assert examples["id"].asstr()[:].tolist() == [f"q{n // 3}:{n % 3}" for n in range(9)]
        assert examples["text"].asstr()[:].tolist() == [TEXTS[n // 3] for n in range(9)]
        assert file.attrs["n_samples"] == 3
        assert "score" not in examples
    trace = probekit.open(tmp_path / "run")
    assert trace.columns["label"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    units, _ = units_of(trace, None)  # a readout is not tested on prompts that it was fitted on
    assert units.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    prompt = trace.prompts[1]
    assert (prompt.id, prompt.text, prompt.number) == ("q1", TEXTS[1], 1)
    assert (prompt.columns, prompt.examples) == ({"label": 1}, (3, 4, 5))
    assert prompt.completions == tuple(trace.examples[n].completion for n in (3, 4, 5))
    assert trace.prompts[-1].number == 2 and len(trace.prompts[:2]) == 2
    with pytest.raises(IndexError, match="prompt 3 is out of range"):
        trace.prompts[3]
    frame = trace.to_pandas("examples")
    assert frame["sample"].tolist() == [0, 1, 2] * 3
    merged = trace.merge(tmp_path / "one.h5")
    assert [p.examples for p in merged.prompts] == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]
    assert trace.to_xarray()["example_prompt"].values.tolist() == [n // 3 for n in range(9)]


def test_inputs_hold_a_prompt_once_and_the_limit_counts_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = on_sample(tmp_path / "run")
    written["inputs"]["limit"] = 2
    trace = probekit.run(written, self_check=False)
    assert [e.prompt for e in trace.examples] == [0, 0, 0, 1, 1, 1]
    with h5py.File(tmp_path / "run" / "inputs.h5") as file:
        assert len(file["texts/ends"]) == len(file["tokens/ends"]) == 3  # of 2, behind a first 0
    plan = probekit.plan(on_sample(tmp_path / "other"))
    assert plan.to_json()["n_examples"] == 9
    show_plan(plan)
    assert "9 examples of 3 prompts" in capsys.readouterr().out


def test_a_spot_of_a_prompt_is_kept_of_each_of_its_samples(tmp_path: Path) -> None:
    at_capital = {"match": "capital", "missing": "skip"}
    probes = [
        {"sites": "resid_post", "layers": [0], "positions": at_capital},
        {"sites": "resid_post", "layers": [1], "positions": "generated"},
    ]
    written = on_sample(tmp_path / "run", probes)
    written["store"]["shard_bytes"] = 3_000
    trace = probekit.run(written)
    assert trace.provenance["n_shards"] > 2
    spot, new = trace.select("resid_post", layer=0), trace.select("resid_post", layer=1)
    owners = trace.tokens.example[trace.rows_of_choice(spot.rows)]
    assert owners.tolist() == [0, 1, 2, 3, 4, 5]
    words = [trace.tokens[int(row)].text for row in trace.rows_of_choice(spot.rows)]
    assert words == [" capital"] * 6
    assert len(new) == int(trace.examples.n_generated.sum())
    assert (spot[0:3] == spot[0]).all()  # of one prompt, read alike
    alone = probekit.open(tmp_path / "run" / "shards" / "00001.h5")
    first = trace.examples[int(alone.provenance["first_example"])]
    assert alone.prompts[0].examples[0] == alone.examples[0].number == 0
    assert (alone.prompts[0].number, alone.examples[0].sample) == (first.prompt, first.sample)
    assert probekit.verify(tmp_path / "run").whole


def test_a_killed_run_goes_on_to_equal_bytes(tmp_path: Path) -> None:
    saved(tmp_path, "llama")

    def shards_of(store: str) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (tmp_path / store / "shards").glob("*.h5")}

    def stop(progress: Any) -> None:
        if progress.examples >= 5:
            raise KeyboardInterrupt

    whole = config(tmp_path, "whole", samples=4)
    cut = config(tmp_path, "cut", samples=4)
    for written in (whole, cut):
        written["probes"] = [{"modules": "model.layers.1"}]
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(cut, on_progress=stop)
    assert 0 < len(shards_of("cut")) < len(shards_of("whole"))
    run(cut)
    assert shards_of("cut") == shards_of("whole")
    assert probekit.verify(tmp_path / "cut").whole


def test_what_cannot_be_asked_for_is_said(tmp_path: Path) -> None:
    for settings, words in [
        ({"strategy": "greedy"}, "generate.samples: given 3 with strategy: greedy, where all 3"),
        ({"beams": 4, "strategy": "greedy"}, "generate.samples: given 3 beside beams: 4"),
        ({"beams": 4, "samples": 1}, "generate.beams: given 4 with strategy: sample"),
        ({"samples": 0}, "generate.samples: given 0 (a whole number), expected at least 1"),
        ({"samples": 2.5}, "generate.samples: "),
        ({"samples": 1, "beams": "many", "strategy": "greedy"}, "generate.beams: "),
    ]:
        with pytest.raises((probekit.ConfigError, PlanError), match=re.escape(words)) as told:
            probekit.plan(on_sample(tmp_path / "run", **settings))
        assert str(told.value).count("generate.") <= 3


def test_tokens_are_shown_of_every_sample(tmp_path: Path) -> None:
    written = tmp_path / "config.yaml"
    written.write_text(yaml.safe_dump(on_sample(tmp_path / "run")))
    said = CliRunner().invoke(app, ["tokens", str(written), "--example", "4", "--json"]).output
    (example,) = json.loads(said)
    assert (example["id"], example["prompt"], example["sample"]) == ("1:1", 1, 1)
    assert example["text"] == TEXTS[1]
    said = CliRunner().invoke(app, ["tokens", str(written), "--example", "4"]).output
    assert "example 4 (id 1:1, sample 1 of prompt 1)" in said


def test_the_config_of_the_docs_gives_four_completions_each(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "configs" / "samples.yaml"
    settings = load_config(example, overrides=[f"store.path={tmp_path / 'run'}"])
    trace = run(settings)
    assert [len(prompt.examples) for prompt in trace.prompts] == [4, 4]
    assert all(len(set(prompt.completions)) == 4 for prompt in trace.prompts)
    said = CliRunner().invoke(app, ["info", str(tmp_path / "run")]).output
    assert "4 completions of each prompt" in said


def test_prompts_that_fall_are_refused(tmp_path: Path) -> None:
    trace = probekit.run(on_sample(tmp_path / "run"), self_check=False)
    one = trace.merge(tmp_path / "one.h5").path
    with h5py.File(one, "r+") as file:
        file["examples/prompt"][3] = 7
    with pytest.raises(StoreError, match="the prompts of its examples do not rise"):
        len(probekit.open(one).prompts)
