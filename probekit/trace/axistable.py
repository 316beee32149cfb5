"""AxisTable: the columns of one axis of a trace, each read when it is asked for.

Knows how columns lie in files, and what is declared of them; nothing of what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from probekit.errors import StoreError
from probekit.store import (
    TEXT,
    Axis,
    Column,
    Segment,
    dataset_in,
    known_axes,
    open_file,
    segments_of,
    texts_in,
)
from probekit.trace.opened import Opened

Array = np.ndarray[Any, Any]

_TEXTS_READ = 1024


class AxisTable:
    """What a trace says of each row of an axis: `table.position`, `table.column("position")`.

    Columns of numbers are lazy arrays `[row]`, columns of texts are lazy too: `[key]` reads them.
    """

    def __init__(self, opened: Opened, axis: Axis, others: Callable[[str], AxisTable]) -> None:
        self._opened = opened
        self.axis = axis
        self._others = others  # gives the table of another axis

    def __reduce__(self) -> tuple[Any, ...]:
        return _table_of, (self._opened, self.axis.name)

    def __len__(self) -> int:
        first = self.axis.columns[0].name
        return len(self.column(first))

    def __getattr__(self, name: str) -> Any:
        axis = self.__dict__.get("axis")
        if axis is None or axis.column(name) is None:
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        return self.column(name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(column.name for column in self.axis.columns)]

    @cached_property
    def stored(self) -> tuple[Column, ...]:
        """The columns that the file has, in the order of their declaration."""
        return tuple(c for c in self.axis.columns if self._opened.has(self._path(c)))

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that can be read: those of the file, and those that have a default."""
        return tuple(c for c in self.axis.columns if c in self.stored or c.default is not None)

    @cached_property
    def _columns(self) -> dict[str, Any]:
        return {}

    def _path(self, column: Column) -> str:
        return f"{self.axis.table}/{column.name}"

    def column(self, name: str) -> Any:
        """Give a column.

        Raises:
            StoreError: if there is none of that name, or the trace was made without it.
        """
        if name not in self._columns:
            self._columns[name] = self._open(name)
        return self._columns[name]

    def _open(self, name: str) -> Any:
        column = self.axis.column(name)
        if column is None:
            known = ", ".join(column.name for column in self.axis.columns)
            raise StoreError(f"{self._opened.path}: {self.axis.table} have no {name}; {known}")
        if not self._opened.has(self._path(column)):
            if column.default is None:
                raise StoreError(
                    f"{self._opened.path}: was made without {self._path(column)} "
                    f"({column.means}; from {column.source})"
                )
            return np.broadcast_to(np.dtype(column.dtype).type(column.default), (len(self),))
        if column.dtype == TEXT:
            return Texts(self._opened, self._path(column))
        return self._opened.numbers(self._path(column), column.numbers)

    @cached_property
    def extents(self) -> tuple[Array, Array]:
        """Of each example its first row here, and how many it has, int64 `[example]`; checked."""
        (examples,) = (axis for axis in known_axes() if not axis.is_inner)
        first: Array = self._opened.numbers(f"{examples.table}/{self.axis.first}", self.axis.name)[
            :
        ]
        n_rows: Array = self._opened.numbers(f"{examples.table}/{self.axis.count}")[:]
        if len(n_rows) and n_rows.min() < 0:
            raise StoreError(
                f"{self._opened.path}: an example has {n_rows.min()} {self.axis.table}"
            )
        ends = np.cumsum(n_rows)
        whole = not len(ends) or int(ends[-1]) == len(self)
        if not whole or not np.array_equal(first, ends - n_rows):
            what = f"its examples and its {self.axis.table} do not fit together"
            raise StoreError(f"{self._opened.path}: {what}")
        return first, n_rows


def _table_of(opened: Any, axis: str) -> Any:
    return opened.table(axis)


class Texts:
    """A lazy column of texts: `[key]` gives one, or an array of objects `[row]`."""

    def __init__(self, opened: Opened, path: str) -> None:
        self._path = path
        with open_file(opened._file) as file:
            self._segments: tuple[Segment, ...] = segments_of(
                dataset_in(file, path, virtual=True), opened._file
            )

    def __len__(self) -> int:
        last = self._segments[-1] if self._segments else None
        return last.first_row + last.n_rows if last is not None else 0

    def __iter__(self) -> Iterator[str]:
        """Give every text in order, many at a time read: quicker than one by one."""
        for segment in self._segments:
            for begin in range(0, segment.n_rows, _TEXTS_READ):
                yield from self._read(segment, begin, min(begin + _TEXTS_READ, segment.n_rows))

    def __getitem__(self, key: Any) -> Any:
        numbers = np.arange(len(self))[key]
        found = np.empty(numbers.size, dtype=object)
        flat = numbers.reshape(-1)
        for segment in self._segments:
            local = flat - segment.first_row
            here = (local >= 0) & (local < segment.n_rows)
            if here.any():
                begin, end = int(local[here].min()), int(local[here].max()) + 1
                texts = np.array(self._read(segment, begin, end), dtype=object)
                found[here] = texts[local[here] - begin]
        return found[0] if numbers.ndim == 0 else found.reshape(numbers.shape)

    def _read(self, segment: Segment, begin: int, end: int) -> tuple[str, ...]:
        with open_file(segment.file) as file:
            texts = texts_in(file, self._path, slice(begin, end))
        if len(texts) != end - begin:
            raise StoreError(f"{segment.file}: {self._path} has fewer rows than the index says")
        return texts
