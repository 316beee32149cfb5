"""The liveliest neurons of a site, and the tokens on which each fires most.

Two passes over the rows, both in pieces: memory does not grow with the number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from probekit.report.example import rounded
from probekit.report.visible import visible_token
from probekit.schema import ALL_TOKENS
from probekit.site import Site
from probekit.trace import Trace

Array = np.ndarray[Any, Any]

N_TOP = 8  # tokens of each neuron
BEFORE, AFTER = 8, 4  # tokens of context
# Many models put extreme values on a text's first token, whatever it is: it would rank them all.
RULE = (
    "The liveliest neurons are those with the largest absolute activation on any token but a "
    "text’s first; of each, the tokens with the largest absolute activations are shown, first "
    "ones too."
)
_PIECE_BYTES = 32 << 20


def liveliest(site: Site, counted: Array, n_neurons: int) -> Array:
    """Give the columns with the largest absolute activation, liveliest first.

    Args:
        site: `[row, neuron]`.
        counted: which rows count, bool `[row]`.
        n_neurons: how many, at most.
    """
    peaks = np.zeros(site.shape[1])
    for begin, rows in _pieces(site):
        here = rows[counted[begin : begin + len(rows)]]
        if len(here):
            peaks = np.fmax(peaks, np.fmax.reduce(np.abs(here), axis=0))
    return np.argsort(-peaks, kind="stable")[:n_neurons]


def top_rows(site: Site, columns: Array, n_top: int) -> tuple[Array, Array]:
    """Give the rows on which columns fire most.

    Returns:
        Rows of the site and activations, each `[column, top]`, by falling absolute activation;
        the earlier row first among equals.
    """
    best = np.empty((0, len(columns)))
    where = np.empty((0, len(columns)), dtype=np.int64)
    for begin, rows in _pieces(site):
        numbers = np.arange(begin, begin + len(rows))[:, None]
        best = np.concatenate([best, rows[:, columns]])
        where = np.concatenate([where, np.broadcast_to(numbers, (len(rows), len(columns)))])
        order = np.argsort(-np.abs(best), axis=0, kind="stable")[:n_top]  # NaN goes last
        best = np.take_along_axis(best, order, 0)
        where = np.take_along_axis(where, order, 0)
    return where.T, best.T


def _pieces(site: Site) -> Iterator[tuple[int, Array]]:
    n_rows = max(1, _PIECE_BYTES // (4 * prod(site.shape[1:])))
    for begin in range(0, len(site), n_rows):
        yield begin, site[begin : begin + n_rows]


def describe(trace: Trace, site: Site, n_neurons: int) -> dict[str, Any]:
    """Give a site's neurons as plain JSON values.

    Returns:
        `neurons`, liveliest first, each with its `number` in the layer and its `top` tokens:
        example, position, value, and the context as [text, activation] pairs.
    """
    chosen = site.attributes.get("neurons")  # columns of a probe that named its neurons
    token_rows = site.token_rows()
    later = np.asarray(trace.tokens.position[:])[token_rows] > 0
    columns = liveliest(site, later if later.any() else ~later, n_neurons)
    where, best = top_rows(site, columns, N_TOP)

    @lru_cache(maxsize=256)
    def tokens_of(example: int) -> tuple[int, tuple[str, ...]]:
        found = trace.examples[example]
        return found.first_token, tuple(map(visible_token, found.tokens))

    def firing(column: int, row: int, value: float) -> dict[str, Any]:
        token = int(token_rows[row])
        number = int(trace.tokens.example[token])
        first, tokens = tokens_of(number)
        position = token - first
        begin, end = max(0, position - BEFORE), min(len(tokens), position + AFTER + 1)
        context = [[text, None] for text in tokens[begin:end]]
        context[position - begin][1] = rounded(value)
        if site.rows == ALL_TOKENS:
            near = rounded(site[first + begin : first + end, column])
            context = [[text, one] for (text, _), one in zip(context, near, strict=True)]
        return {
            "example": number,
            "position": position,
            "value": rounded(value),
            "begin": begin,
            "context": context,
        }

    return {
        "name": site.name,
        "neurons": [
            {
                "number": int(column if chosen is None else chosen[column]),
                "top": [
                    firing(int(column), int(row), float(value))
                    for row, value in zip(where[place], best[place], strict=True)
                    if np.isfinite(value)
                ],
            }
            for place, column in enumerate(columns)
        ],
    }
