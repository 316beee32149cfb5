"""The layers of a model, in a forward pass: which modules they are, and what each half of one is.

Knows calls of modules, streams and what transformers says of itself; nothing of names.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from probekit.models.forward import AttentionCall, Passed, Passing, Value
from probekit.models.places.stream import Givers, Increment, Stream, is_linear, stream_of

_ATTENTION, _NO_ATTENTION = ("attention", "attn"), ("linear", "delta", "rwkv")  # class names
Kinds = dict[str, str]  # what a module's class is: "attention", "mixer", "mlp"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kernel:
    """A call of an attention kernel, and what it gave."""

    path: str
    call: AttentionCall
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """One layer of a model in a forward pass."""

    number: int
    call: Passing
    givers: Givers
    stream: Stream | None
    halves: Mapping[str, tuple[Increment, ...]]  # "attention", "mixer", "mlp"
    kernel: Kernel | None  # of its attention, if it calls one once

    @property
    def first_norm(self) -> Passing | None:
        """Give the norm behind which the stream begins, if it does not begin with the layer."""
        return None if self.stream is None else self.stream.first_norm

    def half(self, kind: str) -> Increment | None:
        """Give what one half adds, if it is one thing."""
        found = self.halves.get(kind, ())
        return found[0] if len(found) == 1 else None

    @property
    def mixing(self) -> tuple[str, Increment] | None:
        """Give the half that looks at other tokens: its kind, and what it adds."""
        for kind in ("attention", "mixer"):
            found = self.half(kind)
            if found is not None and not (kind == "mixer" and self.halves.get("attention")):
                return kind, found
        return None


def layer_calls(model: Any, passed: Passed) -> list[Passing]:
    """Give the calls of a model's layers, in order; empty where it has no list of layers."""
    named = _classes(model, "hidden_states")
    lists = []
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module):
            calls = [passed.at(f"{path}.{n}") for n in range(len(module))]
            found = [call for call in calls if call is not None]
            in_order = all(a.left < b.entered for a, b in pairwise(found))
            if len(found) == len(module) and in_order:
                is_named = any(isinstance(m, tuple(named)) for m in module) if named else False
                lists.append((is_named, len(found), -path.count("."), found))
    listed = {call.path for *_, found in lists for call in found}
    outer = [one for one in lists if not _inside_another(one[3][0].path, listed)]
    return max(outer, key=lambda one: one[:3])[3] if outer else []


def _inside_another(path: str, listed: Set[str]) -> bool:
    """Say whether a module lies within one of a list."""
    return any(path[:end] in listed for end, letter in enumerate(path) if letter == ".")


def _classes(model: Any, what: str) -> list[type]:
    """Give the classes that transformers records something of, where it says so."""
    said = getattr(model, "_can_record_outputs", None) or {}
    found = said.get(what) or ()
    several = found if isinstance(found, list | tuple) else [found]
    classes = [getattr(one, "target_class", one) for one in several]
    return [one for one in classes if isinstance(one, type)]


def layers_of(model: Any, passed: Passed, kernels: list[Kernel], kinds: Kinds) -> list[Layer]:
    """Take a model's layers apart.

    Args:
        model: that has run.
        passed: its forward pass.
        kernels: that it called.
        kinds: what is known of its modules' classes; what is found out is added. A pass without
            values finds out nothing.
    """
    return [
        _layer(model, passed, number, call, kernels, kinds)
        for number, call in enumerate(layer_calls(model, passed))
    ]


def _layer(
    model: Any, passed: Passed, number: int, call: Passing, kernels: list[Kernel], kinds: Kinds
) -> Layer:
    givers = Givers(passed, call)
    stream = stream_of(givers, is_first=number == 0)
    inside = [k for k in kernels if k.path.startswith(f"{call.path}.")]
    halves: dict[str, tuple[Increment, ...]] = {}
    for increment in stream.increments if stream is not None else ():
        kind = _kind(model, givers, stream, increment, inside, kinds)
        halves[kind] = (*halves.get(kind, ()), increment)
    mixers, mlps = halves.get("mixer", ()), halves.get("mlp", ())
    n_mixing = len(mixers) + len(halves.get("attention", ()))
    if len(mlps) > 1 and n_mixing == 1 and not any(i.after is mlps[0].after for i in mlps[1:]):
        # Gemma 4 adds more to the stream behind its MLP, at another point.
        halves |= {"mlp": mlps[:1], "more": mlps[1:]}
    if len(mixers) == 2 and len(halves) == 1:  # RWKV's second half looks one token back too
        halves = {"mixer": mixers[:1], "mlp": mixers[1:]}
    return Layer(
        number=number,
        call=call,
        givers=givers,
        stream=stream,
        halves=halves,
        kernel=inside[0] if len(inside) == 1 else None,
    )


def _kind(
    model: Any,
    givers: Givers,
    stream: Stream | None,
    increment: Increment,
    kernels: list[Kernel],
    kinds: Kinds,
) -> str:
    """Say which half of a layer an increment comes of."""
    assert stream is not None
    on_stream = frozenset({stream.start, *(i.before for i in stream.increments)})
    on_stream -= {increment.value.origin}
    if increment.core is None:
        return "unknown"
    top = top_call(givers, increment.core)
    for kernel in kernels:
        # What a mixer makes of what attention gave (Zamba 2) is the mixer's.
        is_its = is_linear(increment.core.module) or kernel.path.startswith(top.path)
        if is_its and increment.value.comes_of(kernel.value, never_over=on_stream):
            return "attention"
    between = increment.core.path.removeprefix(givers.layer.path + ".").split(".")
    enclosing = [
        model.get_submodule(".".join((givers.layer.path, *between[:n])))
        for n in range(1, len(between) + 1)
    ]
    recorded = tuple(_classes(model, "attentions"))
    for module in enclosing:
        name = type(module).__name__.lower()
        is_other = any(word in name for word in _NO_ATTENTION)
        is_called_so = any(word in name for word in _ATTENTION) or isinstance(module, recorded)
        if is_called_so and not is_other:
            return "attention"
    cls = type(top.module).__qualname__
    if cls not in kinds:
        kinds[cls] = "mixer" if _mixes(top) else "mlp"
    return kinds[cls]


def top_call(givers: Givers, inner: Passing) -> Passing:
    """Give the call of the layer's own child that a call was made within, or that it is."""
    depth = givers.layer.path.count(".") + 1
    child = ".".join(inner.path.split(".")[: depth + 1])
    around = [c for c in givers.calls if c.entered <= inner.entered and c.left >= inner.left]
    return next((c for c in around if c.path == child), inner)


def _mixes(call: Passing) -> bool:
    """Say whether what a module gives for a token depends on other tokens: it is run again."""
    if is_linear(call.module) or call.read is None or call.gave is None:
        return False
    with _disable_current_modes(), torch.no_grad():
        other = call.read.clone()
        if other.ndim < 3:  # of all tokens in one axis nothing can mix them
            return False
        other[:, 0] += torch.linspace(1.0, 2.0, other.shape[-1], dtype=other.dtype)
        try:
            again = given(call, other)
        except Exception:  # whatever its own code wants besides what it was given once
            return True
    n_batch, n_positions = other.shape[:2]
    if not isinstance(again, torch.Tensor) or again.numel() % (n_batch * n_positions):
        return True
    difference = (again.flatten() - call.gave.flatten()).view(n_batch, n_positions, -1)
    changed = difference[:, 1:].abs().max()
    return bool(changed > 1e-5 * call.gave.abs().max())


def given(call: Passing, first: torch.Tensor) -> Any:
    """Run a module again with another first tensor, and give the first that comes out."""
    replaced = False

    def swap(value: Any) -> Any:
        nonlocal replaced
        if isinstance(value, torch.Tensor) and not replaced:
            replaced = True
            return first
        return value

    args = tuple(swap(value) for value in call.args)
    kwargs = {key: swap(value) for key, value in call.kwargs.items()}
    output = call.module.forward(*args, **kwargs)
    while isinstance(output, tuple | list):
        output = output[0]
    return output
