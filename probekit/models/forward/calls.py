"""What a module is given and gives in one forward pass: calls, and the axes of their tensors.

Knows torch's modules; says of every axis whether it is the batch's, the position's or of one size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import torch

# Two forward passes: an axis that goes 2 -> 3 is the batch, 7 -> 11 the position, 14 -> 33 both.
FIRST, SECOND = (2, 7), (3, 11)
BATCH, POSITION, TOKEN = "batch", "position", "token"


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


def observe(model: torch.nn.Module, run: Callable[[], object]) -> list[Call]:
    """Run a model and give its calls, in the order they were entered; the model's own is first."""
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
        run()
    finally:
        for handle in handles:
            handle.remove()
    return [call for call in calls if call is not None]


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


def compared(first: list[Call], second: list[Call]) -> tuple[Call, ...] | None:
    """Name the axes by two passes of `FIRST` and `SECOND` tokens; None if other modules ran."""
    if [_outline(call) for call in first] != [_outline(call) for call in second]:
        return None
    return tuple(_compare(a, b) for a, b in zip(first, second, strict=True))


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
        (FIRST[0], SECOND[0]): BATCH,
        (FIRST[1], SECOND[1]): POSITION,
        (FIRST[0] * FIRST[1], SECOND[0] * SECOND[1]): TOKEN,
    }
    return tuple(
        a if a == b else meaning.get((a, b), "?") for a, b in zip(first, second, strict=True)
    )
