"""Kind: what the rows of a dataset are, as its file says.

Knows shapes and dtypes; nothing of where rows lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from probekit.errors import StoreError
from probekit.store.format import is_number, schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What the rows of a dataset are."""

    row_shape: tuple[int, ...]
    dtype: str
    storage: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.row_shape) * self.storage.itemsize


def kind_of(dataset: h5py.Dataset, shape: tuple[int, ...], path: Path) -> Kind:
    """Say what the rows of a dataset are that was found in a file."""
    dtype = schema.dtype_of(dataset)
    known = schema.DTYPES.get(dtype)
    if dtype != "bfloat16" and not is_number(dataset):
        raise StoreError(f"{path}: {dataset.name} holds {dtype}; expected numbers")
    storage = known.storage if known else np.dtype(dtype)
    return Kind(row_shape=shape[1:], dtype=dtype, storage=storage)
