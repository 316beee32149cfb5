"""What the model would have said next, read from recorded logits.

Knows `top_k` sites and raw logits; the trace gives rows and token strings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit import arguments
from probekit.errors import StoreError
from probekit.store import TOKEN
from probekit.wording import counted

if TYPE_CHECKING:
    from probekit.trace import Site, Trace

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A token the model might have said next."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTokens:
    """The likeliest next tokens at one place, and what is left for all others."""

    candidates: tuple[Candidate, ...]  # likeliest first
    rest: float  # the probability of all other tokens together

    def __str__(self) -> str:
        shown = [f"{c.text!r} {c.probability:.1%}" for c in self.candidates]
        return ", ".join([*shown, f"others {self.rest:.1%}"])


def next_tokens(trace: Trace, example: int, position: int, k: int) -> NextTokens:
    """Read the likeliest next tokens; see `Trace.next_tokens`."""
    position, k = arguments.whole("position", position), arguments.whole("k", k, least=1)
    first, n_tokens = trace.examples.extent(trace.examples.number(example))
    if not -n_tokens <= position < n_tokens:
        raise IndexError(
            f"position {position} is out of range: the example has {counted(n_tokens, 'token')}"
        )
    token = first + position % n_tokens
    ids, logprobs = _top(trace, token, k)
    with np.errstate(over="ignore"):  # a stranger's log-probabilities may be anything
        probabilities = np.exp(logprobs.astype(np.float64))
    return NextTokens(
        candidates=tuple(
            Candidate(id=int(i), text=trace.token_text(int(i)), probability=float(p))
            for i, p in zip(ids, probabilities, strict=True)
        ),
        rest=max(0.0, 1.0 - float(probabilities.sum())),
    )


def log_softmax(logits: Array) -> Array:
    """Give natural log-probabilities of logits, float64 `[..., d_vocab]`."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def next_ids(trace: Trace, tokens: Array) -> Array:
    """Give the ids of the tokens that really came next.

    Args:
        trace: whose tokens they are.
        tokens: their rows, int64 `[token]`.

    Returns:
        int64 `[token]`; -1 after the last token of an example.
    """
    after = np.minimum(tokens + 1, len(trace.tokens) - 1)
    same = (trace.tokens.example[after] == trace.tokens.example[tokens]) & (after > tokens)
    return np.where(same, trace.tokens.id[after], -1).astype(np.int64)


def _top(trace: Trace, token: int, k: int) -> tuple[Array, Array]:
    for name in trace.site_names:
        if name.endswith("/top_k.logprob"):
            site = trace[name]
            if site.axis == TOKEN:
                row = _row(site, token)
                return trace[name.replace(".logprob", ".id")][row][:k], site[row][:k]
    for name in trace.site_names:
        if trace[name].portable == "logits" and trace[name].axes == (TOKEN, "d_vocab"):
            logprobs = log_softmax(trace[name][_row(trace[name], token)])
            ids = np.argsort(-logprobs)[:k]
            return ids, logprobs[ids]
    raise StoreError(
        f"{trace.path}: neither logits nor top_k were recorded; add the probe "
        "`- sites: logits` with `record: [top_k]`"
    )


def _row(site: Site, token: int) -> int:
    rows = np.flatnonzero(site.token_rows() == token)
    if not len(rows):
        raise StoreError(f"{site.name} was recorded at positions {site.rows}, not at this one")
    return int(rows[0])
