"""The rows on which a neuron fires most, against numpy's sort of the whole column."""

import numpy as np
import pytest
from tiny_traces import VOCABULARY, site, write_trace

import probekit
from probekit.analysis.neurons import top_rows
from probekit.errors import StoreError
from probekit.trace import rowblocks as blocks

LENGTHS = ((30, 1, 50), (20,), (40, 6))
N_TOKENS, N_EXAMPLES = 147, 6
EXAMPLE_OF = np.repeat(np.arange(N_EXAMPLES), [n for of in LENGTHS for n in of])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 6 * 7)


def coarse(*shape):
    """Values with many ties, some of them NaN and infinite."""
    values = np.random.default_rng(0).integers(-4, 5, shape).astype("float32")
    values.reshape(-1)[::17] = np.nan
    values.reshape(-1)[5::97] = np.inf
    return values


def by_hand(column, k, sign=-1):
    """Rank a column with a stable sort; NaN is left out."""
    rows = [r for r in np.argsort(sign * column, kind="stable") if not np.isnan(column[r])]
    return rows[:k]


@pytest.fixture
def trace(tmp_path):
    specs = (
        site("mlp", row_shape=(6,), axes=("token", "d_mlp")),
        site("z", row_shape=(2, 3), axes=("token", "head", "d_head"), details={"heads": [7, 0]}),
        site("few", row_shape=(2,), axes=("token", "neuron"), details={"neurons": [9, 4]}),
        site("ends", row_shape=(6,), axes=("token", "d_mlp"), rows="0,-1"),
        site("pooled", row_shape=(6,), axes=("example", "d_mlp"), rows="example"),
        site("attn", "pattern", row_shape=(2, 50), axes=("token", "head", "key")),
        site("lm_head", "entropy", row_shape=(), axes=("token",)),
    )
    values = {
        "mlp/output": coarse(N_TOKENS, 6),
        "z/output": coarse(N_TOKENS, 2, 3),
        "few/output": coarse(N_TOKENS, 2),
        "ends/output": coarse(11, 6),
        "pooled/output": coarse(N_EXAMPLES, 6),
        "lm_head/entropy": coarse(N_TOKENS),
    }
    return probekit.open(write_trace(tmp_path, specs, LENGTHS, values=values).folder)


@pytest.mark.parametrize("smallest", [False, True])
def test_the_top_rows_are_those_of_a_stable_sort(trace, smallest):
    column = np.asarray(trace["mlp"])[:, 2]
    found = trace.top_examples("mlp", 2, 40, smallest=smallest)
    expected = by_hand(column, 40, sign=1 if smallest else -1)
    assert [f.row for f in found] == expected
    assert [f.value for f in found] == [column[r] for r in expected]
    assert [f.example for f in found] == [EXAMPLE_OF[r] for r in expected]


def test_several_columns_are_ranked_in_one_pass(trace):
    values = np.asarray(trace["z"]).reshape(N_TOKENS, 6)
    for column, (rows, _) in zip([4, 0], top_rows(trace["z"], [4, 0], 9), strict=True):
        assert rows.tolist() == by_hand(values[:, column], 9)


def test_one_row_an_example_is_the_best_of_each(trace):
    column = np.asarray(trace["mlp"])[:, 2]
    best = {}
    for row in by_hand(column, N_TOKENS):
        best.setdefault(EXAMPLE_OF[row], row)
    found = trace.top_examples("mlp", 2, 4, one_per_example=True)
    assert [f.row for f in found] == list(best.values())[:4]


def test_more_than_there_is_gives_what_there_is(trace):
    found = trace.top_examples("mlp", 0, 10_000)
    assert len(found) == np.count_nonzero(~np.isnan(np.asarray(trace["mlp"])[:, 0]))


def test_the_token_stands_in_its_context(trace):
    firing = trace.top_examples("mlp", 2, 1, around=2)[0]
    example = trace.examples[firing.example]
    tokens, at = example.tokens, firing.position
    assert firing.context.token == tokens[at]
    assert firing.context.before == "".join(tokens[max(0, at - 2) : at])
    assert firing.context.after == "".join(tokens[at + 1 : at + 3])
    assert f"«{tokens[at]}»" in str(firing)


def test_rows_at_chosen_positions_are_told_by_their_token(trace):
    acts = trace["ends"]
    for firing in trace.top_examples(acts, 1, 11):
        row = int(acts.token_rows()[firing.row])
        assert firing.position == trace.tokens[row].position
        assert firing.example == trace.tokens[row].example
        assert firing.context.token == VOCABULARY[trace.tokens[row].id]


def test_a_row_of_a_whole_example_has_no_token(trace):
    found = trace.top_examples("pooled", 0, 2)
    assert found[0].position is None
    assert found[0].example == found[0].row
    assert str(found[0].context).endswith(trace.examples[found[0].example].text)


def test_neurons_go_by_their_number_in_the_model(trace):
    assert [f.row for f in trace.top_examples("few", 4, 3)] == by_hand(
        np.asarray(trace["few"])[:, 1], 3
    )
    assert [f.row for f in trace.top_examples("z", (7, 2), 3)] == by_hand(
        np.asarray(trace["z"])[:, 0, 2], 3
    )
    assert [f.row for f in trace.top_examples("mlp", -1, 3)] == by_hand(
        np.asarray(trace["mlp"])[:, 5], 3
    )


def test_one_number_a_row_is_the_neuron_of_no_number(trace):
    column = np.asarray(trace["lm_head/entropy"])
    found = trace.top_examples("lm_head/entropy", (), 5)
    assert [f.row for f in found] == by_hand(column, 5)


@pytest.mark.parametrize(
    ("name", "neuron", "message"),
    [
        ("mlp", 6, r"mlp/output: d_mlp 6 was not recorded; recorded: 0 to 5"),
        ("few", 3, r"few/output: neuron 3 was not recorded; recorded: 9, 4"),
        ("z", 1, r"z/output has rows of \[head, d_head\]; neuron 1 does not fit: expected \(head"),
        ("z", (1, 1), r"z/output: head 1 was not recorded; recorded: 7, 0"),
        ("mlp", (1, 1), r"neuron \(1, 1\) does not fit: expected the number of a d_mlp"),
        ("attn/pattern", (0, 0), r"attn/pattern holds attention, whose keys are tokens"),
        ("mlpp", 0, r"mlpp/output was not recorded; 7 sites were, the nearest: mlp/output"),
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_is(trace, name, neuron, message):
    with pytest.raises(StoreError, match=message):
        trace.top_examples(name, neuron)


def test_the_result_shows_itself(trace):
    found = trace.top_examples("mlp", 2, 3)
    assert repr(found).splitlines()[0] == "mlp/output, neuron 2: the top 3 of 147 rows"
    assert len(repr(found).splitlines()) == 5
    assert found._repr_html_().count("<mark") == 3
    frame = found.to_pandas()
    assert frame["row"].tolist() == [f.row for f in found]
    assert list(frame) == ["value", "row", "example", "position", "token", "context"]
    with pytest.raises(StoreError, match="k is 0; expected 1 or more"):
        trace.top_examples("mlp", 2, 0)
