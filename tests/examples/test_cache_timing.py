"""The timing of the cache, run on a model that is small in every way."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import cache_timing
import pytest
import torch
from tiny_models import n_hooks
from transformers import AutoConfig

SMALL = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 72,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "original_max_position_embeddings": 64,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(cache_timing, "SHAPE", SMALL)
    return cache_timing.build(2, "cpu", torch.float32)


def test_the_shape_is_phi_3_minis() -> None:
    place = Path(__file__).parents[2] / "probekit" / "models" / "architectures"
    published = json.loads((place / "phi-3-mini-4k-instruct.json").read_text(encoding="utf-8"))
    assert {key: published[key] for key in cache_timing.SHAPE} == dict(cache_timing.SHAPE)
    assert published["num_hidden_layers"] == 32
    assert AutoConfig.for_model("phi3", **cache_timing.SHAPE).hidden_size == 3072


def test_both_ways_are_run_in_turns_with_no_hook_on_the_model(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[bool, int, int]] = []
    real = small.generate

    def watched(ids: Any, *, generation_config: Any, **more: Any) -> Any:
        out = real(ids, generation_config=generation_config, **more)
        ran.append((generation_config.use_cache, n_hooks(small), out.shape[1] - ids.shape[1]))
        return out

    monkeypatch.setattr(small, "generate", watched)
    found = cache_timing.measure(small, prompt_tokens=5, new_tokens=4, runs=7)
    assert [(cached, n_new) for cached, _, n_new in ran] == [(True, 4), (False, 4)] * 8
    assert [hooks for _, hooks, _ in ran] == [1, 1] + [0] * 14  # counted once each, then timed
    assert (found["passes"], found["runs"]) == (4, 7)
    for name in ("with_cache", "without_cache"):
        one = found[name]
        assert len(one["seconds"]) == 7
        assert one["mean_s"] == pytest.approx(statistics.mean(one["seconds"]))
        assert one["deviation_s"] == pytest.approx(statistics.stdev(one["seconds"]))
    assert found["ratio"] == found["without_cache"]["mean_s"] / found["with_cache"]["mean_s"]


def test_passes_read_one_token_with_the_cache_and_all_without(small: Any) -> None:
    widths: list[int] = []
    small.register_forward_pre_hook(
        lambda m, a, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    ids = torch.arange(5)[None]
    cache_timing.generate(small, ids, 4, use_cache=True)
    cache_timing.generate(small, ids, 4, use_cache=False)
    assert widths == [5, 1, 1, 1, 5, 6, 7, 8]


def test_other_counts_of_passes_are_refused(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_timing, "count_passes", lambda *_, use_cache: 4 + use_cache)
    with pytest.raises(RuntimeError, match="expected 4 passes each way, counted"):
        cache_timing.measure(small, prompt_tokens=5, new_tokens=4, runs=1)


def test_weights_are_the_same_each_time(small: Any) -> None:
    again = cache_timing.build(2, "cpu", torch.float32)
    assert torch.equal(small.lm_head.weight, again.lm_head.weight)


@pytest.mark.usefixtures("small")
def test_it_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--layers", "1", "--new-tokens", "3", "--prompt-tokens", "4", "--runs", "2"]
    cache_timing.main(few)
    table = capsys.readouterr().out
    assert "with cache" in table and "times as long" in table
    cache_timing.main([*few, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (said["layers"], said["new_tokens"], said["passes"], said["runs"]) == (1, 3, 3, 2)
    assert said["ratio"] > 0


def test_a_wrong_count_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cache_timing.main(["--layers", "0"])
    assert "--layers: '0' is no whole number of at least 1" in capsys.readouterr().err
