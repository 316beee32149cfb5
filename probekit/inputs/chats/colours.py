"""Colours: contents with some of their letters changed for private ones, which say where from.

Knows characters; nothing of templates. Whitespace, punctuation and whatever a template has for a
constant stay as they are, so that trimming, splitting and looking go on as before. A rendering in
which every colour stands for the letter that was there is the rendering of the contents themselves,
and so each colour proves whose the place is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from probekit.inputs.chats.marks import COLOURS, N_COLOURS

_MOST_OF_ONE = 8  # colours of a content: what is between two is compared letter by letter
_LOOKED = 64  # characters looked at for one that takes colour
_COLOUR = re.compile(f"[{chr(COLOURS)}-{chr(COLOURS + N_COLOURS)}]")

Place = tuple[int, int]  # which content, and which character of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Colouring:
    """Contents with colours in them."""

    texts: tuple[str, ...]
    places: tuple[Place, ...]  # of each colour


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Characters of one content that stand together in a rendering, from colour to colour."""

    unit: int  # which content
    first: int  # in the content: its first coloured character, and the last
    last: int
    begin: int  # in the rendering: where these stand
    end: int  # of the last one itself, not behind it


def colour(contents: Sequence[str], kept: re.Pattern[str] | None) -> Colouring:
    """Colour some letters of contents: the first and the last that can be, and some between.

    Args:
        contents: the texts.
        kept: what stays as it is.
    """
    most = min(_MOST_OF_ONE, N_COLOURS // max(1, len(contents)))
    texts: list[str] = []
    places: list[Place] = []
    for unit, content in enumerate(contents):
        letters = _chosen(content, kept, most)
        pieces, last = [], 0
        for at in letters:
            pieces += [content[last:at], chr(COLOURS + len(places))]
            places.append((unit, at))
            last = at + 1
        texts.append("".join([*pieces, content[last:]]))
    return Colouring(texts=tuple(texts), places=tuple(places))


def _chosen(content: str, kept: re.Pattern[str] | None, most: int) -> list[int]:
    """Choose letters, in order."""
    free = bytearray(b"\1") * len(content)
    for word in () if kept is None else kept.finditer(content):
        free[word.start() : word.end()] = bytes(word.end() - word.start())

    def takes(at: int) -> bool:
        letter = content[at]
        return bool(free[at]) and (letter.isalnum() or (letter > "\x7f" and not letter.isspace()))

    found = {at for at in range(len(content)) if takes(at)} if len(content) <= most else set()
    if found or not content:
        return sorted(found)
    ends = [next((n for n in numbers if takes(n)), None) for numbers in _from_both_ends(content)]
    steps = (round(n * len(content) / most) for n in range(1, most - 1))
    some = [
        next((n for n in range(at, min(at + _LOOKED, len(content))) if takes(n)), None)
        for at in steps
    ]
    return sorted({at for at in (*ends, *some) if at is not None})


def _from_both_ends(content: str) -> tuple[range, range]:
    return range(len(content)), range(len(content) - 1, -1, -1)


def find_runs(
    coloured: str, real: str, colouring: Colouring, contents: Sequence[str]
) -> list[Run] | None:
    """Find where contents stand in a rendering; None where colours prove nothing.

    Args:
        coloured: the rendering of coloured contents.
        real: the rendering of the contents themselves.
        colouring: which colours there are.
        contents: the texts.
    """
    if len(coloured) != len(real):
        return None
    last = 0
    runs: list[Run] = []
    for found in _COLOUR.finditer(coloured):
        at, number = found.start(), ord(found[0]) - COLOURS
        if number >= len(colouring.places):
            return None
        unit, letter = colouring.places[number]
        alike = _alike(real[last:at], coloured[last:at])
        if not alike or not _alike(real[at], contents[unit][letter]):
            return None
        last = at + 1
        run = runs[-1] if runs else None
        between = "" if run is None else real[run.end + 1 : at]
        if (
            run is not None
            and run.unit == unit
            and run.last < letter
            and _alike(between, contents[unit][run.last + 1 : letter])
        ):
            runs[-1] = Run(unit=unit, first=run.first, last=letter, begin=run.begin, end=at)
        else:
            runs.append(Run(unit=unit, first=letter, last=letter, begin=at, end=at))
    return runs if _alike(real[last:], coloured[last:]) else None


def _alike(one: str, other: str) -> bool:
    """Say whether texts are the same, but for a template that writes all large or small."""
    return one == other or (len(one) == len(other) and one.lower() == other.lower())
