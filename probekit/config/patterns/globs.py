"""Module-path patterns: which paths match.

A path is segments between dots. ``*`` is one segment or a part of one, ``**`` as a whole segment
is any number of segments, zero included, ``{a,b}``, ``{0..5}`` and ``{0..2,5}`` are choices, which
may contain dots. Everything else is literal. This file knows text only: nothing of models.

A pattern means the union of its choices written out. It is written out group by group (the text
between two dots outside braces) into a small automaton, so `{0..60}.{0..255}` costs 317 edges and
not 15 616 patterns, and matching never backtracks.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from probekit.errors import PlanError

MAX_CHOICES = 4096  # of one group; a range of layers or experts stays below
MAX_EDGES = 10_000  # segments and choices of a whole pattern; and of all patterns of a config
MAX_ANY = 100  # times `**` in a pattern written out: from each of them all that follows is open
MAX_WRITTEN = 1_000_000  # characters of all choices of a group written out
MAX_NESTING = 8  # of braces
MAX_LENGTH = 10_000  # characters of a pattern

_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")


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
    n_edges: int  # what it costs to look for
    fewest: int  # segments of the shortest path that matches
    _states: tuple[_State, ...]  # the first is the start
    _end: int

    def matches(self, path: str) -> bool:
        """Say whether a whole module path matches; the root module's path is ``""``."""
        segments = path.split(".") if path else ()
        if len(segments) < self.fewest:
            return False
        here = self._with_free({0})
        for segment in segments:
            here = self._with_free(self._after(here, segment))
        return self._end in here

    def _after(self, here: set[int], segment: str) -> set[int]:
        reached: set[int] = set()
        for number in here:
            state = self._states[number]
            reached.update(state.literals.get(segment, ()))
            reached.update(to for parts, to in state.wildcards if fits(parts, segment))
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
        raise _wrong(pattern, f"more than {MAX_LENGTH:,} characters; use * or several patterns")
    edges: list[tuple[int, str, int]] = []
    last, spare = 0, 0
    for group in groups(pattern):
        start, last = last, spare + 1
        spare = last
        for segments in _alternatives(group, pattern):
            spare = _add_chain(edges, start, last, spare, segments)
            if len(edges) > MAX_EDGES:
                raise _wrong(pattern, f"more than {MAX_EDGES:,} choices and segments; use * or **")
    if sum(segment == "**" for _, segment, _ in edges) > MAX_ANY:
        raise _wrong(pattern, f"more than {MAX_ANY:,} times **; one is any number of segments")
    return Glob(
        pattern=pattern,
        n_edges=len(edges),
        fewest=_fewest(edges, last),
        _states=_states(edges, spare + 1),
        _end=last,
    )


def match_paths(pattern: str, paths: Sequence[str]) -> tuple[str, ...]:
    """Return the paths that match a pattern, in the order of ``paths``.

    Raises:
        PlanError: The pattern is not well formed; see `compile_glob`.
    """
    glob = compile_glob(pattern)
    is_plain = not re.search(r"[*{]", pattern)
    return tuple(filter(pattern.__eq__ if is_plain else glob.matches, paths))


# --- a pattern's choices, written out


def groups(pattern: str) -> Iterator[str]:
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
    parts = [choices(piece, pattern) if inside else [piece] for piece, inside in pieces(text)]
    n_choices = 1
    for part in parts:
        n_choices *= len(part)
        _check_size(n_choices, pattern)
    if n_choices * len(text) > MAX_WRITTEN:
        raise _wrong(pattern, f"more than {MAX_WRITTEN:,} characters written out; use * instead")
    return ["".join(chosen) for chosen in product(*parts)]


def choices(body: str, pattern: str) -> list[str]:
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
        raise _wrong(pattern, f"more than {MAX_CHOICES:,} choices between two dots; use * instead")


def pieces(text: str) -> Iterator[tuple[str, bool]]:
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


def _fewest(edges: Iterable[tuple[int, str, int]], end: int) -> int:
    """Count the segments of the shortest way to the end; an edge without one is free."""
    onward: dict[int, list[tuple[int, int]]] = {}
    for here, segment, there in edges:
        onward.setdefault(here, []).append((there, segment != ""))
    found, todo = {0: 0}, deque([0])
    while todo:
        here = todo.popleft()
        for there, cost in onward.get(here, ()):
            if found[here] + cost < found.get(there, len(onward) + 1):
                found[there] = found[here] + cost
                (todo.append if cost else todo.appendleft)(there)
    return found[end]


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


def fits(parts: tuple[str, ...], segment: str) -> bool:
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
