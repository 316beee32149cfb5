"""Bare hooks: what torch itself hands to a hook, of one example of a batch.

Knows torch and nothing of how probekit records: it is what a recording is compared with. It finds
its example in a batch by the tokens, not by any order.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from probekit.models.forward import BATCH, POSITION, TOKEN
from probekit.planning import Source

Array = np.ndarray[Any, Any]


class BareHooks:
    """Keep the rows of one example at some tensors, the first time it runs in the block.

    Args:
        model: that runs in the block.
        sources: by name, where to look: inputs and outputs of modules.
        tokens: of the example, int `[position]`.
    """

    def __init__(
        self, model: torch.nn.Module, sources: Mapping[str, Source], tokens: Array
    ) -> None:
        self._model = model
        self._sources = sources
        self._tokens = torch.as_tensor(np.asarray(tokens, dtype=np.int64))
        self._place: int | None = None  # of the example in the batch that runs; None: not in it
        self._width = 0  # positions of that batch
        self._calls: Counter[tuple[str, str]] = Counter()
        self._stack = ExitStack()
        self.rows: dict[str, torch.Tensor] = {}  # [position, ...], or [1, ...] without positions

    def __enter__(self) -> Self:
        wanted: dict[tuple[str, str], list[str]] = {}
        for name, source in self._sources.items():
            wanted.setdefault((source.module, source.side), []).append(name)
        with ExitStack() as stack:
            begin = self._model.register_forward_pre_hook(self._begin, with_kwargs=True)
            stack.callback(begin.remove)
            for (path, side), names in wanted.items():
                module = self._model.get_submodule(path)
                if side == "input":
                    handle = module.register_forward_pre_hook(
                        self._before((path, side), names), with_kwargs=True
                    )
                else:
                    handle = module.register_forward_hook(self._after((path, side), names))
                stack.callback(handle.remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _begin(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        self._calls.clear()
        ids = kwargs["input_ids"].cpu()
        self._width = ids.shape[1]
        mask = kwargs.get("attention_mask")
        n_tokens = len(self._tokens)
        self._place = None
        for place in range(len(ids)) if ids.shape[1] >= n_tokens else ():
            # Of two examples one can begin like the other: only the mask tells them apart.
            whole = mask is None or int(mask[place].sum()) == n_tokens
            if whole and torch.equal(ids[place, :n_tokens], self._tokens):
                self._place = place
                break

    def _before(self, key: tuple[str, str], names: list[str]) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            parameters = inspect.signature(module.forward).parameters
            given = {**dict(zip(parameters, args, strict=False)), **kwargs}
            self._keep(key, names, {**given, **{str(n): v for n, v in enumerate(args)}})

        return hook

    def _after(self, key: tuple[str, str], names: list[str]) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            self._keep(key, names, dict(_parts(output)))

        return hook

    def _keep(self, key: tuple[str, str], names: list[str], values: Mapping[str, Any]) -> None:
        number = self._calls[key]
        self._calls[key] += 1
        for name in names if self._place is not None else ():
            source = self._sources[name]
            tensor = _pick(values, source.element)
            if source.call == number and tensor is not None and name not in self.rows:
                self.rows[name] = self._cut(tensor, source.axes).clone()

    def _cut(self, tensor: torch.Tensor, axes: tuple[int | str, ...]) -> torch.Tensor:
        """Take the example's rows: `[..., batch, ..., position, ...]` to `[position, ...]`."""
        assert self._place is not None
        n_tokens = len(self._tokens)
        if TOKEN in axes:  # batch and position in one axis
            flat = tensor.movedim(axes.index(TOKEN), 0)
            begin = self._place * self._width
            return flat[begin : begin + n_tokens]
        own = tensor.select(axes.index(BATCH), self._place)
        if POSITION not in axes:
            return own[None]
        at = axes.index(POSITION)
        return own.movedim(at - (axes.index(BATCH) < at), 0)[:n_tokens]


def _parts(output: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(output, Mapping):
        yield from ((str(key), value) for key, value in output.items())
    elif isinstance(output, tuple | list):
        yield from ((str(place), value) for place, value in enumerate(output))
    else:
        yield "", output


def _pick(values: Mapping[str, Any], element: str | None) -> torch.Tensor | None:
    if element is None:
        return next((v for v in values.values() if isinstance(v, torch.Tensor)), None)
    value = values.get(element)
    return value if isinstance(value, torch.Tensor) else None
