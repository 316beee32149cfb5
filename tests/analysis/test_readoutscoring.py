"""Scores and their intervals, against scikit-learn, scipy and draws by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, r2_score

from probekit.analysis.readouts.scoring import Tally, measured, wilson
from probekit.analysis.readouts.targets import Target

Array = np.ndarray[Any, Any]


def target(n_classes: int) -> Target:
    none = np.zeros(0)
    return Target(
        column="c", method="logistic", classes=tuple(range(n_classes)), values=none, there=none
    )


@pytest.mark.parametrize(("k", "n"), [(0, 5), (7, 9), (50, 50), (199, 200), (3, 1000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_is_scipys(k: int, n: int, confidence: float) -> None:
    expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson(k / n, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_shares_of_classes_are_scikit_learns(n_classes: int) -> None:
    draw = np.random.default_rng(0)
    n = 200
    units, labels = np.arange(n) // 3, draw.integers(0, n_classes, n)
    outputs = draw.normal(size=(n, 2, 1 if n_classes == 2 else n_classes))
    tally = Tally(target(n_classes), units, labels, 2)
    for part in (slice(0, 90), slice(90, n)):
        tally.add(np.arange(n)[part], outputs[part])
    said = [(outputs[:, s, 0] > 0).astype(int) if n_classes == 2 else outputs[:, s].argmax(1)
            for s in range(2)]  # fmt: skip
    accuracy = tally.scores("accuracy", 0.95, 0)
    assert accuracy.score == pytest.approx(accuracy_score(labels, said[0]))
    assert accuracy.shuffled == pytest.approx([accuracy_score(labels, said[1])])
    balanced = tally.scores("balanced_accuracy", 0.95, 0)
    assert balanced.score == pytest.approx(balanced_accuracy_score(labels, said[0]))


def test_r2_is_scikit_learns_and_its_interval_that_of_draws_by_hand() -> None:
    draw = np.random.default_rng(1)
    n = 120
    units, true = np.arange(n) // 2, 1e6 + draw.normal(size=n)
    said = true + draw.normal(size=n) / 2
    tally = Tally(target(0), units, true, 1)
    tally.add(np.arange(n), said[:, None, None])
    found = tally.scores("r2", 0.9, 0)
    assert found.score == pytest.approx(r2_score(true, said), rel=1e-6)
    drawn = []
    for _ in range(2000):
        chosen = draw.integers(0, 60, 60)
        rows = (chosen[:, None] * 2 + [0, 1]).reshape(-1)
        drawn.append(r2_score(true[rows], said[rows]))
    expected = np.quantile(drawn, [0.05, 0.95])
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.02)


def test_rows_of_one_example_do_not_make_an_interval_narrow() -> None:
    """Ten examples of a hundred rows each, told right or wrong whole, are ten trials."""
    units = np.repeat(np.arange(10), 100)
    right = units < 7
    labels = np.ones(1000, dtype=np.int64)
    tally = Tally(target(2), units, labels, 1)
    tally.add(np.arange(1000), np.where(right, 1.0, -1.0)[:, None, None])
    found = tally.scores("accuracy", 0.95, 0)
    assert found.score == pytest.approx(0.7)
    assert found.low < 0.45
    assert found.high > 0.9
    lone = Tally(target(2), np.arange(10), labels[:10], 1)
    lone.add(np.arange(10), np.where(np.arange(10) < 7, 1.0, -1.0)[:, None, None])
    scores = lone.scores("accuracy", 0.95, 0)
    assert (scores.low, scores.high) == pytest.approx(wilson(0.7, 10, 0.95))


def test_where_everything_is_right_the_interval_still_has_a_width() -> None:
    units, labels = np.arange(40) // 2, np.array([0, 0, 1, 1] * 5 + [0] * 20)
    tally = Tally(target(2), units, labels, 1)
    tally.add(np.arange(40), np.where(labels == 1, 1.0, -1.0)[:, None, None])
    accuracy = tally.scores("accuracy", 0.95, 0)
    assert (accuracy.score, accuracy.high) == (1, 1)
    assert accuracy.low == pytest.approx(wilson(1, 20, 0.95)[0])
    balanced = tally.scores("balanced_accuracy", 0.95, 0)
    assert 0.6 < balanced.low < accuracy.low  # a class of five groups says less


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_an_interval_holds_the_truth_about_as_often_as_it_says(share: float) -> None:
    draw = np.random.default_rng(2)
    inside = 0
    for seed in range(150):
        units = np.repeat(np.arange(40), 3)
        right = draw.random(40)[units] < share  # rows of a unit are alike
        labels = np.ones(120, dtype=np.int64)
        tally = Tally(target(2), units, labels, 1)
        tally.add(np.arange(120), np.where(right, 1.0, -1.0)[:, None, None])
        found = tally.scores("accuracy", 0.9, seed)
        inside += found.low <= share <= found.high
    assert 0.8 < inside / 150 <= 0.97


@pytest.mark.parametrize("numbers", [[3 / 7] * 6, [0.1, 0.1, 0.1], [1e9 + 1 / 3] * 5])
def test_equal_numbers_have_no_share_that_is_explained(numbers: list[float]) -> None:
    """Their spread is what rounding leaves, which divides to anything."""
    y = np.array(numbers)
    sums = np.array([[len(y), y.sum(), (y**2).sum(), 0.5]])
    assert not np.isfinite(measured("r2", sums)).any()
