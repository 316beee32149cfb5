"""made.json: what may differ between equal runs, of a run and of each shard.

Knows sessions and seconds; no value of a trace depends on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from probekit.errors import StoreError
from probekit.store.format import (
    MADE_FILE,
    SHARDS_FOLDER,
    explained,
    passes_to_json,
    read_record,
)

PASSES = "forwards"  # the key of forward passes: of a shard each one, of a run how many
READ = "read"  # the key of what a whole run was made from: versions, and files as they were


def sessions_of(folder: Path) -> list[dict[str, Any]]:
    """Read what made.json says of each process that worked on a run; nothing if it is damaged."""
    sessions = made_in(folder / MADE_FILE).get("sessions")
    found = sessions if isinstance(sessions, list) else []
    return [session for session in found if isinstance(session, dict)]


def times_of(folder: Path) -> dict[str, float]:
    """Read what made.json says of how long generating took, over all shards."""
    return times_in(made_in(folder / MADE_FILE))


def passes_of(folder: Path) -> Any:
    """Read what made.json says of all forward passes; see `passes_from_json`."""
    return made_in(folder / MADE_FILE).get(PASSES)


def summed(folder: Path, shards: Iterable[int]) -> dict[str, Any]:
    """Add up what the files beside some shards say: how long generating took, and which passes.

    Each is read once.
    """
    times: Counter[str] = Counter()

    def forwards() -> Iterator[Any]:
        for number in sorted(shards):
            made = made_in(folder / SHARDS_FOLDER / f"{number:05d}.{MADE_FILE}")
            times.update(times_in(made))
            if isinstance(made.get(PASSES), dict):
                yield made[PASSES]

    passes = passes_to_json(forwards())
    return {**({"generate": dict(times)} if times else {}), **({PASSES: passes} if passes else {})}


def remembered(folder: Path) -> dict[str, Any]:
    """Read what made.json says of all that a whole run was made from; nothing if it is damaged."""
    found = made_in(folder / MADE_FILE).get(READ)
    return found if isinstance(found, dict) else {}


def made_in(path: Path) -> dict[str, Any]:
    """Read a file of what may differ between equal runs; nothing if it is not there or damaged."""
    try:
        with explained(path, "looked at"):
            is_there = path.exists()
        return read_record(path) if is_there else {}
    except StoreError:
        return {}  # `verify` says so; no value depends on it


def times_in(made: Mapping[str, Any]) -> dict[str, float]:
    """Take from such a file how long generating took, by what is said of it."""
    times = made.get("generate")
    found = times if isinstance(times, dict) else {}
    return {k: v for k, v in found.items() if k.startswith("generate_") and type(v) in (int, float)}
