"""Merging: a whole trace as one plain HDF5 file, the same tree without shards.

Knows which parts a trace has; rows are streamed, and no number is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from probekit import arguments
from probekit.errors import StoreError
from probekit.handover.newfile import Part, Watcher, new_file, refuse_full_disk, write_parts
from probekit.store import (
    ALIGNED,
    BOOKKEEPING,
    DTYPES,
    LIBVER,
    HDF5Out,
    column_path,
    create_rows,
    dataset_in,
    known_axes,
    missing_path,
    names_in,
    node_in,
    open_file,
    write_dimensions,
    write_execution,
    write_vocabulary,
)
from probekit.trace import Names, Patterns, choose_sites
from probekit.wording import one_of

if TYPE_CHECKING:
    from probekit.trace import Site, Trace

WIDER = ("float32",)  # what `dtype` may be
_SIXTEEN_BITS = ("bfloat16", "float16")
_OF_SHARDS = ("shard", "n_shards")  # attributes of no meaning here
_SAID_APART = ("self_check", "generate_")  # what of made.json goes along
_BLOCK = 1 << 13  # rows of a table at a time; texts can be long


def merge_trace(
    trace: Trace,
    path: Path,
    *,
    dtype: str | None,
    patterns: Patterns | None,
    overwrite: bool,
    watch: Watcher | None,
) -> None:
    """Write the file; see `Trace.merge`."""
    if dtype is not None and arguments.text("dtype", dtype) not in WIDER:
        raise StoreError(f"dtype: given {dtype!r}, {one_of(dtype, WIDER)}, or none: as stored")
    sites = choose_sites(trace, patterns)
    for site in sites:
        if site.dtype not in DTYPES:
            raise StoreError(f"{site.name}: is stored as {site.dtype}, which probekit never writes")
    if path.exists() and path.samefile(trace._file):
        raise StoreError(f"{path}: is the trace itself; give another name")
    with new_file(path, overwrite=overwrite) as part:
        parts = _lay_out(part, trace, sites, dtype)
        refuse_full_disk(path, sum(p.n_bytes for p in parts))
        write_parts(part, parts, watch)


def _lay_out(path: Path, trace: Trace, sites: tuple[Site, ...], dtype: str | None) -> list[Part]:
    """Write everything but the sites' rows, for which there is room."""
    # Inside of the other: a disk that is full is no fault of the file that is read.
    with HDF5Out(path, libver=LIBVER, **ALIGNED) as out, open_file(trace._file) as old:
        file = out.file
        of_shards = {*_OF_SHARDS, *(axis.first for axis in known_axes())}
        file.attrs.update({k: v for k, v in old.attrs.items() if k not in of_shards})
        apart = {k: v for k, v in trace.provenance.items() if k.startswith(_SAID_APART)}
        file.attrs.update(apart)
        for name, values, count in _columns(trace, old):
            _copy_column(file, name, values, count, dataset_in(old, name, virtual=True))
        parts = [
            _allocate(file, site, dtype, dataset_in(old, f"sites/{site.name}", virtual=True))
            for site in sites
        ]
        if trace.execution is not None:
            write_execution(file, trace.execution)
        if trace.vocabulary:
            with_bytes = node_in(old, "vocabulary_bytes") is not None
            write_vocabulary(file, trace.vocabulary.bytes, with_bytes=with_bytes)
        write_dimensions(file)
    return parts


def _columns(trace: Trace, old: h5py.File) -> Iterator[tuple[str, Any, int]]:
    """Give the tables' columns: name, what gives a slice of it, number of rows."""
    for table in trace.tables:
        for name in (*(column.name for column in table.stored), *table.undeclared):
            values = table.column(name)
            values = values.codes if isinstance(values, Names) else values
            yield f"{table.axis.table}/{name}", values, len(values)
    for name, type in trace.columns.types.items():
        values = trace.columns[name]
        yield column_path(name), np.ma.getdata(values), len(values)
        if type.has_missing:
            yield missing_path(name), np.ma.getmaskarray(values), len(values)
    choices = node_in(old, "rows")
    for choice in () if choices is None else names_in(choices, old):
        rows = trace.rows_of_choice(choice)
        yield f"rows/{choice}", rows, len(rows)


def _copy_column(file: h5py.File, name: str, values: Any, n_rows: int, old: h5py.Dataset) -> None:
    made = file.create_dataset(name, shape=(n_rows,), dtype=old.dtype)
    made.attrs.update({k: v for k, v in old.attrs.items() if k not in BOOKKEEPING})
    for begin in range(0, n_rows, _BLOCK):
        made[begin : begin + _BLOCK] = values[begin : begin + _BLOCK]


def _allocate(file: h5py.File, site: Site, dtype: str | None, old: h5py.Dataset) -> Part:
    """Make room for a site's rows in one piece."""
    stored = dtype if dtype is not None and site.dtype in _SIXTEEN_BITS else site.dtype
    attributes = {k: v for k, v in old.attrs.items() if k not in BOOKKEEPING}
    offset = create_rows(
        file, f"/sites/{site.name}", stored, site.shape, {**attributes, "dtype": stored}
    )
    return Part(rows=site, dtype=stored, offset=offset)
