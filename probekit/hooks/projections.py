"""Projections: what gives or reads the heads of an attention module, in a model that is at hand.

Knows transformers' configs and skeletons, also of a model that is wrapped or has no head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from probekit.errors import PlanError
from probekit.models import build_skeleton
from probekit.models.forward import LINEAR_CLASSES, AttentionShape, HeadsAt, is_plain_map
from probekit.planning import KERNEL_KINDS, MEANING


def heads_elsewhere(
    model: torch.nn.Module, asked: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], HeadsAt]:
    """Say where heads are that the kernel has not.

    Args:
        model: at hand.
        asked: attention modules and kinds.

    Returns:
        By module and kind, of those that are not at the kernel.

    Raises:
        PlanError: if that cannot be told of this model, or if such heads are nowhere.
    """
    wanted = [(path, kind) for path, kind in asked if kind in KERNEL_KINDS]
    if not wanted:
        return {}
    config = config_of(model)
    if config is None:
        kind = wanted[0][1]
        raise PlanError(
            f"{type(model).__name__} is no model of transformers: where its {kind} is cannot be "
            f"told; /{KERNEL_KINDS[kind]} is {MEANING[KERNEL_KINDS[kind]]}"
        )
    shapes = _shapes(model, config)
    found: dict[tuple[str, str], HeadsAt] = {}
    for path, kind in wanted:
        at = _at(path, kind, shapes)
        if isinstance(at, str):
            kernel = KERNEL_KINDS[kind]
            raise PlanError(f"{path}: {at}, so there is no {kind}; /{kernel} is {MEANING[kernel]}")
        if at is not None:
            found[path, kind] = at
    return found


def projections(model: torch.nn.Module, paths: Collection[str]) -> dict[str, str]:
    """Say which linear map reads the heads of attention modules, by their paths.

    Raises:
        PlanError: if none does, or that cannot be told of this model.
    """
    if not paths:
        return {}
    config = config_of(model)
    if config is None:
        raise PlanError(
            f"{type(model).__name__} is no model of transformers: what reads its heads cannot be "
            "told, so there is no head_out"
        )
    shapes = _shapes(model, config)
    found: dict[str, str] = {}
    for path in paths:
        for known, shape in shapes.items():
            moved = _moved(path, known)
            if moved is not None and shape.projection is not None:
                more, less = moved
                found[path] = more + shape.projection.removeprefix(less)
        if path not in found:
            raise PlanError(f"{path}: no one linear map reads its heads, so there is no head_out")
        reader = model.get_submodule(found[path])
        if not is_plain_map(reader):
            name = type(reader).__name__
            what = f"{name} with more in it" if name in LINEAR_CLASSES else name
            raise PlanError(f"{path}: {what} reads its heads, so there is no head_out")
    return found


def _shapes(model: torch.nn.Module, config: Any) -> Mapping[str, AttentionShape]:
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    # Every kernel has the same projections.
    return build_skeleton(config, dtype, "eager").attention


def _moved(path: str, known: str) -> tuple[str, str] | None:
    """Say what a path has before a known one, or lacks of it; None where they are two."""
    if path == known or path.endswith(f".{known}"):
        return path.removesuffix(known), ""
    if known.endswith(f".{path}"):
        return "", known.removesuffix(path)
    return None


def _at(path: str, kind: str, shapes: Mapping[str, AttentionShape]) -> HeadsAt | str | None:
    """Find an attention module by its path in a model that may be wrapped, or without its head."""
    for known, shape in shapes.items():
        moved = _moved(path, known)
        if moved is None:
            continue
        more, less = moved
        at = shape.elsewhere.get(kind)
        if isinstance(at, HeadsAt):
            return replace(at, module=more + at.module.removeprefix(less))
        return at
    return None


def config_of(model: torch.nn.Module) -> Any:
    """Give the config of a model of transformers, or of the one inside of what wraps it."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return next((config for config in configs if hasattr(config, "get_text_config")), None)
