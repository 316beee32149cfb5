"""Norms by layer: of one example token by token, and of many where each has one row.

Knows rows and arithmetic, and how numbers are written into the page.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np

from probekit.report.parts import Roles, Stream
from probekit.store import is_choice
from probekit.trace import Site, Trace, examples_of, visible_token

Array = np.ndarray[Any, Any]

COLUMNS = 400  # examples beside each other, at most
_DIGITS = 6  # significant digits of every number but attention


def rounded(values: Any, digits: int = _DIGITS) -> Any:
    """Give numbers to so many significant digits, as nested lists; what is not finite is None."""
    flat = np.asarray(values, dtype=np.float64)
    if flat.ndim > 1:
        return [rounded(part, digits) for part in flat]
    if flat.ndim:
        return [float(f"{v:.{digits}g}") if isfinite(v) else None for v in flat.tolist()]
    return float(f"{flat:.{digits}g}") if np.isfinite(flat) else None


def positions_of(trace: Trace, site: Site, number: int) -> Array:
    """Give the positions in an example that a site has rows for, int64 `[row]`."""
    first, n_tokens = trace.examples.extent(number)
    if not is_choice(site.rows):
        return np.arange(n_tokens)
    rows = site.token_rows()
    return rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + n_tokens)] - first


def spread(values: Array, positions: Array, n_tokens: int) -> Array:
    """Put numbers at their positions, float64 `[token]`, NaN elsewhere."""
    spread = np.full(n_tokens, np.nan)
    spread[positions] = values
    return spread


def norms_of(stream: Stream, rows: Array) -> Array:
    """Give one number for each of some rows of a stream, float64 `[row]`."""
    values = np.asarray(rows, dtype=np.float64)
    numbers: Array = values if stream.reduced else np.sqrt(np.einsum("td,td->t", values, values))
    return numbers


def by_token(trace: Trace, stream: Stream, number: int) -> dict[str, Any]:
    """Give an example's numbers of a stream as plain JSON: `values` [layer][token]."""
    _, n_tokens = trace.examples.extent(number)
    values = []
    for site in stream.sites:
        numbers = norms_of(stream, site.example(number))
        values.append(rounded(spread(numbers, positions_of(trace, site, number), n_tokens)))
    return {**_about(stream), "values": values}


def by_example(trace: Trace, roles: Roles) -> dict[str, Any]:
    """Give streams that have one row an example: `streams`, each with `values` [layer][example]."""
    n_shown = min(COLUMNS, len(trace.examples))
    return {
        "n_shown": n_shown,
        "streams": [
            {
                **_about(stream),
                "at": _said_where(stream.sites[0]),
                "values": [rounded(_column(stream, site, n_shown)) for site in stream.sites],
            }
            for stream in roles.columns
        ],
    }


def _column(stream: Stream, site: Site, n_shown: int) -> Array:
    """Give one number an example, float64 `[example]`, NaN where it has no row."""
    owners = examples_of(site, slice(0, len(site)))
    n_rows = int(np.searchsorted(owners, n_shown))
    return spread(norms_of(stream, site[:n_rows]), owners[:n_rows], n_shown)


def _said_where(site: Site) -> str:
    return f"at {site.rows}" if is_choice(site.rows) else "pooled"


def _about(stream: Stream) -> dict[str, Any]:
    return {
        "name": visible_token(stream.name),
        "unit": stream.unit,
        "layers": [site.layer for site in stream.sites],
    }
