"""A plan in a notebook: one short line, whose numbers are worked out by hand."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import by_hand
import pytest
import tiny_models as tiny
from by_hand import EXAMPLES, N_TOKENS

import probekit
from probekit.planning.planned import Plan

BLOCK = 128  # bytes of a row: 32 float32


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return by_hand.save_tiny(tmp_path_factory.mktemp("model") / "m", "gpt2")


def plan(saved: Path, **more: Any) -> Plan:
    return probekit.plan(by_hand.config(saved, "runs/a", probes=[{"sites": "resid_post"}], **more))


def test_it_says_the_model_the_texts_the_sites_and_the_bytes(saved: Path) -> None:
    found = plan(saved)
    n_bytes = tiny.N_LAYERS * N_TOKENS * BLOCK
    assert repr(found) == (
        f"<Plan {saved}: {len(EXAMPLES)} examples, {N_TOKENS} tokens, {tiny.N_LAYERS} sites, "
        f"{n_bytes / 1024:.1f} KiB at runs/a>"
    )
    assert str(found) == repr(found)
    assert len(fields(found)) == 13, "its fields stay as they are"


def test_one_of_each_is_said_as_one(saved: Path) -> None:
    inputs = {"inputs__texts": ["7"], "inputs__batch_tokens": 8}
    config = by_hand.config(saved, "runs/a", probes=[{"modules": "transformer.h.0"}], **inputs)
    said = repr(probekit.plan(config))
    assert said == f"<Plan {saved}: 1 example, 1 token, 1 site, {BLOCK} B at runs/a>"


def test_completions_are_said_with_their_prompts(saved: Path) -> None:
    generate = {"max_new_tokens": 2, "strategy": "sample", "samples": 3}
    said = repr(plan(saved, generate=generate))
    assert f"{3 * len(EXAMPLES)} examples of {len(EXAMPLES)} prompts, " in said


def test_texts_that_only_the_run_reads_are_not_counted(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "1 2 3"}\n')
    dataset = {"name": "json", "data_files": str(tmp_path / "a.jsonl"), "streaming": True}
    config = by_hand.config(saved, "runs/a", probes=[{"sites": "resid_post"}])
    config["inputs"] = {"dataset": dataset}
    a_token = tiny.N_LAYERS * BLOCK
    assert repr(probekit.plan(config)) == (
        f"<Plan {saved}: texts not counted yet, {tiny.N_LAYERS} sites, {a_token} B a token at "
        "runs/a>"
    )


def test_a_model_in_memory_is_said_by_its_name(saved: Path) -> None:
    config = by_hand.config(saved, "runs/a", probes=[{"sites": "resid_post"}])
    config["model"] = {"tokenizer": str(saved / "words")}
    model = tiny.build("gpt2")
    assert repr(probekit.plan(config, model=model)).startswith("<Plan memory:GPT2LMHeadModel: 6 ")
