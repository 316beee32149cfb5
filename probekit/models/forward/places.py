"""Places: the `batch * position` places of a padded batch, as one axis in front.

Knows tensors and the words for their axes; nothing of modules or of which places are tokens.
"""

from __future__ import annotations

import torch

from probekit.models.forward.calls import BATCH, POSITION, TOKEN

Axes = tuple[int | str, ...]


def sizes_of(axes: Axes, n_batch: int, n_positions: int) -> tuple[int, ...]:
    """Give the shape that a tensor with these axes has in a batch."""
    moving = {BATCH: n_batch, POSITION: n_positions, TOKEN: n_batch * n_positions}
    return tuple(moving[axis] if isinstance(axis, str) else axis for axis in axes)


def places_first(tensor: torch.Tensor, axes: Axes) -> torch.Tensor:
    """`[..., batch, ..., position, ...]` to `[batch * position, ...]`; or `[batch, ...]`."""
    if TOKEN in axes:
        return tensor.movedim(axes.index(TOKEN), 0)
    if POSITION not in axes:
        return tensor.movedim(axes.index(BATCH), 0)
    return tensor.movedim((axes.index(BATCH), axes.index(POSITION)), (0, 1)).flatten(0, 1)
