"""Disk space: how many bytes a run still has to write, and whether the disk has them.

Knows how large the parts of a trace are besides its rows. The sizes are a little more than what was
measured, so that a run that is let begin also ends.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probekit.errors import StoreError
from probekit.store import (
    INDEX_FILE,
    INDEX_RECORD,
    INPUTS_RECORD,
    SHARDS_FOLDER,
    ShardSpec,
    SiteSpec,
    is_choice,
    sealed_shards,
)
from probekit.wording import counted, human_bytes

Array = np.ndarray[Any, Any]

# Bytes on disk, HDF5 and JSON together; test_diskspace.py compares the sums with real files.
_FILE = 24 << 10  # of a shard or an index by itself
_SITE = 3 << 10  # of a site in a shard
_SITE_INDEXED = 4 << 10  # of a site in the index and in run.json
_SITE_LINK = 192  # of a site and a shard in the index
_AXIS = 128  # of a site in the index, where its dimension is named
_DIMENSION = 768  # a name and a size in the index
_DIMENSIONS = 16  # of tables, positions and the execution order
_EXAMPLE = 192  # its numbers and the headers of its strings
_TOKEN = 20  # id, position, example, step
_SPAN = 8  # the first character and the end
_SEALED = 24  # of an example in inputs.h5, besides its strings: where each of three pieces ends
_PLACE = 16  # of an example that shares its prompt: prompt, sample, score
_CHOICE = 8  # a row's token, where only some positions are kept
_FORWARD = 160  # a forward pass of one example, where the execution order is recorded
_MODULE = 160  # a module's name and its events in a few orders
_DETAIL = 32  # a number among a site's attributes
_WORD = 48  # a token of the vocabulary


def free_bytes(path: Path, where: str = "store.path") -> int:
    """Give the free bytes of the disk a path lies on, or will lie on.

    Args:
        path: of a run's folder.
        where: the place in the user's config that names it.
    """
    try:
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        return shutil.disk_usage(there).free
    except OSError as error:  # a name too long, a folder that may not be looked into
        raise StoreError(f"{where}: {path} cannot be used: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a run writes, as far as its size goes."""

    path: Path  # of the trace's folder
    where: str = "store.path"  # the place in the user's config that names it
    sites: tuple[SiteSpec, ...]
    shards: tuple[ShardSpec, ...]
    string_bytes: Array | Sequence[int]  # of each example's id and text, int64 [example]
    has_spans: bool  # which characters a token covers is known
    config_bytes: int  # of the config's text, which stands in every file
    n_modules: int  # whose order is recorded; 0 where it is not
    n_words: int  # of the vocabulary; 0 where there is none
    is_generated: bool  # what is generated waits in a spool
    n_each: int = 1  # examples of a prompt, which is sealed once
    is_compressed: bool  # what is compressed lies there once more, uncompressed


def needed_bytes(contents: Contents, sealed: Iterable[int] = ()) -> int:
    """Count the bytes that a run still writes: rows, tables, structure, records and index.

    Args:
        contents: of the run.
        sealed: numbers of the shards that are there already.
    """
    done = set(sealed)
    ends = np.concatenate(([0], np.cumsum(contents.string_bytes)))
    each = [
        _shard_bytes(contents, shard, ends) + contents.config_bytes
        for shard in contents.shards
        if shard.number not in done
    ]
    twice = contents.is_generated or contents.is_compressed
    index_bytes = _index_bytes(contents) + contents.config_bytes
    index_bytes += _FILE + contents.config_bytes  # made.json, with the config as it was written
    if not (contents.path / INPUTS_RECORD).exists():
        index_bytes += _input_bytes(contents)
    return sum(each) + (max(each, default=0) if twice else 0) + index_bytes


def left_bytes(contents: Contents, *, overwrite: bool = False) -> int:
    """Count the bytes that a run still writes, after a look at what lies in its folder.

    Args:
        contents: of the run.
        overwrite: whether what lies there is removed first.
    """
    path = contents.path
    sealed = frozenset() if overwrite else sealed_shards(path)
    indexed = all((path / name).exists() for name in (INDEX_FILE, INDEX_RECORD))
    if indexed and sealed.issuperset(shard.number for shard in contents.shards):
        return 0
    return needed_bytes(contents, sealed)


def shortage(contents: Contents, *, overwrite: bool = False) -> str | None:
    """Say by how much the disk is too small for what a run still writes; None if it is not.

    Args:
        contents: of the run.
        overwrite: whether what lies in the folder is removed first.
    """
    path = contents.path
    sealed = frozenset() if overwrite else sealed_shards(path)
    needed = left_bytes(contents, overwrite=overwrite)
    free = free_bytes(path, contents.where) + _freed_bytes(path, sealed)
    if needed <= free:
        return None
    n_shards = len(contents.shards)
    done = f", {counted(len(sealed), 'shard', of=n_shards)} being sealed already" if sealed else ""
    return (
        f"{contents.where}: {path} needs {human_bytes(needed)} more{done}, "
        f"and the disk has {human_bytes(free)} free"
    )


def _shard_bytes(contents: Contents, shard: ShardSpec, ends: Array) -> int:
    """Count a shard's bytes; `ends` int64 `[example + 1]` says where examples' strings end."""
    begin, end = shard.first_example, shard.first_example + shard.n_examples
    strings = int(ends[end] - ends[begin])
    choices = sum(n for c, n in shard.n_rows.items() if is_choice(c))
    return (
        sum(shard.n_rows[spec.rows] * spec.row_bytes for spec in contents.sites)
        + sum(_SITE + _DETAIL * _n_details(spec) for spec in contents.sites)
        + shard.n_examples * (_EXAMPLE + _PLACE * (contents.n_each > 1))
        + strings
        + shard.n_tokens * (_TOKEN + _SPAN * contents.has_spans)
        + choices * _CHOICE
        + _execution_bytes(contents, shard.n_examples, shard.n_tokens)
        + _FILE
    )


def _input_bytes(contents: Contents) -> int:
    n_tokens = sum(shard.n_tokens for shard in contents.shards)
    tokens = n_tokens * (4 + _SPAN * contents.has_spans)
    strings = int(np.sum(contents.string_bytes)) + _SEALED * len(contents.string_bytes)
    return (tokens + strings) // contents.n_each


def _execution_bytes(contents: Contents, n_examples: int, n_tokens: int) -> int:
    if not contents.n_modules:
        return 0
    n_forwards = n_tokens if contents.is_generated else n_examples
    return n_forwards * _FORWARD + contents.n_modules * _MODULE


def _index_bytes(contents: Contents) -> int:
    links = len(contents.shards) * _SITE_LINK
    sites = sum(
        _SITE_INDEXED + links + _DETAIL * _n_details(spec) + _AXIS * len(spec.axes)
        for spec in contents.sites
    )
    named = {
        axis for spec in contents.sites for axis in zip(spec.axes[1:], spec.row_shape, strict=True)
    }
    sites += (len(named) + _DIMENSIONS) * _DIMENSION
    n_tokens = sum(shard.n_tokens for shard in contents.shards)
    n_examples = sum(shard.n_examples for shard in contents.shards)
    execution = _execution_bytes(contents, n_examples, n_tokens)
    return sites + execution + contents.n_words * _WORD + 2 * _FILE


def _n_details(spec: SiteSpec) -> int:
    return sum(int(np.size(value)) for value in spec.details.values())


def _freed_bytes(path: Path, kept: Iterable[int]) -> int:
    """Count the bytes of shards that a run removes before it begins."""
    stay = {f"{number:05d}.h5" for number in kept}
    files = [f for f in (path / SHARDS_FOLDER).glob("*.h5*") if f.name not in stay]
    return sum(f.stat().st_blocks * 512 for f in files)
