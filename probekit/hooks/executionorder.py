"""OrderRecorder: which module was entered and left when, in every forward pass.

Knows torch's hooks. A hook appends one number to a list; all else happens between forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from probekit.interrupts import Attachment
from probekit.store import Execution, Forward

Array = np.ndarray[Any, Any]


class OrderRecorder(Attachment):
    """Record the execution order of every module below a model, for the time of a block."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._model = model
        self._paths = tuple(path for path, _ in model.named_modules() if path)
        self.clear()

    def clear(self) -> None:
        """Forget every forward pass seen so far."""
        self._events: list[int] = []  # 2 * module when it is entered, 2 * module + 1 when left
        self._orders: dict[bytes, int] = {}
        self._forwards: list[Forward] = []
        self._kept = (0, 0)  # forward passes and orders of batches that are whole

    def _attach(self) -> None:
        for number, path in enumerate(self._paths):
            module = self._model.get_submodule(path)
            for handle in (
                module.register_forward_pre_hook(self._append(2 * number)),
                module.register_forward_hook(self._append(2 * number + 1)),
            ):
                self._stack.callback(handle.remove)

    def _append(self, event: int) -> Callable[..., None]:
        def listen(*_: Any) -> None:
            self._events.append(event)

        return listen

    def end_forward(
        self, *, phase: str, examples: Sequence[int], n_tokens: int, seconds: float
    ) -> None:
        """File what was seen since the last call as one forward pass."""
        key = np.array(self._events, dtype="<i4").tobytes()
        self._events.clear()
        self._forwards.append(
            Forward(
                order=self._orders.setdefault(key, len(self._orders)),
                phase=phase,
                examples=tuple(examples),
                n_tokens=n_tokens,
                seconds=seconds,
            )
        )

    def forget_forward(self) -> None:
        """Drop what was seen since the last forward pass that was filed."""
        self._events.clear()

    def keep_batch(self) -> None:
        """Keep what was filed since the last batch."""
        self._kept = len(self._forwards), len(self._orders)

    def drop_batch(self) -> None:
        """Forget what was filed, and what was seen, since the last batch that was kept."""
        n_forwards, n_orders = self._kept
        self._events.clear()
        del self._forwards[n_forwards:]
        self._orders = dict(islice(self._orders.items(), n_orders))

    def take(self) -> Execution:
        """Give everything filed, and begin anew."""
        execution = self.execution()
        self.clear()
        return execution

    def execution(self) -> Execution:
        """Give everything filed since the last `clear`."""
        return Execution(
            modules=self._paths,
            orders=tuple(_events(key) for key in self._orders),
            forwards=tuple(self._forwards),
        )


def _events(key: bytes) -> Array:
    """Spell an order out: `[event, 3]`, columns module, entered (1) or left (0), depth."""
    codes = np.frombuffer(key, dtype="<i4")
    entered = 1 - codes % 2
    after = np.cumsum(2 * entered - 1)
    # Entering happens at the depth before it, leaving at the depth after it.
    return np.stack([codes // 2, entered, after - entered], axis=1).astype("<i4")
