"""UserColumns: the values of the user's own beside the examples of a trace.

Knows how they lie in files; nothing of what they mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from functools import cached_property
from typing import Any

import numpy as np

from probekit import arguments
from probekit.errors import StoreError
from probekit.store import (
    TEXT,
    ColumnType,
    MappedRows,
    Scalar,
    column_path,
    missing_path,
    open_file,
    user_column_types,
)
from probekit.trace.columns.axistable import Texts
from probekit.trace.columns.opened import Opened
from probekit.wording import counted, one_of

Array = np.ndarray[Any, Any]


class UserColumns(Mapping[str, Array]):
    """The columns of the user's own: `trace.columns["label"]` is `[example]`.

    Values are int64, float64, bool, or objects that are texts. Where an example has none it is a
    `numpy.ma.MaskedArray` that hides the place.
    """

    def __init__(self, opened: Opened, examples: Sized) -> None:
        self._opened, self._examples = opened, examples
        self._readers: dict[str, Any] = {}  # by the path in the file: what reads rows

    def __reduce__(self) -> tuple[Any, ...]:
        return _columns_of, (self._opened,)

    def __getitem__(self, name: str) -> Array:
        return self.rows(name, slice(None))

    def __iter__(self) -> Iterator[str]:
        return iter(self.types)

    def __len__(self) -> int:
        return len(self.types)

    def __contains__(self, name: object) -> bool:
        return name in self.types

    def __repr__(self) -> str:
        said = ", ".join(f"{type.name}: {type.dtype}" for type in self.types.values())
        return f"<UserColumns {said or 'none'}>"

    @cached_property
    def types(self) -> Mapping[str, ColumnType]:
        """What each column holds, by its name."""
        with open_file(self._opened._file) as file:
            return {type.name: type for type in user_column_types(file)}

    def rows(self, name: str, key: Any) -> Array:
        """Give a column's values of some examples.

        Args:
            name: of the column.
            key: what numpy takes between brackets.

        Raises:
            StoreError: if there is no such column.
        """
        type = self._type(name)
        values = np.asarray(self._values(name)[key])
        if type.has_missing:
            return np.ma.MaskedArray(values, self._missing(name)[key])
        return values

    def of(self, example: int) -> dict[str, Scalar]:
        """Give the values of one example, None where it has none."""
        return {name: self.rows(name, slice(example, example + 1)).tolist()[0] for name in self}

    def _type(self, name: str) -> ColumnType:
        if arguments.text("a column", name) not in self.types:
            there = one_of(name, [*self.types]) if self.types else "the config keeps none"
            raise StoreError(f"{self._opened.path}: there is no column {name!r}; {there}")
        return self.types[name]

    def _values(self, name: str) -> Any:
        return self._reader(name, column_path(name), is_text=self.types[name].dtype == TEXT)

    def _missing(self, name: str) -> Any:
        return self._reader(name, missing_path(name))

    def _reader(self, name: str, path: str, *, is_text: bool = False) -> Any:
        """Give what reads rows of a dataset of a column; made once, and checked then."""
        if path not in self._readers:
            found = Texts(self._opened, path) if is_text else self._numbers(path)
            if len(found) != len(self._examples):
                raise StoreError(
                    f"{self._opened.path}: the column {name!r} has {counted(len(found), 'value')} "
                    f"for {counted(len(self._examples), 'example')}"
                )
            self._readers[path] = found
        return self._readers[path]

    def _numbers(self, path: str) -> MappedRows:
        def fit(found: MappedRows) -> None:
            if len(found.shape) != 1:
                what = f"{path} is {list(found.shape)}; expected a list"
                raise StoreError(f"{self._opened.path}: {what}")

        return self._opened._rows_at(path, fit=fit)


def _columns_of(opened: Any) -> Any:
    return opened.columns
