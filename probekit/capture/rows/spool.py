"""Spool: rows of a shard whose row counts are not known yet.

While tokens are generated nobody knows how many there will be, so rows go into an unnamed
temporary file beside the shards, which is gone whatever happens, and from there into the shard.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import numpy as np

from probekit.store import DTYPES, ShardWriter, SiteSpec, explained, write_all

Array = np.ndarray[Any, Any]


class Spool:
    """Takes rows like a `ShardWriter`, and hands them to one when the counts are known."""

    def __init__(self, folder: Path, sites: Sequence[SiteSpec]) -> None:
        self._folder = folder
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Without a buffer of Python's, whose last bytes a full disk would refuse on closing.
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._sites = tuple(sites)
        self._pieces: dict[tuple[int, int], list[tuple[int, int]]] = {}  # offset, rows
        self._end = 0
        self._lock = Lock()  # rows of different sites may come from different threads

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(
        self,
        site: int,
        block: Array,
        examples: Sequence[int],
        starts: Sequence[int],
        n_rows: Sequence[int] | None = None,
    ) -> None:
        """Keep rows of some examples, behind those that came before; see `ShardWriter.write`."""
        assert n_rows is not None  # nobody knows what "all of them" would be
        for example, start, n_now in zip(examples, starts, n_rows, strict=True):
            if n_now:
                data = np.ascontiguousarray(block[start : start + n_now]).tobytes()
                with self._lock, explained(self._folder):
                    write_all(self._file.fileno(), memoryview(data), self._end)
                    self._pieces.setdefault((site, example), []).append((self._end, n_now))
                    self._end += len(data)

    def forget(self, examples: Sequence[int]) -> None:
        """Drop every row of some examples; see `ShardWriter.forget`."""
        gone = frozenset(examples)
        self._pieces = {at: found for at, found in self._pieces.items() if at[1] not in gone}

    def copy_into(self, out: ShardWriter) -> None:
        """Write every row into a shard."""
        for (site, example), pieces in sorted(self._pieces.items()):
            spec = self._sites[site]
            for offset, n_rows in pieces:
                data = os.pread(self._file.fileno(), n_rows * spec.row_bytes, offset)
                rows = np.frombuffer(data, dtype=DTYPES[spec.dtype].storage)
                block = rows.reshape(n_rows, *spec.row_shape)
                out.write(site, block, (example,), (0,), (n_rows,))
