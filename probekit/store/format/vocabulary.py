"""A vocabulary: the bytes of every token, and how a token reads alone and among others.

Knows UTF-8, and how a vocabulary lies in a file; nothing of tokenizers. A token of a byte-level
tokenizer can be a part of a character: alone it reads `<0xF0>`, joined it is text again.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import h5py
import numpy as np

from probekit.errors import StoreError
from probekit.store.format.nodes import node_in, numbers_in, texts_in

_STRINGS, _BYTES, _ENDS = "vocabulary", "vocabulary_bytes", "vocabulary_ends"
VOCABULARY_NAMES = (_STRINGS, _BYTES, _ENDS)


def _as_code(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    data = error.object[error.start : error.end]
    return "".join(f"<0x{byte:02X}>" for byte in data), error.end


codecs.register_error("probekit.codes", _as_code)


def shown(data: bytes) -> str:
    """Write bytes as text; what is no whole character reads `<0xF0>`."""
    return data.decode("utf-8", "probekit.codes")


class Vocabulary(tuple[str, ...]):
    """The string of every token id, as it reads alone; `bytes` are what it stands for."""

    _data: tuple[bytes, np.ndarray[Any, Any]] | None = None  # of all tokens, and where each ends

    @cached_property
    def bytes(self) -> tuple[bytes, ...]:
        """The bytes of every token id; joined they are the text of a lossless tokenizer."""
        if self._data is None:
            return tuple(token.encode() for token in self)
        data, ends = self._data
        return tuple(data[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True))

    def text(self, ids: Iterable[int]) -> str:
        """Give the text of tokens one after another, whole characters put together."""
        return shown(
            b"".join(self.bytes[i] if 0 <= i < len(self) else f"<{i}>".encode() for i in ids)
        )

    @classmethod
    def read(cls, file: h5py.File) -> Vocabulary:
        """Read the vocabulary of a trace; empty where it has none (a lone shard)."""
        if node_in(file, _STRINGS) is None:
            return cls()
        found = cls(texts_in(file, _STRINGS))
        if node_in(file, _BYTES) is not None:
            data, ends = numbers_in(file, _BYTES), numbers_in(file, _ENDS)
            whole = len(ends) == len(found) and (not len(ends) or ends[-1] == len(data))
            if data.dtype != np.uint8 or not whole or not (np.diff(ends, prepend=0) >= 0).all():
                raise StoreError(f"{file.filename}: its vocabulary and its bytes do not fit")
            found._data = data.tobytes(), ends
        return found


def write_vocabulary(file: h5py.File, tokens: Sequence[str | bytes], *, with_bytes: bool) -> None:
    """Write a vocabulary into an open file.

    Args:
        file: the file.
        tokens: by id: its bytes, or its string.
        with_bytes: since format 1.1; the strings alone before.
    """
    data = [token.encode() if isinstance(token, str) else token for token in tokens]
    # HDF5's strings hold no NUL, which byte-level vocabularies have as a token.
    strings = [shown(token).replace("\0", "\N{SYMBOL FOR NULL}") for token in data]
    file.create_dataset(_STRINGS, data=strings, dtype=h5py.string_dtype())
    if with_bytes:
        joined = np.frombuffer(b"".join(data), dtype=np.uint8)
        file.create_dataset(_BYTES, data=joined)
        file.create_dataset(_ENDS, data=np.cumsum([len(token) for token in data], dtype=np.int64))
