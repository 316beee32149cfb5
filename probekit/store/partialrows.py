"""inputs.partial: rows of a source that is read once, kept until the run's inputs are sealed.

Knows lines, each with a checksum of its own; nothing of what a row says. A line that is not whole,
since its process was killed, counts as never written, and so does all that stands behind it.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

import xxhash

from probekit.store.format import PARTIAL_FILE, check_plain, explained

_COMPARED = 1000  # rows that a source is to give once more
_SUM = 16  # characters of a checksum
_HEAD, _ROW, _STATE, _END = b"h", b"r", b"s", b"e"
_SYNCED_S = 2.0  # between syncs: what a power cut may take


class PartialRows:
    """The rows that were read so far, in a file that only grows.

    Args:
        folder: of the run.
        source: what tells the source from others; rows of another are removed.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self.path = folder / PARTIAL_FILE
        self._source = json.dumps(source).encode()
        self.n_rows = 0  # read or written so far
        self.is_whole = False  # the source has no more
        self.state: Any = None  # what the source said of itself behind some row, if it did
        self.n_behind = 0  # rows that came since, or all there are
        self.latest: deque[str] = deque(maxlen=_COMPARED)  # of them the last, as JSON

    def __enter__(self) -> Self:
        with explained(self.path, "used"):
            check_plain(self.path)
            self._file: BinaryIO = self.path.open("a+b")
            self._synced = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._sync()
        finally:
            self._file.close()

    def kept(self) -> Iterator[Any]:
        """Give the rows that are there; behind the last one of them, more can be added."""
        with explained(self.path, "read"):
            self._file.seek(0)
            end = 0
            for number, line in enumerate(self._file):
                kind, data, value = _checked(line)
                if kind is None or (number == 0) != (kind == _HEAD):
                    break
                if kind == _HEAD and data != self._source:
                    break
                end += len(line)
                if kind == _ROW:
                    self.latest.append(data.decode())
                    self.n_rows += 1
                    self.n_behind += 1
                    yield value
                elif kind == _STATE:
                    self.state, self.n_behind = value, 0
                    self.latest.clear()
                self.is_whole = kind == _END
            self._file.truncate(end)
        if not end:
            self._write(_HEAD, self._source)

    def add(self, row: str) -> None:
        """Write a row, as JSON."""
        self._write(_ROW, row.encode())
        self.n_rows += 1
        if time.monotonic() - self._synced > _SYNCED_S:
            self._sync()

    def mark(self, state: Any) -> None:
        """Write what the source says of itself, by which it goes on behind the last row."""
        self._write(_STATE, json.dumps(state).encode())

    def end(self) -> None:
        """Write that the source has no more rows."""
        self._write(_END, b"")
        self.is_whole = True

    def _write(self, kind: bytes, data: bytes) -> None:
        said = kind + data
        with explained(self.path):
            self._file.write(b"%s %s\n" % (xxhash.xxh3_64_hexdigest(said).encode(), said))

    def _sync(self) -> None:
        with explained(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def discard_partial(folder: Path) -> None:
    """Remove the rows that were kept: the inputs are sealed."""
    with explained(folder / PARTIAL_FILE, "removed"):
        (folder / PARTIAL_FILE).unlink(missing_ok=True)


def _checked(line: bytes) -> tuple[bytes | None, bytes, Any]:
    """Give a line's kind, its data and what that means; no kind where it is not what was written.

    A checksum that is right is no proof: the folder may be a stranger's.
    """
    said = line[_SUM + 1 : -1]
    kind, data = said[:1], said[1:]
    if line[:_SUM] != xxhash.xxh3_64_hexdigest(said).encode() or not line.endswith(b"\n"):
        return None, b"", None
    try:
        value = json.loads(data.decode() or "null")
    except (ValueError, RecursionError):
        return None, b"", None
    is_right = {
        _HEAD: isinstance(value, str),
        _ROW: isinstance(value, dict),
        _STATE: isinstance(value, list) and len(value) == 2,
        _END: value is None,
    }
    return (kind, data, value) if is_right.get(kind) else (None, b"", None)
