"""The layout of a shard: every dataset in one piece, allocated before the first row comes.

Knows HDF5's layouts and the tables of a shard; writes no rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from probekit.store.format import LIBVER, HDF5Out, ShardSpec, SiteSpec, schema

# HDF5 lays data at any byte; a map at an odd offset is slow for numpy and of no use to torch.
ALIGNED: Mapping[str, Any] = {"alignment_threshold": 1, "alignment_interval": 64}

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTables:
    """What a shard says of its examples and tokens, known before the forward pass."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    n_tokens: Array  # int64 [example]
    token_ids: Array  # int32 [token]
    choices: Mapping[str, Array]  # rows of a choice of positions: the token each row is, in the run
    counts: Mapping[str, Array]  # by a site's `rows`: how many rows each example gives [example]
    steps: Array | None = None  # 0 for a text's own tokens, 1, 2, ... for generated ones [token]


def lay_out(
    path: Path,
    shard: ShardSpec,
    sites: Sequence[SiteSpec],
    tables: ShardTables,
    attributes: Mapping[str, Any],
) -> list[int]:
    """Create the file with every dataset allocated; give each site's offset in it."""
    with HDF5Out(path, libver=LIBVER, **ALIGNED) as out:
        file = out.file
        file.attrs.update(attributes)
        file.attrs["shard"] = shard.number
        file.attrs["first_example"] = shard.first_example
        file.attrs["first_token"] = shard.first_token
        _write_tables(file, shard, tables)
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


def _write_tables(file: h5py.File, shard: ShardSpec, tables: ShardTables) -> None:
    ends = np.cumsum(tables.n_tokens)
    firsts = ends - tables.n_tokens
    text = h5py.string_dtype()
    examples = file.create_group("examples")
    examples.create_dataset("id", data=list(tables.ids), dtype=text)
    examples.create_dataset("text", data=list(tables.texts), dtype=text)
    examples.create_dataset("first_token", data=(shard.first_token + firsts).astype("<i8"))
    examples.create_dataset("n_tokens", data=tables.n_tokens.astype("<i8"))
    tokens = file.create_group("tokens")
    numbers = np.arange(shard.n_examples, dtype="<i8")
    positions = np.arange(shard.n_tokens) - np.repeat(firsts, tables.n_tokens)
    tokens.create_dataset("id", data=tables.token_ids.astype("<i4"))
    tokens.create_dataset("position", data=positions.astype("<i4"))
    tokens.create_dataset("example", data=np.repeat(shard.first_example + numbers, tables.n_tokens))
    if tables.steps is not None:
        tokens.create_dataset("step", data=tables.steps.astype("<i4"))
    for dataset in (*examples.values(), *tokens.values()):
        dataset.attrs["axes"] = [dataset.name.split("/")[1].removesuffix("s")]
    for name, rows in tables.choices.items():
        dataset = file.create_dataset(f"rows/{name}", data=rows.astype("<i8"))
        dataset.attrs["axes"] = ["row"]


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
