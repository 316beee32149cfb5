"""Positions: which models number them otherwise than from 0 on.

Knows the modules that look positions up; nothing of tokens.
"""

from __future__ import annotations

import torch


def numbers_positions_itself(model: torch.nn.Module) -> bool:
    """Say whether positions begin behind a padding index, as RoBERTa's do: 0, 1, ... are wrong."""
    return any(
        path.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
        for path, module in model.named_modules()
    )
