"""A run begins in its folder: the plan is made, and what is missing there is seen.

Knows plans and folders; the model's weights are not loaded yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probekit.capture.asked import Asked
from probekit.capture.provenance import run_record, session
from probekit.capture.read import Read
from probekit.config import ProbeConfig
from probekit.errors import PlanError, StoreError
from probekit.models import AtHand
from probekit.planning import Plan, make_plan, shortage
from probekit.store import (
    FIRST,
    NEWEST,
    Damage,
    Format,
    RunFolder,
    RunRecord,
    ShardSpec,
    discard_inputs,
    discard_partial,
    format_of,
    sealed_damages,
    wrong_inputs,
)
from probekit.wording import by_count, counted

SETUP, INDEX = "setup", "index"  # steps of a run that one worker at a time does


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A run whose folder this process works in."""

    folder: RunFolder
    plan: Plan
    read: Read
    record: RunRecord
    now: Mapping[str, Any] | None  # what made.json says of this process
    layout: Format
    anew: bool  # whether something that is there is made anew, of damage or altogether
    damaged: frozenset[int]  # numbers of shards
    todo: Sequence[ShardSpec]


@contextmanager
def begin(config: ProbeConfig, asked: Asked, hand: AtHand | None = None) -> Iterator[Begun]:
    """Make the plan, and enter the run's folder; see which shards are missing."""
    read = Read.of(config)
    plan = make_plan(config, hand=hand, anew=asked.overwrite, on_stage=asked.on_stage)
    asked.on_plan(plan)
    short = None if asked.force else shortage(plan.contents, overwrite=asked.overwrite)
    if short is not None:
        raise PlanError(f"{short}. Make room, record less, or begin anyway with --force")
    path = config.store.folder
    layout = NEWEST if asked.overwrite else format_of(path, repair=asked.repair)
    record = run_record(plan, layout)
    now = None if layout == FIRST else session(plan)
    with RunFolder(
        path,
        record,
        now,
        overwrite=asked.overwrite,
        repair=asked.repair,
        alone=layout == FIRST,  # where a shard follows on the one before it
        where=config.where("store.path"),
        on_note=asked.on_note,
    ) as folder:
        damages = [] if asked.overwrite else sealed_damages(path, sums=asked.repair)
        if damages and not asked.repair:
            raise StoreError(_damaged(path, damages))
        damaged = frozenset(d.shard for d in damages if d.shard is not None)
        sealed = folder.sealed() - damaged
        todo = [shard for shard in plan.shards if shard.number not in sealed]
        for note in _notes(folder, len(sealed), len(todo), damages):
            asked.on_note(note)
        asked.on_start(len(sealed), len(plan.shards))
        yield Begun(
            folder=folder,
            plan=plan,
            read=read,
            record=record,
            now=now,
            layout=layout,
            anew=asked.overwrite or bool(damages),
            damaged=damaged,
            todo=todo,
        )


def reopen(begun: Begun, checked: Mapping[str, Any] | None = None) -> None:
    """Make a run's folder ready for the shards that are missing; not where none is.

    Not earlier: what is old or damaged is better than nothing.
    """
    folder = begun.folder
    with folder.claims.turn(INDEX):  # or it could go a moment after another has written it
        there = folder.sealed() - begun.damaged
        if not begun.anew and all(shard.number in there for shard in begun.plan.shards):
            return
        folder.reopen(begun.damaged, checked)
        if begun.layout != FIRST:
            _seal_inputs(begun.plan, folder.path)


def _seal_inputs(plan: Plan, path: Path) -> None:
    """Write the inputs into a run's folder, unless they lie there whole."""
    assert plan.examples is not None  # a plan that runs has its inputs
    if wrong_inputs(path, plan.examples.digest) is not None:
        discard_inputs(path)
        plan.examples.sealed(plan.origin.digests).seal(path)
    discard_partial(path)


def _damaged(path: Path, damages: Sequence[Damage]) -> str:
    more = f" (and {len(damages) - 3} more)" if len(damages) > 3 else ""
    return (
        f"{path}: is damaged: {'; '.join(map(str, damages[:3]))}{more}. "
        "The same `probekit run` with --repair (in Python repair=True) computes the "
        "damaged shards again"
    )


def _notes(
    folder: RunFolder, n_sealed: int, n_todo: int, damages: Sequence[Damage]
) -> Iterator[str]:
    """Say what of the state of a run's folder its user should know."""
    for damage in damages:
        yield f"damaged, and computed again: {damage}"
    if n_sealed and n_todo and folder.changed:
        yield (
            f"{counted(n_sealed, 'sealed shard')} {by_count(n_sealed, 'was', 'were')} made "
            f"otherwise ({folder.changed}): the rows that come now agree with what they would have "
            "given to rounding, not bit for bit"
        )
