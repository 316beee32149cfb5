"""Blocks: the page's data, each under its name in a script element of its own.

A browser reads past such elements without looking inside: they cost nothing until the page asks for
one. What is inside is zlib, in base64.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A named piece of data."""

    name: str  # [a-z0-9-]
    data: bytes  # zlib

    @classmethod
    def of_bytes(cls, name: str, compressed: bytes) -> Self:
        """Name what is compressed already."""
        return cls(name=name, data=compressed)

    @classmethod
    def of_json(cls, name: str, value: Any) -> Self:
        """Write plain values as strict JSON: no NaN, and half a surrogate pair as an escape."""
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        return cls(name=name, data=zlib.compress(text.encode("ascii"), 9))

    @classmethod
    def of_text(cls, name: str, text: str) -> Self:
        """Pack a text."""
        return cls(name=name, data=zlib.compress(text.encode(), 9))

    def element(self) -> bytes:
        """Give the script element; base64 holds nothing that could end it."""
        head = f'<script type="application/octet-stream" id="block-{self.name}">'
        return head.encode() + base64.b64encode(self.data) + b"</script>\n"


class BlockFile:
    """Blocks in a file that must not grow beyond a limit."""

    def __init__(self, file: IO[bytes], limit_bytes: int) -> None:
        self._file = file
        self._limit = limit_bytes

    def add(self, blocks: Iterable[Block]) -> bool:
        """Write blocks, all of them or none; False where they do not fit."""
        begin = self._file.tell()
        for block in blocks:
            self._file.write(block.element())
            if self._file.tell() > self._limit:
                self._file.seek(begin)
                self._file.truncate()
                return False
        return True
