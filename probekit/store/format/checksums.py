"""Checksums: what the record beside a file says of its bytes, and whether they are still so.

Knows the records of shards and of the index, and reads files as plain bytes. A file falls into the
rows of its sites, wherever HDF5 has put them, and the rest: tables, attributes, structure.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import xxhash

from probekit.errors import StoreError
from probekit.store.format.disk import explained, read_pieces
from probekit.store.format.records import read_record, write_record
from probekit.store.format.schema import ShardSpec
from probekit.wording import counted

CHECKSUM = "xxh3_64"  # 64 bits at about the speed of memory; guards against damage, not malice

Array = np.ndarray[Any, Any]
Extents = tuple[tuple[int, int], ...]  # offset and bytes of each piece


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRecord:
    """What a shard's record says of one site."""

    rows: int
    bytes: int  # of the rows, uncompressed
    checksum: str  # of the checksums of each example's rows, uint64 little-endian [example]
    extents: Extents  # where they lie in the file; several where they are compressed
    stored: str | None  # checksum of those bytes, where they are not the rows themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What the record beside a shard or an index says of it."""

    file_bytes: int
    rest: str  # checksum of every byte outside of the sites' extents
    spec: ShardSpec | None = None  # None for an index
    is_local: bool = False  # its tokens count from 0: how many came before was not known
    is_timed: bool = False  # a file beside it says what took how long
    sites: Mapping[str, SiteRecord]

    @property
    def extents(self) -> list[tuple[int, int]]:
        """Every piece of rows, ascending."""
        return sorted(extent for site in self.sites.values() for extent in site.extents)

    def write(self, path: Path, *, only_first: bool = False) -> bool:
        """Write the record; see `write_record`."""
        spec = None if self.spec is None else self.spec.to_json()
        said = {k: v for k, v in asdict(self).items() if v is not False}  # as format 1.0 had it
        value = {**said, "spec": spec, "checksum": CHECKSUM}
        return write_record(path, value, only_first=only_first)

    @classmethod
    def read(cls, path: Path) -> FileRecord:
        """Read a record.

        Raises:
            StoreError: if it is damaged, or not a record of this kind.
        """
        value = read_record(path)
        try:
            if value["checksum"] != CHECKSUM:
                raise ValueError(f"a checksum {value['checksum']!r}")
            record = cls(
                file_bytes=_count(value["file_bytes"]),
                rest=_text(value["rest"]),
                spec=None if value["spec"] is None else shard_spec(**value["spec"]),
                is_local=value.get("is_local") is True,
                is_timed=value.get("is_timed") is True,
                sites={name: _site_record(**site) for name, site in value["sites"].items()},
            )
            if any(begin + size > end for (begin, size), (end, _) in pairwise(record.extents)):
                raise ValueError("rows lie in one another")
            return record
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: is not a record of probekit's: {error}") from error


def shard_spec(*, n_rows: Mapping[str, Any], **counts: Any) -> ShardSpec:
    """Give what `ShardSpec.to_json` said.

    Raises:
        AttributeError, TypeError, ValueError: if it is nothing of the kind.
    """
    return ShardSpec(
        n_rows={rows: _count(n) for rows, n in n_rows.items()},
        **{name: _count(n) for name, n in counts.items()},
    )


def _site_record(
    *, extents: Iterable[tuple[Any, Any]], checksum: Any, stored: Any, **counts: Any
) -> SiteRecord:
    return SiteRecord(
        extents=tuple((_count(offset), _count(size)) for offset, size in extents),
        checksum=_text(checksum),
        stored=None if stored is None else _text(stored),
        **{name: _count(n) for name, n in counts.items()},
    )


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is no count")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


# --- from bytes


def rest_checksum(path: Path, extents: Iterable[tuple[int, int]]) -> str:
    """Checksum every byte of a file outside of some extents.

    Raises:
        StoreError: if the file cannot be read, or ends before they do.
    """
    digest = xxhash.xxh3_64()
    with explained(path, "read"), path.open("rb") as raw:
        end = os.fstat(raw.fileno()).st_size
        for begin, size in [*sorted(extents), (end, 0)]:
            if begin + size > end:
                raise StoreError(f"{path}: ends at byte {end}, before its rows do")
            for piece in read_pieces(raw, begin - raw.tell()):
                digest.update(piece)
            raw.seek(begin + size)
    return digest.hexdigest()


def stored_checksum(raw: BinaryIO, extents: Extents) -> str:
    """Checksum the bytes of some extents of an open file, in their order."""
    digest = xxhash.xxh3_64()
    for begin, size in extents:
        raw.seek(begin)
        for piece in read_pieces(raw, size):
            digest.update(piece)
    return digest.hexdigest()


def rows_checksum(raw: BinaryIO, site: SiteRecord, counts: Array) -> str:
    """Checksum the rows of a site that lie in one piece.

    Args:
        raw: the shard's file.
        site: where they lie.
        counts: how many rows each example has, int64 `[example]`.
    """
    row_bytes = site.bytes // site.rows if site.rows else 0
    raw.seek(site.extents[0][0] if site.extents else 0)
    digests = np.empty(len(counts), dtype="<u8")
    for example, n_rows in enumerate(counts.tolist()):
        digest = xxhash.xxh3_64()
        for piece in read_pieces(raw, n_rows * row_bytes):
            digest.update(piece)
        digests[example] = digest.intdigest()
    return joined_checksum(digests)


def joined_checksum(digests: Array) -> str:
    """Give a site's checksum from its examples', uint64 little-endian `[example]`."""
    return xxhash.xxh3_64_hexdigest(digests.tobytes())


def stored_extents(path: Path) -> dict[str, Extents]:
    """Ask HDF5 where a shard's rows lie, by site."""
    found: dict[str, Extents] = {}
    with h5py.File(path, "r", locking=False) as file:
        for module, group in file.get("sites", {}).items():
            for kind, dataset in group.items():
                found[f"{module}/{kind}"] = _extents(dataset)
    return found


def _extents(dataset: h5py.Dataset) -> Extents:
    if dataset.chunks is not None:
        chunks: list[tuple[int, int]] = []
        dataset.id.chunk_iter(lambda chunk: chunks.append((chunk.byte_offset, chunk.size)))
        return tuple(sorted(chunks))
    offset, size = dataset.id.get_offset(), dataset.id.get_storage_size()
    return ((offset, size),) if offset is not None and size else ()


def file_digest(path: Path) -> str:
    """Digest every byte of a file, in 128 bits: enough to tell files from one another.

    Raises:
        StoreError: if it cannot be read.
    """
    digest = xxhash.xxh3_128()
    with explained(path, "read"), path.open("rb", buffering=0) as raw:
        for piece in read_pieces(raw, os.fstat(raw.fileno()).st_size):
            digest.update(piece)
    return digest.hexdigest()


# --- before HDF5 looks at a file


def check_structure(path: Path) -> None:
    """Compare a file outside of its rows with the record beside it, if it has one.

    HDF5 trusts what it reads: of single bytes changed at random, one in a hundred sends it into an
    endless loop (seen with HDF5 2.0). A file is read again only when it has changed.

    Raises:
        StoreError: if it is not as it was written.
    """
    record = path.with_suffix(".json")
    try:
        now = [(s.st_ino, s.st_size, s.st_mtime_ns) for s in (path.stat(), record.stat())]
    except OSError:
        return  # nothing to compare, or with: opening it says why
    _check_structure(path, record, *now)


@lru_cache(maxsize=4096)
def _check_structure(path: Path, record: Path, *now: tuple[int, int, int]) -> None:
    try:
        known = FileRecord.read(record)
    except StoreError:
        return  # of another program, or damaged itself, which `verify` says
    n_bytes = now[0][1]
    if n_bytes != known.file_bytes:
        what = f"it has {counted(n_bytes, 'byte')}, {known.file_bytes:,} were written"
    elif rest_checksum(path, known.extents) != known.rest:
        what = "tables, attributes or structure do not have their checksum"
    else:
        return
    raise StoreError(
        f"{path}: cannot be read: it is not whole HDF5: {what} "
        "(`probekit verify` says what else is damaged)"
    )
