"""Finding: where each message's content stands in the final rendering of a conversation.

Knows renderings with marks and colours; nothing of Jinja. Two ways must agree: marks around a
content, which a template passes on as it does text, and colours, letters of contents that stand for
themselves. Either is compared with what the template really writes. What cannot be proved is
refused, and not guessed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

from probekit.inputs.chats.colours import Run, colour, find_runs
from probekit.inputs.chats.marks import MOST_CONTENTS, Cut, Edge, edge_marks, read_marks
from probekit.inputs.chats.segments import overlapping

Span = tuple[int, int]  # characters of the rendering: the first, and the one behind the last
Chat = list[dict[str, Any]]
_MOST_EXTENSION = 1 << 16  # characters of a content between its edge and its first colour


class Renders(Protocol):
    """What carries a template out."""

    def real(self, messages: Chat, *, prompts: bool | None = None) -> str:
        """Render messages as transformers does."""

    def quick(self, messages: Chat, *, marks: bool) -> str | None:
        """Render messages, with marks of turns or without; None where it does not bear them."""

    def kept(self, roles: Sequence[str]) -> Any:
        """Give the pattern of what the template may look for."""


class NotFoundError(Exception):
    """A content whose place is not known; why, and which turn's."""

    def __init__(self, turn: int, reason: str) -> None:
        super().__init__(reason)
        self.turn, self.reason = turn, reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One text of a conversation: a content, or a part of one."""

    turn: int
    part: int | None  # None where the content is no list
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where contents stand."""

    spans: Mapping[int, tuple[Span, ...]]  # by unit, each in order; none where it is left out
    cuts: Sequence[Cut] | None  # where turns begin; None where the template does not say


def units_of(messages: Chat) -> tuple[Unit, ...]:
    """Give the texts of a conversation that are not empty."""
    found: list[Unit] = []
    for turn, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, str):
            found.append(Unit(turn=turn, part=None, text=content))
        for number, part in enumerate(content if isinstance(content, list) else ()):
            found.append(Unit(turn=turn, part=number, text=part["text"]))
    return tuple(unit for unit in found if unit.text)


def find_contents(renders: Renders, messages: Chat, real: str) -> Found:
    """Find where contents stand in a rendering.

    Args:
        renders: carries the template out.
        messages: of the conversation.
        real: what it writes of them.

    Raises:
        NotFoundError: if a place is not proved.
    """
    units = units_of(messages)
    if len(units) > MOST_CONTENTS:
        raise NotFoundError(0, "it has more parts than can be told apart")
    return _Finding(renders, messages, real, units).found()


class _Finding:
    def __init__(
        self, renders: Renders, messages: Chat, real: str, units: tuple[Unit, ...]
    ) -> None:
        self._renders, self._messages, self._real, self._units = renders, messages, real, units

    def found(self) -> Found:
        """Find all at once, or else one after the other."""
        whole = {n: (0, len(unit.text)) for n, unit in enumerate(self._units)}
        edges, cuts = self._tried(whole, turns=True) or (None, None)
        if edges is None:
            found = self._trimmed()
            _, cuts = self._tried({}, turns=True) or (None, None)
            rest = {n: self._alone(n) for n in whole if n not in found}
        else:
            spans = self._all_paired(edges, whole)
            found = {n: s for n, s in spans.items() if s is not None and self._agrees(n, s)}
            rest = {n: self._solved(n, own) for n, own in _by_unit(edges, {*whole} - {*found})}
        return Found(spans=self._checked(found | rest), cuts=cuts)

    def _trimmed(self) -> dict[int, tuple[Span, ...]]:
        """Find at once what stands there without the spaces at its ends, as templates trim."""
        cores = {n: core for n, unit in enumerate(self._units) if (core := _core(unit.text))}
        edges, _ = self._tried(cores) or (None, None)
        found = {}
        for n, spans in self._all_paired(edges or [], cores).items():
            first, end = cores[n]
            if spans and self._agrees(n, spans, self._units[n].text[first:end]):
                found[n] = self._widened(n, [_run(n, first, span, end - first) for span in spans])
        return found

    def _all_paired(
        self, edges: Sequence[Edge], marks: Mapping[int, Any]
    ) -> dict[int, tuple[Span, ...] | None]:
        return {n: _paired(own, n) for n, own in _by_unit(edges, marks)}

    def _checked(self, spans: Mapping[int, tuple[Span, ...]]) -> Mapping[int, tuple[Span, ...]]:
        every = sorted((span, n) for n, some in spans.items() for span in some)
        if overlapping([span for span, _ in every]):
            turn = self._units[every[0][1]].turn
            raise NotFoundError(turn, "contents of two messages seem to stand in one place")
        return spans

    # --- the first way: marks

    def _tried(
        self, marks: Mapping[int, tuple[int | None, int | None]], *, turns: bool = False
    ) -> tuple[list[Edge], list[Cut]] | None:
        """Render contents with marks in them; None where they change what the template writes."""
        texts = {}
        for n, (begin, end) in marks.items():
            text, (opens, closes) = self._units[n].text, edge_marks(n)
            if end is not None:
                text = text[:end] + closes + text[end:]
            texts[n] = text if begin is None else text[:begin] + opens + text[begin:]
        marked = self._renders.quick(self._with(texts), marks=turns)
        if marked is None:
            return None
        text, edges, cuts = read_marks(marked)
        return (edges, cuts) if text == self._real else None

    def _with(self, texts: Mapping[int, str]) -> Chat:
        chat = [dict(message) for message in self._messages]
        for n, text in texts.items():
            unit = self._units[n]
            message = chat[unit.turn]
            if unit.part is None:
                message["content"] = text
            else:
                parts = [*message["content"]]
                parts[unit.part] = {**parts[unit.part], "text": text}
                message["content"] = parts
        return chat

    # --- the second way: colours

    @cached_property
    def _runs(self) -> Mapping[int, list[Run]] | None:
        """Where letters of each unit stand; None where colours prove nothing."""
        texts = [unit.text for unit in self._units]
        roles = [str(message["role"]) for message in self._messages]
        colouring = colour(texts, self._renders.kept(roles))
        self._letters = {n for n, _ in colouring.places}
        coloured = self._renders.quick(self._with(dict(enumerate(colouring.texts))), marks=False)
        found = None if coloured is None else find_runs(coloured, self._real, colouring, texts)
        if found is None:
            return None
        runs: dict[int, list[Run]] = {n: [] for n in range(len(texts))}
        for run in found:
            runs[run.unit].append(run)
        return runs

    def _agrees(self, n: int, spans: Sequence[Span], text: str | None = None) -> bool:
        """Say whether colours are where marks say that a content is, and nowhere else."""
        runs, text = self._runs, self._units[n].text if text is None else text
        if runs is None or n not in self._letters:
            return all(_is_written(text, self._real[begin:end]) for begin, end in spans)
        inside = [sum(b <= run.begin and run.end < e for run in runs[n]) for b, e in spans]
        return all(inside) and sum(inside) == len(runs[n])

    # --- one content alone, where all at once do not tell

    def _alone(self, n: int) -> tuple[Span, ...]:
        tried = self._tried({n: (0, len(self._units[n].text))})
        alone = None if tried is None else _paired(tried[0], n)
        if alone is not None and self._agrees(n, alone):
            return alone
        return self._solved(n, None if tried is None else tried[0])

    def _solved(self, n: int, edges: Sequence[Edge] | None) -> tuple[Span, ...]:
        """Find a content whose marks do not tell; None for edges where they change the text."""
        unit = self._units[n]
        coloured = self._runs[n] if self._runs is not None and n in self._letters else None
        if edges and not coloured:
            cut = self._cut(n, edges)
            if cut is not None:
                return cut
            if coloured is not None:  # all of them are in what is dropped, and both ends are not
                raise NotFoundError(unit.turn, "the template writes its ends, and not its letters")
        runs = self._runs_of(n, is_unmarked=edges is not None and not edges)
        if any(b.first <= a.last and b.first != runs[0].first for a, b in pairwise(runs)):
            raise NotFoundError(unit.turn, "the template writes its parts in another order")
        return self._widened(n, runs)

    def _widened(self, n: int, runs: Sequence[Run]) -> tuple[Span, ...]:
        """Give all that stands there of a content, of which some characters are known to."""
        spans: list[Span] = []
        for number, run in enumerate(runs):
            before = runs[number - 1] if number else None
            behind = runs[number + 1] if number + 1 < len(runs) else None
            spans.append((self._begin(n, run, before), self._end(n, run, behind)))
        return tuple(spans)

    def _cut(self, n: int, edges: Sequence[Edge]) -> tuple[Span, ...] | None:
        """Find a content without letters of which only one end is written, by the mark there."""
        size = len(self._units[n].text)
        if all(edge.is_end for edge in edges):
            runs = [Run(unit=n, first=size, last=size - 1, begin=e.at, end=e.at - 1) for e in edges]
        elif not any(edge.is_end for edge in edges):
            runs = [Run(unit=n, first=0, last=-1, begin=e.at, end=e.at - 1) for e in edges]
        else:
            return None
        spans = [(self._begin(n, run, None), self._end(n, run, None)) for run in runs]
        return tuple((begin, end) for begin, end in spans if begin < end)

    def _runs_of(self, n: int, *, is_unmarked: bool) -> list[Run]:
        """Give where letters of a content stand, by colours or else by looking for it."""
        unit = self._units[n]
        if self._runs is not None and n in self._letters:
            return self._runs[n]
        core = unit.text.strip()
        if is_unmarked or not core:
            return []
        first = unit.text.index(core)
        tried = self._tried({n: (first, first + len(core))})
        if tried is not None and (spans := _paired(tried[0], n)) is not None:
            if not all(_is_written(core, self._real[begin:end]) for begin, end in spans):
                raise NotFoundError(unit.turn, "the template changes it")
            return [_run(n, first, span, len(core)) for span in spans]
        # That its text stands somewhere proves nothing: the template may write the same itself.
        raise NotFoundError(unit.turn, "the template looks at it, so that it is not found")

    def _begin(self, n: int, run: Run, before: Run | None) -> int:
        """Find where in the rendering the characters begin that lie before a run's first."""
        text, real = self._units[n].text, self._real
        least = before.last + 1 if before is not None and before.last < run.first else 0
        room = min(
            run.first - least, run.begin - (before.end + 1 if before else 0), _MOST_EXTENSION
        )
        n_alike = _n_alike(text[run.first - room : run.first][::-1], real[: run.begin][::-1][:room])

        def is_there(back: int) -> bool:
            tried = self._tried({n: (run.first - back, None)})
            return tried is not None and any(e.at == run.begin - back for e in tried[0])

        is_whole = n_alike == run.first
        back = self._furthest(n, n_alike, is_there, text[: run.first][::-1], is_whole, "begins")
        return run.begin - back

    def _end(self, n: int, run: Run, behind: Run | None) -> int:
        """Find where in the rendering the characters end that lie behind a run's last."""
        text, real = self._units[n].text, self._real
        most = behind.first if behind is not None and behind.first > run.last else len(text)
        room = min(
            most - run.last - 1,
            (behind.begin if behind else len(real)) - run.end - 1,
            _MOST_EXTENSION,
        )
        rest = text[run.last + 1 :]
        n_alike = _n_alike(rest[:room], real[run.end + 1 : run.end + 1 + room])

        def is_there(on: int) -> bool:
            tried = self._tried({n: (None, run.last + 1 + on)})
            return tried is not None and any(e.at == run.end + 1 + on for e in tried[0])

        is_whole = n_alike == len(rest)
        return run.end + 1 + self._furthest(n, n_alike, is_there, rest, is_whole, "ends")

    def _furthest(
        self,
        n: int,
        most: int,
        is_there: Callable[[int], bool],
        way: str,
        is_whole: bool,
        what: str,
    ) -> int:
        """Say how many characters beyond a run are the content's; `is_there` holds up to that."""
        if not most or is_there(most):
            return most
        # What the template takes away and writes again, letter for letter, stands there none the
        # less: `<think>` of a content that it has split there.
        if is_whole and way.strip():
            return len(way.rstrip())
        if not is_there(0):
            raise NotFoundError(
                self._units[n].turn, f"the template looks at it, and where it {what} is not told"
            )
        low, high = 0, most  # holds, does not hold
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if is_there(middle) else (low, middle)
        return low


def _core(text: str) -> tuple[int, int] | None:
    """Give where a text without the spaces at its ends begins and ends; None where it is none."""
    core = text.strip()
    return (text.index(core), text.index(core) + len(core)) if core else None


def _run(unit: int, first: int, span: Span, n_characters: int) -> Run:
    """Give characters of a content, from `first` on, that stand at a place."""
    last = first + n_characters - 1
    return Run(unit=unit, first=first, last=last, begin=span[0], end=span[1] - 1)


def _by_unit(edges: Sequence[Edge], units: Iterable[int]) -> Iterable[tuple[int, list[Edge]]]:
    """Give the edges of some units, in the order of these."""
    own: dict[int, list[Edge]] = {n: [] for n in units}
    for edge in edges:
        if edge.unit in own:
            own[edge.unit].append(edge)
    return own.items()


def _paired(edges: Sequence[Edge], n: int) -> tuple[Span, ...] | None:
    """Give the places of a content from its marks; None where one is there without the other."""
    own = [edge for edge in edges if edge.unit == n]
    begins, ends = own[::2], own[1::2]
    if len(own) % 2 or any(e.is_end for e in begins) or not all(e.is_end for e in ends):
        return None
    pairs = zip(begins, ends, strict=True)
    return tuple((begin.at, end.at) for begin, end in pairs if begin.at < end.at)


def _is_written(text: str, there: str) -> bool:
    """Say whether a text stands there, as it is, as JSON spells it, or all large or small."""
    spelled = (text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1])
    return there in spelled or (len(there) == len(text) and there.lower() == text.lower())


def _n_alike(one: str, other: str) -> int:
    """Count the characters that two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return next(
        (n for n, (a, b) in enumerate(pairs) if a.lower() != b.lower()), min(len(one), len(other))
    )
