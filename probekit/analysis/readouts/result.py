"""Readout: directions that say a column, one a layer, and how well each does.

Knows the numbers that were found and how they are shown; nothing of how they are worked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from probekit import arguments
from probekit.errors import StoreError
from probekit.extras import load_extra
from probekit.methods import results as methods
from probekit.trace import Shown, Table
from probekit.wording import counted, show

if TYPE_CHECKING:
    from probekit.store import Scalar

Array = np.ndarray[Any, Any]

_WORDS = {"r2": "R²"}
_CLASSES_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerReadout:
    """A readout of one site: of a row x of it, it says `(x * direction).sum() + bias`."""

    key: str  # what it is called in a file: "layer6", or the place, where it lies outside of layers
    site: str
    layer: int | None
    direction: Array  # float32, of a row's shape; [class, ...] of more than two classes
    bias: Array  # float64 [], or [class]
    strength: float | None  # of the penalty; None of a difference of means, which has none
    score: float  # on what was held out
    low: float  # of its interval
    high: float
    shuffled: tuple[float, ...]  # scores of readouts that were fitted on shuffled labels

    @property
    def shuffled_mean(self) -> float:
        """The mean of the scores of shuffled labels; NaN where there were none."""
        return float(np.mean(self.shuffled)) if self.shuffled else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Readout(Shown):
    """What was fitted on the rows of a place to say a column: one `LayerReadout` a layer.

    Of two classes a direction points from the first to the second, and a row is told to be of the
    second where what it says is above 0: of `logistic` that is the log-odds. Of more classes there
    is a direction for each, and the class is said whose value is the largest: of `logistic` they
    are log-probabilities but for what is common to all, so that only differences of directions
    mean something. Of numbers it is the number itself.

    Directions lie in the site's own space: they are told of rows as they were recorded.
    """

    path: str  # of the trace that it was fitted on
    model: str
    place: str  # the portable name, or the module path without its layer
    portable: str | None
    row_axes: tuple[str, ...]  # ("d_model",)
    row_shape: tuple[int, ...]
    target: str  # the column that it says
    classes: tuple[Scalar, ...]  # sorted; empty where it says numbers
    method: str  # logistic, ridge, mean_difference
    group: str | None  # the column whose groups were not parted
    pool: str | None
    split: float | str
    seed: int
    measure: str  # of the scores: accuracy, balanced_accuracy, r2
    baseline: float  # what it is to say always the same: the commonest class, the mean
    confidence: float  # of the intervals
    n_train: int  # examples
    n_test: int
    n_train_rows: int
    n_test_rows: int
    notes: tuple[str, ...]  # what was left out, and what to be careful with
    layers: tuple[LayerReadout, ...]

    @property
    def best(self) -> LayerReadout:
        """The layer with the highest score; as the best of several, its score flatters."""
        return max(self.layers, key=lambda one: (one.score, -self.layers.index(one)))

    def layer(self, number: int) -> LayerReadout:
        """Give the readout of a layer; -1 is the last of those that there are.

        Raises:
            StoreError: if none was fitted there.
        """
        return _at_layer(self.layers, number, f"of {self.place}")

    def to_pandas(self) -> Any:
        """Give a `pandas.DataFrame` with one row a layer."""
        pandas = load_extra("pandas", extra="analysis", purpose="to_pandas()")
        return pandas.DataFrame(
            [
                {
                    "layer": one.layer,
                    "site": one.site,
                    "score": one.score,
                    "low": one.low,
                    "high": one.high,
                    "shuffled": one.shuffled_mean,
                    "baseline": self.baseline,
                    "strength": one.strength,
                    "norm": float(np.linalg.norm(one.direction)),
                }
                for one in self.layers
            ]
        )

    plot = methods.plot_readout
    apply = methods.apply_readout
    save = methods.save_readout

    def _table(self) -> Table:
        measure = measure_word(self.measure)
        return Table(
            title=f"{self.target} from {self.place} of {self.model}: {self.said_method()}, "
            f"{measure} on {counted(self.n_test, 'example')} that {_were(self.n_test)} held out "
            f"({counted(self.n_train, 'example')} to train on)",
            columns=("layer", measure, "from", "to", "labels shuffled", "strength"),
            rows=[
                (
                    one.site if one.layer is None else one.layer,
                    one.score,
                    one.low,
                    one.high,
                    one.shuffled_mean,
                    "" if one.strength is None else one.strength,
                )
                for one in self.layers
            ],
            note="\n".join(
                [
                    f"always the same answer: {self.baseline:.3g}; from, to: "
                    f"{self.confidence:.0%} interval",
                    *(f"note: {note}" for note in self.notes),
                ]
            ),
        )

    def said_method(self) -> str:
        """Say how it was fitted, and which classes it tells apart."""
        method = self.method.replace("_", " ").replace("mean difference", "difference of means")
        if not self.classes:
            return method
        if len(self.classes) > _CLASSES_SHOWN:
            return f"{method}, {counted(len(self.classes), 'class', 'classes')}"
        return f"{method}, {' against '.join(map(show, self.classes))}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AppliedLayer:
    """What a readout says of the rows of one site."""

    key: str
    site: str
    layer: int | None
    scores: Array  # float64 [row], or [row, class] of more than two classes
    said: Array  # [row]: the class, or the number


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Applied(Shown):
    """What a readout says of the rows of a trace, layer by layer."""

    path: str
    target: str
    classes: tuple[Scalar, ...]
    examples: Array  # int64 [row]: whose each row is
    ids: Array  # [row]: the examples' ids
    layers: tuple[AppliedLayer, ...]

    def layer(self, number: int) -> AppliedLayer:
        """Give what is said of a layer; -1 is the last of those that there are.

        Raises:
            StoreError: if there is no readout of it.
        """
        return _at_layer(self.layers, number, "was applied")

    def to_pandas(self) -> Any:
        """Give a `pandas.DataFrame` with one row for each row of each layer.

        Its columns are `layer`, `site`, `example`, `id`, `said` and `score`, or of more than two
        classes a `score_...` for each.
        """
        pandas = load_extra("pandas", extra="analysis", purpose="to_pandas()")
        frames = []
        for one in self.layers:
            columns = {"layer": one.layer, "site": one.site, "example": self.examples}
            columns |= {"id": self.ids, "said": one.said}
            if one.scores.ndim == 1:
                columns["score"] = one.scores
            else:
                columns |= {f"score_{c}": one.scores[:, n] for n, c in enumerate(self.classes)}
            frames.append(pandas.DataFrame(columns))
        return pandas.concat(frames, ignore_index=True)

    def _table(self) -> Table:
        return Table(
            title=f"{self.target} as read from {self.path}: {counted(len(self.examples), 'row')}",
            columns=("layer", *self._columns()),
            rows=[
                (one.site if one.layer is None else one.layer, *self._said(one))
                for one in self.layers
            ],
        )

    def _columns(self) -> tuple[str, ...]:
        if 0 < len(self.classes) <= _CLASSES_SHOWN:
            return tuple(f"said {show(c)}" for c in self.classes)
        return ("classes said",) if self.classes else ("mean", "smallest", "largest")

    def _said(self, one: AppliedLayer) -> tuple[object, ...]:
        if not self.classes:
            nothing = not len(one.said)
            return (np.nan,) * 3 if nothing else (one.said.mean(), one.said.min(), one.said.max())
        if len(self.classes) > _CLASSES_SHOWN:
            return (len(set(one.said.tolist())),)
        return tuple(int((one.said == c).sum()) for c in self.classes)


_OneLayer = TypeVar("_OneLayer", LayerReadout, AppliedLayer)


def measure_word(measure: str) -> str:
    """Give a measure as it is written for people."""
    return _WORDS.get(measure, measure.replace("_", " "))


def _at_layer(layers: Sequence[_OneLayer], number: int, what: str) -> _OneLayer:
    """Give the one of a layer; -1 is the last of those that there are."""
    number = arguments.whole("layer", number)
    there = [one.layer for one in layers]
    if -len(there) <= number < 0:
        return layers[number]
    if number not in there:
        said = ", ".join(map(str, there))
        raise StoreError(f"no readout of layer {number} {what}; there is: {said}")
    return layers[there.index(number)]


def _were(n: int) -> str:
    return "was" if n == 1 else "were"
