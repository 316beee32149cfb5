"""Shuffling: in which order the rows of an epoch come, and which of them make a batch.

Rows are shuffled in two steps, so that what is read lies together. Blocks of neighbouring rows are
permuted over the whole trace. Then the rows of a window, which is so many blocks one after another
in that order, are permuted among themselves. With one window it is a full permutation.

Everything follows from `Settings`, the epoch and the number of the process: nothing is carried from
one batch to the next, so any batch can be asked for at any time. Knows numbers only: nothing of
files or torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xxhash

Array = np.ndarray[Any, Any]

_BLOCKS, _WINDOW = 0, 1  # what random numbers are drawn for


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the order of every epoch follows from."""

    n_rows: int  # over all processes
    rows: str  # which they are: "all", or a checksum of their numbers
    batch_size: int  # rows
    shuffle: bool
    seed: int
    block_rows: int  # neighbouring rows that stay together in the first step
    window_rows: int  # rows that are permuted among themselves in the second; whole batches
    world_size: int  # processes that share the rows out
    drop_last: bool

    @property
    def n_batches(self) -> int:
        """Batches of each process: the same for all of them."""
        if self.drop_last:
            return self.n_rows // self.world_size // self.batch_size
        most = -(-self.n_rows // self.world_size)
        return -(-most // self.batch_size)


class EpochOrder:
    """The rows of one process in one epoch, by batch.

    The blocks in their order, one after another, are cut into as many parts as there are processes;
    parts differ by one row at most. A window is a number of whole batches.
    """

    def __init__(self, settings: Settings, *, epoch: int, rank: int) -> None:
        self.epoch = epoch
        self._settings = settings
        self._rank = rank
        n, parts = settings.n_rows, settings.world_size
        self._first = n * rank // parts  # of this process, in the order of the blocks
        self._n_rows = n * (rank + 1) // parts - self._first
        self._n_windows = min(-(-self._n_rows // settings.window_rows), settings.n_batches)
        self._window: tuple[int, Array] = (-1, np.empty(0, dtype=np.int64))

    def batch(self, number: int) -> Array:
        """Give the rows of a batch, int64 `[row]`."""
        begin, end = self._bound(number), self._bound(number + 1)
        if not self._settings.shuffle:
            return np.arange(self._first + begin, self._first + end)
        window = self.window_of(number)
        before = self._bound(self._first_batch(window))
        return self._rows_of(window)[begin - before : end - before]

    def window_of(self, batch: int) -> int:
        """Give the number of the window that a batch lies in."""
        number = batch * self._n_windows // self._settings.n_batches
        return number + (self._first_batch(number + 1) <= batch)  # which was rounded down

    def blocks_of(self, window: int) -> Array:
        """Give the stretches of rows that a window is made of, int64 `[block, (begin, end)]`."""
        if window >= self._n_windows:
            return np.empty((0, 2), dtype=np.int64)
        begin = self._first + self._bound(self._first_batch(window))
        end = self._first + self._bound(self._first_batch(window + 1))
        first, last = np.searchsorted(self._ends, (begin, end - 1), side="right")
        inside = slice(first, last + 1)
        rows, ends = self._blocks[inside] * self._settings.block_rows, self._ends[inside]
        starts = ends - self._sizes[inside]
        return np.stack(
            [rows + np.maximum(begin - starts, 0), rows + np.minimum(end, ends) - starts], axis=1
        )

    @cached_property
    def digest(self) -> str:
        """A checksum of the order of the blocks, to notice if it were ever drawn differently."""
        blocks = self._blocks if self._settings.shuffle else np.empty(0, dtype=np.int64)
        return xxhash.xxh3_64_hexdigest(blocks.astype("<i8").tobytes())

    def _bound(self, batch: int) -> int:
        """Give where a batch begins in this process's part: every later one gets a row at least."""
        n_left = self._settings.n_batches - batch
        return min(batch * self._settings.batch_size, self._n_rows - n_left)

    def _first_batch(self, window: int) -> int:
        return window * self._settings.n_batches // self._n_windows

    def _rows_of(self, window: int) -> Array:
        if self._window[0] != window:
            stretches = self.blocks_of(window)
            sizes = stretches[:, 1] - stretches[:, 0]
            before = np.cumsum(sizes) - sizes
            rows: Array = np.repeat(stretches[:, 0] - before, sizes) + np.arange(sizes.sum())
            draw = self._draw(_WINDOW, self._rank, window)
            draw.shuffle(rows)
            self._window = (window, rows)
        return self._window[1]

    @cached_property
    def _blocks(self) -> Array:
        """The order of the blocks, int64 `[block]`: the same for all processes."""
        n_blocks = -(-self._settings.n_rows // self._settings.block_rows)
        blocks: Array = self._draw(_BLOCKS).permutation(n_blocks)
        return blocks

    @cached_property
    def _sizes(self) -> Array:
        begins = self._blocks * self._settings.block_rows
        sizes: Array = np.minimum(self._settings.block_rows, self._settings.n_rows - begins)
        return sizes

    @cached_property
    def _ends(self) -> Array:
        return np.cumsum(self._sizes)

    def _draw(self, *purpose: int) -> np.random.Generator:
        key = (self.epoch, *purpose)
        return np.random.default_rng(np.random.SeedSequence(self._settings.seed, spawn_key=key))
