"""ShardWriter: lay a shard out, write its rows, seal it.

Knows bytes and files; nothing of models. HDF5 lays out the file once, with every dataset contiguous
and allocated, so that each dataset's bytes lie at a known offset. From then on rows are plain
`pwrite`s: no HDF5 lock, no type conversion, and no zero fill that would be written twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import xxhash

from probekit.errors import StoreError
from probekit.store.format import (
    FIRST,
    NEWEST,
    TOKEN,
    Execution,
    FileRecord,
    Format,
    HDF5Out,
    ShardSpec,
    SiteRecord,
    SiteSpec,
    explained,
    forwards_to_json,
    fsync,
    joined_checksum,
    part_of,
    rest_checksum,
    schema,
    stored_checksum,
    stored_extents,
    write_execution,
    write_in_pieces,
    write_orders,
    write_record,
)
from probekit.store.writing.compression import compress
from probekit.store.writing.layout import ShardTables, lay_out
from probekit.store.writing.publishing import publish_sealed
from probekit.store.writing.syncing import Flusher
from probekit.wording import by_count, counted

_ASIDE_BYTES = 1 << 20  # from here on a digest is worth waking a thread
_NO_ROWS = xxhash.xxh3_64_intdigest(b"")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Rows of one example of one site, on their way into the file."""

    site: int
    example: int
    data: memoryview
    offset: int  # in the file
    hasher: xxhash.xxh3_64  # of the rows of this example


class ShardWriter:
    """Write one shard under a temporary name; it gets its own name only when it is whole.

    Use as a context manager. Leaving the block without `seal` removes what was written.
    """

    def __init__(
        self,
        folder: Path,
        shard: ShardSpec,
        sites: Sequence[SiteSpec],
        tables: ShardTables,
        attributes: Mapping[str, Any],
        *,
        compression: str | None = None,
        layout: Format = NEWEST,
    ) -> None:
        self.shard = shard
        self._sites = tuple(sites)
        self._tables = tables
        self._attributes = attributes
        self._compression = compression
        self._layout = layout
        self._is_local = layout != FIRST and "step" in tables.columns[TOKEN]
        self._is_timed = False
        self._final = folder / shard.file
        self._part = part_of(self._final)
        self._first_row = {k: np.concatenate(([0], np.cumsum(c))) for k, c in tables.counts.items()}
        self._offsets: list[int] = []
        self._file: FileIO | None = None
        self._flusher = Flusher(-1)
        self._aside = ThreadPoolExecutor(1, "probekit-digest")  # its thread starts when needed
        self._stack = ExitStack()
        # A digest for each example of each site, and how many of its rows have come.
        shape = (len(self._sites), shard.n_examples)
        self._digests = np.full(shape, _NO_ROWS, dtype="<u8")
        self._done = np.zeros(shape, dtype=np.int64)
        self._hashers: dict[tuple[int, int], xxhash.xxh3_64] = {}  # of examples that came in part

    def __enter__(self) -> Self:
        with explained(self._final), ExitStack() as stack:
            self._final.parent.mkdir(parents=True, exist_ok=True)
            stack.callback(self._part.unlink, missing_ok=True)
            self._offsets = lay_out(
                self._part, self.shard, self._sites, self._tables, self._attributes, self._layout
            )
            stack.callback(self._close)  # first, or an interrupt would leave the file open
            self._file = FileIO(self._part, "r+")
            self._flusher = Flusher(self._file.fileno())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def write(
        self,
        site: int,
        block: Array,
        examples: Sequence[int],
        starts: Sequence[int],
        n_rows: Sequence[int] | None = None,
    ) -> None:
        """Write rows of one site.

        Args:
            site: number of the site.
            block: rows in the stored dtype's storage, `[row, *row_shape]`, C-contiguous.
            examples: numbers within the shard.
            starts: for each example, the row of `block` where its rows begin.
            n_rows: for each example, how many rows come now, behind those that came before;
                None for all of them.

        Raises:
            StoreError: if the rows do not fit the plan, or are more than it says.
        """
        spec = self._sites[site]
        _check_block(spec, block)
        counts, first_row = self._tables.counts[spec.rows], self._first_row[spec.rows]
        data = memoryview(block.reshape(-1).view(np.uint8).data)  # flat bytes; no copy
        pieces = []
        for place, (example, start) in enumerate(zip(examples, starts, strict=True)):
            done, wanted = int(self._done[site, example]), int(counts[example])
            n_now = wanted if n_rows is None else n_rows[place]
            if done + n_now > wanted:
                raise StoreError(
                    f"{spec.name}: example {example} of the shard has {counted(wanted, 'row')}; "
                    f"{done:,} {by_count(done, 'was', 'were')} there when {n_now:,} more came"
                )
            rows = data[start * spec.row_bytes : (start + n_now) * spec.row_bytes]
            if len(rows) != n_now * spec.row_bytes:
                raise StoreError(
                    f"{spec.name}: example {example} of the shard has {counted(n_now, 'row')} to "
                    f"write, the block holds {len(block) - start:,}"
                )
            offset = self._offsets[site] + (int(first_row[example]) + done) * spec.row_bytes
            hasher = self._hashers.pop((site, example), None) or xxhash.xxh3_64()
            pieces.append(
                _Piece(site=site, example=example, data=rows, offset=offset, hasher=hasher)
            )
            self._done[site, example] = done + n_now
            if done + n_now < wanted:
                self._hashers[site, example] = hasher
        with explained(self._final), self._digested(pieces):
            self._flusher.wrote(sum(len(piece.data) for piece in pieces))
            assert self._file is not None  # entered
            for piece in pieces:
                write_in_pieces(self._file.fileno(), piece.data, piece.offset)

    @contextmanager
    def _digested(self, pieces: Sequence[_Piece]) -> Iterator[None]:
        """Digest rows while they are written, on another core where that is worth its while."""
        if sum(len(piece.data) for piece in pieces) < _ASIDE_BYTES:
            self._digest(pieces)
            yield
            return
        digesting = self._aside.submit(self._digest, pieces)
        try:
            yield
        finally:
            digesting.result()  # the rows are lent: nobody may look at them any longer

    def _digest(self, pieces: Sequence[_Piece]) -> None:
        for piece in pieces:
            piece.hasher.update(piece.data)
            self._digests[piece.site, piece.example] = piece.hasher.intdigest()

    def forget(self, examples: Sequence[int]) -> None:
        """Take back every row of some examples, of every site: they will come again."""
        gone = frozenset(examples)
        self._done[:, list(gone)] = 0
        self._digests[:, list(gone)] = _NO_ROWS
        self._hashers = {at: h for at, h in self._hashers.items() if at[1] not in gone}

    def seal(
        self,
        execution: Execution | None = None,
        times: Mapping[str, Any] | None = None,
        site_attributes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Make the shard whole: every row there, checksummed, on the disk, under its own name.

        Args:
            execution: what ran in which order, if it was recorded.
            times: what took how long; it may differ between equal runs.
            site_attributes: more of some sites', by site name.

        Raises:
            StoreError: if a row that was planned has not been written.
        """
        self._refuse_gaps()
        self._close()
        with explained(self._final):
            self._flusher.check()
            if self._layout == FIRST:
                self._add(execution, times or {}, site_attributes or {})
            else:
                self._add(execution, {}, site_attributes or {})
                self._write_apart(execution, times or {})
            self._seal()

    def _add(
        self,
        execution: Execution | None,
        attributes: Mapping[str, Any],
        site_attributes: Mapping[str, Mapping[str, Any]],
    ) -> None:
        if execution is None and not attributes and not site_attributes:
            return
        with HDF5Out(self._part, "r+") as out:
            out.file.attrs.update(attributes)
            for name, more in site_attributes.items():
                out.file[f"sites/{name}"].attrs.update(more)
            if execution is not None:
                write = write_execution if self._layout == FIRST else write_orders
                write(out.file, execution)

    def _write_apart(self, execution: Execution | None, times: Mapping[str, Any]) -> None:
        """Write what may differ between equal runs into a file beside the shard, and before it."""
        self._is_timed = execution is not None or bool(times)
        if self._is_timed:
            forwards = None if execution is None else forwards_to_json(execution)
            path = self._final.with_name(Path(self.shard.made_file).name)
            whose = {"shard": self.shard.number, "run_digest": self._attributes.get("run_digest")}
            write_record(path, {**whose, "forwards": forwards, "generate": dict(times)})

    def _seal(self) -> None:
        if self._compression is not None:
            compress(self._part, self._sites, self._compression)
        record = self._record()
        fsync(self._part)
        publish_sealed(self._part, self._final, record)

    def _record(self) -> FileRecord:
        extents = stored_extents(self._part)
        with self._part.open("rb") as raw:
            sites = {
                spec.name: SiteRecord(
                    rows=self.shard.n_rows[spec.rows],
                    bytes=self.shard.n_rows[spec.rows] * spec.row_bytes,
                    checksum=joined_checksum(self._digests[number]),
                    extents=extents[spec.name],
                    stored=stored_checksum(raw, extents[spec.name]) if self._compression else None,
                )
                for number, spec in enumerate(self._sites)
            }
        return FileRecord(
            file_bytes=self._part.stat().st_size,
            rest=rest_checksum(self._part, (e for site in sites.values() for e in site.extents)),
            spec=self.shard,
            is_local=self._is_local,
            is_timed=self._is_timed,
            sites=sites,
        )

    def _refuse_gaps(self) -> None:
        missing = []
        for number, spec in enumerate(self._sites):
            n_short = int((self._done[number] < self._tables.counts[spec.rows]).sum())
            if n_short:
                short = counted(n_short, "example", of=self.shard.n_examples)
                missing.append(f"{spec.name} ({short})")
        if missing:
            raise StoreError(
                f"shard {self.shard.number}: rows that were planned never came, so it is not "
                f"sealed: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}"
            )

    def _close(self) -> None:
        """Close the file once: its number, closed again, might be another file's by then.

        An interrupt may come between any two lines here; the file itself knows whether it is open.
        """
        if self._file is not None and not self._file.closed:
            self._flusher.stop()
            self._aside.shutdown()
            self._file.close()


def _check_block(spec: SiteSpec, block: Array) -> None:
    storage = schema.DTYPES[spec.dtype].storage
    if block.shape[1:] != spec.row_shape or block.dtype != storage:
        raise StoreError(
            f"{spec.name}: the plan says rows of {list(spec.row_shape)} {spec.dtype} "
            f"({storage}), given {list(block.shape[1:])} {block.dtype}"
        )
    if not block.flags.c_contiguous:
        raise StoreError(f"{spec.name}: rows must be C-contiguous")
