"""Moments: count, mean, deviation and extremes of values that come a block at a time.

Knows arrays only. Means and squared deviations of blocks are merged by the pairwise rule of Chan,
Golub & LeVeque, "Algorithms for computing the sample variance" (The American Statistician 37,
1983), which does not lose digits where a sum of squares would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Of finite values; where there is none, the mean and the rest are NaN."""

    count: Array  # int64 [feature]
    mean: Array  # float64 [feature]
    squares: Array  # float64 [feature]: the sum of squared deviations from the mean
    smallest: Array  # float64 [feature]
    largest: Array  # float64 [feature]

    @property
    def deviation(self) -> Array:
        """The standard deviation of the values themselves (numpy's `std`, ddof 0), [feature]."""
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, as it should be
            return np.sqrt(self.squares / self.count)


def no_moments(shape: tuple[int, ...]) -> Moments:
    """Give the moments of nothing."""
    nothing = np.full(shape, np.nan)
    return Moments(
        count=np.zeros(shape, dtype=np.int64),
        mean=nothing,
        squares=np.zeros(shape),
        smallest=nothing,
        largest=nothing,
    )


def moments_of(values: Array, there: Array) -> Moments:
    """Work out the moments of one block.

    Args:
        values: float64 `[value, *feature]`.
        there: bool, of the same shape: which of them count; those are finite.
    """
    if not len(values):
        return no_moments(values.shape[1:])
    count, every = there.sum(0), bool(there.all())

    def kept(numbers: Array, otherwise: float) -> Array:
        return numbers if every else np.where(there, numbers, otherwise)

    with np.errstate(invalid="ignore"):
        mean = kept(values, 0).sum(0) / count
    apart = kept(values - np.where(count > 0, mean, 0), 0)
    return Moments(
        count=count,
        mean=mean,
        squares=np.einsum("v...,v...->...", apart, apart),
        smallest=np.where(count > 0, kept(values, np.inf).min(0), np.nan),
        largest=np.where(count > 0, kept(values, -np.inf).max(0), np.nan),
    )


def merged(a: Moments, b: Moments) -> Moments:
    """Give the moments of both together, by the rule of Chan, Golub & LeVeque."""
    count = a.count + b.count
    # Where one has nothing its NaN must not spread: it weighs nothing.
    a_mean, b_mean = (np.where(m.count > 0, m.mean, 0) for m in (a, b))
    apart = np.where((a.count > 0) & (b.count > 0), b_mean - a_mean, 0)
    with np.errstate(invalid="ignore"):
        share = b.count / count
    return Moments(
        count=count,
        mean=np.where(a.count > 0, a_mean + apart * share, np.where(b.count > 0, b_mean, np.nan)),
        squares=a.squares + b.squares + np.where(count > 0, apart**2 * a.count * share, 0),
        smallest=np.fmin(a.smallest, b.smallest),
        largest=np.fmax(a.largest, b.largest),
    )


def pooled(moments: Moments) -> Moments:
    """Give the moments of all features together, each a number without axes."""
    there = moments.count > 0
    count = moments.count.sum()
    with np.errstate(invalid="ignore"):
        mean = np.where(there, moments.count * moments.mean, 0).sum() / count
    apart = np.where(there, moments.mean - mean, 0)
    return Moments(
        count=count,
        mean=mean,
        squares=(moments.squares + moments.count * apart**2).sum(),
        smallest=np.fmin.reduce(moments.smallest, axis=None, initial=np.nan),
        largest=np.fmax.reduce(moments.largest, axis=None, initial=np.nan),
    )
