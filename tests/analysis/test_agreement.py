"""Whether log-probabilities are those a run recorded."""

import numpy as np
import pytest
import torch
from tiny_traces import site, write_trace

import probekit
from probekit.analysis.logitlens.agreement import Check
from probekit.errors import StoreError

LENGTHS = ((3, 1, 5), (2,), (4, 6))
N_TOKENS, D_VOCAB = 21, 50
LAST = np.cumsum([n for of in LENGTHS for n in of]) - 1
LOGITS = torch.randn(N_TOKENS, D_VOCAB, generator=torch.Generator().manual_seed(0)) * 5
LOGPROBS = LOGITS.log_softmax(-1)


def a_trace(folder, rows="all"):
    """A run that recorded these logits at all tokens, their top and the next token's at some."""
    kept = np.arange(N_TOKENS) if rows == "all" else LAST
    draw = np.random.default_rng(0)
    ids = draw.integers(0, D_VOCAB, N_TOKENS)
    top = LOGPROBS[kept].topk(4)
    specs = (
        site("lm_head", row_shape=(D_VOCAB,), axes=("token", "d_vocab")),
        site("lm_head", "top_k.id", row_shape=(4,), axes=("token", "k"), dtype="int32", rows=rows),
        site("lm_head", "top_k.logprob", row_shape=(4,), axes=("token", "k"), rows=rows),
        site("lm_head", "token_logprob", row_shape=(), axes=("token",), rows=rows),
    )
    came = np.array([*ids[1:], 0])
    next_logprob = LOGPROBS[np.arange(N_TOKENS), came].numpy()
    next_logprob[LAST] = np.nan
    values = {
        "lm_head/output": LOGITS.numpy(),
        "lm_head/top_k.id": top.indices.int().numpy(),
        "lm_head/top_k.logprob": top.values.numpy(),
        "lm_head/token_logprob": next_logprob[kept],
    }
    made = write_trace(folder, specs, LENGTHS, values=values, token_ids=ids.tolist())
    return probekit.open(made.folder)


def checked(trace, logits, step=4):
    check = Check(trace, "lm_head")
    for begin in range(0, N_TOKENS, step):
        tokens = np.arange(begin, min(begin + step, N_TOKENS))
        check.add(tokens, logits[tokens], logits[tokens].log_softmax(-1))
    return check


def test_what_was_recorded_agrees(tmp_path):
    found = checked(a_trace(tmp_path), LOGITS).result("float32")
    assert [(a.site, a.n_values) for a in found] == [
        ("lm_head/top_k.logprob", N_TOKENS * 4),
        ("lm_head/token_logprob", N_TOKENS - len(LAST)),
        ("lm_head/output", N_TOKENS * D_VOCAB),
    ]
    assert all(a.largest_difference < 1e-5 for a in found)


def test_sites_at_some_positions_are_compared_there(tmp_path):
    off = LOGITS.clone()
    off[np.setdiff1d(np.arange(N_TOKENS), LAST)] *= 2  # where top_k was not recorded
    check = checked(a_trace(tmp_path, rows="last"), off)
    with pytest.raises(StoreError, match=r"off lm_head/output in the mean"):
        check.result("float32")
    top = next(sums for sums in check._sums if sums.site.kind == "top_k.logprob")
    assert (top.n_values, top.largest) == (4 * len(LAST), pytest.approx(0, abs=1e-5))
    assert not any(s.n_values for s in check._sums if s.site.kind == "token_logprob")


def test_differences_are_told_apart_from_roundings_by_their_dtypes(tmp_path):
    trace = a_trace(tmp_path)
    noise = torch.randn(LOGITS.shape, generator=torch.Generator().manual_seed(1)) * 0.05
    check = checked(trace, LOGITS + noise)
    found = check.result("float32", "bfloat16")
    expected = (LOGPROBS - (LOGITS + noise).log_softmax(-1)).abs()
    assert found[2].mean_difference == pytest.approx(float(expected.mean()), rel=1e-4)
    assert found[2].largest_difference == pytest.approx(float(expected.max()), rel=1e-4)
    with pytest.raises(
        StoreError, match=r"the last layer does not say what the model said: .*model"
    ):
        check.result("float32", "float32")


def test_nothing_recorded_is_nothing_to_compare(tmp_path):
    trace = probekit.open(write_trace(tmp_path, [site("h.0")], LENGTHS).folder)
    assert checked(trace, LOGITS).result("float32") == ()
