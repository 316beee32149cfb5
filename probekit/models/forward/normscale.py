"""What a norm divides each token by.

Knows torch's modules and how norms spell their epsilon; nothing of models.
"""

from __future__ import annotations

import torch

SCALE_KINDS = ("rms", "std")
_EPSILONS = ("variance_epsilon", "eps", "epsilon", "layer_norm_epsilon", "norm_eps")
_FIXED = {"OlmoLayerNorm": 1e-5}  # written into the module's code, and into no attribute


def epsilon(module: torch.nn.Module) -> float:
    """Give a norm's epsilon; 0 where it has none."""
    if (fixed := _FIXED.get(type(module).__name__)) is not None:
        return fixed
    for name in _EPSILONS:
        found = getattr(module, name, None)
        if isinstance(found, int | float):
            return float(found)
        if found is None and isinstance(module, torch.nn.RMSNorm):
            return torch.finfo(torch.float32).eps  # what torch takes where none is given
    return 0.0


def scale(module: torch.nn.Module, read: torch.Tensor, kind: str) -> torch.Tensor:
    """Give what a norm divides a token by, as TransformerLens's `hook_scale`.

    Args:
        module: the norm, for its epsilon.
        read: what it reads, `[..., d_model]`.
        kind: "rms", or "std" for a norm that takes the mean away first.

    Returns:
        sqrt(mean(x^2) + eps), `[..., 1]`, in the input's dtype, computed in float32 at least.
    """
    wide = read.float() if read.dtype in (torch.float16, torch.bfloat16) else read
    if kind == "std":
        wide = wide - wide.mean(-1, keepdim=True)
    return (wide.square().mean(-1, keepdim=True) + epsilon(module)).sqrt().to(read.dtype)
