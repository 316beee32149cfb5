"""The trace format: names, axes, dtypes and attributes of what lies on disk.

Knows HDF5 types and the shape of the tree; opens no file. The writer and the reader both lean on
this page and on nothing of each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from math import prod
from typing import Any

import h5py
import numpy as np

from probekit.store.format.axes import EXAMPLE, TOKEN

RUN_FILE = "run.json"
MADE_FILE = "made.json"  # what may differ between equal runs
INDEX_FILE = "trace.h5"
INDEX_RECORD = "trace.json"
INPUTS_FILE = "inputs.h5"
INPUTS_RECORD = "inputs.json"
PARTIAL_FILE = "inputs.partial"  # rows of a source that is read once, until the inputs are sealed
LIBVER = ("v108", "v110")  # files that HDF5 1.10 reads, and all that came after it
SHARDS_FOLDER = "shards"
CLAIMS_FOLDER = "claims"  # who does what, as long as a run is at work


@dataclass(frozen=True, slots=True, order=True)
class Format:
    """A version of the format: any minor of a known major is read, what is not known is ignored.

    1.1 keeps what may differ between equal runs (`MADE_FILE`) apart from the shards and the index.
    """

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def attribute(self) -> int | str:
        """What stands in files: the number 1 for 1.0, text for what came after."""
        return self.major if not self.minor else str(self)

    @classmethod
    def of(cls, attribute: Any) -> Format | None:
        """Read what stands in a file; None where it is no format."""
        if isinstance(attribute, int) and not isinstance(attribute, bool):
            return cls(attribute, 0)
        text = attribute if isinstance(attribute, str) else ""
        parts = re.fullmatch(r"(\d{1,6})\.(\d{1,6})", text, re.ASCII)
        return None if parts is None else cls(int(parts[1]), int(parts[2]))


FIRST, NEWEST = Format(1, 0), Format(1, 1)

# What a record kind means, where that has changed: the meaning's number, 1 where it has not. It is
# part of a run's identity, so that one trace never holds two meanings.
MEANINGS: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dtype:
    """How one torch dtype lies on disk."""

    name: str  # torch's name without "torch."
    storage: np.dtype[Any]  # the numpy dtype of the same bytes
    exact: bool  # numpy has this very dtype; bfloat16 is kept in uint16 instead


_EXACT = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
DTYPES: Mapping[str, Dtype] = {
    **{n: Dtype(name=n, storage=np.dtype(n).newbyteorder("<"), exact=True) for n in _EXACT},
    "bfloat16": Dtype(name="bfloat16", storage=np.dtype("<u2"), exact=False),
}
FLOATS = ("float64", "float32", "float16", "bfloat16")

# Attributes of every site of floats: what was counted while its values passed.
NONFINITE = "n_nonfinite"  # NaN and infinities as the model computed them
OVERFLOW = "n_overflow"  # finite values that are infinite in the stored dtype
COUNTS = (NONFINITE, OVERFLOW)
_FITS_THE_CACHE = 2**19  # values; in float32 2 MiB, a second-level cache


@cache
def bfloat16_type() -> h5py.h5t.TypeFloatID:
    """Build bfloat16 as a native HDF5 float: any HDF5 reader converts it to float32 itself.

    Sign bit 15, 8 exponent bits from bit 7 with bias 127, 7 mantissa bits from bit 0.
    """
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    return kind


def h5_type(dtype: str) -> h5py.h5t.TypeID:
    """Give the HDF5 type of a stored dtype name."""
    if dtype == "bfloat16":
        return bfloat16_type()
    return h5py.h5t.py_create(DTYPES[dtype].storage, logical=True)


def dtype_of(dataset: h5py.Dataset) -> str:
    """Name the dtype a dataset was stored with; a type that is not ours is named by numpy."""
    if dataset.id.get_type() == bfloat16_type():
        return "bfloat16"
    return str(dataset.dtype)


def widen(raw: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    """Turn stored bytes into numbers numpy knows: bfloat16 becomes float32, exactly."""
    if dtype != "bfloat16":
        return raw
    if raw.size > _FITS_THE_CACHE:  # once over the memory; inside the cache twice is faster
        wide: np.ndarray[Any, Any] = np.left_shift(raw, 16, dtype=np.uint32)
    else:
        wide = raw.astype(np.uint32)
        wide <<= 16
    return wide.view(np.float32)


def item_bytes(dtype: str) -> int:
    """Give the size of one stored value."""
    known = DTYPES.get(dtype)
    return known.storage.itemsize if known else np.dtype(dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSpec:
    """One site as it lies on disk: `/sites/<module>/<kind>`."""

    module: str  # "transformer.h.0.mlp.act"
    kind: str  # "output", "output@1", "input.hidden_states", "pattern", ...
    rows: str  # ALL_TOKENS, PER_EXAMPLE, or a choice of positions such as "last" (see /rows)
    axes: tuple[str, ...]  # one name an axis; the first is the rows' (see axes.py)
    row_shape: tuple[int, ...]  # the shape of one row, without axis 0
    dtype: str  # as stored: a key of DTYPES
    source_dtype: str  # as the model computed it
    layer: int | None
    portable: str | None  # the same place's name on every model, "resid_post"
    module_class: str
    probe: int | None  # which rule of the config asked for it first
    details: Mapping[str, Any] = field(default_factory=dict)  # heads, neurons, einops, pool

    @property
    def name(self) -> str:
        """The site's name, `module/kind`."""
        return f"{self.module}/{self.kind}"

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.row_shape) * DTYPES[self.dtype].storage.itemsize

    def to_json(self) -> dict[str, Any]:
        """Give the fields as plain JSON values."""
        return {**asdict(self), "axes": list(self.axes), "row_shape": list(self.row_shape)}

    def identity(self) -> dict[str, Any]:
        """Give what decides the site's values and their place: no names, no descriptions."""
        return {
            "name": self.name,
            "rows": self.rows,
            "row_shape": list(self.row_shape),
            "dtype": self.dtype,
            "source_dtype": self.source_dtype,
            **{k: v for k, v in self.details.items() if k == "meaning"},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpec:
    """One shard as it was planned: a fixed range of examples and the rows they give."""

    number: int
    first_example: int
    n_examples: int
    first_token: int  # tokens of all earlier shards
    n_tokens: int
    n_rows: Mapping[str, int]  # rows of a site by its `rows`: {"all": 812, "last": 14}

    @property
    def file(self) -> str:
        """The shard's place in the trace's folder."""
        return f"{SHARDS_FOLDER}/{self.number:05d}.h5"

    @property
    def starts(self) -> Mapping[str, int]:
        """Rows of all earlier shards, by axis; of other axes a shard counts its own."""
        return {EXAMPLE: self.first_example, TOKEN: self.first_token}

    def first(self, axis: str) -> int:
        """Say which number the shard gives to its first row of an axis."""
        return self.starts.get(axis, 0)

    def count(self, axis: str) -> int:
        """Count the shard's rows of an axis."""
        known = {EXAMPLE: self.n_examples, TOKEN: self.n_tokens}
        return known[axis] if axis in known else self.n_rows.get(axis, 0)

    @property
    def made_file(self) -> str:
        """The place of what may differ between equal runs: seconds, and what shared a pass."""
        return f"{SHARDS_FOLDER}/{self.number:05d}.{MADE_FILE}"

    def to_json(self) -> dict[str, Any]:
        """Give the fields as plain JSON values."""
        return {**asdict(self), "n_rows": dict(self.n_rows)}


def site_path(spec: SiteSpec) -> str:
    """Give a site's path inside the file."""
    return f"/sites/{spec.module}/{spec.kind}"


def site_attributes(spec: SiteSpec) -> dict[str, Any]:
    """Give the HDF5 attributes of a site; what is not known is left out."""
    known = {
        "axes": list(spec.axes),
        "rows": spec.rows,
        "layer": spec.layer,
        "portable": spec.portable,
        "module_class": spec.module_class,
        "dtype": spec.dtype,
        "source_dtype": spec.source_dtype,
        "probe": spec.probe,
        **spec.details,
    }
    return {key: value for key, value in known.items() if value is not None}
