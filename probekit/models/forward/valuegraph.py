"""Values: what each tensor of a forward pass was computed of, through sums, scalings and views.

Knows torch's operations and modules; nothing of families. A tensor that is changed in place is
another value afterwards. Runs on tensors with values and on those without.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ATEN = torch.ops.aten


def _named(*names: str) -> frozenset[Any]:
    return frozenset(getattr(_ATEN, name) for name in names)


_SAME_ORDER = _named(  # operations after which the numbers lie as they lay, if all are there
    *("view", "_unsafe_view", "_reshape_alias", "clone", "alias", "detach", "_to_copy", "slice"),
    *(
        "squeeze",
        "unsqueeze",
        "copy_",
        "expand",
        "unbind",
        "select",
        "split",
        "chunk",
        "lift_fresh",
    ),
)
_SUMS, _DIFFERENCES = _named("add", "add_"), _named("sub", "sub_")
_PRODUCTS, _QUOTIENTS = _named("mul", "mul_"), _named("div", "div_")


@dataclass(eq=False, slots=True, kw_only=True)
class Value:
    """A tensor at one moment of a forward pass."""

    number: int  # in the order they were computed
    made: str  # "same", "scaled", "sum", or "other"
    of: tuple[Value, ...] = field(repr=False)  # what it was computed of: shared, as in any graph
    factors: tuple[float, ...]  # of each of these, in a sum or a scaling
    shape: tuple[int, ...]

    @property
    def origin(self) -> Value:
        """The value itself, before it was only looked at otherwise."""
        value = self
        while value.made == "same":
            (value,) = value.of
        return value

    def comes_of(self, wanted: Value, *, never_over: frozenset[Value] = frozenset()) -> bool:
        """Say whether it was computed of another value, and not only by way of these."""
        todo, seen = [self], set()
        while todo:
            value = todo.pop()
            if value is wanted:
                return True
            if value in seen or value in never_over or value.number < wanted.number:
                continue
            seen.add(value)
            todo.extend(value.of)
        return False


@dataclass(eq=False, slots=True, kw_only=True)
class Passing:
    """One call of a module: the first tensor that it reads and the first that it gives."""

    path: str
    module: torch.nn.Module
    entered: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reads: Value | None
    read: torch.Tensor | None  # its numbers at that moment
    gives: Value | None = None
    gave: torch.Tensor | None = None
    left: int = -1


@dataclass(slots=True)
class Passed:
    """A forward pass of a model."""

    calls: list[Passing] = field(default_factory=list)  # in the order they were entered
    result: Any = None
    logits: Value | None = None
    graph: ValueGraph | None = None
    _by_path: dict[str, list[Passing]] = field(default_factory=dict)

    def add(self, call: Passing) -> None:
        """Note a call that begins."""
        self.calls.append(call)
        self._by_path.setdefault(call.path, []).append(call)

    def at(self, path: str) -> Passing | None:
        """Give the only call of a module; None where it ran never, or more than once."""
        found = self._by_path.get(path, ())
        return found[0] if len(found) == 1 else None

    def under(self, outer: Passing) -> Iterator[Passing]:
        """Give the calls that were made within another, outer ones first."""
        first = bisect_right(self.calls, outer.entered, key=lambda call: call.entered)
        last = bisect_left(self.calls, outer.left, key=lambda call: call.entered)
        return iter(self.calls[first:last])


class ValueGraph(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Note what tensors are computed of for the time of a block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._values: dict[int, Value] = {}  # by the id of the tensor that has it now
        self._held: list[torch.Tensor] = []  # or another tensor would get the id of a dead one
        self._shared: dict[int, set[int]] = {}  # by storage: ids of the tensors that lie there
        self.n_values = 0

    def value(self, tensor: torch.Tensor) -> Value:
        """Give the value that a tensor has now."""
        found = self._values.get(id(tensor))
        if found is None:
            found = self._note(tensor, "other", (), ())
        return found

    def scaled_by(self, factor: float) -> Iterator[Value]:
        """Give what was multiplied with a number and was not changed since."""
        return (v for v in self._values.values() if v.made == "scaled" and v.factors == (factor,))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry an operation out, and note it."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        values = tuple(self.value(tensor) for tensor in given)
        result = func(*args, **(kwargs or {}))
        ids = {id(tensor) for tensor in given}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                made = _made(func.overloadpacket, args, kwargs or {}, given, values, leaf)
                in_place = id(leaf) in ids
                if in_place:
                    self._overwrite(leaf, made)
                else:
                    self._note(leaf, *made)
        return result

    def _note(
        self,
        tensor: torch.Tensor,
        made: str,
        of: tuple[Value, ...],
        factors: tuple[float, ...],
    ) -> Value:
        self.n_values += 1
        value = Value(
            number=self.n_values, made=made, of=of, factors=factors, shape=tuple(tensor.shape)
        )
        self._values[id(tensor)] = value
        self._held.append(tensor)
        self._shared.setdefault(_storage(tensor), set()).add(id(tensor))
        return value

    def _overwrite(
        self, tensor: torch.Tensor, made: tuple[str, tuple[Value, ...], tuple[float, ...]]
    ) -> None:
        """See a tensor change, and with it all that lie in the same memory."""
        before = self.value(tensor)
        after = self._note(tensor, *made)
        for other in self._shared.get(_storage(tensor), set()) - {id(tensor)}:
            old = self._values[other]
            whole = old.origin is before.origin
            self.n_values += 1
            self._values[other] = Value(
                number=self.n_values,
                made="same" if whole else "other",
                of=(after,) if whole else (old, after),
                factors=(1.0,) if whole else (),
                shape=old.shape,
            )


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _made(
    operation: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    given: list[torch.Tensor],
    values: tuple[Value, ...],
    result: torch.Tensor,
) -> tuple[str, tuple[Value, ...], tuple[float, ...]]:
    """Say how a result was made of what was given."""
    whole = [tensor.numel() == result.numel() for tensor in given]
    if operation in _SAME_ORDER and whole[:1] == [True]:
        source = values[-1] if operation == _ATEN.copy_ else values[0]
        return "same", (source,), (1.0,)
    numbers = [a for a in args if isinstance(a, int | float) and not isinstance(a, bool)]
    if operation in (*_PRODUCTS, *_QUOTIENTS) and len(given) == 1 and len(numbers) == 1:
        by_number = isinstance(args[0], torch.Tensor) or operation in _PRODUCTS
        if by_number:
            factor = float(numbers[0])
            return "scaled", values, (factor if operation in _PRODUCTS else 1 / factor,)
    alone = [tensor.numel() == 1 for tensor in given]
    if operation in _PRODUCTS and len(given) == 2 and whole.count(True) == 1 and any(alone):
        return "scaled", (values[whole.index(True)],), (float("nan"),)  # by a weight
    if operation in (*_SUMS, *_DIFFERENCES) and len(given) == 2 and any(whole):
        sign = float(kwargs.get("alpha", 1)) * (1 if operation in _SUMS else -1)
        return "sum", values, (1.0, sign)
    return "other", values, ()


def passed(
    model: torch.nn.Module,
    run: Callable[[], Any],
    on_start: Callable[[ValueGraph], object] = lambda graph: None,
) -> Passed:
    """Run a model, and give its modules' calls with the values that go in and come out.

    `on_start` is given what knows the values while the model runs.
    """
    found, graph = Passed(), ValueGraph()
    on_start(graph)
    stack: list[Passing] = []
    clock = iter(range(1 << 62))

    def enter(path: str, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        tensor = _first_input(args, kwargs)
        call = Passing(
            path=path,
            module=module,
            entered=next(clock),
            args=args,
            kwargs=kwargs,
            reads=None if tensor is None else graph.value(tensor),
            read=_copy(tensor),
        )
        found.add(call)
        stack.append(call)

    def leave(module: torch.nn.Module, args: Any, output: Any) -> None:
        call, tensor = stack.pop(), _first_output(output)
        call.left = next(clock)
        if tensor is not None:
            call.gives, call.gave = graph.value(tensor), _copy(tensor)

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if path:
                before = module.register_forward_pre_hook(partial(enter, path), with_kwargs=True)
                hooks.callback(before.remove)
                hooks.callback(module.register_forward_hook(leave).remove)
        hooks.enter_context(graph)
        found.result = run()
    logits = getattr(found.result, "logits", None)
    if isinstance(logits, torch.Tensor):
        found.logits = graph.value(logits)
    found.graph = graph  # it holds the tensors
    return found


def _first_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """Give the first tensor argument, as the record kind `input` means it."""
    given = (*args, *kwargs.values())
    return next((value for value in given if isinstance(value, torch.Tensor)), None)


def _first_output(output: Any) -> torch.Tensor | None:
    """Give the tensor, or the first of several, as the record kind `output` means it."""
    several: Sequence[Any] = ()
    if isinstance(output, torch.Tensor):
        several = (output,)
    elif isinstance(output, Mapping):
        several = tuple(output.values())
    elif isinstance(output, tuple | list):
        several = output
    return next((value for value in several if isinstance(value, torch.Tensor)), None)


def _copy(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """Copy a tensor's numbers, unseen by whoever follows values."""
    if tensor is None:
        return None
    with torch.utils._python_dispatch._disable_current_modes():
        return tensor.detach().clone() if type(tensor) is torch.Tensor else None
