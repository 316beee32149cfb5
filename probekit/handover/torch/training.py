"""What is asked of a training dataset, checked and worked out before anything is read.

Knows what makes sense: sites with the same rows, sizes of blocks and buffers, shares of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xxhash

from probekit import arguments
from probekit.errors import StoreError
from probekit.handover.torch.batches import RowBatches, RowItems
from probekit.handover.torch.rowreader import RowReader
from probekit.handover.torch.shuffling import Settings
from probekit.store import DTYPES, is_choice
from probekit.trace import Patterns, choose_sites
from probekit.wording import by_count, counted, show_typed, values_of

if TYPE_CHECKING:
    from probekit.trace import Site, Trace

Array = np.ndarray[Any, Any]

_BUFFER_BYTES = 1 << 30
_BUFFER_BATCHES = 16  # at least
# Rows that are read in one piece. Larger ones are faster on a cold disk; smaller ones mix better:
# the mean over a batch of what a whole text shares has a variance of up to
# 1 + batch_size * block_rows / buffer_rows times that in a full permutation.
_BLOCK_BYTES = 1 << 17
_BLOCKS = 256  # in a buffer, at least
_CHECKED = 1 << 20  # rows that are looked at together
_ORIGIN = ("token", "token_id", "position", "example")  # what `origin` adds to a batch


def make_batches(
    trace: Trace,
    patterns: Patterns,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    rows: Array | None,
    origin: bool,
    columns: Sequence[str],
    drop_last: bool,
    buffer_rows: int | None,
    rank: int | None,
    world_size: int | None,
) -> RowBatches:
    """Make a dataset of batches; see `Trace.dataset`."""
    sites = _sites(trace, patterns)
    kept = _kept(sites[0], rows)
    n_rows = len(sites[0]) if kept is None else len(kept)
    rank, world_size = _share(rank, world_size)
    batch_size = _whole("batch_size", batch_size, 1)
    row_bytes = [prod(s.shape[1:]) * DTYPES[s.dtype].storage.itemsize for s in sites]
    if buffer_rows is None:
        buffer_rows = max(_BUFFER_BYTES // max(1, sum(row_bytes)), _BUFFER_BATCHES * batch_size)
    buffer_rows = _whole("buffer_rows", buffer_rows, batch_size)
    settings = Settings(
        n_rows=n_rows,
        rows="all" if kept is None else xxhash.xxh3_64_hexdigest(kept.astype("<i8").tobytes()),
        batch_size=batch_size,
        shuffle=bool(shuffle),
        seed=_whole("seed", seed, 0),
        block_rows=max(1, min(_BLOCK_BYTES // max(1, *row_bytes), buffer_rows // _BLOCKS)),
        window_rows=buffer_rows,
        world_size=world_size,
        drop_last=bool(drop_last),
    )
    _refuse_too_few(settings)
    reader = _reader(trace, sites, origin, columns, kept)
    return RowBatches(reader, settings, rank=rank)


def make_items(
    trace: Trace,
    patterns: Patterns,
    *,
    rows: Array | None,
    origin: bool,
    columns: Sequence[str],
) -> RowItems:
    """Make a dataset of rows; see `Trace.map_dataset`."""
    sites = _sites(trace, patterns)
    kept = _kept(sites[0], rows)
    reader = _reader(trace, sites, origin, columns, kept)
    return RowItems(reader, len(sites[0]) if kept is None else len(kept))


def _reader(
    trace: Trace,
    sites: tuple[Site, ...],
    origin: bool,
    columns: Sequence[str],
    kept: Array | None,
) -> RowReader:
    names = tuple(arguments.texts("columns", columns)) if columns else ()
    reader = RowReader(trace, tuple(s.name for s in sites), origin=origin, columns=names, kept=kept)
    for name in names:
        values = trace.columns[name]
        if name in _ORIGIN and origin:
            raise StoreError(f"columns: {name} is also said by origin=True; leave one out")
        if not isinstance(values, np.ma.MaskedArray) or values.dtype.kind not in "ib":
            continue
        missing = np.ma.getmaskarray(values)
        chosen = np.arange(len(sites[0])) if kept is None else kept
        for begin in range(0, len(chosen), _CHECKED):
            examples = reader.examples_of(chosen[begin : begin + _CHECKED])
            if (gaps := examples[missing[examples]]).size:
                raise StoreError(
                    f"{trace.path}: example {gaps[0]} has no {name}, and a tensor of "
                    f"{trace.columns.types[name].dtype} has no word for that; leave such rows "
                    "out, by rows="
                )
    return reader


def _sites(trace: Trace, patterns: Patterns) -> tuple[Site, ...]:
    sites = choose_sites(trace, patterns)
    for site in sites:
        if site.rows != sites[0].rows:
            raise StoreError(
                f"{trace.path}: sites of one dataset must have the same rows: {sites[0].name} has "
                f"{_rows(sites[0])}, {site.name} has {_rows(site)}; make a dataset of each"
            )
        if site.dtype not in DTYPES:
            raise StoreError(f"{site.name}: torch has no dtype {site.dtype}")
    return sites


def _rows(site: Site) -> str:
    what = f"positions {site.rows}" if is_choice(site.rows) else f"one for each {site.axis}"
    return f"{counted(len(site), 'row')} ({what})"


def _kept(site: Site, rows: Array | None) -> Array | None:
    """Give the numbers of the rows that were asked for, ascending; None for all."""
    if rows is None:
        return None
    given = np.asarray(rows)
    if given.dtype == bool and given.shape == (len(site),):
        return np.flatnonzero(given)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise StoreError(
            f"rows: given {values_of(given.dtype.kind)} {list(given.shape)}, expected a mask of "
            f"{counted(len(site), 'bool')}, one for each row, or a list of row numbers"
        )
    kept = np.sort(given.astype(np.int64))
    if len(kept) and not 0 <= kept[0] <= kept[-1] < len(site):
        said = f"{kept[0]} is" if len(kept) == 1 else f"{kept[0]} to {kept[-1]} are"
        raise StoreError(
            f"rows: {said} out of range: there "
            f"{by_count(len(site), 'is', 'are')} {counted(len(site), 'row')}"
        )
    if (repeated := kept[1:][np.diff(kept) == 0]).size:
        raise StoreError(f"rows: {repeated[0]} is given twice; every row comes once an epoch")
    return kept


def _share(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if rank is None and world_size is None:
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1
    if rank is None or world_size is None:
        raise StoreError(
            f"rank: {rank}, world_size: {world_size}; give both, or neither for torch.distributed's"
        )
    world_size = _whole("world_size", world_size, 1)
    if not 0 <= rank < world_size:
        raise StoreError(f"rank: given {rank}, expected 0 to {world_size - 1} (world_size - 1)")
    return int(rank), world_size


def _whole(what: str, value: Any, least: int) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        is_bare = repr(value).endswith(f" at {id(value):#x}>")  # it says nothing but an address
        given = show_typed(value) if is_bare else repr(value)
        raise StoreError(f"{what}: given {given}, expected a whole number of at least {least}")
    return int(value)


def _refuse_too_few(settings: Settings) -> None:
    n_rows, world_size, size = settings.n_rows, settings.world_size, settings.batch_size
    rows = f"{by_count(n_rows, 'is', 'are')} {counted(n_rows, 'row')}"
    processes = counted(world_size, "process", "processes")
    if n_rows < world_size:
        raise StoreError(f"there {rows} for {processes}; nothing to give")
    if not settings.n_batches:
        raise StoreError(
            f"batch_size: {size} with drop_last=True leaves nothing: there {rows} for {processes}"
        )
    if size == 1 and n_rows % world_size and not settings.drop_last:
        raise StoreError(
            f"batch_size: 1 for {counted(n_rows, 'row')} and {processes} would give some processes "
            "a batch more than others; take larger batches, or drop_last=True"
        )
