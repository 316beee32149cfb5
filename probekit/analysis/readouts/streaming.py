"""Streaming: the same fits on rows that do not fit into memory, a block at a time.

Knows blocks of rows; nothing of where they lie. Each fit has the objective of solving.py, so that
it gives what scikit-learn would: ridge regression from the covariances, in one pass; logistic
regression by L-BFGS (Liu & Nocedal, "On the limited memory BFGS method for large scale
optimization", Mathematical Programming 45, 1989), as scikit-learn does it, whose every step is one
pass. A difference of means takes one pass, and needs no scaling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from probekit.analysis.readouts.scaling import Scaling
from probekit.analysis.readouts.solving import MOST_STEPS, TOLERANCE
from probekit.analysis.readouts.targets import Target
from probekit.extras import load_extra

Array = np.ndarray[Any, Any]
Blocks = Callable[[], Iterator[tuple[Array, Array]]]  # whose each row is, [row]; [row, feature]

_LBFGS_EPSILON = 64 * float(np.finfo(np.float64).eps)  # scikit-learn's end of no more progress


def mean_differences(blocks: Blocks, labels: Array, n_features: int) -> tuple[Array, Array]:
    """Give the difference of two classes' means, and the bias that is 0 midway between them.

    Args:
        blocks: the rows.
        labels: 0 or 1, int64 `[set, example]`.
        n_features: of a row.

    Returns:
        Directions float64 `[set, 1, feature]` and biases `[set, 1]`.
    """
    sums, counts = np.zeros((len(labels), 2, n_features)), np.zeros((len(labels), 2))
    for owners, rows in blocks():
        for label in (0, 1):
            of_class = (labels[:, owners] == label).astype(np.float64)  # [set, row]
            sums[:, label] += of_class @ rows
            counts[:, label] += of_class.sum(1)
    means = sums / counts[..., None]
    directions = means[:, 1] - means[:, 0]
    middles = means.mean(1)
    return directions[:, None], -np.einsum("sf,sf->s", directions, middles)[:, None]


def ridge_streamed(
    blocks: Blocks, labels: Array, scaling: Scaling, strength: float
) -> tuple[Array, Array]:
    """Fit ridge regression from the covariances of scaled rows, in one pass; see `solve`."""
    n_features, n_rows = len(scaling.mean), 0
    squares = np.zeros((n_features, n_features))
    products, totals = np.zeros((n_features, len(labels))), np.zeros(len(labels))
    near = labels.mean(1)  # so that large numbers that hardly differ lose no digits
    for owners, rows in blocks():
        rows = scaling.scale(rows)
        said = (labels - near[:, None])[:, owners].T  # [row, set]
        squares += rows.T @ rows
        products += rows.T @ said
        totals += said.sum(0)
        n_rows += len(rows)
    squares[np.diag_indices(n_features)] += strength * n_rows
    weights = np.linalg.solve(squares, products)  # the rows' own means are 0
    return weights.T[:, None], (near + totals / n_rows)[:, None]


def logistic_streamed(
    blocks: Blocks, labels: Array, target: Target, scaling: Scaling, strength: float
) -> tuple[Array, Array]:
    """Fit logistic regressions, all sets of labels in the same passes; see `solve`."""
    optimize = load_extra("scipy.optimize", extra="analysis", purpose="fit_readout")
    n_sets, n_outputs, n_features = len(labels), target.n_outputs, len(scaling.mean)
    shape = (n_sets * n_outputs, n_features + 1)

    def objective(flat: Array) -> tuple[float, Array]:
        parameters = flat.reshape(shape)
        weights, bias = scaling.unscaled(parameters[:, :-1], parameters[:, -1])
        lost, n_rows = 0.0, 0
        slopes, totals = np.zeros((shape[0], n_features)), np.zeros(shape[0])
        for owners, rows in blocks():
            outputs = (rows @ weights.T + bias).reshape(-1, n_sets, n_outputs)
            here, errors = _log_loss(outputs, labels[:, owners].T)
            flattened = errors.reshape(-1, shape[0])
            lost += here
            slopes += flattened.T @ rows
            totals += flattened.sum(0)
            n_rows += len(rows)
        slopes = (slopes - np.outer(totals, scaling.mean)) / scaling.deviation
        gradient = np.column_stack([slopes, totals]) / n_rows
        gradient[:, :-1] += strength * parameters[:, :-1]
        penalty = strength / 2 * float(np.vdot(parameters[:, :-1], parameters[:, :-1]))
        return lost / n_rows + penalty, gradient.reshape(-1)

    found = optimize.minimize(
        objective,
        np.zeros(shape[0] * shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MOST_STEPS, "maxls": 50, "gtol": TOLERANCE, "ftol": _LBFGS_EPSILON},
    )
    parameters = found.x.reshape(n_sets, n_outputs, n_features + 1)
    return parameters[..., :-1], parameters[..., -1]


def _log_loss(outputs: Array, labels: Array) -> tuple[float, Array]:
    """Give the loss, summed, and its slope along the outputs, `[row, set, output]`.

    Args:
        outputs: float64 `[row, set, output]`.
        labels: int64 `[row, set]`.
    """
    if outputs.shape[2] == 1:
        signs = np.where(labels == 1, -outputs[..., 0], outputs[..., 0])
        lost = np.logaddexp(0, signs)
        wrong = np.exp(signs - lost)  # the probability of the other class
        return float(lost.sum()), np.where(labels == 1, -wrong, wrong)[..., None]
    top = outputs.max(2, keepdims=True)
    shares = np.exp(outputs - top)
    total = shares.sum(2, keepdims=True)
    right = np.take_along_axis(outputs, labels[..., None], 2)
    lost = top + np.log(total) - right
    errors = shares / total
    np.put_along_axis(
        errors, labels[..., None], np.take_along_axis(errors, labels[..., None], 2) - 1, 2
    )
    return float(lost.sum()), errors
