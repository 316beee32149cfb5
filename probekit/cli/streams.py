"""Streams: stdout and stderr that may be closed, full, or read by nobody any more.

Knows Python's text streams. What is printed for people never decides what becomes of a run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

_PLAIN = {ord("–"): "-", ord("«"): "<<", ord("»"): ">>", ord("×"): "x"}


class Printed:
    """A text stream that goes silent where it can no longer be written, and remembers why.

    Args:
        stream: stdout or stderr; None where the program was started without it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        self.failed: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, or nothing."""
        if self.failed is None:
            try:
                self._stream.write(self._writable(text))
            except OSError as error:
                self._fail(error)
        return len(text)

    def _writable(self, text: str) -> str:
        """Write out what the encoding of the stream has no sign for, as in a locale of ASCII."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            plain = text.translate(_PLAIN)
            return plain.encode(encoding, "backslashreplace").decode(encoding)
        return text

    def flush(self) -> None:
        """Flush, or do nothing."""
        if self.failed is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failed = error
        # What Python still holds of it would fail again when the program ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printing() -> Iterator[Printed]:
    """Print to stdout and stderr as long as they take it; give stdout."""
    before = sys.stdout, sys.stderr
    out, err = Printed(sys.stdout), Printed(sys.stderr)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
