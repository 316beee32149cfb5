"""PieceSpool: what is said of examples, off the heap while it is gathered.

Knows bytes and a temporary file; nothing of what they mean.
"""

from __future__ import annotations

import tempfile
from array import array
from typing import Self

import numpy as np

from probekit.store import Pieces, explained

_TEMPORARY = "temporary files (TMPDIR)"


class PieceSpool:
    """Pieces in an unnamed temporary file: appended to, then mapped; a map outlives the file."""

    def __init__(self) -> None:
        with explained(_TEMPORARY):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._ends = array("q", [0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with explained(_TEMPORARY):  # closing writes what is left in its buffer
            self._file.close()

    def append(self, data: bytes) -> None:
        """Add a piece."""
        with explained(_TEMPORARY):
            self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def pieces(self, dtype: str) -> Pieces:
        """Give what was appended."""
        ends = np.array(self._ends, dtype=np.int64) // np.dtype(dtype).itemsize
        if not self._ends[-1]:
            return Pieces(values=np.empty(0, dtype=dtype), ends=ends)
        with explained(_TEMPORARY):
            self._file.flush()
            return Pieces(values=np.memmap(self._file, dtype=dtype, mode="r"), ends=ends)
