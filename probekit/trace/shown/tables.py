"""Notebook tables: how results look at a prompt and in a notebook.

Knows text and HTML, and nothing of what stands in a table. The HTML takes its colours from the page
around it, so that it reads on a light and on a dark one; it has no script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from probekit.trace.shown.characters import visible_token
from probekit.wording import counted

_ROWS_SHOWN = 40
_LINE = "1px solid rgba(128, 128, 128, 0.35)"
_LINES = "white-space: pre-line;"  # of several lines, each keeps its own
_CELL = "padding: 0.2em 0.7em; vertical-align: top;"
_MARK = "background: rgba(255, 176, 0, 0.4); color: inherit; border-radius: 0.2em;"


@dataclass(frozen=True, slots=True)
class Marked:
    """A token among its neighbours."""

    before: str
    token: str
    after: str

    def __str__(self) -> str:
        return visible_token(f"{self.before}«{self.token}»{self.after}")

    def html(self) -> str:
        """Give it as HTML, the token highlighted."""
        before, token, after = (
            escape(visible_token(t)) for t in (self.before, self.token, self.after)
        )
        return f'{before}<mark style="{_MARK}">{token}</mark>{after}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A title, columns of values, and a line below."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[object, ...]]  # [row][column]
    note: str = ""

    def text(self) -> str:
        """Lay the table out for a fixed-width font."""
        cells = [self.columns, *self.texts()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        right = self._right()
        lines = [
            "  ".join(
                cell.rjust(width) if numeric else cell.ljust(width)
                for cell, width, numeric in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in cells
        ]
        return "\n".join([self.title, *lines, *self.below()])

    def texts(self) -> list[tuple[str, ...]]:
        """Give the first rows, each value as it is written in a text."""
        return [tuple(map(_text, row)) for row in self.rows[:_ROWS_SHOWN]]

    def numeric(self) -> tuple[str, ...]:
        """Give the columns that hold numbers."""
        return tuple(c for c, right in zip(self.columns, self._right(), strict=True) if right)

    def below(self) -> tuple[str, ...]:
        """Give the lines under the table."""
        return tuple(line for line in (self._more(), self.note) if line)

    def html(self) -> str:
        """Lay the table out for a notebook."""
        aligned = ["right" if numeric else "left" for numeric in self._right()]
        head = "".join(
            f'<th style="{_CELL} text-align: {side}; border-bottom: {_LINE}">{escape(name)}</th>'
            for name, side in zip(self.columns, aligned, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="{_CELL} text-align: {side}">{_html(cell)}</td>'
                for cell, side in zip(row, aligned, strict=True)
            )
            + "</tr>"
            for row in self.rows[:_ROWS_SHOWN]
        )
        below = "\n".join(map(escape, self.below()))
        return (
            '<div style="font-size: 0.95em">'
            f'<div style="font-weight: 600; margin-bottom: 0.3em; {_LINES}">'
            f"{escape(self.title)}</div>"
            '<table style="border-collapse: collapse; font-variant-numeric: tabular-nums; '
            f'background: none"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
            f'<div style="opacity: 0.75; margin-top: 0.3em; {_LINES}">{below}</div></div>'
        )

    def _right(self) -> list[bool]:
        """Say which columns hold numbers."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.columns)
        return [
            any(isinstance(cell, int | float | np.number) for cell in column) for column in columns
        ]

    def _more(self) -> str:
        hidden = len(self.rows) - _ROWS_SHOWN
        return f"... and {counted(hidden, 'more row')}" if hidden > 0 else ""


class Shown:
    """What shows itself as a table: in text with `repr`, in a notebook as HTML."""

    __slots__ = ()

    def _table(self) -> Table:
        raise AssertionError(f"{type(self).__name__} has no table")

    def __repr__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()


def table_of(shown: Shown) -> Table:
    """Give what shows itself as a table as that table, for who lays it out otherwise."""
    return shown._table()


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float | np.floating):
        return "–" if np.isnan(cell) else f"{cell:.4g}"
    if isinstance(cell, int | np.integer) and not isinstance(cell, bool):
        return f"{cell:,}"
    return visible_token(str(cell))


def _html(cell: object) -> str:
    return cell.html() if isinstance(cell, Marked) else escape(_text(cell))
