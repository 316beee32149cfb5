"""Opening an HDF5 file for reading, with every damage told as an error of ours.

Knows what HDF5 raises; nothing of what lies inside.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from probekit.errors import StoreError
from probekit.store.format import SHARDS_FOLDER, check_structure

# HDF5 and h5py have no exception of their own for a damaged file; these are what they use.
_DAMAGED = (OSError, LookupError, MemoryError, OverflowError, RuntimeError, TypeError, ValueError)


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Without locking: locks fail on some network file systems, and what is sealed never changes.

    Raises:
        StoreError: if there is no such file, or what is read from it in the block is damaged.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for, without an end
        raise StoreError(f"{path}: cannot be read: it is no plain file")
    try:
        check_structure(path)
        with _opened(path) as file:
            yield file
    except _DAMAGED as error:
        raise StoreError(f"{path}: cannot be read: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        if path.parent.name == SHARDS_FOLDER and path.parent.parent.exists():
            return (
                "there is no such file, a shard of this trace; move the whole folder of a trace, "
                "or make the shard again (probekit run --repair; in Python repair=True)"
            )
        return "there is no such file"
    if isinstance(error, OSError) and error.errno is not None:  # the system's, not HDF5's
        return os.strerror(error.errno)
    return f"it is not whole HDF5: {error}"


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        # What this process has open already, say through xarray, HDF5 opens only in the same way.
        if "locking flag" not in str(error):
            raise
        return h5py.File(path, "r")
