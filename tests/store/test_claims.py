"""Claims: one worker has a piece, the dead and the silent lose theirs, by the observer's clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from probekit.errors import StoreError
from probekit.store.claiming import Claims, Watch, beats_of, claims_of
from probekit.store.claiming.beats import beat_path
from probekit.store.claiming.claimfiles import claim_path, release, take
from probekit.store.claiming.watch import lease_s
from probekit.store.format import ShardSpec
from probekit.store.format.owner import this_process

ELSEWHERE = "anotherhost-12-345"
DEAD = this_process().replace(f"-{os.getpid()}-", "-4194305-")  # above the largest number there is


def everybody(worker: str) -> bool:
    return True


def nobody(worker: str) -> bool:
    return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "claims").mkdir()
    return tmp_path


def beat(folder: Path, worker: str, count: int) -> None:
    beat_path(folder, worker).write_text(json.dumps({"worker": worker, "count": count}))


# --- one has it


def test_a_claim_is_anothers_until_it_is_released(folder: Path) -> None:
    assert take(folder, "00003", "a", nobody)
    assert not take(folder, "00003", "b", nobody)
    assert take(folder, "00004", "b", nobody)
    release(folder, "00003", "b")  # not b's
    assert not take(folder, "00003", "b", nobody)
    release(folder, "00003", "a")
    assert take(folder, "00003", "b", nobody)
    assert {(c.what, c.worker) for c in claims_of(folder)} == {("00003", "b"), ("00004", "b")}


def test_the_claim_of_one_who_is_gone_is_taken_over_and_he_may_not_release_it(folder: Path) -> None:
    assert take(folder, "00003", "a", nobody)
    assert take(folder, "00003", "b", everybody)
    release(folder, "00003", "a")  # he woke late
    assert [c.worker for c in claims_of(folder)] == ["b"]
    assert {p.name for p in (folder / "claims").iterdir()} == {"00003.claim"}


def test_a_claim_that_says_nothing_is_of_nobody_who_lives(folder: Path) -> None:
    claim_path(folder, "00003").write_bytes(b"")  # whole before it has its name: a disk's fault
    assert take(folder, "00003", "b", Watch(folder, 60.0).is_gone)


def test_a_claim_that_was_made_anew_while_it_is_broken_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert take(folder, "00003", "a", nobody)
    plain = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name == "00003.claim":  # between looking and moving, c was quicker
            path.write_text(json.dumps({"worker": "c", "since": "now"}))
        return plain(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    assert not take(folder, "00003", "b", everybody)
    assert [c.worker for c in claims_of(folder)] == ["c"]
    assert {p.name for p in (folder / "claims").iterdir()} == {"00003.claim"}


def test_of_many_processes_one_has_each_claim(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from probekit.store.claiming.claimfiles import take\n"
        "sys.stdin.readline()\n"
        "won = [n for n in range(200) if take(Path(sys.argv[1]), str(n), sys.argv[2], "
        "lambda worker: False)]\n"
        "print(*won)"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in ("a", "b", "c")
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    won = [racer.communicate()[0].split() for racer in racers]
    assert sorted(int(n) for one in won for n in one) == list(range(200))


# --- who is gone


def test_a_process_of_this_host_that_has_ended_is_gone_at_once(folder: Path) -> None:
    watch = Watch(folder, 1e9, lambda: 0.0)
    beat(folder, DEAD, 3)
    assert watch.is_gone(DEAD)
    beat(folder, this_process(), 3)
    assert not watch.is_gone(this_process())
    beat_path(folder, this_process()).unlink()
    assert watch.is_gone(this_process()), "it has signed off"


def test_a_worker_elsewhere_is_gone_when_its_count_stood_still_for_a_lease(folder: Path) -> None:
    now = [0.0]
    watch = Watch(folder, 60.0, lambda: now[0])
    seen = []
    for now[0], count in ((0, 1), (59, 1), (59.5, 2), (118, 2), (119.4, 2), (119.5, 2)):
        beat(folder, ELSEWHERE, count)
        seen.append(watch.is_gone(ELSEWHERE))
    assert seen == [False, False, False, False, False, True]
    beat(folder, ELSEWHERE, 3)  # it hung, and is back
    assert not watch.is_gone(ELSEWHERE)


def test_times_of_files_and_wall_clocks_say_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    watch = Watch(folder, 60.0, lambda: now[0])
    beat(folder, ELSEWHERE, 1)
    assert not watch.is_gone(ELSEWHERE)
    for hours in (-5, 5):
        os.utime(beat_path(folder, ELSEWHERE), (hours * 3600, hours * 3600 + 10**9))
        monkeypatch.setattr("time.time", lambda hours=hours: 10**9 + 3600.0 * hours)
        assert not watch.is_gone(ELSEWHERE)
    now[0] = 60.0
    assert watch.is_gone(ELSEWHERE)


def test_one_whose_file_is_not_seen_yet_has_a_lease_too(folder: Path) -> None:
    clock = iter((0.0, 59.0, 60.0))
    watch = Watch(folder, 60.0, lambda: next(clock))
    assert [watch.is_gone(ELSEWHERE) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("said", ["x", "0", "-1", "nan", "1e9"])
def test_a_lease_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("PROBEKIT_LEASE_S", said)
    with pytest.raises(StoreError, match=r"PROBEKIT_LEASE_S: expected seconds, 0\.5 to 86400"):
        lease_s()


# --- a worker


def shard(number: int) -> ShardSpec:
    return ShardSpec(
        number=number, first_example=number, n_examples=1, first_token=0, n_tokens=1, n_rows={}
    )


def test_a_worker_counts_while_it_works_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBEKIT_LEASE_S", "0.5")
    with pytest.raises(IndexError), Claims(tmp_path) as claims:
        claims.say(shard=3, tokens=7)
        seen: set[int] = set()
        while len(seen) < 3:  # it counts up
            seen |= {one.count for one in beats_of(tmp_path)}
        (one,) = beats_of(tmp_path)
        assert (one.worker, one.process, one.shard, one.tokens) == (
            this_process(), os.getpid(), 3, 7,
        )  # fmt: skip
        held = claims.held("00003")
        assert held.__enter__()
        raise IndexError
    assert list(tmp_path.iterdir()) == []


def test_shards_are_given_once_and_those_of_others_waited_for(tmp_path: Path) -> None:
    sealed, elsewhere, waits = {2}, [], []
    with Claims(tmp_path) as claims:
        assert take(tmp_path, "00001", ELSEWHERE, nobody)

        def wait() -> None:
            waits.append(len(waits))
            if len(waits) == 3:
                sealed.add(1)
                release(tmp_path, "00001", ELSEWHERE)

        given = []
        for one in claims.shards(
            [shard(n) for n in range(4)],
            lambda one: one.number in sealed,
            lambda one: elsewhere.append(one.number),
            wait,
        ):
            given.append(one.number)
            assert [c.what for c in claims_of(tmp_path) if c.worker == this_process()] == [
                f"{one.number:05d}"
            ]
            sealed.add(one.number)
    assert (given, elsewhere, len(waits)) == ([0, 3], [2, 1], 3)


def test_what_the_dead_left_goes_with_the_last_worker(tmp_path: Path) -> None:
    with Claims(tmp_path):
        beat(tmp_path, DEAD, 3)
        assert take(tmp_path, "00001", DEAD, nobody)
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys
from pathlib import Path
from probekit.store.claiming import Claims
with Claims(Path(sys.argv[1])) as claims, claims.held("setup") as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_a_turn_waits_for_one_who_works_and_not_for_one_who_was_killed(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with Claims(tmp_path) as claims:
        (other,) = claims.others()
        assert other.process == holder.pid
        with claims.held("setup") as mine:
            assert not mine
        assert [(c.what, c.worker) for c in claims_of(tmp_path)] == [("setup", other.worker)]
        holder.kill()
        holder.wait()
        with claims.turn("setup"):
            assert [c.worker for c in claims_of(tmp_path)] == [this_process()]


def test_one_who_hangs_past_the_lease_loses_his_turn(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBEKIT_LEASE_S", "0.5")
    os.kill(holder.pid, signal.SIGSTOP)
    with Claims(tmp_path) as claims, claims.turn("setup"):
        assert [c.worker for c in claims_of(tmp_path)] == [this_process()]
        os.kill(holder.pid, signal.SIGCONT)
        assert holder.stdin is not None
        holder.stdin.close()  # it gives up what it no longer has
        assert holder.wait() == 0
        assert [c.worker for c in claims_of(tmp_path)] == [this_process()]
