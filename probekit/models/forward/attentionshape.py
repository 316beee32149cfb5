"""What each attention module hands to its kernel, and where its heads are read besides.

Knows the attention interface and how tensors are followed; nothing of a whole model but its
modules and their calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch

from probekit.models.forward.ascent import Ascent, Origin
from probekit.models.forward.attention import SCORE_ARGUMENTS, AttentionCall, AttentionTap
from probekit.models.forward.calls import BATCH, POSITION, Call
from probekit.models.forward.descent import Descent, Reader
from probekit.models.forward.headwrites import LINEAR_CLASSES, is_plain_map
from probekit.models.forward.modulepaths import parent_of
from probekit.wording import counted

T = TypeVar("T")
_HARMLESS = frozenset({"position_ids", "cache_position", "position_embeddings", "attention_mask"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsAt:
    """A tensor outside the kernel that holds heads: of what goes into a module or comes out."""

    module: str
    side: str  # "input" or "output"
    axes: tuple[int | str, ...]
    dtype: str
    n_heads: int
    d_head: int
    channels: tuple[int, ...]  # of a token's numbers, head by head; (): all, as they lie

    @property
    def sizes(self) -> tuple[int, int]:
        """A row's shape, once taken apart."""
        return self.n_heads, self.d_head


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """What a module hands to the attention interface."""

    kernel: str
    n_heads: int
    n_kv_heads: int
    d_qk: int  # of a query's or key's head
    d_v: int  # of a value's head
    dtype: str
    scaling: float  # of the products of queries and keys
    n_calls: int  # of the kernel in one pass of the module
    joins_keys: bool  # it looks at other keys than the tokens' own, from some length on
    has_sink: bool  # a learned score takes a share of attention that no token gets
    unknown: tuple[str, ...]  # arguments that might change the scores in a way we do not know
    # z, q_pre_rot and k_pre_rot where they are not what the kernel has: where they are, or why
    # they are nowhere.
    elsewhere: Mapping[str, HeadsAt | str] = field(default_factory=dict)
    projection: str | None = None  # the linear map that reads all its heads, as they lie


class AttentionWatch:
    """Watch a model run once on tensors without values; then say what its attention is like."""

    def __init__(self, model: torch.nn.Module, n_positions: int) -> None:
        self._paths = {path: module for path, module in model.named_modules() if path}
        self._model = model
        self._shapes: dict[str, AttentionShape] = {}
        self._descent = Descent()
        self._ascent = Ascent(n_positions)
        self._origins: dict[tuple[str, str], Origin | str | None] = {}

    def watch(self, run: Callable[[], T]) -> T:
        """Listen at every module while the model runs; give what running it gives."""
        with ExitStack() as stack:
            for path, module in self._paths.items():
                is_linear = _is_linear(module)
                if is_linear:
                    read = partial(self._read, path)
                    hook = module.register_forward_pre_hook(read, with_kwargs=True)
                    stack.callback(hook.remove)
                if next(module.parameters(), None) is not None:
                    gave = partial(self._gave, path, is_linear)
                    stack.callback(module.register_forward_hook(gave).remove)
            listeners = {path: partial(self._listen, path) for path in self._paths}
            stack.enter_context(AttentionTap(self._model, listeners))
            stack.enter_context(self._descent)
            stack.enter_context(self._ascent)
            return run()

    def shapes(self, calls: tuple[Call, ...]) -> dict[str, AttentionShape]:
        """Give the modules that use the attention interface, once their calls are known."""
        return {path: self._located(path, shape, calls) for path, shape in self._shapes.items()}

    def _listen(self, path: str, call: AttentionCall) -> None:
        self._descent.follow(path, call.output)
        for kind, tensor in (("q_pre_rot", call.query), ("k_pre_rot", call.key)):
            self._origins[path, kind] = self._ascent.before_rotation(tensor)
        self._shapes[path] = AttentionShape(
            kernel=call.kernel,
            n_heads=call.query.shape[1],
            n_kv_heads=call.key.shape[1],
            d_qk=call.query.shape[-1],
            d_v=call.output.shape[-1],
            dtype=str(call.query.dtype).removeprefix("torch."),
            scaling=call.scaling,
            n_calls=1 + (self._shapes[path].n_calls if path in self._shapes else 0),
            joins_keys=self._ascent.joins_keys(call.key),
            has_sink=call.options.get("s_aux") is not None,
            unknown=_unknown_options(call),
        )

    def _read(self, path: str, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        self._descent.read(path, next(iter((*args, *kwargs.values())), None))

    def _gave(
        self, path: str, is_linear: bool, module: torch.nn.Module, args: Any, output: Any
    ) -> None:
        self._ascent.gave(path, output, is_linear=is_linear)

    def _located(self, path: str, shape: AttentionShape, calls: tuple[Call, ...]) -> AttentionShape:
        elsewhere: dict[str, HeadsAt | str] = {}
        reader = _reader(path, shape, self._descent.readers.get(path))
        if reader is None or not reader.is_plain:
            elsewhere["z"] = _read_at(reader, shape, calls)
        for kind in ("q_pre_rot", "k_pre_rot"):
            origin = self._origins[path, kind]
            if origin is not None:
                elsewhere[kind] = (
                    origin if isinstance(origin, str) else _given_at(origin, shape, calls)
                )
        projection = None if reader is None else reader.module
        if projection is not None and _has_more(self._paths[projection]):
            projection = None
        return replace(shape, elsewhere=elsewhere, projection=projection)


def _is_linear(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    is_map = isinstance(weight, torch.Tensor) and weight.ndim == 2
    return is_map and not isinstance(module, torch.nn.Embedding)


def _has_more(module: torch.nn.Module) -> bool:
    """Say whether a module is called a linear map, and is one with an adapter, or patched."""
    return type(module).__name__ in LINEAR_CLASSES and not is_plain_map(module)


def _reader(path: str, shape: AttentionShape, reader: Reader | None) -> Reader | None:
    """Give the linear map that reads what the kernel gives, if it reads all heads, as they lie."""
    if reader is None or reader.width != shape.n_heads * shape.d_v or shape.n_calls > 1:
        return None
    parent = parent_of(path)
    # BERT's projection stands beside the attention, in a module for both; JetMoE's is no linear map
    # at all, and what reads its heads next is the router of another block.
    around = parent if "att" in parent.rpartition(".")[2].lower() else path
    return reader if reader.module.startswith(f"{around}.") else None


def _read_at(
    reader: Reader | None, shape: AttentionShape, calls: tuple[Call, ...]
) -> HeadsAt | str:
    found = [call for call in calls if reader is not None and call.module == reader.module]
    if len(found) != 1:
        return "no one linear map reads what its heads give"
    (slot, *_) = found[0].inputs
    return HeadsAt(
        module=found[0].module,
        side="input",
        axes=slot.axes,
        dtype=slot.dtype,
        n_heads=shape.n_heads,
        d_head=shape.d_v,
        channels=(),
    )


def _given_at(origin: Origin, shape: AttentionShape, calls: tuple[Call, ...]) -> HeadsAt | str:
    found = [call for call in calls if call.module == origin.module]
    if len(found) != 1 or len(found[0].outputs) != 1:
        return f"{origin.module} gives it, and runs {counted(len(found), 'time')} in a forward pass"
    (slot,) = found[0].outputs
    if not {BATCH, POSITION} <= set(slot.axes):
        return f"{origin.module} gives it, and its output has no token axis"
    n_heads, channels = origin.channels(slot.axes, shape.d_qk)
    if not n_heads:
        return f"{origin.module} gives a part of it"
    n_given = 1
    for size in slot.axes:
        n_given *= size if isinstance(size, int) else 1
    as_they_lie = channels == tuple(range(n_given))
    return HeadsAt(
        module=origin.module,
        side="output",
        axes=slot.axes,
        dtype=slot.dtype,
        n_heads=n_heads,
        d_head=shape.d_qk,
        channels=() if as_they_lie else channels,
    )


def _unknown_options(call: AttentionCall) -> tuple[str, ...]:
    """Name tensors given to a kernel that may be biases of a kind the tap cannot account for."""
    given = (k for k, v in call.options.items() if isinstance(v, torch.Tensor))
    return tuple(sorted(set(given) - SCORE_ARGUMENTS - _HARMLESS))
