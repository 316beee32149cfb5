"""Statistics of one site: what `site.statistics()` says.

Knows one pass over a site's rows; nothing of other sites.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.analysis.expertload import holds_choices
from probekit.analysis.moments import Moments, merged, moments_of, no_moments, pooled
from probekit.errors import StoreError
from probekit.extras import load_extra
from probekit.methods import results as methods
from probekit.store import FLOATS
from probekit.trace import ATTENTION, Shown, Table, blocks, examples_of
from probekit.wording import counted

if TYPE_CHECKING:
    from probekit.trace import Site

Array = np.ndarray[Any, Any]

# Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale" (NeurIPS
# 2022, section 4): an outlier is at least 6.0 large, at no fewer than 6 % of the positions, in no
# fewer than a quarter of the layers (see tracestats.py). That is about what goes into linear
# layers, behind a norm. The residual stream grows with depth, so each row is measured by its own
# root mean square here, which an RMS norm would make 1.
OUTLIER_MAGNITUDE, OUTLIER_TOKENS = 6.0, 0.06
_NOT_HIDDEN = ("key", "k", "d_vocab", "neuron", "expert")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """A dimension that is far larger than others, at many tokens."""

    dimension: tuple[int, ...]  # its numbers along the axes of a row: (447,), or (head, d_head)
    share: float  # of the rows, in which it is at least 6 times the row's root mean square
    extreme: float  # its value that is largest in size, with its sign


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SiteStatistics(Shown):
    """Statistics of one site. A feature is one place in a row: a neuron, a dimension, a head."""

    site: str
    layer: int | None
    portable: str | None
    axes: tuple[str, ...]  # of the features: ("d_mlp",), ("head", "d_head"), ("head",), ()
    numbers: tuple[tuple[int, ...], ...]  # along each of them: which head, neuron, dimension
    n_rows: int
    n_nan: int
    n_plus_infinite: int
    n_minus_infinite: int
    values: Moments  # [*feature]; of the finite values
    zeros: Array  # float64 [*feature]: the share of finite values that are 0 exactly
    norms: Moments  # [], or [head]: of the L2 norms of rows, over the last axis
    large: Array  # float64 [*feature]: the share of rows in which it is large; see `outliers`
    outliers: tuple[Outlier, ...]  # the most frequent first

    @property
    def mean(self) -> Array:
        """Mean of every feature, float64 [*feature]."""
        return self.values.mean

    @property
    def deviation(self) -> Array:
        """Standard deviation of every feature (ddof 0), float64 [*feature]."""
        return self.values.deviation

    @property
    def sparsity(self) -> float:
        """The share of all finite values that are 0 exactly."""
        n_zeros = (self.zeros * self.values.count)[self.values.count > 0].sum()
        n_finite = self.values.count.sum()
        return float(n_zeros / n_finite) if n_finite else float("nan")

    @property
    def n_nonfinite(self) -> int:
        """How many values are NaN or infinite."""
        return self.n_nan + self.n_plus_infinite + self.n_minus_infinite

    def to_pandas(self) -> Any:
        """Give a `pandas.DataFrame` with one row a feature, indexed by the features' numbers."""
        pandas = load_extra("pandas", extra="analysis", purpose="to_pandas()")
        columns = {
            "mean": self.mean,
            "deviation": self.deviation,
            "smallest": self.values.smallest,
            "largest": self.values.largest,
            "zeros": self.zeros,
            "large": self.large,
        }
        index = pandas.MultiIndex.from_product(self.numbers, names=self.axes) if self.axes else [0]
        if len(self.axes) == 1:
            index = pandas.Index(self.numbers[0], name=self.axes[0])
        return pandas.DataFrame({k: v.reshape(-1) for k, v in columns.items()}, index=index)

    plot = methods.plot_site_statistics

    def _table(self) -> Table:
        summary = summary_of(self)
        outliers = "; ".join(
            f"{_place(self.axes, o.dimension)} ({o.share:.0%} of rows, up to {o.extreme:.4g})"
            for o in self.outliers[:5]
        )
        more = f" and {len(self.outliers) - 5} more" if len(self.outliers) > 5 else ""
        return Table(
            title=f"{self.site}: {counted(self.n_rows, 'row')}",
            columns=("", "value"),
            rows=[(name.replace("_", " "), value) for name, value in summary.items()],
            note=f"outliers: {outliers}{more}" if outliers else "",
        )


def summary_of(found: SiteStatistics) -> dict[str, Any]:
    """Give what is said of a whole site, by name."""
    values, norms = pooled(found.values), pooled(found.norms)
    return {
        "rows": found.n_rows,
        "mean": float(values.mean),
        "deviation": float(values.deviation),
        "smallest": float(values.smallest),
        "largest": float(values.largest),
        "mean_norm": float(norms.mean),
        "norm_deviation": float(norms.deviation),
        "smallest_norm": float(norms.smallest),
        "largest_norm": float(norms.largest),
        "zeros": found.sparsity,
        "outliers": len(found.outliers),
        "nan": found.n_nan,
        "plus_infinite": found.n_plus_infinite,
        "minus_infinite": found.n_minus_infinite,
    }


def _place(axes: tuple[str, ...], dimension: tuple[int, ...]) -> str:
    return " ".join(f"{axis} {number}" for axis, number in zip(axes, dimension, strict=True))


def site_statistics(
    site: Site,
    *,
    magnitude: float = OUTLIER_MAGNITUDE,
    tokens: float = OUTLIER_TOKENS,
) -> SiteStatistics:
    """Work out the statistics of one site in one pass; see `Site.statistics`."""
    if site.dtype not in FLOATS:
        instead = "; trace.statistics().experts counts them" if holds_choices(site) else ""
        raise StoreError(
            f"{site.name} holds {site.dtype}: numbers of things, of which a mean means nothing"
            f"{instead}"
        )
    tally = _Tally(site, magnitude)
    for rows, values in blocks(site):
        tally.add(rows, values)
    return tally.statistics(tokens)


class _Tally:
    """What one pass over a site adds up."""

    def __init__(self, site: Site, magnitude: float) -> None:
        self._site = site
        self._magnitude = magnitude
        self._is_attention = site.axes == ATTENTION
        # Elsewhere a row's root mean square is not that of a whole hidden state.
        self._is_hidden = len(site.axes) > 1 and site.axes[-1] not in _NOT_HIDDEN
        features = site.shape[1:-1] if self._is_attention else site.shape[1:]
        self._values = no_moments(features)
        self._norms = no_moments(site.shape[1:-1])
        self._n_zeros = np.zeros(features, dtype=np.int64)
        self._n_large = np.zeros(features, dtype=np.int64)
        self._n_special = np.zeros(3, dtype=np.int64)  # NaN, +inf, -inf

    def add(self, rows: slice, values: Array) -> None:
        """Add a block `[row, ...]`."""
        there = self._there(rows, values)
        finite = there & np.isfinite(values)
        clean = values
        if not finite.all():
            special = (np.isnan(values), values == np.inf, values == -np.inf)
            self._n_special += [np.count_nonzero(which & there) for which in special]
            clean = np.where(finite, values, 0)
        norms = np.linalg.norm(clean, axis=-1) if values.ndim > 1 else np.abs(clean)
        whole = np.all(finite | ~there, axis=-1) if values.ndim > 1 else finite
        self._norms = merged(self._norms, moments_of(norms, whole))
        if self._is_hidden:
            size = norms[..., None] / np.sqrt(values.shape[-1])
            self._n_large += ((np.abs(clean) >= self._magnitude * size) & (size > 0)).sum(0)
        if self._is_attention:  # [row, head, key] -> [row * key, head]: a key is no feature
            clean, finite = (np.moveaxis(a, 1, -1).reshape(-1, a.shape[1]) for a in (clean, finite))
        self._values = merged(self._values, moments_of(clean, finite))
        self._n_zeros += (finite & (clean == 0)).sum(0)

    def _there(self, rows: slice, values: Array) -> Array:
        """Say which values are there: of attention, the keys of the row's own example."""
        if not self._is_attention:
            return np.ones(values.shape, dtype=bool)
        examples = examples_of(self._site, rows)
        lengths = self._site.trace.examples.n_tokens[examples]
        inside = np.arange(values.shape[-1]) < lengths[:, None, None]
        return np.broadcast_to(inside, values.shape)

    def statistics(self, tokens: float) -> SiteStatistics:
        """Give what was added up."""
        site, values = self._site, self._values
        axes = site.axes[1:-1] if self._is_attention else site.axes[1:]
        numbers = tuple(site.numbers(axis) for axis in axes)
        with np.errstate(invalid="ignore"):
            zeros, large = self._n_zeros / values.count, self._n_large / values.count
        n_nan, n_plus, n_minus = map(int, self._n_special)
        return SiteStatistics(
            site=site.name,
            layer=site.layer,
            portable=site.portable,
            axes=axes,
            numbers=numbers,
            n_rows=len(site),
            n_nan=n_nan,
            n_plus_infinite=n_plus,
            n_minus_infinite=n_minus,
            values=values,
            zeros=zeros,
            norms=self._norms,
            large=large,
            outliers=_outliers(values, large, tokens, numbers),
        )


def _outliers(
    values: Moments, large: Array, tokens: float, numbers: tuple[tuple[int, ...], ...]
) -> tuple[Outlier, ...]:
    found = []
    for place in map(tuple, np.argwhere((large >= tokens) & (large > 0))):
        ends = (float(values.smallest[place]), float(values.largest[place]))
        found.append(
            Outlier(
                dimension=tuple(n[p] for n, p in zip(numbers, place, strict=True)),
                share=float(large[place]),
                extreme=max(ends, key=abs),
            )
        )
    return tuple(sorted(found, key=lambda o: (-o.share, -abs(o.extreme), o.dimension)))
