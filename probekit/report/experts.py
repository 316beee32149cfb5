"""Which experts tokens go to: of one example token by token, and of the whole trace as loads.

Knows sites of `expert_ids` and the weights beside them; counting is the business of
probekit.analysis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from probekit.analysis import expert_load
from probekit.report.parts import Roles, map_labels
from probekit.report.streams import positions_of
from probekit.trace import Site, Trace, visible_token

Array = np.ndarray[Any, Any]

_DIGITS = 3  # significant digits of a weight


def loads(roles: Roles) -> list[dict[str, Any]]:
    """Give, layer by layer, how many tokens of the trace each expert got.

    Raises:
        StoreError: if a site holds experts that there are not.
    """
    found = []
    for site, label in zip(roles.experts, map_labels(roles.experts), strict=True):
        load = expert_load(site)
        evenness = None if np.isnan(load.evenness) else round(load.evenness, 4)
        found.append(
            {
                "label": visible_token(label),
                "n_tokens": load.n_tokens,
                "counts": load.counts.tolist(),
                "evenness": evenness,
            }
        )
    return found


def describe(trace: Trace, roles: Roles, number: int) -> dict[str, Any]:
    """Give an example's experts as plain JSON values.

    Returns:
        `layers`, each with `ids` [token] of [k], the heaviest first, None where a token has no
        row, and `weights` like them, None where they were not recorded.
    """
    _, n_tokens = trace.examples.extent(number)
    return {"layers": [_layer(trace, site, number, n_tokens) for site in roles.experts]}


def _layer(trace: Trace, site: Site, number: int, n_tokens: int) -> dict[str, Any]:
    ids = np.asarray(site.example(number)).astype(np.int64)
    positions = positions_of(trace, site, number)
    weights = _weights(trace, site, number)
    if weights is not None:
        order = np.argsort(-weights, axis=-1, kind="stable")
        ids, weights = (np.take_along_axis(a, order, -1) for a in (ids, weights))
    return {
        "ids": _spread(ids.tolist(), positions, n_tokens),
        "weights": None
        if weights is None
        else _spread([[_short(w) for w in row] for row in weights], positions, n_tokens),
    }


def _weights(trace: Trace, site: Site, number: int) -> Array | None:
    """Give the weights of the same tokens, float64 `[row, k]`, if they were recorded."""
    name = f"{site.module}/expert_weights"
    if name not in trace or trace[name].shape != site.shape or trace[name].rows != site.rows:
        return None
    return np.asarray(trace[name].example(number), dtype=np.float64)


def _short(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None


def _spread(rows: list[Any], positions: Array, n_tokens: int) -> list[Any]:
    spread: list[Any] = [None] * n_tokens
    for position, row in zip(positions, rows, strict=True):
        spread[position] = row
    return spread
