"""How far the rows of a site differ between two recordings of one text, against what rounding does.

Knows arrays and precisions; nothing of models.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# The largest difference that rounding explains, as `difference` measures it. In 16 bits the other
# order of a sum is a different last bit, and deep models make more of it.
TOLERANCES = {"float64": 1e-6, "float32": 1e-3, "float16": 0.05, "bfloat16": 0.2}

# Below these a feature's own spread does not count: shares of the median one, and of that of all.
_FLOOR_OF_MEDIAN, _FLOOR_OF_ALL = 0.1, 0.01


def difference(a: Array, b: Array) -> float:
    """Measure how far rows `[row, ...]` differ: the row that differs most, by the site's spread.

    Each feature is measured by its own spread, the root mean square over all rows of `b`: a few
    features of a residual stream are hundreds of times as large as the others, and would hide what
    happens to them. A row that belongs to another token differs by about 1.

    Returns:
        The root mean square over the features of that row; infinite where only one is finite, or
        the shapes differ.
    """
    if a.shape != b.shape:
        return float("inf")
    odd = ~(np.isfinite(a) & np.isfinite(b))
    if not np.array_equal(a[odd], b[odd], equal_nan=True):
        return float("inf")
    if odd.all() or not a.size:
        return 0.0
    ours, theirs = (np.where(odd, 0.0, x).reshape(len(a), -1) for x in (a, b))
    spread = np.sqrt(np.square(theirs).mean(0))
    of_all = np.sqrt(np.square(theirs).mean())
    spread = np.maximum(spread, max(_FLOOR_OF_MEDIAN * np.median(spread), _FLOOR_OF_ALL * of_all))
    gap = np.abs(ours - theirs)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(gap == 0, 0.0, gap / spread)
    return float(np.sqrt(np.square(share).mean(1)).max())
