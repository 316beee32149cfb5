"""Bytes through the shard writer against a plain file write of the same bytes, fsync included.

The writer lays a shard out, writes every row, checksums it and seals it; the plain side opens a
file and writes the same blocks one after another. Both end on the disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pairs import compare, options, report

from probekit.store.format.schema import ShardSpec, SiteSpec
from probekit.store.writing.layout import ShardTables
from probekit.store.writing.writer import ShardWriter

N_TOKENS, D_MLP = 128, 3072  # of one example, and of one row


def site(layer: int, dtype: str) -> SiteSpec:
    """Give the spec of a GPT-2 MLP activation."""
    return SiteSpec(
        module=f"transformer.h.{layer}.mlp.act",
        kind="output",
        rows="all",
        axes=("token", "d_mlp"),
        row_shape=(D_MLP,),
        dtype=dtype,
        source_dtype=dtype,
        layer=layer,
        portable=None,
        module_class="NewGELUActivation",
        probe=0,
    )


def _shard(n_examples: int, sites: list[SiteSpec]) -> tuple[ShardSpec, list[SiteSpec], ShardTables]:
    n_tokens = np.full(n_examples, N_TOKENS, dtype=np.int64)
    spec = ShardSpec(
        number=0,
        first_example=0,
        n_examples=n_examples,
        first_token=0,
        n_tokens=int(n_tokens.sum()),
        n_rows={"all": int(n_tokens.sum())},
    )
    tables = ShardTables.of_texts(
        ids=tuple(map(str, range(n_examples))),
        texts=("",) * n_examples,
        n_tokens=n_tokens,
        token_ids=np.zeros(spec.n_tokens, dtype=np.int32),
        choices={},
        counts={"all": n_tokens},
    )
    return spec, sites, tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytes:
    """A shard's worth of blocks, and where to write them."""

    folder: Path
    dtype: str
    block: np.ndarray[Any, Any]  # rows of eight examples, written again and again
    n_examples: int

    @property
    def n_blocks(self) -> int:
        """Blocks of a shard: six sites, eight examples each."""
        return 6 * self.n_examples // 8

    def clear(self) -> None:
        """Remove what was written last."""
        shutil.rmtree(self.folder / "shards", ignore_errors=True)
        (self.folder / "plain").unlink(missing_ok=True)

    def through_the_writer(self) -> None:
        """Lay out, write, checksum, seal."""
        sites = [site(layer, self.dtype) for layer in range(6)]
        with ShardWriter(self.folder, *_shard(self.n_examples, sites), {}) as out:
            for begin in range(0, self.n_examples, 8):
                for number in range(len(sites)):
                    starts = range(0, 8 * N_TOKENS, N_TOKENS)
                    out.write(number, self.block, range(begin, begin + 8), starts)
            out.seal()

    def into_a_plain_file(self) -> None:
        """Open, write, fsync."""
        with (self.folder / "plain").open("wb", buffering=0) as file:
            for _ in range(self.n_blocks):
                data = memoryview(self.block).cast("B")
                while data:
                    data = data[file.write(data) :]
            os.fsync(file.fileno())


def main() -> None:
    """Measure, print, and write JSON if asked."""
    given = options(__doc__)
    n_examples, n_pairs = (16, 3) if given.quick else (64, 9)
    draw, results = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as scratch:
        for dtype, storage in (("float32", np.float32), ("bfloat16", np.uint16)):
            block = draw.integers(0, 1 << 16, (8 * N_TOKENS, D_MLP)).astype(storage)
            job = Bytes(folder=Path(scratch), dtype=dtype, block=block, n_examples=n_examples)
            n_bytes = job.n_blocks * block.nbytes
            results.append(
                compare(
                    f"writer, {n_bytes >> 20} MiB of {dtype}, fsync included",
                    job.through_the_writer,
                    job.into_a_plain_file,
                    n_pairs=n_pairs,
                    before=job.clear,
                    target="<= 1.11 (0.90 of its speed)",
                )
            )
    report(results, given.json)


if __name__ == "__main__":
    main()
