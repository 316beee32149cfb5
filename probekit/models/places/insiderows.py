"""What must hold inside a layer: of attention, of an MLP, of norms.

Knows values and layers; what follows from a row that fails is said elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from probekit.models.forward import (
    LINEAR_CLASSES,
    AttentionCall,
    Passing,
    Value,
    attended,
    head_writes,
    scale,
)
from probekit.models.places.found import Key, Missing
from probekit.models.places.inlayers import activation, down, norm_before
from probekit.models.places.layers import Layer, given
from probekit.models.places.outside import final_norm
from probekit.models.places.stream import Increment
from probekit.models.places.values import Pair, Values, flat, mapped, normed_after, projection

_GIVEN_TO_KERNEL = {"query": ("q", "q_pre_rot"), "key": ("k", "k_pre_rot"), "value": ("v",)}
_SMALLEST = 1e-4  # of what norms are tried on: an epsilon shows only where inputs are small

# --- attention


def attends(values: Values) -> Iterator[Pair]:
    """Give the pairs: values, weighted by the pattern and summed, and what the kernel gives."""
    for layer in values.found.layers:
        own, other = layer.kernel, values.kernel("pattern", layer.number)
        if own is None or other is None or other.weights is None:
            continue
        held, weights = own.call.value, other.weights
        if weights.shape[-1] == held.shape[2]:
            seen = weights @ held.repeat_interleave(weights.shape[1] // held.shape[1], dim=1)
            yield Pair(
                keys=(("pattern", layer.number),),
                worked_out=seen.transpose(1, 2),
                given=own.call.output,
            )


def looks(values: Values) -> Iterator[Pair]:
    """Give the pairs: the softmax of queries times keys, and the weights that the kernel shows."""
    for layer in values.found.layers:
        own = None if layer.kernel is None else layer.kernel.call
        other = values.kernel("scores", layer.number)
        if own is not None and own.weights is not None and other is not None:
            weights = _weights(other)
            if weights is not None and weights.shape == own.weights.shape:
                yield Pair(keys=(("scores", layer.number),), worked_out=weights, given=own.weights)


def attends_again(values: Values) -> Iterator[Pair]:
    """Give the pairs: the kernel of the same queries, keys and values again, and what it gave."""
    for layer in values.found.layers:
        if layer.kernel is None:
            continue
        own, module = layer.kernel.call, values.run.model.get_submodule(layer.kernel.path)
        for field, names in _GIVEN_TO_KERNEL.items():
            for name in names:
                other = values.kernel(name, layer.number)
                if other is not None:
                    asked = replace(own, **{field: getattr(other, field)})
                    yield Pair(
                        keys=((name, layer.number),),
                        worked_out=attended(module, asked),
                        given=own.output,
                    )


def _weights(call: AttentionCall) -> Tensor | None:
    """Work out what attention looks at; None where that is not said by what it is given."""
    if call.query.shape[-1] != call.key.shape[-1]:
        return None
    groups = call.query.shape[1] // call.key.shape[1]
    held = call.key.repeat_interleave(groups, dim=1)
    scores = call.query @ held.transpose(2, 3) * call.scaling
    cap, bias = call.options.get("softcap"), call.options.get("position_bias")
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    if bias is not None:
        scores = scores + bias
    if call.mask is not None:
        scores = scores + call.mask[..., : scores.shape[-1]]
    sink = call.options.get("s_aux")
    if sink is None:
        return scores.softmax(-1)
    beside = sink.reshape(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat([scores, beside], -1).softmax(-1)[..., :-1]


def _heads(values: Values, name: str, layer: Layer) -> Tensor | None:
    """Give what heads give to the projection, at the attention where a name is read."""
    there = values.attending(name, layer.number)
    last = None if there is None else _reader(there)
    if there is None or there.kernel is None or last is None or last.read is None:
        return None
    return last.read if last.read.numel() == there.kernel.call.output.numel() else None


def _reader(layer: Layer) -> Passing | None:
    """Find the projection: of what is added, or, where nothing is said of that, of the kernel."""
    kernel = layer.kernel
    if layer.half("attention") is not None or kernel is None:
        return projection(layer)
    maps = (c for c in layer.givers.calls if type(c.module).__name__ in LINEAR_CLASSES)
    return next((c for c in maps if c.reads and c.reads.comes_of(kernel.value)), None)


def projects(values: Values) -> Iterator[Pair]:
    """Give the pairs: the projection of what heads give, and what it gives."""
    for layer in values.found.layers:
        last, half, z = _reader(layer), layer.half("attention"), _heads(values, "z", layer)
        core = last if half is None else half.core
        if z is not None and last is not None and core is not None and core.gave is not None:
            yield Pair(
                keys=(("z", layer.number),), worked_out=mapped(last.module, z), given=core.gave
            )


def heads_write(values: Values) -> Iterator[Pair]:
    """Give the pairs: what heads write, summed, with the projection's bias, and `attn_out`."""
    for layer in values.found.layers:
        n = layer.number
        last, half = projection(layer), layer.half("attention")
        z, place = _heads(values, "head_out", layer), values.found.places.get(("head_out", n))
        if half is None or last is None or z is None or place is None:
            continue
        if type(last.module).__name__ not in LINEAR_CLASSES or layer.kernel is None:
            continue
        heads = z.reshape(-1, *layer.kernel.call.output.shape[-2:])
        written = head_writes(heads, last.module).sum(1) * place.factor  # [token, d_model]
        bias = getattr(last.module, "bias", None)
        if half.call is half.core:
            said = written if bias is None else written + bias * half.factor
            yield from _is_added(values, layer, half, ("head_out", n), said)
        else:
            said = written if bias is None else written + bias
            yield from _is_added(values, layer, half, ("head_out", n), _through(layer, half, said))


def _through(layer: Layer, half: Increment, value: Tensor) -> Tensor | None:
    core = half.core
    shape = value.shape if core is None or core.gave is None else core.gave.shape
    return normed_after(layer, half, value.reshape(shape))


def _is_added(
    values: Values, layer: Layer, half: Increment, key: Key, said: Tensor | None
) -> Iterator[Pair]:
    keys, added = values.added(layer, half)
    if said is not None and added is not None:
        yield Pair(keys=(key, *keys), worked_out=said, given=added)


# --- the MLP


def writes(values: Values) -> Iterator[Pair]:
    """Give the pairs: the last map of what enters it, with any norm behind, and `mlp_out`.

    Before a norm behind too: a norm hides by how much all of it is multiplied.
    """
    for layer in values.found.layers:
        half, post = layer.half("mlp"), values.of("mlp_post", layer.number)
        if half is not None and post is not None:
            last, key = down(layer), ("mlp_post", layer.number)
            said = mapped(last.module, post)
            if last.gave is not None:
                yield Pair(keys=(key,), worked_out=said, given=last.gave)
            yield from _is_added(values, layer, half, key, _through(layer, half, said))


def activates(values: Values) -> Iterator[Pair]:
    """Give the pairs: the activation of what enters it, times the gate, and `mlp_post`."""
    for layer in values.found.layers:
        keys = (("mlp_pre", layer.number), ("mlp_post", layer.number))
        pre, post = (values.of(name, n) for name, n in keys)
        if pre is None or post is None:
            continue
        act, last = activation(layer), down(layer)
        acted, post = flat(act.module.forward(pre)), flat(post)
        assert last.reads is not None and act.gives is not None
        if last.reads.origin is act.gives.origin:
            yield Pair(keys=keys, worked_out=acted, given=post)
            continue
        others = [v.origin for v in last.reads.origin.of if v.origin is not act.gives.origin]
        gated = [acted * gate for o in others for gate in _gates(layer, o, acted.shape[-1])]
        if gated:  # of one map that gives the gate and more, one part is it
            best = min(gated, key=lambda value: float((value - post).abs().max()))
            yield Pair(keys=keys, worked_out=best, given=post)


def _gates(layer: Layer, value: Value, width: int) -> Iterator[Tensor]:
    """Give what may be the gate: what a module gives, or every part of what one map gives."""
    for call in (
        *layer.givers.giving(value),
        *(c for v in value.of for c in layer.givers.giving(v.origin)),
    ):
        gave = None if call.gave is None else flat(call.gave)
        if gave is not None and gave.shape[-1] % width == 0:
            n_parts = gave.shape[-1] // width
            yield from torch.split(gave, width, -1)
            yield from (gave[:, part::n_parts] for part in range(n_parts if n_parts > 1 else 0))


# --- norms


def _norm_or_none(layer: Layer, half: str) -> Passing | None:
    """Give the norm between the stream and a half, if there is one."""
    try:
        return norm_before(layer, half)
    except Missing:
        return None


def scales(name: str, *halves: str) -> Callable[[Values], Iterator[Pair]]:
    """Give the pairs of a norm's scale: its output, and what is best fitted to input over scale.

    On what it reads in the model, and on that made small.
    """

    def pairs(values: Values) -> Iterator[Pair]:
        for layer in values.found.layers:
            there = [half for half in halves if layer.halves.get(half)]
            norm = _norm_or_none(layer, (there or halves)[0])
            if norm is not None:
                yield from _scaled(values, (name, layer.number), norm)

    return pairs


def final_scale(values: Values) -> Iterator[Pair]:
    """Give the pair of the final norm's scale, as those of the others."""
    try:
        norm, _ = final_norm(values.run, values.found)
    except Missing:
        return
    yield from _scaled(values, ("ln_final_scale", None), norm)


def _scaled(values: Values, key: Key, norm: Passing) -> Iterator[Pair]:
    place = values.found.places.get(key)
    call = None if place is None else values.run.passed.at(place.module)
    if place is None or call is None or call.read is None:
        return
    if norm.read is None or norm.gave is None or call.read.numel() != norm.read.numel():
        return
    small = _small(norm.read)
    read = torch.cat([flat(norm.read), flat(small)]).double()
    gave = torch.cat([flat(norm.gave), flat(given(norm, small))]).double()
    centred = read - read.mean(-1, keepdim=True) if place.kind == "std" else read
    divided = torch.cat([flat(call.read), flat(small)]).double()
    x = centred / scale(call.module, divided, place.kind)
    yield Pair(keys=(key,), worked_out=_fitted(x, gave), given=gave)


def _small(read: Tensor) -> Tensor:
    """Make tokens as small as `_SMALLEST` to as large as one, each another size."""
    sizes = torch.logspace(
        torch.tensor(_SMALLEST).log10().item(), 0, flat(read).shape[0], dtype=read.dtype
    )
    one = flat(read) / flat(read).square().mean(-1, keepdim=True).sqrt()
    return (one * sizes[:, None]).reshape(read.shape)


def _fitted(x: Tensor, gave: Tensor) -> Tensor:
    """Fit a weight and a bias for each channel: norms have no more."""
    mean_x, mean_y = x.mean(0), gave.mean(0)
    weight = ((x - mean_x) * (gave - mean_y)).sum(0) / ((x - mean_x) ** 2).sum(0)
    return weight * (x - mean_x) + mean_y
