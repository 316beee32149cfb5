"""Experts: the tensors that the record kinds of mixtures of experts mean.

Knows blocks whose tokens go to some of their experts, calls and slots; nothing of probes' choices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from probekit.config import RecordKind
from probekit.errors import PlanError
from probekit.models import Skeleton
from probekit.models.forward import (
    CHOICES,
    EACH_EXPERT,
    EXPERT_KINDS,
    TOKEN,
    Reading,
    Routed,
    Slot,
)
from probekit.planning import tensors
from probekit.planning.tensors import Found, Source
from probekit.wording import counted

_K = "k"  # which of a token's choices


def find(
    skeleton: Skeleton, module: str, kind: RecordKind, n_keys: int, factor: float = 1.0
) -> Iterator[Found]:
    """Find the tensors that any record kind means at a module; see `tensors.find`.

    Raises:
        PlanError: if there is none, or it has neither a token nor an example axis.
    """
    if module and module not in skeleton.modules:  # in memory a model may be built otherwise
        raise PlanError(
            f"{module} is no module of this {skeleton.model_class}, although its config has one "
            "there; name modules, by `modules:`"
        )
    if kind.name in EXPERT_KINDS:
        yield _find(skeleton, module, kind.name)
    else:
        yield from tensors.find(skeleton, module, kind, n_keys, factor)


def _find(skeleton: Skeleton, module: str, kind: str) -> Found:
    """Find what a router gives, or what its experts are given, by the block they lie in."""
    mixture = skeleton.mixtures.get(module)
    if mixture is None:
        near = next(iter(skeleton.mixtures), None)
        raise PlanError(
            f"{module} ({skeleton.modules[module]}) is no block that chooses experts"
            f"{f'; {near} is one' if near else f', and {skeleton.model_class} has none'}"
        )
    at = mixture.readings[kind]
    if isinstance(at, str):
        raise PlanError(f"{module} has no {kind}: {at}")
    if at.routed is not None:
        return _worked_out(skeleton, module, at, at.routed)
    said = _n_experts(skeleton, mixture.readings["router_logits"])
    if at.side == EACH_EXPERT:
        return _each_expert(skeleton, module, at, said)
    found = _read(skeleton, at)
    if not found.per_token or len(found.row_shape) != 1:
        shown = ", ".join(map(str, found.row_shape))
        raise PlanError(
            f"{module} has no {kind}: {found.name} has rows of [{shown}], and not one number for "
            f"each {'expert' if kind == 'router_logits' else 'choice'}"
        )
    is_given = at.side == "input"
    return replace(
        found,
        module=module,
        kind=kind,
        axes=(_K if is_given else "expert",),
        details={"given_to" if is_given else "given_by": at.module} | said,
    )


def _read(skeleton: Skeleton, at: Reading) -> Found:
    """Find the tensor itself, as any input or output is found."""
    _refuse_several(skeleton, at.module)
    kind = RecordKind(name=at.side, element=at.element)
    (found,) = tensors.find(skeleton, at.module, kind, 0)
    return found


def _refuse_several(skeleton: Skeleton, module: str) -> None:
    calls = len(skeleton.calls_of(module))
    if calls > 1:
        times = counted(calls, "time")
        raise PlanError(f"{module} runs {times} in a forward pass, once for other tokens")


def _each_expert(skeleton: Skeleton, module: str, at: Reading, said: dict[str, Any]) -> Found:
    """Say what running every chosen expert for itself gives: `[token, k, d_model]`."""
    ids = _find(skeleton, module, "expert_ids")
    output = _read(skeleton, replace(at, side="output"))
    if ids.source.axes[:1] != (TOKEN,) or output.source.axes[:1] != (TOKEN,):
        raise PlanError(f"{module} has no expert_out: its experts are not given rows of tokens")
    row_shape = (*ids.row_shape, *output.row_shape)
    return replace(
        output,
        module=module,
        kind="expert_out",
        source=replace(output.source, side=EACH_EXPERT, axes=(TOKEN, *row_shape)),
        axes=(_K, *output.axes),
        row_shape=row_shape,
        details={"computed_by": at.module} | said,
    )


def _worked_out(skeleton: Skeleton, module: str, at: Reading, routed: Routed) -> Found:
    """Say what is worked out of what a router gives, where no module is handed choices."""
    kind = str(at.element)
    logits = _read(skeleton, Reading(module=routed.module, side="output", element=routed.logits))
    if TOKEN not in logits.source.axes:
        raise PlanError(f"{module} has no {kind}: its router does not give rows of tokens")
    row_shape, axes, dtype = _row(skeleton, at, routed, logits.dtype)
    weighed = {"weighed": "input"} if kind == "expert_out" and routed.weighs_input else {}
    return replace(
        logits,
        module=module,
        kind=kind,
        source=Source(
            module=at.module, side=CHOICES, element=kind, call=0, axes=(TOKEN, *row_shape)
        ),
        axes=axes,
        row_shape=row_shape,
        dtype=dtype,
        details={"worked_out_of": at.module, "n_experts": routed.n_experts} | weighed,
    )


def _row(
    skeleton: Skeleton, at: Reading, routed: Routed, of_logits: str
) -> tuple[tuple[int, ...], tuple[str, ...], str]:
    """Give the shape of a token's row, the names of its axes, and its dtype."""
    if at.element == "router_logits":
        return (routed.n_experts,), ("expert",), of_logits
    if at.element == "expert_ids":
        return (routed.k,), (_K,), "int64"
    if at.element == "expert_weights":
        return (routed.k,), (_K,), _output(skeleton, routed.module, routed.weights).dtype
    written = _output(skeleton, at.module, None)
    d_model = written.axes[-1]
    assert isinstance(d_model, int)  # as wide as the stream
    axes = (_K, *tensors.axis_names((d_model,), skeleton))
    return (routed.k, d_model), axes, written.dtype


def _output(skeleton: Skeleton, module: str, element: str | None) -> Slot:
    """Give a tensor that a module gives once, whatever its rows are; the first if none is named."""
    _refuse_several(skeleton, module)
    slots = [slot for call in skeleton.calls_of(module) for slot in call.outputs]
    found = [slot for slot in slots if element in (None, str(slot.index))]
    if not found:
        raise PlanError(f"{module} gives no tensor in a forward pass, so its experts do not show")
    return found[0]


def _n_experts(skeleton: Skeleton, router: Reading | str) -> dict[str, Any]:
    """Say among how many experts a token's are chosen, where a router's logits tell."""
    if isinstance(router, str) or not skeleton.calls_of(router.module):
        return {}
    found = _read(skeleton, router)
    return {"n_experts": found.row_shape[-1]} if len(found.row_shape) == 1 else {}
