"""What is computed of rows that were read, for values that no module holds.

Knows sources and the modules of a model at hand.
"""

from __future__ import annotations

import torch

from probekit.models.forward import head_writes, scale
from probekit.planning import Source


def computed(rows: torch.Tensor, source: Source, model: torch.nn.Module) -> torch.Tensor:
    """Compute a source's values of the rows that were read there; most are these rows themselves.

    Args:
        rows: `[..., channels]`, of heads `[..., head, d_head]`.
        source: says what the value is.
        model: whose modules are asked for their weight or epsilon.
    """
    if source.scale is not None:
        rows = scale(model.get_submodule(source.module), rows, source.scale)
    if source.projection is not None:
        projection = model.get_submodule(source.projection)
        rows = head_writes(rows, projection, source.heads)
    return rows if source.factor == 1.0 else rows * source.factor
