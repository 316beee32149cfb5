"""Token owners: whose each token of a conversation is, by the characters that it covers.

Knows segments as they are sealed, four whole numbers each; nothing of tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from probekit.inputs.chats.segments import NOBODY, Rendered

Array = np.ndarray[Any, Any]

NO_ROLE = ""  # of what is nobody's
COLUMNS = 4  # whole numbers of a segment: its end, turn, role, whether it is content


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """Whose tokens are, `[token]`."""

    role: Array  # int16: number of a name
    turn: Array  # int32: number of a message; NOBODY
    is_content: Array  # bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The segments of one conversation."""

    rows: Array  # int32 [segment, COLUMNS]

    @classmethod
    def of(cls, chat: Rendered, numbers: dict[str, int]) -> Self:
        """Take a rendering's; `numbers` are those of roles, and gets what is new.

        Where a model goes on in the last turn, a last segment without characters says so.
        """

        def number(turn: int) -> int:
            name = NO_ROLE if turn == NOBODY else chat.roles[turn]
            return numbers.setdefault(name, len(numbers))

        rows = [(s.end, s.turn, number(s.turn), int(s.is_content)) for s in chat.segments]
        if chat.is_open:
            last = len(chat.roles) - 1
            rows.append((len(chat.text), last, number(last), 1))
        return cls(rows=np.array(rows, dtype="<i4").reshape(-1, COLUMNS))

    @property
    def begins(self) -> Array:
        """Where each begins."""
        return np.concatenate([[0], self.rows[:-1, 0]])

    @property
    def contents(self) -> Sequence[tuple[int, int, int, int]]:
        """Of each content its first character, the one behind its last, its turn and role."""
        there = (self.rows[:, 3] == 1) & (self.begins < self.rows[:, 0])
        found = zip(self.begins[there], *self.rows[there, :3].T, strict=True)
        return [(int(b), int(e), int(t), int(r)) for b, e, t, r in found]

    @property
    def goes_on(self) -> tuple[int, int, bool]:
        """Whose is what a model writes behind it: role, turn, whether it is content."""
        if len(self.rows) and self.begins[-1] == self.rows[-1, 0]:
            return int(self.rows[-1, 2]), int(self.rows[-1, 1]), True
        return 0, NOBODY, False

    def owners(self, starts: Array, ends: Array) -> Owners:
        """Say whose tokens are: content's where they share a character with one.

        A token of no characters is of those between it and what comes before: a tokenizer that
        trims its offsets gives spaces so.

        Args:
            starts: of each token its first character, int `[token]`.
            ends: the one behind its last.
        """
        rows, begins = self.rows, self.begins
        before = np.concatenate([[0], np.maximum.accumulate(ends)])[: len(starts)]
        starts = np.where((starts == ends) & (before < starts), before, starts)
        last = len(rows) - 1
        at = np.minimum(np.searchsorted(rows[:, 0], starts, side="right"), last)
        contents = np.flatnonzero((rows[:, 3] == 1) & (begins < rows[:, 0]))
        is_content = np.zeros(len(starts), dtype=bool)
        if len(contents):
            first = np.searchsorted(rows[contents, 0], starts, side="right")
            near = contents[np.minimum(first, len(contents) - 1)]
            is_content = (first < len(contents)) & (begins[near] < ends)
            at = np.where(is_content, near, at)
        return Owners(
            role=rows[at, 2].astype("<i2"), turn=rows[at, 1].astype("<i4"), is_content=is_content
        )
