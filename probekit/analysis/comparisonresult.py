"""What a comparison of two traces found, place by place and layer by layer.

Knows results and how they are shown; nothing of how they are worked out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit import arguments
from probekit.analysis.ckamatrix import CKAMatrix
from probekit.errors import StoreError
from probekit.extras import load_extra
from probekit.methods import results as methods
from probekit.trace import Shown, Table
from probekit.wording import counted

if TYPE_CHECKING:
    pass

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
        place = None if place is None else arguments.text("place", place)
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

    plot = methods.plot_comparison

    def _table(self) -> Table:
        return Table(
            title=f"A: {self.a_model} ({self.a})\nB: {self.b_model} ({self.b})\n"
            f"{counted(self.n_examples, 'text')}, {counted(self.n_tokens, 'token')}",
            columns=("place", "layer", *(name.replace("_", " ") for name in MEASURES), "rows"),
            rows=[
                (p.place, p.layer, *(getattr(p, name) for name in MEASURES), p.n_rows)
                for p in self.pairs
            ],
            note="\n".join(f"note: {note}" for note in self.notes),
        )


def _no_nan(values: Any) -> list[Any]:
    return [None if isinstance(value, float) and isnan(value) else value for value in values]
