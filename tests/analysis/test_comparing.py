"""Comparing traces, of one model and of two, against numpy on what bare h5py reads."""

import json
import tracemalloc

import by_hand
import numpy as np
import pytest
import tiny_models as tiny
from cka_by_hand import by_hand as cka_by_hand, debiased_by_hand
from tiny_traces import LENGTHS, site, write_trace

import probekit
from probekit.errors import StoreError
from probekit.trace import rowblocks as blocks

PROBES = [{"sites": ["resid_post", "pattern", "logits"]}, {"sites": "mlp_out", "pool": "mean"}]


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """One tiny GPT-2 in two dtypes, and a Llama with more layers, over the same tokens."""
    folder = tmp_path_factory.mktemp("compare")
    gpt2 = by_hand.save_tiny(folder / "models/gpt2", "gpt2")
    llama = by_hand.save_tiny(folder / "models/llama", "llama", num_hidden_layers=5)
    made = {}
    for name, model, dtype in (
        ("float32", gpt2, "float32"),
        ("bfloat16", gpt2, "bfloat16"),
        ("llama", llama, "float32"),
    ):
        made[name] = probekit.run(
            by_hand.config(model, folder / name, probes=PROBES, model__dtype=dtype)
        )
    return made


def a_trace(folder, values, lengths=LENGTHS):
    """A trace with one site of the values given."""
    spec = site(row_shape=values.shape[1:])
    made = write_trace(folder, [spec], lengths, values={spec.name: values})
    return probekit.open(made.folder)


def read(trace, name):
    return by_hand.numbers(trace.path, name).astype(np.float64)


def test_each_layer_is_compared_as_numpy_does(traces):
    a, b = traces["float32"], traces["bfloat16"]
    found = probekit.compare(a, b)
    assert [(p.place, p.layer) for p in found.pairs] == [
        ("logits", None),
        *(("pattern", n) for n in range(tiny.N_LAYERS)),
        *(("mlp_out", n) for n in range(tiny.N_LAYERS)),
        *(("resid_post", n) for n in range(tiny.N_LAYERS)),
    ]
    for pair in found.pairs:
        assert pair.a == pair.b
        x, y = read(a, pair.a), read(b, pair.b)
        u, v = x.reshape(len(x), -1), y.reshape(len(y), -1)
        cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
        assert pair.cosine == pytest.approx(cosine.mean())
        apart = np.linalg.norm(u - v) / np.linalg.norm(u)
        assert pair.relative_difference == pytest.approx(apart)
        assert pair.largest_difference == np.abs(u - v).max()
        assert pair.n_rows == len(x)
        if pair.place == "pattern":
            assert np.isnan(pair.cka)
        else:
            assert pair.cka == pytest.approx(cka_by_hand(x, y), rel=1e-9)
            assert pair.cka_debiased == pytest.approx(debiased_by_hand(x, y), rel=1e-6)
    assert not found.matrices
    assert found.a_model.endswith("gpt2, float32")


def test_two_models_are_compared_by_portable_name_with_all_layers_against_all(traces):
    a, b = traces["float32"], traces["llama"]
    found = probekit.compare(a, b, sites="resid_post")
    matrix = found.matrix("resid_post")
    assert matrix.values.shape == (3, 5)
    assert (matrix.a_layers, matrix.b_layers) == (tuple("012"), tuple("01234"))
    for i, j in np.ndindex(3, 5):
        x, y = read(a, matrix.a[i]), read(b, matrix.b[j])
        assert matrix.b[j] == f"model.layers.{j}/output"
        assert matrix.values[i, j] == pytest.approx(cka_by_hand(x, y), rel=1e-9)
        assert matrix.debiased[i, j] == pytest.approx(debiased_by_hand(x, y), rel=1e-6)
    assert [p.cka for p in found.pairs] == list(matrix.values.diagonal())
    assert [p.layer for p in found.pairs] == [0, 1, 2]


def test_a_trace_and_itself_are_one(traces, tmp_path):
    found = probekit.compare(traces["float32"].path.parent, traces["float32"].path)
    assert {round(p.cosine, 9) for p in found.pairs} == {1}
    assert {p.relative_difference for p in found.pairs} == {0}
    values = [p.cka for p in found.pairs if not np.isnan(p.cka)]
    np.testing.assert_allclose(values, 1)


def test_widths_that_differ_leave_cka_alone(tmp_path):
    draw = np.random.default_rng(0)
    a, b = (a_trace(tmp_path / str(n), draw.normal(size=(21, n)).astype("f4")) for n in (3, 5))
    (pair,) = probekit.compare(a, b).pairs
    assert 0 < pair.cka < 1
    assert np.isnan([pair.cosine, pair.relative_difference, pair.largest_difference]).all()
    plain = probekit.compare(a, b).to_json()
    assert plain["pairs"][0]["cosine"] is None
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_rows_that_are_not_finite_or_zero_do_not_spoil_the_others(tmp_path):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 21, 3)).astype("f4")
    x[4, 1], y[7, 0], x[9], y[11] = np.nan, np.inf, 0, 0
    a, b = a_trace(tmp_path / "a", x), a_trace(tmp_path / "b", y)
    found = probekit.compare(a, b)
    (pair,) = found.pairs
    good = np.delete(np.arange(21), [4, 7])
    u, v = x[good].astype(float), y[good].astype(float)
    cosines = [
        p @ q / np.linalg.norm(p) / np.linalg.norm(q)
        for p, q in zip(u, v, strict=True)
        if p.any() and q.any()
    ]
    assert len(cosines) == 17
    assert pair.cosine == pytest.approx(np.mean(cosines))
    assert pair.relative_difference == pytest.approx(np.linalg.norm(u - v) / np.linalg.norm(u))
    assert pair.cka == pytest.approx(cka_by_hand(u, v))
    assert (pair.n_rows, pair.n_left_out) == (19, 2)
    assert "block.0.mlp/output: 2 rows are left out, in which a value is not finite" in found.notes


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 18)
    peaks = []
    for n_tokens in (2_000, 20_000):
        values = np.random.default_rng(0).normal(size=(n_tokens, 64)).astype("f4")
        folder = tmp_path / str(n_tokens)
        a, b = (a_trace(folder / name, values, [[n_tokens // 2] * 2]) for name in "ab")
        tracemalloc.start()
        probekit.compare(a, b)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert values.nbytes > 5e6
    assert peaks[1] < 1.2 * peaks[0] < 4e6


def test_few_rows_are_said(traces):
    notes = probekit.compare(traces["float32"], traces["bfloat16"]).notes
    assert any("logits: 49 rows of 101 dimensions are few" in note for note in notes)
    assert not any("pattern" in note for note in notes)


def test_other_texts_are_refused(traces, tmp_path):
    other = by_hand.config(by_hand.save_tiny(tmp_path / "m", "gpt2"), tmp_path / "t", probes=PROBES)
    other["inputs"]["texts"][2] += " 50"
    trace = probekit.run(other)
    with pytest.raises(StoreError, match=r"example 2 differs: it is '40 41 42"):
        probekit.compare(traces["float32"], trace)


def test_a_pair_leaves_out_its_own_rows_alone_in_a_matrix_too(tmp_path):
    draw = np.random.default_rng(0)
    sites = [
        site(f"h.{n}", portable="resid_post", layer=n, axes=("token", "d_model")) for n in range(2)
    ]
    values = {f"h.{n}/output": draw.normal(size=(21, 3)).astype(np.float32) for n in range(2)}
    values["h.1/output"][:5, 0] = np.nan
    one, other = (
        probekit.open(write_trace(tmp_path / name, sites, values=values).folder) for name in "ab"
    )
    plain = probekit.compare(one, other, matrix=False)
    squared = probekit.compare(one, other, matrix=True)
    assert [p.n_rows for p in squared.pairs] == [21, 16]
    assert [p.cka for p in squared.pairs] == pytest.approx([p.cka for p in plain.pairs])
    x = values["h.0/output"].astype(np.float64)
    assert squared.pairs[0].cka == pytest.approx(cka_by_hand(x, x))
    assert squared.matrix().n_rows == 16
