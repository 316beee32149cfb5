"""Agreement: whether recomputed log-probabilities are those that the run recorded.

Knows what a run can record of a model's own predictions; nothing of how they are recomputed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probekit.analysis import next_ids
from probekit.analysis.logitlens.result import Agreement
from probekit.errors import StoreError
from probekit.store import TOKEN
from probekit.trace import Site, Trace

Array = np.ndarray[Any, Any]

_KINDS = ("top_k.logprob", "token_logprob", "output")

# Mean differences of log-probabilities, in nats, that roundings on the way account for, at logits
# of some tens. Another model is off by whole nats.
_TOLERANCE = {"float32": 1e-2, "float16": 5e-2, "bfloat16": 3e-1}


@dataclass(slots=True)
class _Sums:
    site: Site
    rows: Array  # int64 [row]: which token each row of the site is
    n_values: int = 0
    total: float = 0.0
    largest: float = 0.0


class Check:
    """Compares log-probabilities, a block of tokens at a time, with what the run recorded.

    Args:
        trace: the run.
        head: the path of the module that gives logits.
    """

    def __init__(self, trace: Trace, head: str) -> None:
        self._trace = trace
        there = [trace[f"{head}/{kind}"] for kind in _KINDS if f"{head}/{kind}" in trace]
        self._sums = [
            _Sums(site, site.token_rows())
            for site in there
            if site.axis == TOKEN and site.axes[1:] in ((), ("k",), ("d_vocab",))
        ]

    def add(self, tokens: Array, head_output: torch.Tensor, logprobs: torch.Tensor) -> None:
        """Compare some tokens.

        Args:
            tokens: their rows in the trace, int64 `[token]`, ascending.
            head_output: what the head returns, `[token, d_vocab]`.
            logprobs: what the model makes of that, `[token, d_vocab]`; some cap it first.
        """
        for sums in self._sums:
            rows = np.searchsorted(sums.rows, tokens)
            here = np.flatnonzero(rows < len(sums.rows))
            here = here[sums.rows[rows[here]] == tokens[here]]
            rows = rows[here]
            recorded = torch.from_numpy(np.array(sums.site[rows])).to(logprobs.device).float()
            if sums.site.kind == "output":
                found = head_output[here].log_softmax(-1)
                recorded = recorded.log_softmax(-1)
            else:
                ids = self._ids(sums.site, tokens[here], rows)
                found = logprobs[here].gather(-1, torch.from_numpy(ids).to(logprobs.device))
                found = found.reshape(recorded.shape)
            apart = (found - recorded).abs().double()
            apart = apart[apart.isfinite()]  # after the last token there is NaN
            if len(apart):
                sums.n_values += apart.numel()
                sums.total += float(apart.sum())
                sums.largest = max(sums.largest, float(apart.max()))

    def _ids(self, site: Site, tokens: Array, rows: Array) -> Array:
        """Give the token ids that a site has log-probabilities of, int64 `[token, id]`."""
        if site.kind == "token_logprob":
            return np.maximum(next_ids(self._trace, tokens), 0)[:, None]
        ids: Array = self._trace[site.name.replace(".logprob", ".id")][rows]
        return ids.astype(np.int64)

    def result(self, *dtypes: str) -> tuple[Agreement, ...]:
        """Say how well they agree.

        Args:
            dtypes: through which the values went.

        Raises:
            StoreError: if they do not agree to within the roundings of these dtypes.
        """
        found = tuple(
            Agreement(
                site=sums.site.name,
                n_values=sums.n_values,
                mean_difference=sums.total / sums.n_values,
                largest_difference=sums.largest,
            )
            for sums in self._sums
            if sums.n_values
        )
        tolerance = max(_TOLERANCE.get(dtype, 1e-2) for dtype in dtypes)
        for one in found:
            if not one.mean_difference <= tolerance:
                raise StoreError(
                    f"{self._trace.path}: the last layer does not say what the model said: "
                    f"log-probabilities are {one.mean_difference:.2g} nats off {one.site} in the "
                    f"mean, {one.largest_difference:.2g} at most (up to {tolerance:g} would be "
                    "rounding). Is this the model that the trace was made with?"
                )
        return found
