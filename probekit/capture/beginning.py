"""A run begins: with what needs no torch, and is told at once.

Knows the order: whether the run is finished, what is wrong, then the walk, which loads everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probekit import models
from probekit.capture.asked import Asked
from probekit.capture.read import Read
from probekit.config import ProbeConfig
from probekit.planning import given, look_first
from probekit.stages import LIBRARIES, OnStage, unseen
from probekit.trace import Trace, open_trace

if TYPE_CHECKING:
    from probekit.capture.progress import Watcher
    from probekit.planning import Plan


def run(
    config: str | Path | Mapping[str, Any] | ProbeConfig,
    *,
    model: Any = None,
    tokenizer: Any = None,
    digest: bool = True,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    repair: bool = False,
    force: bool = False,
    self_check: bool = True,
    on_plan: Callable[[Plan], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    on_start: Callable[[int, int], None] | None = None,
    on_stage: OnStage | None = None,
    on_progress: Watcher | None = None,
) -> Trace:
    """Carry out a config: run the model over the inputs and record what the probes ask for.

    A run that was cut short goes on where it stopped; one that is finished is opened, at once where
    all files that it was made from have the sizes and times that they had.

    Args:
        config: a YAML file's path, a mapping, or a config.
        model: a model of transformers in memory, or what wraps one: it runs as it is, in eval mode,
            and is left as it was. A config that names a model says what to call it; one without
            `model` gets the name of its class.
        tokenizer: that goes with the model.
        digest: tell the model by its weights, so that a run that was cut short goes on with this
            very model alone. False saves reading them, and such a run cannot go on.
        overrides: `key=value` strings, as `--set` takes them.
        overwrite: begin anew where the folder holds another run.
        repair: check every byte of what is sealed already, and compute what is damaged again.
        force: begin although the disk has not enough room.
        self_check: record two texts first, and compare them with bare hooks and with each alone;
            see selfcheck.py.
        on_plan: told the plan, before weights load; a run that is opened at once makes none.
        on_note: told what the user should know of this run, one sentence each.
        on_start: told how many shards are sealed already, and how many there are.
        on_stage: told what begins, in a few words, until the first batch runs.
        on_progress: told how far the run is, after every batch.

    Returns:
        The trace, opened for reading.

    Raises:
        ConfigError: the config is wrong, or its model or inputs cannot be had.
        PlanError: a probe cannot be carried out on this model, or the disk is too small.
        CaptureError: the model failed, or gave something else than was planned.
        StoreError: the trace cannot be written, or what is sealed already is damaged.
    """
    config, hand = given(config, model, tokenizer, overrides=overrides, digest=digest)
    asked = Asked(
        overwrite=overwrite,
        repair=repair,
        force=force,
        self_check=self_check,
        on_plan=on_plan or unseen,
        on_note=on_note or unseen,
        on_start=on_start or unseen,
        on_stage=on_stage or unseen,
        on_progress=on_progress,
    )
    if (trace := finished(config, asked)) is not None:
        return trace
    look_first(config, anew=overwrite, repair=repair, at_hand=hand is not None)
    asked.on_stage(LIBRARIES)
    # Not earlier: it imports torch, which takes seconds.
    from probekit.capture.running import carry_out

    with nullcontext() if hand is None else models.borrowed(hand):
        return carry_out(config, asked, hand)


def prepare(config: ProbeConfig, asked: Asked) -> int:
    """Make a run's folder ready for workers: run.json, and the inputs that they will read.

    Returns:
        How many shards are missing; where none is, the run has been brought to its end.

    Raises:
        ConfigError, PlanError, StoreError: as `run`.
    """
    look_first(config, anew=asked.overwrite, repair=asked.repair, at_hand=False)
    asked.on_stage(LIBRARIES)
    from probekit.capture.running import make_ready  # which imports torch

    return make_ready(config, asked)


def finished(config: ProbeConfig, asked: Asked) -> Trace | None:
    """Open the trace of a run that is whole and was made from just this; None where none is known.

    Raises:
        StoreError: if another run writes into its folder.
    """
    if asked.overwrite or asked.repair:
        return None
    found = Read.of(config).finished()
    if found is None:
        return None
    for note in found.notes:
        asked.on_note(note)
    asked.on_start(found.n_shards, found.n_shards)
    return open_trace(config.store.folder)
