"""Shuffled batches for training against reading the same rows in order with np.memmap.

Traces of random rows, 3 072 values each, in one shard and in four: a bfloat16 site and a float32
site. np.memmap maps the same files. All end in torch tensors of their own memory, 4 096 rows each,
of which a loop holds the last.

- In the page cache, the processor's time is what counts: neither the disk nor others are timed.
  What the shuffled order costs by itself is timed too, with np.memmap alone.
- "Cold" means that the system was told to forget the files before, which it does as far as it
  likes; here the clock on the wall counts, as with worker processes.

How well the order is shuffled is set against a full permutation of as many rows.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from pairs import Comparison, compare, options, report
from random_trace import write_trace
from torch.utils.data import DataLoader

import probekit
from probekit.handover.torch.shuffling import EpochOrder, Settings

Array = np.ndarray[Any, Any]
Read = Callable[[], None]

BATCH, D_MODEL, EXAMPLE = 4096, 3072, 128
STORAGE = {"float32": np.dtype("<f4"), "bfloat16": np.dtype("<u2")}
ONE, TWO = ("bfloat16",), ("bfloat16", "float32")
TARGET = "<= 1.25"  # 0.8 of the speed


def shard_files(trace: probekit.Trace) -> list[Path]:
    """Give the files that the rows lie in."""
    return sorted((trace.path.parent / "shards").glob("*.h5"))


def memmaps(file: Path, sites: Sequence[str]) -> list[Array]:
    """Map the rows of sites in a shard, anew, where bare h5py says that they lie."""
    with h5py.File(file) as shard:
        datasets = [shard[f"sites/{site}/output"] for site in sites]
        places = [(d.id.get_offset(), d.shape) for d in datasets]
    return [
        np.asarray(np.memmap(file, STORAGE[site], "r", *place))
        for site, place in zip(sites, places, strict=True)
    ]


def in_order(trace: probekit.Trace, sites: Sequence[str]) -> None:
    """Read rows in order with np.memmap."""
    batch: list[Any] = []
    for file in shard_files(trace):
        maps = memmaps(file, sites)
        for begin in range(0, len(maps[0]), BATCH):
            batch = [torch.from_numpy(np.array(rows[begin : begin + BATCH])) for rows in maps]
    assert batch


def gathered(trace: probekit.Trace, sites: Sequence[str], settings: Settings) -> None:
    """Read the rows of each batch with np.memmap: what their order costs by itself."""
    (file,) = shard_files(trace)
    maps, order = memmaps(file, sites), EpochOrder(settings, epoch=0, rank=0)
    batch: list[Any] = []
    for number in range(settings.n_batches):
        numbers = order.batch(number)
        batch = [torch.from_numpy(rows[numbers]) for rows in maps]
    assert batch


def epoch(trace: probekit.Trace, sites: Sequence[str], *, n_workers: int = 0, **given: Any) -> None:
    """Read an epoch of batches."""
    dataset = trace.dataset(sites, batch_size=BATCH, **given)
    batches = DataLoader(dataset, batch_size=None, num_workers=n_workers) if n_workers else dataset
    for _ in batches:
        pass


def cold(trace: probekit.Trace, read: Read) -> Read:
    """Forget the files first."""

    def run() -> None:
        for file in shard_files(trace):
            fd = os.open(file, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        read()

    return run


def in_memory(one: probekit.Trace, four: probekit.Trace, n_pairs: int) -> list[Comparison]:
    """Time what lies in the page cache."""
    settings = one.dataset(ONE, batch_size=BATCH, **shuffled(one)).settings
    order = partial(gathered, one, ONE, settings)

    def mixed(trace: probekit.Trace, sites: Sequence[str]) -> Read:
        return partial(epoch, trace, sites, **shuffled(trace))

    def plain(trace: probekit.Trace, sites: Sequence[str]) -> Read:
        return partial(in_order, trace, sites)

    jobs = (
        ("in order / np.memmap in order", partial(epoch, one, ONE), plain(one, ONE), ""),
        ("shuffled / np.memmap in order", mixed(one, ONE), plain(one, ONE), TARGET),
        ("shuffled / np.memmap, the same order", mixed(one, ONE), order, ""),
        ("np.memmap, the same order / in order", order, plain(one, ONE), ""),
        ("four shards: shuffled / np.memmap", mixed(four, ONE), plain(four, ONE), TARGET),
        ("two sites: shuffled / np.memmap", mixed(four, TWO), plain(four, TWO), TARGET),
    )
    return [
        compare(name, ours, theirs, n_pairs=n_pairs, target=target, clock=time.process_time)
        for name, ours, theirs, target in jobs
    ]


def waiting(trace: probekit.Trace, n_pairs: int) -> list[Comparison]:
    """Time what waits: for other processes, and for the disk."""
    given, workers = shuffled(trace), partial(epoch, trace, ONE, n_workers=2)
    mixed = cold(trace, partial(epoch, trace, ONE, **given))
    jobs = (
        ("two workers: shuffled / in order", partial(workers, **given), workers),
        ("cold: shuffled / np.memmap", mixed, cold(trace, partial(in_order, trace, ONE))),
        ("cold: shuffled / in order", mixed, cold(trace, partial(epoch, trace, ONE))),
    )
    return [
        compare(name, ours, theirs, n_pairs=n_pairs, target=TARGET) for name, ours, theirs in jobs
    ]


def shuffled(trace: probekit.Trace) -> dict[str, Any]:
    """Give the options of a shuffled epoch, a quarter of the rows among themselves."""
    return {"shuffle": True, "buffer_rows": len(trace.tokens) // 4}


def show_shuffling(n_rows: int) -> None:
    """Print how well rows of 6 KiB are mixed, with the default sizes of blocks and buffer."""
    settings = Settings(
        n_rows=n_rows,
        rows="all",
        batch_size=BATCH,
        shuffle=True,
        seed=0,
        block_rows=(1 << 17) // 6144,
        window_rows=(1 << 30) // 6144,
        world_size=1,
        drop_last=False,
    )
    order = EpochOrder(settings, epoch=0, rank=0)
    orders = {
        "dataset": np.concatenate([order.batch(b) for b in range(settings.n_batches)]),
        "permutation": np.random.default_rng(1).permutation(n_rows),
    }
    signal = np.random.default_rng(2).standard_normal(n_rows // EXAMPLE + 1)  # one a text
    print(f"\n{n_rows:,} rows, texts of {EXAMPLE}, blocks of {settings.block_rows} rows, "
          f"{settings.window_rows:,} shuffled among themselves")  # fmt: skip
    print(f"{'order':<12} {'moved':>7} {'rank corr.':>11} {'same text':>10} {'batch means':>12}")
    for name, rows in orders.items():
        moved = np.abs(rows - np.arange(n_rows)).mean() / n_rows
        correlation = np.corrcoef(rows, np.arange(n_rows))[0, 1]
        texts = rows // EXAMPLE
        same = (texts[1:] == texts[:-1]).mean()
        means = signal[texts[: n_rows // BATCH * BATCH]].reshape(-1, BATCH).mean(1)
        spread = means.var() * BATCH / signal.var()
        print(f"{name:<12} {moved:>7.4f} {correlation:>11.4f} {same:>10.2e} {spread:>12.2f}")
    print("moved: mean distance, in epochs (a permutation's is 1/3). same text: share of\n"
          "neighbours. batch means: variance of the mean over a batch of something that a whole\n"
          "text shares, against that of independent rows")  # fmt: skip


def main() -> None:
    """Measure, print, and write JSON if asked."""
    given = options(__doc__)
    n_examples, n_pairs = (150, 2) if given.quick else (1600, 7)
    with tempfile.TemporaryDirectory() as scratch:
        traces = []
        for n_shards in (1, 4):
            folder = Path(scratch) / str(n_shards)
            write_trace(folder, TWO, np.full(n_examples, EXAMPLE), D_MODEL, n_shards)
            traces.append(probekit.open(folder))
        one, four = traces
        report([*in_memory(one, four, n_pairs), *waiting(four, n_pairs)], given.json)
    show_shuffling(1_000_000)


if __name__ == "__main__":
    main()
