"""Targets: what a readout is to say of each example, and which examples may be parted.

Knows columns of the user's own and the method that fits one; nothing of rows of sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit import arguments
from probekit.errors import StoreError
from probekit.wording import counted, one_of, show, values_of

if TYPE_CHECKING:
    from probekit.store import Scalar
    from probekit.trace import Trace

Array = np.ndarray[Any, Any]

LOGISTIC, RIDGE, MEAN_DIFFERENCE = "logistic", "ridge", "mean_difference"
METHODS = (LOGISTIC, RIDGE, MEAN_DIFFERENCE)
MOST_CLASSES = 10  # distinct whole numbers that are taken for classes where no method is said
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """What is to be said of each example of a trace."""

    column: str
    method: str  # of METHODS
    classes: tuple[Scalar, ...]  # sorted; empty where numbers are predicted
    values: Array  # [example]: int64, the number of its class, or float64
    there: Array  # bool [example]: where the column has a value

    @property
    def n_outputs(self) -> int:
        """How many directions a fit has: one a class of more than two, else one."""
        return len(self.classes) if len(self.classes) > 2 else 1


def target_of(trace: Trace, column: str, method: str | None) -> Target:
    """Read a column, and choose the method that fits it where none is given.

    Raises:
        StoreError: if there is no such column, or the method does not go with it.
    """
    values = trace.columns[arguments.text("target", column)]
    there = known_in(values)
    bare = np.ma.getdata(values)
    where = f"{trace.path}: the column {column!r}"
    if bare.dtype.kind == "f" and np.isinf(bare[there]).any():
        example = int(np.flatnonzero(there & np.isinf(bare))[0])
        raise StoreError(
            f"{where} is {bare[example]} at example {example}; expected finite numbers"
        )
    if not there.any():
        raise StoreError(f"{where} has no value at any example")
    chosen = _method(where, bare[there], method)
    if chosen == RIDGE:
        numbers = np.where(there, bare, 0).astype(np.float64)
        return Target(column=column, method=chosen, classes=(), values=numbers, there=there)
    distinct, places = np.unique(bare[there], return_inverse=True)
    _check_classes(where, distinct, chosen)
    filled = np.zeros(len(bare), dtype=np.int64)
    filled[there] = places
    classes = tuple(distinct.tolist())
    return Target(column=column, method=chosen, classes=classes, values=filled, there=there)


def units_of(trace: Trace, group: str | None) -> tuple[Array, Array]:
    """Give what may not be parted: the number of each example's group, and where there is one.

    Returns:
        int64 `[example]`, the number of the example's prompt where no group is asked for: what was
        said of one prompt is on one side; bool `[example]`.
    """
    n_examples = len(trace.examples)
    if group is None:
        prompts = trace.examples.prompt[:] if trace.examples.shares else np.arange(n_examples)
        return np.unique(prompts, return_inverse=True)[1], np.ones(n_examples, dtype=bool)
    values = trace.columns[arguments.text("group", group)]
    there = known_in(values)
    units = np.zeros(n_examples, dtype=np.int64)
    units[there] = np.unique(np.ma.getdata(values)[there], return_inverse=True)[1]
    return units, there


def known_in(values: Array) -> Array:
    """Say where a column has a value, bool `[example]`; NaN is none."""
    there = ~np.ma.getmaskarray(values)
    bare = np.ma.getdata(values)
    return there & ~np.isnan(bare) if bare.dtype.kind == "f" else there


def named(classes: Sequence[Scalar]) -> str:
    """Write classes in a message, the first few of them."""
    shown = ", ".join(show(c) for c in classes[:_SHOWN])
    return f"{shown}, ..." if len(classes) > _SHOWN else shown


def _method(where: str, values: Array, method: str | None) -> str:
    if method is None:
        return LOGISTIC if _are_classes(values) else RIDGE
    if arguments.text("method", method) not in METHODS:
        raise StoreError(f"there is no method {method!r}; {one_of(method, METHODS)}")
    if method == RIDGE and values.dtype.kind == "O":
        raise StoreError(
            f"{where} holds {values_of('U')}, and ridge predicts numbers; leave method= out"
        )
    return method


def _are_classes(values: Array) -> bool:
    if values.dtype.kind in "bO":
        return True
    distinct = np.unique(values)
    return len(distinct) <= MOST_CLASSES and bool((distinct == np.round(distinct)).all())


def _check_classes(where: str, distinct: Array, method: str) -> None:
    classes = distinct.tolist()
    if len(classes) < 2:
        raise StoreError(
            f"{where} says {show(classes[0])} wherever it has a value; a readout tells at least "
            "two classes apart"
        )
    if method == MEAN_DIFFERENCE and len(classes) > 2:
        raise StoreError(
            f"{where} has {counted(len(classes), 'class', 'classes')} ({named(classes)}); "
            "a difference of means is one of two classes: method='logistic' tells several apart"
        )
