"""The index `trace.h5`: the tree of all shards as one file of virtual datasets.

Knows sealed shards and how they line up; every large dataset stays where it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from probekit.errors import StoreError
from probekit.store.format import (
    COUNTS,
    EXAMPLE,
    FIRST,
    INDEX_FILE,
    INDEX_RECORD,
    LIBVER,
    TOKEN,
    Axis,
    Execution,
    FileRecord,
    HDF5Out,
    ShardSpec,
    SiteSpec,
    axis_of,
    explained,
    fsync,
    known_axes,
    numbers_in,
    part_of,
    read_execution,
    rest_checksum,
    schema,
    user_datasets,
    write_dimensions,
    write_execution,
    write_orders,
    write_vocabulary,
)
from probekit.store.reading import open_file

_OF_THE_MODEL = ("attention", "device")  # attributes known only once weights are loaded
CHECKED = "self_check"  # attributes of the self-check begin so
SUMMED = "generate_"  # attributes of a shard that the index adds up begin so


def build_index(
    folder: Path,
    shards: Sequence[ShardSpec],
    sites: Sequence[SiteSpec],
    attributes: Mapping[str, Any],
    vocabulary: Sequence[str | bytes] | None,
) -> Mapping[str, Mapping[str, int]]:
    """Write `trace.h5` over the sealed shards of a run; the file is either whole or not there.

    Returns:
        What was counted at each site, over all shards: see `schema.COUNTS`.

    Raises:
        StoreError: if it cannot be written, a shard cannot be read, or the shards do not follow on
            each other.
    """
    _refuse_breaks(folder, shards)
    part = part_of(folder / INDEX_FILE)
    with explained(folder / INDEX_FILE):
        try:
            counts = _write(part, folder, shards, sites, attributes, vocabulary)
            fsync(part)
            record = FileRecord(
                file_bytes=part.stat().st_size, rest=rest_checksum(part, ()), sites={}
            )
            # An index without its record is not complete: the old one's would be of another file.
            (folder / INDEX_RECORD).unlink(missing_ok=True)
            part.replace(folder / INDEX_FILE)
            record.write(folder / INDEX_RECORD)
        finally:
            part.unlink(missing_ok=True)
    return counts


def _refuse_breaks(folder: Path, shards: Sequence[ShardSpec]) -> None:
    """Refuse shards of which one begins elsewhere than where the one before it ends."""
    examples = tokens = 0
    for number, shard in enumerate(shards):
        if (shard.number, shard.first_example, shard.first_token) != (number, examples, tokens):
            raise StoreError(
                f"{folder / shard.file}: begins at example {shard.first_example}, token "
                f"{shard.first_token}; the shards before it end at {examples}, {tokens}"
            )
        examples += shard.n_examples
        tokens += shard.n_tokens


def _write(
    part: Path,
    folder: Path,
    shards: Sequence[ShardSpec],
    sites: Sequence[SiteSpec],
    attributes: Mapping[str, Any],
    vocabulary: Sequence[str | bytes] | None,
) -> dict[str, Counter[str]]:
    # HDF5 looks for a virtual dataset's sources beside the file: relative names move with it.
    with HDF5Out(part, libver=LIBVER) as out:
        file = out.file
        file.attrs.update(attributes)
        file.attrs["n_shards"] = len(shards)
        with open_file(folder / shards[0].file) as first:
            of_the_run = [k for k in first.attrs if k in _OF_THE_MODEL or k.startswith(CHECKED)]
            file.attrs.update({k: first.attrs[k] for k in of_the_run})
            _link_tables(file, first, folder, shards)
            for spec in sites:
                path = schema.site_path(spec)
                _link(file, first[path], shards, [s.n_rows[spec.rows] for s in shards])
        _merge_execution(file, folder, shards)
        counts = _sum_counts(folder, shards, sites)
        for spec in sites:
            file[schema.site_path(spec)].attrs.update(counts[spec.name])
        if vocabulary is not None:
            with_bytes = attributes.get("probekit_format") != FIRST.attribute
            write_vocabulary(file, vocabulary, with_bytes=with_bytes)
        write_dimensions(file)
    return counts


def _link_tables(
    file: h5py.File, first: h5py.File, folder: Path, shards: Sequence[ShardSpec]
) -> None:
    """Link every column; where shards count rows of their own, the run's numbers are written."""
    is_local = FileRecord.read((folder / shards[0].file).with_suffix(".json")).is_local
    inner = {axis.name for axis in known_axes() if axis.is_inner}
    local = inner if is_local else inner - {TOKEN}
    for axis in known_axes():
        n_rows = [shard.count(axis.name) for shard in shards]
        for dataset in _columns(first, axis):
            table, _, name = dataset.name.rpartition("/")
            column = axis.column(name) if table == f"/{axis.table}" else None  # or a user's own
            numbers = None if column is None else column.numbers
            if numbers in local:
                _write_numbers(file, dataset, folder, shards, numbers)
            else:
                _link(file, dataset, shards, n_rows)
    for choice, dataset in first.get("rows", {}).items():
        if (numbers := axis_of(choice).name) in local:
            _write_numbers(file, dataset, folder, shards, numbers)
        else:
            _link(file, dataset, shards, [s.n_rows[choice] for s in shards])


def _columns(file: h5py.File, axis: Axis) -> Iterator[h5py.Dataset]:
    """Give the columns of an axis' table, the user's own too."""
    for node in file.get(axis.table, {}).values():
        if isinstance(node, h5py.Dataset):
            yield node
    if axis.name == EXAMPLE:
        for name in user_datasets(file):
            yield file[name]


def _write_numbers(
    file: h5py.File, example: h5py.Dataset, folder: Path, shards: Sequence[ShardSpec], axis: str
) -> None:
    """Write a column that numbers rows of an axis, which every shard counts from 0."""
    found, n_before = [], 0
    for shard in shards:
        with open_file(folder / shard.file) as source:
            found.append(numbers_in(source, example.name) + n_before)
        n_before += shard.count(axis)
    file.create_dataset(example.name, data=np.concatenate(found))
    file[example.name].attrs.update(example.attrs)


def _link(
    file: h5py.File, example: h5py.Dataset, shards: Sequence[ShardSpec], n_rows: Sequence[int]
) -> None:
    """Create a virtual dataset that stacks the same dataset of every shard along axis 0."""
    row_shape = example.shape[1:]
    space = h5py.h5s.create_simple((sum(n_rows), *row_shape))
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_obj_track_times(False)  # equal runs make equal files
    begin = 0
    for shard, rows in zip(shards, n_rows, strict=True):
        if rows and prod(row_shape):
            space.select_hyperslab((begin, *(0 for _ in row_shape)), (rows, *row_shape))
            source = h5py.h5s.create_simple((rows, *row_shape))
            layout.set_virtual(space, shard.file.encode(), example.name.encode(), source)
            begin += rows
    space.select_all()
    if example.id.get_type().get_class() == h5py.h5t.FLOAT:
        # What a reader other than probekit's gets for the rows of a shard that is not there.
        layout.set_fill_value(np.array(np.nan, dtype=np.float32))
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    made = h5py.h5d.create(
        file.id, example.name.encode(), example.id.get_type(), space, layout, lcpl=links
    )
    h5py.Dataset(made).attrs.update(example.attrs)


def _merge_execution(file: h5py.File, folder: Path, shards: Sequence[ShardSpec]) -> None:
    parts = []
    sums: Counter[str] = Counter()  # seconds of generating, and the like
    for shard in shards:
        with open_file(folder / shard.file) as source:
            parts.append(read_execution(source))
            sums.update({k: v.item() for k, v in source.attrs.items() if k.startswith(SUMMED)})
    file.attrs.update(sums)
    recorded = [part for part in parts if part is not None]
    if recorded:
        whole = merge_executions(recorded)
        # Where the forward passes lie apart, so they stay.
        (write_execution if whole.forwards else write_orders)(file, whole)


def _sum_counts(
    folder: Path, shards: Sequence[ShardSpec], sites: Sequence[SiteSpec]
) -> dict[str, Counter[str]]:
    """Add up what each shard counted at each site: values that are not finite."""
    sums: dict[str, Counter[str]] = {spec.name: Counter() for spec in sites}
    for shard in shards:
        with open_file(folder / shard.file) as source:
            for spec in sites:
                counted = source[schema.site_path(spec)].attrs
                sums[spec.name].update({n: int(counted[n]) for n in COUNTS if n in counted})
    return sums


def merge_executions(parts: Sequence[Execution]) -> Execution:
    """Join the executions of several shards of one run: equal orders once."""
    orders: list[np.ndarray[Any, Any]] = []
    numbers: dict[bytes, int] = {}
    forwards = []
    for part in parts:
        renumbered = []
        for order in part.orders:
            key = order.tobytes()
            if key not in numbers:
                numbers[key] = len(orders)
                orders.append(order)
            renumbered.append(numbers[key])
        forwards += [replace(f, order=renumbered[f.order]) for f in part.forwards]
    return Execution(modules=parts[0].modules, orders=tuple(orders), forwards=tuple(forwards))
