"""How many tokens each expert got, counted by numpy on hand-made ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_traces import site, write_trace

import probekit
from probekit.errors import StoreError
from probekit.trace import rowblocks as blocks

LENGTHS = ((30, 1, 50), (20,), (40, 6))
N_TOKENS, N_EXPERTS = 147, 5


def routed(layer: int, **given: Any) -> Any:
    known = {
        "row_shape": (2,),
        "axes": ("token", "k"),
        "layer": layer,
        "dtype": "int32",
        "portable": "expert_ids",
        "details": {"n_experts": N_EXPERTS},
    }
    return site(f"h.{layer}.mlp", "expert_ids", **{**known, **given})


def ids(seed: int, experts: int = N_EXPERTS) -> Any:
    drawn = np.random.default_rng(seed).random((N_TOKENS, experts)).argsort(-1)
    return drawn[:, :2].astype("int32")


def a_trace(folder: Path, values: dict[int, Any], **given: Any) -> probekit.Trace:
    specs = [routed(layer, **given) for layer in values]
    by_name = {s.name: values[int(s.layer or 0)] for s in specs}
    return probekit.open(write_trace(folder, specs, LENGTHS, values=by_name).folder)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that every pass is in many."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 2 * 7)


def test_loads_are_counts_of_the_chosen_experts(tmp_path: Path) -> None:
    values = {1: ids(0), 3: ids(1, 4)}  # nobody chooses the last expert of layer 3
    found = a_trace(tmp_path, values).statistics().experts
    assert [(load.site, load.layer, load.n_tokens) for load in found] == [
        ("h.1.mlp/expert_ids", 1, N_TOKENS),
        ("h.3.mlp/expert_ids", 3, N_TOKENS),
    ]
    for load, chosen in zip(found, values.values(), strict=True):
        counts = [(chosen == n).sum() for n in range(N_EXPERTS)]
        assert load.counts.tolist() == counts
        shares = np.array(counts) / chosen.size
        np.testing.assert_allclose(load.shares, shares)
        entropy = -sum(s * np.log(s) for s in shares if s)
        assert load.entropy == pytest.approx(entropy)
        assert load.evenness == pytest.approx(entropy / np.log(N_EXPERTS))
    assert (found[0].unused, found[1].unused) == ((), (4,))
    frame = found.to_pandas()
    assert len(frame) == 2 * N_EXPERTS
    assert frame.loc[("h.3.mlp/expert_ids", 4), "tokens"] == 0
    assert "h.3.mlp/expert_ids" in repr(found)
    assert "evenness" in repr(found[0])


def test_even_and_lone_loads_are_the_ends_of_evenness(tmp_path: Path) -> None:
    one = np.zeros((N_TOKENS, 2), dtype="int32")
    (lone,) = a_trace(tmp_path / "a", {0: one}).statistics().experts
    assert (lone.evenness, lone.unused) == (0.0, (1, 2, 3, 4))
    details = {"n_experts": 2}
    both = np.tile(np.array([0, 1], dtype="int32"), (N_TOKENS, 1))
    (even,) = a_trace(tmp_path / "b", {0: both}, details=details).statistics().experts
    assert even.evenness == pytest.approx(1.0)


def test_loads_stand_beside_the_statistics_of_floats(tmp_path: Path) -> None:
    logits = site(
        "h.1.mlp",
        "router_logits",
        row_shape=(N_EXPERTS,),
        axes=("token", "expert"),
        layer=1,
        portable="router_logits",
    )
    drawn = np.random.default_rng(0).normal(size=(N_TOKENS, N_EXPERTS)).astype("float32")
    specs = [routed(1), logits]
    values = {"h.1.mlp/expert_ids": ids(0), logits.name: drawn}
    trace = probekit.open(write_trace(tmp_path, specs, LENGTHS, values=values).folder)
    found = trace.statistics()
    assert list(found) == ["h.1.mlp/router_logits"]
    assert len(found.experts) == 1
    assert ".experts: loads in 1 layer" in repr(found)
    assert len(trace.statistics("router_logits").experts) == 0
    assert len(trace.statistics("expert_ids").experts) == 1
    with pytest.raises(StoreError, match=r"trace.statistics\(\).experts counts them"):
        trace["h.1.mlp/expert_ids"].statistics()


@pytest.mark.parametrize(
    ("number", "details", "message"),
    [
        (5, {"n_experts": 5}, r"holds expert 5, and there are 5 \(0..4\)"),
        (-1, {"n_experts": 5}, "holds expert -1"),
        (1 << 20, {}, "holds expert 1048576"),
        (0, {"n_experts": 1 << 40}, "n_experts is 1099511627776; expected 1 to 65536"),
        (0, {"n_experts": "many"}, "n_experts is 'many'; expected a whole number"),
    ],
)
def test_experts_that_cannot_be_are_refused(
    tmp_path: Path, number: int, details: dict[str, Any], message: str
) -> None:
    chosen = ids(0)
    chosen[100, 1] = number
    with pytest.raises(StoreError, match=message):
        a_trace(tmp_path, {0: chosen}, details=details).statistics()


def test_without_a_number_of_experts_they_are_as_many_as_were_chosen(tmp_path: Path) -> None:
    (load,) = a_trace(tmp_path, {0: ids(0, 4)}, details={}).statistics().experts
    assert load.n_experts == 4
