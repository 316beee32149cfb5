"""The trace format: names, axes, dtypes and attributes of what lies on disk.

Knows HDF5 types and the shape of the tree; opens no file. The writer and the reader both lean on
this page and on nothing of each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from math import prod
from typing import Any

import h5py
import numpy as np

from probekit.errors import StoreError
from probekit.store.format.inside import dataset_in, names_in, node_in, numbers_in, texts_in

FORMAT = 1
RUN_FILE = "run.json"
INDEX_FILE = "trace.h5"
INDEX_RECORD = "trace.json"
LIBVER = ("v108", "v110")  # files that HDF5 1.10 reads, and all that came after it
SHARDS_FOLDER = "shards"

ALL_TOKENS = "all"  # a site with one row for every token
PER_EXAMPLE = "example"  # a site with one row for every example


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
    axes: tuple[str, ...]  # one name an axis; the first is "token" or "example"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """One forward pass of a run."""

    order: int  # which of the run's orders
    phase: str  # "forward", "prefill" or "decode"
    examples: tuple[int, ...]  # numbers of the examples in the batch
    n_tokens: int  # real tokens, padding left out
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Which modules ran in which order: equal orders once, and every forward pass."""

    modules: tuple[str, ...]
    orders: tuple[
        np.ndarray[Any, Any], ...
    ]  # each [event, 3]: module, entered (1) or left (0), depth
    forwards: tuple[Forward, ...]


EVENT_COLUMNS = ("module", "entered", "depth")
FORWARD_DTYPE = np.dtype(
    [
        ("order", "<i4"),
        ("phase", h5py.string_dtype()),
        ("n_examples", "<i4"),
        ("n_tokens", "<i8"),
        ("seconds", "<f8"),
    ]
)
_FORWARD_KINDS = "iSiif"  # of its columns: whole numbers, texts, floats


def write_execution(file: h5py.File, execution: Execution) -> None:
    """Write `/execution` into an open file."""
    group = file.create_group("execution")
    group.create_dataset("modules", data=list(execution.modules), dtype=h5py.string_dtype())
    orders = group.create_group("orders")
    for number, events in enumerate(execution.orders):
        orders.create_dataset(str(number), data=np.asarray(events, dtype="<i4"))
        orders[str(number)].attrs["columns"] = list(EVENT_COLUMNS)
    rows = [(f.order, f.phase, len(f.examples), f.n_tokens, f.seconds) for f in execution.forwards]
    group.create_dataset("forwards", data=np.array(rows, dtype=FORWARD_DTYPE))
    examples = [np.asarray(f.examples, dtype="<i8") for f in execution.forwards]
    forwards = np.repeat(np.arange(len(examples)), [len(e) for e in examples])
    pairs = np.stack([forwards, np.concatenate([*examples, np.empty(0, "<i8")])], axis=1)
    group.create_dataset("forward_examples", data=pairs.astype("<i8"))
    group["forward_examples"].attrs["columns"] = ["forward", "example"]


def read_execution(file: h5py.File) -> Execution | None:
    """Read `/execution` from an open file; None when the run did not record it."""
    if node_in(file, "execution") is None:
        return None
    modules = texts_in(file, "execution/modules")
    n_orders = sum(1 for _ in names_in(node_in(file, "execution/orders"), file))
    orders = tuple(numbers_in(file, f"execution/orders/{n}", 3) for n in range(n_orders))
    table = _forwards_in(file)
    pairs = numbers_in(file, "execution/forward_examples", 2)
    if not (
        all(_within(events[:, 0], len(modules)) and _within(events[:, 1], 2) for events in orders)
        and _within(table["order"], n_orders)
        and _within(pairs[:, 0], len(table))
        and _within(pairs[:, 1], None)
    ):
        raise StoreError(f"{file.filename}: its execution names modules or orders that it has not")
    examples: list[list[int]] = [[] for _ in range(len(table))]
    for forward, example in pairs:
        examples[forward].append(int(example))
    return Execution(
        modules=modules,
        orders=orders,
        forwards=tuple(
            Forward(
                order=int(row["order"]),
                phase=row["phase"].decode(),
                examples=tuple(examples[number]),
                n_tokens=int(row["n_tokens"]),
                seconds=float(row["seconds"]),
            )
            for number, row in enumerate(table)
        ),
    )


def _forwards_in(file: h5py.File) -> np.ndarray[Any, Any]:
    """Read the table of forward passes, every column of its own kind."""
    dataset = dataset_in(file, "execution/forwards")
    names = dataset.dtype.names or ()
    columns = [dataset.dtype[name] for name in names]
    kinds = "".join("S" if h5py.check_string_dtype(c) else c.kind for c in columns)
    if names != FORWARD_DTYPE.names or kinds != _FORWARD_KINDS or dataset.ndim != 1:
        raise StoreError(f"{file.filename}: execution/forwards is no table of forward passes")
    table: np.ndarray[Any, Any] = dataset[:]
    return table


def _within(numbers: np.ndarray[Any, Any], size: int | None) -> bool:
    """Say whether all numbers count from 0, up to a size if there is one."""
    return bool((numbers >= 0).all() and (size is None or (numbers < size).all()))
