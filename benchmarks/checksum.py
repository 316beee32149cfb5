"""What a checksum of every row costs, against the write of the same rows with fsync.

Rows come as a shard's do: block after block, each an example of a site, written at its offset piece
by piece, and each piece digested once it is written, on the same core. The measure is the time of
the digests over that of the writes around them. The writer does no worse: it digests small blocks
just before they are written, and large ones on another core while they are.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import xxhash
from pairs import Comparison, options, report


class Hasher(Protocol):
    """What digests pieces."""

    def update(self, piece: memoryview, /) -> object:
        """Take a piece in."""


class Crc32:
    """zlib's checksum, as the others are used."""

    def __init__(self) -> None:
        self.value = 0

    def update(self, piece: memoryview) -> None:
        """Take a piece in."""
        self.value = zlib.crc32(piece, self.value)


ALGORITHMS: dict[str, Callable[[], Hasher]] = {
    "xxh3_64": xxhash.xxh3_64,
    "xxh3_128": xxhash.xxh3_128,
    "crc32": Crc32,
    "blake2b": hashlib.blake2b,
    "sha256": hashlib.sha256,
}
PIECE_BYTES = 64 << 10  # of a whole block a cache has lost the beginning
BLOCKS = {"128 tokens x 3072 float32": 128 * 3072 * 4, "8 tokens x 768 bfloat16": 8 * 768 * 2}


def write(
    path: Path, data: memoryview, block_bytes: int, algorithm: Callable[[], Hasher]
) -> tuple[float, float]:
    """Write blocks into a file and force it onto the disk, digesting as the shard writer does.

    Returns:
        Seconds of the digests, and of all the rest.
    """
    digests_s = 0.0
    begin = time.perf_counter()
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, len(data))
    for first in range(0, len(data), block_bytes):
        hasher = algorithm()
        for offset in range(first, min(first + block_bytes, len(data)), PIECE_BYTES):
            piece = data[offset : min(offset + PIECE_BYTES, first + block_bytes)]
            os.pwrite(fd, piece, offset)
            before = time.perf_counter()
            hasher.update(piece)
            digests_s += time.perf_counter() - before
    os.fsync(fd)
    os.close(fd)
    all_s = time.perf_counter() - begin
    path.unlink()
    return digests_s, all_s - digests_s


def main() -> None:
    """Measure, print, and write JSON if asked."""
    given = options(__doc__)
    n_bytes, n_rounds = (64 << 20, 3) if given.quick else (256 << 20, 9)
    data = memoryview(np.random.default_rng(0).bytes(n_bytes))
    cases = [(name, shape) for shape in BLOCKS for name in ALGORITHMS]
    times: dict[tuple[str, str], list[tuple[float, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(n_rounds + 1):
            for case in cases:
                name, shape = case
                path = Path(scratch) / "rows"
                times[case].append(write(path, data, BLOCKS[shape], ALGORITHMS[name]))
    results = [comparison(case, pairs[1:]) for case, pairs in times.items()]  # the first warms up
    report(results, given.json)


def comparison(case: tuple[str, str], pairs: list[tuple[float, float]]) -> Comparison:
    """Sum the rounds of a case up."""
    ratios = [digests_s / write_s for digests_s, write_s in pairs]
    return Comparison(
        measure=f"{case[0]}, blocks of {case[1]}",
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        ours_s=statistics.median(d for d, _ in pairs),
        theirs_s=statistics.median(w for _, w in pairs),
        n_pairs=len(pairs),
        target="<= 0.05",
    )


if __name__ == "__main__":
    main()
