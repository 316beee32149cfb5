"""A small fixed sample of every campaign of benchmarks/faults.py, and that campaigns can fail."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from campaigns import damage
from campaigns.children import Child, log, run_probekit
from campaigns.kills import COMMAND, after_loading
from campaigns.runs import FOLDER, Undisturbed, undisturbed
from campaigns.tally import Tally
from faults import CAMPAIGNS

SAMPLE = {
    "kills survived": 2,
    "workers disturbed": 3,
    "stopped by a signal": 1,
    "starved": 2,
    "bytes changed and found": 40,
    "files damaged and found": 18,
    "damaged and repaired": 1,
    "damaged and opened": 4,
    "configs tried": 40,
    "hostile files tried": 20,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Undisturbed]:
    return {"plain": undisturbed("plain", tmp_path_factory.mktemp("runs"))}


@pytest.fixture(autouse=True)
def runs_stay_as_they_are(runs: dict[str, Undisturbed]) -> Iterator[None]:
    yield
    assert runs["plain"].differences(runs["plain"].place) == []


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_of_a_sample_nothing_gets_through(
    runs: dict[str, Undisturbed], tmp_path: Path, name: str
) -> None:
    tally = Tally()
    CAMPAIGNS[name].carry_out(SAMPLE[name], Random(2), tmp_path, runs, tally)
    assert tally.lost == []
    assert tally.tried == SAMPLE[name]


# --- two runs at once


class Held:
    """Wait for ever when the model has been loaded."""

    def __call__(self) -> None:
        after_loading(lambda model: (log("held"), time.sleep(600)))


def test_a_second_run_in_a_folder_goes_on_with_what_a_dead_one_had_claimed(
    runs: dict[str, Undisturbed], tmp_path: Path
) -> None:
    run = runs["plain"]
    place, other = run.fresh(tmp_path / "one"), run.fresh(tmp_path / "two")
    (other / FOLDER).symlink_to(place / FOLDER)
    first = Child(place, *COMMAND, before=Held())
    assert first.wait_for_log("held")
    second = run_probekit(other, *COMMAND, "--overwrite")
    assert second.refused, second
    assert f"another run (process {first.process.pid}) is writing here" in second.err
    first.process.kill()
    assert first.end().killed
    assert (place / FOLDER / ".lock").exists(), "the dead leave their lock"
    assert run_probekit(other, *COMMAND).code == 0
    assert run.differences(place) == []


# --- they can fail


def test_damage_that_is_not_found_is_lost(
    runs: dict[str, Undisturbed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = damage.verify(runs["plain"].trace)
    monkeypatch.setattr(damage, "verify", lambda path: whole)
    tally = Tally()
    damage.find_files(8, Random(0), tmp_path, runs, tally)
    assert len(tally.lost) == tally.tried == 8
    assert "not found" in tally.lost[0]


class Crash:
    def __call__(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


def test_a_crash_is_lost(
    runs: dict[str, Undisturbed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "Read", Crash)
    tally = Tally()
    damage.read(1, Random(0), tmp_path, runs, tally)
    assert len(tally.lost) == 1
    assert "exit -11" in tally.lost[0]


def test_a_file_that_differs_is_told(runs: dict[str, Undisturbed], tmp_path: Path) -> None:
    place = runs["plain"].copy(tmp_path / "copy")
    assert runs["plain"].differences(place) == []
    shard = place / FOLDER / "shards" / "00002.h5"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert runs["plain"].differences(place) == ["shards/00002.h5 differs"]
    shard.unlink()
    assert runs["plain"].differences(place) == ["files differ: ['shards/00002.h5']"]
    assert replace(runs["plain"], name="generating").differences(place) != []


def test_an_error_with_a_traceback_is_not_a_refusal(
    runs: dict[str, Undisturbed], tmp_path: Path
) -> None:
    place = runs["plain"].fresh(tmp_path / "x")
    refused = run_probekit(place, "run", "no.yaml")
    assert refused.refused
    assert not run_probekit(place, "run", "config.yaml", before=Broken()).refused


class Broken:
    def __call__(self) -> None:
        from probekit.capture import running as capture

        def make_plan(config: Any) -> Any:
            raise OSError("error: of ours")

        capture.make_plan = make_plan


def test_a_tally_counts_what_was_tried_and_what_was_lost() -> None:
    tally = Tally()
    tally.count("one", [])
    tally.count("two", ["a", "b"])
    assert (tally.tried, dict(tally.counts)) == (2, {"one": 1, "two": 1})
    assert tally.lost == ["two: a; b"]
