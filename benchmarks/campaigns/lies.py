"""Lied to: configs and traces that nobody means well with.

`configs`: each is planned (every tenth of those is run too) or refused with a clear message.
`traces`: each is read or refused, and nothing outside of it is so much as opened.
Each is tried in a process of its own, with a limit on time and memory.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import tempfile
from pathlib import Path
from random import Random

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a name that is no folder is not looked for
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets  # no child has to import it
import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings

import probekit
from campaigns.attempts import Limits, Outcome, attempt
from campaigns.hostile_configs import HOSTILE_CONFIGS, HostileConfig, right
from campaigns.hostile_datasets import write_files
from campaigns.hostile_traces import SECRET, base_trace, catalogue, place_at, read_all
from campaigns.tally import Runs, Tally
from probekit.capture import running  # noqa: F401 (loaded before children are forked)
from probekit.cli import terminal
from probekit.errors import ConfigError, PlanError, ProbekitError, StoreError

torch.set_num_threads(1)  # one thread: nothing is lost by a fork

_PLANNING = (ConfigError, PlanError, StoreError)
_RUNNING = Limits(cpu_s=20)  # weights, a self-check and a trace: not what a config costs
_MAKING = Limits(cpu_s=20, wall_s=5)  # h5py may crash, and hang while it does
_READING = Limits(cpu_s=3)  # all there is, in twenty ways
_SMALL_BYTES = 20_000_000
_MOST_LINES, _LONGEST_LINE = 21, 2100  # of a message


def configs(n: int, chance: Random, scratch: Path, runs: Runs, tally: Tally) -> None:
    """Plan n configs, and run every tenth of those that can be planned."""
    probekit.plan(right())  # what this imports, no child has to import
    write_files(scratch)
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = scratch / "cache"
    planned = itertools.count()

    @hypothesis.seed(chance.randrange(2**32))
    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(config=HOSTILE_CONFIGS)
    def try_one(config: HostileConfig) -> None:
        path = scratch / "hostile.yaml"
        path.write_bytes(config.text)
        outcome, kind = attempt(lambda: _plan(path, config), _PLANNING), "planned"
        if outcome.said == "small" and next(planned) % 10 == 0:
            outcome, kind = attempt(lambda: _run(path, config), ProbekitError, _RUNNING), "run"
        fault = _fault(outcome)
        shown = (
            f"{config.text[-500:]!r} {[s[:200] for s in config.settings]}: {outcome.said[-500:]}"
        )
        tally.count(
            kind if outcome.kind == "done" else outcome.kind, [f"{fault}: {shown}"] * bool(fault)
        )

    try_one()


def _plan(path: Path, config: HostileConfig) -> str:
    """Plan, and show the plan in both ways; say whether it is small enough to be run."""
    os.chdir(path.parent)
    plan = probekit.plan(path, overrides=config.settings)
    json.dumps(plan.to_json())
    with contextlib.redirect_stdout(io.StringIO()):
        terminal.show_plan(plan)
    return "small" if plan.total_bytes < _SMALL_BYTES else "large"


def _run(path: Path, config: HostileConfig) -> str:
    os.chdir(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        settings = (*config.settings, f"store.path={place}/run")
        return repr(probekit.run(path, overrides=settings))


def _fault(outcome: Outcome) -> str:
    """Say what is wrong with how a config ended; empty where nothing is."""
    lines = outcome.said.split("\n")
    if outcome.is_fault:
        return f"{outcome.kind} ({outcome.cpu_s:.1f} s, {outcome.n_bytes >> 20} MiB)"
    if outcome.kind == "refused" and not all(line.isprintable() for line in lines):
        return "a message that does not print"
    if len(lines) > _MOST_LINES or max(map(len, lines)) > _LONGEST_LINE:
        return "a message without an end"
    return ""


def traces(n: int, chance: Random, scratch: Path, runs: Runs, tally: Tally) -> None:
    """Read n traces, each with another lie in it."""
    base = scratch / "base"
    base_trace(base)
    lies = catalogue(base)
    chance.shuffle(lies)
    for hostile in itertools.cycle(lies):
        if tally.tried == n:
            return
        place = place_at(scratch / "place", base)
        # Made in a child too: h5py does not survive all of it; and not all of it can be made.
        seed = chance.random()
        made = attempt(lambda: hostile.lie(place, Random(seed)), (), _MAKING)  # noqa: B023
        if made.kind == "done":
            outcome = attempt(lambda: read_all(place.folder), (), _READING)  # noqa: B023
            fault = f"{outcome.kind} ({outcome.cpu_s:.1f} s): {outcome.said[-800:]}"
            leaked = ["what lies outside was read"] if SECRET in outcome.said else []
            wrong = [fault] if outcome.kind != "done" else leaked
            tally.count("read", [f"{hostile.name}: {problem}" for problem in wrong])
    raise AssertionError("the lies never end")
