"""MappedRows: one stored dataset, in one file or over many shards, read as if it were one array.

Knows segments and memory maps. A contiguous dataset's bytes lie at a known offset in its file, so
reading rows is slicing a map: no HDF5 call, no copy, safe after a fork. Compressed data goes through
h5py, raw (HDF5's own conversion of bfloat16 runs at 14 MB/s).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from probekit import schema
from probekit.errors import StoreError

Array = np.ndarray[Any, Any]
Key = Any  # what numpy takes between brackets


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive rows of a dataset that lie in one file."""

    file: Path
    dataset: str  # the path inside the file
    first_row: int
    n_rows: int


def open_file(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Without locking: locks fail on some network file systems, and what is sealed never changes.
    """
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        reason = "there is no such file" if not path.exists() else f"it is not whole HDF5: {error}"
        raise StoreError(f"{path}: cannot be opened: {reason}") from error


def segments_of(dataset: h5py.Dataset, path: Path) -> tuple[Segment, ...]:
    """Give the segments of a dataset that was found in the file at `path`.

    Raises:
        StoreError: if a virtual dataset points outside the trace's folder.
    """
    if not dataset.is_virtual:
        return (Segment(file=path, dataset=dataset.name, first_row=0, n_rows=len(dataset)),)
    folder = path.parent.resolve()
    found = []
    for source in dataset.virtual_sources():
        file = (folder / source.file_name).resolve()
        if folder not in file.parents:
            raise StoreError(f"{path}: {dataset.name} points outside the trace: {source.file_name}")
        begin, end = source.vspace.get_select_bounds()
        found.append(
            Segment(
                file=file,
                dataset=source.dset_name,
                first_row=int(begin[0]),
                n_rows=int(end[0] - begin[0] + 1),
            )
        )
    return tuple(sorted(found, key=lambda s: s.first_row))


class MappedRows:
    """A lazy array `[row, ...]`; indexing reads only the rows asked for and gives numpy.

    bfloat16 comes widened to float32, which is exact; `raw` gives the stored bits.
    """

    def __init__(self, dataset: h5py.Dataset, path: Path) -> None:
        self.shape: tuple[int, ...] = tuple(dataset.shape)
        self.dtype = schema.dtype_of(dataset)
        self._segments = segments_of(dataset, path)
        self._starts = [s.first_row for s in self._segments]
        self._sources: dict[int, Array | _H5Rows] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Key) -> Any:
        return schema.widen(self.raw(key), self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        whole: Array = self[:]
        return whole if dtype is None else whole.astype(dtype)

    @cached_property
    def storage(self) -> np.dtype[Any]:
        """The numpy dtype of the stored bytes."""
        known = schema.DTYPES.get(self.dtype)
        return known.storage if known else np.dtype(self.dtype)

    def raw(self, key: Key) -> Any:
        """Index like `[]`, giving the stored bits: uint16 for bfloat16."""
        rows, rest = (key[0], key[1:]) if isinstance(key, tuple) and key else (key, ())
        if rows is Ellipsis:
            rows, rest = slice(None), ((Ellipsis, *rest) if rest else ())
        if isinstance(rows, slice):
            return self._slice(rows, rest)
        if isinstance(rows, int | np.integer):
            return self._slice(slice(self._row(int(rows)), self._row(int(rows)) + 1), rest)[0]
        return self._scattered(np.asarray(rows), rest)

    def segment_of(self, row: int) -> tuple[Segment, int]:
        """Give the segment that holds a row, and the row's number inside it."""
        segment = self._segments[self._number(row)]
        return segment, row - segment.first_row

    def writable_map(self) -> Array | None:
        """Map the dataset privately (copy on write) when it lies in one piece in one file.

        torch wants writable memory; what is written there reaches neither the file nor others.
        """
        if len(self._segments) != 1:
            return None
        mapped = _map(self._segments[0], self.storage, mode="c")
        return mapped if isinstance(mapped, np.ndarray) else None

    def _row(self, row: int) -> int:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} is out of range: there are {len(self)}")
        return row % len(self)

    def _number(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def _source(self, number: int) -> Array | _H5Rows:
        if number not in self._sources:
            self._sources[number] = _map(self._segments[number], self.storage, mode="r")
        return self._sources[number]

    def _slice(self, rows: slice, rest: tuple[Any, ...]) -> Array:
        begin, stop, step = rows.indices(len(self))
        if step < 0:
            return self._scattered(np.arange(begin, stop, step), rest)
        pieces = []
        for number, segment in enumerate(self._segments):
            end = segment.first_row + segment.n_rows
            first = begin + max(0, -(-(segment.first_row - begin) // step)) * step
            if first < min(stop, end):
                inside = slice(first - segment.first_row, min(stop, end) - segment.first_row, step)
                pieces.append(self._source(number)[inside][(slice(None), *rest)])
        if not pieces:
            return np.empty((0, *self.shape[1:]), dtype=self.storage)[(slice(None), *rest)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _scattered(self, rows: Array, rest: tuple[Any, ...]) -> Array:
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"a mask of {rows.shape} does not fit {len(self)} rows")
            rows = np.flatnonzero(rows)
        if rows.size and (rows.min() < -len(self) or rows.max() >= len(self)):
            raise IndexError(f"rows reach from {rows.min()} to {rows.max()}; there are {len(self)}")
        rows = np.where(rows < 0, rows + len(self), rows).astype(np.intp)
        if len(self._segments) == 1:
            taken: Array = self._source(0)[rows]
        else:
            taken = np.empty((*rows.shape, *self.shape[1:]), dtype=self.storage)
            owner = np.searchsorted(self._starts, rows, side="right") - 1
            for number in np.unique(owner):
                here = owner == number
                local = rows[here] - self._starts[number]
                taken[here] = self._source(int(number))[local]
        return taken[(*(slice(None),) * rows.ndim, *rest)]


def _map(segment: Segment, storage: np.dtype[Any], mode: Any) -> Array | _H5Rows:
    with open_file(segment.file) as file:
        dataset = file[segment.dataset]
        if 0 in dataset.shape:
            return np.empty(dataset.shape, dtype=storage)
        offset = dataset.id.get_offset()
        if offset is None:
            return _H5Rows(segment, storage, tuple(dataset.shape))
        size = int(np.prod(dataset.shape)) * storage.itemsize
        if dataset.id.get_type().get_size() != storage.itemsize:
            raise StoreError(f"{segment.file}: {segment.dataset} has another dtype than the index")
        if offset + size > segment.file.stat().st_size:
            raise StoreError(f"{segment.file}: {segment.dataset} reaches past the end of the file")
        mapped = np.memmap(segment.file, storage, mode, offset, tuple(dataset.shape))
    # A plain array over the map: slices of np.memmap pay for Python bookkeeping at every step.
    return np.asarray(mapped)


class _H5Rows:
    """Rows of a chunked dataset, read through h5py as stored bits."""

    def __init__(self, segment: Segment, storage: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._segment = segment
        self._storage = storage
        self._shape = shape

    def __getitem__(self, rows: slice | Array) -> Array:
        numbers = np.arange(self._shape[0])[rows]
        wanted, back = np.unique(numbers, return_inverse=True)
        with open_file(self._segment.file) as file:
            return self._read(file[self._segment.dataset], wanted)[back.reshape(numbers.shape)]

    def _read(self, dataset: h5py.Dataset, rows: Array) -> Array:
        buffer = np.empty((len(rows), *self._shape[1:]), dtype=self._storage)
        space = dataset.id.get_space()
        space.select_none()
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        for run in np.split(rows, breaks):
            if len(run):
                start = (int(run[0]), *(0 for _ in self._shape[1:]))
                space.select_hyperslab(start, (len(run), *self._shape[1:]), op=h5py.h5s.SELECT_OR)
        if len(rows):
            dataset.id.read(
                h5py.h5s.create_simple(buffer.shape), space, buffer, mtype=dataset.id.get_type()
            )
        return buffer
