"""Pieces: the tokens of a document, a model's context at a time.

Knows token ids and the characters that they cover. A piece has the tokens that a piece of the same
text has by `return_overflowing_tokens` of transformers, whose word `stride` it takes: how many
tokens a piece shares with the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a document, as the model will read it."""

    start: int  # place of its first own token in the document, in tokens
    char_start: int  # place of its text in the document's, in characters; 0 where nobody says
    n_before: int  # special tokens before its own
    n_own: int  # tokens of the document
    text: str  # up to where the next token begins, so that no character is lost
    ids: Array  # int32 [token], special ones included
    spans: Array | None  # int32 [token, (start, end)]: characters of `text` that a token covers


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
    """How documents become pieces."""

    n_tokens: int | None  # most of a piece, special ones included; None for whole documents
    stride: int  # tokens that a piece shares with the one before
    before: tuple[int, ...] = ()  # special tokens of each piece
    behind: tuple[int, ...] = ()
    once: int | None = None  # of `before` the last, which no document gets that begins with it
    read: Callable[[Sequence[int]], str] | None = None
    # the text of a piece of token ids, where nobody says which characters they cover

    @property
    def n_own(self) -> int | None:
        """How many tokens of its document a piece has, at most."""
        if self.n_tokens is None:
            return None
        return self.n_tokens - len(self.before) - len(self.behind)

    def pieces(self, text: str, ids: Sequence[int] | Array, spans: object) -> Iterator[Piece]:
        """Split a document.

        Args:
            text: of all of it.
            ids: of all its own tokens, `[token]`.
            spans: which characters each covers, `[token, (start, end)]`; None if nobody says.
        """
        own = np.asarray(ids, dtype=np.int32)
        covered = None if spans is None else np.asarray(spans, dtype=np.int32).reshape(-1, 2)
        for begin, end in self._places(len(own)):
            yield self._piece(text, own, covered, begin, end)

    def _places(self, n: int) -> Iterator[tuple[int, int]]:
        """Give where pieces begin and end; the last is the first one that reaches the end."""
        size = n if self.n_own is None else self.n_own
        begin = 0
        while begin + size < n:
            yield begin, begin + size
            begin += size - self.stride
        yield begin, n

    def _piece(self, text: str, own: Array, covered: Array | None, begin: int, end: int) -> Piece:
        before = self.before
        if begin == 0 and before and before[-1] == self.once == own[0]:
            before = before[:-1]
        ids = np.concatenate([before, own[begin:end], self.behind]).astype(np.int32)
        if covered is None:
            said, first, spans = self._said(text, own, begin, end), 0, None
        else:
            first, last = _characters(text, covered, begin, end)
            said = text[first:last]
            spans = np.zeros((len(ids), 2), dtype=np.int32)  # a special token covers nothing
            spans[len(before) : len(before) + end - begin] = covered[begin:end] - first
        return Piece(
            start=begin,
            char_start=first,
            n_before=len(before),
            n_own=end - begin,
            text=said,
            ids=ids,
            spans=spans,
        )

    def _said(self, text: str, own: Array, begin: int, end: int) -> str:
        if (begin, end) == (0, len(own)) or self.read is None:
            return text
        return self.read(own[begin:end].tolist())


def _characters(text: str, covered: Array, begin: int, end: int) -> tuple[int, int]:
    """Give the first character of a piece, and the one behind its last.

    A character of several tokens can be cut, and is then of both pieces.
    """
    first = 0 if begin == 0 else int(covered[begin:end, 0].min())
    last = len(text) if end == len(covered) else int(covered[end, 0])
    return first, max(last, int(covered[begin:end, 1].max()))
