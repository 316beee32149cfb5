"""The skeleton of a model: what runs, in which order, on tensors of which shape; without weights.

Knows transformers' models from outside: it builds one on fake tensors (shape and dtype, no memory)
and runs it twice with other batch sizes and lengths, so that every axis shows what it is.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.initialization import no_init_weights

from probekit.errors import PlanError
from probekit.models.answers import Answers
from probekit.models.attention import SCORE_ARGUMENTS, AttentionCall, AttentionTap
from probekit.models.checkpoints import BUILDING, model_class
from probekit.models.descent import Descent, Reader

# Two forward passes: an axis that goes 2 -> 3 is the batch, 7 -> 11 the position, 14 -> 33 both.
_FIRST, _SECOND = (2, 7), (3, 11)
BATCH, POSITION, TOKEN = "batch", "position", "token"
_HARMLESS = frozenset({"position_ids", "cache_position", "position_embeddings", "attention_mask"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One tensor that goes into a module or comes out of it."""

    index: int | None  # its place among positional arguments, or in a returned tuple
    key: str | None  # its parameter name, or its key in a returned mapping
    axes: tuple[int | str, ...]  # a size, or BATCH, POSITION, TOKEN (both in one), or "?"
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a module in a forward pass."""

    module: str  # its path
    module_class: str
    number: int  # 0 for the module's first call in the pass
    depth: int  # 0 for a child of the model
    entered: int  # when, in events of the pass
    left: int
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]


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
    has_sink: bool  # a learned score takes a share of attention that no token gets
    out: str | None  # the linear map that reads the kernel's output, head by head
    is_plain: bool  # it reads the very output: no gate, norm or factor stands between
    unknown: tuple[str, ...]  # arguments that might change the scores in a way we do not know


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """A model without weights."""

    hf_config: Any
    model_class: str
    n_parameters: int  # tied ones once
    modules: Mapping[str, str]  # every module's path -> class, in the order of the module tree
    calls: tuple[Call, ...]  # in the order they were entered
    outputs: tuple[Slot, ...]  # what the whole model returns
    arguments: frozenset[str]  # parameters of the model's forward
    attention: Mapping[str, AttentionShape]  # modules that use transformers' attention interface
    head: str | None  # the module whose output becomes the logits
    adds_tokens: bool  # `generate` has it read other tokens than it was given

    def calls_of(self, module: str) -> tuple[Call, ...]:
        """Give the calls of one module; empty when it never runs."""
        return tuple(call for call in self.calls if call.module == module)


def build_skeleton(hf_config: Any, dtype: torch.dtype, attention: str = "auto") -> Skeleton:
    """Run a model without weights.

    Args:
        hf_config: the architecture.
        dtype: what the model computes in.
        attention: the kernel it will run with, as a config says it.

    Raises:
        PlanError: if the model does not run on token ids alone.
    """
    kind = model_class(hf_config)
    # Flash attention is not defined on fake tensors; it has the shapes of sdpa.
    kernel = {"auto": {}, "eager": {"attn_implementation": "eager"}}.get(
        attention, {"attn_implementation": "sdpa"}
    )
    with BUILDING, FakeTensorMode(), Answers(), torch.no_grad():  # type: ignore[no-untyped-call]
        try:
            model = _build(kind, hf_config, dtype, kernel)
            modules = {path: type(m).__name__ for path, m in model.named_modules() if path}
            shapes = _observe_attention(model)
            passes = [_observe(model, *size) for size in (_FIRST, _SECOND)]
        except Exception as error:
            # Whatever a model's own code raises when it is given nothing but tokens.
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise PlanError(
                f"model.name: {kind.__name__} cannot be built and run on token ids alone, so it "
                f"cannot be planned: {type(error).__name__}: {reason}"
            ) from error
        n_parameters = sum(p.numel() for p in model.parameters())
        arguments = frozenset(inspect.signature(model.forward).parameters)
        if _numbers_positions_itself(model):
            arguments -= {"position_ids"}
        adds_tokens = _adds_tokens(model)
        head = model.get_output_embeddings()
        heads = [path for path, module in model.named_modules() if module is head]
    first, second = passes
    if [_outline(call) for call in first] != [_outline(call) for call in second]:
        raise PlanError(
            f"model.name: {kind.__name__} runs other modules on longer texts, so it cannot be "
            "planned"
        )
    whole, *calls = (_compare(a, b) for a, b in zip(first, second, strict=True))
    return Skeleton(
        hf_config=hf_config,
        model_class=kind.__name__,
        n_parameters=n_parameters,
        modules=modules,
        calls=tuple(calls),
        outputs=whole.outputs,
        arguments=arguments,
        attention=shapes,
        head=heads[0] if heads else None,
        adds_tokens=adds_tokens,
    )


def _build(kind: Any, hf_config: Any, dtype: torch.dtype, kernel: dict[str, str]) -> Any:
    # Mixture-of-experts kernels refuse fake float32; "batched_mm" has the same shapes outside.
    # The config is copied, since a model writes its kernels into the one it is given.
    # Weights are not drawn: some ways of drawing them (Gemma 3's vision tower) look at the values.
    with no_init_weights():
        model = kind._from_config(copy.deepcopy(hf_config), dtype=dtype, **kernel).eval()
    model.tie_weights()  # which drawing them would have done
    if getattr(model.config.get_text_config(), "_experts_implementation", None) is not None:
        model.set_experts_implementation("batched_mm")
    return model


def _adds_tokens(model: Any) -> bool:
    """Say whether generating reads other tokens than it was given: XLNet and XLM add one."""
    if not model.can_generate():
        return False
    given = {k: v for k, v in _tokens(model, *_FIRST).items() if k != "position_ids"}
    try:
        prepared = model.prepare_inputs_for_generation(is_first_iteration=True, **given)
    except Exception:  # whatever its own code wants besides tokens: the run will say
        return False
    ids = prepared.get("input_ids")
    return ids is not None and tuple(ids.shape) != _FIRST


def _numbers_positions_itself(model: torch.nn.Module) -> bool:
    """Say whether positions begin behind a padding index, as RoBERTa's do: 0, 1, ... are wrong."""
    return any(
        path.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
        for path, module in model.named_modules()
    )


def layer_of(module: str) -> int | None:
    """Read the layer a module belongs to off its path; None outside the layers."""
    return next((int(part) for part in module.split(".") if part.isdigit()), None)


def forward_arguments(accepted: frozenset[str]) -> frozenset[str]:
    """Give the arguments probekit passes to a forward: masks and positions always explicitly."""
    return accepted & {"input_ids", "attention_mask", "position_ids", "use_cache"}


def _observe(model: torch.nn.Module, n_batch: int, n_positions: int) -> list[Call]:
    calls: list[Call | None] = []
    counts: dict[str, int] = {}
    open_calls: list[tuple[int, int]] = []  # place in calls, event at which it was entered
    clock = count()
    handles = []

    def enter(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        open_calls.append((len(calls), next(clock)))
        calls.append(None)

    def leave(path: str, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        here, entered = open_calls.pop()
        number = counts.get(path, 0)
        counts[path] = number + 1
        calls[here] = Call(
            module=path,
            module_class=type(module).__name__,
            number=number,
            depth=len(open_calls) - 1,  # the model itself is always open
            entered=entered,
            left=next(clock),
            inputs=tuple(_inputs(module, args, kwargs)),
            outputs=tuple(_outputs(output)),
        )

    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(partial(leave, path), with_kwargs=True))
    try:
        model(**_tokens(model, n_batch, n_positions))
    finally:
        for handle in handles:
            handle.remove()
    return [call for call in calls if call is not None]


def _tokens(model: torch.nn.Module, n_batch: int, n_positions: int) -> dict[str, Any]:
    given = {
        "input_ids": torch.zeros((n_batch, n_positions), dtype=torch.long),
        "attention_mask": torch.ones((n_batch, n_positions), dtype=torch.long),
        "position_ids": torch.arange(n_positions).expand(n_batch, -1),
        "use_cache": False,
    }
    wanted = forward_arguments(frozenset(inspect.signature(model.forward).parameters))
    return {name: given[name] for name in wanted}


def _observe_attention(model: torch.nn.Module) -> dict[str, AttentionShape]:
    """Find the modules that use the attention interface, by listening at every one."""
    found: dict[str, AttentionShape] = {}
    descent = Descent()

    def listen(path: str, call: AttentionCall) -> None:
        descent.follow(path, call.output)
        found[path] = AttentionShape(
            kernel=call.kernel,
            n_heads=call.query.shape[1],
            n_kv_heads=call.key.shape[1],
            d_qk=call.query.shape[-1],
            d_v=call.output.shape[-1],
            dtype=str(call.query.dtype).removeprefix("torch."),
            scaling=call.scaling,
            n_calls=1 + (found[path].n_calls if path in found else 0),
            has_sink=call.options.get("s_aux") is not None,
            out=None,
            is_plain=False,
            unknown=_unknown_options(call),
        )

    def read(path: str, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        descent.read(path, next(iter((*args, *kwargs.values())), None))

    paths = {path: module for path, module in model.named_modules() if path}
    with ExitStack() as stack:
        for path, module in paths.items():
            if _is_linear(module):
                hook = module.register_forward_pre_hook(partial(read, path), with_kwargs=True)
                stack.callback(hook.remove)
        stack.enter_context(AttentionTap(model, {path: partial(listen, path) for path in paths}))
        stack.enter_context(descent)
        model(**_tokens(model, *_FIRST))
    return {
        path: _with_reader(path, shape, descent.readers.get(path)) for path, shape in found.items()
    }


def _is_linear(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    is_map = isinstance(weight, torch.Tensor) and weight.ndim == 2
    return is_map and not isinstance(module, torch.nn.Embedding)


def _with_reader(path: str, shape: AttentionShape, reader: Reader | None) -> AttentionShape:
    if reader is None or reader.width != shape.n_heads * shape.d_v or shape.n_calls > 1:
        return shape
    parent = path.rpartition(".")[0]
    # BERT's projection stands beside the attention, in a module for both; JetMoE's is no linear map
    # at all, and what reads its heads next is the router of another block.
    around = parent if "att" in parent.rpartition(".")[2].lower() else path
    if not reader.module.startswith(f"{around}."):
        return shape
    return replace(shape, out=reader.module, is_plain=reader.is_plain)


def _unknown_options(call: AttentionCall) -> tuple[str, ...]:
    """Name tensors given to a kernel that may be biases of a kind the tap cannot account for."""
    given = (k for k, v in call.options.items() if isinstance(v, torch.Tensor))
    return tuple(sorted(set(given) - SCORE_ARGUMENTS - _HARMLESS))


def _inputs(module: torch.nn.Module, args: Any, kwargs: Any) -> Iterator[Slot]:
    names = list(inspect.signature(module.forward).parameters)
    for index, value in enumerate(args):
        if isinstance(value, torch.Tensor):
            yield _slot(value, index, names[index] if index < len(names) else None)
    for key, value in kwargs.items():
        if isinstance(value, torch.Tensor):
            yield _slot(value, None, key)


def _outputs(output: Any) -> Iterator[Slot]:
    if isinstance(output, torch.Tensor):
        yield _slot(output, None, None)
    elif isinstance(output, Mapping):
        for key, value in output.items():
            if isinstance(value, torch.Tensor):
                yield _slot(value, None, key)
    elif isinstance(output, tuple | list):
        for index, value in enumerate(output):
            if isinstance(value, torch.Tensor):
                yield _slot(value, index, None)


def _slot(tensor: torch.Tensor, index: int | None, key: str | None) -> Slot:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Slot(index=index, key=key, axes=tuple(tensor.shape), dtype=dtype)


def _outline(call: Call) -> tuple[Any, ...]:
    """Say what of a call must be the same in every forward pass: all but the sizes."""
    slots = [(s.index, s.key, s.dtype) for s in (*call.inputs, *call.outputs)]
    return call.module, call.number, call.entered, call.left, slots


def _compare(first: Call, second: Call) -> Call:
    return replace(
        first,
        inputs=_compare_slots(first.inputs, second.inputs),
        outputs=_compare_slots(first.outputs, second.outputs),
    )


def _compare_slots(first: tuple[Slot, ...], second: tuple[Slot, ...]) -> tuple[Slot, ...]:
    return tuple(
        Slot(index=a.index, key=a.key, axes=_axes(a.axes, b.axes), dtype=a.dtype)
        for a, b in zip(first, second, strict=True)
    )


def _axes(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[int | str, ...]:
    if len(first) != len(second):
        return ("?",)
    meaning = {
        (_FIRST[0], _SECOND[0]): BATCH,
        (_FIRST[1], _SECOND[1]): POSITION,
        (_FIRST[0] * _FIRST[1], _SECOND[0] * _SECOND[1]): TOKEN,
    }
    return tuple(
        a if a == b else meaning.get((a, b), "?") for a, b in zip(first, second, strict=True)
    )
