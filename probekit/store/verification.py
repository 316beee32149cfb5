"""Verify: every byte of a trace against the checksums that were written when it was made.

Knows the records beside the files, and reads the files as plain bytes: HDF5 opens a shard only
after the bytes of its structure have been found right. Memory is a few MiB whatever the size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probekit import arguments
from probekit.errors import StoreError
from probekit.store.format import (
    EXAMPLE,
    INDEX_FILE,
    INDEX_RECORD,
    INPUTS_FILE,
    MADE_FILE,
    RUN_FILE,
    SHARDS_FOLDER,
    FileRecord,
    ShardSpec,
    axis_of,
    dataset_in,
    explained,
    known_axes,
    names_in,
    node_in,
    numbers_in,
    plain,
    read_record,
    rest_checksum,
    rows_checksum,
    stored_checksum,
)
from probekit.store.inputsfile import wrong_inputs
from probekit.store.reading import open_file
from probekit.store.runrecord import identity_digest, read_run
from probekit.store.sealed import is_indexed, kept_shards, shard_numbers
from probekit.store.verdict import Damage, Verdict
from probekit.wording import counted

Array = np.ndarray[Any, Any]


def verify(path: str | Path, *, on_progress: Callable[[int, int], None] | None = None) -> Verdict:
    """Read every byte of a run's folder again and compare it with what was written.

    Finds changed bytes, and files that were cut short, that are missing, swapped, renamed or of
    another run: shards, inputs, index and records.

    Args:
        path: a run's folder, or the index in it.
        on_progress: told the bytes read so far and all there are, after every file.

    Raises:
        StoreError: if there is no run at `path`.
    """
    path = arguments.path("path", path)
    folder = path.parent if path.name == INDEX_FILE else path
    there = shard_numbers(folder)
    if not there and not (folder / RUN_FILE).exists():
        raise StoreError(
            f"{path}: is not a run's folder ({_why_no_run(path)}); the checksums of a "
            "trace lie there"
        )
    run, damages = _read_run(folder)
    planned = set(range(run.n_shards)) if run is not None else set(there)
    numbers = _due(folder, run, there)
    beside = (INDEX_FILE, INPUTS_FILE)
    total = sum(_size(folder / name) for name in (*beside, *map(_shard_file, numbers)))
    n_bytes = 0
    seen: list[_Seen] = []
    for number in numbers:
        damages += _in_shard(folder, number, run, seen, sums=True)
        n_bytes += _size(folder / _shard_file(number))
        if on_progress is not None:
            on_progress(n_bytes, total)
    damages += _in_made(folder)
    damages += _in_inputs(folder, sums=True)
    damages += _breaks(seen)
    damages += _in_index(folder, run, sums=True)
    return Verdict(
        path=folder,
        n_shards=len(planned),
        n_unsealed=len(planned.difference(numbers)),
        n_bytes=total,
        damages=tuple(damages),
    )


def _why_no_run(path: Path) -> str:
    if not path.exists():
        return "nothing is there"
    if path.is_dir():
        return f"there is neither {RUN_FILE} nor a shard"
    if path.suffix in (".yaml", ".yml"):
        return "it is a config: give its store.path"
    if (path.parent.parent / RUN_FILE).exists():
        return f"it is one file of {path.parent.parent}: give that folder"
    return "it is one file, and a merged file has no checksums"


def _verify_trace(path: str | Path, **options: Any) -> Verdict:
    said = "probekit.verify.verify_trace is probekit.verify now; the old name goes with 0.2"
    warnings.warn(said, DeprecationWarning, stacklevel=2)
    return verify(path, **options)


setattr(verify, "verify_trace", _verify_trace)  # noqa: B010 (mypy: functions have no attributes)


def sealed_damages(folder: Path, *, sums: bool) -> list[Damage]:
    """Find what is wrong with the sealed shards of a run: all, once it has come to its end.

    Args:
        folder: of the run; its run.json is whole.
        sums: read every byte of the shards too; False compares their records and sizes alone.
    """
    run, found = _read_run(folder)
    seen: list[_Seen] = []
    for number in _due(folder, run, kept_shards(folder)):
        found += _in_shard(folder, number, run, seen, sums=sums)
    return found + _in_made(folder) + _in_inputs(folder, sums=sums) + _breaks(seen)


def _due(folder: Path, run: _Run | None, there: Iterable[int]) -> list[int]:
    """Number the shards that must be whole, ascending: those there, or all beside an index."""
    all_of_it = range(run.n_shards) if run is not None and is_indexed(folder) else ()
    return sorted({*there, *all_of_it})


def index_is_whole(folder: Path, *, sums: bool) -> bool:
    """Say whether a run has its index, of the right size or, with `sums`, to the byte."""
    run, _ = _read_run(folder)
    return not _in_index(folder, run, sums=sums)


# --- what a run says of itself


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What run.json says that its shards must agree with."""

    digest: str
    extents: tuple[tuple[int, int], ...]  # of each shard: its first example, and how many

    @property
    def n_shards(self) -> int:
        return len(self.extents)


def _read_run(folder: Path) -> tuple[_Run | None, list[Damage]]:
    path = folder / RUN_FILE
    try:
        identity = read_record(path)["identity"]
        extents = tuple((s["first_example"], s["n_examples"]) for s in identity["shards"])
    except (StoreError, LookupError, TypeError) as error:
        what = _without(path, error) if isinstance(error, StoreError) else "is not a run's"
        return None, [Damage(file=RUN_FILE, shard=None, site=None, what=what)]
    return _Run(digest=identity_digest(identity), extents=extents), []


def _in_made(folder: Path) -> list[Damage]:
    """Find what is wrong with what a run says apart, once it has sealed a shard."""
    if _beside_shards(folder) is None:
        return []
    _, what = _record(folder / MADE_FILE)
    return [Damage(file=MADE_FILE, shard=None, site=None, what=what)] if what else []


def _in_inputs(folder: Path, *, sums: bool) -> list[Damage]:
    """Find what is wrong with the inputs of a run, once it has sealed a shard."""
    identity = _beside_shards(folder)
    if identity is None:
        return []
    wrong = wrong_inputs(folder, identity.get("inputs_digest"), sums=sums)
    return [Damage(file=wrong[0], shard=None, site=None, what=wrong[1])] if wrong else []


def _beside_shards(folder: Path) -> Mapping[str, Any] | None:
    """Give the identity of a run that has sealed a shard; None where there is nothing beside it.

    Format 1.0 has no such files, and what is wrong with run.json is reported as damage of its own.
    """
    try:
        run = read_run(folder)
    except StoreError:
        return None
    if run is None or "format" not in run["identity"] or not kept_shards(folder):
        return None
    identity: Mapping[str, Any] = run["identity"]
    return identity


def _wrong_times(path: Path, number: int, run: _Run | None) -> str | None:
    """Say what is wrong with the file beside a shard that says what took how long."""
    made, what = _record(path)
    if what is None:
        if made.get("shard") != number:
            return f"is of shard {made.get('shard')}"
        if run is not None and made.get("run_digest") != run.digest:
            return "is of another run"
    return what


def _record(path: Path) -> tuple[dict[str, Any], str | None]:
    """Read a record, and say what is wrong with it; None if it is whole."""
    if not path.exists():
        return {}, "is missing"
    try:
        return read_record(path), None
    except StoreError as error:
        return {}, _without(path, error)


# --- shards


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What a shard's record says of its place in the run; a run can have many of them."""

    spec: ShardSpec
    is_local: bool


def _in_shard(
    folder: Path, number: int, run: _Run | None, seen: list[_Seen], *, sums: bool
) -> list[Damage]:
    """Find what is wrong with one shard; its bytes are read for their sums only.

    Args:
        folder: of the run.
        number: of the shard.
        run: what it must agree with.
        seen: gets what its record says, which is read here alone.
        sums: read every byte.
    """
    file = _shard_file(number)
    record_file = f"{file.removesuffix('.h5')}.json"

    def damage(file: str, what: str, site: str | None = None) -> Damage:
        return Damage(file=file, shard=number, site=site, what=what)

    if run is not None and number >= run.n_shards:
        return [
            damage(
                file, f"is not of this run, which has {counted(run.n_shards, 'shard')}, from 0 on"
            )
        ]
    missing = [f for f in (file, record_file) if not (folder / f).exists()]
    if missing:
        return [damage(f, "is missing") for f in missing]
    try:
        record = FileRecord.read(folder / record_file)
    except StoreError as error:
        return [damage(record_file, _without(folder / record_file, error))]
    spec = record.spec
    if spec is not None:
        seen.append(_Seen(spec=spec, is_local=record.is_local))
    if spec is None or spec.number != number:
        whose = "no shard" if spec is None else f"shard {spec.number}"
        return [damage(record_file, f"is the record of {whose}")]
    if run is not None and (spec.first_example, spec.n_examples) != run.extents[number]:
        return [damage(record_file, "is of another run: it holds other examples")]
    if record.is_timed and (what := _wrong_times(folder / spec.made_file, number, run)):
        return [damage(spec.made_file, what)]
    if (size := _size(folder / file)) != record.file_bytes:
        return [damage(file, f"has {counted(size, 'byte')}, {record.file_bytes:,} were written")]
    try:
        found = _in_file(folder / file, record, run) if sums else ()
        return [damage(file, what, site) for what, site in found]
    except StoreError as error:
        return [damage(file, _without(folder / file, error))]


def _in_file(path: Path, record: FileRecord, run: _Run | None) -> Iterator[tuple[str, str | None]]:
    """Compare a shard's bytes with its record; gives what is wrong, and with which site."""
    with explained(path, "read"):
        if rest_checksum(path, record.extents) != record.rest:
            yield "tables, attributes or structure do not have their checksum", None
            return
        # Its structure is as it was written, so HDF5 may look at it.
        tables = _Tables.read(path, record)
        if run is not None and tables.run_digest != run.digest:
            yield "is of another run", None
            return
        with path.open("rb", buffering=1 << 20) as raw:
            for name, site in record.sites.items():
                if site.stored is not None:
                    right = stored_checksum(raw, site.extents) == site.stored
                else:
                    right = rows_checksum(raw, site, tables.counts[name]) == site.checksum
                if not right:
                    yield "its rows do not have their checksum", name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tables:
    """What of a shard's tables is needed to read its rows example by example."""

    run_digest: str | None
    counts: Mapping[str, Array]  # by site: rows of each example, int64 [example]

    @classmethod
    def read(cls, path: Path, record: FileRecord) -> _Tables:
        with open_file(path) as file:
            examples = next(axis for axis in known_axes() if not axis.is_inner)
            ids = dataset_in(file, f"{examples.table}/{examples.columns[0].name}")
            counts = {examples.whole: np.ones(len(ids), dtype=np.int64)}
            for axis in known_axes():
                name = f"{examples.table}/{axis.count}"
                if axis.is_inner and node_in(file, name) is not None:
                    counts[axis.whole] = numbers_in(file, name)
            choices = node_in(file, "rows")
            for choice in names_in(choices, file) if choices is not None else ():
                rows = numbers_in(file, f"rows/{choice}")
                firsts = numbers_in(file, f"{examples.table}/{axis_of(choice).first}")
                owner = np.searchsorted(firsts, rows, side="right") - 1
                counts[choice] = np.bincount(owner, minlength=len(firsts))
            return cls(
                run_digest=plain(file.attrs.get("run_digest")),
                counts={
                    name: counts[str(dataset_in(file, f"sites/{name}").attrs["rows"])]
                    for name in record.sites
                },
            )


def _breaks(shards: Iterable[_Seen]) -> list[Damage]:
    """Find shards, in order, that begin elsewhere than where the one before ends.

    Each may be right by itself: how many tokens are generated can differ between devices.
    """
    found: list[Damage] = []
    ends: Mapping[str, int] = {}
    before = -1
    for shard in shards:
        spec = shard.spec
        # Which examples a shard has is the plan's, with which it was compared.
        starts = {} if shard.is_local else {k: n for k, n in spec.starts.items() if k != EXAMPLE}
        for axis, first in starts.items() if spec.number == before + 1 else ():
            if first != (end := ends.get(axis, 0)):
                what = f"begins at {axis} {first}; the shards before it end at {end}"
                found.append(Damage(file=spec.file, shard=spec.number, site=None, what=what))
        before, ends = spec.number, {k: first + spec.count(k) for k, first in starts.items()}
    return found


# --- the index


def _in_index(folder: Path, run: _Run | None, *, sums: bool) -> list[Damage]:
    def damage(file: str, what: str) -> list[Damage]:
        return [Damage(file=file, shard=None, site=None, what=what)]

    path = folder / INDEX_FILE
    for name in (INDEX_FILE, INDEX_RECORD):
        if not (folder / name).exists():
            return damage(name, "is missing")
    try:
        record = FileRecord.read(folder / INDEX_RECORD)
    except StoreError as error:
        return damage(INDEX_RECORD, _without(folder / INDEX_RECORD, error))
    if (size := _size(path)) != record.file_bytes:
        return damage(
            INDEX_FILE, f"has {counted(size, 'byte')}, {record.file_bytes:,} were written"
        )
    if not sums:
        return []
    try:
        if rest_checksum(path, ()) != record.rest:
            return damage(INDEX_FILE, "does not have its checksum")
        with open_file(path) as file:
            if run is not None and plain(file.attrs.get("run_digest")) != run.digest:
                return damage(INDEX_FILE, "is of another run")
    except StoreError as error:
        return damage(INDEX_FILE, _without(path, error))
    return []


def _shard_file(number: int) -> str:
    return f"{SHARDS_FOLDER}/{number:05d}.h5"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _without(path: Path, error: StoreError) -> str:
    return str(error).removeprefix(f"{path}: ")
