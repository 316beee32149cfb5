"""Plots of one site: attention maps, values over the tokens of an example, statistics.

Knows which picture says what; how pictures look is in pictures.py.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probekit.analysis import Neuron, SiteStatistics, column_of
from probekit.errors import StoreError
from probekit.plots.pictures import (
    COLORS,
    MAP,
    NORMAL,
    SMALL,
    WEIGHTS,
    WIDE,
    axes_for,
    clean,
    color_bar,
    figure_of,
    name_axes,
    new_figure,
    token_ticks,
)
from probekit.store import TOKEN
from probekit.trace import ATTENTION, axis_rows, float64
from probekit.wording import counted

if TYPE_CHECKING:
    from probekit.trace import Site

Array = np.ndarray[Any, Any]

_ANNOTATED = 5  # outliers that are named


def plot_site(
    site: Site, *, example: int | None, head: int | None, neuron: Neuron | None, ax: Axes | None
) -> Figure:
    """Draw a site; see `Site.plot`."""
    if site.axes == ATTENTION:
        if neuron is not None:
            raise StoreError(f"{site.name} holds attention, which has heads and no neurons")
        return _attention(site, 0 if example is None else example, head, ax)
    if head is not None:
        raise StoreError(
            f"{site.name} has rows of [{', '.join(site.axes[1:])}]; head= goes with attention, "
            "neuron=(head, d_head) with q, k, v and z"
        )
    if example is None and neuron is None:
        return plot_site_statistics(site.statistics(), ax=ax)
    if site.axis != TOKEN:
        raise StoreError(
            f"{site.name} has one row for each {site.axis}: there are no tokens to draw it over"
        )
    return _over_tokens(site, 0 if example is None else example, neuron, ax)


def _attention(site: Site, example: int, head: int | None, ax: Axes | None) -> Figure:
    example = site.trace.examples.number(example)
    weights = float64(site.example(example))  # [head, query, key]
    weights = np.where(np.isfinite(weights), weights, np.nan)  # masked scores stay blank
    tokens = site.trace.examples[example].tokens
    queries = [tokens[p] for p in _positions(site, example)]
    numbers = site.numbers("head")
    if head is None and len(numbers) > 1:
        if ax is not None:
            raise StoreError(f"{site.name}: a map of all heads takes a figure; give head= with ax=")
        return _all_heads(site, example, weights, numbers)
    head = numbers[0] if head is None else head
    if head not in numbers:
        raise StoreError(
            f"{site.name}: head {head} was not recorded; recorded: {', '.join(map(str, numbers))}"
        )
    side = float(np.clip(0.17 * len(tokens), 1.8, 7.5))
    high = float(np.clip(0.17 * len(queries), 1.0, 7.5))
    ax = axes_for(ax, side + 1.9, high + 1.1)
    image = ax.imshow(weights[numbers.index(head)], **_colors(site), aspect="auto")
    token_ticks(ax, "x", tokens)
    token_ticks(ax, "y", queries)
    name_axes(ax, "attended token", "attending token", f"{_place(site)}, head {head}")
    color_bar(ax, image, _unit(site))
    return figure_of(ax)


def _all_heads(site: Site, example: int, weights: Array, numbers: tuple[int, ...]) -> Figure:
    lines = ceil(len(numbers) / (8 if len(numbers) > 16 else 4))
    columns = ceil(len(numbers) / lines)
    side = (WIDE - 0.9) / columns  # what the labels and the scale leave
    high = side * weights.shape[1] / weights.shape[2] + 0.2
    figure = new_figure(WIDE, high * lines + 0.55)
    grid = figure.subplots(lines, columns, squeeze=False)
    ends = {"vmin": float(np.nanmin(weights)), "vmax": float(np.nanmax(weights))}
    for place, ax in enumerate(grid.flat):
        if place >= len(numbers):
            ax.set_axis_off()
            continue
        image = ax.imshow(weights[place], **{**ends, **_colors(site)})
        ax.set_title(f"head {numbers[place]}", fontsize=SMALL, pad=2)
        ax.set_xticks([])
        ax.set_yticks([])
    figure.suptitle(f"{_place(site)}, example {example}", fontsize=NORMAL, parse_math=False)
    figure.supxlabel("attended token", fontsize=NORMAL)
    figure.supylabel("attending token", fontsize=NORMAL)
    bar = figure.colorbar(image, ax=grid, shrink=0.8, pad=0.02)
    bar.set_label(_unit(site), fontsize=NORMAL)
    bar.ax.tick_params(labelsize=SMALL)
    return figure


def _colors(site: Site) -> dict[str, Any]:
    """Weights begin at 0, which is white; scores have no such end."""
    return {"cmap": WEIGHTS, "vmin": 0} if site.kind.startswith("pattern") else {"cmap": MAP}


def _unit(site: Site) -> str:
    return "attention weight" if site.kind.startswith("pattern") else "attention score"


def _over_tokens(site: Site, example: int, neuron: Neuron | None, ax: Axes | None) -> Figure:
    example = site.trace.examples.number(example)
    rows = float64(site.example(example))
    flat = rows.reshape(len(rows), -1)
    if neuron is not None:
        values, label = flat[:, column_of(site, neuron)], f"value of neuron {neuron}"
    elif len(site.axes) > 1:
        values, label = np.linalg.norm(flat, axis=1), "L2 norm"
    else:
        values, label = (
            flat[:, 0],
            site.kind.replace("_", " ")
            + (", nats" if site.kind in ("token_logprob", "entropy") else ""),
        )
    tokens = site.trace.examples[example].tokens
    words = [tokens[p] for p in _positions(site, example)]
    ax = axes_for(ax, float(np.clip(0.16 * len(words) + 1.2, 3.0, 9.0)), 2.8)
    clean(ax)
    ax.bar(range(len(values)), values, color=COLORS[0], width=0.75)
    ax.axhline(0, color="0.3", linewidth=0.8)
    ax.grid(visible=False, axis="x")
    token_ticks(ax, "x", words)
    name_axes(ax, f"token of example {example}", label, _place(site))
    return figure_of(ax)


def plot_site_statistics(found: SiteStatistics, *, ax: Axes | None = None) -> Figure:
    """Draw the mean and deviation of every feature of a site; outliers are named."""
    mean, deviation = found.mean.reshape(-1), found.deviation.reshape(-1)
    places = np.arange(len(mean))
    ax = axes_for(ax, WIDE, 2.8)
    clean(ax)
    ax.fill_between(
        places, mean - deviation, mean + deviation, step="mid", color=COLORS[5], alpha=0.6,
        linewidth=0, label="± standard deviation",
    )  # fmt: skip
    ax.plot(places, mean, ".", markersize=2.5, color=COLORS[0], label="mean over rows")
    sizes = [len(n) for n in found.numbers]
    for outlier in found.outliers[:_ANNOTATED]:
        where = [n.index(o) for n, o in zip(found.numbers, outlier.dimension, strict=True)]
        place = int(np.ravel_multi_index(where, sizes))
        ax.annotate(
            ", ".join(map(str, outlier.dimension)), (place, mean[place]), fontsize=SMALL,
            xytext=(4, 2), textcoords="offset points", color=COLORS[1],
        )  # fmt: skip
        ax.plot([place], [mean[place]], "o", markersize=3.5, color=COLORS[1])
    label = " × ".join(found.axes) or "value"
    name_axes(ax, label, "value", f"{found.site}, {counted(found.n_rows, 'row')}")
    ax.legend(fontsize=SMALL, frameon=False, loc="best")
    return figure_of(ax)


def _positions(site: Site, example: int) -> Array:
    """Give the positions of an example's rows, int64 `[row]`."""
    first, _ = site.trace.examples.extent(example)
    return axis_rows(site, site.rows_of(example)) - first


def _place(site: Site) -> str:
    return site.name if site.layer is None else f"{site.module}, layer {site.layer}"
