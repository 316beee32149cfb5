"""Columns of the user's own: a value beside each example, of one type over a whole run.

Knows their types and how a file holds them: `/examples/columns/<name>`, and, for a column that
lacks values anywhere in the run, `/examples/missing/<name>`. Nothing of where values come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from probekit.errors import StoreError
from probekit.store.format.axes import AXES, EXAMPLE, TEXT
from probekit.store.format.nodes import names_in, node_in

Array = np.ndarray[Any, Any]
Scalar = str | int | float | bool | None

BOOL, INT, FLOAT = "bool", "int64", "float64"
USER_DTYPES = (TEXT, INT, FLOAT, BOOL)
_COLUMNS, _MISSING = (f"{AXES[EXAMPLE].table}/{group}" for group in ("columns", "missing"))
_NOTHING: Mapping[str, Any] = {TEXT: "", INT: 0, FLOAT: np.nan, BOOL: False}


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnType:
    """A column's name, and what its values are over a whole run."""

    name: str
    dtype: str  # of USER_DTYPES
    has_missing: bool  # whether an example of the run has no value


@dataclass(frozen=True, slots=True, kw_only=True)
class UserColumn:
    """A column over some examples."""

    type: ColumnType
    values: Array  # [example]: int64, float64, bool, or objects that are texts
    missing: Array | None  # bool [example], where `values` mean nothing; None if the run lacks none

    def value(self, example: int) -> Scalar:
        """Give the value of one of the examples; None where it has none."""
        if self.missing is not None and self.missing[example]:
            return None
        found: Scalar = self.values[example : example + 1].tolist()[0]
        return found

    @classmethod
    def of(cls, type: ColumnType, given: Sequence[Scalar]) -> UserColumn:
        """Build from values, None where there is none."""
        filled = [_NOTHING[type.dtype] if value is None else value for value in given]
        dtype = object if type.dtype == TEXT else type.dtype
        missing = np.array([value is None for value in given], dtype=bool)
        return cls(
            type=type,
            values=np.array(filled, dtype=dtype),
            missing=missing if type.has_missing else None,
        )


def wrong_name(name: str) -> str | None:
    """Say why a column cannot be called so; None if it can."""
    if not name or len(name) > 200 or not name.isprintable():
        return "expected a name of 1 to 200 characters that print"
    if "/" in name or name in (".", ".."):
        return "a name with / in it, . and .. mean something else to HDF5; rename the field"
    return None


def write_user_columns(file: h5py.File, columns: Sequence[UserColumn]) -> None:
    """Write columns into a file that holds the same examples."""
    for column in columns:
        said = {"axes": [EXAMPLE], "long_name": "value of the user's own"}
        is_text = column.type.dtype == TEXT
        made = file.create_dataset(
            f"{_COLUMNS}/{column.type.name}",
            data=column.values.tolist() if is_text else column.values,
            dtype=h5py.string_dtype() if is_text else column.type.dtype,
            shape=column.values.shape,
        )
        made.attrs.update(said)
        if column.missing is not None:
            made = file.create_dataset(f"{_MISSING}/{column.type.name}", data=column.missing)
            made.attrs.update({**said, "long_name": "whether the example has no such value"})


def user_datasets(file: h5py.File) -> Iterator[str]:
    """Give the paths of all that a file says of its user's columns."""
    for group in (_COLUMNS, _MISSING):
        node = node_in(file, group)
        for name in () if node is None else names_in(node, file):
            yield f"{group}/{name}"


def user_column_types(file: h5py.File) -> tuple[ColumnType, ...]:
    """Read which columns a file has, in the order of their names.

    Raises:
        StoreError: if one is of a type that is none of a column's.
    """
    group = node_in(file, _COLUMNS)
    found = []
    for name in () if group is None else names_in(group, file):
        dataset = node_in(file, column_path(name))
        dtype = None if not isinstance(dataset, h5py.Dataset) else _dtype_of(dataset)
        if dtype is None:
            raise StoreError(f"{file.filename}: {column_path(name)} is no column")
        has_missing = node_in(file, missing_path(name)) is not None
        found.append(ColumnType(name=name, dtype=dtype, has_missing=has_missing))
    return tuple(found)


def column_path(name: str) -> str:
    """Give the place of a column's values in a file."""
    return f"{_COLUMNS}/{name}"


def missing_path(name: str) -> str:
    """Give the place of what says which values a column lacks."""
    return f"{_MISSING}/{name}"


def _dtype_of(dataset: h5py.Dataset) -> str | None:
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return TEXT
    return str(dataset.dtype) if str(dataset.dtype) in USER_DTYPES else None
