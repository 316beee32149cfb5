"""One example as the page shows it: its tokens, what might come next, norms by layer.

Knows rows and arithmetic; attention is elsewhere, since it is large.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from probekit.analysis import log_softmax
from probekit.report.parts import Roles
from probekit.report.streams import by_token, positions_of, rounded, spread
from probekit.store import Scalar
from probekit.trace import Trace, said_value, visible, visible_token

Array = np.ndarray[Any, Any]

_CANDIDATES = 5  # of full logits; a top_k site has the k it was recorded with
_LOGIT_ROWS = 64  # rows of full logits that are worked on at once
_LONGEST_VALUE = 300  # characters of a column's value


def describe(trace: Trace, roles: Roles, number: int) -> dict[str, Any]:
    """Give an example as plain JSON values.

    Returns:
        `tokens` [token] as strings; `steps` [token], 0 for the text's own; `speakers` [token], in
        chats: the role whose content it is, "" for the template's; `candidates` [token] of
        [text, probability] pairs, likeliest first, for the token after; `probability` [token] of
        the token itself, given those before it; `entropy` [token] of what comes after, in nats;
        `streams`, each with `values` [layer, token]. None stands where there is no number.
    """
    example = trace.examples[number]
    first, n_tokens = example.first_token, example.n_tokens
    steps = np.asarray(trace.tokens.step[first : first + n_tokens])
    return {
        "number": number,
        "id": visible_token(example.id),
        "text": visible(example.text),
        "columns": [[visible(name), _shown(value)] for name, value in example.columns.items()],
        "tokens": [visible_token(token) for token in example.tokens],
        "steps": steps.tolist() if example.n_generated else None,
        "speakers": _speakers(trace, first, n_tokens),
        "candidates": _candidates(trace, roles, number, n_tokens),
        "probability": _probability(trace, roles, number, n_tokens),
        "entropy": _entropy(trace, roles, number, n_tokens),
        "streams": [by_token(trace, stream, number) for stream in roles.streams],
    }


def _speakers(trace: Trace, first: int, n_tokens: int) -> list[str] | None:
    if not hasattr(trace.tokens, "role"):
        return None
    rows = slice(first, first + n_tokens)
    said = zip(trace.tokens.role[rows], trace.tokens.is_content[rows], strict=True)
    return [visible(str(role)) if is_content else "" for role, is_content in said]


def _shown(value: Scalar) -> str:
    if value is None:
        return "\u2013"  # no value
    return visible(said_value(value, _LONGEST_VALUE))


def _candidates(trace: Trace, roles: Roles, number: int, n_tokens: int) -> list[Any] | None:
    found: list[Any] = [None] * n_tokens
    if roles.top_k is not None:
        ids, logprobs = (np.asarray(site.example(number)) for site in roles.top_k)
        positions = positions_of(trace, roles.top_k[0], number)
    elif roles.logits is not None:
        ids, logprobs = _top(roles.logits.example(number))
        positions = positions_of(trace, roles.logits, number)
    else:
        return None
    probabilities = np.exp(logprobs.astype(np.float64))
    for position, row_ids, row in zip(positions, ids, probabilities, strict=True):
        texts = [visible_token(trace.token_text(int(i))) for i in row_ids]
        found[position] = [list(pair) for pair in zip(texts, rounded(row), strict=True)]
    return found


def _top(logits: Array) -> tuple[Array, Array]:
    """Give ids and log-probabilities of the likeliest tokens, each `[row, k]`."""
    ids, logprobs = [], []
    for begin in range(0, len(logits), _LOGIT_ROWS):
        part = log_softmax(logits[begin : begin + _LOGIT_ROWS])
        best = np.argsort(-part, axis=-1, kind="stable")[:, :_CANDIDATES]
        ids.append(best)
        logprobs.append(np.take_along_axis(part, best, -1))
    return np.concatenate(ids), np.concatenate(logprobs)


def _probability(trace: Trace, roles: Roles, number: int, n_tokens: int) -> list[Any] | None:
    site = roles.token_logprob
    if site is None:
        return None
    # A row says how likely the token after it was.
    after = spread(site.example(number), positions_of(trace, site, number), n_tokens)
    values: list[Any] = rounded(np.concatenate([[np.nan], np.exp(after[:-1])]))
    return values


def _entropy(trace: Trace, roles: Roles, number: int, n_tokens: int) -> list[Any] | None:
    site = roles.entropy
    if site is None:
        return None
    positions = positions_of(trace, site, number)
    values: list[Any] = rounded(spread(site.example(number), positions, n_tokens))
    return values
