"""HookManager: listen at modules while a model runs, and leave no mark.

Knows torch's hooks; nothing of plans, rows or files. All hooks are attached or none, and on every
path out of the block they are gone, the user's own untouched.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from probekit.errors import CaptureError
from probekit.interrupts import Attachment
from probekit.models.forward import (
    CHOICES,
    EACH_EXPERT,
    each_expert,
    router_beside,
    routing_of,
)

Sink = Callable[[torch.Tensor], None]


class ForwardStopped(Exception):  # noqa: N818 (it is no error)
    """Raised by a sink to end a forward pass after the last module that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """One tensor to listen for, and who gets it."""

    module: str  # path
    side: str  # "input", "output", EACH_EXPERT or CHOICES
    element: str | None  # None: the first tensor; a number or a name picks one
    call: int | None  # of the module in one forward pass of the model; None: every call
    sink: Sink


class HookManager(Attachment):
    """Attach taps to a model for the time of a block.

    Calls of a module are numbered from 0 in each forward pass of the whole model.
    """

    def __init__(self, model: torch.nn.Module, taps: Iterable[Tap]) -> None:
        super().__init__()
        self._model = model
        self._taps = tuple(taps)
        self._calls: Counter[tuple[str, str]] = Counter()

    def _attach(self) -> None:
        if any(tap.call is not None for tap in self._taps):
            begin = self._model.register_forward_pre_hook(self._begin)
            self._stack.callback(begin.remove)
        for (path, side), taps in _grouped(self._taps).items():
            module = self._model.get_submodule(path)
            if side == "input":
                handle = module.register_forward_pre_hook(
                    self._on_input(path, module, taps), with_kwargs=True
                )
            elif side == EACH_EXPERT:
                handle = module.register_forward_hook(
                    self._on_experts(path, taps), with_kwargs=True
                )
            elif side == CHOICES:
                handle = module.register_forward_hook(
                    self._on_choices(path, taps), with_kwargs=True
                )
            else:
                handle = module.register_forward_hook(self._on_output(path, taps))
            self._stack.callback(handle.remove)

    def _begin(self, module: torch.nn.Module, args: Any) -> None:
        self._calls.clear()

    def _on_input(self, path: str, module: torch.nn.Module, taps: list[Tap]) -> Callable[..., None]:
        names = tuple(inspect.signature(module.forward).parameters)

        def listen(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            self._hand_over(path, taps, lambda element: pick_input(args, given, element))

        return listen

    def _on_output(self, path: str, taps: list[Tap]) -> Callable[..., None]:
        def listen(module: torch.nn.Module, args: Any, output: Any) -> None:
            self._hand_over(path, taps, lambda element: pick_output(output, element))

        return listen

    def _on_experts(self, path: str, taps: list[Tap]) -> Callable[..., None]:
        def listen(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            apart = each_expert(module, args, kwargs)
            self._hand_over(path, taps, lambda element: apart)

        return listen

    def _on_choices(self, path: str, taps: list[Tap]) -> Callable[..., None]:
        """Listen at a router, or at what runs the experts that the router beside it chose."""
        beside = router_beside(self._model, path)
        router = self._model.get_submodule(beside)
        routing = routing_of(router)
        assert routing is not None  # the plan reads such routers alone
        held = [] if beside == path else self._last_output(router)

        def listen(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if beside != path and not held:
                raise CaptureError(f"{path}: ran without {beside}, which chooses among its experts")
            chosen = routing.chosen(router, output if beside == path else held.pop())
            read, wrote = pick_input(args, kwargs, None), pick_output(output, None)

            @cache  # of this call: several taps may want it
            def pick(kind: str) -> torch.Tensor:
                if kind == "expert_out":
                    return routing.written(module, read, wrote, chosen)
                return chosen.of(kind)

            self._hand_over(path, taps, lambda element: pick(str(element)))

        return listen

    def _last_output(self, router: torch.nn.Module) -> list[Any]:
        """Hold what a router gave last; who takes it empties the list."""
        held: list[Any] = []

        def hold(module: torch.nn.Module, args: Any, output: Any) -> None:
            held[:] = [output]  # a pass may have ended before its experts ran

        self._stack.callback(router.register_forward_hook(hold).remove)
        return held

    def _hand_over(
        self, path: str, taps: list[Tap], pick: Callable[[str | None], torch.Tensor | None]
    ) -> None:
        key = (path, taps[0].side)
        number = self._calls[key]
        self._calls[key] += 1
        for tap in taps:
            if tap.call is None or tap.call == number:
                tensor = pick(tap.element)
                if tensor is None:
                    raise CaptureError(
                        f"{path}: its {tap.side} has no tensor "
                        f"{'' if tap.element is None else tap.element!r} in this forward pass"
                    )
                tap.sink(tensor)


def _grouped(taps: Iterable[Tap]) -> dict[tuple[str, str], list[Tap]]:
    groups: dict[tuple[str, str], list[Tap]] = {}
    for tap in taps:
        groups.setdefault((tap.module, tap.side), []).append(tap)
    return groups


def pick_input(
    args: tuple[Any, ...], named: Mapping[str, Any], element: str | None
) -> torch.Tensor | None:
    """Pick a tensor from a call's arguments.

    Args:
        args: positional arguments.
        named: every argument by its parameter's name, positional ones first.
        element: None for the first tensor, else a position or a parameter's name.
    """
    if element is None:
        return next((v for v in (*args, *named.values()) if isinstance(v, torch.Tensor)), None)
    if element.isdigit():
        value = args[int(element)] if int(element) < len(args) else None
    else:
        value = named.get(element)
    return value if isinstance(value, torch.Tensor) else None


def pick_output(output: Any, element: str | None) -> torch.Tensor | None:
    """Pick a tensor from what a module returned: a tensor, a tuple, or a mapping."""
    if isinstance(output, torch.Tensor):
        return output if element is None else None
    if isinstance(output, Mapping):
        values = dict(output)
    elif isinstance(output, tuple | list):
        values = {str(n): v for n, v in enumerate(output)}
    else:
        values = {}
    if element is None:
        return next((v for v in values.values() if isinstance(v, torch.Tensor)), None)
    value = values.get(element)
    return value if isinstance(value, torch.Tensor) else None
