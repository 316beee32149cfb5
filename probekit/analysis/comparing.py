"""Similarity: two traces over the same texts, compared layer by layer.

Knows what is computed of two sites that are the same place; which these are, sitepairs.py knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.analysis.alignment import align
from probekit.analysis.cka import linear_cka
from probekit.analysis.ckamatrix import CKAMatrix
from probekit.analysis.comparisonresult import Comparison, SitePair
from probekit.analysis.sitepairs import Group, pair_up, width
from probekit.trace import Trace, float64, model_of, open_trace, row_slices
from probekit.wording import by_count, counted

if TYPE_CHECKING:
    from probekit.trace import Site

Array = np.ndarray[Any, Any]


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
    keys = (
        *("model_name", "model_revision", "model_weights", "model_digest", "model_class"),
        *("n_layers", "d_model"),
    )
    return any(a.provenance.get(key) != b.provenance.get(key) for key in keys)


def _few_rows(groups: Sequence[Group]) -> list[str]:
    found = []
    for group in groups:
        widest = max(width(site) for site in (*group.xs, *group.ys))
        n_rows = len(group.xs[0])
        if group.has_features and n_rows < 2 * widest:
            found.append(
                f"{group.place}: {counted(n_rows, 'row')} of {counted(widest, 'dimension')} "
                f"{by_count(n_rows, 'is', 'are')} few: plain CKA is high by chance; go by the "
                "debiased one"
            )
    return found


def _left_out(pairs: Sequence[SitePair]) -> list[str]:
    return [
        f"{pair.a}: {counted(pair.n_left_out, 'row')} "
        f"{by_count(pair.n_left_out, 'is', 'are')} left out, in which a value is not finite"
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
    differences = _differences(x, y)
    # A matrix leaves out the rows in which any layer is not finite; a pair only its own.
    if matrix is not None and matrix.n_rows == differences["n_rows"]:
        cka, debiased = matrix.values[i, j], matrix.debiased[i, j]
    elif group.has_features:
        found = linear_cka([x], [y])
        cka, debiased = found.plain[0, 0], found.debiased[0, 0]
    else:
        cka = debiased = nan
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
