"""What a model is made of, without weights: its modules, and how many parameters it has.

Knows how a model is built on tensors without values; nothing of places.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.initialization import no_init_weights

from probekit.models.forward import Answers
from probekit.models.places.tiny.building import BUILDING
from probekit.wording import counted

MOST_PARAMETERS = 100_000_000  # of a tiny model: 400 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a model is made of."""

    modules: frozenset[tuple[str, str]]  # path and class; any number of experts is alike
    n_parameters: int


def without_weights(kind: Any, config: Any, mode: FakeTensorMode) -> Any:
    """Build a model whose tensors have no values."""
    with BUILDING, mode, Answers(), torch.no_grad():  # type: ignore[no-untyped-call]
        with no_init_weights():
            model = kind._from_config(
                copy.deepcopy(config), dtype=torch.float32, attn_implementation="eager"
            ).eval()
        model.tie_weights()
    return model


def outline(model: torch.nn.Module) -> Outline:
    """Say what a model is made of."""
    return Outline(
        modules=frozenset(
            (_numberless(path), type(module).__name__)
            for path, module in model.named_modules()
            if path
        ),
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _numberless(path: str) -> str:
    """Leave out all numbers but the first, which is the layer's."""
    parts = path.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
    for place in numbers[1:]:
        parts[place] = "*"
    return ".".join(parts)


def unlike(model: Outline, tiny: Outline) -> str:
    """Say how a tiny model is unlike the one it stands for, or is not tiny; "" where it is like."""
    if tiny.n_parameters > MOST_PARAMETERS:
        return (
            f"it has {counted(tiny.n_parameters, 'parameter')} whatever sizes its config is given "
            f"(at most {MOST_PARAMETERS:,} are drawn)"
        )
    for ours, theirs, where in ((model, tiny, "tiny model"), (tiny, model, "model itself")):
        others = sorted(ours.modules - theirs.modules)
        if others:
            (path, cls), n_more = others[0], len(others) - 1
            more = f" and {counted(n_more, 'module')} more" if n_more else ""
            return f"the {where} has no {path} ({cls}){more}"
    return ""
