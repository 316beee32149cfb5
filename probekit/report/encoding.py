"""Attention weights as small numbers: one byte or two, packed so that they compress well.

A weight from 0.02 up is known in steps of 0.0001 and takes two bytes; what lies below takes one. In
examples of moderate size these small ones have the same step. In long ones that is too much, since
many small weights are noise, which no compression takes away: there the step follows the length of
the text, so that a head that looks at all tokens alike is still even, and everything small that is
told apart is a few steps apart. First bytes and second bytes are stored apart: the first repeat.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

NOT_A_NUMBER = 65535
THUMBNAIL = 32  # cells of a thumbnail's side, at most
_SMALL = 0.02  # below it a weight has the first byte alone
_STEP = 1e-4
_STEPS_OF_EVEN = 4  # of coarse codes: steps of a weight that is spread evenly over all tokens
_MOST_LEVELS = 128
_TRIED_BYTES = 64 << 10
_TOLERANCE = 1e-3  # rounding in 16 bits may take a weight this far beyond 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How weights and codes go together; the page reads all three numbers.

    A code whose first byte h is less than `levels` is the weight `h / levels * below`; the others
    run evenly, in so many `steps`, from `below` to 1.
    """

    below: float
    levels: int
    steps: int

    @classmethod
    def fine(cls) -> Scale:
        """Give the scale of examples of moderate size."""
        return cls._of(round(_SMALL / _STEP))

    @classmethod
    def coarse(cls, n_tokens: int) -> Scale:
        """Give the scale of long examples."""
        return cls._of(min(_MOST_LEVELS, max(1, round(_SMALL * _STEPS_OF_EVEN * n_tokens))))

    @classmethod
    def _of(cls, levels: int) -> Scale:
        return cls(below=_SMALL, levels=levels, steps=round((1 - _SMALL) / _STEP))

    def error(self) -> float:
        """Give how far a weight that is read from the page may lie from the trace's."""
        return max(self.below / self.levels, _STEP) / 2

    def says(self) -> str:
        """Say the precision in words."""
        if self.error() <= _STEP / 2:
            return "within 0.00005 of the trace's"
        below = math.ceil(self.error() * 1e5) / 1e5
        return f"within 0.00005 of the trace's from {self.below} up, within {below:.5f} below"

    def codes(self, weights: Array) -> Array:
        """Give the codes of weights in 0..1, uint16 in their shape."""
        first = 256 * self.levels
        with np.errstate(invalid="ignore"):
            above = (weights - self.below) / (1 - self.below)
            codes = first + np.rint(np.clip(above, 0, 1) * self.steps)
            small = weights < self.below
            low = np.clip(weights[small] / self.below, 0, 1) * self.levels
            codes[small] = 256 * np.rint(low)
        return np.where(np.isnan(codes), NOT_A_NUMBER, codes).astype(np.uint16)

    def planes(self, codes: Array) -> tuple[bytes, bytes]:
        """Give all first bytes, and the second ones of those codes that have one."""
        first = (codes >> 8).astype(np.uint8)
        second = (codes & 0xFF).astype(np.uint8)
        return first.tobytes(), second[first >= self.levels].tobytes()


def squeezed(planes: tuple[bytes, bytes]) -> bytes:
    """Compress planes one behind the other, as one zlib stream.

    Each gets a block of its own: first bytes repeat, second ones are noise. What seldom repeats at
    length is smaller without a search for repeats; small heads are tried both ways.
    """
    ways = [zlib.Z_FILTERED]
    if sum(map(len, planes)) <= _TRIED_BYTES:
        ways.append(zlib.Z_HUFFMAN_ONLY)
    return min((_deflated(planes, way) for way in ways), key=len)


def _deflated(planes: tuple[bytes, bytes], way: int) -> bytes:
    packing = zlib.compressobj(9, strategy=way)
    first, second = planes
    begin = packing.compress(first) + packing.flush(zlib.Z_BLOCK)
    return begin + packing.compress(second) + packing.flush()


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
