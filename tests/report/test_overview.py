"""The overview of all examples, against numpy."""

import numpy as np
import pytest
import report_traces
from report_pages import ReadPage
from tiny_traces import VOCABULARY, site

from probekit.report import overview
from probekit.report.parts import roles_of

LENGTHS = (4, 1, 6)
N_TOKENS = sum(LENGTHS)
OWNERS = np.repeat(range(3), LENGTHS)


def listed(tmp_path, *rows, **given):
    trace = report_traces.write(tmp_path / "t", rows, LENGTHS, **given)
    return overview.describe(trace, roles_of(trace)).listed


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_surprise_is_the_mean_of_minus_log_probabilities(tmp_path, draw):
    logprobs = -draw.uniform(0, 9, N_TOKENS).astype(np.float32)
    logprobs[[3, 4, 10]] = np.nan  # nothing comes after the last
    spec = site("lm_head", "token_logprob", row_shape=(), axes=("token",))
    found = listed(tmp_path, (spec, logprobs))
    expected = [-logprobs[0:3].mean(), -logprobs[5:10].mean()]
    np.testing.assert_allclose([found["surprise"][0], found["surprise"][2]], expected, rtol=1e-3)
    assert found["surprise"][1] is None
    assert found["norm"] is found["next"] is None
    assert found["n_tokens"] == list(LENGTHS)
    assert found["texts"] == ["text 0", "text 1", "text 2"]


def test_surprise_of_raw_logits_is_a_softmax(tmp_path, draw):
    logits = draw.normal(0, 3, (N_TOKENS, 50)).astype(np.float32)
    spec = site("lm_head", row_shape=(50,), axes=("token", "d_vocab"), portable="logits")
    found = listed(tmp_path, (spec, logits))
    logprobs = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    expected = -np.mean([logprobs[row, row + 1] for row in range(5, 10)])  # token n has id n
    assert found["surprise"][2] == pytest.approx(expected, rel=1e-3)


def test_surprise_that_nothing_tells_is_not_listed(tmp_path):
    spec = site("lm_head", "token_logprob", row_shape=(), axes=("token",))
    unknown = np.full(N_TOKENS, np.nan, dtype=np.float32)
    assert listed(tmp_path, (spec, unknown))["surprise"] is None


def test_a_norm_leaves_first_tokens_out_where_there_are_others(tmp_path, draw):
    rows = draw.normal(0, 1, (2, N_TOKENS, 3)).astype(np.float32)
    shape = {"axes": ("token", "d_model"), "portable": "resid_post"}
    specs = [(site(f"h.{n}", layer=n, **shape), rows[n]) for n in range(2)]
    found = listed(tmp_path, *specs)
    norms = np.linalg.norm(rows[1], axis=1)
    expected = [norms[1:4].mean(), norms[4], norms[6:].mean()]
    np.testing.assert_allclose(found["norm"], expected, rtol=1e-3)
    assert found["norm_of"] == "L2 norm of resid_post, layer 1"


def test_what_comes_next_is_said_where_the_last_token_was_recorded(tmp_path):
    ids = np.array([[7, 9], [5, 6], [1, 2]])
    logprobs = np.log([[0.1, 0.9], [0.7, 0.3], [0.5, 0.4]])
    shape = {"row_shape": (2,), "axes": ("token", "k"), "rows": "last"}
    found = listed(
        tmp_path,
        (site("lm_head", "top_k.id", dtype="int32", **shape), ids),
        (site("lm_head", "top_k.logprob", **shape), logprobs),
    )
    assert found["next"] == [VOCABULARY[9], VOCABULARY[5], VOCABULARY[1]]


def test_all_examples_are_listed_and_more_than_can_be_is_told(tmp_path, monkeypatch):
    trace = report_traces.write(
        tmp_path / "t",
        [(site(), np.zeros((N_TOKENS, 3)))],
        LENGTHS,
        texts=["x" * 500, "", "\u202e"],
    )
    written = trace.report(tmp_path / "r.html", examples=[2])
    found = ReadPage(written.path).json("overview")
    assert found["texts"] == ["x" * 400, "", "‹U+202E›"]
    assert written.left_out == ("2 of 3 examples: listed, but not in full (--examples)",)
    monkeypatch.setattr(overview, "MOST", 2)
    assert (
        "the overview lists only the first 2 of 3 examples"
        in trace.report(tmp_path / "r.html").left_out
    )
