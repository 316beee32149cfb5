"""The tables of a trace in pandas, against what was written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import by_hand
import h5py
import numpy as np
import pytest
from tiny_traces import Made, site, write_trace

import probekit
from probekit.errors import ProbekitError, StoreError
from probekit.store.format.execution import Execution, Forward
from probekit.trace.trace import Trace

pytest.importorskip("pandas")

FIRST = np.array([[0, 1, 0], [1, 1, 1], [1, 0, 1], [0, 0, 0]], dtype="<i4")
SECOND = np.array([[1, 1, 0], [1, 0, 0]], dtype="<i4")
PASSES = (
    Forward(order=0, phase="forward", examples=(2, 0), n_tokens=8, seconds=0.5),
    Forward(order=1, phase="forward", examples=(1,), n_tokens=1, seconds=0.25),
)
EXECUTION = Execution(modules=("wte", "act"), orders=(FIRST, SECOND), forwards=PASSES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("trace")
    return write_trace(folder, [site("h.0")], executions=(EXECUTION, None, None))


@pytest.fixture(scope="module")
def trace(made: Made) -> Trace:
    return probekit.open(made.folder)


def test_examples(made: Made, trace: Trace) -> None:
    table = trace.to_pandas("examples")
    assert list(table.columns) == ["id", "text", "first_token", "n_tokens", "n_generated"]
    assert table.index.name == "example"
    assert table.id.tolist() == made.ids
    assert table.text.tolist() == made.texts
    assert table.n_tokens.tolist() == made.n_tokens
    assert table.first_token.tolist() == [made.tokens_of(n).start for n in range(6)]
    assert table.n_generated.tolist() == [0] * 6


def test_tokens(made: Made, trace: Trace) -> None:
    table = trace.to_pandas("tokens")
    assert list(table.columns) == ["id", "text", "position", "example", "step"]
    assert table.index.name == "token"
    assert table.index.tolist() == list(range(21))
    assert table.id.tolist() == made.token_ids
    assert table.text.tolist() == [f"<{i}|" for i in made.token_ids]
    assert table.example.tolist() == [n for n, k in enumerate(made.n_tokens) for _ in range(k)]
    assert table.position.tolist() == [p for k in made.n_tokens for p in range(k)]
    assert table.step.tolist() == [0] * 21


def test_execution(trace: Trace) -> None:
    table = trace.to_pandas("execution")
    assert list(table.columns) == ["order", "event", "module", "entered", "depth"]
    assert table.order.tolist() == [0, 0, 0, 0, 1, 1]
    assert table.event.tolist() == [0, 1, 2, 3, 0, 1]
    assert table.module.tolist() == ["wte", "act", "act", "wte", "act", "act"]
    assert table.entered.tolist() == [True, True, False, False, True, False]
    assert table.depth.tolist() == [0, 1, 1, 0, 0, 0]


def test_forwards(trace: Trace) -> None:
    table = trace.to_pandas("forwards")
    assert list(table.columns) == ["order", "phase", "n_examples", "n_tokens", "seconds"]
    assert table.values.tolist() == [[0, "forward", 2, 8, 0.5], [1, "forward", 1, 1, 0.25]]


def test_a_shard_alone_counts_from_its_own_start(made: Made) -> None:
    alone = probekit.open(made.shards[2].file)
    assert alone.to_pandas("tokens").example.tolist() == [0] * 4 + [1] * 6
    assert alone.to_pandas("examples").first_token.tolist() == [0, 4]
    assert alone.to_pandas("examples").text.tolist() == made.texts[4:]


def test_generated_tokens_are_counted(tmp_path: Path) -> None:
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    config = by_hand.config(
        model,
        tmp_path / "t",
        probes=[{"modules": "transformer.h.*.mlp.act"}],
        generate={"max_new_tokens": 3, "stop_at_eos": False},
        execution_order=True,
    )
    trace = probekit.run(config)
    assert trace.to_pandas("examples").n_generated.tolist() == [3] * len(by_hand.EXAMPLES)
    with h5py.File(tmp_path / "t" / "trace.h5") as file:
        assert trace.to_pandas("tokens").step.tolist() == file["tokens/step"][:].tolist()
    (made,) = (tmp_path / "t" / "shards").glob("*.made.json")
    phases = json.loads(made.read_text())["forwards"]["phase"]
    assert trace.to_pandas("forwards").phase.tolist() == phases
    assert {"prefill", "decode"} == set(phases)


@pytest.mark.parametrize("table", ["token", "sites", ""])
def test_a_table_that_is_none_is_refused_with_those_there_are(trace: Trace, table: str) -> None:
    says = "expected one of examples, tokens, execution, forwards"
    with pytest.raises(StoreError, match=f"there is no table '{table}'; .*{says}"):
        trace.to_pandas(table)


@pytest.mark.parametrize("table", ["execution", "forwards"])
def test_an_order_that_was_not_recorded_is_said(tmp_path: Path, table: str) -> None:
    trace = probekit.open(write_trace(tmp_path).folder)
    with pytest.raises(StoreError, match="set execution_order: true in the config"):
        trace.to_pandas(table)


def test_without_pandas_the_extra_is_named(trace: Trace, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ProbekitError, match=r"to_pandas needs pandas.*'probekit\[analysis\]'"):
        trace.to_pandas("tokens")
