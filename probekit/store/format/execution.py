"""Which modules ran in which order: how it lies in files, and what of it lies apart.

Knows `/execution` of a file, and the forward passes of a shard as JSON: which examples share a
pass, and how long it takes, may differ between equal runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import xxhash

from probekit.errors import StoreError
from probekit.store.format.nodes import dataset_in, names_in, node_in, numbers_in, texts_in


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """How many forward passes a run took."""

    n_orders: int
    by_order: Mapping[int, int]  # how many had each of the run's orders
    seconds: float  # of all of them

    @property
    def n(self) -> int:
        """How many there were."""
        return sum(self.by_order.values())

    @classmethod
    def of(cls, execution: Execution) -> Self:
        """Count those of an execution."""
        return cls(
            n_orders=len(execution.orders),
            by_order=Counter(forward.order for forward in execution.forwards),
            seconds=sum(forward.seconds for forward in execution.forwards),
        )


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
    """Write `/execution` into an open file, forward passes and all."""
    group = _write_orders(file, execution.modules, execution.orders)
    rows = [(f.order, f.phase, len(f.examples), f.n_tokens, f.seconds) for f in execution.forwards]
    group.create_dataset("forwards", data=np.array(rows, dtype=FORWARD_DTYPE))
    examples = [np.asarray(f.examples, dtype="<i8") for f in execution.forwards]
    forwards = np.repeat(np.arange(len(examples)), [len(e) for e in examples])
    pairs = np.stack([forwards, np.concatenate([*examples, np.empty(0, "<i8")])], axis=1)
    group.create_dataset("forward_examples", data=pairs.astype("<i8"))
    group["forward_examples"].attrs["columns"] = ["forward", "example"]


def write_orders(file: h5py.File, execution: Execution) -> None:
    """Write what of `/execution` is the same in equal runs; `forwards_to_json` gives the rest."""
    # Longest first, and not as they came: that hangs on which examples share a batch.
    orders = sorted(execution.orders, key=lambda events: (-len(events), _mark_of(events)))
    _write_orders(file, execution.modules, orders)


def _write_orders(file: h5py.File, modules: Sequence[str], orders: Iterable[Any]) -> h5py.Group:
    group = file.create_group("execution")
    group.create_dataset("modules", data=list(modules), dtype=h5py.string_dtype())
    events_of = group.create_group("orders")
    for number, events in enumerate(orders):
        events_of.create_dataset(str(number), data=np.asarray(events, dtype="<i4"))
        events_of[str(number)].attrs["columns"] = list(EVENT_COLUMNS)
    return group


def _mark_of(events: np.ndarray[Any, Any]) -> str:
    """Tell an order from others: of a shard and of the index it has other numbers."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(events, dtype="<i4").tobytes())


def forwards_to_json(execution: Execution) -> dict[str, list[Any]]:
    """Give the forward passes as columns of plain JSON values; `order` is the mark of an order."""
    marks = [_mark_of(events) for events in execution.orders]
    return {
        "order": [marks[f.order] for f in execution.forwards],
        "phase": [f.phase for f in execution.forwards],
        "examples": [list(f.examples) for f in execution.forwards],
        "n_tokens": [f.n_tokens for f in execution.forwards],
        "seconds": [f.seconds for f in execution.forwards],
    }


def forwards_from_json(
    columns: Any, orders: Sequence[np.ndarray[Any, Any]], place: Path
) -> tuple[Forward, ...]:
    """Read what `forwards_to_json` gave, for orders that are numbered as here.

    Raises:
        StoreError: if it is nothing of the kind, or names an order that there is not.
    """
    numbers = {_mark_of(events): number for number, events in enumerate(orders)}
    try:
        names = ("order", "phase", "examples", "n_tokens", "seconds")
        return tuple(
            Forward(
                order=numbers[order],
                phase=_typed(phase, str),
                examples=tuple(_typed(example, int) for example in examples),
                n_tokens=_typed(n_tokens, int),
                seconds=float(_typed(seconds, int | float)),
            )
            for order, phase, examples, n_tokens, seconds in zip(
                *(columns[name] for name in names), strict=True
            )
        )
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"{place}: is no table of forward passes: {error}") from error


def passes_to_json(forwards: Iterable[Any]) -> dict[str, Any]:
    """Count what `forwards_to_json` gave of many shards, as plain JSON values; of none nothing."""
    orders: Counter[str] = Counter()
    seconds = 0.0
    for columns in forwards:
        try:
            orders.update(columns["order"])
            seconds += sum(map(float, columns["seconds"]))
        except (LookupError, TypeError, ValueError):
            return {}  # an odd file, which `verify` names: the shards are asked when it is wanted
    return {"orders": dict(orders), "seconds": seconds} if orders else {}


def passes_from_json(said: Any, orders: Sequence[np.ndarray[Any, Any]]) -> Passes | None:
    """Read what `passes_to_json` gave, for orders that are numbered as here; None if it is not."""
    numbers = {_mark_of(events): number for number, events in enumerate(orders)}
    try:
        return Passes(
            n_orders=len(orders),
            by_order={numbers[mark]: _typed(n, int) for mark, n in said["orders"].items()},
            seconds=float(_typed(said["seconds"], int | float)),
        )
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
        return None  # of a run of before; each shard says it


def _typed(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not {kind}")
    return value


def read_execution(file: h5py.File) -> Execution | None:
    """Read `/execution` from an open file; None when the run did not record it.

    Where the forward passes lie apart (`forwards_from_json`) there are none in it.
    """
    if node_in(file, "execution") is None:
        return None
    modules = texts_in(file, "execution/modules")
    n_orders = sum(1 for _ in names_in(node_in(file, "execution/orders"), file))
    orders = tuple(numbers_in(file, f"execution/orders/{n}", 3) for n in range(n_orders))
    apart = node_in(file, "execution/forwards") is None
    table = np.empty(0, FORWARD_DTYPE) if apart else _forwards_in(file)
    pairs = np.empty((0, 2)) if apart else numbers_in(file, "execution/forward_examples", 2)
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
