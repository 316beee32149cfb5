"""The sites of a trace as an xarray Dataset whose rows are read when they are used.

Knows xarray's protocol for lazy arrays, and which coordinates say what a row is. It needs xarray:
`Trace.to_xarray` is the door to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from probekit.handover.columnnames import beside_ours, names_of_ours
from probekit.store import (
    EXAMPLE,
    TEXT,
    TOKEN,
    Axes,
    ColumnType,
    dimension_names,
    is_choice,
    row_axis,
)
from probekit.trace import Patterns, choose_sites

if TYPE_CHECKING:
    from probekit.trace import AxisTable, Site, Trace

Array = np.ndarray[Any, Any]


class _Lazy(BackendArray):
    """An array that reads when it is indexed, as xarray's own backends have it.

    https://docs.xarray.dev/en/stable/internals/how-to-add-new-backend.html
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, read: Callable[[Any], Any]) -> None:
        self.shape, self.dtype, self._read = shape, np.dtype(dtype), read

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        # One array of numbers in a key means the same to numpy as to xarray; two do not.
        support = indexing.IndexingSupport.OUTER_1VECTOR
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._read)

    def variable(self, dims: tuple[str, ...], attributes: dict[str, Any] | None = None) -> Any:
        """Give a variable over this array; assigning to it makes a copy."""
        lazy: Any = indexing.LazilyIndexedArray(self)
        return xr.Variable(dims, indexing.CopyOnWriteArray(lazy), attributes)


class _Column:
    """A column of a table, by row."""

    def __init__(self, table: AxisTable, name: str) -> None:
        self._table, self._name = table, name

    def __call__(self, key: Any) -> Array:
        column: Array = self._table.column(self._name)[key]
        return column


class _Spelled:
    """The strings of a column of token ids, by row."""

    def __init__(self, trace: Trace, ids: _Column) -> None:
        self._trace, self._ids = trace, ids

    def __call__(self, key: Any) -> Array:
        ids = np.asarray(self._ids(key))
        texts = np.empty(ids.size, dtype=object)
        texts[:] = [self._trace.token_text(int(i)) for i in ids.reshape(-1)]
        return texts.reshape(ids.shape)


class _User:
    """A column of the user's own, by example or by token; NaN or None where there is no value."""

    def __init__(self, trace: Trace, type: ColumnType, owner: str | None) -> None:
        self._trace, self._name, self._owner = trace, type.name, owner
        gaps = float if type.has_missing else type.dtype  # numpy's own types have no gaps
        self.dtype = np.dtype(object if type.dtype == TEXT else gaps)

    def __call__(self, key: Any) -> Array:
        if self._owner is not None:
            key = np.asarray(self._trace.tokens.column(self._owner)[key])
        values = self._trace.columns.rows(self._name, key)
        if not isinstance(values, np.ma.MaskedArray):
            return values
        shown: Array = np.ma.getdata(values).astype(self.dtype)
        shown[np.ma.getmaskarray(values)] = None if self.dtype == object else np.nan
        return shown


def dataset_of(trace: Trace, patterns: Patterns | None) -> xr.Dataset:
    """Build the Dataset; see `Trace.to_xarray`."""
    sites = choose_sites(trace, patterns)
    names = dimension_names(
        [Axes(names=(row_axis(s.rows), *s.axes[1:]), sizes=s.shape) for s in sites]
    )
    variables = {
        site.name: _Lazy(site.shape, site[:0].dtype, site.__getitem__).variable(
            dims, site.attributes
        )
        for site, dims in zip(sites, names, strict=True)
    }
    tables = (_of_table(trace, table) for table in trace.tables)
    users = _of_users(trace, {*chain(*names)}) if trace.columns else ()
    coordinates = dict(chain(*tables, users, _chosen(sites)))
    return xr.Dataset(variables, attrs=trace.provenance).assign_coords(coordinates)


def _of_table(trace: Trace, table: AxisTable) -> Iterator[tuple[str, Any]]:
    axis, shape = table.axis.name, (len(table),)
    yield axis, pd.RangeIndex(*shape)
    for column in table.stored:
        values = _Column(table, column.name)
        dtype = object if column.dtype == TEXT else values(slice(0, 0)).dtype
        units = {"units": column.unit} if column.unit else {}
        said = {"long_name": column.means, **units}
        yield f"{axis}_{column.name}", _Lazy(shape, dtype, values).variable((axis,), said)
        if column.spelled is not None:
            texts = _Spelled(trace, values)
            yield f"{axis}_{column.spelled}", _Lazy(shape, object, texts).variable((axis,))


def _of_users(trace: Trace, dimensions: set[str]) -> Iterator[tuple[str, Any]]:
    """Give the user's columns along the examples, and along the tokens of each."""
    # Positions are dimensions, token_last: also where their sites are not in this Dataset.
    taken = dimensions | {row_axis(site.rows) for site in choose_sites(trace, None)}
    for axis, owner in ((EXAMPLE, None), (TOKEN, EXAMPLE)):
        before = f"{axis}_"
        ours = names_of_ours(trace.table(axis)) | {
            t.removeprefix(before) for t in taken if t.startswith(before)
        }
        for name, type in trace.columns.types.items():
            values = _User(trace, type, owner)
            shape = (len(trace.table(axis)),)
            label = before + beside_ours(name, "column_", ours)
            yield label, _Lazy(shape, values.dtype, values).variable((axis,))


def _chosen(sites: tuple[Site, ...]) -> Iterator[tuple[str, Any]]:
    """Give, for each choice of positions, the tokens that its rows are."""
    for site in sites:
        if is_choice(site.rows):
            yield row_axis(site.rows), site.axis_rows()
