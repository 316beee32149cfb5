"""Fitting: from labels to directions, layer by layer.

Knows the order of the steps: which sites, which examples on which side, what is fitted, how it is
scored. What is held at a time is bounded: rows that do not fit are streamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from probekit import arguments
from probekit.analysis.readouts.asking import (
    Options,
    checked_shuffles,
    key_of,
    measure_of,
    place_of,
    places_of,
    share_of,
    sides_of,
    strength_of,
)
from probekit.analysis.readouts.result import LayerReadout, Readout
from probekit.analysis.readouts.scaling import scaling_of
from probekit.analysis.readouts.scoring import ACCURACY, Tally, measured
from probekit.analysis.readouts.siterows import SiteRows, check_pool
from probekit.analysis.readouts.solving import choose_strength, solve
from probekit.analysis.readouts.splitting import Labelled, folds_of, shuffled_labels
from probekit.analysis.readouts.streaming import (
    Blocks,
    logistic_streamed,
    mean_differences,
    ridge_streamed,
)
from probekit.analysis.readouts.targets import MEAN_DIFFERENCE, RIDGE, Target, target_of
from probekit.errors import StoreError
from probekit.extras import load_extra
from probekit.trace import Patterns, Trace, model_of, open_trace
from probekit.wording import by_count, counted, human_bytes

Array = np.ndarray[Any, Any]

MEMORY_BYTES = 1 << 30
_FOLDS = 3
_ROW_FACTOR = 2 * 8  # bytes a feature: float64, and each fold holds the rows once more
_SMALL_BYTES = 32 << 20  # of rows
_FEW_UNITS = 10  # below which a bootstrap's interval is rough


def fit_readout(
    trace: Trace | str | Path,
    sites: Patterns,
    *,
    target: str,
    split: float | str = 0.2,
    group: str | None = None,
    method: str | None = None,
    pool: str | None = None,
    strength: float | None = None,
    measure: str | None = None,
    shuffles: int = 5,
    confidence: float = 0.95,
    seed: int = 0,
    memory_bytes: int = MEMORY_BYTES,
) -> Readout:
    """Fit a linear readout of a column on the rows of a place, one a layer, and score it.

    A part of the examples is held out; no example, and no group, is on both sides. Beside each
    score stand its interval, what the same fit scores whose training labels are shuffled, and what
    it is to say always the same. Examples without a value of the column are left out.

    - `logistic`, the default for classes: logistic regression, multinomial of more than two.
    - `ridge`, the default for numbers: ridge regression.
    - `mean_difference`: the mean of one class less that of the other, told apart midway.

    Classes are text, true and false, and numbers of which at most ten are distinct, all whole.

    `logistic` and `ridge` are scikit-learn's, on features of unit variance; that is folded back
    into the direction. They minimise the mean loss over rows plus `strength / 2` times the squared
    size of the direction (of scaled features). Rows that do not fit into `memory_bytes` are
    streamed: the same objective, solved in passes over the trace.

    A site with several rows an example (all its tokens) gives each of them the example's label, and
    each counts alike; `pool` makes one of them. Rows with several axes, such as `z`, are laid flat
    for the fit, and directions have their shape.

    Args:
        trace: a trace, or its path.
        sites: a portable name, such as `resid_post`, which means all its layers, or globs of sites
            of one place.
        target: the column that is to be said.
        split: the share of the examples that is held out; or a column that says who is: true, or
            "test", and false, or "train".
        group: a column; examples with the same value are never on both sides of the split. Without
            it completions of one prompt are not.
        method: see above.
        pool: `mean` or `last` of an example's rows.
        strength: of the penalty; chosen among 1, 0.1, 0.01 and 0.001 by cross-validation on
            training rows where it is not said.
        measure: of scores: `accuracy` (of classes, where it is not said), `balanced_accuracy` (the
            mean over classes of the share of a class that is told), `r2` (of numbers).
        shuffles: how many times labels are shuffled, and fitted again.
        confidence: of the intervals: Wilson's of the accuracy over one row an example, otherwise
            percentiles of a bootstrap over examples or groups.
        seed: of the split, the folds, the shuffles and the bootstrap.
        memory_bytes: of rows, as they are held for a fit.

    Raises:
        StoreError: if there is no such site or column, classes or examples are too few, or values
            are not finite; the message says which.
        ProbekitError: if scikit-learn is not installed.

    Example:
        >>> readout = probekit.fit_readout("runs/truth", "resid_post", target="label")
        >>> readout.plot().savefig("truth.png")
        >>> readout.save("truth.safetensors")
    """
    trace = trace if isinstance(trace, Trace) else open_trace(trace)
    said = target_of(trace, target, method)
    if said.method != MEAN_DIFFERENCE:
        load_extra("sklearn.linear_model", extra="analysis", purpose="fit_readout")
    options = Options(
        pool=check_pool(pool),
        strength=strength_of(strength, said),
        measure=measure_of(measure, said),
        n_shuffles=checked_shuffles(shuffles),
        confidence=share_of("confidence", confidence),
        seed=arguments.whole("seed", seed, least=0),
        memory_bytes=int(arguments.positive("memory_bytes", memory_bytes)),
    )
    chosen = places_of(trace, sites)
    data, held, notes = sides_of(trace, chosen[0], said, split, group, options)
    rows = SiteRows(chosen[0], options.pool)
    layers, tallies = [], []
    with _few_threads(_held_bytes(rows, data.examples)):
        for site in chosen:
            fitted, tally = _fit(SiteRows(site, options.pool), said, data, held, options)
            layers.append(fitted)
            tallies.append(tally)
    return Readout(
        path=str(trace.path),
        model=model_of(trace),
        place=place_of(chosen[0]),
        portable=chosen[0].portable,
        row_axes=chosen[0].axes[1:],
        row_shape=tuple(chosen[0].shape[1:]),
        target=said.column,
        classes=said.classes,
        method=said.method,
        group=group,
        pool=options.pool,
        split=split,
        seed=options.seed,
        measure=options.measure,
        baseline=_baseline(rows, said, data, held, options),
        confidence=options.confidence,
        n_train=int((~held).sum()),
        n_test=int(held.sum()),
        n_train_rows=int(rows.counts(data.examples[~held]).sum()),
        n_test_rows=int(rows.counts(data.examples[held]).sum()),
        notes=(
            *notes,
            *_careful(data, held, tallies[0], options, group),
            *_how_streamed(rows, said, data.part(~held), options),
        ),
        layers=tuple(layers),
    )


def _few_threads(n_bytes: int) -> AbstractContextManager[object]:
    """Let small products be computed by one thread: several wait for each other longer."""
    if n_bytes > _SMALL_BYTES or find_spec("threadpoolctl") is None:
        return nullcontext()
    pools = load_extra("threadpoolctl", extra="analysis", purpose="fit_readout")
    limited: AbstractContextManager[object] = pools.threadpool_limits(1)
    return limited


def _fit(
    rows: SiteRows, target: Target, data: Labelled, held: Array, options: Options
) -> tuple[LayerReadout, Tally]:
    """Fit one site and score it."""
    site, train, test = rows.site, data.part(~held), data.part(held)
    shuffled = shuffled_labels(train, options.n_shuffles, options.seed)
    labels = np.concatenate([train.labels[None], shuffled])  # [set, example]
    strength, weights, bias = _solved(rows, target, train, labels, options)
    # What is kept is what is scored: single precision, as tensors of directions are.
    weights = weights.astype(np.float32)
    tally = Tally(target, test.unit_numbers, test.labels, len(labels))
    wide = weights.astype(np.float64).reshape(-1, rows.n_features)
    for owners, block in rows.blocks(test.examples):
        outputs = block @ wide.T + bias.reshape(-1)
        tally.add(owners, outputs.reshape(len(block), len(labels), -1))
    scores = tally.scores(options.measure, options.confidence, options.seed)
    of_classes = target.n_outputs > 1
    shape = site.shape[1:]
    fitted = LayerReadout(
        key=key_of(site),
        site=site.name,
        layer=site.layer,
        direction=weights[0].reshape(-1, *shape) if of_classes else weights[0].reshape(shape),
        bias=bias[0] if of_classes else bias[0].reshape(()),
        strength=strength,
        score=scores.score,
        low=scores.low,
        high=scores.high,
        shuffled=scores.shuffled,
    )
    return fitted, tally


def _solved(
    rows: SiteRows, target: Target, train: Labelled, labels: Array, options: Options
) -> tuple[float | None, Array, Array]:
    """Give the strength, directions float64 `[set, output, feature]` and biases `[set, output]`."""

    def blocks() -> Iterator[tuple[Array, Array]]:
        return rows.blocks(train.examples)

    if target.method == MEAN_DIFFERENCE:
        return None, *mean_differences(blocks, labels, rows.n_features)
    if _held_bytes(rows, train.examples) > options.memory_bytes:
        return _solved_streamed(rows, target, train, labels, blocks, options)
    owners, matrix = rows.matrix(train.examples)
    scaling = scaling_of([matrix], rows.n_features)
    scaling.scale(matrix, out=matrix)
    strength = options.strength
    if strength is None:
        folds = folds_of(train, _FOLDS, target, options.seed)
        of_rows = None if folds is None else folds[owners]
        strength = choose_strength(target, matrix, train.labels[owners], of_rows)
    found = solve(target, matrix, labels[:, owners], strength)
    return strength, *scaling.unscaled(*found)


def _solved_streamed(
    rows: SiteRows,
    target: Target,
    train: Labelled,
    labels: Array,
    blocks: Blocks,
    options: Options,
) -> tuple[float | None, Array, Array]:
    """Do the same in passes over the rows."""
    covariances = 8 * rows.n_features**2
    if target.method == RIDGE and covariances > options.memory_bytes:
        raise StoreError(
            f"{rows.site.name}: the covariances of {counted(rows.n_features, 'feature')} take "
            f"{human_bytes(covariances)}, and memory_bytes is {human_bytes(options.memory_bytes)}; "
            "give more, or record fewer features (neurons:)"
        )
    scaling = scaling_of((block for _, block in blocks()), rows.n_features)
    strength = options.strength
    if strength is None:
        some = _some(rows, train, options)
        owners, matrix = rows.matrix(some.examples)
        scaling.scale(matrix, out=matrix)
        folds = folds_of(some, _FOLDS, target, options.seed) if len(some.examples) else None
        of_rows = None if folds is None else folds[owners]
        strength = choose_strength(target, matrix, some.labels[owners], of_rows)
        del matrix
    if target.method == RIDGE:
        found = ridge_streamed(blocks, labels, scaling, strength)
    else:
        found = logistic_streamed(blocks, labels, target, scaling, strength)
    return strength, *scaling.unscaled(*found)


def _how_streamed(
    rows: SiteRows, target: Target, train: Labelled, options: Options
) -> Iterator[str]:
    """Say that rows were streamed, and what the strength was chosen on."""
    n_bytes = _held_bytes(rows, train.examples)
    if target.method == MEAN_DIFFERENCE or n_bytes <= options.memory_bytes:
        return
    yield (
        f"a layer's rows were streamed: in memory they would take {human_bytes(n_bytes)}, and "
        f"memory_bytes is {human_bytes(options.memory_bytes)}"
    )
    if options.strength is None:
        n_tried = len(_some(rows, train, options).examples)
        yield (
            "the strength was chosen on "
            f"{counted(n_tried, 'example', of=len(train.examples))} to train on"
        )


def _some(rows: SiteRows, train: Labelled, options: Options) -> Labelled:
    """Draw examples whose rows fit into memory, to choose a strength on."""
    order = np.random.default_rng([options.seed, 4]).permutation(len(train.examples))
    taken = _ROW_FACTOR * rows.n_features * np.cumsum(rows.counts(train.examples[order]))
    return train.part(np.sort(order[: np.searchsorted(taken, options.memory_bytes, side="right")]))


def _held_bytes(rows: SiteRows, examples: Array) -> int:
    """Say what a fit in memory holds."""
    return _ROW_FACTOR * rows.n_features * int(rows.counts(examples).sum())


def _baseline(
    rows: SiteRows, target: Target, data: Labelled, held: Array, options: Options
) -> float:
    """Score saying always the same: the class, or the mean, that most training rows have."""
    train, test = data.part(~held), data.part(held)
    often = rows.counts(train.examples)
    times = rows.counts(test.examples)
    if target.classes:
        n_classes = len(target.classes)
        commonest = np.bincount(train.labels, often, n_classes).argmax()
        seen = np.bincount(test.labels, times, n_classes)
        told = np.where(np.arange(n_classes) == commonest, seen, 0)
        return float(measured(options.measure, np.concatenate([seen, told])[None])[0])
    true = test.labels - np.average(train.labels, weights=often)
    sums = [times.sum(), (times * true).sum(), (times * true**2).sum(), (times * true**2).sum()]
    return float(measured(options.measure, np.array([sums]))[0])


def _careful(
    data: Labelled, held: Array, tally: Tally, options: Options, group: str | None
) -> list[str]:
    """Say what to be careful with."""
    n_units = len(np.unique(data.units[held]))
    is_wilson = options.measure == ACCURACY and tally.has_lone_rows
    notes = []
    if n_units < _FEW_UNITS and not is_wilson:
        are_single = group is None and n_units == np.count_nonzero(held)
        what = counted(n_units, "example" if are_single else "group")
        notes.append(f"{what} {by_count(n_units, 'is', 'are')} held out: the interval is rough")
    return notes
