"""Descent: which module reads what an attention kernel gave, and what lies between them.

Knows torch's operations on tensors that have no values; nothing of models. A tensor is followed
through everything that is computed of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ATEN = torch.ops.aten
_SAME_ORDER = frozenset(  # operations after which the numbers lie as they lay before
    getattr(_ATEN, name) for name in ("view", "_unsafe_view", "_reshape_alias", "clone", "alias")
)


@dataclass(frozen=True, slots=True)
class _Mark:
    whose: str
    number: int  # tensors followed before it
    is_plain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """The first linear map that reads what is computed of a tensor."""

    module: str
    width: int  # of what it reads
    is_plain: bool  # it reads the tensor itself: nothing was computed in between


class Descent(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow tensors for the time of a block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.readers: dict[str, Reader] = {}  # by whose tensor
        self._n_followed = 0
        self._marks: dict[int, _Mark] = {}
        self._held: list[torch.Tensor] = []  # or another tensor would get the number of a dead one

    def follow(self, whose: str, tensor: torch.Tensor) -> None:
        """Begin to follow a tensor."""
        self.readers.pop(whose, None)  # of a module that runs again
        self._mark(tensor, _Mark(whose, self._n_followed, True))
        self._n_followed += 1

    def read(self, module: str, tensor: Any) -> None:
        """See a linear map read a tensor."""
        mark = self._marks.get(id(tensor)) if isinstance(tensor, torch.Tensor) else None
        if mark is not None and mark.whose not in self.readers:
            self.readers[mark.whose] = Reader(
                module=module, width=tensor.shape[-1], is_plain=mark.is_plain
            )

    def _mark(self, tensor: torch.Tensor, mark: _Mark) -> None:
        self._marks[id(tensor)] = mark
        self._held.append(tensor)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry an operation out, and mark what comes of marked tensors."""
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        marks = [self._marks[id(tensor)] for tensor in given if id(tensor) in self._marks]
        if marks:
            last = max(marks, key=lambda mark: mark.number)  # a layer reads those before it too
            is_plain = last.is_plain and func.overloadpacket in _SAME_ORDER
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self._mark(leaf, _Mark(last.whose, last.number, is_plain))
        return result
