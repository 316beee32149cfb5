"""Segments: which files the rows of a dataset lie in.

Knows virtual datasets, which it follows below the trace's own folder only, and an index' own table
of its shards, by which no virtual dataset need be opened.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from probekit.errors import StoreError
from probekit.store.format import SHARDS_FOLDER, ShardRows
from probekit.wording import counted

Array = np.ndarray[Any, Any]

UNSEALED = ".unsealed"  # the ending of a shard's name as long as it is not there


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive rows of a dataset that lie in one file."""

    file: Path
    dataset: str  # the path inside the file
    first_row: int
    n_rows: int


class Segments(Sequence[Segment]):
    """All segments of a dataset, first rows first.

    Args:
        dataset: the path inside each file.
        files: in which rows lie.
        starts: the first row of each, and behind them how many rows there are in all.
        look: told a file before it is opened for the first time, where nobody has looked at it;
            raises what it has against it.
    """

    def __init__(
        self,
        dataset: str,
        files: Sequence[str],
        starts: Sequence[int],
        look: Callable[[Path], None] | None = None,
    ) -> None:
        self.dataset, self.files, self.starts = dataset, files, starts
        self._look = look

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        return Segment(
            file=Path(self.files[number]),
            dataset=self.dataset,
            first_row=self.starts[number],
            n_rows=self.starts[number + 1] - self.starts[number],
        )

    def __iter__(self) -> Iterator[Segment]:
        return (self[number] for number in range(len(self)))

    @property
    def n_rows(self) -> int:
        """Rows of all segments."""
        return self.starts[-1]

    @cached_property
    def firsts(self) -> Array:
        """The first row of each, int64 `[segment]`."""
        return np.array(self.starts[:-1], dtype=np.intp)

    def number(self, row: int) -> int:
        """Say which segment a row lies in."""
        return bisect_right(self.starts, row) - 1

    def of(self, dataset: str) -> Segments:
        """Give the same segments of another dataset."""
        return Segments(dataset, self.files, self.starts, self._look)

    def rows_in(self, file: str) -> tuple[int, int]:
        """Give the first row in a file, and the row behind the last; none where it holds none."""
        number = self._numbers.get(file)
        return (0, 0) if number is None else (self.starts[number], self.starts[number + 1])

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {file: number for number, file in enumerate(self.files)}

    def checked(self, number: int) -> Segment:
        """Give a segment whose file may be opened.

        Raises:
            StoreError: if it may not: it is a link out of the trace, or is not sealed yet.
        """
        segment: Segment = self[number]
        if self._look is not None:
            self._look(segment.file)
        return segment


class ShardFiles:
    """Where rows of each kind lie, as an index' own table says it.

    Args:
        folder: of the trace.
        table: how many rows each shard has.
        unsealed: says of shards that are not there yet what to tell whoever reads them.
    """

    def __init__(
        self, folder: Path, table: ShardRows, unsealed: Mapping[int, str] | None = None
    ) -> None:
        self._folder = folder.resolve()
        self._table = table
        self._unsealed = unsealed or {}
        self._found: dict[str, Segments] = {}

    def segments(self, rows: str, place: str) -> Segments:
        """Give the segments of rows of a kind, a site's `rows`.

        Raises:
            StoreError: if the table does not know it; `place` names the dataset.
        """
        if rows not in self._found:
            if rows not in self._table.n_rows:
                raise StoreError(f"{place}: no shard is said to have rows of it ({rows})")
            n_rows = self._table.n_rows[rows]
            there = np.flatnonzero(n_rows)
            starts = [0, *np.cumsum(n_rows[there]).tolist()]
            at = f"{self._folder / SHARDS_FOLDER}/"
            files = [f"{at}{self._name(number)}" for number in there.tolist()]
            self._found[rows] = Segments("", files, starts, self._look)
        return self._found[rows]

    def _name(self, number: int) -> str:
        return f"{number:05d}{UNSEALED if number in self._unsealed else '.h5'}"

    def _look(self, file: Path) -> None:
        if file.suffix == UNSEALED:
            raise StoreError(self._unsealed[int(file.stem)])
        if self._folder not in file.resolve().parents:
            raise StoreError(f"{file}: is a link that points outside the trace")


def segments_of(dataset: h5py.Dataset, path: Path) -> Segments:
    """Give the segments of a dataset that was found in the file at `path`.

    Raises:
        StoreError: if a virtual dataset points outside the trace's folder, has gaps, or has rows of
            another dataset or twice the same.
    """
    if not dataset.is_virtual:
        return Segments(dataset.name, [str(path)], [0, len(dataset)])
    folder = path.parent.resolve()
    found = []
    for source in dataset.virtual_sources():
        file = (folder / source.file_name).resolve()
        if folder not in file.parents:
            raise StoreError(f"{path}: {dataset.name} points outside the trace: {source.file_name}")
        # What is said of a table holds for its rows.
        if source.dset_name.strip("/") != dataset.name.strip("/"):
            raise StoreError(f"{path}: {dataset.name} has the rows of {source.dset_name}")
        begin, end = source.vspace.get_select_bounds()
        if prod(np.subtract(end, begin) + 1) != source.vspace.get_select_npoints():
            raise StoreError(f"{path}: {dataset.name} is patched together of parts of rows")
        found.append((int(begin[0]), int(end[0]) + 1, str(file)))
    if len({file for _, _, file in found}) != len(found):
        raise StoreError(f"{path}: {dataset.name} has the rows of one file more than once")
    found.sort()
    starts = [begin for begin, _, _ in found] + [len(dataset)]
    if starts != [0, *(end for _, end, _ in found)]:
        raise StoreError(f"{path}: {dataset.name} has rows that lie in no shard, or in two")
    return Segments(dataset.name, [file for _, _, file in found], starts)


def shape_of(dataset: h5py.Dataset, segments: Segments, path: Path) -> tuple[int, ...]:
    """Give the shape of a virtual dataset whose segments a table says; opens none of their files.

    Raises:
        StoreError: if its rows are not those that the table says.
    """
    layout, told = dataset.id.get_create_plist(), [*segments.starts]
    n_sources = layout.get_virtual_count() if dataset.is_virtual else 0
    # Of a source without a fixed end this fails: HDF5 would open its file to know the shape.
    bounds = [layout.get_virtual_vspace(n).get_select_bounds() for n in range(n_sources)]
    starts, ends = ([int(bound[side][0]) + side for bound in bounds] for side in (0, 1))
    shape: tuple[int, ...] = dataset.shape
    if n_sources and (starts != told[:-1] or ends != told[1:]):
        raise StoreError(f"{path}: {dataset.name} has other rows than its shards are said to have")
    if shape[0] != segments.n_rows:
        raise StoreError(
            f"{path}: {dataset.name} has {counted(shape[0], 'row')}; its shards are said to have "
            f"{segments.n_rows:,}"
        )
    return shape
