"""A model is borrowed: it runs in eval mode for a while, and then it is as it was.

Knows what a forward pass and a run can leave on modules; no hooks, which those who attach them take
off again.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from probekit.errors import CaptureError, ProbekitWarning
from probekit.interrupts import uninterrupted
from probekit.models.athand.freshstate import FreshState
from probekit.models.athand.given import AtHand
from probekit.wording import by_count, human_bytes

# Of a buffer whose values are kept: tables of rotary embeddings, counts. Larger ones are weights of
# quantized models, of which a copy would take as much memory as the model, and masks.
_SMALL_BYTES = 1 << 20
_TOLD = 3  # of those that were changed, named in a warning
_GENERATION = "generation_config"  # `generate` of what wraps a model hands it on

_users: dict[int, threading.Thread] = {}  # by the id of a model of transformers: who runs it
_lock = threading.Lock()


@contextmanager
def borrowed(hand: AtHand) -> Iterator[None]:
    """Have a model in eval mode for the time of a block; leave no mark on it, whatever happens.

    Its modules' modes are set one by one: what a class of its own does in `train` or `eval`, such
    as merging adapters into weights, is not done.

    Raises:
        CaptureError: if another run has it already.
    """
    with _alone(hand):
        marks = _Marks.of(hand)
        try:
            with uninterrupted():
                for module in hand.model.modules():
                    module.training = False
            yield
        finally:
            try:
                with uninterrupted():
                    marks.put_back()
            finally:
                marks.put_back()  # again, where an error from outside came into the first
                marks.tell_changed()


@contextmanager
def _alone(hand: AtHand) -> Iterator[None]:
    with _lock:
        user = _users.get(id(hand.inner))
        if user is not None and user.is_alive():
            raise CaptureError(
                f"model: another run has this {hand.name} already, in the thread {user.name!r}, "
                "and hooks of both would see the passes of both; wait for it, or give a copy"
            )
        _users[id(hand.inner)] = threading.current_thread()
    try:
        yield
    finally:
        _users.pop(id(hand.inner), None)


@dataclass(frozen=True, slots=True)
class _Module:
    """What one module had."""

    module: torch.nn.Module
    is_training: bool
    buffers: dict[str, torch.Tensor | None]
    values: dict[str, torch.Tensor]  # copies, of small buffers
    versions: dict[str, int]  # of the others: torch counts what is done to a tensor in place
    tensors: dict[str, torch.Tensor]  # in plain attributes: caches of masks and tables
    generation: dict[str, Any]  # its settings for generating, if it has any itself

    @classmethod
    def of(cls, module: torch.nn.Module) -> _Module:
        there = {k: v for k, v in module._buffers.items() if v is not None}
        return cls(
            module,
            module.training,
            dict(module._buffers),
            {k: v.detach().clone() for k, v in there.items() if v.nbytes <= _SMALL_BYTES},
            {
                k: v._version
                for k, v in there.items()
                if v.nbytes > _SMALL_BYTES and not v.is_inference()  # which has no such number
            },
            _tensors_of(module),
            {k: v for k, v in vars(module).items() if k == _GENERATION},
        )

    def put_back(self) -> None:
        own = vars(self.module)
        self.module.training = self.is_training
        self.module._buffers.update(self.buffers)
        for name in [name for name in self.module._buffers if name not in self.buffers]:
            del self.module._buffers[name]
        for name, value in self.values.items():
            buffer = self.buffers[name]
            if buffer is not None and not torch.equal(buffer, value):
                with torch.inference_mode():  # also where the buffer was made in it
                    buffer.copy_(value)
        for name in [name for name in _tensors_of(self.module) if name not in self.tensors]:
            del own[name]
        own.update(self.tensors)
        own.pop(_GENERATION, None)
        own.update(self.generation)

    def changed(self) -> Iterator[tuple[str, int]]:
        """Give large buffers whose values are others now, and their bytes."""
        for name, version in self.versions.items():
            buffer = self.buffers[name]
            if buffer is not None and buffer._version != version:
                yield name, buffer.nbytes


def _tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)}


@dataclass(frozen=True, slots=True)
class _Marks:
    """What a model, and torch's random numbers, were like."""

    model: torch.nn.Module
    modules: list[_Module]
    stretched: FreshState  # as it was found
    on_host: torch.Tensor  # states of random numbers
    on_device: torch.Tensor | None
    device: torch.device

    @classmethod
    def of(cls, hand: AtHand) -> _Marks:
        on_device = None
        if hand.device.type == "cuda":
            on_device = torch.cuda.get_rng_state(hand.device)
        return cls(
            hand.model,
            [_Module.of(module) for module in hand.model.modules()],
            FreshState(hand.model),
            torch.get_rng_state(),
            on_device,
            hand.device,
        )

    def put_back(self) -> None:
        self.stretched.put_back()  # of rotary embeddings the numbers; the tables come below
        for module in self.modules:
            module.put_back()
        torch.set_rng_state(self.on_host)
        if self.on_device is not None:
            torch.cuda.set_rng_state(self.on_device, self.device)

    def tell_changed(self) -> None:
        """Warn of what cannot be put back: a model goes on with it, and so does its next run."""
        paths = {module: path for path, module in self.model.named_modules()}
        found = [
            f"{paths.get(one.module, '')}.{name}".lstrip(".") + f" ({human_bytes(n_bytes)})"
            for one in self.modules
            for name, n_bytes in one.changed()
        ]
        if found:
            more = f" and {len(found) - _TOLD:,} more" if len(found) > _TOLD else ""
            warnings.warn(
                f"model: the run changed {', '.join(found[:_TOLD])}{more} in place, and "
                f"{by_count(len(found), 'it is', 'they are')} left so: only buffers of up to "
                f"{human_bytes(_SMALL_BYTES)} are put back. Where that matters, give a copy "
                "(copy.deepcopy(model))",
                ProbekitWarning,
                stacklevel=2,
            )
