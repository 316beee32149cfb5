"""Killed: SIGKILL at any instant, and the same command again, until it ends.

What must hold then: every file equals that of an undisturbed run, what was sealed was not touched
and none of its examples computed again, and nothing else lies about.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from campaigns.children import Child, Ended, log, read_log, run_probekit
from campaigns.runs import N_EXAMPLES, N_PASSES, Undisturbed, n_examples_of, sealed
from campaigns.tally import Runs, Tally

COMMAND = ("run", "config.yaml")
# Where in a run a child is killed: while its model runs, in the middle of a write, before and after
# an fsync, before and after a rename, before a file is removed, while the index is put together.
INSTANTS = (
    *("forward", "write", "fsync", "fsynced", "rename", "renamed", "link", "linked"),
    *("remove", "index"),
)
_MOST_LIVES = 4  # a run is killed up to so often before it may end


def survive(n: int, chance: Random, scratch: Path, runs: Runs, tally: Tally) -> None:
    """Kill runs n times, in turn at each kind of instant and after random delays."""
    events = {name: _count_events(run, scratch / "count") for name, run in runs.items()}
    while tally.tried < n:
        name = chance.choice(list(runs))
        place = runs[name].fresh(scratch / "killed")
        for _ in range(min(chance.randint(1, _MOST_LIVES), n - tally.tried)):
            before = sealed(place)
            kind = _next_kind(tally, chance)
            ended = _kill(runs[name], place, kind, events[name], chance)
            if not ended.killed:
                # The rest of this run holds no such instant: it has ended instead.
                problems = [] if ended.code == 0 else [f"not killed, but {ended}"]
                tally.lost += problems
                break
            tally.count(kind, _touched(before, sealed(place)))
        tally.lost += finish(runs[name], place)


def _next_kind(tally: Tally, chance: Random) -> str:
    """Give one of the kinds that were tried least often."""
    kinds = (*INSTANTS, "delay", "new process")
    fewest = min(tally.counts[kind] for kind in kinds)
    return chance.choice([kind for kind in kinds if tally.counts[kind] == fewest])


def _kill(
    run: Undisturbed, place: Path, kind: str, events: dict[str, int], chance: Random
) -> Ended:
    if kind in INSTANTS:
        before = KillAt(kind, chance.randint(1, events[kind]))
        return run_probekit(place, *COMMAND, before=before)
    if kind == "delay":
        child = Child(place, *COMMAND, before=Watched())
        time.sleep(chance.uniform(0, run.seconds))
        child.process.kill()
        return child.end()
    process = subprocess.Popen(
        [sys.executable, "-m", "probekit", *COMMAND],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Most of its time goes into imports: wait for the first sign of its own.
    while process.poll() is None and not (place / "run" / ".lock").exists():
        time.sleep(0.01)
    time.sleep(chance.uniform(0, run.seconds / 2))
    process.kill()
    _, err = process.communicate()
    return Ended(code=process.returncode, out="", err=err, log=[])


def finish(run: Undisturbed, place: Path) -> list[str]:
    """Run to the end, and say what is not as it must be."""
    before, n_sealed = sealed(place), n_examples_of(place)
    ended = run_probekit(place, *COMMAND, before=Watched())
    if ended.code != 0:
        return [f"{run.name}: did not go on: {ended}"]
    problems = _touched(before, sealed(place)) + run.differences(place)
    n_computed = sum(int(line.split()[1]) for line in ended.log if line.startswith("examples"))
    n_left = (N_EXAMPLES - n_sealed) * N_PASSES.get(run.name, 1)
    if n_computed != n_left:
        problems.append(f"{n_computed} examples computed, {n_left} were left")
    verified = run_probekit(place, "verify", "run")
    if verified.code != 0:
        problems.append(f"verify: {verified.out}")
    return [f"{run.name}: {problem}" for problem in problems]


def _touched(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [f"sealed {name} was touched" for name in before if after.get(name) != before[name]]


def _count_events(run: Undisturbed, place: Path) -> dict[str, int]:
    """Count the instants of each kind in an undisturbed run."""
    run.fresh(place)
    run_probekit(place, *COMMAND, before=KillAt("", 0))
    counts = dict.fromkeys(INSTANTS, 0)
    for line in read_log(place):
        if line in counts:
            counts[line] += 1
    shutil.rmtree(place)
    if not all(counts.values()):
        raise RuntimeError(f"{run.name}: kinds of instants that never come: {counts}")
    return counts


# --- in the child


@dataclass(frozen=True, slots=True)
class Watched:
    """Log when the command begins, and the examples of every forward pass of the capture."""

    def __call__(self) -> None:
        """Patch the child it is called in."""
        from probekit import config
        from probekit.capture import selfcheck

        load, check, rehearsing = config.load_config, selfcheck.self_check, []

        def load_config(*args: Any, **kwargs: Any) -> Any:
            log("begin")
            return load(*args, **kwargs)

        def self_check(*args: Any) -> Any:
            rehearsing.append(True)
            try:
                return check(*args)
            finally:
                rehearsing.clear()

        def log_examples(module: Any, args: Any, kwargs: Any) -> None:
            n_examples, width = kwargs["input_ids"].shape
            if width > 1 and not rehearsing:  # not one more token of a generation
                log(f"examples {n_examples}")

        config.load_config, selfcheck.self_check = load_config, self_check
        after_loading(lambda model: model.register_forward_pre_hook(log_examples, with_kwargs=True))


def after_loading(do: Callable[[Any], object]) -> None:
    """Do something to the model that this child loads."""
    from probekit import models

    load = models.load_model

    def loading(*args: Any) -> Any:
        model = load(*args)
        do(model)
        return model

    models.load_model = loading


@dataclass(frozen=True, slots=True)
class KillAt:
    """Kill the process at the nth instant of a kind; of no kind: log every instant."""

    kind: str
    nth: int

    def __call__(self) -> None:
        """Patch the child it is called in."""
        import h5py
        import torch

        from probekit.capture import running as capture

        seen = dict.fromkeys(INSTANTS, 0)

        def at(kind: str) -> bool:
            """Count an instant; True at the one to die at."""
            if not self.kind:
                log(kind)
            seen[kind] += 1
            return kind == self.kind and seen[kind] == self.nth

        def around(target: Any, name: str, first: str | None, then: str | None) -> None:
            plain = getattr(target, name)

            def wrapped(*args: Any, **kwargs: Any) -> Any:
                if first and at(first):
                    _die()
                value = plain(*args, **kwargs)
                if then and at(then):
                    _die()
                return value

            setattr(target, name, wrapped)

        def pwrite(fd: int, data: Any, offset: int) -> int:
            if at("write"):
                write(fd, data[: len(data) // 2], offset)
                _die()
            return write(fd, data, offset)

        def build_index(*args: Any) -> Any:
            around(h5py.h5d, "create", "index", None)
            return build(*args)

        write, build = os.pwrite, capture.build_index
        os.pwrite, capture.build_index = pwrite, build_index
        around(os, "fsync", "fsync", "fsynced")
        around(Path, "replace", "rename", "renamed")
        around(Path, "hardlink_to", "link", "linked")
        around(Path, "unlink", "remove", None)
        after_loading(
            lambda model: torch.nn.modules.module.register_module_forward_pre_hook(
                lambda module, args: _die() if at("forward") else None
            )
        )


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
