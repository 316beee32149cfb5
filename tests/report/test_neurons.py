"""The liveliest neurons and their top tokens, against numpy on the whole array."""

import numpy as np
import pytest
import report_traces
from tiny_traces import VOCABULARY, site

from probekit.report import neurons
from probekit.trace import rowblocks as blocks

LENGTHS = (7, 3, 12, 1)
N_TOKENS = sum(LENGTHS)
POSITIONS = np.concatenate([np.arange(n) for n in LENGTHS])
EXAMPLES = np.repeat(np.arange(len(LENGTHS)), LENGTHS)


def written(tmp_path, values, axis="d_mlp", **given):
    spec = site("h.0.mlp", row_shape=values.shape[1:], axes=("token", axis), **given)
    trace = report_traces.write(tmp_path / "t", [(spec, values)], LENGTHS)
    return trace, trace["h.0.mlp"]


@pytest.fixture(params=["at once", "in pieces"])
def pieces(request, monkeypatch):
    if request.param == "in pieces":
        monkeypatch.setattr(blocks, "BLOCK_BYTES", 5 * 40 * 8)  # five rows


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(0, 1, (N_TOKENS, 40)).astype(np.float32)


def test_the_liveliest_are_those_with_the_largest_activation_but_for_first_tokens(
    tmp_path, values, pieces
):
    values[POSITIONS == 0, 7] = 1000  # a value that says nothing of the neuron
    trace, acts = written(tmp_path, values)
    found = neurons.describe(trace, acts, 5)
    peaks = np.abs(values[POSITIONS > 0]).max(0)
    assert [n["number"] for n in found["neurons"]] == list(np.argsort(-peaks)[:5])


def test_top_tokens_are_numpys_and_first_tokens_are_among_them(tmp_path, values, pieces):
    values[0, 3] = 1000
    values[5, 3] = -999
    trace, acts = written(tmp_path, values)
    found = neurons.describe(trace, acts, 40)
    assert found["name"] == "h.0.mlp/output"
    for neuron in found["neurons"]:
        column = values[:, neuron["number"]]
        rows = np.argsort(-np.abs(column), kind="stable")[: neurons.N_TOP]
        assert [(t["example"], t["position"]) for t in neuron["top"]] == [
            (EXAMPLES[row], POSITIONS[row]) for row in rows
        ]
        np.testing.assert_allclose([t["value"] for t in neuron["top"]], column[rows], rtol=1e-5)
    assert found["neurons"][0]["number"] == 3
    assert [t["value"] for t in found["neurons"][0]["top"][:2]] == [1000, -999]


def test_a_context_is_the_tokens_around_with_their_activations(tmp_path, values):
    values[:, 0] = np.arange(N_TOKENS)
    values[7 + 3 + 9, 0] = 100  # position 9 of example 2
    trace, acts = written(tmp_path, values)
    top = neurons.describe(trace, acts, 1)["neurons"][0]["top"][0]
    assert (top["example"], top["position"], top["begin"]) == (2, 9, 1)
    rows = np.arange(10 + 1, 10 + 12)
    assert [text for text, _ in top["context"]] == [VOCABULARY[row] for row in rows]
    assert [value for _, value in top["context"]] == [float(v) for v in values[rows, 0]]


def test_a_site_at_some_positions_knows_its_own_tokens_only(tmp_path):
    spec = site("h.0.mlp", row_shape=(4,), axes=("token", "d_mlp"), rows="last")
    values = np.arange(16, dtype=np.float32).reshape(4, 4)
    trace = report_traces.write(tmp_path / "t", [(spec, values)], LENGTHS)
    top = neurons.describe(trace, trace["h.0.mlp"], 1)["neurons"][0]["top"]
    assert [(t["example"], t["position"]) for t in top] == [(3, 0), (2, 11), (1, 2), (0, 6)]
    known = [value for _, value in top[1]["context"] if value is not None]
    assert known == [top[1]["value"]]


def test_one_token_texts_have_neurons_too(tmp_path):
    spec = site("h.0.mlp", row_shape=(2,), axes=("token", "d_mlp"))
    values = np.array([[1, -5], [2, 3]], dtype=np.float32)
    trace = report_traces.write(tmp_path / "t", [(spec, values)], (1, 1))
    found = neurons.describe(trace, trace["h.0.mlp"], 9)["neurons"]
    assert [(n["number"], n["top"][0]["value"]) for n in found] == [(1, -5), (0, 2)]


def test_chosen_neurons_keep_their_numbers_and_nan_is_no_activation(tmp_path, values):
    values[4, 1] = np.nan
    values[5, 1] = np.inf
    trace, acts = written(tmp_path, values[:, :3], "neuron", details={"neurons": [11, 300, 5]})
    found = {n["number"]: n["top"] for n in neurons.describe(trace, acts, 9)["neurons"]}
    assert sorted(found) == [5, 11, 300]
    assert all(np.isfinite(t["value"]) for t in found[300])
    finite = values[np.isfinite(values[:, 1]), 1]
    wanted = finite[np.argsort(-np.abs(finite), kind="stable")[: neurons.N_TOP]]
    np.testing.assert_allclose([t["value"] for t in found[300]], wanted, rtol=1e-5)
