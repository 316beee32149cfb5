"""Attention weights as small numbers: two bytes each, packed so that they compress well.

A fine code is p * 65534: every weight to within 0.00001. That is too much for long examples, since
the low bytes of many small weights are noise, which no compression takes away. Coarse codes give
weights below 0.02 the high byte alone, in a step that follows the length of the text: a head that
looks at all tokens alike is still even, and everything small that is told apart is a few steps
apart. High and low bytes are stored apart: the high ones repeat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

TOP = 65534  # the code of 1
NOT_A_NUMBER = 65535
THUMBNAIL = 32  # cells of a thumbnail's side, at most
_SMALL = 0.02  # of coarse codes: below it a weight has the high byte alone
_STEPS_OF_EVEN = 4  # steps of a weight that is spread evenly over all tokens
_MOST_LEVELS = 128
_TOLERANCE = 1e-3  # rounding in 16 bits may take a weight this far beyond 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How weights and codes go together; the page reads `below` and `levels`.

    A code whose high byte h is less than `levels` is the weight `h / levels * below`; the others
    run evenly from `below` to 1.
    """

    below: float
    levels: int

    @classmethod
    def fine(cls) -> Scale:
        """Give the scale of short examples."""
        return cls(below=0.0, levels=0)

    @classmethod
    def coarse(cls, n_tokens: int) -> Scale:
        """Give the scale of long examples."""
        levels = min(_MOST_LEVELS, max(1, round(_SMALL * _STEPS_OF_EVEN * n_tokens)))
        return cls(below=_SMALL, levels=levels)

    def error(self) -> float:
        """Give how far a weight that is read from the page may lie from the trace's."""
        return self.below / self.levels / 2 if self.levels else 1e-5

    def says(self) -> str:
        """Say the precision in words."""
        if not self.levels:
            return "within 0.00001 of the trace's"
        below = math.ceil(self.error() * 1e5) / 1e5
        return f"within 0.00002 of the trace's from {self.below} up, within {below:.5f} below"

    def codes(self, weights: Array) -> Array:
        """Give the codes of weights in 0..1, uint16 in their shape."""
        first = 256 * self.levels
        with np.errstate(invalid="ignore"):
            above = (weights - self.below) / (1 - self.below)
            codes = np.rint(np.clip(first + above * (TOP - first), 0, TOP))
            if self.levels:
                small = weights < self.below
                codes[small] = 256 * np.rint(weights[small] / self.below * self.levels)
        return np.where(np.isnan(codes), NOT_A_NUMBER, codes).astype(np.uint16)


def planes_of(codes: Array) -> bytes:
    """Give all high bytes, then all low bytes, of uint16 codes."""
    return (codes >> 8).astype(np.uint8).tobytes() + (codes & 0xFF).astype(np.uint8).tobytes()


def are_weights(pattern: Array) -> bool:
    """Say whether all values lie in 0..1, but for NaN and rounding."""
    return not bool(((pattern < 0) | (pattern > 1 + _TOLERANCE)).any())


def kept_of(pattern: Array, queries: Array) -> tuple[bool, Array]:
    """Say which entries of a layer's heads are kept.

    Args:
        pattern: `[head, query, key]`.
        queries: the position of each query, int64 `[query]`.

    Returns:
        Whether the layer is causal; and the entries, bool `[query, key]`: a query's own and earlier
        keys where it is, all where it is not.
    """
    earlier: Array = np.arange(pattern.shape[2]) <= queries[:, None]
    if pattern[:, ~earlier].any():
        return False, np.ones_like(earlier)
    return True, earlier


def thumbnails_of(pattern: Array) -> Array:
    """Shrink every head to the largest weight of each of at most 32 x 32 tiles.

    The largest, not the mean: a head that always looks one token back is a line one cell wide.

    Args:
        pattern: `[head, query, key]`.

    Returns:
        255 times the square root of the weights, uint8 `[head, y, x]`.
    """
    for axis in (1, 2):
        n_cells = min(pattern.shape[axis], THUMBNAIL)
        begins = np.arange(n_cells) * pattern.shape[axis] // n_cells
        pattern = np.fmax.reduceat(pattern, begins, axis=axis)
    roots: Array = np.rint(255 * np.sqrt(np.clip(np.nan_to_num(pattern), 0, 1))).astype(np.uint8)
    return roots
