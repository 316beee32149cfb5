"""Rendered: a conversation as a model reads it, and whose each of its characters is; or why not.

Knows characters; nothing of templates and tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

NOBODY = -1  # the turn of what a template writes by itself before any message
ASSISTANT = "assistant"  # whose turn a generation prompt opens


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Characters of a rendering that belong together."""

    begin: int
    end: int  # the character behind the last one
    turn: int  # number of the message; NOBODY; of a generation prompt the one behind the last
    is_content: bool  # of a message, and not what the template writes around it


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A conversation that is not rendered, and why."""

    reason: str
    turn: int | None = None  # the message that it is about
    line: int | None = None  # of the template
    is_bound: bool = False  # it takes too much, as it may of every conversation

    def to_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Read it from plain JSON values, of which what is odd is left out."""
        turn, line = given.get("turn"), given.get("line")
        return cls(
            reason=str(given.get("reason")),
            turn=turn if isinstance(turn, int) else None,
            line=line if isinstance(line, int) else None,
            is_bound=given.get("is_bound") is True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A conversation as a template writes it."""

    text: str
    segments: tuple[Segment, ...]  # all characters, in order; none is empty
    roles: tuple[str, ...]  # of each turn
    is_open: bool = (
        False  # a model goes on in the last turn: a generation prompt, or a continued one
    )
    left_out: tuple[int, ...] = ()  # turns of whose content nothing is written

    @property
    def pieces(self) -> tuple[tuple[int, int, str, int], ...]:
        """Where contents stand: begin, end, role, turn."""
        return tuple(
            (s.begin, s.end, self.roles[s.turn], s.turn) for s in self.segments if s.is_content
        )

    def to_json(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {
            "text": self.text,
            "segments": [[s.begin, s.end, s.turn, s.is_content] for s in self.segments],
            "roles": list(self.roles),
            "is_open": self.is_open,
            "left_out": list(self.left_out),
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Read it from plain JSON values.

        Raises:
            ValueError: if they are none: they come from a process that ran a stranger's code.
        """
        text, roles = given["text"], given["roles"]
        plain = [(int(b), int(e), int(t), bool(c)) for b, e, t, c in given["segments"]]
        ends = [0, *(end for _, end, _, _ in plain)]
        fits = all(b == before < e for (b, e, _, _), before in zip(plain, ends, strict=False))
        if not isinstance(text, str) or not fits or ends[-1] != len(text):
            raise ValueError("its segments do not cover its text")
        if not all(NOBODY <= turn < len(roles) for _, _, turn, _ in plain):
            raise ValueError("a segment is of no turn")
        return cls(
            text=text,
            segments=tuple(Segment(begin=b, end=e, turn=t, is_content=c) for b, e, t, c in plain),
            roles=tuple(map(str, roles)),
            is_open=bool(given["is_open"]),
            left_out=tuple(map(int, given["left_out"])),
        )


def merged(owners: Iterable[tuple[int, int, int, bool]]) -> tuple[Segment, ...]:
    """Make segments of (begin, end, turn, is_content) in order; those that are alike become one."""
    found: list[list[Any]] = []
    for begin, end, turn, is_content in owners:
        if end <= begin:
            continue
        if found and found[-1][2:] == [turn, is_content] and not is_content:
            found[-1][1] = end
        else:
            found.append([begin, end, turn, is_content])
    return tuple(Segment(begin=b, end=e, turn=t, is_content=c) for b, e, t, c in found)


def overlapping(spans: Sequence[tuple[int, int]]) -> bool:
    """Say whether any of some spans in order share a character."""
    return any(one[1] > other[0] for one, other in pairwise(spans))
