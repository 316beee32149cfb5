"""The sites of a trace as an xarray Dataset whose rows are read when they are used.

Knows xarray's protocol for lazy arrays, and which coordinates say what a row is. It needs xarray:
`Trace.to_xarray` is the door to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from probekit.store import ALL_TOKENS, PER_EXAMPLE, Axes, dimension_names, row_axis
from probekit.trace import Patterns, choose_sites

if TYPE_CHECKING:
    from probekit.trace import Site, Trace

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


class _TokenColumn:
    """A column of the tokens of a trace, by row."""

    def __init__(self, trace: Trace, name: str) -> None:
        self._trace, self._name = trace, name

    def __call__(self, key: Any) -> Array:
        column: Array = getattr(self._trace.tokens, self._name)[key]
        return column


class _TokenTexts:
    """The strings of the tokens of a trace, by row."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __call__(self, key: Any) -> Array:
        ids = np.asarray(self._trace.tokens.id[key])
        texts = np.empty(ids.size, dtype=object)
        texts[:] = [self._trace.token_text(int(i)) for i in ids.reshape(-1)]
        return texts.reshape(ids.shape)


class _ExampleStrings:
    """A column of strings of the examples of a trace, by number."""

    def __init__(self, trace: Trace, name: str) -> None:
        self._trace, self._name = trace, name

    def __call__(self, key: Any) -> Array:
        return self._trace.examples.strings(self._name, key)


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
    coordinates = {**dict(_of_tokens(trace)), **dict(_of_examples(trace)), **dict(_chosen(sites))}
    return xr.Dataset(variables, attrs=trace.provenance).assign_coords(coordinates)


def _of_tokens(trace: Trace) -> Iterator[tuple[str, Any]]:
    tokens, shape = trace.tokens, (len(trace.tokens),)
    yield "token", pd.RangeIndex(*shape)
    yield "token_text", _Lazy(shape, object, _TokenTexts(trace)).variable(("token",))
    columns = ("id", "position", "example", *(("step",) if trace._has("tokens/step") else ()))
    for name in columns:
        dtype, column = getattr(tokens, name).dtype, _TokenColumn(trace, name)
        yield f"token_{name}", _Lazy(shape, dtype, column).variable(("token",))


def _of_examples(trace: Trace) -> Iterator[tuple[str, Any]]:
    shape = (len(trace.examples),)
    yield "example", pd.RangeIndex(*shape)
    for name in ("id", "text"):
        strings = _ExampleStrings(trace, name)
        yield f"example_{name}", _Lazy(shape, object, strings).variable(("example",))
    yield "example_n_tokens", ("example", trace.examples.n_tokens)


def _chosen(sites: tuple[Site, ...]) -> Iterator[tuple[str, Any]]:
    """Give, for each choice of positions, the tokens that its rows are."""
    for site in sites:
        if site.rows not in (ALL_TOKENS, PER_EXAMPLE):
            yield row_axis(site.rows), site.token_rows()
