"""The liveliest neurons of a site, and the tokens on which each fires most.

Knows how they are chosen and shown; ranking rows is the business of probekit.analysis.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from probekit.analysis import top_rows
from probekit.report.streams import rounded
from probekit.store import is_choice
from probekit.trace import Site, Trace, axis_rows, blocks, visible_token

Array = np.ndarray[Any, Any]

N_TOP = 8  # tokens of each neuron
BEFORE, AFTER = 8, 4  # tokens of context
# Many models put extreme values on a text's first token, whatever it is: it would rank them all.
RULE = (
    "The liveliest neurons are those with the largest absolute activation on any token but a "
    "text’s first; of each, the tokens with the largest absolute activations are shown, first "
    "ones too."
)


def liveliest(trace: Trace, site: Site, n_neurons: int) -> Array:
    """Give the columns with the largest absolute activation after first tokens, liveliest first.

    Where a site has first tokens only, they count.
    """
    first, later = np.zeros(site.shape[1]), np.zeros(site.shape[1])
    for rows, values in blocks(site):
        is_later = np.asarray(trace.tokens.position[axis_rows(site, rows)]) > 0
        first = np.fmax(first, np.fmax.reduce(np.abs(values[~is_later]), axis=0, initial=0))
        later = np.fmax(later, np.fmax.reduce(np.abs(values[is_later]), axis=0, initial=0))
    peaks = later if later.any() else first
    return np.argsort(-peaks, kind="stable")[:n_neurons]


def strongest(site: Site, columns: Array, n_top: int) -> list[list[tuple[int, float]]]:
    """Give, for each column, the rows with the largest absolute values, finite ones only.

    Returns:
        `[column][top]` of row and value; the earlier row first among equals.
    """
    chosen = [int(column) for column in columns]
    found = []
    largest, smallest = top_rows(site, chosen, n_top), top_rows(site, chosen, n_top, smallest=True)
    for (high_rows, high), (low_rows, low) in zip(largest, smallest, strict=True):
        values = {
            int(r): float(v) for r, v in zip((*high_rows, *low_rows), (*high, *low), strict=True)
        }
        finite = [(row, value) for row, value in values.items() if np.isfinite(value)]
        found.append(sorted(finite, key=lambda one: (-abs(one[1]), one[0]))[:n_top])
    return found


def describe(trace: Trace, site: Site, n_neurons: int) -> dict[str, Any]:
    """Give a site's neurons as plain JSON values.

    Returns:
        `neurons`, liveliest first, each with its `number` in the layer and its `top` tokens:
        example, position, value, and the context as [text, activation] pairs.
    """
    columns = liveliest(trace, site, n_neurons)
    numbers = site.numbers(site.axes[1])

    @lru_cache(maxsize=256)
    def words_of(example: int) -> tuple[int, tuple[str, ...]]:
        found = trace.examples[example]
        return found.first_token, tuple(map(visible_token, found.tokens))

    def firing(column: int, row: int, value: float) -> dict[str, Any]:
        token = trace.tokens[int(axis_rows(site, slice(row, row + 1))[0])]
        number, position = token.example, token.position
        first, tokens = words_of(number)
        begin, end = max(0, position - BEFORE), min(len(tokens), position + AFTER + 1)
        context = [[text, None] for text in tokens[begin:end]]
        context[position - begin][1] = rounded(value)
        if not is_choice(site.rows):
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
                "number": numbers[column],
                "top": [firing(int(column), row, value) for row, value in top],
            }
            for column, top in zip(columns, strongest(site, columns, N_TOP), strict=True)
        ],
    }
