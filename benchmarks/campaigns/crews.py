"""Crews: many workers share a run and are killed, held past their lease, and joined by others.

What must hold then: every file equals that of one undisturbed worker, nothing that was sealed is
touched, and nothing else lies about.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from campaigns.children import Child, log
from campaigns.kills import COMMAND, after_loading
from campaigns.runs import FOLDER, Undisturbed, sealed
from campaigns.tally import Runs, Tally

N_WORKERS = 7
LEASE_S = 1.0  # short, so that a worker can be held past it
_HOUR_S = 3600.0
_PASS_S = 0.05  # that a forward pass takes at least: a worker is caught in the middle of one
_MOST_S = 120.0  # that a run may take, whatever is done to it
_KINDS = ("killed", "held past its lease", "joined")


def disturb(n: int, chance: Random, scratch: Path, runs: Runs, tally: Tally) -> None:
    """Disturb crews n times, in turn in each way."""
    number = 0
    while tally.tried < n:
        number += 1
        name = chance.choice(list(runs))
        crew = _Crew(runs[name], scratch / f"crew-{number}", chance)
        before: dict[str, object] = {}
        for _ in range(min(chance.randint(4, 12), n - tally.tried)):
            fewest = min(tally.counts[kind] for kind in _KINDS)
            kind = chance.choice([kind for kind in _KINDS if tally.counts[kind] == fewest])
            crew.disturb(kind)
            after = sealed(crew.place)
            touched = [f"{one} was touched" for one in before if after.get(one) != before[one]]
            before = dict(after)
            tally.count(kind, touched)
        tally.lost += [f"{name}: {problem}" for problem in crew.finish()]


class _Crew:
    """Workers in one run's folder, each with a directory of its own."""

    def __init__(self, run: Undisturbed, place: Path, chance: Random) -> None:
        self.place = run.fresh(place)
        (place / FOLDER).mkdir()
        self._run = run
        self._chance = chance
        self._workers: list[Child] = []
        self._dead: list[Child] = []
        self._n_begun = 0
        for _ in range(N_WORKERS):
            self._join()

    def disturb(self, kind: str) -> None:
        """Do something to one of them, at a random moment."""
        time.sleep(self._chance.uniform(0, 0.4))
        living = [worker for worker in self._workers if worker.process.is_alive()]
        if kind == "joined" or not living:
            self._join()
            return
        worker = self._chance.choice(living)
        if kind == "killed":
            worker.process.kill()
            worker.process.join()
            self._workers.remove(worker)
            self._dead.append(worker)
            return
        _signal(worker, signal.SIGSTOP)
        time.sleep(LEASE_S * self._chance.uniform(1.2, 2.0))
        _signal(worker, signal.SIGCONT)

    def finish(self) -> list[str]:
        """Let the run come to its end, and say what is not as it must be."""
        self._join()
        until = time.monotonic() + _MOST_S
        problems = []
        for worker in self._workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                problems.append("a worker did not end")
        for worker in self._workers:
            ended = worker.end()
            if ended.code not in (0, -signal.SIGKILL):
                problems.append(f"a worker ended otherwise: {ended}")
        # Of one that was killed on another host a file may stay: nobody here sees that it is dead.
        shutil.rmtree(self.place / FOLDER / "claims", ignore_errors=True)
        for worker in self._dead:
            for left in (self.place / FOLDER).rglob(f".*-{worker.process.pid}-*.part*"):
                left.unlink()
        return problems + self._run.differences(self.place)

    def _join(self) -> None:
        self._n_begun += 1
        own = self._run.fresh(self.place.with_name(f"{self.place.name}-{self._n_begun}"))
        (own / FOLDER).symlink_to(self.place / FOLDER)
        before = Slow(
            shift_s=self._chance.choice((0.0, _HOUR_S, -_HOUR_S)),
            rank=str(self._n_begun),
            host=self._chance.choice(("here", "there", "elsewhere")),
        )
        self._workers.append(Child(own, *COMMAND, before=before))


def _signal(worker: Child, number: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(worker.process.pid or 0, number)


@dataclass(frozen=True, slots=True)
class Slow:
    """Take a while for each pass, on a host of some name whose clock is wrong."""

    shift_s: float  # of the wall clock
    rank: str
    host: str  # of others no process can be seen

    def __call__(self) -> None:
        """Patch the child it is called in."""
        from probekit.store.format import owner

        owner._host = lambda: self.host
        os.environ["PROBEKIT_LEASE_S"] = str(LEASE_S)
        os.environ["RANK"] = self.rank
        real, real_ns = time.time, time.time_ns
        time.time = lambda: real() + self.shift_s
        time.time_ns = lambda: real_ns() + int(self.shift_s * 1e9)
        log("begin")
        after_loading(
            lambda model: model.register_forward_pre_hook(lambda module, args: time.sleep(_PASS_S))
        )
