"""Paths of modules: `model.layers.3.mlp` lies in layer 3, and in `model.layers.3`.

Knows text only.
"""

from __future__ import annotations


def layer_of(module: str) -> int | None:
    """Read the layer a module belongs to off its path; None outside the layers."""
    block = block_of(module)
    return None if block is None else int(block.rpartition(".")[2])


def block_of(module: str) -> str | None:
    """Give the path of the layer that a module lies in, or is; None outside the layers."""
    parts = module.split(".")
    at = next((n for n, part in enumerate(parts) if part.isdigit()), None)
    return None if at is None else ".".join(parts[: at + 1])


def parent_of(module: str) -> str:
    """Give the path of the module around a module; empty for the model's own."""
    return module.rpartition(".")[0]
