"""The skeleton of a model: what runs, in which order, on tensors of which shape; without weights.

Knows transformers' models from outside: it builds one on fake tensors (shape and dtype, no memory)
and runs it twice with other batch sizes and lengths, so that every axis shows what it is. A model
that is at hand is run so itself: it may be patched, wrapped or quantized.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.initialization import no_init_weights

from probekit.errors import PlanError
from probekit.models.athand import AtHand
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

_NO_DEVICE = torch.device("cpu")  # of fake tensors: they have no memory


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
    told = _explained(f"{where}: {kind.__name__} cannot be built and run", hf_config, kind)
    with BUILDING, FakeTensorMode(), Answers(), torch.no_grad(), told:  # type: ignore[no-untyped-call]
        model = _build(kind, hf_config, dtype, kernel)
        made_of = describe(model) if details else {}
        seen = _look(model, model)
    # Here, where tensors have values again.
    return _skeleton(seen, hf_config, kind.__name__, where, made_of)


def look_at(hand: AtHand, where: str = "model.name") -> Skeleton:
    """Run a model at hand twice, on a few tokens and on its own device, as it is.

    Args:
        hand: borrowed, so that it is in eval mode.
        where: the place of the model's name, for messages.

    Raises:
        PlanError: if the model does not run on token ids alone.
    """
    if "input_ids" not in _parameters(hand.model, hand.inner):
        takes = ", ".join(inspect.signature(hand.model.forward).parameters)
        raise PlanError(
            f"{where}: {hand.name}.forward({takes}) takes no input_ids; call its argument so, or "
            f"give the {type(hand.inner).__name__} inside"
        )
    ran = f"model: {hand.name}, with all hooks that it has, fails"
    with _explained(ran, hand.hf_config, type(hand.inner)), torch.no_grad():
        seen = _look(hand.model, hand.inner, hand.device)
    return _skeleton(seen, hand.hf_config, hand.name, where, {})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What two passes of a model have shown."""

    model: torch.nn.Module
    modules: Mapping[str, str]
    mixtures: Mapping[str, Mixture]
    watch: AttentionWatch
    first: list[Call]
    second: list[Call]
    n_parameters: int
    arguments: frozenset[str]
    adds_tokens: bool
    head: str | None


def _look(model: torch.nn.Module, inner: Any, device: torch.device = _NO_DEVICE) -> _Seen:
    """Run a model twice; `inner` is the model of transformers in it."""
    accepted = _parameters(model, inner)
    run = partial(_run, model, accepted, device)
    watch = AttentionWatch(model, FIRST[1])
    mixtures = mixtures_of(model)
    first = watch.watch(lambda: observe(model, lambda: run(*FIRST)))
    second = observe(model, lambda: run(*SECOND))
    head = inner.get_output_embeddings()
    heads = [path for path, module in model.named_modules() if module is head]
    return _Seen(
        model=model,
        modules={path: type(m).__name__ for path, m in model.named_modules() if path},
        mixtures=mixtures,
        watch=watch,
        first=first,
        second=second,
        n_parameters=sum(p.numel() for p in model.parameters()),
        arguments=accepted - ({"position_ids"} if numbers_positions_itself(model) else set()),
        adds_tokens=_adds_tokens(inner, device),
        head=heads[0] if heads else None,
    )


def _skeleton(
    seen: _Seen, hf_config: Any, name: str, where: str, details: Mapping[str, Details]
) -> Skeleton:
    calls = compared(seen.first, seen.second)
    if calls is None:
        raise PlanError(
            f"{where}: {name} runs other modules on longer texts, so it cannot be planned"
        )
    whole, *inner = calls
    return Skeleton(
        hf_config=hf_config,
        model_class=name,
        n_parameters=seen.n_parameters,
        modules=seen.modules,
        calls=tuple(inner),
        outputs=whole.outputs,
        arguments=seen.arguments,
        attention=seen.watch.shapes(calls),
        head=seen.head,
        adds_tokens=seen.adds_tokens,
        mixtures=seen.mixtures,
        details=details,
    )


@contextmanager
def _explained(failed: str, hf_config: Any, kind: Any) -> Iterator[None]:
    """Say what whatever a model's own code raises means, when it is given nothing but tokens.

    Args:
        failed: which model did what.
        hf_config: its architecture.
        kind: its class.
    """
    try:
        yield
    except Exception as error:
        raise PlanError(
            f"{failed} on token ids alone, so it cannot be planned{_reason(error, hf_config, kind)}"
        ) from error


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


def _adds_tokens(model: Any, device: torch.device) -> bool:
    """Say whether generating reads other tokens than it was given: XLNet and XLM add one."""
    if not model.can_generate():
        return False
    given = _tokens(_parameters(model, model), *FIRST, device)
    given = {k: v for k, v in given.items() if k != "position_ids"}
    try:
        prepared = model.prepare_inputs_for_generation(is_first_iteration=True, **given)
    except Exception:  # whatever its own code wants besides tokens: the run will say
        return False
    ids = prepared.get("input_ids")
    return ids is not None and tuple(ids.shape) != FIRST


def forward_arguments(accepted: frozenset[str]) -> frozenset[str]:
    """Give the arguments probekit passes to a forward: masks and positions always explicitly."""
    return accepted & {"input_ids", "attention_mask", "position_ids", "use_cache"}


def _parameters(model: torch.nn.Module, inner: Any) -> frozenset[str]:
    """Name what a forward takes; one that hands on whatever it is given takes what that takes."""
    own = inspect.signature(model.forward).parameters
    hands_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values())
    more = inspect.signature(inner.forward).parameters if hands_on and model is not inner else ()
    return frozenset((*own, *more))


def _run(
    model: torch.nn.Module,
    accepted: frozenset[str],
    device: torch.device,
    n_batch: int,
    n_positions: int,
) -> None:
    model(**_tokens(accepted, n_batch, n_positions, device))


def plain_tokens(model: torch.nn.Module, n_batch: int, n_positions: int) -> dict[str, Any]:
    """Give a forward what it takes of so many tokens: ids, mask and positions, and no cache."""
    return _tokens(_parameters(model, model), n_batch, n_positions, _NO_DEVICE)


def _tokens(
    accepted: frozenset[str], n_batch: int, n_positions: int, device: torch.device
) -> dict[str, Any]:
    shape = (n_batch, n_positions)
    given = {
        "input_ids": torch.zeros(shape, dtype=torch.long, device=device),
        "attention_mask": torch.ones(shape, dtype=torch.long, device=device),
        "position_ids": torch.arange(n_positions, device=device).expand(n_batch, -1),
        "use_cache": False,
    }
    return {name: given[name] for name in forward_arguments(accepted)}
