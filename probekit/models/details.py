"""What each module of a model is made of: parameters of its own, persistent buffers, settings.

Knows torch's modules from outside. It looks at no values, so fake tensors do.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from probekit.wording import show

_CALLED = {"variance_epsilon": "eps"}  # RMSNorms copied from T5's; their `extra_repr` says eps too
_BOOKKEEPING = {  # what torch and transformers note on any module
    *vars(nn.Module()),
    *("name_or_path", "loss_type", "kernel_config", "all_tied_weights_keys"),
    "gradient_checkpointing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTensor:
    """A parameter or a buffer that a module holds itself."""

    name: str  # in its module
    shape: tuple[int, ...]
    dtype: str
    shared_with: tuple[str, ...]  # all other places of the very same tensor: `lm_head.weight`

    @property
    def n_values(self) -> int:
        """Count its numbers."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What one module is made of, without its children."""

    parameters: tuple[OwnTensor, ...]
    buffers: tuple[OwnTensor, ...]  # those saved with the weights
    settings: Mapping[str, Any]  # plain JSON values


def describe(model: nn.Module) -> dict[str, Details]:
    """Say what every module of a model is made of, by path; the model's own path is empty."""
    places: dict[int, list[str]] = {}
    for place, tensor in chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    ):
        places.setdefault(id(tensor), []).append(place)
    saved = model.state_dict(keep_vars=True).keys()

    def own(path: str, tensors: Iterable[tuple[str, Tensor]]) -> tuple[OwnTensor, ...]:
        named = ((name, f"{path}.{name}".lstrip("."), tensor) for name, tensor in tensors)
        return tuple(
            OwnTensor(
                name=name,
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                shared_with=tuple(other for other in places[id(tensor)] if other != place),
            )
            for name, place, tensor in named
            if place in saved
        )

    return {
        path: Details(
            parameters=own(path, module.named_parameters(recurse=False, remove_duplicate=False)),
            buffers=own(path, module.named_buffers(recurse=False, remove_duplicate=False)),
            settings=_settings(module),
        )
        for path, module in model.named_modules()
    }


def _settings(module: nn.Module) -> dict[str, Any]:
    """Read what a module was built with off its attributes, as plain JSON values."""
    found = {
        _CALLED.get(name, name): _plain(value)
        for name, value in vars(module).items()
        if name not in _BOOKKEEPING and not name.startswith("_") and _is_plain(value)
    }
    slots = module._parameters  # a bias that was declined has a slot, and nothing in it
    return found | ({"bias": slots["bias"] is not None} if "bias" in slots else {})


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    known = isinstance(value, str | Real | torch.dtype | partial)
    return value is None or known or inspect.isroutine(value)


def _plain(value: Any) -> Any:
    """Write a plain value in JSON's types; what JSON has no number for, and functions, as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, partial):  # transformers' GELUTanh: gelu(approximate='tanh')
        given = [*map(show, value.args), *(f"{k}={show(v)}" for k, v in value.keywords.items())]
        return f"{_plain(value.func)}({', '.join(given)})"
    if inspect.isroutine(value):
        return value.__name__
    return str(value).removeprefix("torch.")
