"""Pooling: one row an example, of rows that come over several forward passes.

Knows tensors; nothing of modules or of what generates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from probekit.planning import wide


class Pooling:
    """Pool rows of a batch's examples as they come: their mean, their largest, or the last.

    Args:
        how: "mean", "max" or "last".
        n_examples: of the batch.
    """

    def __init__(self, how: str, n_examples: int) -> None:
        self._how = how
        self._pooled: list[torch.Tensor | None] = [None] * n_examples
        self._counts = [0] * n_examples

    def add(self, rows: torch.Tensor, counts: Sequence[int]) -> None:
        """Take rows of one example after another, `[row, ...]`; some examples may have none."""
        for place, group in enumerate(torch.split(rows, list(counts))):
            if len(group):
                self._counts[place] += len(group)
                self._pooled[place] = self._joined(self._pooled[place], group)

    def _joined(self, before: torch.Tensor | None, group: torch.Tensor) -> torch.Tensor:
        if self._how == "last":
            return group[-1].clone()
        if self._how == "max":
            most = group.amax(0)
            return most if before is None else torch.maximum(before, most)
        total = wide(group).sum(0)
        return total if before is None else before + total

    def rows(self) -> torch.Tensor:
        """Give `[example, ...]`; every example has had a row."""
        found = [pooled for pooled in self._pooled if pooled is not None]
        assert len(found) == len(self._pooled)  # a plan whose examples have none is refused
        stacked = torch.stack(found)
        if self._how != "mean":
            return stacked
        counts = torch.tensor(self._counts, device=stacked.device)
        return stacked / counts.view(-1, *[1] * (stacked.ndim - 1))
