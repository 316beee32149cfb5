"""One forward pass of a tiny model, followed: calls, values, attention kernels.

Knows how such a model is built and run; nothing of places.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from probekit.models.forward import (
    AttentionCall,
    AttentionTap,
    Passed,
    numbers_positions_itself,
    passed,
)
from probekit.models.places.layers import Kernel
from probekit.models.places.tiny import random_weights, tinymodels

N_EXAMPLES, N_POSITIONS = 2, 7
REPEATED = (1, 4)  # positions of one token: an embedding knows nothing of where it stands


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A forward pass of a model, and the attention kernels that it called."""

    model: Any
    passed: Passed
    kernels: list[Kernel]


def tiny(kind: Any, config: Any) -> Any:
    """Build a model of random weights, each of which shows."""
    with random_weights(0):
        model = kind._from_config(config, dtype=torch.float32, attn_implementation="eager")
    tinymodels.moved(model)
    return model.eval()


def followed(model: Any) -> Run:
    """Run a model over some tokens and follow what happens."""
    kernels: list[Kernel] = []
    graph: list[Any] = []

    def listen(path: str, call: AttentionCall) -> None:
        kernels.append(Kernel(path=path, call=call, value=graph[0].value(call.output)))

    paths = [path for path, _ in model.named_modules() if path]
    listeners = {path: _listener(listen, path) for path in paths}
    with one_thread(), torch.no_grad(), AttentionTap(model, listeners):
        found = passed(model, lambda: model(**_tokens(model)), on_start=graph.append)
    return Run(model=model, passed=found, kernels=kernels)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: those that wait for each other cost more than matrices so small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _listener(listen: Any, path: str) -> Any:
    return lambda call: listen(path, call)


def _tokens(model: Any) -> dict[str, Any]:
    drawn = torch.Generator().manual_seed(0)
    shape = (N_EXAMPLES, N_POSITIONS)
    ids = torch.randint(3, tinymodels.D_VOCAB, shape, generator=drawn)
    ids[:, REPEATED[1]] = ids[:, REPEATED[0]]
    given = {
        "input_ids": ids,
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "position_ids": torch.arange(N_POSITIONS).expand(N_EXAMPLES, -1),
        "use_cache": False,
    }
    wanted = inspect.signature(model.forward).parameters
    if numbers_positions_itself(model):
        given.pop("position_ids")
    return {name: value for name, value in given.items() if name in wanted}
