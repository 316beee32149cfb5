"""Shuffled batches for training against reading the same rows in order with np.memmap.

The trace is made of random bits in the writer's own files: four shards of a wide bfloat16 site and
a narrow float32 site. "Cold" means that the system was told to forget the files before each
reading, which it does as far as it likes. How well the order is shuffled is set against a full
permutation of the same rows.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from pairs import compare, options, report
from torch.utils.data import DataLoader

import probekit
from probekit.index import build_index
from probekit.schema import ShardSpec, SiteSpec
from probekit.shuffling import EpochOrder, Settings
from probekit.trace import Trace
from probekit.writer import ShardTables, ShardWriter

BATCH = 4096
EXAMPLE = 128  # tokens
SHARDS = 4
WIDE, NARROW = "h.0.mlp.act/output", "h.0/output"


def sites() -> tuple[SiteSpec, ...]:
    """Give a wide site in bfloat16, 6 KiB a row, and a narrow one in float32, 3 KiB."""
    wide = SiteSpec(
        module="h.0.mlp.act",
        kind="output",
        rows="all",
        axes=("token", "d_mlp"),
        row_shape=(3072,),
        dtype="bfloat16",
        source_dtype="bfloat16",
        layer=0,
        portable=None,
        module_class="GELU",
        probe=0,
    )
    narrow = replace(
        wide, module="h.0", axes=("token", "d_model"), row_shape=(768,), dtype="float32"
    )
    return wide, narrow


def write_trace(folder: Path, n_examples: int) -> Trace:
    """Write shards of `n_examples` texts of 128 tokens each, and their index."""
    draw, specs, n_tokens = np.random.default_rng(0), sites(), n_examples * EXAMPLE
    shards = [
        ShardSpec(
            number=number,
            first_example=number * n_examples,
            n_examples=n_examples,
            first_token=number * n_tokens,
            n_tokens=n_tokens,
            n_rows={"all": n_tokens},
        )
        for number in range(SHARDS)
    ]
    tables = ShardTables(
        ids=("",) * n_examples,
        texts=("",) * n_examples,
        n_tokens=np.full(n_examples, EXAMPLE),
        token_ids=np.zeros(n_tokens, dtype=np.int32),
        choices={},
        counts={"all": np.full(n_examples, EXAMPLE)},
    )
    for shard in shards:
        with ShardWriter(folder, shard, specs, tables, {"probekit_format": 1}) as out:
            for example in range(n_examples):
                out.write(0, draw.integers(0, 2**15, (EXAMPLE, 3072), np.uint16), [example], [0])
                out.write(1, draw.random((EXAMPLE, 768), np.float32), [example], [0])
            out.seal()
    build_index(folder, shards, specs, {"probekit_format": 1}, None)
    return probekit.open(folder)


def memmaps(trace: Trace, name: str) -> list[Any]:
    """Map a site's rows in every shard, as any reader of the file can."""
    found = []
    for file in sorted((trace.path.parent / "shards").glob("*.h5")):
        with h5py.File(file) as shard:
            dataset = shard[f"sites/{name}"]
            offset, shape = dataset.id.get_offset(), dataset.shape
        dtype = np.uint16 if name == WIDE else np.float32
        found.append(np.memmap(file, dtype, "r", offset, shape))
    return found


def in_order(trace: Trace, names: list[str]) -> None:
    """Read rows in order, a batch at a time, into tensors of their own; a loop holds the last."""
    batch: list[Any] = []
    for shard in zip(*(memmaps(trace, name) for name in names), strict=True):
        for begin in range(0, len(shard[0]), BATCH):
            batch = [torch.from_numpy(np.array(rows[begin : begin + BATCH])) for rows in shard]
    assert batch


def batches(trace: Trace, names: list[str], n_workers: int = 0, **given: Any) -> None:
    """Read an epoch of batches."""
    dataset = trace.dataset(names, batch_size=BATCH, **given)
    loader = DataLoader(dataset, batch_size=None, num_workers=n_workers) if n_workers else dataset
    for _ in loader:
        pass


def cold(trace: Trace, read: Callable[[], None]) -> Callable[[], None]:
    """Forget the files first."""

    def run() -> None:
        for file in (trace.path.parent / "shards").glob("*.h5"):
            fd = os.open(file, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        read()

    return run


def orders(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Give the order of an epoch, and a full permutation."""
    order = EpochOrder(settings, epoch=0, rank=0)
    yield "dataset", np.concatenate([order.batch(b) for b in range(settings.n_batches)])
    yield "permutation", np.random.default_rng(1).permutation(settings.n_rows)


def show_shuffling(n_rows: int) -> None:
    """Print how well rows of 6 KiB are mixed, with the default sizes of blocks and buffer."""
    settings = Settings(
        n_rows=n_rows,
        rows="all",
        batch_size=BATCH,
        shuffle=True,
        seed=0,
        block_rows=21,
        window_rows=174_762,
        world_size=1,
        drop_last=False,
    )
    print(f"{'order of rows':<14} {'displacement':>12} {'rank corr.':>10} {'neighbours':>10} "
          f"{'batch means':>11}")  # fmt: skip
    signal = np.random.default_rng(2).standard_normal(n_rows // EXAMPLE + 1)  # one a text
    for name, order in orders(settings):
        moved = np.abs(order - np.arange(n_rows)).mean() / n_rows
        correlation = np.corrcoef(order, np.arange(n_rows))[0, 1]
        texts = order // EXAMPLE
        same = (texts[1:] == texts[:-1]).mean()
        whole = signal[texts[: n_rows // BATCH * BATCH]].reshape(-1, BATCH)
        spread = whole.mean(1).std() / (signal.std() / BATCH**0.5)
        print(f"{name:<14} {moved:>12.4f} {correlation:>10.4f} {same:>10.2e} {spread:>11.2f}")
    print("displacement: mean, in epochs (1/3); neighbours: share from one text; batch means:")
    print("deviation of a text's property, averaged over a batch, against independent rows (1)")


def main() -> None:
    """Measure, print, and write JSON if asked."""
    given = options(__doc__)
    n_examples, n_pairs = (150, 3) if given.quick else (600, 7)
    shuffled = {"shuffle": True, "buffer_rows": n_examples * EXAMPLE * SHARDS // 8}
    if shuffled["buffer_rows"] < BATCH:
        raise SystemExit("too few rows")
    one, two = [WIDE], [WIDE, NARROW]
    with tempfile.TemporaryDirectory() as scratch:
        trace = write_trace(Path(scratch) / "run", n_examples)
        n_bytes = len(trace[WIDE]) * 3072 * 4
        print(f"{len(trace[WIDE]):,} rows in {SHARDS} shards, {n_bytes / 1e9:.1f} GB")
        target = "<= 1.25"  # 0.8 of the speed
        cases: list[tuple[str, Callable[[], None], Callable[[], None]]] = [
            (
                "shuffled, one site",
                lambda: batches(trace, one, **shuffled),
                lambda: in_order(trace, one),
            ),
            (
                "shuffled, two sites",
                lambda: batches(trace, two, **shuffled),
                lambda: in_order(trace, two),
            ),
            ("in order, one site", lambda: batches(trace, one), lambda: in_order(trace, one)),
            (
                "shuffled against in order, two workers",
                lambda: batches(trace, one, 2, **shuffled),
                lambda: batches(trace, one, 2),
            ),
        ]
        results = [
            compare(measure, ours, theirs, n_pairs=n_pairs, target=target)
            for measure, ours, theirs in cases
        ]
        results += [
            compare(
                f"{measure}, cold",
                cold(trace, ours),
                cold(trace, theirs),
                n_pairs=n_pairs,
                target=target,
            )
            for measure, ours, theirs in cases[:2]
        ]
    report(results, given.json)
    show_shuffling(1_000_000)


if __name__ == "__main__":
    main()
