"""Links: virtual datasets over the shards of a run, while an index is written.

Knows how the rows of shards line up in an index; reads no rows but numbers of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import h5py
import numpy as np

from probekit.errors import StoreError
from probekit.store.format import (
    EXAMPLE,
    FEW,
    ROW_SHAPE,
    TOKEN,
    Axis,
    ShardSpec,
    SiteSpec,
    axis_of,
    known_axes,
    numbers_in,
    schema,
    user_datasets,
)


class Out(Protocol):
    """An HDF5 file that is written."""

    file: h5py.File

    def let_go(self) -> None:
        """Close the file and open it again."""


class Links:
    """What an index says of the rows of its shards.

    Args:
        out: the index; beside its file lies the folder of the shards.
        shards: of the run, in order.
        files: of the shards, as the index names them; their own where it is not said.
    """

    def __init__(
        self, out: Out, shards: Sequence[ShardSpec], files: Sequence[str] | None = None
    ) -> None:
        self._out, self._shards = out, shards
        self._files = [shard.file for shard in shards] if files is None else files
        self._numbered: list[_Numbered] = []

    @property
    def file(self) -> h5py.File:
        """The index, opened again where its virtual datasets are large.

        HDF5 keeps 4 KiB for each source of a virtual dataset that it has seen, until it closes the
        file (seen with HDF5 2.0): of many shards, and a hundred sites, that would be gigabytes.
        """
        if len(self._shards) > FEW:
            self._out.let_go()
        return self._out.file

    def add_all(self, first: h5py.File, sites: Sequence[SiteSpec], *, is_local: bool) -> None:
        """Link every column and every site, as the first shard has them.

        Args:
            first: that shard, open.
            sites: of the run.
            is_local: where shards count their tokens from 0: the run's numbers are written.
        """
        inner = {axis.name for axis in known_axes() if axis.is_inner}
        local = inner if is_local else inner - {TOKEN}
        for axis in known_axes():
            n_rows = [shard.count(axis.name) for shard in self._shards]
            for dataset in _columns(first, axis):
                table, _, name = dataset.name.rpartition("/")
                column = axis.column(name) if table == f"/{axis.table}" else None  # or a user's
                self._add(dataset, n_rows, None if column is None else column.numbers, local)
        for choice, dataset in first.get("rows", {}).items():
            n_rows = [shard.n_rows[choice] for shard in self._shards]
            self._add(dataset, n_rows, axis_of(choice).name, local)
        for spec in sites:
            n_rows = [shard.n_rows[spec.rows] for shard in self._shards]
            # To ask a virtual dataset for its shape takes a while, if it has many sources.
            row_shape = np.array(spec.row_shape, dtype="<i8")
            more = {ROW_SHAPE: row_shape} if len(self._shards) > FEW else {}
            self._link(first[schema.site_path(spec)], n_rows, more)

    def add_numbers(self, source: h5py.File, shard: ShardSpec) -> None:
        """Write what a shard behind the first numbers by itself, as the whole run does."""
        for column in self._numbered:
            column.write(self._out.file, source, shard)

    def _add(
        self, example: h5py.Dataset, n_rows: Sequence[int], axis: str | None, local: set[str]
    ) -> None:
        """Link a column, or make room for it where every shard counts from 0."""
        if axis not in local:
            self._link(example, n_rows)
            return
        made = self._out.file.create_dataset(
            example.name, shape=(sum(n_rows),), dtype=example.dtype
        )
        column = _Numbered(name=example.name, axis=axis)
        column.write(self._out.file, example.file, self._shards[0])
        made.attrs.update(example.attrs)
        self._numbered.append(column)

    def _link(
        self, example: h5py.Dataset, n_rows: Sequence[int], more: Mapping[str, Any] | None = None
    ) -> None:
        """Create a virtual dataset that stacks the same dataset of every shard along axis 0."""
        row_shape = example.shape[1:]
        space = h5py.h5s.create_simple((sum(n_rows), *row_shape))
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_obj_track_times(False)  # equal runs make equal files
        begin = 0
        for file, rows in zip(self._files, n_rows, strict=True):
            if rows and prod(row_shape):
                space.select_hyperslab((begin, *(0 for _ in row_shape)), (rows, *row_shape))
                source = h5py.h5s.create_simple((rows, *row_shape))
                layout.set_virtual(space, file.encode(), example.name.encode(), source)
                begin += rows
        space.select_all()
        if example.id.get_type().get_class() == h5py.h5t.FLOAT:
            # What a reader other than probekit's gets for the rows of a shard that is not there.
            layout.set_fill_value(np.array(np.nan, dtype=np.float32))
        links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        links.set_create_intermediate_group(True)
        made = h5py.h5d.create(
            self.file.id, example.name.encode(), example.id.get_type(), space, layout, lcpl=links
        )
        h5py.Dataset(made).attrs.update({**example.attrs, **(more or {})})


@dataclass(slots=True, kw_only=True)
class _Numbered:
    """A column that numbers rows of an axis, which every shard counts from 0."""

    name: str
    axis: str
    n_done: int = 0  # rows that are written
    n_before: int = 0  # rows of the axis in the shards that are written

    def write(self, file: h5py.File, source: h5py.File, shard: ShardSpec) -> None:
        """Write the numbers of the next shard."""
        numbers, written = numbers_in(source, self.name) + self.n_before, file[self.name]
        end = self.n_done + len(numbers)
        if end > len(written):
            raise StoreError(f"{source.filename}: {self.name} has more rows than its record says")
        written[self.n_done : end] = numbers
        self.n_done = end
        self.n_before += shard.count(self.axis)


def _columns(file: h5py.File, axis: Axis) -> Iterator[h5py.Dataset]:
    """Give the columns of an axis' table, the user's own too."""
    for node in file.get(axis.table, {}).values():
        if isinstance(node, h5py.Dataset):
            yield node
    if axis.name == EXAMPLE:
        for name in user_datasets(file):
            yield file[name]
