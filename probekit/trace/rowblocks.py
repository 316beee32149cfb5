"""Blocks: the rows of a site, a bounded piece at a time, as float64.

Knows how large a piece may be and whose tokens its rows are; computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from probekit.store import EXAMPLE, is_choice
from probekit.trace.site import Site

Array = np.ndarray[Any, Any]

BLOCK_BYTES = 16 << 20  # of rows as float64; what is worked out of them is a few times that
ATTENTION = ("token", "head", "key")


def row_slices(
    n_rows: int, row_shape: tuple[int, ...], block_bytes: int | None = None
) -> Iterator[slice]:
    """Cut rows into slices that are at most `block_bytes` large as float64, and one row at least.

    Args:
        n_rows: how many there are.
        row_shape: of one row.
        block_bytes: `BLOCK_BYTES` where it is not said.
    """
    step = max(1, (block_bytes or BLOCK_BYTES) // (8 * max(1, prod(row_shape))))
    for begin in range(0, n_rows, step):
        yield slice(begin, min(begin + step, n_rows))


def blocks(site: Site) -> Iterator[tuple[slice, Array]]:
    """Give which rows they are, and the rows as float64 `[row, ...]`, one piece after another."""
    for rows in row_slices(len(site), site.shape[1:]):
        yield rows, float64(site[rows])


def float64(values: Array) -> Array:
    """Widen values, exactly."""
    with np.errstate(invalid="ignore"):  # a signalling NaN, which random bits can be, stays a NaN
        return np.asarray(values, dtype=np.float64)


def axis_rows(site: Site, rows: slice) -> Array:
    """Give what some rows of a site are, tokens as a rule: rows of its axis, int64 `[row]`."""
    if is_choice(site.rows):
        chosen: Array = site.trace.rows_of_choice(site.rows)[rows]
        return chosen
    return np.arange(rows.start, rows.stop)


def examples_of(site: Site, rows: slice) -> Array:
    """Give the numbers of the examples that some rows of a site belong to, int64 `[row]`."""
    if site.axis == EXAMPLE:
        return np.arange(rows.start, rows.stop)
    examples: Array = site.trace.table(site.axis).example[axis_rows(site, rows)]
    return examples
