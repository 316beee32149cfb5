"""Claim files: which worker does what.

Knows names, and who may take one: a file of that name is linked, so that one worker is first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from probekit.store.claiming.beats import ENDING as BEAT, now
from probekit.store.format import CLAIMS_FOLDER, OWNED, explained, link, part_of, publish

ENDING = ".claim"
_OURS = re.compile(rf".+(\{BEAT}|\{ENDING})|\..+\.(claim|broken)\.{OWNED}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A worker's right to one piece of a run."""

    what: str  # the number of a shard, or a step that one worker does for all
    worker: str
    since: str  # by that worker's clock, for people


def take(folder: Path, what: str, worker: str, is_gone: Callable[[str], bool]) -> bool:
    """Take a claim, unless another has it and is not gone.

    Args:
        folder: of the run.
        what: is claimed.
        worker: who wants it.
        is_gone: says of a worker whether its claims are free.
    """
    path = claim_path(folder, what)
    part = part_of(path)
    with explained(path):
        holder = _read(path)
        if holder is not None and holder.worker == worker:
            return True
        if holder is not None and not (is_gone(holder.worker) and _broken(path, holder)):
            return False
        try:
            path.parent.mkdir(exist_ok=True)  # others may have taken a worker that hung for gone
            part.write_text(json.dumps({"worker": worker, "since": now()}))
            return publish(part, path)  # or another was quicker
        finally:
            part.unlink(missing_ok=True)


def release(folder: Path, what: str, worker: str) -> None:
    """Give a claim up, unless another has taken it over."""
    path = claim_path(folder, what)
    with explained(path, "removed"):
        holder = _read(path)
        if holder is not None and holder.worker == worker:
            path.unlink(missing_ok=True)


def claims_of(folder: Path) -> tuple[Claim, ...]:
    """Read who has claimed what, of the dead too; see `Watch`."""
    found = (_read(path) for path in sorted((folder / CLAIMS_FOLDER).glob(f"*{ENDING}")))
    return tuple(claim for claim in found if claim is not None)


def claim_path(folder: Path, what: str) -> Path:
    """Name the file of a claim."""
    return folder / CLAIMS_FOLDER / f"{what}{ENDING}"


def is_claiming(name: str) -> bool:
    """Say whether a name is that of a file of a worker or a claim, or of one that is written."""
    return _OURS.fullmatch(name) is not None


def _broken(path: Path, holder: Claim) -> bool:
    """Take a claim away from a worker that is gone; False where another was quicker.

    Of several that try one moves the file. What it moved may be a claim that was made anew since
    it looked: that one is put back.
    """
    aside = part_of(path.with_suffix(".broken"))
    try:
        try:
            path.rename(aside)
        except FileNotFoundError:
            return True
        if _read(aside, path.stem) == holder:
            return True
        with suppress(FileExistsError):  # a third has it by now; who publishes first decides
            link(aside, path)
        return False
    finally:
        aside.unlink(missing_ok=True)


def _read(path: Path, what: str | None = None) -> Claim | None:
    """Read a claim; None where there is none. One that says nothing is of nobody who lives."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        said = json.loads(data)
        worker, since = str(said["worker"]), str(said["since"])
    except (ValueError, LookupError, TypeError):
        worker, since = "", ""
    return Claim(what=what or path.stem, worker=worker, since=since)
