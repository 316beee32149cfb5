"""Moments of values in blocks, against numpy on all values at once."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

from probekit.analysis.moments import merged, moments_of, no_moments, pooled

VALUES = st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([np.nan, np.inf, -np.inf]))


def in_blocks(values, cuts):
    """Merge the moments of blocks, as a pass over a site does."""
    whole = no_moments(values.shape[1:])
    for block in np.split(values, cuts):
        finite = np.isfinite(block)
        whole = merged(whole, moments_of(np.where(finite, block, 0), finite))
    return whole


def agree(found, column):
    finite = column[np.isfinite(column)]
    count, mean, deviation, smallest, largest = found
    assert count == len(finite)
    if not len(finite):
        assert np.isnan([mean, deviation, smallest, largest]).all()
        return
    scale = np.abs(finite).max() + 1e-30
    assert mean == pytest.approx(finite.mean(), rel=1e-12, abs=1e-12 * scale)
    assert deviation == pytest.approx(finite.std(), rel=1e-6, abs=1e-9 * scale)
    assert (smallest, largest) == (finite.min(), finite.max())


def parts(moments, place=()):
    names = ("count", "mean", "deviation", "smallest", "largest")
    return [np.asarray(getattr(moments, name))[place] for name in names]


@given(
    arrays.arrays(np.float64, st.tuples(st.integers(0, 12), st.integers(1, 3)), elements=VALUES),
    st.lists(st.integers(0, 12), max_size=4).map(sorted),
)
def test_moments_in_blocks_are_numpys_of_the_finite_values(values, cuts):
    found = in_blocks(values, cuts)
    for feature in range(values.shape[1]):
        agree(parts(found, feature), values[:, feature])
    agree(parts(pooled(found)), values.reshape(-1))


def test_a_small_deviation_about_a_large_mean_keeps_its_digits():
    values = 1e8 + np.random.default_rng(0).normal(size=(10_000, 1))
    in_one_sum = np.sqrt((values**2).mean() - values.mean() ** 2)
    found = in_blocks(values, range(100, 10_000, 100)).deviation
    np.testing.assert_allclose(found, values.std(), rtol=1e-6)
    assert abs(in_one_sum - values.std()) > 1e-2  # what the merging is for
