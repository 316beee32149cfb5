"""Tables that fit the terminal: names fold at dots and slashes, numbers and sizes never.

Knows text and widths; nothing of what stands in a table. Without a terminal a console is as wide as
it takes, and every row is one line. Where the columns cannot stand side by side, each row becomes a
block of lines.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

_GAP = 2
NUMBERS = ("sites", "bytes", "bytes/row", "rows", "calls", "bytes each")
_WHOLE = re.compile(
    r"\{[^{}\s]*\}|\[[\d, ]{0,24}\]|\d[\d,.]* [KMGT]?i?B\b"
)  # {0..31}, [32, 72], 1.5 MiB


def show_table(
    out: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[str] = NUMBERS,
) -> None:
    """Print a table; columns of numbers stand to the right and are never broken.

    Args:
        out: where.
        columns: their names.
        rows: a text for each column.
        right: which columns hold numbers.
    """
    cells = [tuple(columns), *(tuple(row) for row in rows)]
    numeric = [column in right for column in columns]
    widest = [max(cell_len(row[n]) for row in cells) for n in range(len(columns))]
    fitting = _fitting(cells, numeric, widest, out.width)
    if fitting is None:
        for row in rows:
            _show_block(out, columns, row)
        return
    for number, row in enumerate(cells):
        for line in _side_by_side(row, numeric, fitting):
            out.print(Text(line, style="" if number else "bold"), soft_wrap=True)


def folded(text: str, width: int) -> list[str]:
    """Fold text into lines no wider than so many cells, at blanks, dots, slashes and equal signs.

    Only a part that is wider itself is broken within.
    """
    lines, line = [], ""
    for piece in _pieces(text):
        if line and cell_len((line + piece).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
        if cell_len(line.rstrip()) > width:
            *whole, last = chop_cells(line.rstrip(), width)
            line = last + line[len(line.rstrip()) :]
            lines += whole
    return [*lines, line.rstrip()]


def _pieces(text: str) -> Iterator[str]:
    """Cut text behind each place where a line may end."""
    inside = {n for found in _WHOLE.finditer(text) for n in range(found.start() + 1, found.end())}
    begin = 0
    for at in range(1, len(text)):
        before, after = text[at - 1], text[at]
        in_name = before in "./" and (after.isalnum() or after in "{_")
        in_number = before == "." and text[at - 2 : at - 1].isdigit() and after.isdigit()
        ends = before == " " or (in_name and not in_number) or before + after == "=["
        if ends and at not in inside:
            yield text[begin:at]
            begin = at
    yield text[begin:]


def _fitting(
    cells: Sequence[Sequence[str]], numeric: Sequence[bool], widest: Sequence[int], width: int
) -> list[int] | None:
    """Give the columns' widths, the widest ones made narrower; None where that is not enough."""
    head, *rows = cells
    least = [max(cell_len(piece.rstrip()) for piece in _pieces(name)) for name in head]
    for row in rows:
        for n, text in enumerate(row):
            parts = [text] if numeric[n] else _pieces(text)
            least[n] = max(least[n], *(cell_len(part.rstrip()) for part in parts))
    widths = list(widest)
    while sum(widths) + _GAP * (len(widths) - 1) > width:
        loose = [n for n in range(len(widths)) if widths[n] > least[n]]
        if not loose:
            return None
        widths[max(loose, key=lambda n: widths[n])] -= 1
    return widths


def _side_by_side(
    row: Sequence[str], numeric: Sequence[bool], widths: Sequence[int]
) -> Iterator[str]:
    lines = [folded(text, width) for text, width in zip(row, widths, strict=True)]
    for n in range(max(map(len, lines))):
        parts = [
            _padded(cell[n] if n < len(cell) else "", width, right=right)
            for cell, width, right in zip(lines, widths, numeric, strict=True)
        ]
        yield (" " * _GAP).join(parts).rstrip()


def _padded(text: str, width: int, *, right: bool) -> str:
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks


def _show_block(out: Console, columns: Sequence[str], row: Sequence[str]) -> None:
    name, *rest = row
    for line in folded(name, out.width):
        out.print(Text(line, style="bold"), soft_wrap=True)
    for column, text in zip(columns[1:], rest, strict=True):
        if text:
            show_labelled(out, column, text, label_width=max(map(len, columns[1:])))


def show_labelled(out: Console, label: str, text: str, label_width: int) -> None:
    """Print a label and, beside it, a text that may take several lines."""
    indent = label_width + 2 * _GAP
    room = out.width - indent
    narrow = room < label_width
    if narrow:
        out.print(Text(f"  {label}"), soft_wrap=True)
        indent, room = 2 * _GAP, max(1, out.width - 2 * _GAP)
    lines = [part for line in text.split("\n") for part in folded(line, room)]
    for number, line in enumerate(lines):
        before = f"  {label}" if not number and not narrow else ""
        out.print(Text(f"{before:<{indent}}{line}"), soft_wrap=True)
