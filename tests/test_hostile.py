"""Lied to: what the campaigns of tests/test_faults.py rest on, and more of them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from campaigns import lies
from campaigns.attempts import Limits, attempt
from campaigns.hostile_configs import HostileConfig, right, written
from campaigns.hostile_traces import (
    BESIDE,
    ELSEWHERE,
    INSIDE,
    HostileTrace,
    base_trace,
    catalogue,
    read_all,
)
from campaigns.tally import Tally
from hypothesis import strategies as st

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of a process are Linux's")


@pytest.mark.slow
def test_thousands_of_hostile_configs_are_planned_or_refused(tmp_path):
    tally = Tally()
    lies.configs(3000, Random(1), tmp_path, {}, tally)
    assert tally.lost == []
    assert tally.counts["planned"] > 300
    assert tally.counts["run"] > 30


@pytest.mark.slow
def test_every_hostile_trace_is_read_or_refused(tmp_path):
    tally = Tally()
    lies.traces(600, Random(1), tmp_path, {}, tally)
    assert tally.lost == []


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "t"
    base_trace(folder)
    return folder


def test_every_kind_of_lie_is_told(base):
    names = [hostile.name for hostile in catalogue(base)]
    assert len(names) > 500
    more = ("other numbers", "another column", "no number", "odd values", "a bomb", "many sites")
    for kind in (*INSIDE, *ELSEWHERE, *BESIDE, *more):
        assert any(name.startswith(kind) for name in names), kind


def test_a_trace_without_lies_is_read_without_a_refusal(base):
    said = read_all(base).splitlines()
    assert len(list((base / "shards").glob("*.h5"))) > 1
    assert [line for line in said if line.startswith("refused: ")] == []
    assert any("The capital of Japan is" in line for line in said)


# --- the campaigns can fail


@pytest.mark.parametrize(
    ("say", "lost"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: bytes(2 << 30), "MemoryError"),
        (lambda: sum(range(100_000_000)), "slow"),
        (lambda: lies.probekit.plan({"\u202e": 1}), ""),
        (lambda: (_ for _ in ()).throw(Odd("\u202e")), "does not print"),
        (lambda: (_ for _ in ()).throw(Odd("x" * 9000)), "without an end"),
    ],
)
def test_a_config_that_ends_as_none_may_is_lost(tmp_path, monkeypatch, say, lost):
    hostile = HostileConfig(text=written(right()))
    monkeypatch.setattr(lies, "HOSTILE_CONFIGS", st.just(hostile))
    monkeypatch.setattr(lies, "_plan", lambda *_: say())
    tally = Tally()
    lies.configs(1, Random(0), tmp_path, {}, tally)
    assert len(tally.lost) == bool(lost)
    assert all(lost in problem for problem in tally.lost)


class Odd(lies.ConfigError):
    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)


@pytest.fixture
def base_at_hand(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a campaign take a copy of `base` instead of making its own."""
    monkeypatch.setattr(lies, "base_trace", lambda folder: shutil.copytree(base, folder))


def follow(place: Any, draw: Random) -> None:
    """Put the secret where a reader finds it, as if a link had been followed."""
    shard = place.folder / "shards" / "00000.h5"
    shard.with_suffix(".json").unlink()
    shard.write_bytes(place.secret.read_bytes())


@pytest.mark.usefixtures("base_at_hand")
@pytest.mark.parametrize(
    ("lie", "lost"),
    [(follow, "what lies outside was read"), (lambda place, draw: None, "")],
)
def test_a_trace_that_shows_what_lies_outside_is_lost(tmp_path, monkeypatch, lie, lost):
    monkeypatch.setattr(lies, "catalogue", lambda base: [HostileTrace("a lie", lie)])
    tally = Tally()
    lies.traces(1, Random(0), tmp_path, {}, tally)
    assert tally.tried == 1
    assert [lost in problem for problem in tally.lost] == [True] * bool(lost)


def crash(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def follow_trap(folder: Path) -> None:
    (folder.parent / "trap.h5").open()


@pytest.mark.usefixtures("base_at_hand")
def test_a_crash_and_a_wait_without_end_are_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(lies, "catalogue", lambda base: [HostileTrace("x", lambda *_: None)])
    monkeypatch.setattr(lies, "_READING", Limits(wall_s=2))
    for number, how in enumerate((crash, follow_trap)):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        monkeypatch.setattr(lies, "read_all", how)
        tally = Tally()
        lies.traces(1, Random(0), scratch, {}, tally)
        (problem,) = tally.lost
        assert "killed" in problem


# --- what tries can tell apart


def hang() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (lambda: "fine", "done"),
        (lambda: int("x"), "refused"),
        (lambda: {}["x"], "traceback"),
        (lambda: os.kill(os.getpid(), 11), "killed"),
        (lambda: sum(range(30_000_000)), "slow"),
        (lambda: len(bytearray(b"x") * (100 << 20)), "large"),
        (lambda: len(bytes(1 << 33)), "traceback"),
        (hang, "killed"),
    ],
)
def test_every_way_to_end_is_told_apart(action: Callable[[], Any], kind: str):
    limits = Limits(cpu_s=0.3, n_bytes=64 << 20)
    outcome = attempt(action, ValueError, limits)
    assert outcome.kind == kind, outcome
