"""Plots of readouts: how well a column is said, layer by layer.

Knows which picture says what; how pictures look is in pictures.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from probekit.plots.pictures import (
    COLORS,
    MARKERS,
    SMALL,
    WIDE,
    axes_for,
    clean,
    figure_of,
    name_axes,
    number_ticks,
)
from probekit.wording import counted

if TYPE_CHECKING:
    from probekit.analysis import Readout

Array = np.ndarray[Any, Any]


def plot_readout(found: Readout, *, ax: Axes | None = None) -> Figure:
    """Draw the score by layer with its interval, that of shuffled labels, and the baseline."""
    ax = axes_for(ax, WIDE, 3.0)
    clean(ax)
    layers = [one.layer for one in found.layers if one.layer is not None]
    at = layers if len(layers) == len(found.layers) else list(range(len(found.layers)))
    interval = f"{found.confidence:.0%} interval"
    low, high = (np.array([getattr(one, end) for one in found.layers]) for end in ("low", "high"))
    score = np.array([one.score for one in found.layers])
    _band(ax, at, score, low, high, color=COLORS[0], marker=MARKERS[0],
          label=f"{found.target}, {interval}")  # fmt: skip
    if found.layers[0].shuffled:
        each = np.array([one.shuffled for one in found.layers])  # [layer, shuffle]
        _band(ax, at, each.mean(1), each.min(1), each.max(1), color=COLORS[1], marker=MARKERS[1],
              label=f"labels shuffled, {counted(each.shape[1], 'time')}")  # fmt: skip
    ax.axhline(
        found.baseline, color="0.35", linewidth=1, linestyle="--", label="always the same answer"
    )
    if found.measure == "r2":
        name = "R²"
    else:
        name = found.measure.replace("_", " ")
        ax.set_ylim(min(0.4, float(np.nanmin([*low, found.baseline])) - 0.05), 1.03)
    if at == layers:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        number_ticks(ax, "x", [one.site for one in found.layers])
    name_axes(
        ax, "layer", f"{name} on what was held out",
        f"{found.target} from {found.place} of {found.model}\n"
        f"{found.said_method()}; {counted(found.n_test, 'example')} held out",
    )  # fmt: skip
    ax.legend(fontsize=SMALL, frameon=False)
    return figure_of(ax)


def _band(
    ax: Axes, at: list[int], middle: Array, low: Array, high: Array,
    *, color: str, marker: str, label: str,
) -> None:  # fmt: skip
    """Draw a line and the band around it; of a lone layer a point and a bar."""
    if len(at) == 1:
        ax.errorbar(
            at, middle, yerr=[np.maximum(middle - low, 0), np.maximum(high - middle, 0)],
            color=color, marker=marker, markersize=4, capsize=3, linestyle="", label=label,
        )  # fmt: skip
        return
    ax.plot(at, middle, marker=marker, markersize=3.5, linewidth=1.2, color=color, label=label)
    ax.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
