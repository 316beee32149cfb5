"""Numbers known on the host as index tensors on a device, and the way back.

Indexing a tensor on a GPU with a Python list copies the list there every time, and waits for the
device to have caught up. These are copied once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]


def take(tensor: torch.Tensor, axis: int, numbers: Sequence[int]) -> torch.Tensor:
    """Take some entries of one axis; all of them in order is the tensor itself."""
    if len(numbers) == tensor.shape[axis] and all(n == i for i, n in enumerate(numbers)):
        return tensor
    return tensor.index_select(axis, _index(tuple(numbers), tensor.device))


@lru_cache(maxsize=1024)
def _index(numbers: tuple[int, ...], device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):  # autograd cannot keep an inference tensor
        return torch.tensor(numbers, dtype=torch.int64, device=device)


def to_device(values: Array, device: torch.device) -> torch.Tensor:
    """Copy an array to a device without waiting for it."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_storage(rows: torch.Tensor) -> Array:
    """Give a CPU tensor's memory as numpy sees stored bytes: bfloat16 as uint16."""
    if rows.dtype == torch.bfloat16:
        return rows.view(torch.int16).numpy().view(np.uint16)
    return rows.numpy()


def in_heads(
    tensor: torch.Tensor, n_front: int, sizes: Sequence[int], channels: Sequence[int]
) -> torch.Tensor:
    """Take the last axes apart: `[..., head * d_head]` as `[..., head, d_head]`.

    Args:
        tensor: `[front..., channels...]`; the channels may be several axes.
        n_front: how many axes stand before the channels.
        sizes: of what comes out; none for a tensor that stays as it is.
        channels: which to take, in order; none for all of them.
    """
    if not sizes:
        return tensor
    front = tensor.shape[:n_front]
    if channels:
        tensor = take(tensor.reshape(*front, -1), n_front, channels)
    return tensor.reshape(*front, *sizes)
