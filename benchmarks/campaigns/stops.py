"""Told to end: SIGINT and SIGTERM at any instant.

What must hold then: at most one batch begins after the signal, the exit code is a shell's, a
message says how to go on, nothing but sealed shards is left, and the same command goes on.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random

from campaigns.children import Child, read_log
from campaigns.kills import COMMAND, Watched, finish
from campaigns.runs import FOLDER, MADE, sealed
from campaigns.tally import Runs, Tally

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The first where nothing had begun yet, or hardly: then there is nothing to stay.
_SAID = ("stopped\n", "stopped; what is sealed stays, and the same command goes on from there\n")


def stop(n: int, chance: Random, scratch: Path, runs: Runs, tally: Tally) -> None:
    """Stop runs n times, at random instants."""
    while tally.tried < n:
        run = runs[chance.choice(list(runs))]
        place = run.fresh(scratch / "stopped")
        number = _SIGNALS[tally.tried % 2]
        child = Child(place, *COMMAND, before=Watched())
        child.wait_for_log("begin")
        time.sleep(chance.uniform(0, run.seconds))
        if not child.process.is_alive():
            continue  # it was done before
        pid = child.process.pid or 0
        os.kill(pid, signal.SIGSTOP)  # so that no batch begins between our looking and the signal
        n_before = len(read_log(place))
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
        ended = child.end()
        if ended.code in (0, -number) and not run.differences(place):
            tally.count(f"{number.name} when it was done", [])
            continue
        problems = []
        is_said = ended.err.endswith(_SAID)
        if ended.code != 128 + number or not is_said or "Traceback" in ended.err:
            problems.append(str(ended))
        if len(ended.log) - n_before > 1:
            problems.append(f"{len(ended.log) - n_before} batches began after the signal")
        problems += _left_over(place)
        tally.count(number.name, problems + finish(run, place))


def _left_over(place: Path) -> list[str]:
    folder = place / FOLDER
    there = {p.name for p in folder.rglob("*") if p.is_file()}
    kept = {*sealed(place), "run.json", "inputs.h5", "inputs.json", "trace.h5", "trace.json"}
    made = {MADE, *(name.replace("json", MADE) for name in kept)}
    return [f"{name} was left behind" for name in sorted(there - kept - made)]
