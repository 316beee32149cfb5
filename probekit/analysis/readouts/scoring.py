"""Scoring: how well readouts do on what was held out, and how sure that is.

Knows what was said of rows and what they are; nothing of how it was fitted. What is kept goes with
the number of examples or groups, not with that of rows.

Intervals: of an accuracy over independent rows, Wilson's (E. B. Wilson, "Probable Inference, the
Law of Succession, and Statistical Inference", JASA 22, 1927; recommended for small numbers by
Brown, Cai & DasGupta, "Interval Estimation for a Binomial Proportion", Statistical Science 16,
2001). Else percentiles of a bootstrap that draws whole units, examples or groups, anew (Efron &
Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). Where all draws score alike, as
where everything is right, that has no width: then Wilson's, over as many units as there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from probekit.analysis.readouts.targets import Target

Array = np.ndarray[Any, Any]

ACCURACY, BALANCED, R2 = "accuracy", "balanced_accuracy", "r2"
_DRAWS = 2000  # of the bootstrap
_LEAST_SPREAD = 1e-9  # of numbers, as a share of their squares about a mean near theirs
_CELLS = 1 << 22  # numbers that are drawn at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What readouts of one site score."""

    score: float  # with the true labels
    low: float  # of its interval
    high: float
    shuffled: tuple[float, ...]  # of those that were fitted on shuffled labels


class Tally:
    """What every unit adds to a score: `[set, unit, part]`, sums over its rows.

    Of classes the parts are, for each class, how many of its rows there are and how many were told;
    of numbers: rows, sum and sum of squares of what is true, and of squared errors.
    """

    def __init__(self, target: Target, units: Array, labels: Array, n_sets: int) -> None:
        self._target, self._units, self._labels = target, units, labels
        n_units = int(units.max()) + 1
        n_parts = 2 * len(target.classes) if target.classes else 4
        self.sums = np.zeros((n_sets, n_units, n_parts))
        self._near = 0.0 if target.classes else float(labels.mean())
        self.n_rows = 0

    def add(self, owners: Array, outputs: Array) -> None:
        """Add rows.

        Args:
            owners: whose each is: a place in the held-out examples, int64 `[row]`.
            outputs: float64 `[row, set, output]`.
        """
        units, labels = self._units[owners], self._labels[owners]
        self.n_rows += len(owners)
        if not self._target.classes:
            true = labels - self._near
            parts = [np.ones(len(true)), true, true**2]
            for number in range(len(self.sums)):
                errors = (outputs[:, number, 0] - labels) ** 2
                for part, values in enumerate([*parts, errors]):
                    self.sums[number, :, part] += np.bincount(units, values, len(self.sums[0]))
            return
        told = said_classes(outputs) == labels[:, None]  # [row, set]
        n_classes = len(self._target.classes)
        cells = units * n_classes + labels
        n_cells = self.sums.shape[1] * n_classes
        seen = np.bincount(cells, minlength=n_cells).reshape(-1, n_classes)
        for number in range(len(self.sums)):
            right = np.bincount(cells, told[:, number], n_cells).reshape(-1, n_classes)
            self.sums[number, :, :n_classes] += seen
            self.sums[number, :, n_classes:] += right

    def scores(self, measure: str, confidence: float, seed: int) -> Scores:
        """Give the score of every set of labels, and the interval of the first."""
        found = [float(measured(measure, one.sum(0)[None])[0]) for one in self.sums]
        low, high = self._interval(measure, found[0], confidence, seed)
        return Scores(score=found[0], low=low, high=high, shuffled=tuple(found[1:]))

    @property
    def has_lone_rows(self) -> bool:
        """Whether every unit has one row alone, so that rows are independent."""
        return self.n_rows == self.sums.shape[1]

    def _interval(
        self, measure: str, score: float, confidence: float, seed: int
    ) -> tuple[float, float]:
        sums = self.sums[0]
        if measure == ACCURACY and self.has_lone_rows:
            return wilson(score, len(sums), confidence)
        drawn = np.concatenate([*_bootstrapped(measure, sums, seed)])
        drawn = drawn[np.isfinite(drawn)]  # a draw without a class, or of equal numbers
        if measure != R2 and (not len(drawn) or np.ptp(drawn) == 0):
            return wilson(score, _independent(measure, sums), confidence)
        outside = (1 - confidence) / 2
        low, high = np.quantile(drawn, [outside, 1 - outside]) if len(drawn) else (np.nan, np.nan)
        return float(low), float(high)


def said_classes(outputs: Array) -> Array:
    """Give the number of the class that outputs say, int64 `[..., output]` -> `[...]`."""
    if outputs.shape[-1] == 1:
        return (outputs[..., 0] > 0).astype(np.int64)
    said: Array = outputs.argmax(-1)
    return said


def measured(measure: str, sums: Array) -> Array:
    """Work scores out of what was added up, `[draw, part]` -> `[draw]`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if measure == R2:
            n, total, squares, errors = sums.T
            spread = squares - total**2 / n
            # Of equal numbers it is rounding alone, which may have either sign.
            spread = np.where(spread > _LEAST_SPREAD * squares, spread, 0.0)
            r2: Array = 1 - errors / spread
            return r2
        n_classes = sums.shape[1] // 2
        seen, told = sums[:, :n_classes], sums[:, n_classes:]
        if measure == ACCURACY:
            accuracy: Array = told.sum(1) / seen.sum(1)
            return accuracy
        balanced: Array = (told / seen).mean(1)
        return balanced


def wilson(share: float, n: float, confidence: float) -> tuple[float, float]:
    """Give Wilson's score interval of a share of n independent trials."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _independent(measure: str, sums: Array) -> float:
    """Give how many trials a score is worth; of a mean over classes, that of equal variance."""
    if measure == ACCURACY:
        return len(sums)
    n_classes = sums.shape[1] // 2
    of_class = (sums[:, :n_classes] > 0).sum(0)  # units that have the class
    return float(n_classes**2 / (1 / of_class).sum())


def _bootstrapped(measure: str, sums: Array, seed: int) -> Iterator[Array]:
    """Give the scores of bootstrap draws, some at a time."""
    draw = np.random.default_rng([seed, 3])
    # Units that add the same need not be told apart: how many of each kind come is multinomial.
    kinds, counts = np.unique(sums, axis=0, return_counts=True)
    n_units, at_once = int(counts.sum()), max(1, _CELLS // len(kinds))
    for first in range(0, _DRAWS, at_once):
        n_draws = min(at_once, _DRAWS - first)
        times = draw.multinomial(n_units, counts / n_units, size=n_draws)
        yield measured(measure, times @ kinds)
