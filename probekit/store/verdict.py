"""Verdict: what was found when a trace was read again.

Knows files, shards and sites by name; reads nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from probekit.errors import printable
from probekit.store.format import INDEX_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that is not as it was written."""

    file: str  # in the trace's folder: "shards/00001.h5"
    shard: int | None  # None where it is not a shard's
    site: str | None  # None where it is not in the rows of a site
    what: str  # "is missing", "does not have its checksum", ...

    def __str__(self) -> str:
        # Site names are a record's, and that can be a stranger's.
        return printable(f"{self.file}: {f'{self.site}: ' if self.site else ''}{self.what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found when every byte of a trace was read again."""

    path: Path
    n_shards: int  # that the run was planned to have
    n_unsealed: int  # of them, those that an unfinished run has still to write
    n_bytes: int  # of the files that were read
    damages: tuple[Damage, ...]

    @property
    def whole(self) -> bool:
        """Whether every byte is as it was written, and nothing is missing."""
        return not self.damages

    @property
    def only_unfinished(self) -> bool:
        """Whether nothing is wrong but that the run has not come to its end."""
        return self.n_unsealed > 0 and {d.file for d in self.damages} == {INDEX_FILE}

    @property
    def damaged_shards(self) -> tuple[int, ...]:
        """The numbers of the shards in which something is wrong, ascending."""
        return tuple(sorted({d.shard for d in self.damages if d.shard is not None}))

    def to_json(self) -> dict[str, Any]:
        """Give the verdict as plain JSON values."""
        return {
            "path": str(self.path),
            "whole": self.whole,
            "n_shards": self.n_shards,
            "n_unsealed": self.n_unsealed,
            "n_bytes": self.n_bytes,
            "damaged_shards": list(self.damaged_shards),
            "damages": [asdict(damage) for damage in self.damages],
        }
