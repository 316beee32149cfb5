"""The index `trace.h5`: the tree of all shards as one file of virtual datasets.

Knows sealed shards and how they line up; every large dataset stays where it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py

from probekit.errors import StoreError
from probekit.store.format import (
    FIRST,
    INDEX_FILE,
    INDEX_RECORD,
    LIBVER,
    FileRecord,
    HDF5Out,
    ShardSpec,
    SiteSpec,
    explained,
    fsync,
    part_of,
    rest_checksum,
    schema,
    write_dimensions,
    write_execution,
    write_orders,
    write_shard_rows,
    write_vocabulary,
)
from probekit.store.reading import open_file
from probekit.store.writing.links import Links
from probekit.store.writing.said import Said

_OF_THE_MODEL = ("attention", "device")  # attributes known only once weights are loaded
CHECKED = "self_check"  # attributes of the self-check begin so


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
        out.file.attrs.update(attributes)
        out.file.attrs["n_shards"] = len(shards)
        links, said = Links(out, shards), Said(sites)
        for number, shard in enumerate(shards):
            with open_file(folder / shard.file) as source:
                if number == 0:
                    is_local = FileRecord.read((folder / shard.file).with_suffix(".json")).is_local
                    _begin(out.file, source)
                    links.add_all(source, sites, is_local=is_local)
                else:
                    links.add_numbers(source, shard)
                said.add(source)
        _write_execution(out.file, said)
        for spec in sites:
            links.file[schema.site_path(spec)].attrs.update(said.counts[spec.name])
        write_shard_rows(links.file, shards)
        if vocabulary is not None:
            with_bytes = attributes.get("probekit_format") != FIRST.attribute
            write_vocabulary(links.file, vocabulary, with_bytes=with_bytes)
        write_dimensions(links.file, lambda: links.file)
    return said.counts


def _begin(file: h5py.File, first: h5py.File) -> None:
    """Say of the run what its first shard says of the model and of the self-check."""
    of_the_run = [k for k in first.attrs if k in _OF_THE_MODEL or k.startswith(CHECKED)]
    file.attrs.update({k: first.attrs[k] for k in of_the_run})


def _write_execution(file: h5py.File, said: Said) -> None:
    file.attrs.update(said.sums)
    if (whole := said.joined.execution) is not None:
        # Where the forward passes lie apart, so they stay.
        (write_execution if whole.forwards else write_orders)(file, whole)
