"""Tensors: those of a model that a record kind means.

Knows record kinds, calls, slots and attention shapes; nothing of probes' choices. Says which axis
of a tensor is what, or why it cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from probekit.config import RecordKind
from probekit.errors import PlanError
from probekit.models import Skeleton, families
from probekit.models.forward import (
    BATCH,
    KERNELS,
    LINEAR_CLASSES,
    POSITION,
    SCALE_KINDS,
    TOKEN,
    AttentionShape,
    Call,
    HeadsAt,
    Slot,
)
from probekit.store import schema
from probekit.wording import counted

ATTENTION = "attention"  # the side of a source that the attention tap gives
HEAD_KINDS = ("q", "q_pre_rot", "k", "k_pre_rot", "v", "z", "z_kernel")
# What the kernel itself has of a kind, where nothing stands between.
KERNEL_KINDS = {"z": "z_kernel", "q_pre_rot": "q", "k_pre_rot": "k"}
MEANING = {
    "z_kernel": "what the attention kernel gives",
    "q": "what the attention kernel is given",
    "k": "what the attention kernel is given",
}
KEY_KINDS = ("pattern", "scores")  # a number for each key
BLOCK_KINDS = (*KEY_KINDS, "sink")  # computed some queries at a time
LOGIT_KINDS = ("token_logprob", "entropy")


class OnlyEagerError(PlanError):
    """What is asked for shows only when the model runs with eager attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where in the model a tensor is read."""

    module: str
    side: str  # "input", "output" or ATTENTION
    element: str | None  # of what goes in or comes out; the record kind of ATTENTION
    call: int | None  # of the module in one forward pass
    axes: tuple[int | str, ...] = ()  # sizes, BATCH, POSITION, TOKEN; () for blocks
    split: tuple[int, ...] = ()  # sizes that a row is made of: heads, and what each has
    channels: tuple[int, ...] = ()  # of a row, taken in this order before; (): as they lie
    heads: tuple[int, ...] = ()  # of blocks and head_out: computed for these heads alone
    n_keys: int = 0  # of blocks: how wide their rows are
    factor: float = 1.0  # rows are multiplied with it
    scale: str | None = None  # "rms" or "std": of what a norm reads, what it divides by
    projection: str | None = None  # heads go through their part of this linear map

    @property
    def is_computed(self) -> bool:
        """Say whether no module holds its values: they are computed of what is read."""
        return self.factor != 1.0 or self.scale is not None or self.projection is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A tensor that can be recorded, as rows."""

    module: str  # whose site it will be
    kind: str  # "output@1", "pattern", "top_k"
    source: Source
    per_token: bool  # one row a token, or one an example
    axes: tuple[str, ...]  # names of a row's axes
    row_shape: tuple[int, ...]
    dtype: str
    is_logits: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)  # more attributes of the site

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.module}/{self.kind}"


def find(
    skeleton: Skeleton, module: str, kind: RecordKind, n_keys: int, factor: float = 1.0
) -> Iterator[Found]:
    """Find the tensors a record kind means at a module; one for each call it makes.

    Args:
        skeleton: of the model.
        module: its path.
        kind: what to record of it.
        n_keys: tokens of the longest example.
        factor: the value is so many times the tensor.

    Raises:
        PlanError: if there is none, or it has neither a token nor an example axis.
    """
    if kind.name == "head_out":
        yield _written(skeleton, module, n_keys, factor)
    elif factor != 1.0:
        yield _scaled(skeleton, module, kind, factor)
    elif kind.name in SCALE_KINDS:
        yield _norm_scale(skeleton, module, kind.name)
    elif kind.name in (*HEAD_KINDS, *BLOCK_KINDS):
        yield _attention(skeleton, module, kind.name, n_keys)
    elif kind.name in ("input", "output"):
        calls = skeleton.calls_of(module)
        if kind.call is not None:
            calls = calls[kind.call : kind.call + 1]
        if not calls:
            raise PlanError(_never(skeleton, module, kind))
        for call in calls:
            yield _tensor(skeleton, call, kind)
    elif module == skeleton.head:
        yield _logits(skeleton, module, kind)
    elif kind.name in LOGIT_KINDS:
        raise PlanError(
            f"{module}: {kind.name} is taken of the model's logits; ask for it at "
            f"{skeleton.head or 'the output head, which this model has not'}"
        )
    else:
        output = RecordKind(name="output")
        if not skeleton.calls_of(module):
            raise PlanError(_never(skeleton, module, output))
        call = _only_call(skeleton, module, kind.name)
        yield replace(_tensor(skeleton, call, output), kind=str(kind))


def _never(skeleton: Skeleton, module: str, kind: RecordKind) -> str:
    n_calls = len(skeleton.calls_of(module))
    if n_calls:
        return f"{module} runs {counted(n_calls, 'time')} in a forward pass; there is no {kind}"
    return (
        f"{module} ({skeleton.modules[module]}) never runs as a module in a forward pass, "
        "so there is nothing to record"
    )


def _only_call(skeleton: Skeleton, module: str, kind: str) -> Call:
    calls = skeleton.calls_of(module)
    if len(calls) > 1:
        raise PlanError(
            f"{module} runs {counted(len(calls), 'time')} in a forward pass, and {kind} is taken "
            "of modules that run once; record: [output] keeps every call"
        )
    return calls[0]


def _tensor(skeleton: Skeleton, call: Call, kind: RecordKind) -> Found:
    slot = _slot(call, kind)
    what = f"{call.module}/{kind}"
    per_token = _rows_are_tokens(slot, what)
    row_shape = tuple(a for a in slot.axes if isinstance(a, int))
    # output and output@0 are one site; later calls carry their number.
    numbered = replace(kind, call=call.number or None)
    return Found(
        module=call.module,
        kind=str(numbered),
        source=Source(
            module=call.module,
            side=kind.name,
            element=kind.element,
            call=call.number,
            axes=slot.axes,
        ),
        per_token=per_token,
        axes=axis_names(row_shape, skeleton),
        row_shape=row_shape,
        dtype=slot.dtype,
    )


def _scaled(skeleton: Skeleton, module: str, kind: RecordKind, factor: float) -> Found:
    """Take a multiple of what a module gives: a value of the model that no module holds."""
    if not skeleton.calls_of(module):
        raise PlanError(_never(skeleton, module, kind))
    found = _tensor(skeleton, _only_call(skeleton, module, "scaled"), kind)
    return replace(
        found,
        kind="scaled",
        source=replace(found.source, factor=factor),
        # Where the model multiplies in several steps, it rounds in each.
        details={"of": str(kind), "factor": factor, "exactness": "derived, within rounding"},
    )


def _norm_scale(skeleton: Skeleton, module: str, kind: str) -> Found:
    """Take what a norm divides each token by, computed of what it reads and its epsilon."""
    if not skeleton.calls_of(module):
        raise PlanError(_never(skeleton, module, RecordKind(name="input")))
    read = _tensor(skeleton, _only_call(skeleton, module, kind), RecordKind(name="input"))
    if not read.per_token or len(read.row_shape) != 1:
        raise PlanError(f"{module} reads rows of {list(read.row_shape)}: it has no {kind} by token")
    return replace(
        read,
        kind=kind,
        source=replace(read.source, scale=kind),
        axes=("d_1",),
        row_shape=(1,),
    )


def _written(skeleton: Skeleton, module: str, n_keys: int, factor: float) -> Found:
    """Take each head's own write to the stream: its `z` through its part of the projection."""
    heads = _attention(skeleton, module, "z", n_keys)
    shape = skeleton.attention[module]
    kind = None if shape.projection is None else skeleton.modules[shape.projection]
    if shape.projection is None or kind not in LINEAR_CLASSES:
        said = "no one linear map reads its heads" if kind is None else f"{kind} reads its heads"
        raise PlanError(f"{module}: {said}, so there is no head_out")
    (call, *_) = skeleton.calls_of(shape.projection)
    width = call.outputs[0].axes[-1]
    assert isinstance(width, int)  # a linear map gives so many channels
    sizes = families.sizes(skeleton.hf_config)
    return replace(
        heads,
        kind="head_out",
        source=replace(
            heads.source,
            projection=shape.projection,
            heads=tuple(range(shape.n_heads)),
            factor=factor,
        ),
        axes=("head", "d_model" if width == sizes.d_model else f"d_{width}"),
        row_shape=(shape.n_heads, width),
        details={"through": shape.projection, "bias": "left out"}
        | ({} if factor == 1.0 else {"factor": factor}),
    )


def _slot(call: Call, kind: RecordKind) -> Slot:
    """Find the tensor an element means in a call; the first where none is named."""
    slots = call.outputs if kind.name == "output" else call.inputs
    if kind.element is None and slots:
        return slots[0]
    for slot in slots:
        if kind.element is not None and kind.element in (str(slot.index), slot.key):
            return slot
    bare = bool(slots) and slots[0].index is None and slots[0].key is None
    there = [f"{kind.name}.{s.index if s.key is None else s.key}" for s in slots]
    raise PlanError(
        f"{call.module} ({call.module_class}) has no tensor {kind}; "
        f"tensors there: {', '.join([kind.name] if bare else there) or 'none'}"
    )


def _rows_are_tokens(slot: Slot, what: str) -> bool:
    """Say whether a tensor has one row a token (True) or one an example (False)."""
    if slot.dtype not in schema.DTYPES:
        raise PlanError(f"{what} is {slot.dtype}, which HDF5 has no type for")
    moving = sorted(a for a in slot.axes if isinstance(a, str))
    if moving in ([BATCH, POSITION], [TOKEN]):
        return True
    if moving == [BATCH]:
        return False
    shown = f"[{', '.join(str(a) for a in slot.axes)}]"
    if moving == [BATCH, POSITION, POSITION]:
        raise PlanError(f"{what} is {shown}, with two position axes; record: [pattern] keeps those")
    if moving in ([], [POSITION]):
        raise PlanError(f"{what} is {shown}, the same for every example: it has no token axis")
    raise PlanError(f"{what} is {shown}: no axis of it is the tokens'")


def _logits(skeleton: Skeleton, module: str, kind: RecordKind) -> Found:
    """Take the logits the model returns: some models scale or cap what their head gives."""
    for slot in skeleton.outputs:
        if slot.key == "logits" and _rows_are_tokens(slot, f"{module}/{kind}"):
            row_shape = tuple(a for a in slot.axes if isinstance(a, int))
            return Found(
                module=module,
                kind=str(kind),
                source=Source(module="", side="output", element="logits", call=0, axes=slot.axes),
                per_token=True,
                axes=axis_names(row_shape, skeleton),
                row_shape=row_shape,
                dtype=slot.dtype,
                is_logits=True,
            )
    raise PlanError(f"{module}: {skeleton.model_class} returns no logits")


def _attention(skeleton: Skeleton, module: str, kind: str, n_keys: int) -> Found:
    shape = skeleton.attention.get(module)
    if shape is None:
        return _shown_weights(skeleton, module, kind, n_keys)
    _only_call(skeleton, module, kind)
    if shape.n_calls > 1:
        raise PlanError(
            f"{module} ({skeleton.modules[module]}) calls its attention kernel "
            f"{counted(shape.n_calls, 'time')}, and makes one output of both: there is no one "
            f"{kind}; record inputs and outputs of the modules in it"
        )
    if shape.joins_keys and kind in (*BLOCK_KINDS, "k", "k_pre_rot", "v"):
        raise PlanError(
            f"{module} ({skeleton.modules[module]}) looks at other keys than its tokens' own (it "
            f"compresses several into one), so there is no {kind} by token"
        )
    if kind in BLOCK_KINDS:
        _check_scores(shape, module, kind)
        if kind == "sink" and not shape.has_sink:
            raise PlanError(f"{module}: its attention has no sink, so all of it reaches tokens")
        block = _block(module, kind, shape.n_heads, shape.dtype, n_keys)
        return replace(block, details={"scaling": shape.scaling})
    at = shape.elsewhere.get(kind)
    if at is not None:
        return _elsewhere(module, kind, shape, at)
    kernel = KERNEL_KINDS.get(kind, kind)
    n_heads = shape.n_kv_heads if kernel in ("k", "v") else shape.n_heads
    row_shape = (n_heads, shape.d_qk if kernel in ("q", "k") else shape.d_v)
    return Found(
        module=module,
        kind=kind,
        source=Source(
            module=module,
            side=ATTENTION,
            element=kernel,
            call=0,
            axes=(BATCH, POSITION, *row_shape),
        ),
        per_token=True,
        axes=("kv_head" if kernel in ("k", "v") else "head", "d_head"),
        row_shape=row_shape,
        dtype=shape.dtype,
        details={"scaling": shape.scaling} if kernel in ("q", "k") else {},
    )


def _elsewhere(module: str, kind: str, shape: AttentionShape, at: HeadsAt | str) -> Found:
    """Find heads in what another module reads or gives."""
    if isinstance(at, str):
        kernel = KERNEL_KINDS[kind]
        raise PlanError(f"{module}: {at}, so there is no {kind}; {kernel} is {MEANING[kernel]}")
    # Until 1.1 the kernel's output was called z here too: no run mixes both.
    details = (
        {"read_by": at.module, "meaning": 2}
        if kind == "z"
        else {"given_by": at.module, "scaling": shape.scaling}
    )
    return Found(
        module=module,
        kind=kind,
        source=Source(
            module=at.module,
            side=at.side,
            element=None,
            call=0,
            axes=at.axes,
            split=at.sizes,
            channels=at.channels,
        ),
        per_token=True,
        axes=("kv_head" if kind == "k_pre_rot" else "head", "d_head"),
        row_shape=at.sizes,
        dtype=at.dtype,
        details=details,
    )


def _check_scores(shape: AttentionShape, module: str, kind: str) -> None:
    if shape.kernel not in KERNELS:
        raise PlanError(f"{module}: {kind} cannot be read beside the kernel {shape.kernel!r}")
    if shape.unknown and not (kind == "pattern" and shape.kernel == "eager"):
        raise PlanError(
            f"{module}: its attention is given {', '.join(shape.unknown)}, which may change the "
            f"scores in a way probekit does not know; model.attention: eager shows the pattern"
        )


def _block(module: str, kind: str, n_heads: int, dtype: str, n_keys: int) -> Found:
    return Found(
        module=module,
        kind=kind,
        source=Source(
            module=module,
            side=ATTENTION,
            element=kind,
            call=0,
            heads=tuple(range(n_heads)),
            n_keys=n_keys if kind in KEY_KINDS else 0,
        ),
        per_token=True,
        axes=("head", "key") if kind in KEY_KINDS else ("head",),
        row_shape=(n_heads, n_keys) if kind in KEY_KINDS else (n_heads,),
        dtype=dtype,
    )


def _shown_weights(skeleton: Skeleton, module: str, kind: str, n_keys: int) -> Found:
    """Find attention weights among what a module returns that does not use the interface."""
    calls = skeleton.calls_of(module)
    if not calls:
        raise PlanError(_never(skeleton, module, RecordKind(name="output")))
    for slot in calls[0].outputs:
        if slot.axes[0] == BATCH and slot.axes[2:] == (POSITION, POSITION) and kind == "pattern":
            assert isinstance(slot.axes[1], int)  # heads are the one axis that is fixed
            block = _block(module, kind, slot.axes[1], slot.dtype, n_keys)
            element = str(slot.index) if slot.key is None else slot.key
            return replace(block, source=replace(block.source, side="output", element=element))
    inside = [path for path in skeleton.attention if path.startswith(f"{module}.")]
    if inside:
        raise PlanError(f"{module} is no attention module itself; ask for {inside[0]}")
    if not _is_attention(skeleton.modules[module]):
        near = next(iter(skeleton.attention), None)
        raise PlanError(
            f"{module} ({skeleton.modules[module]}) is no attention module"
            f"{f'; {near} is one' if near else ''}"
        )
    raise OnlyEagerError(
        f"{module} ({skeleton.modules[module]}) does not use transformers' attention interface "
        f"and shows no {kind}"
    )


def _is_attention(module_class: str) -> bool:
    return "attention" in module_class.lower()


def axis_names(row_shape: tuple[int, ...], skeleton: Skeleton) -> tuple[str, ...]:
    """Name the axes of a row after the model's sizes; an axis of another size is `d_<size>`."""
    sizes = families.sizes(skeleton.hf_config)
    last = {
        getattr(sizes, name): name
        for name in ("d_head", "d_vocab", "d_mlp", "d_model")
        if getattr(sizes, name) is not None
    }
    # An axis of so many is heads where each has a head's size: experts can be as many.
    of_heads = len(row_shape) > 1 and row_shape[-1] == sizes.d_head
    heads = {sizes.n_kv_heads: "kv_head", sizes.n_heads: "head"} if of_heads else {}
    names: list[str] = []
    for place, size in enumerate(row_shape):
        known = last if place == len(row_shape) - 1 else heads
        name = known.get(size, f"d_{size}")
        names.append(name if name not in names else f"{name}_{place + 1}")
    return tuple(names)
