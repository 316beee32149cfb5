"""Tensors that say they lie on a GPU, and what a GPU's link does with those that do not."""

from __future__ import annotations

import torch

GPU = torch.device("cuda")


class Far(torch.Tensor):
    """A CPU tensor that takes itself for a GPU's; so do its parts."""

    device = GPU  # type: ignore[assignment]


def far(rows: torch.Tensor) -> torch.Tensor:
    return rows.as_subclass(Far)  # type: ignore[return-value]


def record_stream(rows: torch.Tensor) -> None:
    """Refuse rows of the CPU as `Tensor.record_stream` does."""
    if rows.device.type == "cpu":
        raise NotImplementedError("Could not run 'aten::record_stream' with the 'CPU' backend")
