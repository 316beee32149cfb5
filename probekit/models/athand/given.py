"""A model at hand: what a Python call gives, where it runs, and what a config may say beside it.

Knows modules and transformers' models from outside; runs none.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probekit.config import ProbeConfig
from probekit.errors import Fault, PlanError
from probekit.models.athand.digests import architecture_digest, weights_digest
from probekit.store import NOT_DIGESTED
from probekit.wording import show, show_typed

_COMPUTED = (torch.bfloat16, torch.float16, torch.float32, torch.float64)  # the coarsest first
_RECORD = (
    "`with probekit.record(model, [...])` records the modules of any torch model, on any inputs"
)


@dataclass(frozen=True, kw_only=True)
class AtHand:
    """A model that a Python call gives, and what came with it."""

    model: torch.nn.Module  # the very object
    inner: Any  # the model of transformers in it: the object itself where nothing wraps it
    tokenizer: Any  # a copy of the one that came with it; None
    device: torch.device  # where it runs, and batches go
    dtype: torch.dtype  # the coarsest that it computes in
    is_digested: bool

    @property
    def name(self) -> str:
        """What it is called where a config does not name it."""
        return type(self.model).__name__

    @property
    def hf_config(self) -> Any:
        """The architecture, as the model says it; shared with it."""
        return self.inner.config

    @property
    def kernel(self) -> str:
        """The attention kernel that it runs with."""
        return str(getattr(self.hf_config, "_attn_implementation", None) or "eager")

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """What must be equal for a run to go on with a model: its architecture and its weights.

        Raises:
            PlanError: if a weight cannot be read.
        """
        weights = (
            weights_digest(self.model) if self.is_digested else f"{NOT_DIGESTED} {uuid.uuid4()}"
        )
        architecture = architecture_digest(self.model, self.hf_config, self.kernel)
        return {"model_architecture": architecture, "model_weights": weights}

    def check(self, config: ProbeConfig) -> None:
        """Refuse what a config says otherwise than the object.

        Raises:
            PlanError: with all of it.
        """
        if faults := [*self._contradictions(config)]:
            raise PlanError.of(faults)

    def _contradictions(self, config: ProbeConfig) -> Iterator[Fault]:
        said = config.model
        of_loading = {
            "revision": said.revision != "main",
            "weights": said.weights != "pretrained",
            "overrides": bool(said.overrides),
            "trust_remote_code": said.trust_remote_code,
        }
        for key, is_set in of_loading.items():
            if is_set:
                given = show(getattr(said, key))
                why = f"given {given}, which says how a model is loaded, and this one is in memory"
                yield Fault(config.where(f"model.{key}"), f"{why}; leave it out")
        own = {"dtype": self._dtypes, "attention": {self.kernel}, "device": self._devices}
        for key, there in own.items():
            asked = getattr(said, key)
            if asked not in ("auto", *there):
                shown = " and ".join(sorted(there))
                why = f"given {asked}, and the model in memory has {shown}"
                yield Fault(
                    config.where(f"model.{key}"), f"{why}; leave it out, or change the model"
                )
        if said.tokenizer is not None and self.tokenizer is not None:
            why = f"given {show(said.tokenizer)}, and a tokenizer came with the model; give one"
            yield Fault(config.where("model.tokenizer"), why)

    @property
    def _dtypes(self) -> set[str]:
        found = {p.dtype for p in self.model.parameters() if p.is_floating_point()} or {self.dtype}
        return {str(dtype).removeprefix("torch.") for dtype in found}

    @property
    def _devices(self) -> set[str]:
        return {str(self.device), self.device.type}


def at_hand(model: Any, tokenizer: Any = None, *, digest: bool = True) -> AtHand:
    """Take a model that a call gives, or say why a config's run cannot.

    Args:
        model: a model of transformers, or what wraps one; nothing is changed on it.
        tokenizer: of transformers.
        digest: tell the model by its weights.

    Raises:
        PlanError: which says what was given, and what to do.
    """
    if not isinstance(model, torch.nn.Module):
        raise PlanError(f"model is {show_typed(model)}; expected a torch.nn.Module")
    if is_compiled(model):
        raise PlanError(
            "model: it is compiled as a whole, which hides its modules; give the model that was "
            "compiled (model._orig_mod), or compile its blocks alone"
        )
    inner = inner_model(model)
    if inner is None:
        raise PlanError(
            f"model: {type(model).__name__} is no model of transformers, and holds none, so its "
            f"config, sizes and inputs are not known. {_RECORD}"
        )
    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise PlanError(
            f"tokenizer is {show_typed(tokenizer)}; expected a tokenizer of transformers (one of "
            "the package tokenizers goes into PreTrainedTokenizerFast(tokenizer_object=...))"
        )
    return AtHand(
        model=model,
        inner=inner,
        tokenizer=copy.deepcopy(tokenizer),  # to encode sets how a tokenizer pads and cuts
        device=_device(model, inner),
        dtype=_dtype(model, inner),
        is_digested=bool(digest),
    )


def inner_model(model: torch.nn.Module) -> PreTrainedModel | None:
    """Find the model of transformers in what may wrap it; the object itself where nothing does."""
    return next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)


def is_compiled(model: torch.nn.Module) -> bool:
    """Say whether a model is compiled as a whole, which hides its modules from hooks."""
    return hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None


def _device(model: torch.nn.Module, inner: PreTrainedModel) -> torch.device:
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if "meta" in devices:
        raise PlanError(
            f"model: weights of {type(model).__name__} are not in memory (they are on the meta "
            "device: not loaded, or offloaded); give a model that is loaded as a whole"
        )
    replicas = getattr(model, "device_ids", None) or ()
    if len(devices) > 1 or len(replicas) > 1:
        spread = ", ".join(devices if len(devices) > 1 else map(str, replicas))
        raise PlanError(
            f"model: {type(model).__name__} is spread over devices ({spread}), and a run's model "
            f"is on one; give one that is (of what copies a model, its .module). {_RECORD}"
        )
    weight = getattr(inner.get_input_embeddings(), "weight", None)
    found = weight if isinstance(weight, torch.Tensor) else next(model.parameters(), None)
    return torch.device("cpu") if found is None else found.device


def _dtype(model: torch.nn.Module, inner: PreTrainedModel) -> torch.dtype:
    there = {parameter.dtype for parameter in model.parameters()}
    return next((dtype for dtype in _COMPUTED if dtype in there), inner.dtype)
