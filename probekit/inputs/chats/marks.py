"""Marks: private characters that say, inside of a rendering, whose what follows is.

Knows characters; nothing of templates. A mark stands beside text and takes nothing from it: a
rendering with its marks taken out again is the rendering without them, or the marks have changed
what the template does, and then prove nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Planes 15 and 16 of Unicode are for private use: no text that a model has read has these. U+F0000
# and U+F0001 are transformers' own marks.
_TURNS, _N_TURNS = 0xF1000, 0x3000  # a message's loop begins; the first: no message's goes on
_OPENS, _CLOSES = 0xF0FF0, 0xF0FF1  # what is written for add_generation_prompt alone
_EDGES, _N_EDGES = 0xF4000, 0xB000  # begin and end of a content, two characters a content
COLOURS, N_COLOURS = 0x100000, 0xFF00  # single characters of contents

PRIVATE = re.compile("[\U000f0000-\U0010ffff]")
_MARK = re.compile(f"[{chr(_OPENS)}{chr(_CLOSES)}{chr(_TURNS)}-{chr(_EDGES + _N_EDGES)}]")

MOST_CONTENTS = _N_EDGES // 2
NO_TURN, SOME_TURN = -1, -2  # behind a loop; in one, over a message that the template made itself

OPENS, CLOSES = chr(_OPENS), chr(_CLOSES)


def turn_mark(turn: int) -> str:
    """Give the mark behind which a message's own turn goes on."""
    return chr(_TURNS + 2 + turn)


def edge_marks(unit: int) -> tuple[str, str]:
    """Give the marks of a content: before its first character, and behind its last."""
    return chr(_EDGES + 2 * unit), chr(_EDGES + 2 * unit + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """Where a content begins or ends."""

    at: int  # in the rendering without marks
    unit: int  # which content
    is_end: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where a message's loop begins or ends, or what is for a generation prompt."""

    at: int
    turn: int | None  # NO_TURN, SOME_TURN, or a message's number; None where it is of a prompt
    opens: bool = False


def read_marks(marked: str) -> tuple[str, list[Edge], list[Cut]]:
    """Take marks out of a rendering; give what is left, and where which stood."""
    pieces: list[str] = []
    edges: list[Edge] = []
    cuts: list[Cut] = []
    last = at = 0
    for found in _MARK.finditer(marked):
        pieces.append(marked[last : found.start()])
        at += found.start() - last
        last = found.end()
        code = ord(found[0])
        if code >= _EDGES:
            edges.append(Edge(at=at, unit=(code - _EDGES) // 2, is_end=bool(code % 2)))
        elif code >= _TURNS:
            cuts.append(Cut(at=at, turn=code - _TURNS - 2))
        else:
            cuts.append(Cut(at=at, turn=None, opens=code == _OPENS))
    return "".join([*pieces, marked[last:]]), edges, cuts


def has_private(values: Iterator[str]) -> bool:
    """Say whether any text has a private character of these planes itself."""
    return any(PRIVATE.search(value) for value in values)
