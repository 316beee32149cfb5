"""Similarity: two traces over the same texts, compared layer by layer.

Knows what is computed of two sites that are the same place; which these are, pairing.py knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.alignment import align
from probekit.blocks import float64, row_slices
from probekit.cka import linear_cka
from probekit.errors import StoreError
from probekit.extras import load_extra
from probekit.overview import model_of
from probekit.pairing import Group, pair_up, width
from probekit.shown import Shown, Table
from probekit.trace import Trace, open_trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from probekit.site import Site

Array = np.ndarray[Any, Any]

MEASURES = ("cka", "cka_debiased", "cosine", "relative_difference", "largest_difference")


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePair:
    """The same place in two traces; NaN is what does not exist for it."""

    place: str  # a portable name, or the module path without its layer
    layer: int | None
    a: str  # the name of the site in the first trace
    b: str
    cka: float  # linear CKA of Kornblith et al. 2019, 0 to 1; biased upwards where rows are few
    cka_debiased: float  # the same, made of unbiased estimates; at most 1, about 0 by chance
    cosine: float  # mean over rows of the cosine of a row and its counterpart
    relative_difference: float  # ||A - B|| / ||A||, Frobenius norms
    largest_difference: float  # of any two values
    n_rows: int  # that were compared
    n_left_out: int  # because a value in them was not finite


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class CKAMatrix(Shown):
    """Linear CKA of every layer of one trace with every layer of the other."""

    place: str
    a_model: str
    b_model: str
    a: tuple[str, ...]  # names of the sites in the first trace
    b: tuple[str, ...]
    a_layers: tuple[str, ...]  # what to call them: "0", "1", ...
    b_layers: tuple[str, ...]
    values: Array  # float64 [a, b]
    debiased: Array  # float64 [a, b]
    n_rows: int
    n_left_out: int

    def to_pandas(self, *, debiased: bool = False) -> Any:
        """Give a `pandas.DataFrame` with the layers of the first trace down, of the other across.

        Args:
            debiased: the debiased values.
        """
        pandas = load_extra("pandas", extra="analysis", purpose="to_pandas()")
        values = self.debiased if debiased else self.values
        return pandas.DataFrame(values, index=list(self.a_layers), columns=list(self.b_layers))

    def plot(self, *, debiased: bool = False, ax: Axes | None = None) -> Figure:
        """Draw it as a map, the first layers in the lower left corner.

        Args:
            debiased: the debiased values.
            ax: matplotlib axes to draw in; a figure of its own where None.
        """
        load_extra("matplotlib", extra="analysis", purpose="plot()")
        from probekit.resultplots import plot_matrix

        return plot_matrix(self, debiased=debiased, ax=ax)

    def _table(self) -> Table:
        return Table(
            title=f"linear CKA at {self.place}: layers of {self.a_model} down, of {self.b_model} "
            "across",
            columns=("", *self.b_layers),
            rows=[(n, *map(float, row)) for n, row in zip(self.a_layers, self.values, strict=True)],
            note=f"over {self.n_rows:,} rows",
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Comparison(Shown):
    """Two traces, compared."""

    a: str  # the path of the first trace
    b: str
    a_model: str  # "distilgpt2, random weights, float32"
    b_model: str
    n_examples: int
    n_tokens: int  # of the first trace
    by_token: bool  # False where two tokenizers cut the texts into other tokens
    pairs: tuple[SitePair, ...]
    matrices: tuple[CKAMatrix, ...]
    notes: tuple[str, ...]  # what was left out, and why; what to be careful with

    def matrix(self, place: str | None = None) -> CKAMatrix:
        """Give the CKA matrix of a place; the only one where it is not said.

        Raises:
            StoreError: if there is none; the message says which there are.
        """
        there = [matrix.place for matrix in self.matrices]
        found = [m for m in self.matrices if place is None or m.place == place]
        if len(found) != 1:
            asked = f"of {place}" if place else "there is to choose" if there else "was made"
            raise StoreError(
                f"no CKA matrix {asked}; there is: {', '.join(there) or 'none'}. "
                "compare(..., matrix=True) makes one of every place with several layers"
            )
        return found[0]

    def to_pandas(self) -> Any:
        """Give a `pandas.DataFrame` with one row a pair of sites."""
        pandas = load_extra("pandas", extra="analysis", purpose="to_pandas()")
        return pandas.DataFrame(
            [asdict(pair) for pair in self.pairs], columns=[f.name for f in fields(SitePair)]
        )

    def to_json(self) -> dict[str, Any]:
        """Give everything as plain JSON values; null is what does not exist."""
        plain = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("pairs", "matrices", "notes")
        }
        matrices = [
            {
                **{f.name: getattr(m, f.name) for f in fields(m)},
                "values": [_no_nan(row) for row in m.values.tolist()],
                "debiased": [_no_nan(row) for row in m.debiased.tolist()],
            }
            for m in self.matrices
        ]
        pairs = [dict(zip(p, _no_nan(p.values()), strict=True)) for p in map(asdict, self.pairs)]
        return {**plain, "pairs": pairs, "matrices": matrices, "notes": list(self.notes)}

    def plot(self, measure: str = "cka", *, ax: Axes | None = None) -> Figure:
        """Draw a measure by layer, one line for each place; for a map see `matrix().plot()`.

        Args:
            measure: cka, cka_debiased, cosine, relative_difference or largest_difference.
            ax: matplotlib axes to draw in; a figure of its own where None.
        """
        load_extra("matplotlib", extra="analysis", purpose="plot()")
        from probekit.resultplots import plot_comparison

        if measure not in MEASURES:
            raise StoreError(f"there is no measure {measure!r}; expected {', '.join(MEASURES)}")
        return plot_comparison(self, measure, ax=ax)

    def _table(self) -> Table:
        return Table(
            title=f"A: {self.a_model} ({self.a})\nB: {self.b_model} ({self.b})\n"
            f"{self.n_examples:,} texts, {self.n_tokens:,} tokens",
            columns=("place", "layer", *(name.replace("_", " ") for name in MEASURES), "rows"),
            rows=[
                (p.place, p.layer, *(getattr(p, name) for name in MEASURES), p.n_rows)
                for p in self.pairs
            ],
            note="\n".join(f"note: {note}" for note in self.notes),
        )


def compare(
    a: Trace | str | Path,
    b: Trace | str | Path,
    *,
    sites: str | Sequence[str] | None = None,
    matrix: bool | None = None,
) -> Comparison:
    """Compare two traces over the same texts, layer by layer.

    Sites are the same place if they have the same name, or the same portable name and layer. Linear
    CKA (Kornblith et al. 2019) compares any two representations; the cosine and the differences
    are of values in the same places, and mean something where the two models share a basis: a
    model and its fine-tuned copy, two dtypes, two versions. They need equal widths. Of attention
    there is no CKA, its keys being no dimensions. Everything is streamed, and summed in float64.

    Args:
        a: a trace, or its path.
        b: another, over the same texts; of the same model or another.
        sites: portable names or globs of sites (of `a`), one or several; all that both have where
            None. Token ids, `top_k` and `scores` are not compared.
        matrix: also compare every layer with every other; where None, if the models are two. It
            costs as many CKAs as there are pairs of layers.

    Raises:
        StoreError: if the texts differ, if the tokens do under one tokenizer, or if nothing can be
            compared; the message names the first example that differs, or what was recorded.
            Texts that two tokenizers cut differently are compared example by example: sites with
            `pool`, or at `positions: last`.

    Example:
        >>> probekit.compare("runs/base", "runs/tuned", sites="resid_post")
    """
    a, b = (t if isinstance(t, Trace) else open_trace(t) for t in (a, b))
    alignment = align(a, b)
    groups, notes = pair_up(a, b, sites, alignment)
    with_matrix = _two_models(a, b) if matrix is None else matrix
    pairs: list[SitePair] = []
    matrices: list[CKAMatrix] = []
    for group in groups:
        found = _matrix(group, a, b) if with_matrix and group.has_features else None
        pairs += [_pair(group, i, j, found) for i, j in group.pairs]
        if found is not None and found.values.size > 1:
            matrices.append(found)
    return Comparison(
        a=str(a.path),
        b=str(b.path),
        a_model=f"{model_of(a)}, {a.provenance.get('dtype')}",
        b_model=f"{model_of(b)}, {b.provenance.get('dtype')}",
        n_examples=len(a.examples),
        n_tokens=len(a.tokens),
        by_token=alignment.by_token,
        pairs=tuple(pairs),
        matrices=tuple(matrices),
        notes=(*notes, *_few_rows(groups), *_left_out(pairs)),
    )


def _two_models(a: Trace, b: Trace) -> bool:
    keys = ("model_name", "model_revision", "model_weights", "model_class", "n_layers", "d_model")
    return any(a.provenance.get(key) != b.provenance.get(key) for key in keys)


def _few_rows(groups: Sequence[Group]) -> list[str]:
    found = []
    for group in groups:
        widest = max(width(site) for site in (*group.xs, *group.ys))
        if group.has_features and len(group.xs[0]) < 2 * widest:
            found.append(
                f"{group.place}: {len(group.xs[0]):,} rows of {widest:,} dimensions are few: plain "
                "CKA is high by chance; go by the debiased one"
            )
    return found


def _left_out(pairs: Sequence[SitePair]) -> list[str]:
    return [
        f"{pair.a}: {pair.n_left_out:,} rows are left out, in which a value is not finite"
        for pair in pairs
        if pair.n_left_out
    ]


def _matrix(group: Group, a: Trace, b: Trace) -> CKAMatrix:
    found = linear_cka(group.xs, group.ys)
    return CKAMatrix(
        place=group.place,
        a_model=model_of(a),
        b_model=model_of(b),
        a=tuple(site.name for site in group.xs),
        b=tuple(site.name for site in group.ys),
        a_layers=tuple(map(_layer, group.xs)),
        b_layers=tuple(map(_layer, group.ys)),
        values=found.plain,
        debiased=found.debiased,
        n_rows=found.n_rows,
        n_left_out=found.n_left_out,
    )


def _layer(site: Site) -> str:
    return site.name if site.layer is None else str(site.layer)


def _pair(group: Group, i: int, j: int, matrix: CKAMatrix | None) -> SitePair:
    x, y = group.xs[i], group.ys[j]
    if matrix is not None:
        cka, debiased = matrix.values[i, j], matrix.debiased[i, j]
    elif group.has_features:
        found = linear_cka([x], [y])
        cka, debiased = found.plain[0, 0], found.debiased[0, 0]
    else:
        cka = debiased = nan
    differences = _differences(x, y)
    return SitePair(
        place=group.place,
        layer=x.layer,
        a=x.name,
        b=y.name,
        cka=float(cka),
        cka_debiased=float(debiased),
        **differences,
    )


def _differences(x: Site, y: Site) -> dict[str, Any]:
    """Compare values in the same places, in one pass."""
    same_width = x.shape[1:] == y.shape[1:]
    n_rows = n_cosines = 0
    cosines = apart = size = largest = 0.0
    for rows in row_slices(len(x), (width(x) + width(y),)):
        u, v = (float64(site[rows]).reshape(rows.stop - rows.start, -1) for site in (x, y))
        finite = np.isfinite(u).all(1) & np.isfinite(v).all(1)
        n_rows += int(finite.sum())
        if not same_width or not finite.any():
            continue
        u, v = u[finite], v[finite]
        norms = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
        cosines += float(((u * v).sum(1)[norms > 0] / norms[norms > 0]).sum())
        n_cosines += int((norms > 0).sum())
        apart += float(((u - v) ** 2).sum())
        size += float((u**2).sum())
        largest = max(largest, float(np.abs(u - v).max()))
    compared = same_width and n_rows > 0
    return {
        "cosine": cosines / n_cosines if n_cosines and width(x) > 1 else nan,
        "relative_difference": (apart / size) ** 0.5 if compared and size else nan,
        "largest_difference": largest if compared else nan,
        "n_rows": n_rows,
        "n_left_out": len(x) - n_rows,
    }


def _no_nan(values: Any) -> list[Any]:
    return [None if isinstance(value, float) and isnan(value) else value for value in values]
