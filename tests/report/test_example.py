"""What the page says of an example, against numpy."""

import numpy as np
import pytest
import report_traces
from tiny_traces import VOCABULARY, site

import probekit
from probekit.report.example import describe
from probekit.report.parts import roles_of
from probekit.report.streams import by_example, rounded

LENGTHS = (4, 1, 6)
N_TOKENS = sum(LENGTHS)


def described(tmp_path, *rows, number=2):
    trace = report_traces.write(tmp_path / "t", rows, LENGTHS)
    return describe(trace, roles_of(trace), number)


def numbers(draw, *shape):
    return draw.normal(0, 3, shape).astype(np.float32)


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_numbers_have_six_digits_and_none_stands_for_what_is_not_finite():
    assert rounded([1 / 3, np.nan, np.inf, 0]) == [0.333333, None, None, 0]
    assert rounded(np.float32(123456.7)) == 123457


def test_an_examples_tokens_are_its_own(tmp_path, draw):
    found = described(tmp_path, (site(), numbers(draw, N_TOKENS, 3)))
    assert found["number"] == 2
    assert found["text"] == "text 2"
    assert found["tokens"] == list(VOCABULARY[5:11])
    assert found["steps"] is None
    assert found["candidates"] is found["probability"] is found["entropy"] is None


def test_candidates_of_top_k_are_its_ids_and_probabilities(tmp_path, draw):
    ids = draw.integers(0, 50, (N_TOKENS, 2))
    logprobs = -np.sort(draw.uniform(0, 9, (N_TOKENS, 2)), axis=1)
    shape = {"row_shape": (2,), "axes": ("token", "k")}
    found = described(
        tmp_path,
        (site("lm_head", "top_k.id", dtype="int32", **shape), ids),
        (site("lm_head", "top_k.logprob", **shape), logprobs),
    )
    for row, candidates in zip(range(5, 11), found["candidates"], strict=True):
        assert [text for text, _ in candidates] == [VOCABULARY[i] for i in ids[row]]
        np.testing.assert_allclose([p for _, p in candidates], np.exp(logprobs[row]), rtol=1e-5)


def test_candidates_of_raw_logits_are_a_softmax_and_only_where_it_was_recorded(tmp_path, draw):
    logits = numbers(draw, 3, 50)
    spec = site(
        "lm_head", row_shape=(50,), axes=("token", "d_vocab"), portable="logits", rows="last"
    )
    found = described(tmp_path, (spec, logits))
    softmax = np.exp(logits[2]) / np.exp(logits[2]).sum()
    best = np.argsort(-softmax)[:5]
    assert found["candidates"][:5] == [None] * 5
    assert [text for text, _ in found["candidates"][5]] == [VOCABULARY[i] for i in best]
    np.testing.assert_allclose([p for _, p in found["candidates"][5]], softmax[best], rtol=1e-5)


def test_a_tokens_probability_is_said_by_the_row_before_it(tmp_path, draw):
    logprobs = -draw.uniform(0, 9, N_TOKENS).astype(np.float32)
    logprobs[[3, 4, 10]] = np.nan  # nothing comes after the last
    entropy = draw.uniform(0, 9, N_TOKENS).astype(np.float32)
    shape = {"row_shape": (), "axes": ("token",)}
    found = described(
        tmp_path,
        (site("lm_head", "token_logprob", **shape), logprobs),
        (site("lm_head", "entropy", **shape), entropy),
    )
    assert found["probability"][0] is None
    np.testing.assert_allclose(found["probability"][1:], np.exp(logprobs[5:10]), rtol=1e-5)
    np.testing.assert_allclose(found["entropy"], entropy[5:], rtol=1e-5)


def test_norms_are_numpys_layer_by_layer(tmp_path, draw):
    rows = [
        (site(f"h.{n}", layer=n, portable="resid_post", axes=("token", "d_model")), values)
        for n, values in ((10, numbers(draw, N_TOKENS, 3)), (2, numbers(draw, N_TOKENS, 3)))
    ]
    (stream,) = described(tmp_path, *rows)["streams"]
    assert (stream["name"], stream["unit"], stream["layers"]) == ("resid_post", "L2 norm", [2, 10])
    expected = [np.linalg.norm(rows[1][1][5:], axis=1), np.linalg.norm(rows[0][1][5:], axis=1)]
    np.testing.assert_allclose(stream["values"], expected, rtol=1e-5)


def test_what_was_reduced_already_is_shown_as_it_is(tmp_path, draw):
    values = numbers(draw, 2, N_TOKENS)
    shape = {"row_shape": (), "axes": ("token",), "layer": 0}
    details = {"einops": "token d -> token"}
    norms = site("h.0", details={**details, "einops_op": "norm"}, portable="resid_post", **shape)
    means = site("h.0.mlp", details={**details, "einops_op": "mean"}, **shape)
    found = described(tmp_path, (norms, values[0]), (means, values[1]))["streams"]
    assert [(s["name"], s["unit"]) for s in found] == [
        ("resid_post", "L2 norm"),
        ("h.*.mlp/output", "mean"),
    ]
    np.testing.assert_allclose(found[0]["values"][0], values[0][5:], rtol=1e-5)
    np.testing.assert_allclose(found[1]["values"][0], values[1][5:], rtol=1e-5)


def test_tokens_that_were_not_recorded_have_no_norm(tmp_path, draw):
    values = numbers(draw, 5, 3)  # first and last of each, and the one of the second
    spec = site("h.0", layer=0, axes=("token", "d_model"), rows="0,-1")
    (stream,) = described(tmp_path, (spec, values))["streams"]
    expected = np.linalg.norm(values[3:], axis=1)
    assert [v is None for v in stream["values"][0]] == [False, True, True, True, True, False]
    found = [stream["values"][0][0], stream["values"][0][5]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_last_positions_are_columns_of_examples(tmp_path, draw):
    values = numbers(draw, 2, 3, 4)  # [layer, example, d_model]
    axes = {"axes": ("token", "d_model"), "row_shape": (4,), "rows": "last"}
    rows = [(site(f"h.{n}", layer=n, portable="resid_post", **axes), values[n]) for n in range(2)]
    trace = report_traces.write(tmp_path / "t", rows, LENGTHS)
    found = by_example(trace, roles_of(trace))
    (stream,) = found["streams"]
    assert (stream["name"], stream["at"], stream["layers"]) == ("resid_post", "at last", [0, 1])
    np.testing.assert_allclose(stream["values"], np.linalg.norm(values, axis=-1), rtol=1e-5)
    assert describe(trace, roles_of(trace), 0)["streams"] == []


def test_tokens_of_a_chat_say_whose_they_are(tmp_path):
    (tmp_path / "own.jinja").write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}", encoding="utf-8"
    )
    chat = [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "the dog"}]
    config = {
        "model": {"name": "sample:tiny-gpt2"},
        "inputs": {"messages": [chat], "chat_template": str(tmp_path / "own.jinja")},
        "probes": [{"sites": "resid_post"}],
        "store": {"path": str(tmp_path / "run")},
    }
    trace = probekit.run(config, self_check=False)
    found = describe(trace, roles_of(trace), 0)
    said = dict.fromkeys(("user", "assistant", ""), "")
    for token, role in zip(found["tokens"], found["speakers"], strict=True):
        said[role] += token
    assert (said["user"], said["assistant"]) == ("a cat", "the dog")
