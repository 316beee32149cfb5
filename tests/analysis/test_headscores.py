"""Scores of heads, against plain loops over tokens."""

import numpy as np
import pytest
from tiny_traces import site, write_trace

import probekit
from probekit.analysis.headscores import KINDS, head_scores
from probekit.errors import StoreError
from probekit.trace import rowblocks as blocks

LENGTHS = ((12, 1, 20), (2,), (16, 6))
N_TOKENS = 57
WIDTH = 20


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 3 * WIDTH * 5)


def a_site(layer=0, **given):
    given = {"row_shape": (3, WIDTH), "axes": ("token", "head", "key"), **given}
    return site(f"h.{layer}.attn", "pattern", layer=layer, **given)


def a_trace(folder, values, ids, *specs):
    specs = specs or (a_site(),)
    made = write_trace(folder, specs, LENGTHS, values=values, token_ids=ids)
    return probekit.open(made.folder)


def few_ids(seed=0):
    """Tokens of which many come again."""
    return np.random.default_rng(seed).integers(1, 6, N_TOKENS).tolist()


def random_pattern(seed=0):
    """Rows of attention that sum to 1 over the keys so far, [token, head, key]."""
    draw = np.random.default_rng(seed)
    rows = np.zeros((N_TOKENS, 3, WIDTH), dtype="float32")
    row = 0
    for n_tokens in (n for of_shard in LENGTHS for n in of_shard):
        for position in range(n_tokens):
            rows[row, :, : position + 1] = draw.dirichlet(np.ones(position + 1), size=3)
            row += 1
    return rows


def by_hand(pattern, ids, kept=lambda position, n_tokens: True, only=None):
    """Score heads with loops: per kind a list of (attention [head], share if uniform)."""
    found = {kind: [] for kind in KINDS}
    row = first = 0
    for number, n_tokens in enumerate(n for of_shard in LENGTHS for n in of_shard):
        own = ids[first : first + n_tokens]
        for t in range(n_tokens):
            if not kept(t, n_tokens):
                continue
            if only is not None and number not in only:
                row += 1
                continue
            earlier = [s for s in range(t) if own[s] == own[t]]
            looked_at = {
                "induction": [s + 1 for s in earlier if s + 1 < t],
                "previous_token": [t - 1] if t else [],
                "duplicate_token": earlier,
            }
            for kind, keys in looked_at.items():
                if keys:
                    found[kind].append((pattern[row][:, keys].sum(-1), len(keys) / (t + 1)))
            row += 1
        first += n_tokens
    return found


def agree(scores, found):
    for kind in KINDS:
        assert scores.n_queries[kind] == len(found[kind])
        expected = np.mean([attention for attention, _ in found[kind]], axis=0, dtype=np.float64)
        np.testing.assert_allclose([getattr(h, kind) for h in scores], expected, rtol=1e-6)
        assert scores.uniform[kind] == pytest.approx(np.mean([u for _, u in found[kind]]))


def test_scores_are_those_of_plain_loops(tmp_path):
    pattern, ids = random_pattern(), few_ids()
    agree(
        a_trace(tmp_path, {"h.0.attn/pattern": pattern}, ids).head_scores(), by_hand(pattern, ids)
    )


def test_patterns_at_chosen_positions_count_those_tokens_alone(tmp_path):
    pattern, ids = random_pattern(), few_ids()
    kept = np.array([p >= 3 for of in LENGTHS for n in of for p in range(n)])
    trace = a_trace(tmp_path, {"h.0.attn/pattern": pattern[kept]}, ids, a_site(rows="3:"))
    agree(trace.head_scores(), by_hand(pattern[kept], ids, kept=lambda p, n: p >= 3))


def test_some_examples_are_scored_alone(tmp_path):
    pattern, ids = random_pattern(), few_ids()
    trace = a_trace(tmp_path, {"h.0.attn/pattern": pattern}, ids)
    agree(head_scores(trace, None, (4, 0)), by_hand(pattern, ids, only=(0, 4)))


def test_a_perfect_head_of_each_kind_scores_one(tmp_path):
    ids = [7, 8, 9, 10, 11, 12] * 2 + [1] + [1, 2, 3, 4, 5] * 4 + [1, 2] + list(range(16)) + [1] * 6
    pattern = np.zeros((N_TOKENS, 3, WIDTH), dtype="float32")
    first = 0
    for n_tokens in (n for of_shard in LENGTHS for n in of_shard):
        own = ids[first : first + n_tokens]
        for t in range(n_tokens):
            earlier = [s for s in range(t) if own[s] == own[t]]
            # 0: induction, to the first occurrence; 1: previous token; 2: duplicate, to the last.
            pattern[first + t, 0, earlier[0] + 1 if earlier else 0] = 1
            pattern[first + t, 1, max(0, t - 1)] = 1
            pattern[first + t, 2, earlier[-1] if earlier else t] = 1
        first += n_tokens
    scores = a_trace(tmp_path, {"h.0.attn/pattern": pattern}, ids).head_scores()
    induction, previous, duplicate = scores
    assert previous.previous_token == 1
    assert duplicate.duplicate_token == 1
    assert induction.induction == 1
    assert scores.best("induction", 1) == (induction,)
    assert max(previous.induction, duplicate.induction) < 0.5


def test_texts_that_cannot_show_a_kind_give_nan_not_zero(tmp_path):
    pattern = random_pattern()
    ids = [n for of_shard in LENGTHS for length in of_shard for n in range(length)]
    scores = a_trace(tmp_path, {"h.0.attn/pattern": pattern}, ids).head_scores()
    assert scores.n_queries["induction"] == scores.n_queries["duplicate_token"] == 0
    assert np.isnan(scores[0].induction)
    assert not np.isnan(scores[0].previous_token)
    with pytest.raises(StoreError, match="nothing in these texts can show induction heads"):
        scores.best("induction")
    assert "–" in repr(scores)


def test_several_layers_and_chosen_heads_keep_their_numbers(tmp_path):
    values = {f"h.{n}.attn/pattern": random_pattern(n) for n in range(2)}
    specs = (a_site(0), a_site(1, details={"heads": [11, 2, 5]}))
    ids = few_ids()
    trace = a_trace(tmp_path, values, ids, *specs)
    scores = trace.head_scores()
    assert [(h.layer, h.head) for h in scores] == [(0, 0), (0, 1), (0, 2), (1, 11), (1, 2), (1, 5)]
    matrix, sites, heads = scores.matrix("previous_token")
    assert (sites, heads) == (tuple(values), (0, 1, 2, 5, 11))
    assert matrix[1, 4] == scores[3].previous_token
    assert np.isnan(matrix[0, 3:]).all()
    assert [h.layer for h in trace.head_scores("h.1.attn/pattern")] == [1, 1, 1]
    frame = scores.to_pandas()
    assert frame["head"].tolist() == [0, 1, 2, 11, 2, 5]
    assert "<table" in scores._repr_html_()


def test_what_is_not_there_is_an_error_that_says_what_is(tmp_path):
    other = probekit.open(write_trace(tmp_path / "none", [site("mlp")]).folder)
    with pytest.raises(StoreError, match=r"no attention patterns were .*Recorded: mlp/output"):
        other.head_scores()
    mixed = a_trace(tmp_path / "mixed", {}, few_ids(), a_site(0), a_site(1, rows="last"))
    with pytest.raises(StoreError, match=r"different positions: all \(h.0.*last \(h.1"):
        mixed.head_scores()
    assert len(mixed.head_scores("h.0.attn/pattern")) == 3
    with pytest.raises(StoreError, match="no kind of head 'inducton'; expected one of: induction"):
        mixed.head_scores("h.0.attn/pattern").best("inducton")
