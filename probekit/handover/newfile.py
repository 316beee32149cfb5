"""A new file beside a trace: either whole or not there, with rows streamed into it.

Knows names, the disk and pieces of rows; nothing of formats.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from probekit.errors import StoreError
from probekit.store import DTYPES, MappedRows, explained, fsync, new_name, write_all
from probekit.trace import Site

Array = np.ndarray[Any, Any]

_PIECE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """How far a copy has come."""

    n_bytes: int
    total_bytes: int
    seconds: float


Watcher = Callable[[Copied], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows that go into a file in one piece."""

    rows: Site | MappedRows
    dtype: str  # as written: the stored one, or float32 for a float of 16 bits
    offset: int  # bytes, in the file

    @property
    def n_bytes(self) -> int:
        """How many bytes it takes."""
        return prod(self.rows.shape) * DTYPES[self.dtype].storage.itemsize


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary name beside `path`; at the end what is there is fsynced and renamed.

    Raises:
        StoreError: if something is there that must stay, or it cannot be written.
    """
    path = new_name(path, overwrite=overwrite)
    # The process number keeps two that write the same file out of each other's way.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path):
        try:
            yield part
            fsync(part)
            part.replace(path)
            fsync(path.absolute().parent)
        finally:
            part.unlink(missing_ok=True)


def refuse_full_disk(path: Path, n_bytes: int) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        StoreError: if less than `n_bytes` are free where `path` lies.
    """
    free = shutil.disk_usage(path.absolute().parent).free
    if n_bytes > free:
        raise StoreError(
            f"{path}: takes {n_bytes / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free there; "
            "make room, give another disk, or fewer sites"
        )


def write_parts(path: Path, parts: Sequence[Part], watch: Watcher | None) -> None:
    """Write rows into an existing file, piece by piece: memory does not grow with their number."""
    total, done, begin = sum(part.n_bytes for part in parts), 0, time.monotonic()
    fd = os.open(path, os.O_WRONLY)
    try:
        for part in parts:
            at = part.offset
            for piece in _pieces(part):
                write_all(fd, memoryview(piece.reshape(-1).view(np.uint8).data), at)
                at += piece.nbytes
                done += piece.nbytes
                if watch is not None:
                    seconds = time.monotonic() - begin
                    watch(Copied(n_bytes=done, total_bytes=total, seconds=seconds))
    finally:
        os.close(fd)


def _pieces(part: Part) -> Iterator[Array]:
    rows, storage = part.rows, DTYPES[part.dtype].storage
    row_bytes = prod(rows.shape[1:]) * storage.itemsize
    step = max(1, _PIECE_BYTES // max(1, row_bytes))
    for begin in range(0, len(rows) if row_bytes else 0, step):
        key = slice(begin, begin + step)
        as_stored = part.dtype == "bfloat16"  # which [] would widen
        piece = rows.raw(key) if as_stored else rows[key].astype(storage, copy=False)
        yield np.ascontiguousarray(piece)
