"""Sealed: which shards of a run's folder are whole, by the names of their files.

Knows names and records; opens no shard.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from probekit.store.format import (
    INDEX_FILE,
    OWNED,
    SHARDS_FOLDER,
    FileRecord,
    ShardSpec,
    explained,
)

SHARD_FILE = re.compile(
    r"\d{5,}\.(h5|json|made\.json)"
    rf"|\.\d{{5,}}\.(h5|aside|json|made\.json)\.({OWNED}|part)(\.packed)?"
)


def sealed_shards(folder: Path) -> frozenset[int]:
    """Give the numbers of the shards that are whole: the .h5 and, written after it, the .json."""
    files = {file.name for file in shard_files(folder)}
    return frozenset(
        int(name.removesuffix(".json"))
        for name in files
        if is_record(name) and name.replace(".json", ".h5") in files
    )


def is_sealed(folder: Path, shard: ShardSpec) -> bool:
    """Say whether one shard is whole; see `sealed_shards`."""
    file = folder / shard.file
    return file.with_suffix(".json").exists() and file.exists()


def is_record(name: str) -> bool:
    """Say whether a name is that of a shard's record."""
    return re.fullmatch(r"\d+\.json", name) is not None


def is_indexed(folder: Path) -> bool:
    """Say whether a run has come to its end: its index is there."""
    return (folder / INDEX_FILE).exists()


def shard_numbers(folder: Path) -> frozenset[int]:
    """Give the numbers of the shards of which there is a file, whole or not."""
    names = [file.name for file in shard_files(folder)]
    return frozenset(int(name.partition(".")[0]) for name in names if not name.startswith("."))


def kept_shards(folder: Path) -> frozenset[int]:
    """Give the numbers of the shards that are no leftovers of a killed run.

    The index is written when every shard is sealed: beside it, half a shard is damage.
    """
    return (shard_numbers if is_indexed(folder) else sealed_shards)(folder)


def sealed_specs(folder: Path, numbers: Iterable[int] | None = None) -> tuple[ShardSpec, ...]:
    """Give sealed shards as they really are, in order.

    Args:
        folder: of the run.
        numbers: of these, which must be there; None for all that a listing shows, which a network
            file system may show late.

    Raises:
        StoreError: if a record cannot be read.
    """
    found: list[ShardSpec] = []
    for number in sorted(sealed_shards(folder) if numbers is None else numbers):
        record = FileRecord.read(folder / SHARDS_FOLDER / f"{number:05d}.json")
        if record.spec is not None:
            n_before = found[-1].first_token + found[-1].n_tokens if found else 0
            first_token = n_before if record.is_local else record.spec.first_token
            found.append(replace(record.spec, first_token=first_token))
    return tuple(found)


def shard_files(folder: Path) -> tuple[Path, ...]:
    """Give the files under shards/ that have a name of ours."""
    with explained(folder, "looked into"):
        inside = tuple((folder / SHARDS_FOLDER).glob("*"))
    return tuple(path for path in inside if SHARD_FILE.fullmatch(path.name))
