"""Output heads: a model's final norm and unembedding, from the model a trace names or one given.

Knows how to get at these two modules without the rest of the weights; nothing of residual streams.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging as transformers_logging

from probekit import models
from probekit.analysis.logitlens.athand import changed, config_of
from probekit.config import ProbeConfig
from probekit.errors import ConfigError, PlanError, StoreError
from probekit.models import families
from probekit.store import read_run
from probekit.wording import counted

if TYPE_CHECKING:
    from probekit.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputHead:
    """What makes logits of a residual stream, as the model does behind its last layer."""

    norm: torch.nn.Module
    head: torch.nn.Module
    head_path: str  # in the model
    cap: float | None
    before: float = 1.0  # what the norm gives is multiplied with it
    after: float = 1.0  # and what the head gives

    @property
    def weight(self) -> torch.Tensor:
        """The unembedding, [d_vocab, d_model]; its dtype and device are those of the model."""
        weight = self.head.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    def head_output(self, residual: torch.Tensor, *, normed: bool = False) -> torch.Tensor:
        """Give what the model's head returns, before any factor and cap.

        Args:
            residual: `[row, d_model]`, of any float dtype.
            normed: it has been through the final norm already.

        Returns:
            `[row, d_vocab]`, computed in the model's dtype, in float32.
        """
        with torch.inference_mode():
            there = residual.to(self.weight.device, self.weight.dtype)
            given = there if normed else self.norm(there)
            output: torch.Tensor = self.head(given if self.before == 1.0 else given * self.before)
            return output.float()

    def capped(self, head_output: torch.Tensor) -> torch.Tensor:
        """Give the model's logits."""
        head_output = head_output if self.after == 1.0 else head_output * self.after
        return head_output if self.cap is None else self.cap * torch.tanh(head_output / self.cap)


def output_head_of(model: Any) -> OutputHead:
    """Take the head of a model at hand.

    Args:
        model: a causal language model of transformers, of a family that families.py knows.

    Raises:
        PlanError: if it has none, or the family is not known; the message says which.
    """
    return _output_head(model, families.unembedding(model.config))


def _output_head(model: Any, how: families.Unembedding) -> OutputHead:
    found = OutputHead(
        norm=model.get_submodule(how.norm),
        head=model.get_submodule(how.head),
        head_path=how.head,
        cap=how.cap,
        before=how.before,
        after=how.after,
    )
    d_model = families.sizes(model.config).d_model
    if found.weight.shape[-1] != d_model:
        raise PlanError(
            f"{type(model).__name__}: {how.head} takes "
            f"{counted(found.weight.shape[-1], 'value')} and the residual stream has {d_model:,}: "
            "something else lies between them"
        )
    if found.weight.is_meta:
        raise PlanError(f"{type(model).__name__}: its weights are not loaded (meta device)")
    return found


def load_output_head(trace: Trace, device: str) -> OutputHead:
    """Load the final norm and unembedding of the model that a trace names, and no other weights.

    Random weights are drawn in the order of the whole model, which is therefore built for once.

    Raises:
        StoreError: if they cannot be had, or are not those the trace was made with any more.
        PlanError: as `output_head_of` does.
    """
    try:
        config = changed(config_of(trace), device=device)
        hf_config = models.load_hf_config(config)
        how = families.unembedding(hf_config)
        _refuse_changed(trace, config)
        if config.model.weights != "random":
            hf_config = _without_layers(hf_config, config)
        where = models.compute_device(config.model, "device")
        with _quiet():
            return _output_head(models.load_model(config, hf_config, where), how)
    except ConfigError as error:
        raise StoreError(
            f"{trace.path}: the final norm and unembedding of "
            f"{trace.provenance.get('model_name')} cannot be had: {error}. "
            "Give the model itself: lens(trace, model=...)"
        ) from error


def _without_layers(hf_config: Any, config: ProbeConfig) -> Any:
    """Give the same architecture without its layers: embeddings, final norm, unembedding."""
    by_layer = ("layer_types", "attention_types", "attention_layers")
    few: dict[str, Any] = {k: [] for k in by_layer if getattr(hf_config, k, None)}
    few["num_hidden_layers"] = 0
    made = models.with_overrides(hf_config, few, config)
    made._commit_hash = hf_config._commit_hash
    return made


def _refuse_changed(trace: Trace, config: ProbeConfig) -> None:
    run = read_run(trace.path.parent) or {"identity": {}}
    made_with = run["identity"].get("model_digest")
    if made_with is not None and models.model_digest(config) != made_with:
        raise ConfigError(f"{config.model.name} has changed since the run")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting the layers that are left out on purpose."""
    level, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
