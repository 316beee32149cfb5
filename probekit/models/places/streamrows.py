"""What must hold of the residual stream: it is what came in and what was added to it.

Knows values and layers; what follows from a row that fails is said elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from probekit.models.forward import Value
from probekit.models.places.found import Key, Missing
from probekit.models.places.inlayers import entry, is_on_stream, is_sequential
from probekit.models.places.layers import Layer, given
from probekit.models.places.outside import final_norm, head_call
from probekit.models.places.stream import Increment
from probekit.models.places.tinyrun import N_EXAMPLES, N_POSITIONS, REPEATED
from probekit.models.places.values import Pair, Values, applied, flat, mapped


def halves_meet(values: Values) -> Iterator[Pair]:
    """Give the pairs: the stream and what mixes tokens, and the stream between the halves."""
    for layer in values.found.layers:
        n = layer.number
        keys = [("resid_pre", n), ("attn_out", n), ("mixer_out", n), ("resid_mid", n)]
        pre, *added, mid = (values.of(name, n) for name, _ in keys)
        there = [value for value in added if value is not None]
        if pre is not None and there and mid is not None:
            yield Pair(keys=tuple(keys), worked_out=_sum(pre, *there), given=mid)


def second_half(values: Values) -> Iterator[Pair]:
    """Give the pairs: the stream between the halves and what the MLP adds, and the layer's end."""
    for layer in values.found.layers:
        n = layer.number
        mid, post = values.of("resid_mid", n), values.of("resid_post", n)
        rest = [i for half in ("mlp", "more") for i in layer.halves.get(half, ())]
        keys, parts = _added(values, layer, rest)
        if mid is not None and post is not None and parts is not None:
            keys = (("resid_mid", n), *keys, ("resid_post", n))
            yield Pair(keys=keys, worked_out=_weighted(layer, _sum(mid, *parts)), given=post)


def whole_layer(values: Values) -> Iterator[Pair]:
    """Give the pairs where nothing lies between the halves: all that is added, and the end."""
    for layer in values.found.layers:
        n = layer.number
        pre, post = values.of("resid_pre", n), values.of("resid_post", n)
        stream = layer.stream
        has_middle = values.of("resid_mid", n) is not None and is_sequential(layer)
        if pre is None or post is None or stream is None or has_middle:
            continue
        keys, added = _added(values, layer, stream.increments)
        if stream.normed:
            added = added or [torch.full_like(flat(pre), torch.nan)]
        if added:
            keys = (("resid_pre", n), *keys, ("resid_post", n))
            yield Pair(keys=keys, worked_out=_weighted(layer, _sum(pre, *added)), given=post)


def step_by_step(values: Values) -> Iterator[Pair]:
    """Give the pairs: the stream through all that a layer does to it, norms and factors too."""
    for layer in values.found.layers:
        stream, pre = layer.stream, values.of("resid_pre", layer.number)
        end = layer.call.gave
        if stream is None or pre is None or end is None:
            continue
        if stream.factor != stream.factor or (stream.factor == 1.0 and not stream.normed):
            continue  # a weight decides it, or the sums say it
        keys: tuple[Key, ...] = (("resid_pre", layer.number),)
        value: Tensor | None = flat(pre)
        for step in stream.steps:
            if value is None:
                break
            if step.norm is not None:
                value = flat(applied(step.norm, value))
                continue
            there = [i for i in stream.increments if i.after is step.after]
            more, added = _added(values, layer, there)
            value = None if added is None else _sum(value * step.factor, *added)
            keys += more
        if value is not None:
            yield Pair(keys=keys, worked_out=value, given=end)


def _added(
    values: Values, layer: Layer, increments: tuple[Increment, ...] | list[Increment]
) -> tuple[tuple[Key, ...], list[Tensor] | None]:
    """Give what is added to the stream, and by which names; None where no module gives it."""
    keys: tuple[Key, ...] = ()
    found: list[Tensor] = []
    for increment in increments:
        named, value = values.added(layer, increment)
        if value is None:
            return (), None
        keys += named
        found.append(value)
    return keys, found


def _sum(first: Tensor, *others: Tensor) -> Tensor:
    return sum((flat(value) for value in others), flat(first))


def _weighted(layer: Layer, value: Tensor) -> Tensor:
    """Let a sum fail where a weight decides by how much the stream itself is multiplied."""
    is_known = layer.stream is None or layer.stream.factor == layer.stream.factor
    return value if is_known else torch.full_like(value, torch.nan)


def runs_again(values: Values) -> Iterator[Pair]:
    """Give the pairs where no sum leads through a layer: what it makes of `resid_pre`, and made."""
    for layer in values.found.layers:
        pre, post = (values.of(name, layer.number) for name in ("resid_pre", "resid_post"))
        gave = layer.call.gave if post is None else post
        if layer.stream is None and pre is not None and gave is not None:
            keys = (("resid_pre", layer.number), ("resid_post", layer.number))
            try:
                again = given(layer.call, pre)
            except Exception:  # whatever it keeps of the first time: XLM's attention, its keys
                continue
            yield Pair(keys=keys, worked_out=again, given=gave)


def hand_on(values: Values) -> Iterator[Pair]:
    """Give the pairs: what a layer leaves, and what the next one finds."""
    for layer in values.found.layers:
        keys = (("resid_post", layer.number), ("resid_pre", layer.number + 1))
        post, pre = (values.of(name, n) for name, n in keys)
        if post is not None and pre is not None:
            yield Pair(keys=keys, worked_out=post, given=pre)


def read_by(name: str, half: str) -> Callable[[Values], Iterator[Pair]]:
    """Give the pairs of a half: the norm of the stream, or the stream, and what the half reads."""

    def pairs(values: Values) -> Iterator[Pair]:
        for layer in values.found.layers:
            value = values.of(name, layer.number)
            reads = None if value is None else entry(layer, half)[1]
            if value is not None and reads is not None:
                keys, stream = _normed(values, layer, reads)
                if stream is not None:
                    keys = (*keys, (name, layer.number))
                    yield Pair(keys=keys, worked_out=stream, given=value)

    return pairs


def _normed(values: Values, layer: Layer, reads: Value) -> tuple[tuple[Key, ...], Tensor | None]:
    """Work out a norm of the stream, or the stream; None where what is read is another thing."""
    factor, value = 1.0, reads.origin
    while value.made == "scaled":
        (factor, value) = factor * value.factors[0], value.of[0].origin
    for call in layer.givers.giving(value):
        is_norm = "norm" in type(call.module).__name__.lower()  # AX-K2's has matrices
        if is_norm and call.reads is not None and _is_stream(layer, call.reads):
            keys, stream = values.on_stream(layer, call.reads)
            begin = call.read if stream is None else stream
            return keys, None if begin is None else applied(call, begin) * factor
    keys, stream = values.on_stream(layer, value)
    return keys, None if stream is None else stream * factor


def _is_stream(layer: Layer, value: Value) -> bool:
    steps = () if layer.stream is None else layer.stream.steps
    return is_on_stream(layer, value) or any(step.after is value.origin for step in steps)


def final(values: Values) -> Iterator[Pair]:
    """Give the pair: the final norm of what the last layer leaves, and `ln_final`."""
    value = values.of("ln_final", None)
    if value is None:
        return
    norm, _ = final_norm(values.run, values.found)
    last = values.found.layers[-1]
    post = values.of("resid_post", last.number)
    keys = (("ln_final", None), *([] if post is None else [("resid_post", last.number)]))
    begin = last.call.gave if post is None else post
    if begin is not None:
        yield Pair(keys=keys, worked_out=applied(norm, begin), given=value)


def says(values: Values) -> Iterator[Pair]:
    """Give the pairs: what the head makes of the final norm's output, and the model's logits."""
    logits = values.run.passed.result.logits if values.run.passed.logits is not None else None
    given = values.of("logits", None)
    key: Key = ("logits", None)
    if logits is None:
        return
    if given is not None:
        yield Pair(keys=(key,), worked_out=given, given=logits)
    try:
        head = head_call(values.run)
        norm, factor = final_norm(values.run, values.found)
    except Missing:
        return
    if norm.gave is None or head.gave is None:
        return
    place = values.found.places.get(key)
    said = mapped(head.module, norm.gave * factor) * (1.0 if place is None else place.factor)
    cap = values.found.cap
    yield Pair(
        keys=() if place is None else (key,),
        worked_out=said if cap is None else cap * torch.tanh(said / cap),
        given=logits,
    )


def embeds(values: Values) -> Iterator[Pair]:
    """Give the pairs: what is left of the first stream without the embedding, for two texts.

    And the embedding of one token at two positions: it knows nothing of where it stands.
    """
    embed = values.of("embed", None)
    layers = values.found.layers
    begin = values.of("resid_pre", 0) if layers else None
    first = layers[0].call.read if layers and begin is None else begin
    if embed is None or first is None:
        return
    if first.shape != embed.shape:
        yield Pair(keys=(), worked_out=first.new_ones(1), given=first.new_zeros(1))
        return
    rest = first - embed
    keys = (("embed", None), *([] if begin is None else [("resid_pre", 0)]))
    yield Pair(keys=keys, worked_out=embed[0] + rest[1], given=first[0])
    by_position = embed if embed.shape[:2] == (N_POSITIONS, N_EXAMPLES) else embed.transpose(0, 1)
    one, other = REPEATED
    yield Pair(keys=(), worked_out=by_position[one], given=by_position[other])
