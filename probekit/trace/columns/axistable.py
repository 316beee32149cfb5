"""AxisTable: the columns of one axis of a trace, each read when it is asked for.

Knows how columns lie in files, and what is declared of them; nothing of what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from typing import Any

import h5py
import numpy as np

from probekit import arguments
from probekit.errors import StoreError
from probekit.store import (
    NAMES,
    TEXT,
    Axis,
    Column,
    Segment,
    Segments,
    attributes_of,
    dataset_in,
    known_axes,
    names_in,
    node_in,
    open_file,
    segments_of,
    texts_in,
)
from probekit.trace.columns.opened import Opened, rows_of
from probekit.wording import counted

Array = np.ndarray[Any, Any]

_TEXTS_READ = 1024
_PARTS_KEPT = 64  # shards of which it is kept where the rows of each example lie


class _AbsentError(StoreError):
    """A column that other traces have."""


class _NoAttributeError(_AbsentError, AttributeError):
    """The same, asked for as an attribute: `hasattr` says no."""


class AxisTable:
    """What a trace says of each row of an axis: `table.position`, `table.column("position")`.

    Columns of numbers are lazy arrays `[row]`, columns of texts are lazy too: `[key]` reads them.
    """

    def __init__(self, opened: Opened, axis: Axis, others: Callable[[str], AxisTable]) -> None:
        self._opened = opened
        self.axis = axis
        self._others = others  # gives the table of another axis
        self._inner: dict[str, Any] = {}
        self._extents_in = lru_cache(_PARTS_KEPT)(self._extents_of)

    def __reduce__(self) -> tuple[Any, ...]:
        return _table_of, (self._opened, self.axis.name)

    def __repr__(self) -> str:
        said = counted(len(self), self.axis.name, self.axis.table)
        columns = ", ".join(column.name for column in self.columns)
        return f"<{type(self).__name__} of {self._opened.path}: {said}; columns {columns}>"

    def __len__(self) -> int:
        return self._n_rows

    @cached_property
    def _n_rows(self) -> int:
        return self._opened._parts_of(self.axis.whole).n_rows

    def __getattr__(self, name: str) -> Any:
        axis = self.__dict__.get("axis")
        if axis is None or axis.column(name) is None:
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        try:
            found = self.__dict__[name] = self.column(name)
        except _AbsentError as error:
            raise _NoAttributeError(str(error)) from error
        return found

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(column.name for column in self.columns)]

    @cached_property
    def stored(self) -> tuple[Column, ...]:
        """The columns that the file has, in the order of their declaration."""
        return tuple(c for c in self.axis.columns if self._opened.has(self._path(c.name)))

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that can be read: those of the file, and those that have a default."""
        return tuple(c for c in self.axis.columns if c in self.stored or c.default is not None)

    @property
    def undeclared(self) -> tuple[str, ...]:
        """Names of columns that the file has and this version does not know."""
        with open_file(self._opened._file) as file:
            table = node_in(file, self.axis.table)
            there = tuple(
                name
                for name in names_in(table, file)
                if not isinstance(node_in(file, self._path(name)), h5py.Group)
            )
        return tuple(name for name in there if self.axis.column(name) is None)

    def column(self, name: str) -> Any:
        """Give a column.

        Raises:
            StoreError: if there is none of that name, the trace was made without it, or it has
                more or fewer rows than others.
        """
        found = self._open(arguments.text("a column's name", name))
        if len(found) != len(self):
            what = f"{self._path(name)} has {counted(len(found), 'row')}, others have {len(self):,}"
            raise StoreError(f"{self._opened.path}: {what}")
        return self._opened._known_of(found, self.axis.whole)

    def _column(self, name: str) -> Any:
        """Give a column for rows that were found by their example, also where no other is known."""
        if name not in self._inner:
            self._inner[name] = self._open(name)
        return self._inner[name]

    def _path(self, name: str) -> str:
        return f"{self.axis.table}/{name}"

    def _open(self, name: str) -> Any:
        column = self.axis.column(name)
        if not self._opened.has(self._path(name)):
            return self._absent(name, column)
        if column is not None and column.is_named:
            return Names(self._opened, self._path(name))
        if self._is_text(name):
            return Texts(self._opened, self._path(name))
        numbers = None if column is None else column.numbers
        are_whole = column is None or np.dtype(column.dtype).kind != "f"
        return self._opened.numbers(self._path(name), numbers, are_whole=are_whole)

    def _absent(self, name: str, column: Column | None) -> Array:
        if column is None:
            known = ", ".join(column.name for column in self.axis.columns)
            raise StoreError(f"{self._opened.path}: {self.axis.table} have no {name}; {known}")
        if column.default is None:
            raise _AbsentError(
                f"{self._opened.path}: was made without {self._path(name)} "
                f"({column.means}; from {column.source})"
            )
        return np.broadcast_to(np.dtype(column.dtype).type(column.default), (len(self),))

    def _is_text(self, name: str) -> bool:
        column = self.axis.column(name)
        if column is not None:
            return column.dtype == TEXT
        with open_file(self._opened._file) as file:
            dtype = dataset_in(file, self._path(name), virtual=True).dtype
        return h5py.check_string_dtype(dtype) is not None

    @cached_property
    def extents(self) -> tuple[Array, Array]:
        """Of each example its first row here, and how many it has, int64 `[example]`; checked."""
        firsts, counts = self._extent_columns
        return self._fitting(firsts[:], counts[:], 0, len(self))

    def extent(self, example: int) -> tuple[int, int]:
        """Give an example's first row here, and how many it has; no shard but its own is read.

        Args:
            example: its number, 0 to how many there are.
        """
        parts = self._opened._parts_of(_examples().whole)
        part = parts.number(example)
        firsts, counts = self._extents_in(part)
        at = example - parts.starts[part]
        return int(firsts[at]), int(counts[at])

    def _extents_of(self, part: int) -> tuple[Array, Array]:
        """Give the same as `extents` of the examples in one file, checked against its rows."""
        segment: Segment = self._opened._parts_of(_examples().whole)[part]
        here = slice(segment.first_row, segment.first_row + segment.n_rows)
        firsts, counts = self._extent_columns
        begin, end = self._opened._parts_of(self.axis.whole).rows_in(str(segment.file))
        # Copies: a view of a map would keep its file open.
        return self._fitting(np.array(firsts[here]), np.array(counts[here]), begin, end)

    @cached_property
    def _extent_columns(self) -> tuple[Any, Any]:
        table, axis = _examples().table, self.axis
        firsts = self._opened.numbers(f"{table}/{axis.first}", axis.name)
        return firsts, self._opened.numbers(f"{table}/{axis.count}")

    def _fitting(self, first: Array, n_rows: Array, begin: int, end: int) -> tuple[Array, Array]:
        """Check where the rows of examples lie that have those from `begin` to `end`."""
        opened, axis = self._opened, self.axis
        if len(n_rows) and n_rows.min() < 0:
            raise StoreError(f"{opened.path}: an example has {n_rows.min()} {axis.table}")
        ends = begin + np.cumsum(n_rows)
        whole = not len(ends) or int(ends[-1]) == end
        if not whole or (end > begin and not np.array_equal(first, ends - n_rows)):
            what = f"its examples and its {axis.table} do not fit together"
            raise StoreError(f"{opened.path}: {what}")
        return first, n_rows


def _examples() -> Axis:
    return next(axis for axis in known_axes() if not axis.is_inner)


def _table_of(opened: Any, axis: str) -> Any:
    return opened.table(axis)


class Names:
    """A lazy column of names that the file numbers: `[key]` gives one, or an array of objects.

    `names` are all that there are, and `codes` is the column of their numbers.
    """

    dtype = np.dtype(object)

    def __init__(self, opened: Opened, path: str) -> None:
        with open_file(opened._file) as file:
            said = attributes_of(dataset_in(file, path, virtual=True)).get(NAMES, ())
        self.codes = opened.numbers(path)
        self._place = f"{opened.path}: {path}"
        if not isinstance(said, list | tuple) or not all(isinstance(name, str) for name in said):
            raise StoreError(f"{self._place} has no list of names")
        self.names = tuple(said)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [{len(self)}] of {', '.join(map(repr, self.names))}>"

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, key: Any) -> Any:
        codes = np.asarray(self.codes[key])
        if codes.size and not (codes.min() >= 0 and codes.max() < len(self.names)):
            raise StoreError(f"{self._place} numbers a name that it does not list")
        return np.array([*self.names, None], dtype=object)[codes]


class Texts:
    """A lazy column of texts: `[key]` gives one, or an array of objects `[row]`."""

    def __init__(self, opened: Opened, path: str) -> None:
        self._path = path
        self._segments = _segments(opened, path)
        self._n_rows = self._segments.n_rows

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [{self._n_rows}] {self._path}: [:] reads them>"

    def __len__(self) -> int:
        return self._n_rows

    def __iter__(self) -> Iterator[str]:
        """Give every text in order, many at a time read: quicker than one by one."""
        for number, segment in enumerate(self._segments):
            for begin in range(0, segment.n_rows, _TEXTS_READ):
                yield from self._read(number, begin, min(begin + _TEXTS_READ, segment.n_rows))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int) and -self._n_rows <= key < self._n_rows:
            row = key % self._n_rows
            number = self._segments.number(row)
            local = row - self._segments.starts[number]
            return self._read(number, local, local + 1)[0]
        numbers = np.arange(self._n_rows)[key]
        found = np.empty(numbers.size, dtype=object)
        flat = numbers.reshape(-1)
        owner = np.searchsorted(self._segments.firsts, flat, side="right") - 1
        for number in np.unique(owner).tolist():
            here = owner == number
            local = flat[here] - self._segments.starts[number]
            begin, end = int(local.min()), int(local.max()) + 1
            found[here] = np.array(self._read(number, begin, end), dtype=object)[local - begin]
        return found[0] if numbers.ndim == 0 else found.reshape(numbers.shape)

    def _read(self, number: int, begin: int, end: int) -> tuple[str, ...]:
        segment = self._segments.checked(number)
        with open_file(segment.file) as file:
            texts = texts_in(file, self._path, slice(begin, end))
        if len(texts) != end - begin:
            raise StoreError(f"{segment.file}: {self._path} has fewer rows than the index says")
        return texts


def _segments(opened: Opened, path: str) -> Segments:
    """Say where the rows of a column lie that no index holds itself."""
    if opened._shard_files is not None:
        return opened._parts_of(rows_of(path)).of(path)
    with open_file(opened._file) as file:
        return segments_of(dataset_in(file, path, virtual=True), opened._file)
