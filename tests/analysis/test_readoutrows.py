"""Rows that a readout sees: several an example, pooled, streamed, against numpy."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from labelled_traces import labelled_trace, planted

from probekit.analysis.readouts.siterows import SiteRows
from probekit.trace import Trace

Array = np.ndarray[Any, Any]

LENGTHS = [3, 1, 5, 2, 4, 6, 1, 9] * 10
N, D = len(LENGTHS), 5
FIRSTS = np.cumsum(LENGTHS) - LENGTHS


def tokens_of(labels: Array, direction: Array, kept: list[int]) -> Array:
    draw = np.random.default_rng(1)
    rows = draw.normal(size=(sum(kept), D))
    return (rows + np.repeat(2 * labels - 1, kept)[:, None] * direction).astype(np.float32)


@pytest.fixture(scope="module", params=["all", "3:"])
def trace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Rows of all tokens, and of those from the fourth on, of which some examples have none."""
    _, labels, direction = planted(N, D)
    kept = [n if request.param == "all" else max(0, n - 3) for n in LENGTHS]
    return labelled_trace(
        tmp_path_factory.mktemp("rows") / "run",
        [tokens_of(labels, direction, kept)],
        {
            "label": labels.tolist(),
            "height": (labels + np.arange(N) / 100).tolist(),
            "part": [n % 4 == 0 for n in range(N)],
            "kind": [f"{'abc'[n % 3]}" for n in range(N)],
        },
        rows=request.param,
        lengths=LENGTHS,
    )


def rows_by_hand(trace: Trace) -> list[Array]:
    """Give the rows of each example, with bare h5py."""
    with h5py.File(trace.path) as file:
        rows = file["sites/block.0/output"][:].astype(float)
        choice = file["rows/3:"][:] if "rows" in file else np.arange(len(rows))
    return [
        rows[(choice >= first) & (choice < first + n)]
        for first, n in zip(FIRSTS, LENGTHS, strict=True)
    ]


@pytest.mark.parametrize("block_bytes", [8, 8 * D * 2, 8 * D * 7, 1 << 20])
@pytest.mark.parametrize("pool", [None, "mean", "last"])
def test_blocks_are_the_rows_of_the_examples(
    trace: Trace, pool: str | None, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probekit.trace.rowblocks.BLOCK_BYTES", block_bytes)
    whole = rows_by_hand(trace)
    some = np.array([n for n in range(N) if n % 3 and len(whole[n])])
    made = {"mean": lambda r: r.mean(0, keepdims=True), "last": lambda r: r[-1:], None: lambda r: r}
    expected = [made[pool](whole[n]) for n in some]
    rows = SiteRows(trace.select("resid_post"), pool)
    owners, matrix = rows.matrix(some)
    np.testing.assert_allclose(matrix, np.concatenate(expected), rtol=1e-12)
    np.testing.assert_array_equal(owners, np.repeat(np.arange(len(some)), list(map(len, expected))))
    blocks = list(rows.blocks(some))
    np.testing.assert_array_equal(np.concatenate([o for o, _ in blocks]), owners)
    assert all(block.nbytes <= max(block_bytes, 8 * D) for _, block in blocks)
    np.testing.assert_array_equal(rows.examples, [n for n in range(N) if len(whole[n])])


@pytest.mark.parametrize(
    "given",
    [
        {"target": "label"},
        {"target": "label", "pool": "mean"},
        {"target": "kind", "pool": "last"},
        {"target": "kind", "group": "part"},
        {"target": "height"},
        {"target": "height", "strength": 0.01},
    ],
)
def test_streamed_is_as_in_memory(
    trace: Trace, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "group" in given:
        given = {**given, "group": None, "split": "part"}
    given = {"strength": 0.1, "shuffles": 2, **given}
    held = trace.fit_readout("resid_post", **given)
    monkeypatch.setattr("probekit.trace.rowblocks.BLOCK_BYTES", 8 * D * 40)
    streamed = trace.fit_readout("resid_post", **given, memory_bytes=8 * D * D)
    assert any("a layer's rows were streamed" in note for note in streamed.notes)
    one, same = held.layers[0], streamed.layers[0]
    np.testing.assert_allclose(same.direction, one.direction, atol=2e-4)
    np.testing.assert_allclose(same.bias, one.bias, atol=2e-4)
    assert same.score == pytest.approx(one.score, abs=2e-3)
    np.testing.assert_allclose(same.shuffled, one.shuffled, atol=0.02)
    np.testing.assert_allclose([same.low, same.high], [one.low, one.high], atol=1e-2)


def test_a_strength_for_streamed_rows_is_chosen_on_those_that_fit(trace: Trace) -> None:
    found = trace.fit_readout("resid_post", target="label", memory_bytes=8 * D * 60, shuffles=0)
    assert any("the strength was chosen on" in note for note in found.notes)
    assert found.layers[0].strength in (1.0, 0.1, 0.01, 0.001)


def test_each_row_has_the_label_of_its_example_and_no_example_is_on_both_sides(
    trace: Trace,
) -> None:
    found = trace.fit_readout("resid_post", target="label", split="part", strength=0.1)
    whole = rows_by_hand(trace)
    there = [n for n in range(N) if len(whole[n])]
    held = [n for n in there if n % 4 == 0]
    assert found.n_test == len(held)
    assert found.n_test_rows == sum(len(whole[n]) for n in held)
    assert found.n_train + found.n_test == len(there)
    one, labels = found.layers[0], trace.columns["label"]
    right = [
        (rows @ one.direction.astype(float) + one.bias > 0) == labels[n]
        for n in held
        for rows in whole[n][:, None]
    ]
    assert one.score == pytest.approx(np.mean(right))
    if len(there) < N:
        assert any("left out: no row of the site" in note for note in found.notes)


def test_covariances_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    rows, labels, _ = planted(40, 50)
    trace = labelled_trace(tmp_path / "run", [rows], {"y": (labels + 0.5).tolist()})
    with pytest.raises(Exception, match=r"the covariances of 50 features take 19.5 KiB"):
        trace.fit_readout("resid_post", target="y", memory_bytes=10_000)


def test_rows_stored_as_float64_are_read_and_not_changed(tmp_path: Path) -> None:
    rows, labels, _ = planted(40, 4)
    columns = {"label": labels.tolist(), "y": (labels + 0.25).tolist()}
    trace = labelled_trace(tmp_path / "run", [rows], columns, dtype="float64")
    for target in columns:
        trace.fit_readout("resid_post", target=target, memory_bytes=300, shuffles=0)
    np.testing.assert_array_equal(trace.select("resid_post")[:], rows.astype(np.float64))


@pytest.mark.parametrize("given", [{}, {"pool": "mean"}, {"method": "mean_difference"}, {"y": 1}])
def test_memory_does_not_grow_with_rows(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 rows of 64 features, 10 MiB in float64, with a few blocks of 256 KiB at a time."""
    draw = np.random.default_rng(0)
    labels = np.arange(200) % 2
    rows = draw.normal(size=(20_000, 64)).astype(np.float32) + np.repeat(labels, 100)[:, None] / 4
    trace = labelled_trace(
        tmp_path / "run",
        [rows.astype(np.float32)],
        {"label": labels.tolist(), "y": (labels + draw.random(200)).tolist()},
        rows="all",
        lengths=[100] * 200,
    )
    monkeypatch.setattr("probekit.trace.rowblocks.BLOCK_BYTES", 256 << 10)
    asked = {"target": "y" if "y" in given else "label", "shuffles": 1}
    asked |= {k: v for k, v in given.items() if k != "y"}
    asked |= {} if "method" in given else {"strength": 0.1}
    site = trace.select("resid_post")
    trace.fit_readout(site.name, **asked, memory_bytes=64 << 10)  # libraries are loaded by now
    tracemalloc.start()
    found = trace.fit_readout(site.name, **asked, memory_bytes=64 << 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert found.layers[0].score > (0.3 if "y" in given else 0.8)
