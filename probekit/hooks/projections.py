"""Projections: what reads the heads of an attention module, in a model that is at hand.

Knows transformers' configs and skeletons, also of a model that is wrapped or has no head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from probekit.errors import PlanError
from probekit.models import AttentionShape, build_skeleton


def projected_heads(model: torch.nn.Module, modules: list[str]) -> dict[str, AttentionShape]:
    """Give the attention modules whose z is not the kernel's output, and who reads it there.

    Raises:
        PlanError: if that cannot be told of this model.
    """
    if not modules:
        return {}
    config = config_of(model)
    if config is None:
        raise PlanError(
            f"{type(model).__name__} is no model of transformers: what its output projections read "
            "cannot be told; /z_kernel is what the attention kernel gives"
        )
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    # Every kernel gives to the same projection.
    shapes = build_skeleton(config, dtype, "eager").attention
    found = {path: _shape_of(path, shapes) for path in modules}
    lost = [path for path, shape in found.items() if shape is not None and shape.out is None]
    if lost:
        raise PlanError(
            f"{lost[0]}: no one linear map reads what its heads give, so there is no z; "
            "/z_kernel is what the attention kernel gives"
        )
    return {path: s for path, s in found.items() if s is not None and not s.is_plain}


def _shape_of(path: str, shapes: Mapping[str, AttentionShape]) -> AttentionShape | None:
    """Find an attention module by its path in a model that may be wrapped, or without its head."""
    for known, shape in shapes.items():
        if path == known or path.endswith(f".{known}"):
            out = shape.out and path.removesuffix(known) + shape.out
        elif known.endswith(f".{path}"):
            out = shape.out and shape.out.removeprefix(known.removesuffix(path))
        else:
            continue
        return replace(shape, out=out)
    return None


def config_of(model: torch.nn.Module) -> Any:
    """Give the config of a model of transformers, or of the one inside of what wraps it."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return next((config for config in configs if hasattr(config, "get_text_config")), None)
