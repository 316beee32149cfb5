"""The residual stream of one layer: what is added to it, in which order, and by which module.

Knows values and calls of modules; nothing of names or families.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from probekit.models.forward import Passed, Passing, Value


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Increment:
    """What is added to the stream at one point."""

    value: Value  # as the module gives it
    factor: float  # it is multiplied with that before it is added
    before: Value  # the stream, without it
    after: Value
    call: Passing | None  # the outermost call in the layer that gives it; None where none does
    core: Passing | None  # the same before its norm: the module whose work it is


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One step of a stream: a norm of it, or a multiple of it and what is added to that."""

    after: Value
    norm: Passing | None
    factor: float  # NaN where a weight decides it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """How a layer makes its output of its input."""

    start: Value
    end: Value
    increments: tuple[Increment, ...]  # in the order they are added
    steps: tuple[Step, ...]  # in their order
    normed: bool  # the stream itself goes through a norm on its way
    factor: float  # of the input in the output; NaN where a weight decides it
    first_norm: Passing | None  # the stream begins behind it, in the first layer (RWKV)


def is_norm(module: torch.nn.Module) -> bool:
    """Say whether a module has weights of one axis alone, or is a norm without any."""
    sizes = [p.ndim for p in module.parameters()]
    named = "norm" in type(module).__name__.lower()
    return (bool(sizes) and max(sizes) == 1 and named) or (not sizes and named)


def is_linear(module: torch.nn.Module) -> bool:
    """Say whether a module is one linear map."""
    weight = getattr(module, "weight", None)
    is_map = isinstance(weight, torch.Tensor) and weight.ndim == 2
    return is_map and not isinstance(module, torch.nn.Embedding) and not list(module.children())


class Givers:
    """Which calls within a layer give a value, and which read it."""

    def __init__(self, passed: Passed, layer: Passing) -> None:
        self.layer = layer
        self.calls = tuple(passed.under(layer))
        self._giving: dict[Value, list[Passing]] = {}
        self._reading: dict[Value, list[Passing]] = {}
        for call in self.calls:
            if call.gives is not None:
                self._giving.setdefault(call.gives.origin, []).append(call)
            if call.reads is not None:
                self._reading.setdefault(call.reads.origin, []).append(call)

    def giving(self, value: Value) -> list[Passing]:
        """Give the calls that make a value; the outermost first, and none that passes it on."""
        found = self._giving.get(value.origin, [])
        return [c for c in found if c.reads is None or c.reads.origin is not value.origin]

    def reading(self, value: Value) -> list[Passing]:
        """Give the calls that read a value, the outermost first."""
        return self._reading.get(value.origin, [])

    def holding(self, value: Value) -> list[Passing]:
        """Give the calls whose output a value is, also of those that pass it on."""
        return self._giving.get(value.origin, [])


def stream_of(givers: Givers, *, is_first: bool) -> Stream | None:
    """Follow a layer's output back to its input; None where nothing leads there."""
    start, end = givers.layer.reads, givers.layer.gives
    if start is None or end is None or start.origin is end.origin:
        return None
    for norm in givers.reading(start) if is_first else ():
        if is_norm(norm.module) and norm.gives is not None:
            found = _followed(givers, norm.gives.origin, end.origin, False)
            if found is not None:
                return replace(found, first_norm=norm)
    for through_norms in (False, True):
        found = _followed(givers, start.origin, end.origin, through_norms)
        if found is not None:
            return found
    return None


def back_to(start: Value, end: Value) -> tuple[float, list[tuple[Value, float]]] | None:
    """Follow a value back to another through sums and scalings alone.

    Returns:
        The factor of the other in it, and what else was added, with factors; None if it does not
        lead there.
    """
    lead = _Lead(start.origin, None)
    value, factor, added = end.origin, 1.0, []
    while value is not start.origin:
        step = lead.step(value)
        if step is None:
            return None
        before, by, others, _ = step
        added += [(other, factor * sign) for other, sign in others]
        value, factor = before, factor * by
    return factor, added


def _followed(givers: Givers, start: Value, end: Value, through_norms: bool) -> Stream | None:
    lead = _Lead(start, givers if through_norms else None)
    value, factor = end, 1.0
    found: list[Increment] = []
    steps: list[Step] = []
    while value is not start:
        step = lead.step(value)
        if step is None:
            return None
        before, by, others, norm = step
        steps.append(Step(after=value, norm=norm, factor=by))
        for other, sign in others:
            parts = list(_parts(givers, other, sign, start))
            found += [_increment(givers, part, f, before, value) for part, f in parts]
        value, factor = before, factor * by
    # What is added first was found last; of one sum, what was computed first comes first.
    found.sort(key=lambda i: (i.after.number, i.value.number))
    return Stream(
        start=start,
        end=end,
        increments=tuple(found),
        steps=tuple(reversed(steps)),
        normed=any(step.norm is not None for step in steps),
        factor=factor,
        first_norm=None,
    )


_Back = tuple[Value, float, list[tuple[Value, float]], Passing | None]


class _Lead:
    """Which values lead back to the start of a stream."""

    def __init__(self, start: Value, givers: Givers | None) -> None:
        self._start = start
        self._givers = givers  # given where norms are crossed
        self._known: dict[Value, bool] = {start: True}

    def step(self, value: Value) -> _Back | None:
        """Go one step back: the stream before, its factor, what was added, or a norm of it."""
        if value.made == "scaled":
            (before,), (factor,) = value.of, value.factors
            return (before.origin, factor, [], None) if self._leads(before.origin) else None
        if value.made == "sum":
            parts = list(zip((v.origin for v in value.of), value.factors, strict=True))
            there = [self._leads(part) for part, _ in parts]
            if there.count(True) == 1:
                place = there.index(True)
                before, factor = parts[place]
                return before, factor, [parts[1 - place]], None
            return None
        norm = self._norm(value)
        if norm is not None and norm.reads is not None and self._leads(norm.reads.origin):
            return norm.reads.origin, 1.0, [], norm
        return None

    def _leads(self, value: Value) -> bool:
        todo = [value]
        while todo:
            here = todo[-1]
            if here in self._known:
                todo.pop()
                continue
            before = self._before(here)
            unknown = [v for v in before if v not in self._known]
            if unknown:
                todo.extend(unknown)
                continue
            self._known[here] = any(self._known[v] for v in before)
            todo.pop()
        return self._known[value]

    def _before(self, value: Value) -> list[Value]:
        if value.number < self._start.number:
            return []
        if value.made in ("sum", "scaled"):
            return [v.origin for v in value.of]
        norm = self._norm(value)
        return [] if norm is None or norm.reads is None else [norm.reads.origin]

    def _norm(self, value: Value) -> Passing | None:
        """Give the norm whose output a value is, where norms are crossed."""
        for call in self._givers.giving(value) if self._givers is not None else ():
            if is_norm(call.module) and call.reads is not None:
                return call
        return None


def _parts(
    givers: Givers, value: Value, factor: float, start: Value
) -> Iterator[tuple[Value, float]]:
    """Take apart what is added, down to what modules give."""
    value = value.origin
    if value.made == "scaled" and not givers.holding(value):
        yield from _parts(givers, value.of[0], factor * value.factors[0], start)
    elif value.made == "sum" and not givers.holding(value) and value.number > start.number:
        for part, sign in zip(value.of, value.factors, strict=True):
            yield from _parts(givers, part, factor * sign, start)
    else:
        yield value, factor


def _increment(
    givers: Givers, value: Value, factor: float, before: Value, after: Value
) -> Increment:
    call = next(iter(givers.giving(value)), None)
    core = call
    while core is not None and is_norm(core.module) and core.reads is not None:
        core = next(iter(givers.giving(core.reads)), None)
    return Increment(value=value, factor=factor, before=before, after=after, call=call, core=core)
