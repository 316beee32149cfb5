"""What each head of attention writes: its values through its own part of the output projection.

Knows linear maps; nothing of models. The projection's bias belongs to no head, and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.pytorch_utils import Conv1D

from probekit.errors import CaptureError

LINEAR_CLASSES = ("Linear", "Conv1D")  # whose weight is the map: [out, in], and [in, out]
_FORWARDS = (torch.nn.Linear.forward, Conv1D.forward)


def is_plain_map(module: torch.nn.Module) -> bool:
    """Say whether a module is a linear map and no more: adapters' classes are called Linear too."""
    is_patched = "forward" in vars(module)
    named = type(module).__name__ in LINEAR_CLASSES
    return named and type(module).forward in _FORWARDS and not is_patched


def head_writes(
    heads: torch.Tensor, projection: torch.nn.Module, only: Sequence[int] = ()
) -> torch.Tensor:
    """Give what each head adds to the residual stream.

    Args:
        heads: `[..., head, d_head]`.
        projection: reads `[..., head * d_head]`.
        only: heads to give, all where it is empty.

    Returns:
        `[..., head, d_model]`; summed over heads, with the bias, it is what the projection gives.

    Raises:
        CaptureError: if the projection keeps its weight in another form, as a quantized one does.
    """
    weight = getattr(projection, "weight", None)
    name = type(projection).__name__
    if not is_plain_map(projection) or not isinstance(weight, torch.Tensor):
        raise CaptureError(f"head_out: {name} is no plain linear map, whose weight can be taken")
    if not weight.is_floating_point():
        raise CaptureError(f"head_out: the weight of {name} is {weight.dtype}, and quantized")
    by_input = weight if name == "Conv1D" else weight.T  # [head * d_head, d_model]
    n_heads, d_head = heads.shape[-2:]
    parts = by_input.reshape(n_heads, d_head, -1)
    if only and list(only) != list(range(n_heads)):
        chosen = torch.tensor(list(only), device=heads.device)
        heads, parts = heads.index_select(-2, chosen), parts.index_select(0, chosen)
    return torch.einsum("...hd,hdm->...hm", heads.to(weight.dtype), parts)
