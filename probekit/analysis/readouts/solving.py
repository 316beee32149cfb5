"""Solving: logistic and ridge regression on rows in memory, by scikit-learn.

Knows scaled features and labels; nothing of sites. The objective is, for n rows x of unit variance,

    mean over rows of loss(w·x + b, y) + strength / 2 · |w|²

with the log-loss of the logistic or softmax function, or half of the squared error. So `strength`
means the same however many rows there are: scikit-learn's `C` is 1 / (strength · n), the `alpha` of
its Ridge is strength · n. The bias is not penalised.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from probekit.analysis.readouts.targets import RIDGE, Target
from probekit.extras import load_extra

Array = np.ndarray[Any, Any]

STRENGTHS = (
    1.0,
    0.1,
    0.01,
    0.001,
)  # tried, the strongest first: it wins where others are no better
USUAL_STRENGTH = 0.1  # where there are too few examples to try
TOLERANCE = 1e-6  # of the gradient of the objective, its largest entry
_COARSE = 1e-4  # where strengths are compared, scikit-learn's own
MOST_STEPS = 2000


def solve(
    target: Target, rows: Array, labels: Array, strength: float, tolerance: float = TOLERANCE
) -> tuple[Array, Array]:
    """Fit one or several sets of labels.

    Args:
        target: how, and which classes.
        rows: float64 `[row, feature]`, scaled.
        labels: `[set, row]`.
        strength: see above.
        tolerance: of the gradient, where steps are taken.

    Returns:
        Weights float64 `[set, output, feature]` and biases `[set, output]`.
    """
    if target.method == RIDGE:
        return _ridge(rows, labels, strength)
    found = [_logistic(rows, one, strength, tolerance) for one in labels]
    return np.stack([w for w, _ in found]), np.stack([b for _, b in found])


def losses(target: Target, outputs: Array, labels: Array) -> Array:
    """Give the loss of each row, float64 `[row]`.

    Args:
        target: which loss.
        outputs: float64 `[row, output]`.
        labels: `[row]`.
    """
    if target.method == RIDGE:
        squared: Array = (outputs[:, 0] - labels) ** 2 / 2
        return squared
    if outputs.shape[1] == 1:
        return np.logaddexp(0, np.where(labels == 1, -outputs[:, 0], outputs[:, 0]))
    top = outputs.max(1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(outputs - top).sum(1))
    lost: Array = total - outputs[np.arange(len(labels)), labels]
    return lost


def choose_strength(target: Target, rows: Array, labels: Array, folds: Array | None) -> float:
    """Choose a strength by cross-validation on training rows: the least mean loss over all folds.

    Args:
        target: what is fitted.
        rows: float64 `[row, feature]`, scaled.
        labels: `[row]`.
        folds: of each row, int64 `[row]`; None where there are too few examples to try.
    """
    if folds is None:
        return USUAL_STRENGTH
    lost = np.zeros(len(STRENGTHS))
    for fold in np.unique(folds):
        inside, outside = folds != fold, folds == fold
        train, test = rows[inside], rows[outside]
        for number, strength in enumerate(STRENGTHS):
            weights, bias = solve(target, train, labels[None, inside], strength, _COARSE)
            outputs = test @ weights[0].T + bias[0]
            lost[number] += losses(target, outputs, labels[outside]).sum()
    return STRENGTHS[int(np.argmin(lost))]


def _logistic(rows: Array, labels: Array, strength: float, tolerance: float) -> tuple[Array, Array]:
    linear = load_extra("sklearn.linear_model", extra="analysis", purpose="fit_readout")
    model = linear.LogisticRegression(
        C=1 / (strength * len(rows)), tol=tolerance, max_iter=MOST_STEPS
    )
    with warnings.catch_warnings():
        # It warns where rounding keeps the gradient above the tolerance, which is near enough.
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")
        model.fit(rows, labels)
    return model.coef_, model.intercept_


def _ridge(rows: Array, labels: Array, strength: float) -> tuple[Array, Array]:
    linear = load_extra("sklearn.linear_model", extra="analysis", purpose="fit_readout")
    model = linear.Ridge(alpha=strength * len(rows)).fit(rows, labels.T)
    n_sets = len(labels)
    return model.coef_.reshape(n_sets, 1, -1), np.reshape(model.intercept_, (n_sets, 1))
