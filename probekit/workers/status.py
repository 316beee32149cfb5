"""Status: how far a run is, and who works on what of it, for anybody who sees its folder.

Knows names of files, and what workers say of themselves; reads no shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from probekit.errors import StoreError
from probekit.store import (
    Beat,
    Watch,
    beats_of,
    claims_of,
    is_indexed,
    lease_s,
    read_run,
    sealed_shards,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One process that works on a run, or did."""

    host: str
    process: int
    began: str  # by its own clock
    shard: int | None  # that it has claimed
    since: str | None  # by its own clock: when it claimed that
    examples: int  # captured of that shard
    tokens: int  # captured since it began
    n_bytes: int
    tokens_per_s: float
    is_gone: bool  # its process is dead, or it was not seen counting for a lease


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How far a run is."""

    path: Path
    n_shards: int
    sealed: tuple[int, ...]  # numbers of shards
    n_examples: int
    n_sealed_examples: int
    n_under_way: int  # examples captured of shards that living workers have claimed
    workers: tuple[WorkerStatus, ...]
    examples_per_s: float  # of the living, since each began; 0 where nothing is known
    is_finished: bool  # the index is there

    @property
    def n_done(self) -> int:
        """Count the examples that are captured."""
        return min(self.n_sealed_examples + self.n_under_way, self.n_examples)

    @property
    def seconds_left(self) -> float | None:
        """Estimate the time left at the rate of the living workers; None where there is none."""
        if self.is_finished or not self.examples_per_s:
            return None
        return (self.n_examples - self.n_done) / self.examples_per_s

    def to_json(self) -> dict[str, Any]:
        """Give all of it as plain JSON values."""
        more = {"path": str(self.path), "n_done": self.n_done, "seconds_left": self.seconds_left}
        return asdict(self) | more


class Observer:
    """Look at a run again and again.

    Args:
        folder: of the run.

    Raises:
        StoreError: if it holds no run.
    """

    def __init__(self, folder: str | Path) -> None:
        self._path = Path(folder)
        run = read_run(self._path)
        if run is None:
            raise StoreError(f"{self._path}: holds no run (there is no run.json)")
        self._sizes = _sizes(self._path, run)
        self._watch = Watch(self._path, lease_s())

    def look(self) -> RunStatus:
        """Say how far the run is now, and who works on what of it."""
        path, sizes = self._path, self._sizes
        sealed = sealed_shards(path)
        since = {(claim.worker, claim.what): claim.since for claim in claims_of(path)}
        beats = beats_of(path)
        gone = {beat.worker for beat in beats if self._watch.is_gone(beat.worker)}
        at_work = [beat for beat in beats if beat.worker not in gone]
        return RunStatus(
            path=path,
            n_shards=len(sizes),
            sealed=tuple(sorted(sealed)),
            n_examples=sum(sizes.values()),
            n_sealed_examples=sum(sizes.get(number, 0) for number in sealed),
            n_under_way=sum(beat.examples for beat in at_work if beat.shard not in sealed),
            workers=tuple(_worker(beat, since, is_gone=beat.worker in gone) for beat in beats),
            examples_per_s=sum(_rate(beat.all_examples, beat) for beat in at_work),
            is_finished=is_indexed(path) and len(sealed) >= len(sizes),
        )


def status(folder: str | Path) -> RunStatus:
    """Say how far a run is, and who works on what of it; see `Observer`.

    One look can tell of processes of this host alone that they are gone.
    """
    return Observer(folder).look()


def _worker(beat: Beat, since: Mapping[tuple[str, str], str], *, is_gone: bool) -> WorkerStatus:
    claimed = None if beat.shard is None else since.get((beat.worker, f"{beat.shard:05d}"))
    return WorkerStatus(
        host=beat.host,
        process=beat.process,
        began=beat.began,
        shard=None if claimed is None else beat.shard,
        since=claimed,
        examples=beat.examples if claimed else 0,
        tokens=beat.tokens,
        n_bytes=beat.n_bytes,
        tokens_per_s=_rate(beat.tokens, beat),
        is_gone=is_gone,
    )


def _rate(n: int, beat: Beat) -> float:
    return n / beat.seconds if beat.seconds else 0.0


def _sizes(path: Path, run: Mapping[str, Any]) -> dict[int, int]:
    """Give how many examples each planned shard has, by its number."""
    try:
        shards = run["identity"]["shards"]
        return {number: int(shard["n_examples"]) for number, shard in enumerate(shards)}
    except (LookupError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: its run.json does not say which shards there are") from error
