"""Unfinished: a run of which some shards are sealed, and no index says so yet.

Knows the plan in run.json and the records of the shards that are there; opens no shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from probekit.errors import StoreError
from probekit.store.format import (
    INDEX_FILE,
    INPUTS_FILE,
    SHARDS_FOLDER,
    FileRecord,
    ShardRows,
    ShardSpec,
    shard_spec,
)
from probekit.store.runrecord import read_run
from probekit.store.sealed import sealed_shards
from probekit.wording import by_count, counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """What is there of a run, as it was looked at."""

    folder: Path
    inputs_digest: str | None  # of the inputs that it seals
    shards: tuple[ShardSpec, ...]  # all of the plan; those that are sealed as they really are
    sealed: tuple[int, ...]  # numbers, ascending; at least one
    is_local: bool  # shards count their tokens from 0: how many come before one is not planned

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Look at a run's folder.

        Raises:
            StoreError: if no shard of it is sealed, or what is there is damaged.
        """
        run = read_run(folder)
        if run is None:
            raise StoreError(f"{folder}: holds no run")
        if not (folder / INPUTS_FILE).exists() and sealed_shards(folder):
            raise StoreError(
                f"{folder}: has no {INPUTS_FILE}, of which an unfinished run is opened: a run in "
                "format 1.0 has none; finish it, or open its sealed shards under shards/ alone"
            )
        try:
            planned = [shard_spec(**shard) for shard in run["identity"]["shards"]]
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise StoreError(f"{folder}: its run.json does not say which shards it has") from error
        ends = [0, *accumulate(shard.n_examples for shard in planned)]
        if [(s.number, s.first_example) for s in planned] != [*enumerate(ends[:-1])]:
            raise StoreError(f"{folder}: the shards in its run.json do not follow on each other")
        there = [number for number in sorted(sealed_shards(folder)) if number < len(planned)]
        if not there:
            raise StoreError(
                f"{folder}: none of its {counted(len(planned), 'shard')} "
                f"{by_count(len(planned), 'is', 'are')} sealed yet; wait for the first"
            )
        is_local = False
        for number in there:
            record = FileRecord.read(folder / SHARDS_FOLDER / f"{number:05d}.json")
            planned[number] = _actual(folder, planned[number], record)
            is_local |= record.is_local
        return cls(
            folder=folder.absolute(),  # the process may go elsewhere
            inputs_digest=run["identity"].get("inputs_digest"),
            shards=tuple(planned),
            sealed=tuple(there),
            is_local=is_local,
        )

    @property
    def first_file(self) -> Path:
        """The first sealed shard, which has the sites and tables that all have."""
        return self.folder / self.shards[self.sealed[0]].file

    @property
    def table(self) -> ShardRows:
        """How many rows each shard has; of those that are not sealed, at most."""
        return ShardRows.of(self.shards)

    @property
    def unsealed(self) -> Mapping[int, str]:
        """What to say of each shard that is not there yet, by its number."""
        there = set(self.sealed)
        return {s.number: self.lacks(s) for s in self.shards if s.number not in there}

    @property
    def index(self) -> Path:
        """Where the index will lie."""
        return self.folder / INDEX_FILE

    @property
    def gap(self) -> int | None:
        """The number of the first shard that is not sealed; None where all are."""
        there = set(self.sealed)
        return next((n for n in range(len(self.shards)) if n not in there), None)

    def lacks(self, shard: ShardSpec) -> str:
        """Say of a shard that it is not sealed, and whose rows it will have."""
        last = shard.first_example + shard.n_examples - 1
        whose = (
            f"example {last} is"
            if shard.n_examples == 1
            else (f"examples {shard.first_example} to {last} are")
        )
        return (
            f"{self.folder}: {whose} not sealed yet: {by_count(shard.n_examples, 'it', 'they')} "
            f"will lie in {shard.file}; {self.said}"
        )

    @property
    def said(self) -> str:
        """Say how far the run is."""
        n = len(self.sealed)
        are = by_count(n, "is", "are")
        return f"{counted(n, 'shard', of=len(self.shards))} {are} sealed, as it was opened"


def _actual(folder: Path, planned: ShardSpec, record: FileRecord) -> ShardSpec:
    """Give a sealed shard as it really is."""
    spec = record.spec
    own: Mapping[str, Any] = {} if spec is None else spec.to_json()
    extent = ("number", "first_example", "n_examples")
    if spec is None or any(own[k] != v for k, v in planned.to_json().items() if k in extent):
        raise StoreError(f"{folder / planned.file}: is not a shard of this run; verify says more")
    if not record.is_local and spec != planned:
        raise StoreError(f"{folder / planned.file}: has other rows than the run plans")
    if spec.n_rows.keys() != planned.n_rows.keys():
        raise StoreError(f"{folder / planned.file}: has rows of other sites than the run plans")
    return spec
