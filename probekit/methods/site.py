"""Methods of `Site` that rooms above it carry out."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, overload

from probekit import arguments
from probekit.extras import load_extra
from probekit.methods.naming import method_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from probekit.analysis import Neuron, SiteStatistics
    from probekit.trace import Site, Trace


@method_of("Site")
def statistics(site: Site, *, magnitude: float = 6.0, tokens: float = 0.06) -> SiteStatistics:
    """Give mean, deviation, norms, zeros, outliers and non-finite counts, in one pass.

    Values that are not finite are counted and left out. Of attention, a feature is a head, and
    the keys of a token's own example count, those after it too (0, or -inf in `scores`).

    Args:
        magnitude: a value is large if it is that many times its row's root mean square.
        tokens: a dimension is an outlier if it is large in at least this share of the rows.
            Both defaults are from Dettmers et al. 2022 (LLM.int8(), section 4), who look at
            normed hidden states; measuring a row by its own size carries that over to the
            residual stream.

    Raises:
        StoreError: if the site holds whole numbers, such as token ids.

    Example:
        >>> trace.select("resid_post", layer=-1).statistics().outliers
    """
    from probekit import analysis

    return analysis.site_statistics(
        site,
        magnitude=arguments.positive("magnitude", magnitude),
        tokens=arguments.positive("tokens", tokens),
    )


@method_of("Site")
def plot(
    site: Site,
    *,
    example: int | None = None,
    head: int | None = None,
    neuron: Neuron | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw it: attention as a map, values over the tokens of an example, or its statistics.

    - Of attention: with `head`, its map over the tokens of `example`; without, all heads.
    - Of another site, with `example`: the L2 norm of each token's row, or a `neuron`'s value.
    - Of another site without: mean and deviation of every dimension, outliers named.

    Args:
        example: its number; 0 where one is needed and it is not said.
        head: its number in the model.
        neuron: its number in the model; a tuple where a row has several axes.
        ax: matplotlib axes to draw in; a figure of its own where None.

    Returns:
        The figure. It shows itself in a notebook; `figure.savefig("map.pdf")` keeps it.

    Raises:
        StoreError: if the head or neuron was not recorded.
        ProbekitError: if matplotlib is not installed.
    """
    load_extra("matplotlib", extra="analysis", purpose="plot()")
    from probekit.plots import plot_site

    return plot_site(site, example=example, head=head, neuron=neuron, ax=ax)


@method_of("Site")
def _repr_html_(site: Site) -> str:
    """Give what a notebook shows."""
    from probekit.trace import site_table

    return site_table(site).html()


class TraceOf:
    """`site.trace`: the trace that a site belongs to."""

    @overload
    def __get__(self, site: None, kind: object = None) -> TraceOf: ...
    @overload
    def __get__(self, site: Site, kind: object = None) -> Trace: ...

    def __get__(self, site: Site | None, kind: object = None) -> TraceOf | Trace:
        return self if site is None else cast("Trace", site._trace)
