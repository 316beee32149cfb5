"""SiteRows: the rows of a site that a readout sees, a bounded piece at a time.

Knows which rows are an example's, and how several become one; nothing of labels. Memory goes with
the number of examples, not with that of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.errors import StoreError
from probekit.store import EXAMPLE, FLOATS, is_choice
from probekit.trace import float64, row_slices
from probekit.wording import one_of, show, show_typed

if TYPE_CHECKING:
    from probekit.trace import Site

Array = np.ndarray[Any, Any]

POOLS = ("mean", "last")
_NO_FEATURES = ("key", "k")  # axes along which a place means something else in each row


class SiteRows:
    """The rows of a site, laid flat: several an example, or one where they are pooled.

    Args:
        site: of floats.
        pool: "mean" or "last" of an example's rows; None for each row by itself.
    """

    def __init__(self, site: Site, pool: str | None) -> None:
        self.site, self._mean = site, pool == "mean"
        self._begins, self._counts = _extents(site)
        if pool == "last":
            self._begins = self._begins + np.maximum(self._counts - 1, 0)
            self._counts = np.minimum(self._counts, 1)
        self.n_features = prod(site.shape[1:])

    @property
    def examples(self) -> Array:
        """Numbers of the examples that have rows, int64 `[example]`."""
        return np.flatnonzero(self._counts)

    def counts(self, examples: Array) -> Array:
        """Give how many rows each of some examples has, int64 `[example]`."""
        counts: Array = self._counts[examples]
        return np.minimum(counts, 1) if self._mean else counts

    def matrix(self, examples: Array) -> tuple[Array, Array]:
        """Give all rows of some examples: whose each is, a place in `examples`; float64."""
        owners = np.repeat(np.arange(len(examples)), self.counts(examples))
        rows, at = np.empty((len(owners), self.n_features)), 0
        for _, block in self.blocks(examples):
            rows[at : at + len(block)] = block
            at += len(block)
        return owners, rows

    def blocks(self, examples: Array) -> Iterator[tuple[Array, Array]]:
        """Give rows of some examples, in their order, a block at a time.

        Yields:
            Whose each row is, a place in `examples`, int64 `[row]`; float64 `[row, feature]`.
        """
        yield from self._means(examples) if self._mean else self._single(examples)

    def _single(self, examples: Array) -> Iterator[tuple[Array, Array]]:
        counts = self._counts[examples]
        ends = np.cumsum(counts)
        firsts = self._begins[examples] - (ends - counts)
        for part in row_slices(int(counts.sum()), (self.n_features,)):
            places = np.arange(part.start, part.stop)
            owners = np.searchsorted(ends, places, side="right")
            rows = firsts[owners] + places
            in_one_piece = rows[-1] - rows[0] == len(rows) - 1
            key = slice(int(rows[0]), int(rows[-1]) + 1) if in_one_piece else rows
            values = float64(self.site[key]).reshape(len(rows), -1)
            self._refuse_nonfinite(values, examples[owners])
            yield owners, values

    def _means(self, examples: Array) -> Iterator[tuple[Array, Array]]:
        counts = self._counts[examples]
        begun, at = np.zeros(self.n_features), 0  # what earlier blocks had of an example
        ends = np.cumsum(counts)
        for owners, values in self._single(examples):
            starts = np.flatnonzero(np.diff(owners, prepend=-1))
            sums, whose = np.add.reduceat(values, starts), owners[starts]
            sums[0] += begun
            at += len(owners)
            is_whole = at == ends[whose[-1]]
            begun = np.zeros(self.n_features) if is_whole else sums[-1].copy()
            n_whole = len(whose) if is_whole else len(whose) - 1
            if n_whole:
                yield whose[:n_whole], sums[:n_whole] / counts[whose[:n_whole], None]

    def _refuse_nonfinite(self, values: Array, examples: Array) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):
                return
        wrong = np.flatnonzero(~np.isfinite(values).all(1))
        if len(wrong):
            example = int(examples[wrong[0]])
            trace = self.site.trace
            named = show(trace.examples.id[example])
            raise StoreError(
                f"{trace.path}: {self.site.name}: example {example} ({named}) has values that are "
                "not finite, which nothing can be fitted on; leave it out (no value in the "
                "target's column), or record it in a dtype that holds them"
            )


def refuse_unfit_site(site: Site) -> None:
    """Refuse a site whose rows are no vectors of floats."""
    place = f"{site.trace.path}: {site.name}"
    if site.dtype not in FLOATS:
        raise StoreError(f"{place} holds {site.dtype}; a readout is fitted on floats")
    axes = [axis for axis in site.axes[1:] if axis in _NO_FEATURES]
    if axes:
        raise StoreError(
            f"{place} has rows of [{', '.join(site.axes[1:])}]: what lies at a place along "
            f"{axes[0]} is another thing in each row, so that no direction has a meaning"
        )


def check_pool(pool: object) -> str | None:
    """Refuse what is no way to make one row of several."""
    if pool is None or (isinstance(pool, str) and pool in POOLS):
        return pool
    raise StoreError(f"pool is {show_typed(pool)}; {one_of(pool, POOLS)}, or None for every row")


def _extents(site: Site) -> tuple[Array, Array]:
    """Give the first row of each example and how many it has, int64 `[example]` each."""
    trace = site.trace
    if site.axis == EXAMPLE:
        return np.arange(len(site)), np.ones(len(site), dtype=np.int64)
    first, n_rows = trace.table(site.axis).extents
    if not is_choice(site.rows):
        return first, n_rows
    chosen = trace.rows_of_choice(site.rows)
    begins = np.searchsorted(chosen, first)
    return begins, np.searchsorted(chosen, first + n_rows) - begins
