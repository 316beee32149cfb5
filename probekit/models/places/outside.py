"""Where the names outside the layers lie: the embedding, the final norm, the logits.

Knows calls and values; proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from probekit.models.forward import Passing
from probekit.models.places.found import Found, Missing
from probekit.models.places.inlayers import scale_kind
from probekit.models.places.names import Place
from probekit.models.places.stream import back_to, is_norm
from probekit.models.places.tinyrun import Run


def _embed(run: Run, found: Found) -> Place:
    module = run.model.get_input_embeddings()
    call = next((c for c in run.passed.calls if c.module is module), None)
    if call is None or call.gives is None or not found.layers:
        raise Missing("the model's token embeddings are no module that runs before its layers")
    first = found.layers[0].call.reads
    led = None if first is None else back_to(call.gives, first)
    # Not all that carries the embedding to the first layer is a sum: a number tells (identities).
    return Place(module=call.path, kind="output", factor=_number(led, call))


def _number(led: tuple[float, Any] | None, call: Passing) -> float:
    """Give the factor with which a value leads to another; one where that is no sum."""
    factor = 1.0 if led is None else led[0]
    if factor != factor:
        raise Missing(f"what {call.path} gives is multiplied with a weight, outside any module")
    return factor


def head_call(run: Run) -> Passing:
    """Find the call of the output head."""
    module = run.model.get_output_embeddings()
    calls = [c for c in run.passed.calls if c.module is module]
    if module is None or len(calls) != 1 or calls[0].reads is None:
        raise Missing("the model has no one output head that runs once")
    return calls[0]


def final_norm(run: Run, found: Found) -> tuple[Passing, float]:
    """Find the norm whose output the head reads, and what that is multiplied with before."""
    head = head_call(run)
    assert head.reads is not None
    value, factor = head.reads.origin, 1.0
    while value.made == "scaled":
        (factor, value) = factor * value.factors[0], value.of[0].origin
    norms = [
        c for c in run.passed.calls
        if c.gives is not None and c.gives.origin is value and is_norm(c.module)
    ]  # fmt: skip
    if not norms or not found.layers:
        raise Missing("the output head reads no norm's output")
    norm, last = norms[0], found.layers[-1].call.gives
    if norm.reads is None or last is None or norm.reads.origin is not last.origin:
        raise Missing(f"{norm.path}, which the output head reads, does not read the last layer")
    return norm, factor


def _ln_final(run: Run, found: Found) -> Place:
    norm, found.before = final_norm(run, found)
    return Place(module=norm.path, kind="output")


def _ln_final_scale(run: Run, found: Found) -> Place:
    norm, _ = final_norm(run, found)
    return Place(module=norm.path, kind=scale_kind(norm))


def _logits(run: Run, found: Found) -> Place:
    head, logits = head_call(run), run.passed.logits
    if head.gives is None or logits is None:
        raise Missing("the model returns no logits")
    led = back_to(head.gives, logits)
    cap = getattr(run.model.config.get_text_config(), "final_logit_softcapping", None)
    if cap is not None:
        found.cap = float(cap)
        raise Missing(
            f"the model caps the output of {head.path} (final_logit_softcapping) outside any "
            f"module; `modules: {head.path}` records the value before the cap"
        )
    return Place(module=head.path, kind="output", factor=_number(led, head))


ELSEWHERE: Mapping[str, Callable[[Run, Found], Place]] = {
    "embed": _embed,
    "ln_final": _ln_final,
    "ln_final_scale": _ln_final_scale,
    "logits": _logits,
}
