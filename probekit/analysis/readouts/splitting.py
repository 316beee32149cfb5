"""Splitting: which examples a readout learns from, and which it is scored on.

Knows labels and units (examples, or groups of them) that lie on one side whole; nothing of rows.
All is drawn from a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from probekit.analysis.readouts.targets import Target
from probekit.errors import StoreError
from probekit.wording import by_count, counted, show

Array = np.ndarray[Any, Any]

_TRIES = 100  # at a split of groups that has every class on both sides


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """Examples with what is to be said of them."""

    examples: Array  # int64 [example]: numbers in the trace, ascending
    units: Array  # int64 [example]: what may not be parted; any numbers
    labels: Array  # [example]: int64 classes or float64 numbers

    def part(self, which: Array) -> Labelled:
        """Give some of them: a mask of bools, or places."""
        return Labelled(
            examples=self.examples[which], units=self.units[which], labels=self.labels[which]
        )

    @property
    def unit_numbers(self) -> Array:
        """The unit of each example, numbered from 0, int64 `[example]`."""
        numbers: Array = np.unique(self.units, return_inverse=True)[1]
        return numbers

    @property
    def is_alike(self) -> bool:
        """Whether all examples of a unit have one label."""
        numbers = self.unit_numbers
        first = np.zeros(numbers.max(initial=-1) + 1, dtype=self.labels.dtype)
        first[numbers] = self.labels
        return bool((first[numbers] == self.labels).all())


def drawn_split(data: Labelled, share: float, target: Target, seed: int, where: str) -> Array:
    """Draw which examples are held out, bool `[example]`.

    Units stay whole. Where each unit has one class every class is parted by itself, so that both
    sides have it in like shares; else draws are repeated until both sides have every class. Units
    are taken, in a random order, while that brings the number of examples nearer to the share.

    Raises:
        StoreError: if a class cannot be on both sides.
    """
    draw = np.random.default_rng([seed, 0])
    units = data.unit_numbers
    sizes = np.bincount(units)
    alike = bool(target.classes) and data.is_alike
    labels = data.labels if alike else np.zeros(len(units), dtype=np.int64)
    for _ in range(_TRIES):
        held = np.zeros(len(sizes), dtype=bool)
        for label in np.unique(labels):
            _hold_out(np.unique(units[labels == label]), sizes, share, draw, held)
        if alike or not (lacking := _lacking(data, held[units], target)):
            break
    lacking = _lacking(data, held[units], target)
    if lacking:
        raise StoreError(_cannot_part(data, lacking[0], target, where))
    return held[units]


def refuse_unfit(data: Labelled, held: Array, target: Target, where: str) -> None:
    """Refuse a split that the user chose, or one of too few examples, that nothing follows from."""
    for side, there in (("train", ~held), ("test", held)):
        if np.count_nonzero(there) < 2:
            raise StoreError(
                f"{where}: {counted(int(there.sum()), 'example')} of {len(held):,} to {side} on; "
                "expected at least 2: give more examples, or another split"
            )
        if target.classes:
            absent = np.flatnonzero(
                np.bincount(data.labels[there], minlength=len(target.classes)) == 0
            )
            if len(absent):
                raise StoreError(
                    f"{where}: no example to {side} on is of the class "
                    f"{show(target.classes[absent[0]])}; every class is needed on both sides"
                )
        elif np.ptp(data.labels[there]) == 0:
            raise StoreError(
                f"{where}: all examples to {side} on say {data.labels[there][0]:g}; "
                "R² needs numbers that differ: give more examples, or another split"
            )
    both = np.intersect1d(data.units[held], data.units[~held])
    if len(both):
        first = data.examples[np.isin(data.units, both)][0]
        raise StoreError(
            f"{where}: {counted(len(both), 'group')} {by_count(len(both), 'is', 'are')} on both "
            f"sides of the split, that of example {first} first; choose split or group"
        )


def folds_of(data: Labelled, n_folds: int, target: Target, seed: int) -> Array | None:
    """Deal units out to folds, the classes evenly where units have one, int64 `[example]`.

    Returns:
        None where some fold would leave a class out of the others.
    """
    units, draw = data.unit_numbers, np.random.default_rng([seed, 1])
    n_units = int(units.max()) + 1
    alike = bool(target.classes) and data.is_alike
    labels = data.labels if alike else np.zeros(len(units), dtype=np.int64)
    folds = np.zeros(n_units, dtype=np.int64)
    for label in np.unique(labels):
        of_label = draw.permutation(np.unique(units[labels == label]))
        folds[of_label] = np.arange(len(of_label)) % n_folds
    found = folds[units]
    for fold in range(n_folds):
        rest = data.labels[found != fold]
        n_there = len(np.unique(rest))
        if not 0 < len(rest) < len(found) or (target.classes and n_there < len(target.classes)):
            return None
    return found


def shuffled_labels(data: Labelled, n_shuffles: int, seed: int) -> Array:
    """Give the labels in random order, `[shuffle, example]`: what an honest probe cannot learn.

    Where all examples of a unit have one label, units change labels whole, so that what examples
    of a unit share cannot give a label away; else examples change them.
    """
    units, draw = data.unit_numbers, np.random.default_rng([seed, 2])
    if not data.is_alike:
        return np.array([draw.permutation(data.labels) for _ in range(n_shuffles)]).reshape(
            n_shuffles, len(data.labels)
        )
    of_unit = np.zeros(units.max() + 1, dtype=data.labels.dtype)
    of_unit[units] = data.labels
    return np.array([draw.permutation(of_unit)[units] for _ in range(n_shuffles)]).reshape(
        n_shuffles, len(data.labels)
    )


def _hold_out(
    units: Array, sizes: Array, share: float, draw: np.random.Generator, held: Array
) -> None:
    """Mark units until they hold the share of the examples; one at least, and not all."""
    wanted, taken = share * sizes[units].sum(), 0
    order = draw.permutation(units)
    for unit in order:
        if abs(taken + sizes[unit] - wanted) < abs(taken - wanted):
            held[unit] = True
            taken += sizes[unit]
    if len(units) > 1 and not held[units].any():
        held[order[np.argmin(sizes[order])]] = True
    if len(units) > 1 and held[units].all():
        held[order[np.argmin(sizes[order])]] = False


def _lacking(data: Labelled, held: Array, target: Target) -> list[int]:
    """Give the classes that a side of the split lacks."""
    counts = [np.bincount(data.labels[there], minlength=len(target.classes)) for there in
              (held, ~held)] if target.classes else []  # fmt: skip
    return [c for c in range(len(target.classes)) if min(count[c] for count in counts) == 0]


def _cannot_part(data: Labelled, lacking: int, target: Target, where: str) -> str:
    of_class = data.labels == lacking
    n_units = len(np.unique(data.units[of_class]))
    hint = "" if any(isinstance(c, str) for c in target.classes) else (
        "; to predict numbers, method='ridge'")  # fmt: skip
    said = counted(int(of_class.sum()), "example")
    grouped = "" if len(np.unique(data.units)) == len(data.units) else (
        f" in {counted(n_units, 'group')}")  # fmt: skip
    return (
        f"{where}: the class {show(target.classes[lacking])} has {said}{grouped}, which cannot be "
        f"on both sides of the split; every class needs two{' groups' if grouped else ''}{hint}"
    )
