"""What a pattern misses: its choices that match nothing, and what lies near it.

Knows patterns and paths; nothing of models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import count, product

from probekit.config.patterns.globs import choices, fits, groups, match_paths, pieces

_NUMBER_GROUP = re.compile(r"(?:(?<=\.)|^)(?:[0-9]+|\{[0-9.,]+\})(?=\.|$)")
_WORDS = 8  # of a pattern, the last ones, that are compared with paths


def nearest(pattern: str, paths: Sequence[str], n: int = 5) -> tuple[str, ...]:
    """Return patterns near to one that matches nothing, each of which matches something.

    Numbers are generalised: ``transformer.h.*.mlp.act`` stands for all layers. Where the number
    itself is the mistake the numbers that exist are named: ``transformer.h.{0..11}.mlp``.

    Args:
        pattern: A well-formed pattern.
        paths: The module paths of the model.
        n: How many to return at most.

    Returns:
        Patterns, the nearest first.
    """
    loose = _NUMBER_GROUP.sub("*", pattern)
    if loose != pattern and (hits := match_paths(loose, paths)):
        return tuple(_with_numbers(shape) for shape in list(_by_shape(hits).values())[:n])
    shapes = list(_by_shape(paths))
    return tuple(sorted(shapes, key=lambda shape: -_likeness(loose, shape))[:n])


def no_match(pattern: str, paths: Iterable[str], model_class: str) -> str:
    """Say that a pattern matches no module of a model, and what is near."""
    near = nearest(pattern, tuple(paths))
    return (
        f"{pattern!r} matches no module of {model_class}; the nearest: "
        f"{', '.join(near) or 'none'}. `probekit modules` lists them all"
    )


# --- choices that match nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """One way to write out a group, the text between two dots outside braces."""

    segments: tuple[str, ...]
    chosen: tuple[tuple[int, int], ...]  # of which braces of the pattern, which choice


class _Group:
    """The ways of one group, found by the segment they begin with: there can be thousands."""

    def __init__(self, ways: Iterable[_Way]) -> None:
        self._literal: dict[str, list[_Way]] = {}
        self._others: list[_Way] = []
        for way in ways:
            first = way.segments[0]
            into = self._others if "*" in first else self._literal.setdefault(first, [])
            into.append(way)

    def taken(self, path: Sequence[str], begin: int) -> Iterator[tuple[int, _Way, int]]:
        """Give each way that matches a path from a place on, and where it ends."""
        literal = self._literal.get(path[begin], []) if begin < len(path) else []
        for way in (*literal, *self._others):
            for end in _ends(way.segments, path, begin):
                yield begin, way, end


def unmatched_choices(pattern: str, paths: Sequence[str]) -> tuple[str, ...]:
    """Give the pattern with each choice of its braces that no path has, whatever the others are.

    ``transformer.h.{0..7}.mlp`` on three layers gives five: nobody would miss them otherwise.
    """
    written = [(choices(text, pattern), text) if inside else (None, text)
               for text, inside in pieces(pattern)]  # fmt: skip
    braces = [choice for choice, _ in written if choice is not None]
    unseen = {(brace, number) for brace, of in enumerate(braces) for number in range(len(of))}
    ways = [_Group(ways) for ways in _ways(pattern)] if unseen else []
    for path in match_paths(pattern, paths) if unseen else ():
        for way in _ways_taken(ways, path.split(".")):
            unseen.difference_update(way.chosen)
        if not unseen:
            break
    return tuple(_with_choice(written, brace, braces[brace][n]) for brace, n in sorted(unseen))


def _with_choice(written: Sequence[tuple[list[str] | None, str]], brace: int, choice: str) -> str:
    number = count()
    return "".join(
        text if of is None else choice if next(number) == brace else f"{{{text}}}"
        for of, text in written
    )


def _ways(pattern: str) -> Iterator[list[_Way]]:
    """Give, for each group of a pattern, the ways to write it out."""
    brace = count()
    for group in groups(pattern):
        numbered: list[list[tuple[str, tuple[tuple[int, int], ...]]]] = []
        for text, inside in pieces(group):
            if not inside:
                numbered.append([(text, ())])
                continue
            this = next(brace)
            numbered.append([(t, ((this, n),)) for n, t in enumerate(choices(text, pattern))])
        yield [
            _Way(
                segments=tuple("".join(text for text, _ in parts).split(".")),
                chosen=tuple(pair for _, chosen in parts for pair in chosen),
            )
            for parts in product(*numbered)
        ]


def _ways_taken(of_groups: Sequence[_Group], path: Sequence[str]) -> Iterator[_Way]:
    """Give every way that lies on some match of a path: forward over the groups, then back."""
    reached, steps = {0}, []
    for group in of_groups:
        taken = [step for begin in reached for step in group.taken(path, begin)]
        reached = {end for _, _, end in taken}
        steps.append(taken)
    alive = {len(path)}
    for taken in reversed(steps):
        on_the_way = [(begin, way) for begin, way, end in taken if end in alive]
        yield from (way for _, way in on_the_way)
        alive = {begin for begin, _ in on_the_way}


def _ends(segments: Sequence[str], path: Sequence[str], begin: int) -> set[int]:
    """Say where in a path some segments of a pattern can end that begin at a place."""
    here = {begin}
    for segment in segments:
        if segment == "**":
            here = set(range(min(here), len(path) + 1)) if here else here
        elif "*" in segment:
            parts = tuple(segment.split("*"))
            here = {at + 1 for at in here if at < len(path) and fits(parts, path[at])}
        else:
            here = {at + 1 for at in here if at < len(path) and path[at] == segment}
    return here


# --- near misses


def _by_shape(paths: Iterable[str]) -> dict[str, list[str]]:
    """Group paths that differ in numbers only, under the pattern that matches them all."""
    shapes: dict[str, list[str]] = {}
    for path in filter(None, paths):
        shape = ".".join("*" if _is_number(part) else part for part in path.split("."))
        shapes.setdefault(shape, []).append(path)
    return shapes


def _with_numbers(paths: Sequence[str]) -> str:
    """Name the numbers that exist: ``h.0.mlp``, ``h.1.mlp`` give ``h.{0..1}.mlp``."""
    columns = zip(*(path.split(".") for path in paths), strict=True)
    return ".".join(
        runs(sorted({int(part) for part in column})) if _is_number(column[0]) else column[0]
        for column in columns
    )


def runs(numbers: Sequence[int]) -> str:
    """Write sorted numbers as a choice: 0 1 2 7 gives ``{0..2,7}``."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    text = ",".join("..".join(map(str, run)) for run in found)
    return text if len(numbers) == 1 else f"{{{text}}}"


def _is_number(segment: str) -> bool:
    return segment.isascii() and segment.isdecimal() and (segment == "0" or segment[0] != "0")


def _likeness(pattern: str, shape: str) -> float:
    """Score 0 to 2.1: the pattern's words found anywhere, its last word found at the end."""
    words = [word for word in re.split(r"[.{},*]+", pattern[-200:]) if word][-_WORDS:]
    segments = shape.split(".")
    if not words:
        return 0.0
    anywhere = sum(max(_alike(word, segment) for segment in segments) for word in words)
    whole = SequenceMatcher(None, ".".join(words), shape).ratio()
    return anywhere / len(words) + _alike(words[-1], segments[-1]) + whole / 10


def _alike(word: str, segment: str) -> float:
    # `act` must find Phi-3's `activation_fn`, which shares too few characters for the ratio.
    if word == segment:
        return 1.0
    ratio = SequenceMatcher(None, word.lower(), segment.lower()).ratio()
    starts = segment.startswith(word) or word.startswith(segment)
    return min(0.95, max(ratio, 0.8 if starts else 0.0))
