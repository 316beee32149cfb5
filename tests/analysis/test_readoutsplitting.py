"""Splits, folds and shuffles: properties of whatever labels and groups."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings, strategies as st

from probekit.analysis.readouts.splitting import Labelled, drawn_split, folds_of, shuffled_labels
from probekit.analysis.readouts.targets import Target
from probekit.errors import StoreError

Array = np.ndarray[Any, Any]


def target(n_classes: int) -> Target:
    none = np.zeros(0)
    return Target(
        column="label",
        method="logistic" if n_classes else "ridge",
        classes=tuple(range(n_classes)),
        values=none,
        there=none,
    )


def labelled(labels: Any, units: Any) -> Labelled:
    return Labelled(
        examples=np.arange(len(labels)), units=np.asarray(units), labels=np.asarray(labels)
    )


@st.composite
def grouped(draw: st.DrawFn) -> Labelled:
    n = draw(st.integers(8, 60))
    labels = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    units = draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))
    return labelled(labels, units)


@given(data=grouped(), share=st.floats(0.05, 0.95), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_no_group_is_on_both_sides_and_every_class_is(
    data: Labelled, share: float, seed: int
) -> None:
    try:
        held = drawn_split(data, share, target(3), seed, "here")
    except StoreError as error:
        assert "cannot be on both sides" in str(error)
        return
    assert not set(data.units[held]) & set(data.units[~held])
    for side in (held, ~held):
        assert set(data.labels[side]) == {0, 1, 2}
    np.testing.assert_array_equal(held, drawn_split(data, share, target(3), seed, "here"))


@given(n=st.integers(4, 300), share=st.floats(0.1, 0.9), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_each_class_is_held_out_in_its_share(n: int, share: float, seed: int) -> None:
    labels = np.arange(n) % 4 == 0
    if labels.sum() < 2:
        return
    held = drawn_split(labelled(labels.astype(int), np.arange(n)), share, target(2), seed, "here")
    for label in (0, 1):
        of_class = labels == label
        expected = np.clip(share * of_class.sum(), 1, of_class.sum() - 1)
        assert abs(held[of_class].sum() - expected) <= 0.5 + 1e-9


def test_numbers_are_split_by_group_alone() -> None:
    units = np.repeat(np.arange(20), 5)
    data = labelled(np.arange(100.0), units)
    held = drawn_split(data, 0.2, target(0), 0, "here")
    assert held.sum() == 20
    assert len(set(units[held])) == 4


@given(data=grouped(), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_folds_keep_groups_whole_and_leave_no_class_out(data: Labelled, seed: int) -> None:
    folds = folds_of(data, 3, target(3), seed)
    if folds is None:
        return
    for unit in set(data.units):
        assert len(set(folds[data.units == unit])) == 1
    for fold in range(3):
        assert set(data.labels[folds != fold]) == {0, 1, 2}


@given(data=grouped(), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_shuffles_keep_the_labels_of_examples_or_those_of_whole_groups(
    data: Labelled, seed: int
) -> None:
    found = shuffled_labels(data, 4, seed)
    assert found.shape == (4, len(data.labels))
    alike = all(len(set(data.labels[data.units == u])) == 1 for u in set(data.units))
    for labels in found:
        if not alike:
            assert sorted(labels) == sorted(data.labels)
        else:
            for unit in set(data.units):
                assert len(set(labels[data.units == unit])) == 1


def test_shuffles_of_groups_change_labels_with_each_other() -> None:
    units = np.repeat(np.arange(30), 4)
    data = labelled((units % 2).astype(int), units)
    found = shuffled_labels(data, 3, 0)
    assert found.shape == (3, 120)
    assert all(0.2 < (labels == data.labels).mean() < 0.8 for labels in found)
    assert all(labels.sum() == 60 for labels in found)
    assert shuffled_labels(data, 0, 0).shape == (0, 120)
