"""Plots of results: norms by layer, scores of heads, similarity, the logit lens.

Knows which picture says what; how pictures look is in pictures.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from probekit import arguments
from probekit.analysis import MEASURES, pooled
from probekit.errors import StoreError
from probekit.plots.pictures import (
    COLORS,
    MAP,
    MARKERS,
    SMALL,
    WIDE,
    axes_for,
    clean,
    color_bar,
    drawn,
    figure_of,
    name_axes,
    number_ticks,
    token_ticks,
    write_cell,
    write_values,
)
from probekit.trace import layerless
from probekit.wording import counted

if TYPE_CHECKING:
    from probekit.analysis import (
        CKAMatrix,
        Comparison,
        HeadScores,
        Lens,
        LensExample,
        TraceStatistics,
    )

Array = np.ndarray[Any, Any]

_WRITTEN = 14  # rows and columns of a map up to which its values are written into it


def plot_norms(found: TraceStatistics, *, ax: Axes | None = None) -> Figure:
    """Draw the mean L2 norm of a site's rows by layer, and from the smallest to the largest."""
    lines: dict[str, list[tuple[int, Any]]] = {}
    for site in found.sites:
        if site.layer is not None and site.axes not in ((), ("head",)):
            name = site.portable or layerless(site.site)
            norms = pooled(site.norms)
            lines.setdefault(name, []).append(
                (site.layer, (norms.mean, norms.smallest, norms.largest))
            )
    if not lines:
        raise StoreError(f"{found.path}: there are no statistics of sites inside of layers to draw")
    ax = axes_for(ax, WIDE, 3.2)
    clean(ax)
    for number, (name, points) in enumerate(lines.items()):
        layers, ends = zip(*points, strict=True)
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        mean, low, high = ([float(e[k]) for e in ends] for k in range(3))
        ax.plot(layers, mean, marker=marker, markersize=3.5, linewidth=1.2, color=color, label=name)
        ax.fill_between(layers, low, high, color=color, alpha=0.15, linewidth=0)
    every = [n for points in lines.values() for _, ends in points for n in ends if n > 0]
    if every and max(every) > 30 * min(every):
        ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    name_axes(ax, "layer", "L2 norm of a row", "mean, and from the smallest to the largest row")
    ax.legend(fontsize=SMALL, frameon=False)
    return figure_of(ax)


def plot_head_scores(found: HeadScores, kind: str, *, ax: Axes | None = None) -> Figure:
    """Draw a kind of score as a map, layers down, heads across."""
    scores, sites, heads = found.matrix(kind)
    layers = {h.site: h.site if h.layer is None else str(h.layer) for h in found.heads}
    ax = axes_for(ax, *_map_size(len(heads), len(sites)))
    image = ax.imshow(scores, cmap=MAP, vmin=0, vmax=1, aspect="auto")
    number_ticks(ax, "x", [str(h) for h in heads])
    number_ticks(ax, "y", [layers[s] for s in sites])
    if max(scores.shape) <= _WRITTEN:
        write_values(ax, scores, image)
    words = kind.replace("_", "-")
    name_axes(ax, "head", "layer", f"{words} heads, over {counted(found.n_queries[kind], 'token')}")
    color_bar(ax, image, f"{words} score")
    return figure_of(ax)


def plot_matrix(found: CKAMatrix, *, debiased: bool, ax: Axes | None = None) -> Figure:
    """Draw a CKA matrix, the first layer of both in the lower left corner."""
    values = found.debiased if debiased else found.values
    ax = axes_for(ax, *_map_size(len(found.b), len(found.a)))
    image = ax.imshow(values, cmap=MAP, vmin=0, vmax=1, origin="lower", aspect="auto")
    number_ticks(ax, "x", found.b_layers)
    number_ticks(ax, "y", found.a_layers)
    if max(values.shape) <= _WRITTEN:
        write_values(ax, values, image)
    name_axes(ax, f"layer of {found.b_model}", f"layer of {found.a_model}", found.place)
    color_bar(ax, image, "linear CKA, debiased" if debiased else "linear CKA")
    return figure_of(ax)


def plot_comparison(found: Comparison, measure: str, *, ax: Axes | None = None) -> Figure:
    """Draw a measure by layer, one line for each place."""
    if arguments.text("measure", measure) not in MEASURES:
        raise StoreError(f"there is no measure {measure!r}; expected {', '.join(MEASURES)}")
    lines: dict[str, list[tuple[int, float]]] = {}
    for pair in found.pairs:
        value = getattr(pair, measure)
        if pair.layer is not None and np.isfinite(value):
            lines.setdefault(pair.place, []).append((pair.layer, value))
    if not lines:
        raise StoreError(f"there is no {measure} of sites inside of layers to draw")
    ax = axes_for(ax, WIDE, 3.0)
    clean(ax)
    for number, (place, points) in enumerate(lines.items()):
        layers, values = zip(*sorted(points), strict=True)
        ax.plot(
            layers, values, marker=MARKERS[number % len(MARKERS)], markersize=4, linewidth=1.2,
            color=COLORS[number % len(COLORS)], label=place,
        )  # fmt: skip
    if measure != "largest_difference" and measure != "relative_difference":
        low = min(value for points in lines.values() for _, value in points)
        ax.set_ylim(min(0.0, low), 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    name_axes(ax, "layer", measure.replace("cka", "CKA").replace("_", " "),
              f"{found.a_model} and {found.b_model}")  # fmt: skip
    ax.legend(fontsize=SMALL, frameon=False)
    return figure_of(ax)


def plot_lens(found: Lens, *, ax: Axes | None = None) -> Figure:
    """Draw KL to the final prediction, entropy and surprise by layer."""
    ax = axes_for(ax, WIDE, 3.0)
    clean(ax)
    measures = {
        "KL(final || layer)": [m.kl for m in found.by_layer],
        "entropy": [m.entropy for m in found.by_layer],
        "- log-probability of the next token": [-m.logprob for m in found.by_layer],
    }
    for number, (name, values) in enumerate(measures.items()):
        ax.plot(
            found.layers, values, marker=MARKERS[number], markersize=4, linewidth=1.2,
            color=COLORS[number], label=name,
        )  # fmt: skip
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    name_axes(ax, "layer", "nats", f"logit lens, mean over {counted(len(found.rows), 'token')}")
    ax.legend(fontsize=SMALL, frameon=False)
    return figure_of(ax)


def plot_lens_example(found: LensExample, *, ax: Axes | None = None) -> Figure:
    """Draw what every layer says after every token, the last layer on top."""
    n_layers, n_tokens = found.probability.shape
    words = [[drawn(word) for word in row] for row in found.said]
    widest = max((len(word) for row in words for word in row), default=1)
    cell = float(np.clip(0.062 * widest + 0.1, 0.3, 0.75))
    ax = axes_for(ax, max(3.0, cell * n_tokens + 1.6), max(2.0, 0.19 * n_layers + 1.2))
    image = ax.imshow(found.probability, cmap=MAP, vmin=0, vmax=1, origin="lower", aspect="auto")
    for row, column in np.ndindex(n_layers, n_tokens):
        word = words[row][column]
        word = word if len(word) <= 10 else f"{word[:9]}…"
        write_cell(ax, row, column, word, image, float(found.probability[row, column]))
    token_ticks(ax, "x", found.tokens)
    number_ticks(ax, "y", [str(layer) for layer in found.layers])
    name_axes(
        ax, f"token of example {found.number}", "layer", "likeliest next token after each layer"
    )
    color_bar(ax, image, "its probability")
    return figure_of(ax)


def _map_size(columns: int, rows: int) -> tuple[float, float]:
    cell = 0.34 if max(columns, rows) <= _WRITTEN else 0.15
    width, height = (float(np.clip(cell * n, 2.0, 5.5)) for n in (columns, rows))
    return width + 1.7, height + 0.9
