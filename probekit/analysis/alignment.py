"""Alignment: whether two traces are over the same texts, and their rows over the same tokens.

Knows the tables of two traces; nothing of sites.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.errors import StoreError
from probekit.trace import row_slices
from probekit.wording import counted

if TYPE_CHECKING:
    from probekit.trace import Trace

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Alignment:
    """How the rows of two traces lie beside each other."""

    by_token: bool  # token by token; otherwise only example by example
    difference: str  # where not: the first example that is cut into other tokens, and how


def align(a: Trace, b: Trace) -> Alignment:
    """Lay two traces beside each other.

    Two tokenizers may cut the same text into other tokens: then its tokens are not comparable, and
    its examples are.

    Raises:
        StoreError: if the texts differ, or the tokens do though the tokenizer is the same; the
            message names the first example that differs.
    """
    if len(a.examples) != len(b.examples):
        raise StoreError(
            f"{a.path} has {counted(len(a.examples), 'example')} and {b.path} has "
            f"{len(b.examples):,}; only traces over the same texts can be compared"
        )
    for number, ours, theirs in zip(count(), a.examples.texts(), b.examples.texts()):
        if ours != theirs:
            raise StoreError(
                f"example {number} differs: it is {_short(ours)} in {a.path} and {_short(theirs)} "
                f"in {b.path}; only traces over the same texts can be compared"
            )
    other = _first_other_example(a, b)
    if other is None:
        return Alignment(True, "")
    difference = _difference(a, b, other)
    if not _two_tokenizers(a, b):
        raise StoreError(
            f"example {other} differs, though its text and the tokenizer are the same: "
            f"{difference}. Were inputs.max_tokens or what was generated not the same?"
        )
    return Alignment(False, f"example {other}: {difference}")


def _first_other_example(a: Trace, b: Trace) -> int | None:
    """Give the first example whose tokens differ, as strings where the vocabularies do."""
    lengths = np.flatnonzero(a.examples.n_tokens != b.examples.n_tokens)
    end = len(a.examples) if not len(lengths) else int(lengths[0])
    n_tokens = int(a.examples.n_tokens[:end].sum())
    ours, theirs = _numbered(a, b) if _two_tokenizers(a, b) else (None, None)
    for rows in row_slices(n_tokens, ()):
        pair = _numbers(a.tokens.id[rows], ours), _numbers(b.tokens.id[rows], theirs)
        other = np.flatnonzero(pair[0] != pair[1])
        if len(other):
            return int(a.tokens.example[rows.start + int(other[0])])
    return end if len(lengths) else None


def _two_tokenizers(a: Trace, b: Trace) -> bool:
    """Say whether ids mean other tokens; a lone shard, which has no vocabulary, cannot tell."""
    return bool(a.vocabulary and b.vocabulary) and a.vocabulary != b.vocabulary


def _numbered(a: Trace, b: Trace) -> tuple[Array, Array]:
    """Give for each token id of each trace a number that is the same for the same string."""
    numbers: dict[str, int] = {}
    ours, theirs = (
        np.array([numbers.setdefault(text, len(numbers)) for text in trace.vocabulary])
        for trace in (a, b)
    )
    return ours, theirs


def _numbers(ids: Array, table: Array | None) -> Array:
    if table is None:
        return ids
    # A model may have more ids than its tokenizer has tokens.
    return np.where(ids < len(table), table[np.minimum(ids, len(table) - 1)], -1 - ids)


def _difference(a: Trace, b: Trace, number: int) -> str:
    ours, theirs = a.examples[number].tokens, b.examples[number].tokens
    pairs = enumerate(zip(ours, theirs, strict=False))
    at = next((n for n, (x, y) in pairs if x != y), min(len(ours), len(theirs)))
    said = [
        f"{_short(tokens[at]) if at < len(tokens) else 'nothing'} in {trace.path}"
        for trace, tokens in ((a, ours), (b, theirs))
    ]
    return f"token {at} is {said[0]}, {said[1]} ({len(ours):,} and {counted(len(theirs), 'token')})"


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
