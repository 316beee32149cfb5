"""The logit lens: what a model would say if it stopped after each layer.

Knows recorded residual streams and the model's head. Tokens are streamed: what is held at a time
is bounded by the vocabulary, and what is kept is a few numbers for every layer and token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probekit import arguments
from probekit.analysis import next_ids
from probekit.analysis.logitlens.agreement import Check
from probekit.analysis.logitlens.choosing import final_of, residuals
from probekit.analysis.logitlens.givenmodel import given_head, refuse_another
from probekit.analysis.logitlens.result import Lens
from probekit.analysis.logitlens.unembedding import OutputHead, load_output_head
from probekit.errors import StoreError
from probekit.trace import Site, Trace, axis_rows, open_trace

Array = np.ndarray[Any, Any]

_LOGITS_BYTES = 32 << 20  # of one block of float32 logits; several of them exist at a time


def lens(
    trace: Trace | str | Path,
    *,
    model: Any = None,
    sites: str = "resid_post",
    k: int = 5,
    device: str = "auto",
    examples: Sequence[int] | None = None,
) -> Lens:
    """Look at recorded residual streams through the model's own final norm and unembedding.

    This is the logit lens (nostalgebraist, "interpreting GPT: the logit lens", 2020): what would
    the model say if it stopped after this layer? At the last layer that is what it does say; where
    the run recorded that too (`logits`, `top_k`, `token_logprob`), the two are compared, and the
    lens refuses a model that does not give it.

    Only the final norm and the unembedding are loaded, from the model that the trace names.

    Args:
        trace: a trace, or its path. It needs `resid_post` of the last layer, or `ln_final` or
            `logits`: that is the final prediction.
        model: take the two modules from this model of transformers instead, or from what wraps
            it. Of a model in memory it is the object that the run was given, with the same weights.
        sites: the residual streams to look at: `resid_post`, `resid_mid` or `resid_pre`.
        k: how many of the likeliest tokens to keep.
        device: to compute on: auto, cpu, cuda, cuda:1, mps. A given model stays where it is.
        examples: the numbers of those to look at; all where it is not said.

    Raises:
        StoreError: if no such residual streams were recorded, if the weights are not to be had or
            not those of the run; the message says what to do.
        PlanError: if the model is of a family that families.py does not know, or has no final norm.

    Example:
        >>> probekit.lens("runs/quickstart").example(2)
    """
    trace = trace if isinstance(trace, Trace) else open_trace(trace)
    k = arguments.whole("k", k, least=1)
    layers = residuals(trace, sites)
    final = final_of(trace, layers[0].rows)
    pieces = _pieces(layers[0], examples)
    head = load_output_head(trace, device) if model is None else given_head(model)
    _check_width(layers, head)
    if model is not None:
        refuse_another(trace, model)
    check = Check(trace, head.head_path)
    n_tokens = sum(piece.stop - piece.start for piece in pieces)
    found = _Found.empty(len(layers), n_tokens, min(k, head.weight.shape[0]))
    n_done = 0
    for rows in _cut(pieces, max(1, _LOGITS_BYTES // (4 * head.weight.shape[0]))):
        tokens = axis_rows(layers[0], rows)
        put = slice(n_done, n_done := n_done + len(tokens))
        output = _output(final, rows, head)
        last = head.capped(output).log_softmax(-1)
        check.add(tokens, output, last)
        found.final_ids[put] = last.argmax(-1).cpu().numpy()
        came_next = torch.from_numpy(next_ids(trace, tokens)).to(last.device)
        for number, site in enumerate(layers):
            here = last
            if site is not final:
                here = head.capped(_output(site, rows, head)).log_softmax(-1)
            found.put(number, put, here, last, came_next)
    return Lens(
        trace=trace,
        sites=tuple(site.name for site in layers),
        layers=tuple(site.layer for site in layers if site.layer is not None),
        rows=np.concatenate([axis_rows(layers[0], piece) for piece in pieces]),
        agreement=check.result(final.dtype, str(head.weight.dtype).removeprefix("torch.")),
        **{field.name: getattr(found, field.name) for field in fields(found)},
    )


def _pieces(site: Site, examples: Sequence[int] | None) -> list[slice]:
    """Give the rows of some examples, in the trace's order."""
    if examples is None:
        return [slice(0, len(site))]
    numbers = sorted({site.trace.examples.number(number) for number in examples})
    found = [site.rows_of(number) for number in numbers]
    return found or [slice(0, 0)]


def _cut(pieces: Sequence[slice], step: int) -> Iterator[slice]:
    for piece in pieces:
        for begin in range(piece.start, piece.stop, step):
            yield slice(begin, min(begin + step, piece.stop))


def _check_width(layers: Sequence[Site], head: OutputHead) -> None:
    d_model = head.weight.shape[1]
    for site in layers:
        if site.shape[1] != d_model:
            raise StoreError(
                f"{site.name} is {site.shape[1]} wide and the model's unembedding takes {d_model}: "
                "this is not the model that the trace was made with"
            )


def _output(site: Site, rows: slice, head: OutputHead) -> torch.Tensor:
    """Give what the head returns for some rows of a site, float32 [row, d_vocab]."""
    values = torch.from_numpy(np.array(site[rows])).to(head.weight.device)
    if site.portable == "logits":
        return values.float()
    return head.head_output(values, normed=site.portable == "ln_final")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The arrays of a `Lens`, being filled."""

    rank: Array
    logprob: Array
    kl: Array
    entropy: Array
    top_ids: Array
    top_logprob: Array
    final_ids: Array

    @classmethod
    def empty(cls, n_layers: int, n_tokens: int, k: int) -> _Found:
        shape = (n_layers, n_tokens)
        return cls(
            rank=np.zeros(shape, dtype=np.int32),
            logprob=np.zeros(shape, dtype=np.float32),
            kl=np.zeros(shape, dtype=np.float32),
            entropy=np.zeros(shape, dtype=np.float32),
            top_ids=np.zeros((*shape, k), dtype=np.int32),
            top_logprob=np.zeros((*shape, k), dtype=np.float32),
            final_ids=np.zeros(n_tokens, dtype=np.int32),
        )

    def put(
        self,
        layer: int,
        rows: slice,
        here: torch.Tensor,
        last: torch.Tensor,
        next_ids: torch.Tensor,
    ) -> None:
        """Keep what one layer says, `[row, d_vocab]` log-probabilities, beside the final ones."""
        came = next_ids >= 0
        logprob = here.gather(-1, next_ids.clamp(min=0)[:, None])  # [row, 1]
        rank = 1 + (here > logprob).sum(-1)
        logprob = torch.where(came, logprob[:, 0], torch.nan)
        top = here.topk(self.top_ids.shape[-1], dim=-1)
        probability = last.exp()
        values = {
            "rank": torch.where(logprob.isfinite(), rank, 0),
            "logprob": logprob,
            # Where the final probability is 0, so is its part of the sum, whatever the layer says.
            "kl": torch.where(probability > 0, probability * (last - here), 0).sum(-1),
            "entropy": torch.special.entr(here.exp()).sum(-1),
            "top_ids": top.indices,
            "top_logprob": top.values,
        }
        for name, value in values.items():
            getattr(self, name)[layer, rows] = value.cpu().numpy()
