"""Tokens: the real tokens of a trace, one at a time or column by column.

Knows their table and the strings of a vocabulary; nothing of sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from probekit import arguments
from probekit.errors import StoreError
from probekit.store import EXAMPLE
from probekit.trace.columns import AxisTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One real token of an example."""

    row: int
    id: int
    text: str
    position: int  # in its example, from 0
    example: int
    step: int  # 0 for a text's own token, 1, 2, ... for generated ones
    role: str | None = None  # whose turn of a chat it is of, empty for nobody's; None: is no chat
    turn: int | None = None  # number of the message, -1 for nobody's
    is_content: bool | None = None  # whether it has a character of what was said
    document_position: int | None = None  # place in its document, -1 of a special token; None: the
    # examples are whole


class Tokens(AxisTable, Sequence[Token]):
    """The tokens of a trace; `id`, `position`, `example`, ... are lazy columns `[token]`."""

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[r] for r in range(*row.indices(len(self)))]
        row = arguments.whole("token", row)
        token_id, position, example = (
            int(column[row]) for column in (self.id, self.position, self.example)
        )
        row = int(row) % len(self)
        known = 0 <= example < len(self._others(EXAMPLE))
        first, n_tokens = self.extent(example) if known else (0, 0)
        if not 0 <= position < n_tokens or first + position != row:
            raise StoreError(
                f"{self._opened.path}: token {row} is said to be token {position} of example "
                f"{example}, which it is not"
            )
        return Token(
            row=row,
            id=token_id,
            text=self._opened.token_text(token_id),
            position=position,
            example=example,
            step=int(self.step[row]),
            document_position=(
                int(self.document_position[row]) if hasattr(self, "document_position") else None
            ),
            **self._of_chat(row),
        )

    def _of_chat(self, row: int) -> dict[str, Any]:
        if not hasattr(self, "role"):
            return {}
        return {
            "role": str(self.role[row]),
            "turn": int(self.turn[row]),
            "is_content": bool(self.is_content[row]),
        }
