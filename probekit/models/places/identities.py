"""Identities: what must hold between a model's values for its places to be the right ones.

Each is a row: what is compared, on a tiny model's real values, and which names it proves. Knows
arithmetic; the places come from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probekit.models.forward import Passing, scale
from probekit.models.places.derive import (
    Found,
    Missing,
    activation,
    down,
    final_norm,
    head_call,
    is_sequential,
    norm_before,
)
from probekit.models.places.layers import Layer
from probekit.models.places.names import Place
from probekit.models.places.stream import Increment, is_linear
from probekit.models.places.tinyrun import Run

LIMIT = 1e-4  # of the largest value
Pair = tuple[Tensor, Tensor]  # what is computed, and what it must equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One row: what it says, and the names whose places are wrong where it fails."""

    says: str
    names: tuple[str, ...]
    pairs: Callable[[Values], Iterator[Pair]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What an identity came to on a model."""

    says: str
    names: tuple[str, ...]
    difference: float  # the largest, of the largest value

    @property
    def holds(self) -> bool:
        """Say whether it is within rounding."""
        return self.difference <= LIMIT

    @property
    def reason(self) -> str:
        """Say why names are refused."""
        if self.difference == float("inf"):
            return f"{self.says} fails: there is no such sum, or a weight is a factor of it"
        return f"{self.says} fails by {self.difference:.2g} of the largest value"


class Values:
    """The values at places of a followed forward pass."""

    def __init__(self, run: Run, found: Found) -> None:
        self.run, self.found = run, found

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

    def layers(self) -> Iterator[Layer]:
        """Give the layers."""
        return iter(self.found.layers)

    def mixed(self, layer: int) -> Tensor | None:
        """Give what attention adds, and a mixer."""
        there = [self.of("attn_out", layer), self.of("mixer_out", layer)]
        values = [value for value in there if value is not None]
        return sum(values[1:], values[0]) if values else None


def checked(run: Run, found: Found) -> tuple[Checked, ...]:
    """Hold every identity against a forward pass; those with nothing to compare are left out."""
    values = Values(run, found)
    rows = []
    with torch.no_grad():
        for identity in IDENTITIES:
            differences = [_difference(a, b) for a, b in identity.pairs(values)]
            if differences:
                row = Checked(says=identity.says, names=identity.names, difference=max(differences))
                rows.append(row)
    return tuple(rows)


def _difference(a: Tensor, b: Tensor) -> float:
    if a.numel() != b.numel():
        return float("inf")
    a, b = a.flatten().double(), b.flatten().double()
    largest = float(torch.maximum(a.abs().max(), b.abs().max()))
    worst = float((a - b).abs().max()) / largest if largest else 0.0
    return worst if worst == worst else float("inf")  # NaN compares with nothing


# --- the rows


def _halves_meet(values: Values) -> Iterator[Pair]:
    for layer in values.layers():
        n = layer.number
        pre, added, mid = values.of("resid_pre", n), values.mixed(n), values.of("resid_mid", n)
        if pre is not None and added is not None and mid is not None:
            yield _flat(pre) + _flat(added), mid


def _second_half(values: Values) -> Iterator[Pair]:
    for layer in values.layers():
        n = layer.number
        mid, post = values.of("resid_mid", n), values.of("resid_post", n)
        added, more = values.of("mlp_out", n), _gave(layer.halves.get("more", ()))
        parts = _gave(layer.halves.get("mlp", ())) if added is None else [_flat(added)]
        if mid is not None and post is not None and parts is not None and more is not None:
            yield _weighted(layer, sum((*parts, *more), _flat(mid))), post


def _gave(increments: tuple[Increment, ...]) -> list[Tensor] | None:
    """Give what modules add to the stream; None where no module gives it."""
    given = [None if i.call is None else i.call.gave for i in increments]
    if None in given:
        return None
    return [
        _flat(value) * increment.factor
        for value, increment in zip(given, increments, strict=True)
        if value is not None
    ]


def _weighted(layer: Layer, value: Tensor) -> Tensor:
    """Let a sum fail where a weight decides by how much the stream itself is multiplied."""
    is_known = layer.stream is None or layer.stream.factor == layer.stream.factor
    return value if is_known else torch.full_like(value, torch.nan)


def _whole_layer(values: Values) -> Iterator[Pair]:
    for layer in values.layers():
        n = layer.number
        pre, post = values.of("resid_pre", n), values.of("resid_post", n)
        stream = layer.stream
        added = None if stream is None else _gave(stream.increments)
        if pre is not None and post is not None and stream is not None and stream.normed:
            added = added or [torch.full_like(_flat(pre), torch.nan)]
        has_middle = values.of("resid_mid", n) is not None and is_sequential(layer)
        if pre is not None and post is not None and added and not has_middle:
            yield _weighted(layer, sum(added, _flat(pre))), post


def _hand_on(values: Values) -> Iterator[Pair]:
    for layer in values.layers():
        post = values.of("resid_post", layer.number)
        pre = values.of("resid_pre", layer.number + 1)
        if post is not None and pre is not None:
            yield post, pre


def _flat(value: Tensor) -> Tensor:
    return value.reshape(-1, value.shape[-1])


def _attends(values: Values) -> Iterator[Pair]:
    for layer in values.layers():
        kernel = layer.kernel
        place = values.found.places.get(("pattern", layer.number))
        if kernel is not None and place is not None and kernel.call.weights is not None:
            held = kernel.call.value
            weights = kernel.call.weights
            groups = weights.shape[1] // held.shape[1]
            if weights.shape[-1] == held.shape[2]:
                seen = weights @ held.repeat_interleave(groups, dim=1)
                yield seen.transpose(1, 2), kernel.call.output


def projection(values: Values, layer: Layer) -> Passing | None:
    """Find the linear map that gives what attention adds, before any norm of that."""
    half = layer.half("attention")
    if half is None or half.core is None or half.core.gives is None:
        return None
    maps = [c for c in layer.givers.holding(half.core.gives) if is_linear(c.module)]
    return maps[-1] if maps else None


def _projects(values: Values) -> Iterator[Pair]:
    for layer in values.layers():
        last, half = projection(values, layer), layer.half("attention")
        has_z = ("z", layer.number) in values.found.places
        gave = None if half is None or half.core is None else half.core.gave
        if has_z and gave is not None and last is not None and last.read is not None:
            yield mapped(last.module, last.read), gave


def mapped(module: Any, read: Tensor) -> Tensor:
    """Carry out a linear map by its weight: `[out, in]`, or `[in, out]` of a Conv1D."""
    weight = module.weight if type(module).__name__ != "Conv1D" else module.weight.T
    bias = getattr(module, "bias", None)
    return torch.nn.functional.linear(read, weight, bias)


def _writes(values: Values) -> Iterator[Pair]:
    for layer in values.layers():
        half = layer.half("mlp")
        post = values.of("mlp_post", layer.number)
        gave = None if half is None or half.core is None else half.core.gave
        if gave is not None and post is not None:
            yield mapped(down(layer).module, post), gave


def _activates(values: Values) -> Iterator[Pair]:
    for layer in values.layers():
        pre, post = values.of("mlp_pre", layer.number), values.of("mlp_post", layer.number)
        if pre is None or post is None:
            continue
        act, last = activation(layer), down(layer)
        acted, post = _flat(act.module.forward(pre)), _flat(post)
        assert last.reads is not None and act.gives is not None
        if last.reads.origin is act.gives.origin:
            yield acted, post
            continue
        others = [v.origin for v in last.reads.origin.of if v.origin is not act.gives.origin]
        gates = [c.gave for o in others for c in layer.givers.giving(o) if c.gave is not None]
        if gates and gates[0].numel() == acted.numel():
            yield acted * _flat(gates[0]), post
        else:  # the gate is a part of what one map gives: the same factor for all that it scales
            ratio = torch.where(acted.abs() > 1e-3, post / acted, 0.0)
            yield acted * ratio, torch.where(acted.abs() > 1e-3, post, 0.0)


def _normed(name: str, kind: str) -> Callable[[Values], Iterator[Pair]]:
    """Give the pairs: the norm of the stream, and what a half reads."""

    def pairs(values: Values) -> Iterator[Pair]:
        for layer in values.layers():
            value = values.of(name, layer.number)
            try:
                norm = norm_before(layer, kind)
            except Missing:
                continue
            if value is not None and norm.read is not None:
                yield norm.module.forward(norm.read), value

    return pairs


def _scales(*names: str) -> Callable[[Values], Iterator[Pair]]:
    """Give the pairs: a norm's output, and its best fit by channel to input over scale."""

    def pairs(values: Values) -> Iterator[Pair]:
        for (name, _), place in values.found.places.items():
            call = values.run.passed.at(place.module) if name in names else None
            if call is not None and call.read is not None and call.gave is not None:
                yield _fitted(call, place.kind), _flat(call.gave)

    return pairs


def _fitted(norm: Passing, kind: str) -> Tensor:
    """Divide by the scale, and fit a weight and a bias for each channel: norms have no more."""
    assert norm.read is not None and norm.gave is not None
    read, gave = _flat(norm.read).double(), _flat(norm.gave).double()
    centred = read - read.mean(-1, keepdim=True) if kind == "std" else read
    x = centred / scale(norm.module, read, kind)
    mean_x, mean_y = x.mean(0), gave.mean(0)
    weight = ((x - mean_x) * (gave - mean_y)).sum(0) / ((x - mean_x) ** 2).sum(0)
    return weight * (x - mean_x) + mean_y


def _final(values: Values) -> Iterator[Pair]:
    value = values.of("ln_final", None)
    if value is not None:
        norm, _ = final_norm(values.run, values.found)
        last = values.found.layers[-1].call.gave
        if last is not None:
            yield norm.module.forward(last), value


def _says(values: Values) -> Iterator[Pair]:
    logits = values.run.passed.result.logits if values.run.passed.logits is not None else None
    try:
        head = head_call(values.run)
        norm, factor = final_norm(values.run, values.found)
    except Missing:
        place = values.found.places.get(("logits", None))
        given = None if place is None else values.at(place)
        if given is not None and logits is not None:
            yield given, logits
        return
    if norm.gave is None or logits is None or head.gave is None:
        return
    place = values.found.places.get(("logits", None))
    said = mapped(head.module, norm.gave * factor) * (1.0 if place is None else place.factor)
    cap = values.found.cap
    yield (said if cap is None else cap * torch.tanh(said / cap)), logits


def _embeds(values: Values) -> Iterator[Pair]:
    """Give what is left of the first stream without the embedding: the same for all texts."""
    embed = values.of("embed", None)
    layers = values.found.layers
    begin = values.of("resid_pre", 0) if layers else None
    first = layers[0].call.read if layers and begin is None else begin
    if embed is None or first is None:
        return
    if first.shape != embed.shape:
        yield first.new_ones(1), first.new_zeros(1)
        return
    rest = first - embed
    yield embed[0] + rest[1], first[0]


def _row(says: str, *names: str, pairs: Callable[[Values], Iterator[Pair]]) -> Identity:
    return Identity(says=says, names=names, pairs=pairs)


IDENTITIES = (
    _row("resid_pre + attn_out = resid_mid", "resid_mid", pairs=_halves_meet),
    _row("resid_mid + mlp_out = resid_post", "resid_post", pairs=_second_half),
    _row(
        "resid_pre + attn_out + mlp_out = resid_post",
        "resid_post",
        pairs=_whole_layer,
    ),
    _row(
        "resid_post of a layer = resid_pre of the next", "resid_pre", "resid_post", pairs=_hand_on
    ),
    _row("norm(resid_pre) = attn_in", "attn_in", pairs=_normed("attn_in", "attention")),
    _row("norm(resid_pre) = mixer_in", "mixer_in", pairs=_normed("mixer_in", "mixer")),
    _row("norm(stream) = mlp_in", "mlp_in", pairs=_normed("mlp_in", "mlp")),
    _row("pattern @ v = what the kernel gives", "pattern", "scores", pairs=_attends),
    _row("projection(z) = attn_out", "z", "head_out", pairs=_projects),
    _row("act(mlp_pre), gated = mlp_post", "mlp_pre", pairs=_activates),
    _row("down_proj(mlp_post) = mlp_out", "mlp_post", "mlp_pre", pairs=_writes),
    _row(
        "norm = weight * input / scale + bias",
        *("ln1_scale", "ln2_scale"),
        pairs=_scales("ln1_scale", "ln2_scale"),
    ),
    _row(
        "final norm = weight * resid_post / scale + bias",
        "ln_final_scale",
        pairs=_scales("ln_final_scale"),
    ),
    _row("norm(last resid_post) = ln_final", "ln_final", pairs=_final),
    _row("head(ln_final) = logits", "logits", pairs=_says),
    _row("embed = first resid_pre, but for what no token changes", "embed", pairs=_embeds),
)
