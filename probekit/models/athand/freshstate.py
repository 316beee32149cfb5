"""A model's state as it was loaded: what it carries from pass to pass is taken back before each.

Knows rotary embeddings that stretch with the longest text they have seen. Nothing else that the
language models of transformers carry reaches a value of the next pass (128 families were looked
at); of a model with code of its own the self-check tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

_TABLES, _NUMBERS = "inv_freq", ("max_seq_len_cached", "attention_scaling")


@dataclass(frozen=True, slots=True)
class _Rotary:
    """What one module of rotary embeddings was loaded with."""

    module: torch.nn.Module
    tables: Mapping[str, torch.Tensor]
    numbers: Mapping[str, Any]

    @classmethod
    def of(cls, module: torch.nn.Module) -> _Rotary:
        buffers = {k: v for k, v in module._buffers.items() if v is not None}
        return cls(
            module,
            {k: v.clone() for k, v in buffers.items() if k.endswith(_TABLES)},
            {k: v for k, v in vars(module).items() if k.endswith(_NUMBERS)},
        )

    def put_back(self) -> None:
        for name, table in self.tables.items():
            self.module._buffers[name] = table.clone()  # some are changed in place
        for name in [name for name in vars(self.module) if name.endswith(_NUMBERS)]:
            if name in self.numbers:
                setattr(self.module, name, self.numbers[name])
            else:
                delattr(self.module, name)


class FreshState:
    """Remembers what a model was loaded with, and gives it back.

    Args:
        model: as it was loaded; no pass has run.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._rotaries = [_Rotary.of(m) for m in model.modules() if _stretches(m)]

    def put_back(self) -> None:
        """Give the model the state that it was loaded with."""
        for rotary in self._rotaries:
            rotary.put_back()


def _stretches(module: torch.nn.Module) -> bool:
    kinds = getattr(module, "rope_type", None)
    kinds = kinds.values() if isinstance(kinds, Mapping) else (kinds,)
    return any(isinstance(kind, str) and "dynamic" in kind for kind in kinds)
