"""CKA, plain and debiased, as the papers write it."""

from __future__ import annotations

import numpy as np


def by_hand(x, y):
    """Plain CKA, after Kornblith et al. 2019, equation for the linear kernel."""
    x, y = (v.reshape(len(v), -1).astype(np.float64) for v in (x, y))
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def hsic_by_hand(x, y):
    """The unbiased estimate, after Song et al. 2012, equation 5, on n x n kernels."""
    n = len(x)
    k, l = (v.reshape(n, -1).astype(np.float64) for v in (x, y))  # noqa: E741 (the paper's names)
    k, l = k @ k.T, l @ l.T  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(n)
    return (
        np.trace(k @ l)
        + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ l @ one)
    ) / (n * (n - 3))


def debiased_by_hand(x, y):
    return hsic_by_hand(x, y) / np.sqrt(hsic_by_hand(x, x) * hsic_by_hand(y, y))
