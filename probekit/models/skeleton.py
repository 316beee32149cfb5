"""The skeleton of a model: what runs, in which order, on tensors of which shape; without weights.

Knows transformers' models from outside: it builds one on fake tensors (shape and dtype, no memory)
and runs it twice with other batch sizes and lengths, so that every axis shows what it is.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.initialization import no_init_weights

from probekit.errors import PlanError
from probekit.models.checkpoints import instead_of_tokens, model_class
from probekit.models.details import Details, describe
from probekit.models.forward import (
    FIRST,
    SECOND,
    Answers,
    AttentionShape,
    AttentionWatch,
    Call,
    Mixture,
    Slot,
    compared,
    mixtures_of,
    numbers_positions_itself,
    observe,
)
from probekit.models.places import BUILDING


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """A model without weights."""

    hf_config: Any
    model_class: str
    n_parameters: int  # tied ones once
    modules: Mapping[str, str]  # every module's path -> class, in the order of the module tree
    calls: tuple[Call, ...]  # in the order they were entered
    outputs: tuple[Slot, ...]  # what the whole model returns
    arguments: frozenset[str]  # parameters of the model's forward
    attention: Mapping[str, AttentionShape]  # modules that use transformers' attention interface
    head: str | None  # the module whose output becomes the logits
    adds_tokens: bool  # `generate` has it read other tokens than it was given
    mixtures: Mapping[str, Mixture] = field(default_factory=dict)  # of experts: by block
    details: Mapping[str, Details] = field(default_factory=dict)  # by module, where asked for

    def calls_of(self, module: str) -> tuple[Call, ...]:
        """Give the calls of one module; empty when it never runs."""
        return tuple(call for call in self.calls if call.module == module)


def build_skeleton(
    hf_config: Any,
    dtype: torch.dtype,
    attention: str = "auto",
    *,
    details: bool = False,
    where: str = "model.name",
) -> Skeleton:
    """Run a model without weights.

    Args:
        hf_config: the architecture.
        dtype: what the model computes in.
        attention: the kernel it will run with, as a config says it.
        details: say of every module what it is made of, too; no run needs that.
        where: the place of the model's name, for messages.

    Raises:
        PlanError: if the model does not run on token ids alone.
    """
    kind = model_class(hf_config, where)
    # Flash attention is not defined on fake tensors; it has the shapes of sdpa.
    kernel = {"auto": {}, "eager": {"attn_implementation": "eager"}}.get(
        attention, {"attn_implementation": "sdpa"}
    )
    with BUILDING, FakeTensorMode(), Answers(), torch.no_grad():  # type: ignore[no-untyped-call]
        try:
            model = _build(kind, hf_config, dtype, kernel)
            modules = {path: type(m).__name__ for path, m in model.named_modules() if path}
            made_of = describe(model) if details else {}
            mixtures = mixtures_of(model)
            watch = AttentionWatch(model, FIRST[1])
            first = watch.watch(lambda: observe(model, partial(_run, model, *FIRST)))
            second = observe(model, partial(_run, model, *SECOND))
        except Exception as error:
            # Whatever a model's own code raises when it is given nothing but tokens.
            raise PlanError(
                f"{where}: {kind.__name__} cannot be built and run on token ids alone, so it "
                f"cannot be planned{_reason(error, hf_config, kind)}"
            ) from error
        n_parameters = sum(p.numel() for p in model.parameters())
        arguments = frozenset(inspect.signature(model.forward).parameters)
        if numbers_positions_itself(model):
            arguments -= {"position_ids"}
        adds_tokens = _adds_tokens(model)
        head = model.get_output_embeddings()
        heads = [path for path, module in model.named_modules() if module is head]
    calls = compared(first, second)
    if calls is None:
        raise PlanError(
            f"{where}: {kind.__name__} runs other modules on longer texts, so it cannot be planned"
        )
    whole, *inner = calls
    shapes = watch.shapes(calls)  # here, where tensors have values again
    return Skeleton(
        hf_config=hf_config,
        model_class=kind.__name__,
        n_parameters=n_parameters,
        modules=modules,
        calls=tuple(inner),
        outputs=whole.outputs,
        arguments=arguments,
        attention=shapes,
        head=heads[0] if heads else None,
        adds_tokens=adds_tokens,
        mixtures=mixtures,
        details=made_of,
    )


def _reason(error: Exception, hf_config: Any, kind: Any) -> str:
    if known := instead_of_tokens(hf_config, kind):  # rather than what its code stumbled on
        return known
    lines = str(error).strip().splitlines()[:1]
    return f": {': '.join([type(error).__name__, *lines])}"


def _build(kind: Any, hf_config: Any, dtype: torch.dtype, kernel: dict[str, str]) -> Any:
    # Mixture-of-experts kernels refuse fake float32; "batched_mm" has the same shapes outside.
    # The config is copied, since a model writes its kernels into the one it is given.
    # Weights are not drawn: some ways of drawing them (Gemma 3's vision tower) look at the values.
    with no_init_weights():
        model = kind._from_config(copy.deepcopy(hf_config), dtype=dtype, **kernel).eval()
    model.tie_weights()  # which drawing them would have done
    if getattr(model.config.get_text_config(), "_experts_implementation", None) is not None:
        model.set_experts_implementation("batched_mm")
    return model


def _adds_tokens(model: Any) -> bool:
    """Say whether generating reads other tokens than it was given: XLNet and XLM add one."""
    if not model.can_generate():
        return False
    given = {k: v for k, v in plain_tokens(model, *FIRST).items() if k != "position_ids"}
    try:
        prepared = model.prepare_inputs_for_generation(is_first_iteration=True, **given)
    except Exception:  # whatever its own code wants besides tokens: the run will say
        return False
    ids = prepared.get("input_ids")
    return ids is not None and tuple(ids.shape) != FIRST


def forward_arguments(accepted: frozenset[str]) -> frozenset[str]:
    """Give the arguments probekit passes to a forward: masks and positions always explicitly."""
    return accepted & {"input_ids", "attention_mask", "position_ids", "use_cache"}


def _run(model: torch.nn.Module, n_batch: int, n_positions: int) -> None:
    model(**plain_tokens(model, n_batch, n_positions))


def plain_tokens(model: torch.nn.Module, n_batch: int, n_positions: int) -> dict[str, Any]:
    """Give a forward what it takes of so many tokens: ids, mask and positions, and no cache."""
    given = {
        "input_ids": torch.zeros((n_batch, n_positions), dtype=torch.long),
        "attention_mask": torch.ones((n_batch, n_positions), dtype=torch.long),
        "position_ids": torch.arange(n_positions).expand(n_batch, -1),
        "use_cache": False,
    }
    wanted = forward_arguments(frozenset(inspect.signature(model.forward).parameters))
    return {name: given[name] for name in wanted}
