"""The layout of a shard: every dataset in one piece, allocated before the first row comes.

Knows HDF5's layouts and the tables of a shard; writes no rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from probekit.store.format import (
    EXAMPLE,
    FIRST,
    LIBVER,
    NAMES,
    TEXT,
    TOKEN,
    Axis,
    Column,
    Format,
    HDF5Out,
    Named,
    ShardSpec,
    SiteSpec,
    UserColumn,
    known_axes,
    schema,
    write_user_columns,
)

# HDF5 lays data at any byte; a map at an odd offset is slow for numpy and of no use to torch.
ALIGNED: Mapping[str, Any] = {"alignment_threshold": 1, "alignment_interval": 64}

Array = np.ndarray[Any, Any]
Values = Array | Sequence[str] | Named  # of a column


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTables:
    """What a shard says of its rows, known before the forward pass."""

    n_rows: Mapping[str, Array]  # by inner axis: rows that each example has, int64 [example]
    columns: Mapping[str, Mapping[str, Values]]  # by axis: columns that do not follow from n_rows
    choices: Mapping[str, Array]  # rows of a choice of positions: the token each row is, in the run
    counts: Mapping[str, Array]  # by a site's `rows`: how many rows each example gives [example]
    users: Sequence[UserColumn] = ()  # columns of the user's own

    @classmethod
    def of_texts(
        cls,
        *,
        ids: Sequence[str],
        texts: Sequence[str],
        n_tokens: Array,
        token_ids: Array,
        choices: Mapping[str, Array],
        counts: Mapping[str, Array],
        users: Sequence[UserColumn] = (),
        of_examples: Mapping[str, Array] | None = None,
        **more: Array | Named | None,
    ) -> Self:
        """Give the tables of texts and their tokens.

        Args:
            ids: of each example.
            texts: of each example.
            n_tokens: of each example, int64 `[example]`.
            token_ids: int32 `[token]`.
            choices: see the class.
            counts: see the class.
            users: see the class.
            of_examples: other columns of the examples, `[example]`.
            more: other columns of the tokens, `[token]`; None where there is none.
        """
        tokens = {"id": token_ids, **{k: v for k, v in more.items() if v is not None}}
        return cls(
            n_rows={TOKEN: n_tokens},
            columns={EXAMPLE: {"id": ids, "text": texts, **(of_examples or {})}, TOKEN: tokens},
            choices=choices,
            counts=counts,
            users=users,
        )

    @property
    def n_tokens(self) -> Array:
        """Tokens of each example, int64 `[example]`."""
        return self.n_rows[TOKEN]

    @property
    def token_ids(self) -> Array:
        """Ids of the tokens, int32 `[token]`."""
        return np.asarray(self.columns[TOKEN]["id"])


def lay_out(
    path: Path,
    shard: ShardSpec,
    sites: Sequence[SiteSpec],
    tables: ShardTables,
    attributes: Mapping[str, Any],
    layout: Format,
) -> list[int]:
    """Create the file with every dataset allocated; give each site's offset in it."""
    with HDF5Out(path, libver=LIBVER, **ALIGNED) as out:
        file = out.file
        file.attrs.update(attributes)
        file.attrs["shard"] = shard.number
        file.attrs["first_example"] = shard.first_example
        file.attrs["first_token"] = shard.first_token
        _write_tables(file, shard, tables, layout)
        return [
            create_rows(
                file,
                schema.site_path(spec),
                spec.dtype,
                (shard.n_rows[spec.rows], *spec.row_shape),
                schema.site_attributes(spec),
            )
            for spec in sites
        ]


def _write_tables(file: h5py.File, shard: ShardSpec, tables: ShardTables, layout: Format) -> None:
    made = [
        (_write_column(file, axis, column, values), axis, column)
        for axis in known_axes()
        for column, values in _columns(axis, shard, tables)
        if column.since <= layout.minor
    ]
    for dataset, axis, column in made:
        dataset.attrs.update(_column_attributes(axis, column, layout))
    for name, rows in tables.choices.items():
        dataset = file.create_dataset(f"rows/{name}", data=rows.astype("<i8"))
        dataset.attrs["axes"] = ["row"]
    write_user_columns(file, tables.users)


def _columns(axis: Axis, shard: ShardSpec, tables: ShardTables) -> Iterator[tuple[Column, Values]]:
    """Give the columns of an axis that this shard has, in the order of the declaration."""
    values = {**dict(_extents(axis, shard, tables)), **tables.columns.get(axis.name, {})}
    for column in axis.columns:
        if column.name in values:
            yield column, values[column.name]


def _extents(axis: Axis, shard: ShardSpec, tables: ShardTables) -> Iterator[tuple[str, Array]]:
    """Give the columns that follow from how many rows each example has."""
    if not axis.is_inner:
        for inner in known_axes():
            if inner.name in tables.n_rows:
                n_rows = tables.n_rows[inner.name]
                yield inner.first, shard.first(inner.name) + np.cumsum(n_rows) - n_rows
                yield inner.count, n_rows
    elif axis.name in tables.n_rows:
        n_rows = tables.n_rows[axis.name]
        firsts = np.cumsum(n_rows) - n_rows
        yield "position", np.arange(n_rows.sum()) - np.repeat(firsts, n_rows)
        yield EXAMPLE, np.repeat(shard.first(EXAMPLE) + np.arange(len(n_rows)), n_rows)


def _write_column(file: h5py.File, axis: Axis, column: Column, values: Values) -> h5py.Dataset:
    """Write a column of an axis' table, as it is declared."""
    path = f"{axis.table}/{column.name}"
    if isinstance(values, Named):
        made = file.create_dataset(path, data=values.codes.astype(column.dtype))
        made.attrs[NAMES] = np.array(values.names, dtype=h5py.string_dtype())
        return made
    if column.dtype == TEXT:
        return file.create_dataset(path, data=list(values), dtype=h5py.string_dtype())
    return file.create_dataset(path, data=np.asarray(values).astype(column.dtype))


def _column_attributes(axis: Axis, column: Column, layout: Format) -> dict[str, Any]:
    """Give what a column says of itself; since 1.1 also what it means, as netCDF says it."""
    if layout == FIRST:
        return {"axes": [axis.name]}
    units = {"units": column.unit} if column.unit else {}
    return {"axes": [axis.name], "long_name": column.means, **units}


def create_rows(
    file: h5py.File, path: str, dtype: str, shape: tuple[int, ...], attributes: Mapping[str, Any]
) -> int:
    """Create a dataset in one piece, allocated and not filled.

    Returns:
        Where its bytes begin in the file; 0 when it has none.
    """
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)  # equal runs make equal files
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space = h5py.h5s.create_simple(shape)
    kind = schema.h5_type(dtype)
    made = h5py.h5d.create(file.id, path.encode(), kind, space, layout, lcpl=links)
    h5py.Dataset(made).attrs.update(attributes)
    return made.get_offset() or 0  # None when it has no rows
