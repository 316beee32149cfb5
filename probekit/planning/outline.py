"""The outline of a plan: what is known of a run without its inputs.

Knows how a model's skeleton is had, of a checkpoint or of a model at hand, and which sites there
will be; nothing of texts.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from probekit import models
from probekit.config import ProbeConfig
from probekit.errors import PlanError
from probekit.models import AtHand, Skeleton
from probekit.planning.resolve import Resolver, SitePlan, moment
from probekit.planning.tensors import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What is known without the inputs."""

    skeleton: Skeleton
    dtype: torch.dtype  # the model computes in it
    attention: str  # the kernel to load the model with, as a config says it
    sites: tuple[SitePlan, ...]
    notes: tuple[str, ...]
    no_generation: str  # why it cannot generate; "" where it can
    short: int | None = None  # tokens up to which it runs the modules that were planned


def outline_of(config: ProbeConfig, hf_config: Any, n_keys: int) -> Outline:
    """Outline a run of a checkpoint.

    Args:
        config: what is asked for.
        hf_config: the architecture.
        n_keys: how wide attention rows are.

    Raises:
        PlanError: if a probe cannot be carried out on this model.
    """
    asked = config.model.attention
    where = config.where("model.name")
    dtype = models.compute_dtype(config.model, hf_config)
    models.check_kernel(config, dtype)
    short = models.settle(hf_config)
    skeleton = models.build_skeleton(hf_config, dtype, asked, where=where)
    resolver = Resolver(config, skeleton, n_keys)
    try:
        sites, attention, notes = resolver.sites(), asked, resolver.notes
    except PlanError:
        if not resolver.needs_eager or asked != "auto":
            raise
        skeleton = models.build_skeleton(hf_config, dtype, "eager", where=where)
        resolver = Resolver(config, skeleton, n_keys)
        sites, attention = resolver.sites(), "eager"
        notes = [
            f"{skeleton.model_class} does not use transformers' attention interface: it runs with "
            "eager attention here, which shows its patterns",
            *resolver.notes,
        ]
    generates = models.model_class(hf_config).can_generate()
    return Outline(
        skeleton=skeleton,
        dtype=dtype,
        attention=attention,
        sites=sites,
        notes=tuple(notes),
        no_generation="" if generates else f"{skeleton.model_class} does not generate",
        short=short,
    )


def outline_at_hand(config: ProbeConfig, hand: AtHand, n_keys: int) -> Outline:
    """Outline a run of a model at hand, which is borrowed; see `outline_of`."""
    where = config.where("model.name")
    if models.settle(copy.deepcopy(hand.hf_config)) is not None:
        raise PlanError(
            f"{where}: {hand.name} replaces its attention for good at the first short text, and a "
            'run leaves a model as it was; load it with attention_type="original_full"'
        )
    skeleton = models.look_at(hand, where)
    resolver = Resolver(config, skeleton, n_keys)
    try:
        sites = resolver.sites()
    except PlanError as error:
        if not resolver.needs_eager or hand.kernel == "eager":
            raise
        raise PlanError(
            f"{error}. Under eager attention it may; this model runs with {hand.kernel}, which a "
            'run does not change: load it with attn_implementation="eager"'
        ) from error
    return Outline(
        skeleton=skeleton,
        dtype=hand.dtype,
        attention=hand.kernel,
        sites=sites,
        notes=tuple(resolver.notes),
        no_generation=_no_generation(hand),
    )


def _no_generation(hand: AtHand) -> str:
    if not hand.inner.can_generate():
        return f"{type(hand.inner).__name__} does not generate"
    if hand.inner is not hand.model:
        return (
            f"{hand.name} wraps {type(hand.inner).__name__}, which generates past it; give that "
            "one as the model (of PEFT, model.get_base_model(), which has the adapters in it)"
        )
    return ""


def stop_of(config: ProbeConfig, outline: Outline) -> Source | None:
    """Find the source after which nothing more is needed of a forward pass; None to run it all."""
    if not config.early_stop or config.generate or config.execution_order is True:
        return None
    if not outline.sites:
        return None
    last = max((s.source for s in outline.sites), key=lambda s: moment(outline.skeleton, s))
    return last if last.module else None  # the model's own output is the end anyway
