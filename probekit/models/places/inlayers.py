"""Where the names of one layer lie: its stream, what its halves read and add, what is inside them.

Knows layers, streams and calls; proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from probekit.models.forward import Passing, Value
from probekit.models.places.found import Missing
from probekit.models.places.layers import Layer, top_call
from probekit.models.places.names import TAPPED_NAMES, Place
from probekit.models.places.stream import Increment, is_linear, is_norm
from probekit.models.places.tinyrun import N_EXAMPLES, N_POSITIONS

PARALLEL = "attention and MLP run in parallel on the same input: nothing lies between them"
NORMED = "the layer norms the stream itself, so what its halves add does not add up to its output"
NO_SUM = "the layer's output is no sum of its input and what is added to it"


# --- the stream


def _stream_ends(layer: Layer) -> tuple[Value, Value]:
    start, end = layer.call.reads, layer.call.gives
    if start is None or end is None:
        raise Missing("the layer is given no tensor, or gives none")
    n_tokens = N_EXAMPLES * N_POSITIONS
    rows = start.shape[0] * start.shape[1] if len(start.shape) == 3 else 0
    if start.shape != end.shape or rows != n_tokens:
        raise Missing(
            f"the layer reads {list(start.shape)} and gives {list(end.shape)}: it carries more "
            "than one stream"
        )
    return start, end


def _resid_pre(layer: Layer) -> Place:
    _stream_ends(layer)
    if layer.first_norm is not None:
        return Place(module=layer.first_norm.path, kind="output")
    return Place(module=layer.call.path, kind="input")


def _resid_post(layer: Layer) -> Place:
    _stream_ends(layer)
    return Place(module=layer.call.path, kind="output")


def _resid_mid(layer: Layer) -> Place:
    _stream_ends(layer)
    mixing = layer.mixing
    if mixing is None or not layer.halves.get("mlp"):
        raise Missing("the layer has no two halves with something between them")
    if layer.stream is None or layer.stream.normed:
        raise Missing(NORMED if layer.stream is not None else NO_SUM)
    if not is_sequential(layer):
        raise Missing(PARALLEL)
    middle = mixing[1].after
    for call in sorted(layer.givers.reading(middle), key=lambda c: not is_norm(c.module)):
        return Place(module=call.path, kind="input")
    for call in layer.givers.holding(middle):
        return Place(module=call.path, kind="output")
    raise Missing("no module reads or gives it")


def is_sequential(layer: Layer) -> bool:
    """Say whether the MLP reads what attention added."""
    mixing, mlps = layer.mixing, layer.halves.get("mlp", ())
    if mixing is None or not mlps:
        return False
    middle = mixing[1].after.origin
    return all(m.after.number > middle.number and m.value.comes_of(middle) for m in mlps)


# --- what the halves read and add


def _half(layer: Layer, kind: str) -> Increment:
    found = layer.halves.get(kind, ())
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        modules = [_named(layer, i.core) for i in found if i.core is not None]
        raise Missing(f"it is the sum of what several modules give ({', '.join(modules)})")
    if layer.stream is None:
        raise Missing(NO_SUM)
    word = {"attention": "attention", "mixer": "mixer that is no attention", "mlp": "MLP"}[kind]
    raise Missing(f"the layer has no {word} whose output it adds to the stream")


def _named(layer: Layer, call: Passing) -> str:
    """Name a module in its layer, the same in each."""
    return f"its {call.path.removeprefix(layer.call.path + '.')}"


def _added(kind: str) -> Callable[[Layer], Place]:
    def find(layer: Layer) -> Place:
        half = _half(layer, kind)
        if half.call is None:
            raise Missing("no module gives what is added to the stream")
        if half.factor != half.factor:
            raise Missing(
                f"what {_named(layer, half.call)} gives is multiplied with a weight first"
            )
        beside = [i for i in layer.halves.get("unknown", ()) if i.after is half.after]
        if beside:
            raise Missing(
                f"something is added to what {_named(layer, half.call)} gives, outside it"
            )
        return Place(module=half.call.path, kind="output", factor=half.factor)

    return find


def entry(layer: Layer, kind: str) -> tuple[Place, Value]:
    """Find what a half's modules read, after its norm."""
    half = _half(layer, kind)
    core = half.core
    if core is None:
        raise Missing("no module gives what is added to the stream")
    if kind == "attention" and layer.kernel is not None and is_linear(core.module):
        core = next(c for c in layer.givers.calls if c.path == layer.kernel.path)
    call = top_call(layer.givers, core)
    if is_linear(core.module):  # a layer whose maps are its own children, or in several of them
        first = _first_map(layer, half, core)
        call = call if first.entered > call.entered else top_call(layer.givers, first)
    if call.reads is None:
        raise Missing(f"{_named(layer, call)} is given no tensor")
    if is_on_stream(layer, call.reads):
        for inner in layer.givers.calls:
            is_inside = inner.path.startswith(f"{call.path}.") and is_norm(inner.module)
            reads_it = inner.reads is not None and inner.reads.origin is call.reads.origin
            if (
                is_inside
                and reads_it
                and inner.gives is not None
                and half.value.comes_of(inner.gives.origin)
            ):
                return Place(module=inner.path, kind="output"), inner.gives
    return Place(module=call.path, kind="input"), call.reads


def _first_map(layer: Layer, half: Increment, last: Passing) -> Passing:
    """Find the first linear map that what a half adds was computed by, since the stream."""
    on_stream = _stream_values(layer) - {half.value.origin}
    for call in layer.givers.calls:
        if is_linear(call.module) and call.gives is not None:
            is_before = last.reads is not None and last.reads.comes_of(
                call.gives.origin, never_over=on_stream
            )
            if is_before:
                return call
    return last


def _stream_values(layer: Layer) -> frozenset[Value]:
    stream = layer.stream
    if stream is None:
        return frozenset()
    # Of a stream that is normed on its way, what is behind a norm and what before has no one name.
    sums = () if stream.normed else (step.after for step in stream.steps)
    return frozenset({stream.start, *sums, *(i.before for i in stream.increments)})


def is_on_stream(layer: Layer, value: Value) -> bool:
    """Say whether a value is the stream at one point, before any norm of it."""
    return value.origin in _stream_values(layer)


def _read_by(kind: str) -> Callable[[Layer], Place]:
    def find(layer: Layer) -> Place:
        place, value = entry(layer, kind)
        if is_on_stream(layer, value) and kind != "mixer":
            raise Missing("it reads the stream as it is: there is no norm before it")
        return place

    return find


def norm_before(layer: Layer, kind: str) -> Passing:
    """Find the norm between the stream and a half."""
    _, value = entry(layer, kind)
    for call in layer.givers.giving(value):
        if is_norm(call.module) and call.reads is not None and is_on_stream(layer, call.reads):
            return call
    raise Missing("it reads the stream without a norm of its own")


def _scale_before(*kinds: str) -> Callable[[Layer], Place]:
    def find(layer: Layer) -> Place:
        there = [kind for kind in kinds if layer.halves.get(kind)]
        norm = norm_before(layer, there[0] if there else kinds[0])
        return Place(module=norm.path, kind=scale_kind(norm))

    return find


def scale_kind(norm: Passing) -> str:
    """Say what a norm divides by: `rms` of what it reads, or its `std`, around the mean."""
    read, gave = norm.read, norm.gave
    if read is None or gave is None:
        return "rms"  # without values
    moved = norm.module.forward(read + 3.0)  # a mean that is taken away does not show
    return "std" if bool((moved - gave).abs().max() < 1e-3 * gave.abs().max()) else "rms"


# --- inside the MLP


def down(layer: Layer) -> Passing:
    """Find the linear map that gives what the MLP adds, before any norm of that."""
    half = _half(layer, "mlp")
    core = half.core
    if core is None or core.gives is None:
        raise Missing("no module gives what is added to the stream")
    maps = [c for c in layer.givers.holding(core.gives) if is_linear(c.module)]
    if not maps or maps[-1].reads is None:
        raise Missing(f"no one linear map gives what {_named(layer, core)} gives")
    return maps[-1]


def _mlp_post(layer: Layer) -> Place:
    return Place(module=down(layer).path, kind="input")


def activation(layer: Layer) -> Passing:
    """Find the module that is the MLP's activation function."""
    last = down(layer)
    assert last.reads is not None
    of = [v.origin for v in last.reads.origin.of] if last.reads.origin.made == "other" else []
    for value in (last.reads.origin, *of):
        for call in layer.givers.giving(value):
            has_weights = next(call.module.parameters(), None) is not None
            if not has_weights and call.reads is not None and not is_norm(call.module):
                return call
    raise Missing("no module is its activation function")


def _mlp_pre(layer: Layer) -> Place:
    return Place(module=activation(layer).path, kind="input")


# --- attention


def _tapped(name: str) -> Callable[[Layer], Place]:
    def find(layer: Layer) -> Place:
        if layer.kernel is None:
            if layer.halves.get("attention"):
                raise Missing(
                    "its attention is the model's own code, which the attention tap cannot reach"
                )
            raise Missing("the layer has no attention")
        if not layer.halves.get("attention") and layer.stream is not None:
            raise Missing("what its attention gives is not added to the stream")
        if name != "head_out":
            return Place(module=layer.kernel.path, kind=name)
        half = _half(layer, "attention")
        if half.core is None or half.core.gives is None:
            raise Missing("no module gives what attention adds")
        if not any(is_linear(c.module) for c in layer.givers.holding(half.core.gives)):
            raise Missing(f"no one linear map gives what {_named(layer, half.core)} gives")
        # Behind a norm of all heads together there is no write of one: theirs are before it.
        factor = half.factor if half.call is half.core else 1.0
        return Place(module=layer.kernel.path, kind=name, factor=factor)

    return find


IN_LAYERS: Mapping[str, Callable[[Layer], Place]] = {
    "resid_pre": _resid_pre,
    "resid_mid": _resid_mid,
    "resid_post": _resid_post,
    "attn_in": _read_by("attention"),
    "attn_out": _added("attention"),
    "mixer_in": _read_by("mixer"),
    "mixer_out": _added("mixer"),
    "mlp_in": _read_by("mlp"),
    "mlp_pre": _mlp_pre,
    "mlp_post": _mlp_post,
    "mlp_out": _added("mlp"),
    "ln1_scale": _scale_before("attention", "mixer"),
    "ln2_scale": _scale_before("mlp"),
    **{name: _tapped(name) for name in TAPPED_NAMES},
}
