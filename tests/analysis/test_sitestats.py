"""Statistics of sites, against numpy on the whole array."""

import warnings

import numpy as np
import pytest
from tiny_traces import site, write_trace

import probekit
from probekit.errors import ProbekitError
from probekit.trace import rowblocks as blocks

LENGTHS = ((30, 1, 50), (20,), (40, 6))
N_TOKENS = 147
D_MODEL = 64


def drawn(*shape, dtype="float32"):
    return (np.random.default_rng(0).normal(size=shape) * 3 + 1).astype(dtype)


def a_trace(folder, *specs, **values):
    given = {s.name: values[s.module] for s in specs if s.module in values}
    made = write_trace(folder, specs, LENGTHS, values=given)
    return probekit.open(made.folder)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that every pass is in many."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * D_MODEL * 7)


def resid(layer=0):
    return site(f"h.{layer}", row_shape=(D_MODEL,), axes=("token", "d_model"), layer=layer)


def test_statistics_are_those_of_numpy(tmp_path):
    values = drawn(N_TOKENS, D_MODEL)
    values[values < -2] = 0
    values[3, 5], values[4, 5], values[70, 6] = np.nan, np.inf, -np.inf
    found = a_trace(tmp_path, resid(), **{"h.0": values})["h.0"].statistics()
    wide = values.astype(np.float64)
    finite = np.where(np.isfinite(wide), wide, np.nan)
    np.testing.assert_allclose(found.mean, np.nanmean(finite, 0), rtol=1e-12)
    np.testing.assert_allclose(found.deviation, np.nanstd(finite, 0), rtol=1e-12)
    np.testing.assert_array_equal(found.values.smallest, np.nanmin(finite, 0))
    np.testing.assert_array_equal(found.values.largest, np.nanmax(finite, 0))
    n_finite = np.isfinite(wide).sum(0)
    np.testing.assert_array_equal(found.zeros, (finite == 0).sum(0) / n_finite)
    assert found.sparsity == pytest.approx((finite == 0).sum() / n_finite.sum())
    assert (found.n_nan, found.n_plus_infinite, found.n_minus_infinite) == (1, 1, 1)
    norms = np.linalg.norm(wide[np.isfinite(wide).all(1)], axis=1)
    assert found.norms.count == N_TOKENS - 3
    np.testing.assert_allclose(found.norms.mean, norms.mean())
    np.testing.assert_allclose(found.norms.deviation, norms.std())
    np.testing.assert_allclose(found.norms.largest, norms.max())
    assert (found.axes, found.numbers) == (("d_model",), (tuple(range(D_MODEL)),))


def test_bfloat16_counts_as_what_it_stores(tmp_path):
    bits = (drawn(N_TOKENS, D_MODEL).view(np.uint32) >> 16).astype(np.uint16)
    spec = site("h.0", row_shape=(D_MODEL,), dtype="bfloat16")
    found = a_trace(tmp_path, spec, **{"h.0": bits})["h.0"].statistics()
    wide = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    np.testing.assert_allclose(found.mean, wide.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.deviation, wide.std(0), rtol=1e-12)


def test_an_outlier_is_six_times_its_rows_root_mean_square_in_six_percent_of_rows(tmp_path):
    values = drawn(N_TOKENS, D_MODEL)
    values[:, 9] = -80
    values[:9, 30] = 300  # in 9 rows of 147, just over 6 %
    values[-8:, 31] = 300  # in 8, just under
    found = a_trace(tmp_path, resid(), **{"h.0": values})["h.0"].statistics()
    wide = values.astype(np.float64)
    large = np.abs(wide) >= 6 * np.sqrt((wide**2).mean(1, keepdims=True))
    np.testing.assert_allclose(found.large, large.mean(0))
    assert [(o.dimension, o.extreme) for o in found.outliers] == [((9,), -80), ((30,), 300)]
    assert found.outliers[1].share == pytest.approx(9 / N_TOKENS)
    assert "d_model 9 (88% of rows, up to -80)" in repr(found)


def test_thresholds_of_outliers_can_be_set(tmp_path):
    values = drawn(N_TOKENS, D_MODEL)
    values[:, 9] = -80
    acts = a_trace(tmp_path, resid(), **{"h.0": values})["h.0"]
    assert len(acts.statistics().outliers) == 1
    assert not acts.statistics(magnitude=8).outliers  # 8 is the root of 64: nothing is larger
    assert not a_trace(tmp_path, resid(), **{"h.0": values})["h.0"].statistics(tokens=1.01).outliers


def test_of_attention_a_feature_is_a_head_and_keys_of_other_examples_are_no_values(tmp_path):
    spec = site("attn", "pattern", row_shape=(2, 50), axes=("token", "head", "key"))
    values = np.abs(drawn(N_TOKENS, 2, 50))
    lengths = [n for of_shard in LENGTHS for n in of_shard]
    row = 0
    inside = np.zeros(values.shape, dtype=bool)
    for n in lengths:
        inside[row : row + n, :, :n] = True
        row += n
    values[~inside] = 1e9  # whatever lies there
    found = a_trace(tmp_path, spec, attn=values)["attn/pattern"].statistics()
    wide = np.where(inside, values.astype(np.float64), np.nan)
    np.testing.assert_allclose(found.mean, np.nanmean(wide, (0, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.deviation, np.nanstd(wide, (0, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.norms.mean, np.sqrt(np.nansum(wide**2, 2)).mean(0), rtol=1e-12)
    assert found.axes == ("head",)
    assert not found.outliers


def test_heads_and_neurons_that_were_chosen_keep_their_numbers(tmp_path):
    z = site("z", row_shape=(2, 3), axes=("token", "head", "d_head"), details={"heads": [7, 0]})
    mlp = site("mlp", row_shape=(2,), axes=("token", "neuron"), details={"neurons": [9, 4]})
    trace = a_trace(tmp_path, z, mlp, z=drawn(N_TOKENS, 2, 3), mlp=drawn(N_TOKENS, 2))
    found = trace.statistics()
    assert found["z"].numbers == ((7, 0), (0, 1, 2))
    assert found["mlp"].to_pandas().index.tolist() == [9, 4]
    frame = found["z"].to_pandas()
    assert frame.index.names == ["head", "d_head"]
    assert frame.loc[(7, 2), "mean"] == pytest.approx(found["z"].mean[0, 2])
    assert found["z"].norms.mean.shape == (2,)


def test_one_number_a_row_has_statistics_too(tmp_path):
    values = drawn(N_TOKENS)
    values[::10] = np.nan
    trace = a_trace(tmp_path, site("lm_head", "token_logprob", row_shape=()), lm_head=values)
    found = trace["lm_head/token_logprob"].statistics()
    assert float(found.mean) == pytest.approx(np.nanmean(values.astype(np.float64)))
    assert found.n_nan == 15
    assert len(found.to_pandas()) == 1


def test_rows_that_are_all_nan_give_nan_and_no_warning(tmp_path):
    trace = a_trace(tmp_path, resid(), **{"h.0": np.full((N_TOKENS, D_MODEL), np.nan, "float32")})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = trace["h.0"].statistics()
        assert np.isnan(found.mean).all()
        assert np.isnan(found.sparsity)
        assert found.n_nan == N_TOKENS * D_MODEL
        assert "–" in repr(found)


def test_without_pandas_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    trace = a_trace(tmp_path, resid(), **{"h.0": drawn(N_TOKENS, D_MODEL)})
    with pytest.raises(ProbekitError, match=r"pip install 'probekit\[analysis\]'"):
        trace["h.0"].statistics().to_pandas()
