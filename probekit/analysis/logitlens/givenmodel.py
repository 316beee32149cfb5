"""A model that a call gives to the lens: the head inside it, and whether the run had that model.

Knows what a trace says of the weights of a model in memory; computes no logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from probekit import models
from probekit.analysis.logitlens.unembedding import OutputHead, output_head_of
from probekit.errors import PlanError, StoreError
from probekit.store import NOT_DIGESTED
from probekit.wording import show_typed

if TYPE_CHECKING:
    from probekit.trace import Trace


def given_head(model: Any) -> OutputHead:
    """Take the head of a model, or of the model of transformers in what wraps it.

    Raises:
        PlanError: as `output_head_of` does, or if there is no such model.
    """
    if not isinstance(model, torch.nn.Module):
        raise PlanError(f"model is {show_typed(model)}; expected a torch.nn.Module")
    inner = models.inner_model(model) or model
    if not hasattr(inner, "config"):
        raise PlanError(
            f"model: {type(model).__name__} is no model of transformers, and holds none, so where "
            "its final norm and unembedding are is not known; give the model of the run"
        )
    return output_head_of(inner)


def refuse_another(trace: Trace, model: Any) -> None:
    """Refuse a model whose weights are not those of the run, where the trace knows them.

    How it is built is not compared: kernels of attention and hooks have no part in a lens, and
    another version of transformers describes the same model otherwise.

    Args:
        trace: only one of a model in memory holds a digest of its weights.
        model: the object that the run was given.

    Raises:
        StoreError: if they are others, or cannot all be read.
    """
    made_with = _digest_in(trace)
    if made_with is None:
        return
    name = type(model).__name__
    try:
        digest = models.weights_digest(model)
    except PlanError as error:
        reason = str(error).partition(". ")[0].removeprefix("digest: ")
        raise StoreError(
            f"{trace.path}: the weights of {name} cannot be compared with the run's: {reason}; "
            "give a model that is loaded as a whole"
        ) from error
    if digest != made_with:
        raise StoreError(
            f"{trace.path}: {name} has other weights than the model that the trace was made with; "
            "give the very object that the run was given, wrapped as it was, with its weights as "
            "they were then"
        )


def _digest_in(trace: Trace) -> object:
    made = trace.provenance
    digest = made.get("model_digest")
    is_known = digest is not None and not str(digest).startswith(NOT_DIGESTED)
    return digest if is_known and str(made.get("model_weights")) == "in-memory" else None
