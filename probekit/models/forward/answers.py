"""Answers for models that look at a value while they run on tensors that have none.

Knows torch's operations; nothing of models. Shapes do not depend on the value, as a rule: dynamic
rotary embeddings compare a length with the longest so far, XLM asserts that lengths fit, JetMoE
asks how many tokens go to each expert, LongCat which they are. The answer is 0, and none. A branch
that does change what runs shows itself in the run: a module stays silent, or gives another shape
than planned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten


class Answers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Say 0 where fake tensors are asked for a value, and cut by sizes that came of it."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry an operation out, or answer in its place."""
        if func is _ATEN._local_scalar_dense.default:
            dtype = args[0].dtype
            return False if dtype == torch.bool else 0.0 if dtype.is_floating_point else 0
        if func is _ATEN.nonzero.default:
            return args[0].new_zeros((0, args[0].ndim), dtype=torch.int64)
        if func is _ATEN.split_with_sizes.default:
            tensor, sizes, *dim = args
            size = tensor.shape[dim[0] if dim else 0]
            if sum(sizes) != size and not any(sizes):  # all of them are answers
                args = (tensor, [size, *sizes[1:]], *dim)
        return func(*args, **(kwargs or {}))
