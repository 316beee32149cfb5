"""The values at places of a followed forward pass, and what is worked out of them by hand.

Knows places, calls of modules and arithmetic; proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probekit.models.forward import AttentionCall, Passing, Value
from probekit.models.places.found import Found, Key
from probekit.models.places.layers import Layer
from probekit.models.places.names import Place
from probekit.models.places.stream import Increment, is_linear, is_norm
from probekit.models.places.tinyrun import Run


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """What is worked out, what it must equal, and the names whose values take part in it."""

    keys: tuple[Key, ...]
    worked_out: Tensor
    given: Tensor


ADDED = {"attention": "attn_out", "mixer": "mixer_out", "mlp": "mlp_out"}  # by the half that adds


class Values:
    """The values at places of a followed forward pass."""

    def __init__(self, run: Run, found: Found) -> None:
        self.run, self.found = run, found
        self._kernels = {layer.kernel.path: layer for layer in found.layers if layer.kernel}

    def of(self, name: str, layer: int | None) -> Tensor | None:
        """Give the value of a name; None where it has no place."""
        place = self.found.places.get((name, layer))
        return None if place is None else self.at(place)

    def at(self, place: Place) -> Tensor | None:
        """Give the value at a place that is what a module reads or gives."""
        call = self.run.passed.at(place.module)
        if call is None:
            return None
        value = call.read if place.kind == "input" else call.gave
        return None if value is None else value * place.factor

    def attending(self, name: str, layer: int) -> Layer | None:
        """Give the layer whose attention a name of heads is read at: the same one, if it is right.

        Only where that has this name's kind: what is read as another kind is another value.
        """
        place = self.found.places.get((name, layer))
        return self._kernels.get(place.module) if place is not None and place.kind == name else None

    def kernel(self, name: str, layer: int) -> AttentionCall | None:
        """Give the call of a kernel that a name of heads is read at."""
        there = self.attending(name, layer)
        return None if there is None or there.kernel is None else there.kernel.call

    def added(self, layer: Layer, increment: Increment) -> tuple[tuple[Key, ...], Tensor | None]:
        """Give what is added to the stream at one point, and the name that says so, if one does."""
        for half, name in ADDED.items():
            if layer.half(half) is increment and (name, layer.number) in self.found.places:
                return ((name, layer.number),), self.of(name, layer.number)
        call = increment.call
        gave = None if call is None else call.gave
        return (), None if gave is None else gave * increment.factor

    def on_stream(self, layer: Layer, value: Value) -> tuple[tuple[Key, ...], Tensor | None]:
        """Give the stream at one point of a layer by its name; None where no name says it."""
        stream = layer.stream
        pre = None if stream is None else self.of("resid_pre", layer.number)
        if pre is not None and stream is not None and value.origin is stream.start:
            return (("resid_pre", layer.number),), pre
        mixing, mid = layer.mixing, self.of("resid_mid", layer.number)
        if mixing is not None and mid is not None and value.origin is mixing[1].after.origin:
            return (("resid_mid", layer.number),), mid
        return (), None


def flat(value: Tensor) -> Tensor:
    """Put all tokens in one axis: `[token, d_model]`."""
    return value.reshape(-1, value.shape[-1])


def projection(layer: Layer, half: str = "attention") -> Passing | None:
    """Find the linear map that gives what a half adds, before any norm of that."""
    one = layer.half(half)
    if one is None or one.core is None or one.core.gives is None:
        return None
    maps = [c for c in layer.givers.holding(one.core.gives) if is_linear(c.module)]
    return maps[-1] if maps else None


def mapped(module: Any, read: Tensor) -> Tensor:
    """Carry out a linear map by its weight: `[out, in]`, or `[in, out]` of a Conv1D."""
    return torch.nn.functional.linear(read, weight_of(module), getattr(module, "bias", None))


def weight_of(module: Any) -> Tensor:
    """Give a linear map's weight as `[out, in]`."""
    weight: Tensor = module.weight
    return weight if type(module).__name__ != "Conv1D" else weight.T


def normed_after(layer: Layer, increment: Increment, value: Tensor) -> Tensor | None:
    """Carry what a half's last map gives through the norms that follow, to what is added.

    None where no norms alone lie between.
    """
    norms: list[Passing] = []
    call = increment.call
    while call is not None and call is not increment.core and is_norm(call.module):
        norms.insert(0, call)
        call = None if call.reads is None else next(iter(layer.givers.giving(call.reads)), None)
    for norm in norms:
        value = applied(norm, value)
    return value * increment.factor if call is increment.core else None


def applied(norm: Passing, value: Tensor) -> Tensor:
    """Carry out a norm on another value, in the shape that it was given."""
    shape = value.shape if norm.read is None else norm.read.shape
    given: Tensor = norm.module.forward(value.reshape(shape))
    return given
