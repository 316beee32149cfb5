"""ShardRows: how many rows of each kind every shard of an index has, as a table of the index.

Knows the table `/shards`, which an index over many shards has. By it a row is found in its shard
without a look at the sources of a virtual dataset: HDF5 takes time and memory for each of them, of
every dataset anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from probekit.errors import StoreError
from probekit.store.format.axes import known_axes
from probekit.store.format.nodes import names_in, node_in, numbers_in
from probekit.store.format.schema import ShardSpec

Array = np.ndarray[Any, Any]

SHARD_TABLE = "shards"
ROW_SHAPE = "row_shape"  # the attribute of a site, of an index that has such a table
FEW = 64  # shards; an index over no more of them has no such table, as before there was one


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """How many rows every shard has, by what they are: a site's `rows`."""

    n_rows: Mapping[str, Array]  # int64 [shard]

    @classmethod
    def of(cls, shards: Sequence[ShardSpec]) -> ShardRows:
        """Count the rows of shards."""
        kinds = {axis.whole: [shard.count(axis.name) for shard in shards] for axis in known_axes()}
        kinds |= {rows: [shard.n_rows[rows] for shard in shards] for rows in shards[0].n_rows}
        return cls(n_rows={rows: np.array(n, dtype="<i8") for rows, n in kinds.items()})

    @classmethod
    def read(cls, file: h5py.File) -> ShardRows | None:
        """Read the table of an index; None where it has none.

        Raises:
            StoreError: if it is no such table.
        """
        table = node_in(file, SHARD_TABLE)
        if not isinstance(table, h5py.Group):  # or an axis of the user's own, of that name
            return None
        found = {
            rows: numbers_in(file, f"{SHARD_TABLE}/{rows}").astype(np.int64)
            for rows in names_in(table, file)
        }
        are_counts = all(not len(n) or n.min() >= 0 for n in found.values())
        lacks = {axis.whole for axis in known_axes() if axis.table in file} - found.keys()
        if not are_counts or lacks or len({len(n) for n in found.values()}) != 1:
            raise StoreError(f"{file.filename}: {SHARD_TABLE} does not say which rows shards have")
        return cls(n_rows=found)


def write_shard_rows(file: h5py.File, shards: Sequence[ShardSpec]) -> None:
    """Write the table into an index, if it is over many shards."""
    if len(shards) <= FEW:
        return
    for rows, counts in ShardRows.of(shards).n_rows.items():
        made = file.create_dataset(f"{SHARD_TABLE}/{rows}", data=counts)
        made.attrs.update({"axes": ["shard"], "long_name": "how many of these rows a shard has"})
