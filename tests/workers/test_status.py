"""Status: how far a run is, by what its workers say, and what is shown of it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from probekit.cli import commands, statustable
from probekit.errors import StoreError
from probekit.store import Beat, this_process
from probekit.store.claiming.beats import beat_path
from probekit.store.claiming.claimfiles import take
from probekit.store.format import write_record
from probekit.workers import status

ELSEWHERE = "anotherhost-12-345"
BEAT = Beat(
    worker=ELSEWHERE, host="anotherhost", process=12, began="2026-11-30T10:00:00+00:00", count=3,
    shard=1, examples=2, all_examples=12, tokens=600, n_bytes=4096, seconds=6.0,
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Give a run of three shards of five examples, of which one is sealed and one is claimed."""
    folder = tmp_path / "run"
    (folder / "shards").mkdir(parents=True)
    (folder / "claims").mkdir()
    shards = [{"n_examples": 5} for _ in range(3)]
    write_record(folder / "run.json", {"identity": {"shards": shards}, "provenance": {}})
    for ending in ("h5", "json"):
        (folder / f"shards/00000.{ending}").touch()
    say(folder, BEAT)
    assert take(folder, "00001", ELSEWHERE, lambda worker: False)
    return folder


def say(folder: Path, beat: Beat) -> None:
    beat_path(folder, beat.worker).write_text(json.dumps(asdict(beat)))


def test_it_says_what_is_sealed_and_who_has_the_rest(run: Path) -> None:
    dead = this_process().replace(f"-{os.getpid()}-", "-4194305-")
    say(run, replace(BEAT, worker=dead, host="here", process=4194305, shard=2, all_examples=50))
    found = status(run)
    assert (found.n_shards, found.sealed, found.n_examples) == (3, (0,), 15)
    assert (found.n_sealed_examples, found.n_under_way, found.n_done) == (5, 2, 7)
    assert found.examples_per_s == 2.0, "12 in 6 s, and nothing of the dead"
    assert found.seconds_left == 4.0
    assert not found.is_finished
    elsewhere, gone = sorted(found.workers, key=lambda worker: worker.host)
    assert (elsewhere.shard, elsewhere.examples, elsewhere.tokens_per_s) == (1, 2, 100.0)
    assert elsewhere.since is not None
    assert (gone.is_gone, gone.shard) == (True, None)
    json.dumps(found.to_json())


def test_nobody_at_work_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beat_path(run, ELSEWHERE).unlink()
    assert status(run).seconds_left is None
    statustable.show_status(status(run))
    out = capsys.readouterr().out
    assert "1 of 3 shards sealed, 5 of 15 examples" in out
    assert "nobody is at work; the same `probekit run` goes on" in out


def test_a_table_says_who_works_on_what(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    statustable.show_status(status(run))
    out = capsys.readouterr().out
    assert "1 worker at work, 2 examples/s, 4 s left" in out
    assert "anotherhost 12" in out


def test_watching_ends_when_the_run_is_finished(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        for number in (1, 2):
            for ending in ("h5", "json"):
                (run / f"shards/0000{number}.{ending}").touch()
        (run / "trace.h5").touch()

    monkeypatch.setattr(statustable.time, "sleep", sleep)
    statustable.watch_status(run)
    assert len(looks) == 1
    assert capsys.readouterr().out.rstrip().splitlines()[-1].startswith(("finished", "anotherhost"))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no run \(there is no run\.json\)"):
        status(tmp_path)


def test_watch_and_json_do_not_go_together(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["probekit", "status", str(run), "--watch", "--json"])
    with pytest.raises(SystemExit):
        commands.main()
    assert "--json: goes with one look, and not with --watch" in capsys.readouterr().err
