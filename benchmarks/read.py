"""Reading a trace that lies over four shards, against the same rows in one file of others.

np.memmap maps a file of the bare rows; h5py reads a chunked dataset (256 rows a chunk, bfloat16 as
its 16 bits); safetensors slices one tensor (`safe_open(...).get_slice`). Three jobs: a sweep over
all rows, 1 024 at a time; 500 whole examples of 8 to 512 tokens, chosen at random; 4 096 rows
scattered over everything. Both sides end alike:

- numpy: the stored bits, float32, or uint16 for bfloat16 (`site.raw`). What may be a view of the
  file (sweeps and examples) is copied into a buffer, so that every byte is touched.
- widened: bfloat16 as float32 in new memory (`site[...]`); numpy does it to the memmap's rows.
- torch: a tensor of the stored dtype in memory of its own (`site.torch(rows)`).

What the readers give is checked equal before it is timed. All files lie in the page cache, torch
has one thread, and the clock counts the processor time of that thread: neither the disk nor others
on the machine are timed. Where in memory the pages of a file come to lie makes it up to a quarter
faster or slower to read through a map, so all files are read from the disk into the page cache
several times; the ratio is the median over these times, its spread the smallest and largest.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from pairs import Comparison, compare, options, report
from random_trace import write_trace
from safetensors import safe_open
from safetensors.torch import save_file

import probekit

Array = np.ndarray[Any, Any]
Read = Callable[[Any], Any]  # rows by a slice, or by an array of their numbers

STORAGE = {"float32": np.dtype("<f4"), "bfloat16": np.dtype("<u2")}
D_MODEL, N_SHARDS = 768, 4
BLOCK, N_EXAMPLES, N_SCATTERED = 1024, 500, 4096
N_GATHERS = 10  # sets of scattered rows in one timing: one of them takes a millisecond
AS_MEMMAP = ("<= 1.11", "<= 1.11", "<= 1.50")  # 1.11 of its time is 0.90 of its speed


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """What is read."""

    blocks: list[slice]  # rows, one block after another
    numbers: list[int]  # of examples, at random
    examples: list[slice]  # their rows
    scattered: list[Array]  # numbers of rows, int64 each


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Two readers of the same rows."""

    name: str
    ours: Read
    theirs: Read
    whole: Read | None = None  # ours, for an example by its number
    copied: Array | None = None  # where to copy what may be a view
    targets: tuple[str, str, str] = ("", "", "")  # sweep, examples, scattered
    n_gathers: int = N_GATHERS


def choose(trace: probekit.Trace) -> Jobs:
    """Choose rows and examples at random."""
    draw = np.random.default_rng(1)
    n_rows = len(trace.tokens)
    numbers = draw.integers(len(trace.examples), size=N_EXAMPLES).tolist()
    extents = [trace.examples.extent(number) for number in numbers]
    return Jobs(
        blocks=[slice(begin, begin + BLOCK) for begin in range(0, n_rows, BLOCK)],
        numbers=numbers,
        examples=[slice(first, first + n_tokens) for first, n_tokens in extents],
        scattered=[draw.choice(n_rows, N_SCATTERED, replace=False) for _ in range(N_GATHERS)],
    )


def write_others(folder: Path) -> None:
    """Write the rows of every site as the other readers want them."""
    trace = probekit.open(folder)
    save_file({dtype: trace[dtype].torch() for dtype in STORAGE}, folder / "rows.safetensors")
    with h5py.File(folder / "chunked.h5", "w") as file:
        for dtype in STORAGE:
            bits = trace[dtype].raw(slice(None))
            bits.tofile(folder / f"{dtype}.bin")
            file.create_dataset(dtype, data=bits, chunks=(256, D_MODEL))


def settle(folder: Path) -> None:
    """Let every file come into the page cache anew: from the disk, front to back."""
    gc.collect()  # maps that live keep their pages
    for path in (p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb", buffering=0) as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):  # not on macOS
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(2**20):
                pass


def hand_widened(bits: Array) -> Array:
    """Turn the bits of bfloat16 into float32, as one does by hand."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def as_tensor(mapped: Array, key: Any) -> torch.Tensor:
    """Read rows of a memmap as a tensor of its own: a slice of it is a view, picks are not."""
    rows = mapped[key].copy() if isinstance(key, slice) else mapped[key]
    if rows.dtype == np.uint16:
        return torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(rows)


def of_safetensors(slices: Any, key: Any) -> torch.Tensor:
    """Read rows through safetensors as a tensor of its own."""
    rows: torch.Tensor = slices[key]
    return rows.clone() if isinstance(key, slice) else rows


def of_h5py(dataset: h5py.Dataset, key: Any) -> Array:
    """Read rows through h5py, which takes scattered ones in ascending order only."""
    if isinstance(key, slice):
        rows: Array = dataset[key]
        return rows
    order = np.argsort(key)
    taken = np.empty((len(key), *dataset.shape[1:]), dataset.dtype)
    taken[order] = dataset[key[order]]
    return taken


def contests(folder: Path, trace: probekit.Trace, stack: ExitStack) -> Iterator[Contest]:
    """Pair the readers of the rows of every dtype."""
    tensors = stack.enter_context(safe_open(folder / "rows.safetensors", framework="pt"))
    chunked = stack.enter_context(h5py.File(folder / "chunked.h5"))
    for dtype, storage in STORAGE.items():
        site, exact = trace[dtype], dtype == "float32"
        mapped = np.memmap(folder / f"{dtype}.bin", storage, "r", shape=site.shape)
        bits = dtype if exact else f"{dtype} bits"
        buffer = np.empty((BLOCK, D_MODEL), storage)
        yield Contest(
            name=f"{bits}, np.memmap",
            ours=site.__getitem__ if exact else site.raw,
            whole=site.example if exact else None,
            theirs=mapped.__getitem__,
            copied=buffer,
            targets=AS_MEMMAP,
        )
        if not exact:
            yield Contest(
                name=f"{dtype} widened, np.memmap",
                ours=site.__getitem__,
                whole=site.example,
                theirs=lambda key, mapped=mapped: hand_widened(mapped[key]),
                targets=AS_MEMMAP,
            )
        yield Contest(
            name=f"{dtype} in torch, np.memmap",
            ours=site.torch,
            theirs=partial(as_tensor, mapped),
            targets=AS_MEMMAP,
        )
        yield Contest(
            name=f"{dtype} in torch, safetensors",
            ours=site.torch,
            theirs=partial(of_safetensors, tensors.get_slice(dtype)),
        )
        yield Contest(
            name=f"{bits}, chunked h5py",
            ours=site.raw,
            theirs=partial(of_h5py, chunked[dtype]),
            copied=buffer,
            n_gathers=1,
        )


def read_all(read: Read, keys: Sequence[Any], copied: Array | None = None) -> None:
    """Read rows by one key after another."""
    for key in keys:
        rows = read(key)
        if copied is not None:
            np.copyto(copied[: len(rows)], rows)


def bits_of(rows: Any) -> tuple[Any, Any, bytes]:
    """Give the dtype, the shape and every bit of an array or a tensor."""
    as_bytes = rows.view(torch.uint8).numpy() if isinstance(rows, torch.Tensor) else rows
    return rows.dtype, tuple(rows.shape), as_bytes.tobytes()


def check(contest: Contest, jobs: Jobs) -> None:
    """Fail unless both readers give the same."""
    for key in (*jobs.blocks, *jobs.examples, *jobs.scattered[: contest.n_gathers]):
        assert bits_of(contest.ours(key)) == bits_of(contest.theirs(key)), (contest.name, key)
    if contest.whole is not None:
        for number, key in zip(jobs.numbers, jobs.examples, strict=True):
            assert bits_of(contest.whole(number)) == bits_of(contest.theirs(key)), contest.name


def hold(contest: Contest, jobs: Jobs, n_pairs: int) -> Iterator[Comparison]:
    """Time the three jobs."""
    scattered = jobs.scattered[: contest.n_gathers]
    whole, numbers = contest.whole or contest.ours, jobs.numbers if contest.whole else jobs.examples
    rounds = [
        ("sweep", contest.ours, jobs.blocks, jobs.blocks, contest.copied),
        ("500 examples", whole, numbers, jobs.examples, contest.copied),
        (f"{len(scattered)} x 4096 rows", contest.ours, scattered, scattered, None),
    ]
    for (job, ours, our_keys, their_keys, copied), target in zip(
        rounds, contest.targets, strict=True
    ):
        yield compare(
            f"{contest.name}: {job}",
            partial(read_all, ours, our_keys, copied),
            partial(read_all, contest.theirs, their_keys, copied),
            n_pairs=n_pairs,
            target=target,
            clock=time.thread_time,
        )


def hold_all(folder: Path, n_pairs: int, *, checked: bool) -> list[Comparison]:
    """Hold every contest; nothing of the files is open before and after."""
    results: list[Comparison] = []
    with ExitStack() as stack:
        trace = probekit.open(folder)
        jobs = choose(trace)
        for contest in contests(folder, trace, stack):
            if not checked:
                check(contest, jobs)
            results += hold(contest, jobs, n_pairs)
    return results


def over_all(times: list[Comparison]) -> Comparison:
    """Join the comparisons of the same readers, each with files that lie elsewhere in memory."""
    return replace(
        times[0],
        ratio=statistics.median(t.ratio for t in times),
        low=min(t.ratio for t in times),
        high=max(t.ratio for t in times),
        ours_s=statistics.median(t.ours_s for t in times),
        theirs_s=statistics.median(t.theirs_s for t in times),
        n_pairs=sum(t.n_pairs for t in times),
    )


def main() -> None:
    """Measure, print, and write JSON if asked."""
    given = options(__doc__)
    torch.set_num_threads(1)
    n_rows, n_times, n_pairs = (20_000, 1, 2) if given.quick else (200_000, 5, 3)
    lengths = np.random.default_rng(2).integers(8, 513, n_rows // 260)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_trace(folder, tuple(STORAGE), lengths, D_MODEL, N_SHARDS)
        write_others(folder)
        results = []
        for number in range(n_times):
            settle(folder)
            results.append(hold_all(folder, n_pairs, checked=number > 0))
    report([over_all(list(times)) for times in zip(*results, strict=True)], given.json)


if __name__ == "__main__":
    main()
