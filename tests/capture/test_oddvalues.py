"""Counts of values that are not finite, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as st_numpy

from probekit.capture.rows.oddvalues import Tally, all_finite

CPU = torch.device("cpu")
VALUES = st_numpy.arrays(
    np.float32,
    st.integers(0, 30),
    elements=st.one_of(
        st.sampled_from([np.nan, np.inf, -np.inf, 65504.0, 65520.0, -1e6, 3e38, 0.0]),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
)


@given(VALUES)
def test_all_finite_is_what_numpy_says(values):
    assert all_finite(torch.from_numpy(values)) == bool(np.isfinite(values).all())


@given(VALUES, st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_what_is_not_finite_and_what_becomes_so_are_told_apart(values, dtype):
    computed = torch.from_numpy(values)
    stored = computed.to(dtype)
    tally = Tally(2, CPU)
    tally.see(1, computed, stored)
    tally.keep_batch()
    odd = ~np.isfinite(values)
    over = ~np.isfinite(stored.double().numpy()) & ~odd
    assert tally.take().tolist() == [[0, 0], [odd.sum(), over.sum()]]


def test_values_that_mean_something_else_are_not_counted():
    values = torch.tensor([torch.nan, torch.nan, torch.inf, 1.0])
    tally = Tally(1, CPU)
    tally.see(0, values, values, torch.tensor([True, False, False, False]))
    tally.keep_batch()
    assert tally.take().tolist() == [[2, 0]]


def test_a_batch_that_is_dropped_does_not_count_and_a_shard_begins_at_zero():
    tally, bad = Tally(1, CPU), torch.tensor([torch.inf])
    tally.see(0, bad, bad)
    tally.drop_batch()
    tally.see(0, bad, bad)
    tally.keep_batch()
    assert tally.take().tolist() == [[1, 0]]
    assert tally.take().tolist() == [[0, 0]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_whole_numbers_are_always_finite(dtype):
    tally = Tally(1, CPU)
    tally.see(0, torch.ones(3, dtype=dtype), torch.ones(3, dtype=dtype))
    tally.keep_batch()
    assert tally.take().tolist() == [[0, 0]]
