"""The logit lens as the page shows it: what each layer would say, token by token.

Knows when a look through the lens is possible and how much of it fits into a reasonable wait; the
lens itself is probekit.analysis's, and torch is imported there, only if nothing stands in the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.analysis import what_lens_lacks
from probekit.errors import ProbekitError
from probekit.report.parts import has_one_row
from probekit.report.streams import COLUMNS, positions_of, rounded
from probekit.trace import Site, Trace, visible_token

if TYPE_CHECKING:
    from probekit.analysis import Lens

_K = 3  # what each layer says: its likeliest tokens
_MOST_SUMS = 4e12  # multiplications; a slow pair of CPU cores does so many in half a minute
_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What came of looking through the lens."""

    lens: Lens | None
    why: str | None = None  # there is none
    examples: tuple[int, ...] = ()  # whose rows were looked at
    by_example: bool = False  # each example has one row at most: they are shown as columns


def is_recorded(trace: Trace) -> bool:
    """Say whether a trace has what the lens looks at, as it is or in pieces."""
    return any(trace[name].portable == "resid_post" for name in trace.site_names)


def look(trace: Trace, numbers: Sequence[int]) -> Looked:
    """Look through the lens at some examples, or say in one line why not."""
    try:
        if (lacks := what_lens_lacks(trace)) is not None:
            return Looked(lens=None, why=_line(trace, lacks))
        return _look(trace, numbers)
    except ProbekitError as error:
        return Looked(lens=None, why=_line(trace, str(error)))
    except Exception as error:  # whatever loading a stranger's model brings: the page says it
        return Looked(lens=None, why=_line(trace, f"{type(error).__name__}: {error}"))


def _look(trace: Trace, numbers: Sequence[int]) -> Looked:
    from probekit.analysis import lens  # torch

    streams = [trace[n] for n in trace if trace[n].portable == "resid_post"]
    sites = [site for site in streams if site.axes[1:] == ("d_model",)]
    by_example = has_one_row(sites[0])
    if by_example:
        numbers = range(min(len(trace.examples), COLUMNS))
    chosen = _within_reason(trace, numbers, sites)
    found = lens(trace, k=_K, examples=chosen)
    return Looked(lens=found, examples=tuple(chosen), by_example=by_example)


def _within_reason(trace: Trace, numbers: Sequence[int], sites: Sequence[Site]) -> list[int]:
    """Give the first examples that the lens gets through in time; one at least."""
    d_vocab = trace.provenance.get("d_vocab")
    a_row = len(sites) * sites[0].shape[1] * (d_vocab if isinstance(d_vocab, int) else 50_000)
    chosen: list[int] = []
    left = _MOST_SUMS
    for number in numbers:
        rows = sites[0].rows_of(number)
        left -= a_row * (rows.stop - rows.start)
        if chosen and left < 0:
            break
        chosen.append(number)
    return chosen


def _line(trace: Trace, why: str) -> str:
    first = why.partition("\n")[0].removeprefix(f"{trace.path}: ")
    return visible_token(first)


def describe(trace: Trace, found: Lens, number: int) -> dict[str, Any]:
    """Give one example through the lens as plain JSON values.

    Returns:
        `positions` of the tokens; `words`, texts that the numbers in `said` [layer][token][k] stand
        for, with their `probability`; `rank` and `logprob` of the token that came next (0 and None
        where none did), `entropy` and `kl` to what the model says in the end, [layer][token].
    """
    first, n_tokens = trace.examples.extent(number)
    rows = (found.rows >= first) & (found.rows < first + n_tokens)
    site = trace[found.sites[0]]
    return {"positions": positions_of(trace, site, number).tolist(), **_numbers(trace, found, rows)}


def describe_columns(trace: Trace, found: Lens) -> dict[str, Any]:
    """Give the lens over one row an example: as `describe`, with `examples` for positions."""
    owners = trace.tokens.example[found.rows]
    return {"examples": owners.tolist(), **_numbers(trace, found, slice(None))}


def _numbers(trace: Trace, found: Lens, rows: Any) -> dict[str, Any]:
    ids = found.top_ids[:, rows]
    words: dict[int, int] = {}
    said = [
        [[words.setdefault(int(i), len(words)) for i in token] for token in layer] for layer in ids
    ]
    with np.errstate(over="ignore"):
        probability = np.exp(found.top_logprob[:, rows].astype(np.float64))
    return {
        "layers": list(found.layers),
        "words": [visible_token(trace.token_text(i)) for i in words],
        "said": said,
        "probability": rounded(probability, _DIGITS),
        "rank": found.rank[:, rows].tolist(),
        "logprob": rounded(found.logprob[:, rows], _DIGITS),
        "entropy": rounded(found.entropy[:, rows], _DIGITS),
        "kl": rounded(found.kl[:, rows], _DIGITS),
    }
