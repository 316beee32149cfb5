"""MappedRows: one stored dataset, in one file or over many shards, read as if it were one array.

Knows segments and memory maps. A contiguous dataset's bytes lie at a known offset in its file, so
reading rows is slicing a map: no HDF5 call, no copy, safe after a fork. Compressed data goes
through h5py (chunked.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any, Never, Self

import h5py
import numpy as np

from probekit.errors import StoreError
from probekit.store.format import dataset_in, explained, schema
from probekit.store.reading.chunked import ChunkedRows, load_filters
from probekit.store.reading.files import open_file
from probekit.store.reading.gather import gather
from probekit.store.reading.rowkind import Kind, kind_of
from probekit.store.reading.segments import Segment, Segments, segments_of, shape_of
from probekit.wording import counted, numbered, values_of

Array = np.ndarray[Any, Any]
Key = Any  # what numpy takes between brackets
Maps = Callable[[str], Array]  # a file's path -> its bytes; a Path as key would take a microsecond

# A map holds a file descriptor for as long as it lives (Python before 3.13), and a process may have
# 1024 of them, 256 on macOS; the shards of one trace can be more.
_MAPS_KEPT = 64


def file_maps() -> Maps:
    """Give a function that maps whole files read-only; it keeps the maps that were used last."""
    return lru_cache(maxsize=_MAPS_KEPT)(_map_file)


def _map_file(path: str) -> Array:
    # A plain array over the map: slices of np.memmap pay for Python bookkeeping at every step.
    with explained(path, "read"):
        return np.asarray(np.memmap(path, np.uint8, "r"))


Fit = Callable[["MappedRows"], None]


class MappedRows:
    """A lazy array `[row, ...]`; indexing reads only the rows asked for and gives numpy.

    It takes what a numpy array takes between brackets. bfloat16 comes widened to float32, which is
    exact; `raw` gives the stored bits.

    Args:
        dataset: found in the file at `path`.
        path: of that file; virtual datasets are followed below its folder only.
        maps: from `file_maps`, shared by all that read the same files.
        less: is subtracted from every value: a lone shard counts from the run's start.
    """

    def __init__(
        self, dataset: h5py.Dataset, path: Path, maps: Maps | None = None, *, less: int = 0
    ) -> None:
        self._begin(segments_of(dataset, path), path, maps, less)
        self._be(kind_of(dataset, tuple(dataset.shape), path))

    @classmethod
    def told(
        cls,
        segments: Segments,
        path: Path,
        maps: Maps | None = None,
        *,
        less: int = 0,
        row_shape: tuple[int, ...] | None = None,
        dtype: str | None = None,
        fit: Fit | None = None,
    ) -> Self:
        """Open rows of which an index says where they lie; what they are is seen in their files.

        Args:
            segments: where.
            path: of the index.
            maps: see the class.
            less: see the class.
            row_shape: of a row, where the index says it.
            dtype: as stored, where the index says it; one of `schema.DTYPES`.
            fit: told the rows once it is known what they are; raises what it has against them.
        """
        made = cls.__new__(cls)
        made._begin(segments, path, maps, less)
        made._fit = fit
        if row_shape is not None and dtype is not None and dtype in schema.DTYPES:
            storage = schema.DTYPES[dtype].storage
            made._be(Kind(row_shape=row_shape, dtype=dtype, storage=storage))
        return made

    def _begin(self, segments: Segments, path: Path, maps: Maps | None, less: int) -> None:
        self._segments, self._path = segments, path
        self._starts = segments.starts
        self._maps = maps or file_maps()
        self._less = less
        self._kind: Kind | None = None
        self._fit: Fit | None = None
        self._places: dict[int, tuple[int | None, tuple[int, ...]]] = {}  # offset, shape

    def _be(self, kind: Kind) -> None:
        """Take note of what the rows are."""
        self._kind = kind
        try:
            if self._fit is not None:
                self._fit(self)
        except StoreError:
            self._kind = None  # or a second look would find nothing wrong
            raise

    def _known(self) -> Kind:
        """Say what the rows are; where no file of theirs was opened yet, the index is asked."""
        if self._kind is None:
            with open_file(self._path) as file:
                dataset = dataset_in(file, self._segments.dataset, virtual=True)
                shape = shape_of(dataset, self._segments, self._path)
                self._be(kind_of(dataset, shape, self._path))
        assert self._kind is not None
        return self._kind

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return (self._starts[-1], *self._known().row_shape)

    @cached_property
    def dtype(self) -> str:
        """As stored, "bfloat16" among them."""
        return self._known().dtype

    @cached_property
    def storage(self) -> np.dtype[Any]:
        """The numpy dtype of the stored bits."""
        return self._known().storage

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {list(self.shape)} {self.dtype}: [:] reads them>"

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, key: Key) -> Any:
        values = self.raw(key)
        if self.dtype == "bfloat16":
            values = schema.widen(values, self.dtype)
        if self._less:  # in 64 bits, whatever a stranger's column has and says the start is
            values = np.subtract(values, self._less, dtype=np.int64, casting="unsafe")
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        whole = self[:]
        is_new = whole.flags.writeable  # the map itself is read-only
        if copy is False and is_new:
            raise ValueError(
                f"{self.dtype} rows in {counted(len(self._segments), 'file')} cannot be had "
                "without a copy"
            )
        return np.array(whole, dtype=dtype, copy=None if is_new else copy)

    def raw(self, key: Key) -> Any:
        """Index like `[]`, giving the stored bits: uint16 for bfloat16."""
        if type(key) is slice and (key.step is None or key.step == 1):
            begin, stop, _ = key.indices(len(self))
            if begin < stop and (run := self._run(begin, stop)) is not None:
                return run
        if type(key) is int and -len(self) <= key < len(self):
            return self._lone(key % len(self), ())
        rows, rest = self._parted(key)
        if isinstance(rows, slice):
            return self._slice(rows, rest)
        if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
            least, most = int(rows.min()), int(rows.max())
            said = (
                f"row {least} of {len(self):,} is"
                if least == most
                else (f"rows {least} to {most} of {len(self):,} are")
            )
            raise IndexError(f"{said} out of range: {numbered(len(self))}")
        rows = np.where(rows < 0, rows + len(self), rows)
        if rows.ndim == 0:
            return self._lone(int(rows), rest)
        return self._scattered(rows, rest)

    @property
    def segments(self) -> Segments:
        """The files that the rows lie in, first rows first."""
        return self._segments

    def place(self) -> tuple[Path, int] | None:
        """Give the file and the offset of all rows, or None when they do not lie in one piece."""
        if len(self._segments) != 1 or not prod(self.shape):
            return None
        file, offset = self._segments[0].file, self._offset(0)
        if offset is None:
            return None
        if offset + len(self) * self._known().row_bytes > file.stat().st_size:
            _refuse_short(self._segments[0])
        return file, offset

    @property
    def is_mapped(self) -> bool:
        """Whether rows lie in their files as they are, and are not compressed."""
        return self._offset(0) is not None  # all segments are of one run

    def extents(self, begin: int, end: int) -> Iterator[tuple[Path, int, int]]:
        """Give where mapped rows lie in their files: file, offset and size in bytes."""
        row_bytes = self._known().row_bytes
        for number in range(max(0, self._number(begin)), len(self._segments)):
            segment = self._segments[number]
            first = max(begin, segment.first_row) - segment.first_row
            n_rows = min(end - segment.first_row, segment.n_rows) - first
            if n_rows <= 0:
                return
            offset = self._offset(number)
            if offset is not None:
                yield segment.file, offset + first * row_bytes, n_rows * row_bytes

    def _parted(self, key: Key) -> tuple[slice | Array, tuple[Any, ...]]:
        """Part a key into what picks rows, a slice or integers, and what picks inside of them."""
        parts = key if isinstance(key, tuple) else (key,)
        if parts and parts[0] is Ellipsis:
            given = sum(_n_axes(part) for part in parts[1:])
            parts = parts[1:] if given == len(self.shape) else (slice(None), *parts)
        first, rest = (parts[0], parts[1:]) if parts else (slice(None), ())
        if isinstance(first, slice):
            return first, () if len(rest) == 1 and rest[0] is Ellipsis else rest
        if first is None or isinstance(first, bool | np.bool_):
            raise IndexError(f"{first} cannot pick rows; read them first: rows[:][{first}]")
        rows = np.asarray(first)
        if rows.dtype == bool:
            if rows.shape != self.shape[: rows.ndim]:
                raise IndexError(f"a mask of {rows.shape} does not fit {self.shape}")
            rows, *more = rows.nonzero()
            rest = (*more, *rest)
        if rows.size and not np.issubdtype(rows.dtype, np.integer):
            raise IndexError(
                f"rows are picked by whole numbers, given {values_of(rows.dtype.kind)}"
            )
        return rows.astype(np.intp), rest

    def _number(self, row: int) -> int:
        return self._segments.number(row)

    def _offset(self, number: int) -> int | None:
        return self._place(number)[0]

    def _place(self, number: int) -> tuple[int | None, tuple[int, ...]]:
        """Give where a segment's rows begin in its file, None for compressed ones, and a shape."""
        found = self._places.get(number)
        if found is None:
            found = self._places[number] = self._located(number)
        return found

    def _located(self, number: int) -> tuple[int | None, tuple[int, ...]]:
        segment = self._segments.checked(number)
        with open_file(segment.file) as file:
            dataset = dataset_in(file, segment.dataset)
            place = f"{segment.file}: {segment.dataset}"
            if self._kind is None:
                self._be(kind_of(dataset, dataset.shape, segment.file))
            kind = self._known()
            shape = (segment.n_rows, *kind.row_shape)
            if dataset.shape != shape or schema.dtype_of(dataset) != kind.dtype:
                raise StoreError(
                    f"{place} is {list(dataset.shape)} {schema.dtype_of(dataset)}; "
                    f"the index says {list(shape)} {kind.dtype}"
                )
            offset: int | None = dataset.id.get_offset()
            if not prod(shape):
                return 0, shape
            if offset is None:
                load_filters(dataset)
            return offset, shape

    def _source(self, number: int) -> Array | ChunkedRows:
        offset, shape = self._place(number)
        kind = self._kind
        assert kind is not None  # a segment was located
        if offset is None:
            return ChunkedRows(self._segments[number], kind.storage, shape)
        whole = self._maps(self._segments.files[number])
        # Beyond the end of a mapped file lies not an exception but the end of the process.
        if offset + shape[0] * kind.row_bytes > len(whole):
            _refuse_short(self._segments[number])
        return np.ndarray(shape, kind.storage, whole, offset)

    def _run(self, begin: int, stop: int) -> Array | None:
        """Give the rows from `begin` to `stop`, at least one, if one segment holds them all."""
        number = self._segments.number(begin)
        first = self._starts[number]
        if stop > self._starts[number + 1]:
            return None
        return self._source(number)[begin - first : stop - first]

    def _lone(self, row: int, rest: tuple[Any, ...]) -> Any:
        number = self._segments.number(row)
        local = row - self._starts[number]
        # A copy: a lone row is small, and as a view it would keep its whole file open.
        return self._source(number)[local : local + 1][(0, *rest)].copy()

    def _slice(self, rows: slice, rest: tuple[Any, ...]) -> Array:
        span = range(len(self))[rows]
        order = slice(None, None, -1 if span.step < 0 else 1)
        begin, stop, step = span[order].start, span[order].stop, span[order].step
        # Several arrays inside of the rows may move the axis of the rows: join the pieces first.
        picks = [p for p in rest if not (p is None or p is Ellipsis or isinstance(p, slice))]
        early = () if len(picks) > 1 and any(np.ndim(p) for p in picks) else rest
        whole: Array | None = None  # of many pieces: filled as they are read
        n_filled, pieces = 0, []
        for number in range(max(0, self._number(begin)), len(self._segments)):
            start = self._starts[number]
            if start >= stop:
                break
            end = min(stop, self._starts[number + 1])
            first = begin + max(0, -(-(start - begin) // step)) * step
            if first < end:
                piece = self._source(number)[first - start : end - start]
                pieces.append(piece[(slice(None, None, step), *early)])
            if len(pieces) == _MAPS_KEPT:  # each keeps its file open: what was read is copied
                if whole is None:
                    whole = np.empty((len(span), *pieces[0].shape[1:]), dtype=pieces[0].dtype)
                n_filled, pieces = _filled(whole, n_filled, pieces), []
        if whole is not None:
            _filled(whole, n_filled, pieces)
        elif not pieces:
            whole = np.empty((0, *self.shape[1:]), dtype=self.storage)[(slice(None), *early)]
        else:
            whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return whole[order] if early else whole[(order, *rest)]

    def _scattered(self, rows: Array, rest: tuple[Any, ...]) -> Array:
        firsts = self._segments.firsts
        owner = np.searchsorted(firsts, rows, side="right") - 1
        local = rows - firsts[owner]
        used = np.flatnonzero(np.bincount(owner.reshape(-1))).tolist()
        if len(used) == 1 and isinstance(source := self._source(used[0]), np.ndarray):
            taken: Array = source[(local, *rest)]
            return taken
        taken = self._taken(used, owner.reshape(-1), local.reshape(-1))
        if not rest:
            return taken.reshape(*rows.shape, *self.shape[1:])
        picked: Array = taken[(np.arange(rows.size).reshape(rows.shape), *rest)]
        return picked

    def _taken(self, used: list[int], owner: Array, local: Array) -> Array:
        """Take single rows out of the segments in use, with a bounded number of maps at a time."""
        if len(used) > _MAPS_KEPT:
            taken: Array = np.empty((len(local), *self.shape[1:]), dtype=self.storage)
            for first in range(0, len(used), _MAPS_KEPT):
                part = used[first : first + _MAPS_KEPT]
                here = np.isin(owner, part)
                taken[here] = self._taken(part, owner[here], local[here])
            return taken
        sources = {number: self._source(number) for number in used}
        return gather(sources, owner, local, row_shape=self.shape[1:], dtype=self.storage)


def _n_axes(part: Any) -> int:
    """Count the axes that one part of a key takes up."""
    if part is None:
        return 0
    mask = not isinstance(part, slice) and np.asarray(part).dtype == bool
    return np.ndim(part) if mask else 1


def _refuse_short(segment: Segment) -> Never:
    raise StoreError(f"{segment.file}: {segment.dataset} reaches past the end of the file")


def _filled(whole: Array, n_filled: int, pieces: list[Array]) -> int:
    """Copy pieces behind what is filled; say how much is filled then."""
    for piece in pieces:
        whole[n_filled : n_filled + len(piece)] = piece
        n_filled += len(piece)
    return n_filled
