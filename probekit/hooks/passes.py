"""Passes: which positions of its texts a model reads when it is called, and what its cache holds.

Knows how transformers' models are called, alone or inside of what wraps them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from probekit.models.forward import AttentionCall

_STATES = ("cache_params", "state", "mems", "past_buckets_states", "past")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One call of a model."""

    path: str  # of the module that was called, in the recorded one
    model: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    given: Mapping[str, Any]  # by parameter
    n_past: int | None  # tokens that a cache held before; None: nobody knows

    @property
    def shape(self) -> tuple[int, int] | None:
        """Texts and positions that are read; None where nothing is a batch of texts."""
        ids = [self.given.get(name) for name in ("input_ids", "inputs_embeds")]
        for value in (*ids, *self.given.values()):
            if isinstance(value, torch.Tensor) and value.ndim >= 2:
                return value.shape[0], value.shape[1]
        return None

    @property
    def has_cache(self) -> bool:
        """Say whether it is given a cache, which may be empty."""
        return self.given.get("past_key_values") is not None

    @property
    def n_logits(self) -> int:
        """The last so many positions have logits; 0 for all."""
        asked = self.given.get("logits_to_keep")
        return asked if isinstance(asked, int) else 0

    def n_more(self, call: AttentionCall) -> int:
        """Say how many keys a call has that are no tokens'."""
        if self.n_past is None:
            return 0
        return max(0, call.key.shape[2] - call.query.shape[2] - self.n_past)


class Passes:
    """See the calls of a model, or of the models of transformers in it.

    Args:
        model: that is recorded; what is called may be it, or what it wraps.
        begins: is told of every pass; those of models in it are looked for, too.
        ends: is told that it is over.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        begins: Callable[[Pass], None] | None = None,
        ends: Callable[[], None] | None = None,
    ) -> None:
        self._begins, self._ends = begins, ends
        self._paths = {
            module: path
            for path, module in model.named_modules()
            if not path or (begins is not None and isinstance(module, PreTrainedModel))
        }
        self._open: torch.nn.Module | None = None  # the outermost that runs
        self.now: Pass | None = None  # the pass that runs

    def attach_begin(self, stack: ExitStack) -> None:
        """Listen for passes that begin, until the stack is closed; before other hooks are."""
        for module in self._paths:
            begin = module.register_forward_pre_hook(self._begin, with_kwargs=True)
            stack.callback(begin.remove)
        stack.callback(self._forget)

    def attach_end(self, stack: ExitStack) -> None:
        """Listen for passes that end; after other hooks are put on, which look at the output."""
        for module in self._paths:
            # Also after an error, or the next pass would seem to be inside of this one.
            end = module.register_forward_hook(self._end, always_call=True)
            stack.callback(end.remove)

    def _begin(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if self._open is None:
            self._open = module
            self.now = _pass(self._paths[module], module, args, kwargs)
            if self._begins is not None:
                self._begins(self.now)

    def _end(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        if module is self._open:
            self._forget()

    def _forget(self) -> None:
        self._open, self.now = None, None  # what a model was called with is not held
        if self._ends is not None:
            self._ends()


def _pass(path: str, module: torch.nn.Module, args: Any, kwargs: Any) -> Pass:
    names = inspect.signature(module.forward).parameters
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return Pass(
        path=path, model=module, args=args, kwargs=kwargs, given=given, n_past=_n_past(given)
    )


def _n_past(given: Mapping[str, Any]) -> int | None:
    cache = given.get("past_key_values")
    if cache is None:
        return None if any(given.get(name) is not None for name in _STATES) else 0
    count = getattr(cache, "get_seq_length", None)
    return int(count()) if count is not None else None
