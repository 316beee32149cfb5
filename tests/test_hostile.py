"""Lied to: a fixed sample of hostile configs and traces; benchmarks/hostile.py tries them all."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import pytest
from attempts import Limits, attempt
from hostile_configs import try_configs
from hostile_traces import BESIDE, INSIDE, base_trace, catalogue, read_all, try_traces

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of a process are Linux's")


def test_a_sample_of_hostile_configs_is_planned_or_refused(tmp_path):
    tried = try_configs(40, 0, tmp_path)
    assert tried.faults == []
    assert tried.counts.total() >= 40
    assert tried.counts["planned"] and tried.counts["refused"] and tried.counts["run"]


def test_a_sample_of_hostile_traces_is_read_or_refused(tmp_path):
    tried = try_traces(catalogue()[::25], 0, tmp_path)
    assert tried.faults == []
    assert tried.counts["done"] > 15


@pytest.mark.slow
def test_thousands_of_hostile_configs_are_planned_or_refused(tmp_path):
    tried = try_configs(3000, 1, tmp_path)
    assert tried.faults == []
    assert tried.counts["planned"] > 300


@pytest.mark.slow
def test_every_hostile_trace_is_read_or_refused(tmp_path):
    assert try_traces(catalogue(), 1, tmp_path).faults == []


def test_every_kind_of_lie_is_told():
    names = [hostile.name for hostile in catalogue()]
    assert len(names) > 500
    assert all(any(name.startswith(kind) for name in names) for kind in (*INSIDE, *BESIDE))


def test_a_trace_without_lies_is_read_without_a_refusal(tmp_path):
    base_trace(tmp_path / "t")
    said = read_all(tmp_path / "t").splitlines()
    refused = [line for line in said if line.startswith("refused: ")]
    # The index and two shards; a run.json by hand has no checksum of its own.
    assert sum("neither logits nor top_k" in line for line in refused) == 3
    assert sum("run.json: is damaged or not probekit's" in line for line in refused) == 1
    assert len(refused) == 4
    assert any("text 2" in line for line in said)


# --- what tries can tell faults


def hang() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (lambda: "fine", "done"),
        (lambda: int("x"), "refused"),
        (lambda: {}["x"], "traceback"),
        (lambda: time.sleep(0) or os.kill(os.getpid(), 11), "killed"),
        (lambda: sum(range(30_000_000)), "slow"),
        (lambda: (bytearray(b"x") * (100 << 20)).count(1), "large"),
        (lambda: len(bytes(1 << 33)), "traceback"),
        (hang, "killed"),
    ],
)
def test_every_way_to_end_is_told_apart(action: Any, kind: str):
    limits = Limits(cpu_s=0.1, n_bytes=64 << 20)
    assert attempt(action, (ValueError,), limits).kind == kind
