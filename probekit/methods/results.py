"""Methods of the results of an analysis that draw them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probekit.extras import load_extra
from probekit.methods.naming import method_of

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from probekit.analysis import (
        Applied,
        CKAMatrix,
        Comparison,
        HeadScores,
        Lens,
        LensExample,
        Readout,
        SiteStatistics,
        TraceStatistics,
    )
    from probekit.trace import Trace


@method_of("SiteStatistics", "plot")
def plot_site_statistics(statistics: SiteStatistics, *, ax: Axes | None = None) -> Figure:
    """Draw the mean and deviation of every feature, outliers named."""
    load_extra("matplotlib", extra="analysis", purpose="plot()")
    from probekit import plots

    return plots.plot_site_statistics(statistics, ax=ax)


@method_of("TraceStatistics", "plot")
def plot_norms(statistics: TraceStatistics, *, ax: Axes | None = None) -> Figure:
    """Draw the L2 norms of rows by layer, one line for each kind of site."""
    load_extra("matplotlib", extra="analysis", purpose="plot()")
    from probekit import plots

    return plots.plot_norms(statistics, ax=ax)


@method_of("HeadScores", "plot")
def plot_head_scores(
    scores: HeadScores, kind: str = "induction", *, ax: Axes | None = None
) -> Figure:
    """Draw a kind of score as a map, layers down, heads across."""
    load_extra("matplotlib", extra="analysis", purpose="plot()")
    from probekit import plots

    return plots.plot_head_scores(scores, kind, ax=ax)


@method_of("CKAMatrix", "plot")
def plot_matrix(matrix: CKAMatrix, *, debiased: bool = False, ax: Axes | None = None) -> Figure:
    """Draw it as a map, the first layers in the lower left corner.

    Args:
        debiased: the debiased values.
        ax: matplotlib axes to draw in; a figure of its own where None.
    """
    load_extra("matplotlib", extra="analysis", purpose="plot()")
    from probekit import plots

    return plots.plot_matrix(matrix, debiased=debiased, ax=ax)


@method_of("Comparison", "plot")
def plot_comparison(
    comparison: Comparison, measure: str = "cka", *, ax: Axes | None = None
) -> Figure:
    """Draw a measure by layer, one line for each place; for a map see `matrix().plot()`.

    Args:
        measure: cka, cka_debiased, cosine, relative_difference or largest_difference.
        ax: matplotlib axes to draw in; a figure of its own where None.
    """
    load_extra("matplotlib", extra="analysis", purpose="plot()")
    from probekit import plots

    return plots.plot_comparison(comparison, measure, ax=ax)


@method_of("LensExample", "plot")
def plot_lens_example(example: LensExample, *, ax: Axes | None = None) -> Figure:
    """Draw what every layer says after every token, the last layer on top."""
    load_extra("matplotlib", extra="analysis", purpose="plot()")
    from probekit import plots

    return plots.plot_lens_example(example, ax=ax)


@method_of("Lens", "plot")
def plot_lens(lens: Lens, *, ax: Axes | None = None) -> Figure:
    """Draw KL to the final prediction, entropy and surprise by layer, means over all tokens."""
    load_extra("matplotlib", extra="analysis", purpose="plot()")
    from probekit import plots

    return plots.plot_lens(lens, ax=ax)


@method_of("Readout", "plot")
def plot_readout(readout: Readout, *, ax: Axes | None = None) -> Figure:
    """Draw the score by layer with its interval, beside that of shuffled labels."""
    load_extra("matplotlib", extra="analysis", purpose="plot()")
    from probekit import plots

    return plots.plot_readout(readout, ax=ax)


@method_of("Readout", "apply")
def apply_readout(readout: Readout, trace: Trace | str | Path) -> Applied:
    """Say what it says of the rows of another trace, at the same place and layers.

    Places are the same by their portable name; of other sites by the site's own. All examples that
    have rows there are told, whether or not they have a label.

    Args:
        trace: a trace, or its path.

    Returns:
        Scores and what is said, layer by layer, and whose each row is. They are held in memory.

    Raises:
        StoreError: if the place was not recorded there, has rows of another shape, or holds values
            that are not finite.

    Example:
        >>> readout.apply("runs/cities").layer(6).scores
    """
    from probekit import analysis

    return analysis.apply_readout(readout, trace)


@method_of("Readout", "save")
def save_readout(readout: Readout, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write it into a safetensors file: one direction a layer, called `layer6`, in float32.

    A direction has the shape of a row of the site, `[d_model]`, or `[class, d_model]` of more than
    two classes. All else stands as JSON in the file's metadata, under `probekit_readout`: biases,
    classes, method, model, sites, scores. `probekit.load_readout` reads it all back.

    Args:
        path: of the file; an earlier readout that is there is replaced.
        overwrite: whether a file of this name that is no readout may be replaced.

    Returns:
        The path.

    Raises:
        StoreError: if something is there that must stay, or the file cannot be written.
    """
    from probekit import analysis

    return analysis.save_readout(readout, path, overwrite=overwrite)
