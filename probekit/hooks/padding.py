"""What a model must be told of padding: or its tokens look at it, or their places count it.

Knows how transformers' models number positions; nothing of what is kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from probekit.errors import CaptureError
from probekit.hooks.passes import Pass

# BioGPT has OPT's embedding and gives it positions that count padding. Falcon's biases (alibi) are
# made of the mask. RoBERTa and its kin number ids that are no padding: the table says which is.
_BY_MASK = frozenset({"opt"})

Array = np.ndarray[Any, Any]


def refuse_untold(seen: Pass, keys: Sequence[Array], n_keys: int) -> None:
    """Refuse a pass whose rows would not be those of its texts alone.

    Args:
        seen: the pass that begins.
        keys: positions of each text's tokens so far.
        n_keys: positions so far.

    Raises:
        CaptureError: saying what to give to the model.
    """
    # Padding in front of a token, on the left or in between, moves it.
    moved = next((text for text, own in enumerate(keys) if len(own) and own[-1] >= len(own)), None)
    padded = next((text for text, own in enumerate(keys) if len(own) < n_keys), None)
    model = _called(seen.model)
    if model is None or padded is None:
        return
    accepted = inspect.signature(model.forward).parameters
    if "attention_mask" in accepted and seen.given.get("attention_mask") is None:
        text = padded if moved is None else moved
        if moved is not None or _looks_ahead(model):
            raise CaptureError(
                f"record: mask: text {text} is padded and the model is given no attention_mask, so "
                "its tokens look at the padding; give the model that mask, too "
                "(attention_mask=mask)"
            )
    is_told = seen.given.get("position_ids") is not None or "position_ids" not in accepted
    if moved is not None and not is_told and not _numbers_tokens(model):
        raise CaptureError(
            f"record: mask: text {moved} is padded in front of its tokens and the model is given "
            "no position_ids, so its positions count the padding; pad on the right, or give the "
            "model position_ids=(mask.cumsum(-1) - 1).clamp(min=0)"
        )


def _called(model: nn.Module) -> PreTrainedModel | None:
    """Give the model of transformers that is called, or that a wrapper such as PEFT's hands on to.

    What another module gives to the model in it is not known from what it is given itself.
    """
    if "attention_mask" not in inspect.signature(model.forward).parameters:
        return model if isinstance(model, PreTrainedModel) else None
    return next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)


def _looks_ahead(model: nn.Module) -> bool:
    return any(getattr(module, "is_causal", None) is False for module in model.modules())


def _numbers_tokens(model: PreTrainedModel) -> bool:
    """Say whether a model leaves padding out of its positions by itself."""
    if model.config.model_type in _BY_MASK or getattr(model.config, "alibi", False):
        return True
    every = model.named_modules()
    return any("position" in p and getattr(m, "padding_idx", None) is not None for p, m in every)
