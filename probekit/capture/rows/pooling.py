"""Pooling: one row an example, of rows that come over several forward passes.

Knows tensors; nothing of modules or of what generates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from probekit.planning import to_device, wide


class Pooling:
    """Pool rows of a batch's examples as they come: their mean, their largest, or the last.

    Args:
        how: "mean", "max" or "last".
        n_examples: of the batch.
    """

    def __init__(self, how: str, n_examples: int) -> None:
        self._how = how
        self._pooled: torch.Tensor | None = None  # [example, ...]
        self._counts = np.zeros(n_examples, dtype=np.int64)

    def add(self, rows: torch.Tensor, counts: Sequence[int]) -> None:
        """Take rows of one example after another, `[row, ...]`.

        Args:
            rows: of this pass.
            counts: rows of each example: as many of each, or one of some and none of others.
        """
        self._counts += counts
        if len(set(counts)) == 1:
            new = self._over(rows.view(len(counts), -1, *rows.shape[1:]))
            self._pooled = new if self._pooled is None else self._joined(self._pooled, new)
            return
        assert self._pooled is not None  # the first pass gives as many of each
        here = to_device(np.flatnonzero(counts), rows.device)
        new = self._over(rows[:, None])
        self._pooled[here] = self._joined(self._pooled[here], new)

    def _over(self, groups: torch.Tensor) -> torch.Tensor:
        """Pool `[example, row, ...]` over its rows; a mean is divided in the end."""
        if self._how == "last":
            return groups[:, -1].clone()
        return groups.amax(1) if self._how == "max" else wide(groups).sum(1)

    def _joined(self, before: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        if self._how == "last":
            return new
        return torch.maximum(before, new) if self._how == "max" else before + new

    def rows(self) -> torch.Tensor:
        """Give `[example, ...]`; every example has had a row."""
        assert self._pooled is not None  # a plan whose examples have none is refused
        if self._how != "mean":
            return self._pooled
        counts = to_device(self._counts, self._pooled.device)
        return self._pooled / counts.view(-1, *[1] * (self._pooled.ndim - 1))
