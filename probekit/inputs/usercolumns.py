"""Columns of the user's own while examples are read: which there are, and of which type each is.

Knows values as sources hold them; nothing of texts and tokens. A type is of the whole run, so it is
known when the last example has been seen; until then values wait as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from probekit.arguments import plain
from probekit.config import ALL_COLUMNS
from probekit.errors import Fault
from probekit.store import BOOL, FLOAT, INT, TEXT, ColumnType, Scalar, UserColumn, wrong_name
from probekit.wording import near, shorten, show

_LOOKS = {  # of a cell of a .csv file; 007 is no number: it would come back as 7
    INT: re.compile(r"[+-]?(0|[1-9][0-9]{0,18})"),
    FLOAT: re.compile(
        r"[+-]?((0|[1-9][0-9]*)?\.[0-9]+([eE][+-]?[0-9]+)?|(0|[1-9][0-9]*)(\.|\.?[eE][+-]?[0-9]+)|inf)|nan",
        re.IGNORECASE,
    ),
    BOOL: re.compile(r"true|false", re.IGNORECASE),
}
_WORDS = {TEXT: "text", INT: "a whole number", FLOAT: "a number", BOOL: "true or false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which fields of a row are columns."""

    names: tuple[str, ...] | str  # or ALL_COLUMNS
    asked: tuple[str, ...] | str = ()  # those of them that `inputs.columns` names
    beside: tuple[str, ...] = ()  # fields that are something else: the text, the id
    is_spelled: bool = False  # values are text, as in a .csv file; their look says what they are
    is_alike: bool = False  # all rows must have the same fields, as examples in a config

    def of(self, row: Mapping[str, Any], where: str) -> Mapping[str, Any] | Fault:
        """Take the columns from a row."""
        if isinstance(self.names, str):
            return {name: value for name, value in row.items() if name not in self.beside}
        if lost := [name for name in self.names if name not in row]:
            there = ", ".join(map(str, row))
            meant = near(lost[0], [*map(str, row)])
            hint = f"did you mean {' or '.join(meant)}? " if meant else ""
            whose = "inputs.columns names" if lost[0] in self.asked else "positions look at"
            return Fault(
                where,
                f"there is no field {lost[0]!r}, which {whose}; {hint}there is: {there}. Write "
                "null where an example has no value",
            )
        return {name: row[name] for name in self.names}

    @property
    def leaves_out(self) -> bool:
        """Whether a field that is no column is left out, since nobody has named it."""
        return self.names == ALL_COLUMNS and not self.is_alike


@dataclass(slots=True)
class _Seen:
    """What has been seen of a column."""

    first: dict[str, str] = field(default_factory=dict)  # by type: where its first value stands
    n_values: int = 0  # missing ones aside
    long: str | None = None  # where a whole number stands that no float64 holds


class ColumnReading:
    """Columns while rows come by.

    Args:
        wanted: which there are.
        where: the place of the config's key.
    """

    def __init__(self, wanted: Wanted, where: str) -> None:
        self._wanted, self._where = wanted, where
        self._seen: dict[str, _Seen] = {}
        self._left_out: dict[str, str] = {}  # fields that no column can hold, and where
        self._n_rows = 0

    def add(self, row: Mapping[str, Any], where: str) -> bytes | Fault:
        """Note a row's values, and give them as they wait."""
        if self._wanted.is_alike and self._n_rows and (odd := row.keys() ^ self._seen.keys()):
            name = min(odd)
            whose = "has no" if name in self._seen else "is the first that has a"
            return Fault(where, f"{whose} {name!r}: all have the same, null where there is none")
        values: dict[str, Scalar] = {}
        for name, given in row.items():
            value = given if isinstance(given, str) else plain(given)  # datasets can give numpy's
            if value == "" and self._wanted.is_spelled:
                value = None
            kind = _kind_of(value, is_spelled=self._wanted.is_spelled)
            if kind is None and self._wanted.leaves_out:
                self._left_out.setdefault(str(name), where)
            elif kind is None:
                return Fault(where, _no_value(name, value))
            else:
                values[name] = value
                seen = self._seen.setdefault(name, _Seen())
                if value is not None and kind == INT and int(float(value)) != int(value):
                    seen.long = seen.long or where
                if value is not None:
                    seen.first.setdefault(kind, where)
                    seen.n_values += 1
        self._n_rows += 1
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()

    def types(self) -> tuple[ColumnType, ...]:
        """Give the columns, once every row has been seen.

        A field that anywhere holds what no column can is none.
        """
        return tuple(
            ColumnType(name=name, dtype=dtype, has_missing=seen.n_values < self._n_rows)
            for name, seen in self._seen.items()
            if name not in self._left_out and (dtype := self._dtype(seen)) is not None
        )

    def faults(self) -> Iterator[Fault]:
        """Say what is wrong with a column as a whole."""
        for name, seen in self._seen.items():
            if (wrong := wrong_name(name)) is not None:
                yield Fault(self._where, f"a column cannot be called {shorten(name)!r}: {wrong}")
            elif name not in self._left_out and self._dtype(seen) is None:
                said = " and ".join(f"{_WORDS[kind]} ({at})" for kind, at in seen.first.items())
                yield Fault(self._where, f"the column {name!r} holds {said}; give one kind")
            elif self._dtype(seen) == FLOAT and seen.long is not None:
                yield Fault(
                    seen.long,
                    f"the column {name!r} holds numbers with a point, beside which this whole "
                    "number would be rounded; write the column as text",
                )

    def notes(self) -> Iterator[str]:
        """Say what was left out."""
        if self._left_out:
            names, where = ", ".join(self._left_out), next(iter(self._left_out.values()))
            yield (
                f"{self._where}: {shorten(names, 200)} left out: a column holds texts, numbers, or "
                f"true and false, and nothing else (see {where})"
            )

    def _dtype(self, seen: _Seen) -> str | None:
        kinds = seen.first.keys()
        if kinds and kinds <= {INT, FLOAT}:
            return FLOAT if FLOAT in kinds else INT
        if len(kinds) > 1:
            return TEXT if self._wanted.is_spelled else None
        return next(iter(kinds), TEXT)


def columns_of(types: Iterable[ColumnType], rows: Sequence[bytes]) -> tuple[UserColumn, ...]:
    """Give columns over some examples, from their values as they waited."""
    parsed = [json.loads(row) for row in rows]
    return tuple(_column(type, [row.get(type.name) for row in parsed]) for type in types)


def _column(type: ColumnType, given: list[Scalar]) -> UserColumn:
    if type.dtype != TEXT:
        given = [_number(value) if isinstance(value, str) else value for value in given]
    return UserColumn.of(type, given)


def _number(cell: str) -> Scalar:
    """Read a cell of a .csv file whose column turned out to be no text."""
    if _LOOKS[BOOL].fullmatch(cell):
        return cell.lower() == "true"
    return int(cell) if _LOOKS[INT].fullmatch(cell) else float(cell)


def _kind_of(value: object, *, is_spelled: bool) -> str | None:
    """Name the type of a value; None where no column can hold it. A missing one suits any."""
    if value is None:
        return TEXT
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return INT if -(2**63) <= value < 2**63 else None
    if isinstance(value, float):
        return FLOAT
    if not isinstance(value, str) or not storable(value):
        return None
    return _look_of(value) if is_spelled else TEXT


def storable(text: str) -> bool:
    """Say whether HDF5 and a tokenizer can hold a text; JSON can spell what neither holds."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _look_of(cell: str) -> str:
    for dtype, look in _LOOKS.items():
        if look.fullmatch(cell) and (dtype != INT or -(2**63) <= int(cell) < 2**63):
            return dtype
    return TEXT


def _no_value(name: str, value: object) -> str:
    what = show(value)
    if isinstance(value, int):
        what = "a whole number of more than 64 bits"
    elif isinstance(value, str):
        what = "a text with a NUL character or a lone surrogate"
    return f"the field {name!r} is {what}; a column holds texts, numbers, true or false, or null"
