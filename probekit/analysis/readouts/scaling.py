"""Scaling: features of unit variance, and directions back in the site's own space.

Knows means and deviations of features; nothing of what is fitted. A penalty on the size of a
direction weighs all features alike only if they vary alike, and in residual streams a few vary a
thousand times more than others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from probekit.analysis import merged, moments_of, no_moments

Array = np.ndarray[Any, Any]

_CONSTANT = 1e-12  # of the mean: what varies less than that is rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scaling:
    """What features are made of mean 0 and variance 1 with; features that do not vary stay 0."""

    mean: Array  # float64 [feature]
    deviation: Array  # float64 [feature]; 1 where a feature does not vary

    def scale(self, rows: Array, *, out: Array | None = None) -> Array:
        """Scale rows, float64 `[row, feature]`; into `out`, which may be the rows themselves."""
        centred = np.subtract(rows, self.mean, out=out)
        return np.divide(centred, self.deviation, out=centred)

    def unscaled(self, weights: Array, bias: Array) -> tuple[Array, Array]:
        """Give directions and biases for rows as they are, of those for scaled rows.

        Args:
            weights: float64 `[..., feature]`.
            bias: float64 `[...]`.
        """
        folded = weights / self.deviation
        return folded, bias - folded @ self.mean


def scaling_of(blocks: Iterable[Array], n_features: int) -> Scaling:
    """Work out the scaling of rows that come in blocks `[row, feature]`, in one pass."""
    moments = no_moments((n_features,))
    for rows in blocks:
        moments = merged(moments, moments_of(rows, np.ones(rows.shape, dtype=bool)))
    varies = moments.deviation > _CONSTANT * np.abs(moments.mean)
    return Scaling(mean=moments.mean, deviation=np.where(varies, moments.deviation, 1.0))
