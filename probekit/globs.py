"""Module-path patterns: which paths match, and which lie nearest to a pattern that matches none.

A path is segments between dots. ``*`` is one segment or a part of one, ``**`` as a whole segment
is any number of segments, zero included, ``{a,b}``, ``{0..5}`` and ``{0..2,5}`` are choices, which
may contain dots. Everything else is literal. This file knows text only: nothing of models.

A pattern means the union of its choices written out. It is written out group by group (the text
between two dots outside braces) into a small automaton, so `{0..60}.{0..255}` costs 317 edges and
not 15 616 patterns, and matching never backtracks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import product

from probekit.errors import PlanError

__all__ = ["Glob", "compile_glob", "match_paths", "nearest"]

MAX_CHOICES = 10_000  # of one group; a range of layers or experts stays far below
MAX_NESTING = 8  # of braces
MAX_LENGTH = 10_000  # characters of a pattern; times MAX_CHOICES it bounds the memory

_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
_NUMBER_GROUP = re.compile(r"(?:(?<=\.)|^)(?:[0-9]+|\{[0-9.,]+\})(?=\.|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """One place between two segments of a pattern; the targets are numbers of states."""

    literals: dict[str, list[int]]
    wildcards: tuple[tuple[tuple[str, ...], int], ...]  # the text between the stars, target
    loops: bool  # any segment leads back here: the inside of `**`
    free: tuple[int, ...]  # targets reached without a segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Glob:
    """A compiled pattern."""

    pattern: str
    _states: tuple[_State, ...]  # the first is the start
    _end: int

    def matches(self, path: str) -> bool:
        """Say whether a whole module path matches; the root module's path is ``""``."""
        here = self._with_free({0})
        for segment in path.split(".") if path else ():
            here = self._with_free(self._after(here, segment))
        return self._end in here

    def _after(self, here: set[int], segment: str) -> set[int]:
        reached: set[int] = set()
        for number in here:
            state = self._states[number]
            reached.update(state.literals.get(segment, ()))
            reached.update(to for parts, to in state.wildcards if _fits(parts, segment))
            if state.loops:
                reached.add(number)
        return reached

    def _with_free(self, here: set[int]) -> set[int]:
        todo = list(here)
        while todo:
            new = [to for to in self._states[todo.pop()].free if to not in here]
            here.update(new)
            todo.extend(new)
        return here


def compile_glob(pattern: str) -> Glob:
    """Compile a pattern.

    Args:
        pattern: For example ``transformer.h.{0..5}.mlp.act`` or ``**.{q_proj,k_proj}``.

    Returns:
        The compiled pattern.

    Raises:
        PlanError: The pattern is empty, its braces do not pair up, a segment is empty, ``**``
            is only a part of a segment, or a choice is too large.
    """
    if not pattern:
        raise PlanError("empty pattern: write a module path such as transformer.h.*.mlp")
    if len(pattern) > MAX_LENGTH:
        raise _wrong(pattern, f"more than {MAX_LENGTH} characters; use * or several patterns")
    edges: list[tuple[int, str, int]] = []
    last, spare = 0, 0
    for group in _groups(pattern):
        start, last = last, spare + 1
        spare = last
        for segments in _alternatives(group, pattern):
            spare = _add_chain(edges, start, last, spare, segments)
    return Glob(pattern=pattern, _states=_states(edges, spare + 1), _end=last)


def match_paths(pattern: str, paths: Sequence[str]) -> tuple[str, ...]:
    """Return the paths that match a pattern, in the order of ``paths``.

    Raises:
        PlanError: The pattern is not well formed; see `compile_glob`.
    """
    return tuple(filter(compile_glob(pattern).matches, paths))


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


# --- a pattern's choices, written out


def _groups(pattern: str) -> Iterator[str]:
    """Split at the dots outside braces; checks that the braces pair up."""
    depth, start = 0, 0
    for i, char in enumerate(pattern):
        depth += (char == "{") - (char == "}")
        if depth < 0:
            raise _wrong(pattern, f"the }} at character {i + 1} closes nothing; remove it")
        if depth > MAX_NESTING:
            raise _wrong(pattern, f"braces are nested deeper than {MAX_NESTING}; use fewer")
        if char == "." and depth == 0:
            yield pattern[start:i]
            start = i + 1
    if depth:
        raise _wrong(pattern, "a { is never closed; add the missing }")
    yield pattern[start:]


def unmatched_choices(pattern: str, paths: Sequence[str]) -> tuple[str, ...]:
    """Give the pattern with each choice of its braces that no path has, whatever the others are.

    ``transformer.h.{0..7}.mlp`` on three layers gives five: nobody would miss them otherwise.
    """
    pieces = list(_pieces(pattern))
    written = ["{" + piece + "}" if inside else piece for piece, inside in pieces]
    lost = []
    for number, (piece, inside) in enumerate(pieces):
        for choice in _choices(piece, pattern) if inside else ():
            one = "".join([*written[:number], choice, *written[number + 1 :]])
            if not match_paths(one, paths):
                lost.append(one)
    return tuple(lost)


def _alternatives(group: str, pattern: str) -> Iterator[tuple[str, ...]]:
    """Write a group out: each alternative as its segments."""
    for text in dict.fromkeys(_written_out(group, pattern)):
        segments = tuple(text.split("."))
        for segment in segments:
            if not segment:
                hint = (
                    "a range is of whole numbers, {0..5}"
                    if ".." in text
                    else "write a name on both sides of every dot"
                )
                raise _wrong(pattern, f"empty segment; {hint}")
            if "**" in segment and segment != "**":
                raise _wrong(pattern, "** stands for whole segments only; write .**. or a single *")
        yield segments


def _written_out(text: str, pattern: str) -> list[str]:
    pieces = [_choices(piece, pattern) if inside else [piece] for piece, inside in _pieces(text)]
    n_choices = 1
    for piece in pieces:
        n_choices *= len(piece)
        _check_size(n_choices, pattern)
    return ["".join(parts) for parts in product(*pieces)]


def _choices(body: str, pattern: str) -> list[str]:
    """Write out what stands between a pair of braces."""
    if not body:
        raise _wrong(pattern, "empty choice {}; write {a,b} or {0..5}")
    written: list[str] = []
    for item in _split_top(body):
        bounds = _RANGE.fullmatch(item)
        written += _range(bounds[1], bounds[2], pattern) if bounds else _written_out(item, pattern)
        _check_size(len(written), pattern)
    return written


def _range(first: str, last: str, pattern: str) -> list[str]:
    if any(bound != "0" and bound.startswith("0") for bound in (first, last)):
        raise _wrong(pattern, f"range {{{first}..{last}}} has leading zeros; write plain numbers")
    if max(len(first), len(last)) > 9:
        raise _wrong(pattern, "a range bound has more than 9 digits; use * for any number")
    if int(first) > int(last):
        raise _wrong(
            pattern, f"range {{{first}..{last}}} runs backwards; write {{{last}..{first}}}"
        )
    _check_size(int(last) - int(first) + 1, pattern)
    return [str(number) for number in range(int(first), int(last) + 1)]


def _check_size(n_choices: int, pattern: str) -> None:
    if n_choices > MAX_CHOICES:
        raise _wrong(pattern, f"more than {MAX_CHOICES} choices between two dots; use * instead")


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Cut into literal text and the insides of outermost braces (then True)."""
    depth, start = 0, 0
    for i, char in enumerate(text):
        if char == "{":
            if depth == 0:
                yield text[start:i], False
                start = i + 1
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                yield text[start:i], True
                start = i + 1
    yield text[start:], False


def _split_top(body: str) -> Iterator[str]:
    """Split at the commas outside braces."""
    depth, start = 0, 0
    for i, char in enumerate(body):
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            yield body[start:i]
            start = i + 1
    yield body[start:]


def _wrong(pattern: str, problem: str) -> PlanError:
    shown = pattern if len(pattern) <= 80 else pattern[:77] + "..."
    return PlanError(f"pattern {shown!r}: {problem}")


# --- the automaton


def _add_chain(
    edges: list[tuple[int, str, int]], start: int, end: int, spare: int, segments: Sequence[str]
) -> int:
    """Add the edges of one alternative; returns the highest state number in use."""
    here = start
    for i, segment in enumerate(segments):
        # `**` needs a state of its own even where it is the last: it loops there, not at the end.
        there = end if i == len(segments) - 1 else (spare := spare + 1)
        if segment == "**":
            spare += 1
            edges += [(here, "", spare), (spare, "**", spare), (spare, "", there)]
        else:
            edges.append((here, segment, there))
        here = there
    return spare


def _states(edges: Iterable[tuple[int, str, int]], n_states: int) -> tuple[_State, ...]:
    literals: list[dict[str, list[int]]] = [{} for _ in range(n_states)]
    wildcards: list[list[tuple[tuple[str, ...], int]]] = [[] for _ in range(n_states)]
    free: list[list[int]] = [[] for _ in range(n_states)]
    loops = [False] * n_states
    for here, segment, there in edges:
        if segment == "":
            free[here].append(there)
        elif segment == "**":
            loops[here] = True
        elif "*" in segment:
            wildcards[here].append((tuple(segment.split("*")), there))
        else:
            literals[here].setdefault(segment, []).append(there)
    return tuple(
        _State(literals=a, wildcards=tuple(b), loops=c, free=tuple(d))
        for a, b, c, d in zip(literals, wildcards, loops, free, strict=True)
    )


def _fits(parts: tuple[str, ...], segment: str) -> bool:
    """Match one segment against the text between stars; leftmost-first is exact, so linear."""
    first, *middle, last = parts
    if len(segment) < len(first) + len(last):
        return False
    if not (segment.startswith(first) and segment.endswith(last)):
        return False
    here, end = len(first), len(segment) - len(last)
    for part in middle:
        found = segment.find(part, here, end)
        if found < 0:
            return False
        here = found + len(part)
    return True


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
        _runs(sorted({int(part) for part in column})) if _is_number(column[0]) else column[0]
        for column in columns
    )


def _runs(numbers: Sequence[int]) -> str:
    """Write sorted numbers as a choice: 0 1 2 7 gives ``{0..2,7}``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    text = ",".join("..".join(map(str, run)) for run in runs)
    return text if len(numbers) == 1 else f"{{{text}}}"


def _is_number(segment: str) -> bool:
    return segment.isascii() and segment.isdecimal() and (segment == "0" or segment[0] != "0")


def _likeness(pattern: str, shape: str) -> float:
    """Score 0 to 2.1: the pattern's words found anywhere, its last word found at the end."""
    words = [word for word in re.split(r"[.{},*]+", pattern[:200]) if word]
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
