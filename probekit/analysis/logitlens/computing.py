"""The logit lens: what a model would say if it stopped after each layer.

Knows recorded residual streams and the model's readout. Tokens are streamed: what is held at a time
is bounded by the vocabulary, and what is kept is a few numbers for every layer and token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probekit import arguments
from probekit.analysis import next_ids
from probekit.analysis.logitlens.agreement import Check
from probekit.analysis.logitlens.result import Lens
from probekit.analysis.logitlens.unembedding import Readout, load_readout, readout_of
from probekit.errors import StoreError
from probekit.store import TOKEN
from probekit.trace import Site, Trace, axis_rows, open_trace

Array = np.ndarray[Any, Any]

RESIDUALS = ("resid_pre", "resid_mid", "resid_post")
_LOGITS_BYTES = 32 << 20  # of one block of float32 logits; several of them exist at a time


def lens(
    trace: Trace | str | Path,
    *,
    model: Any = None,
    sites: str = "resid_post",
    k: int = 5,
    device: str = "auto",
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
        model: take the two modules from this model of transformers instead.
        sites: the residual streams to look at: `resid_post`, `resid_mid` or `resid_pre`.
        k: how many of the likeliest tokens to keep.
        device: to compute on: auto, cpu, cuda, cuda:1, mps. A given model stays where it is.

    Raises:
        StoreError: if no such residual streams were recorded, if the weights are not to be had or
            not those of the run; the message says what to do.
        PlanError: if the model is of a family that families.py does not know, or has no final norm.

    Example:
        >>> probekit.lens("runs/quickstart").example(2)
    """
    trace = trace if isinstance(trace, Trace) else open_trace(trace)
    k = arguments.whole("k", k, least=1)
    layers = _residuals(trace, sites)
    final = _final(trace, layers[0].rows)
    readout = load_readout(trace, device) if model is None else readout_of(model)
    _check_width(layers, readout)
    check = Check(trace, readout.head_path)
    n_tokens = len(layers[0])
    found = _Found.empty(len(layers), n_tokens, min(k, readout.weight.shape[0]))
    step = max(1, _LOGITS_BYTES // (4 * readout.weight.shape[0]))
    for begin in range(0, n_tokens, step):
        rows = slice(begin, min(begin + step, n_tokens))
        tokens = axis_rows(layers[0], rows)
        output = _output(final, rows, readout)
        last = readout.capped(output).log_softmax(-1)
        check.add(tokens, output, last)
        found.final_ids[rows] = last.argmax(-1).cpu().numpy()
        came_next = torch.from_numpy(next_ids(trace, tokens)).to(last.device)
        for number, site in enumerate(layers):
            here = last
            if site is not final:
                here = readout.capped(_output(site, rows, readout)).log_softmax(-1)
            found.put(number, rows, here, last, came_next)
    return Lens(
        trace=trace,
        sites=tuple(site.name for site in layers),
        layers=tuple(site.layer for site in layers if site.layer is not None),
        rows=layers[0].token_rows(),
        agreement=check.result(final.dtype, str(readout.weight.dtype).removeprefix("torch.")),
        **{field.name: getattr(found, field.name) for field in fields(found)},
    )


def _residuals(trace: Trace, name: str) -> list[Site]:
    if name not in RESIDUALS:
        raise StoreError(f"the lens looks at {', '.join(RESIDUALS)}; given {name!r}")
    found = [trace[n] for n in trace if trace[n].portable == name]
    whole = [s for s in found if s.axes == (TOKEN, "d_model") and "einops" not in s.attributes]
    if not whole:
        there = ", ".join(sorted({str(trace[n].portable) for n in trace if trace[n].portable}))
        but = " as it is: it was pooled, rearranged or cut" if found else ""
        raise StoreError(
            f"{trace.path}: {name} was not recorded{but}; add the probe `- sites: {name}`. "
            f"Portable names recorded: {there or 'none'}"
        )
    if len({site.rows for site in whole}) > 1:
        raise StoreError(f"{trace.path}: {name} was recorded at other positions in other layers")
    return sorted(whole, key=lambda site: site.layer or 0)


def _final(trace: Trace, rows: str) -> Site:
    """Give the site that the final prediction is read from."""
    last = int(trace.provenance.get("n_layers", 0)) - 1
    for name, layer in (("resid_post", last), ("ln_final", None), ("logits", None)):
        for site in (trace[n] for n in trace):
            whole = len(site.axes) == 2 and site.axes[1] in ("d_model", "d_vocab")
            if (site.portable, site.layer, site.rows) == (name, layer, rows) and whole:
                return site
    raise StoreError(
        f"{trace.path}: the final prediction was not recorded at positions {rows}: add resid_post "
        f"of the last layer (`layers: [..., -1]`), ln_final or logits to the probes"
    )


def _check_width(layers: Sequence[Site], readout: Readout) -> None:
    d_model = readout.weight.shape[1]
    for site in layers:
        if site.shape[1] != d_model:
            raise StoreError(
                f"{site.name} is {site.shape[1]} wide and the model's unembedding takes {d_model}: "
                "this is not the model that the trace was made with"
            )


def _output(site: Site, rows: slice, readout: Readout) -> torch.Tensor:
    """Give what the head returns for some rows of a site, float32 [row, d_vocab]."""
    values = torch.from_numpy(np.array(site[rows])).to(readout.weight.device)
    if site.portable == "logits":
        return values.float()
    return readout.head_output(values, normed=site.portable == "ln_final")


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
