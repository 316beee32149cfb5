"""The overview: every example of a trace in one line, with what it may be sorted by.

Knows texts, mean surprise and mean norms; what is shown of an example in full is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from probekit.analysis import log_softmax, next_ids
from probekit.report.parts import Roles, Stream
from probekit.report.streams import norms_of, rounded
from probekit.trace import Site, Trace, axis_rows, blocks, examples_of, said_value, visible_token
from probekit.wording import counted

Array = np.ndarray[Any, Any]

MOST = 200_000  # examples that are listed
_CHARACTERS = 20_000_000  # of all texts together
_LONGEST, _SHORTEST = 400, 80  # characters of one text: to search, and to know it by
_MOST_BYTES = 8 << 30  # of a site that is read for it
_VALUES = 40  # characters of a column's value
_COLUMNS = 4  # of the user's own
_DIGITS = 4

NORMS = "without first tokens, whose norms many models make extreme"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the page lists, and what it had to leave out."""

    listed: dict[str, Any]
    left_out: tuple[str, ...]


def describe(trace: Trace, roles: Roles) -> Overview:
    """List the examples of a trace as plain JSON values, column by column.

    Returns:
        `texts` and `n_tokens` [example]; `surprise` [example], the mean of minus the natural
        logarithm of the probability of its tokens; `norm` [example] and `norm_of`; `next`
        [example], the likeliest token after its last; `columns`, pairs of a name and its values.
        What was not recorded is None.
    """
    n_all = len(trace.examples)
    n_listed = min(n_all, MOST)
    left_out = []
    if n_listed < n_all:
        left_out.append(
            f"the overview lists only the first {counted(n_listed, 'example', of=n_all)}"
        )
    longest = max(_SHORTEST, min(_LONGEST, _CHARACTERS // max(1, n_listed)))
    surprise = _within(_surprise_site(roles), "surprise", left_out)
    stream = next(iter((*roles.streams, *roles.columns)), None)
    normed = _within(stream.sites[-1] if stream else None, "norms", left_out)
    norm = normed and _said(_norm(trace, stream, normed), n_listed)
    extents = np.asarray(trace.table("token").extents[1])[:n_listed]
    listed = {
        "n_all": n_all,
        "texts": [visible_token(t[:longest]) for t in islice(trace.examples.texts(), n_listed)],
        "n_tokens": extents.tolist(),
        "surprise": surprise and _said(_surprise(trace, surprise), n_listed),
        "norm": norm,
        "norm_of": norm and normed and stream and _says(stream, normed),
        "next": _next(trace, roles, n_listed),
        "columns": _columns(trace, n_listed),
    }
    return Overview(listed=listed, left_out=tuple(left_out))


def _said(values: Array, n_listed: int) -> list[float | None] | None:
    """Round what is listed; None where nothing says anything, as logits of last tokens alone."""
    return rounded(values[:n_listed], _DIGITS) if np.isfinite(values).any() else None


def _within(site: Site | None, what: str, left_out: list[str]) -> Site | None:
    """Give the site if it is small enough to be read whole."""
    if site is None or prod(site.shape) * 2 <= _MOST_BYTES:
        return site
    left_out.append(f"{what} in the overview: {site.name} is too large to be read for it")
    return None


def _says(stream: Stream, site: Site) -> str:
    return f"{stream.unit} of {visible_token(stream.name)}, layer {site.layer}"


def _surprise_site(roles: Roles) -> Site | None:
    return roles.token_logprob or roles.logits


def _surprise(trace: Trace, site: Site) -> Array:
    """Give the mean surprise of each example's tokens in nats, NaN where nothing says it."""
    sums, counts = np.zeros(len(trace.examples)), np.zeros(len(trace.examples))
    for rows, values in blocks(site):
        if len(site.axes) > 1:
            values = _logprob_of_next(trace, axis_rows(site, rows), values)
        _add(sums, counts, examples_of(site, rows), -values, np.isfinite(values))
    return _mean(sums, counts)


def _logprob_of_next(trace: Trace, tokens: Array, logits: Array) -> Array:
    came = next_ids(trace, tokens)
    came[came >= logits.shape[1]] = -1  # a stranger's
    with np.errstate(invalid="ignore"):  # logits of a stranger's that are not finite
        logprobs = log_softmax(logits)
    found = np.take_along_axis(logprobs, np.maximum(came, 0)[:, None], -1)[:, 0]
    return np.where(came >= 0, found, np.nan)


def _norm(trace: Trace, stream: Stream | None, site: Site) -> Array:
    """Give the mean norm of each example, first tokens left out where there are others."""
    assert stream is not None, "a site of it was chosen"
    n = len(trace.examples)
    later, n_later, every, n_every = (np.zeros(n) for _ in range(4))
    for rows, values in blocks(site):
        norms, owners = norms_of(stream, values), examples_of(site, rows)
        known = np.isfinite(norms)
        _add(every, n_every, owners, norms, known)
        if site.axis == "token":
            is_later = trace.tokens.position[axis_rows(site, rows)] > 0
            _add(later, n_later, owners, norms, known & is_later)
    return np.where(n_later > 0, _mean(later, n_later), _mean(every, n_every))


def _add(sums: Array, counts: Array, owners: Array, values: Array, known: Array) -> None:
    np.add.at(sums, owners[known], values[known])
    np.add.at(counts, owners[known], 1)


def _mean(sums: Array, counts: Array) -> Array:
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: no row of the example says anything
        means: Array = sums / counts
    return means


def _next(trace: Trace, roles: Roles, n_listed: int) -> list[str | None] | None:
    if roles.top_k is None:
        return None
    ids, chances = roles.top_k
    first, n_tokens = (np.asarray(part)[:n_listed] for part in trace.table("token").extents)
    last = first + n_tokens - 1
    there = ids.token_rows()
    at = np.searchsorted(there, last)
    known = (n_tokens > 0) & (at < len(there))
    known[known] = there[at[known]] == last[known]
    said: list[str | None] = [None] * n_listed
    if not known.any():
        return said
    rows = at[known]
    best = np.argmax(np.asarray(chances[rows]), axis=-1)
    for number, tokens, place in zip(
        np.flatnonzero(known), np.asarray(ids[rows]), best, strict=True
    ):
        said[number] = visible_token(trace.token_text(int(tokens[place])))
    return said


def _columns(trace: Trace, n_listed: int) -> list[list[Any]]:
    found = []
    for name in list(trace.columns)[:_COLUMNS]:
        values = trace.columns.rows(name, slice(0, n_listed))
        found.append([visible_token(name[:_VALUES]), _shown(values)])
    return found


def _shown(values: Array) -> list[str]:
    hidden = np.ma.getmaskarray(values)
    return [
        "–" if gone else visible_token(said_value(value, _VALUES))
        for value, gone in zip(values, hidden, strict=True)
    ]
