"""Methods of `Trace` that look at it: analysis, the report, what a notebook shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from probekit import arguments
from probekit.errors import StoreError
from probekit.methods.naming import method_of
from probekit.wording import show_typed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from probekit.analysis import (
        HeadScores,
        Neuron,
        NextTokens,
        Readout,
        TopExamples,
        TraceStatistics,
    )
    from probekit.report import Report
    from probekit.trace import Patterns, Site, Trace


@method_of("Trace")
def next_tokens(trace: Trace, example: int, position: int = -1, *, k: int = 5) -> NextTokens:
    """Give what the model would have said next.

    Args:
        example: number of the example.
        position: after which of its tokens; -1 is the last.
        k: how many candidates, at most as many as were recorded.

    Raises:
        StoreError: if neither logits nor `top_k` were recorded there.

    Example:
        >>> print(trace.next_tokens(0))
        ' Tokyo' 99.1%, ' Paris' 0.2%, others 0.7%
    """
    from probekit import analysis

    return analysis.next_tokens(trace, example, position, k)


@method_of("Trace")
def report(
    trace: Trace,
    path: str | Path = "report.html",
    *,
    examples: int | Sequence[int] = 8,
    neurons: int = 32,
    lens: bool = True,
    max_bytes: int = 128 << 20,
    overwrite: bool = False,
) -> Report:
    """Write a page to look at: attention, next tokens, the lens, norms, neurons, execution order.

    The page is one HTML file; it opens in any browser, without a network or a server.

    Args:
        path: the HTML file; an earlier report that is there is replaced.
        examples: the first so many, or the numbers of those to show.
        neurons: how many of each site's neurons to include, the liveliest. To find them, every
            row of these sites is read three times; 0 leaves that out.
        lens: whether to look through the logit lens where `resid_post` was recorded and the model
            lies on this machine; torch is imported for it.
        max_bytes: how large the file may become; what does not fit is left out, and said so.
        overwrite: whether a file of this name that is no report may be replaced.

    Returns:
        What is in the file, and what was left out.

    Raises:
        StoreError: if an example or an option is out of range, if something is there that must
            stay, or if the file cannot be written.
    """
    from probekit.report import write_report

    return write_report(
        trace,
        path,
        examples=examples,
        neurons=neurons,
        lens=lens,
        max_bytes=max_bytes,
        overwrite=overwrite,
    )


@method_of("Trace")
def top_examples(
    trace: Trace,
    site: str | Site,
    neuron: Neuron,
    k: int = 10,
    *,
    smallest: bool = False,
    one_per_example: bool = False,
    around: int = 8,
) -> TopExamples:
    """Find the tokens, in context, on which a neuron fires most.

    Args:
        site: a site or its name, "transformer.h.3.mlp.act".
        neuron: its number in the model; a tuple where a row has several axes, (head, d_head).
        k: how many, at most. Of equal values the earlier comes first; NaN never comes.
        smallest: where it is most negative instead.
        one_per_example: only the strongest token of each example.
        around: tokens of context on either side.

    Raises:
        StoreError: if the site or the neuron was not recorded; the message says what was.

    Example:
        >>> trace.top_examples("transformer.h.1.mlp.act", 17, k=5)
    """
    from probekit import analysis
    from probekit.trace import Site

    if not isinstance(site, str | Site):
        raise StoreError(f"site is {show_typed(site)}; expected a site or its name")
    found = trace[site] if isinstance(site, str) else site
    return analysis.top_examples(
        found,
        neuron,
        k,
        smallest=smallest,
        one_per_example=one_per_example,
        around=around,
    )


@method_of("Trace")
def head_scores(trace: Trace, sites: Patterns | None = None) -> HeadScores:
    """Score every recorded attention head as induction, previous-token and duplicate head.

    The scores, and where they come from, are told at `HeadScores`.

    Args:
        sites: globs of sites, "transformer.h.{0..3}.attn/pattern"; all patterns where None.

    Raises:
        StoreError: if no patterns were recorded there.
    """
    from probekit import analysis

    return analysis.head_scores(trace, sites)


@method_of("Trace")
def statistics(
    trace: Trace, sites: Patterns | None = None, *, magnitude: float = 6.0, tokens: float = 0.06
) -> TraceStatistics:
    """Give the statistics of every site of floats, one pass each; see `Site.statistics`.

    Of sites of `expert_ids` its `experts` say how many tokens each expert got.

    Args:
        sites: globs of sites or portable names, one or several; all of them where None.
        magnitude: of an outlier, in root mean squares of its row.
        tokens: the share of rows in which an outlier must be so large.
    """
    from probekit import analysis

    return analysis.trace_statistics(
        trace,
        sites,
        magnitude=arguments.positive("magnitude", magnitude),
        tokens=arguments.positive("tokens", tokens),
    )


@method_of("Trace")
def fit_readout(
    trace: Trace,
    sites: Patterns,
    *,
    target: str,
    split: float | str = 0.2,
    group: str | None = None,
    method: str | None = None,
    pool: str | None = None,
    strength: float | None = None,
    measure: str | None = None,
    shuffles: int = 5,
    confidence: float = 0.95,
    seed: int = 0,
    memory_bytes: int = 1 << 30,
) -> Readout:
    """Fit a linear readout of a column on the rows of a place; see `probekit.fit_readout`."""
    from probekit import analysis

    return analysis.fit_readout(
        trace,
        sites,
        target=target,
        split=split,
        group=group,
        method=method,
        pool=pool,
        strength=strength,
        measure=measure,
        shuffles=shuffles,
        confidence=confidence,
        seed=seed,
        memory_bytes=memory_bytes,
    )


@method_of("Trace")
def _repr_html_(trace: Trace) -> str:
    """Give what a notebook shows."""
    from probekit.trace import trace_table

    return trace_table(trace).html()
