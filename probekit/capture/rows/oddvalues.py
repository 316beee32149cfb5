"""Tally: values that are not finite, counted by site while they pass.

Knows tensors; nothing of files. On a GPU it counts there and never waits. On the CPU one pass over
a block finds its least and its largest value, which says whether there is anything to count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]


def all_finite(values: torch.Tensor) -> bool:
    """Say whether a CPU tensor of floats holds no NaN and no infinity."""
    if not values.numel():
        return True
    least, largest = torch.aminmax(values)  # NaN shows in both
    return bool(torch.isfinite(least)) and bool(torch.isfinite(largest))


class Tally:
    """Counts of a shard, by site; a batch counts only once it is whole."""

    def __init__(self, n_sites: int, device: torch.device) -> None:
        self._batch = torch.zeros((n_sites, 2), dtype=torch.int64, device=device)
        self._shard = torch.zeros_like(self._batch)

    def keep_batch(self) -> None:
        """Count what was seen since the last batch."""
        self._shard += self._batch
        self._batch.zero_()

    def drop_batch(self) -> None:
        """Forget what was seen since the last batch."""
        self._batch.zero_()

    def see(
        self,
        site: int,
        computed: torch.Tensor,
        stored: torch.Tensor,
        expected: torch.Tensor | None = None,
    ) -> None:
        """Look at values on their way.

        Args:
            site: number of the site.
            computed: as the model or a recipe gave them.
            stored: the same in the stored dtype.
            expected: which of them mean something other than a number, bool like `computed`.
        """
        if not stored.is_floating_point():
            return
        if expected is None and stored.device.type == "cpu" and all_finite(stored):
            return
        odd = ~torch.isfinite(computed)
        if stored.dtype != computed.dtype:
            self._batch[site, 1] += (~torch.isfinite(stored) & ~odd).sum()
        self._batch[site, 0] += (odd if expected is None else odd & ~expected).sum()

    def take(self) -> Array:
        """Give the counts of the shard, int64 `[site, (nonfinite, overflow)]`, and begin anew."""
        counts: Array = self._shard.cpu().numpy().copy()
        self._shard.zero_()
        return counts
