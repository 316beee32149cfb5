"""Head scores over the examples of a report, and the head that it opens on.

Knows how a score is read for the page; scoring is the business of probekit.analysis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from probekit.analysis import HeadScores, head_scores
from probekit.errors import StoreError
from probekit.report.parts import Roles, map_labels
from probekit.report.streams import rounded
from probekit.trace import Site, Trace, visible_token

Array = np.ndarray[Any, Any]

_FEWEST_QUERIES = 4  # a mean over fewer tokens says little of a head
_TELLING = 0.1  # of the way from even attention to all of it

RULE = (
    "The head that is open at first is the one whose best score lies furthest above that of even "
    "attention. Where no score says anything, it is the one whose queries look most at a single "
    "token other than the first."
)


def describe(trace: Trace, roles: Roles, numbers: Sequence[int]) -> dict[str, Any]:
    """Give the scores of every head as plain JSON values.

    Args:
        trace: which trace.
        roles: its `attention` are the maps.
        numbers: the examples that are scored.

    Returns:
        `labels` by map and `kinds`, each with its `name`, its `uniform` score, over how many tokens
        (`n_queries`) it is a mean, and its `scores` [map][head], None where nothing shows them;
        `opens`, the `map` and `column` to open first, and why; `why` there are no scores.
    """
    sites = list(roles.attention)
    labels = [visible_token(label) for label in map_labels(roles.attention)]
    kinds: list[dict[str, Any]] = []
    why, opens = None, None
    try:
        found = head_scores(trace, [site.name for site in sites], numbers)
    except StoreError as error:
        why = visible_token(str(error).partition("\n")[0])
    else:
        kinds = [_kind(found, kind, sites) for kind in found.n_queries]
        opens = _best(kinds)
    return {
        "labels": labels,
        "heads": [list(site.numbers("head")) for site in sites],
        "kinds": kinds,
        "n_examples": len(numbers),
        "opens": opens or _sharpest(sites, numbers),
        "why": why,
    }


def _kind(found: HeadScores, kind: str, sites: Sequence[Site]) -> dict[str, Any]:
    by_site: dict[str, list[Any]] = {site.name: [] for site in sites}
    for head in found.heads:
        by_site[head.site].append(rounded(getattr(head, kind)))
    return {
        "name": kind.replace("_", " "),
        "uniform": rounded(found.uniform[kind]),
        "n_queries": found.n_queries[kind],
        "scores": list(by_site.values()),
    }


def _best(kinds: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Give the head whose best score lies furthest above even attention, if any does."""
    best: tuple[float, dict[str, Any]] | None = None
    for kind in kinds:
        even = kind["uniform"]
        if kind["n_queries"] < _FEWEST_QUERIES or even is None or even >= 1:
            continue
        for place, heads in enumerate(kind["scores"]):
            for column, score in enumerate(heads):
                above = -1.0 if score is None else (score - even) / (1 - even)
                if above >= _TELLING and (best is None or above > best[0]):
                    why = f"{kind['name']} score {score:.2f}, {even:.2f} if even"
                    best = above, {"map": place, "column": column, "why": why}
    return None if best is None else best[1]


def _sharpest(sites: Sequence[Site], numbers: Sequence[int]) -> dict[str, Any]:
    """Give the head that looks most at one token that is not the first, in the first example."""
    best, opens = 0.0, {"map": 0, "column": 0, "why": ""}
    for place, site in enumerate(sites if numbers else ()):
        pattern = np.asarray(site.example(numbers[0]), dtype=np.float64)  # [head, query, key]
        if not pattern.size or pattern.shape[2] < 2:
            continue
        focus = np.nan_to_num(pattern[:, :, 1:].max(2)).mean(1)
        if focus.max() > best:
            best, column = float(focus.max()), int(focus.argmax())
            why = f"its queries give {best:.2f} to one token other than the first, in the mean"
            opens = {"map": place, "column": column, "why": why}
    return opens
