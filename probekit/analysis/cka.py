"""Linear CKA: how alike two representations are, whatever their width and their basis.

Knows sites of equal rows, read a block at a time; nothing of texts and models. Everything is added
up in float64; what is held at a time is bounded, however many rows there are and however wide.

Plain: Kornblith et al., "Similarity of Neural Network Representations Revisited" (ICML 2019), for
centred X [row, p] and Y [row, q]: ||X'Y||^2 / (||X'X|| ||Y'Y||), Frobenius norms. With fewer rows
than dimensions it is close to 1 for anything. Debiased: the same of the unbiased HSIC estimates of
Song et al., "Feature Selection via Dependence Maximization" (JMLR 2012, equation 5), which Nguyen
et al., "Do Wide and Deep Networks Learn the Same Things?" (ICLR 2021) put in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.trace import float64, row_slices

if TYPE_CHECKING:
    from probekit.trace import Site

Array = np.ndarray[Any, Any]

_TILE = 2048  # columns; 32 MiB for the product of two tiles
_CONSTANT = 1e-24  # of squares: what is left of equal rows (a BOS token's) by rounding is less


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CKA:
    """Of every site of one side with every site of the other."""

    plain: Array  # float64 [x, y]; NaN where a side does not vary
    debiased: Array  # float64 [x, y]; NaN also for fewer than four rows
    n_rows: int  # that were compared
    n_left_out: int  # because a value in some of the sites was not finite


def linear_cka(xs: Sequence[Site], ys: Sequence[Site]) -> CKA:
    """Compare every site of one side with every site of the other.

    Args:
        xs: sites of one side; all sites have the same rows, which are laid flat.
        ys: sites of the other side.
    """
    rows = Rows((*xs, *ys))
    n_x, n_y = len(xs), len(ys)
    pairs = [*product(range(n_x), range(n_x, n_x + n_y)), *((k, k) for k in range(n_x + n_y))]
    sums, products = _norms(rows)
    squares = _inner_squares(rows, pairs)
    varies = sums > _CONSTANT * rows.mean_squares
    squares[~varies] = np.nan
    return CKA(
        plain=_ratio(squares, n_x),
        debiased=_ratio(_unbiased(squares, sums, products, rows.n_rows), n_x),
        n_rows=rows.n_rows,
        n_left_out=len(rows.left_out),
    )


class Rows:
    """The rows of several sites side by side, centred; those alone that are finite in all of them.

    Making it takes one pass, for the means.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites
        self.widths = [prod(site.shape[1:]) for site in sites]
        left_out = [np.zeros(0, dtype=np.int64)]
        sums = [np.zeros(width) for width in self.widths]
        for rows in self.slices(range(len(sites))):
            values = [self._read(k, rows) for k in range(len(sites))]
            finite = np.all([np.isfinite(v).all(1) for v in values], axis=0)
            left_out.append(rows.start + np.flatnonzero(~finite))
            for total, v in zip(sums, values, strict=True):
                total += v[finite].sum(0)
        self.left_out = np.concatenate(left_out)
        self.n_rows = len(sites[0]) - len(self.left_out)
        self._means = [total / max(1, self.n_rows) for total in sums]
        self.mean_squares = np.array([self.n_rows * (mean**2).sum() for mean in self._means])

    def slices(self, which: Sequence[int]) -> list[slice]:
        """Cut the rows into blocks in which these sites together are not too large."""
        width = sum(self.widths[k] for k in which)
        return list(row_slices(len(self._sites[0]), (width,)))

    def block(self, which: int, rows: slice) -> Array:
        """Give a block of one site, float64 `[row, feature]`."""
        values = self._read(which, rows)
        begin, end = np.searchsorted(self.left_out, (rows.start, rows.stop))
        return np.delete(values, self.left_out[begin:end] - rows.start, 0) - self._means[which]

    def _read(self, which: int, rows: slice) -> Array:
        return float64(self._sites[which][rows]).reshape(rows.stop - rows.start, -1)


def _inner_squares(rows: Rows, pairs: Sequence[tuple[int, int]]) -> Array:
    """Give ||X'Y||^2 for pairs of sites, float64 [site, site]; NaN for pairs not asked for.

    It is the sum over dimensions of (x . y)^2, and the sum over pairs of rows of their inner
    products in X times those in Y: of the two ways the one with less to compute.
    """
    by_dimension = sum(rows.widths[p] * rows.widths[q] for p, q in pairs)
    by_row = rows.n_rows * sum(rows.widths) / 2
    return (_over_rows if by_row < by_dimension else _over_dimensions)(rows, pairs)


def _over_dimensions(rows: Rows, pairs: Sequence[tuple[int, int]]) -> Array:
    found = np.full((len(rows.widths),) * 2, np.nan)
    for p, q in pairs:
        total = 0.0
        for tile_p, tile_q in product(_tiles(rows.widths[p]), _tiles(rows.widths[q])):
            inner = np.zeros((tile_p.stop - tile_p.start, tile_q.stop - tile_q.start))
            for part in rows.slices([p, q]):
                x = rows.block(p, part)
                y = x if p == q else rows.block(q, part)
                inner += x[:, tile_p].T @ y[:, tile_q]
            total += float(np.vdot(inner, inner))
        found[p, q] = total
    return found


def _tiles(width: int) -> list[slice]:
    return [slice(begin, min(begin + _TILE, width)) for begin in range(0, width, _TILE)]


def _over_rows(rows: Rows, pairs: Sequence[tuple[int, int]]) -> Array:
    sites = range(len(rows.widths))
    found = np.full((len(sites),) * 2, np.nan)
    for p, q in pairs:
        found[p, q] = 0
    parts = rows.slices(sites)
    for number, part in enumerate(parts):
        here = [rows.block(k, part) for k in sites]
        for other in parts[number:]:
            there = here if other == part else [rows.block(k, other) for k in sites]
            inner = [x @ y.T for x, y in zip(here, there, strict=True)]
            for p, q in pairs:  # what is not on the diagonal counts twice
                found[p, q] += np.vdot(inner[p], inner[q]) * (1 if other == part else 2)
    return found


def _norms(rows: Rows) -> tuple[Array, Array]:
    """Give each site's sum of squared row norms, and for pairs that of their products."""
    sites = range(len(rows.widths))
    sums, products = np.zeros(len(sites)), np.zeros((len(sites),) * 2)
    for part in rows.slices(sites):
        norms = np.stack([(rows.block(k, part) ** 2).sum(1) for k in sites])  # [site, row]
        sums += norms.sum(1)
        products += norms @ norms.T
    return sums, products


def _unbiased(squares: Array, sums: Array, products: Array, n: int) -> Array:
    """Give the unbiased HSIC estimate of Song et al. 2012 (equation 5), times n (n - 3).

    With K = XX' of centred X and a zero diagonal: tr(KL) = ||X'Y||^2 - sum |x|^2 |y|^2,
    1'K1 = -sum |x|^2, and 1'KL1 = sum |x|^2 |y|^2.
    """
    if n < 4:
        return np.full(squares.shape, np.nan)
    apart = np.outer(sums, sums) / ((n - 1) * (n - 2))
    return squares - products + apart - 2 * products / (n - 2)


def _ratio(kernel: Array, n_x: int) -> Array:
    """Divide the pairs of two sides by their own, [x, y]."""
    own = np.where(kernel.diagonal() > 0, kernel.diagonal(), np.nan)
    ratio: Array = kernel[:n_x, n_x:] / np.sqrt(np.outer(own[:n_x], own[n_x:]))
    return ratio
