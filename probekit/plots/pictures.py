"""Pictures: what every plot shares.

Knows matplotlib: figures that show themselves in a notebook, sizes, colours that a colour-blind
reader tells apart, tokens as labels. Nothing here touches pyplot or the global settings, and a
user's own settings (fonts, sizes) hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage

from probekit.errors import StoreError
from probekit.trace import visible_token
from probekit.wording import show_typed

Array = np.ndarray[Any, Any]

SMALL, NORMAL = 7.5, 9.0  # points; at their own size, 9 is the text of a paper's caption
WIDE = 5.5  # inches, the text width of most papers
MAP = "viridis"  # even in lightness, also in grey and for the colour-blind
WEIGHTS = "Blues"  # 0 is white
# Okabe & Ito, "Color Universal Design" (2008); yellow, too light on white, is left out.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LABELS = 64  # tokens; beyond that positions are counted instead
_NOTEBOOK_DPI = 110


class Picture(Figure):
    """A figure that shows itself in a notebook, and that pyplot knows nothing of."""

    def _repr_png_(self) -> bytes:
        image = BytesIO()
        FigureCanvasAgg(self).print_figure(image, format="png", dpi=_NOTEBOOK_DPI)
        return image.getvalue()


def axes_for(ax: Axes | None, width: float, height: float) -> Axes:
    """Give the axes to draw in: those given, or those of a new figure of that size in inches."""
    if ax is not None:
        if not isinstance(ax, Axes):
            raise StoreError(f"ax is {show_typed(ax)}; expected axes of matplotlib, or None")
        return ax
    return new_figure(width, height).add_subplot()


def new_figure(width: float, height: float) -> Picture:
    """Give an empty figure, inches."""
    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_of(ax: Axes) -> Figure:
    """Give the figure that axes are in."""
    return cast(Figure, ax.get_figure(root=True))


def name_axes(ax: Axes, x: str, y: str, title: str) -> None:
    """Label axes and give them a title, as text: a `$` is no formula."""
    ax.set_xlabel(x, fontsize=NORMAL, parse_math=False)
    ax.set_ylabel(y, fontsize=NORMAL, parse_math=False)
    ax.set_title(title, fontsize=NORMAL, parse_math=False)
    ax.tick_params(labelsize=SMALL)


def color_bar(ax: Axes, image: AxesImage, label: str) -> None:
    """Add the scale of a map, beside it."""
    bar = figure_of(ax).colorbar(image, ax=ax, shrink=0.85, pad=0.02)
    bar.set_label(label, fontsize=NORMAL)
    bar.ax.tick_params(labelsize=SMALL)


def clean(ax: Axes) -> None:
    """Take the upper and the right frame away, and draw a light grid behind."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)


def token_ticks(ax: Axes, axis: str, tokens: Sequence[str], *, first: int = 0) -> None:
    """Label an axis with tokens, or with their positions where they are too many.

    Args:
        ax: whose axis.
        axis: "x" or "y".
        tokens: one a place.
        first: the position of the first one.
    """
    if len(tokens) > _LABELS:
        step = 10 ** int(np.log10(len(tokens) / 5))
        places = np.arange(0, len(tokens), step)
        _ticks(ax, axis, places, [str(first + p) for p in places])
        return
    rotation = 90 if axis == "x" else 0
    _ticks(ax, axis, range(len(tokens)), [drawn(token) for token in tokens], rotation=rotation)


def number_ticks(ax: Axes, axis: str, names: Sequence[str]) -> None:
    """Label an axis with names, with every second, fifth, ... where they are many."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 10**9) if len(names) <= 16 * s)
    places = range(0, len(names), step)
    long = max(map(len, names)) > 4 and axis == "x"
    _ticks(ax, axis, places, [names[p] for p in places], rotation=90 if long else 0)


def _ticks(ax: Axes, axis: str, places: Any, labels: Sequence[str], rotation: float = 0) -> None:
    setter = ax.set_xticks if axis == "x" else ax.set_yticks
    setter(list(places), list(labels), fontsize=SMALL, rotation=rotation, parse_math=False)


def write_values(ax: Axes, values: Array, image: AxesImage, form: str = "{:.2f}") -> None:
    """Write a map's values into its cells, dark on light and light on dark."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            write_cell(ax, row, column, form.format(value).replace("0.", "."), image, float(value))


def write_cell(ax: Axes, row: int, column: int, text: str, image: AxesImage, value: float) -> None:
    """Write into one cell of a map."""
    red, green, blue, _ = image.to_rgba(np.array([value]))[0]
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
    ax.text(
        column, row, text, ha="center", va="center", fontsize=SMALL - 1,
        color="black" if light else "white", parse_math=False,
    )  # fmt: skip


def drawn(token: str) -> str:
    """Give a token as a label: its leading space goes, what the font lacks is written out."""
    text = visible_token(token)
    if text.startswith(" ") and text.strip():
        text = text[1:]
    text = text.replace(" ", "␣") if not text.strip() else text
    there = _characters()
    return "".join(c if ord(c) in there else f"\\u{ord(c):04x}" for c in text) or "''"


def _characters() -> frozenset[int]:
    return _characters_of(findfont(FontProperties()))


@cache
def _characters_of(font: str) -> frozenset[int]:
    return frozenset(get_font(font).get_charmap())
