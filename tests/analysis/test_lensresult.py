"""What a lens found, made by hand: means by layer, examples, frames."""

import numpy as np
import pytest
from tiny_traces import VOCABULARY, site, write_trace

import probekit
from probekit.analysis.logitlens.result import Agreement, Lens

LENGTHS = ((3, 1, 5), (2,), (4, 6))
N_TOKENS = 21
LAST = np.cumsum([n for of in LENGTHS for n in of]) - 1


@pytest.fixture
def lens(tmp_path):
    trace = probekit.open(write_trace(tmp_path, [site()], LENGTHS).folder)
    draw = np.random.default_rng(0)
    shape = (2, N_TOKENS)
    rank = draw.integers(1, 50, shape).astype(np.int32)
    logprob = -draw.random(shape).astype("f4")
    rank[:, LAST], logprob[:, LAST] = 0, np.nan
    return Lens(
        trace=trace,
        sites=("h.0/output", "h.5/output"),
        layers=(0, 5),
        rows=np.arange(N_TOKENS),
        rank=rank,
        logprob=logprob,
        kl=draw.random(shape).astype("f4"),
        entropy=draw.random(shape).astype("f4"),
        top_ids=draw.integers(0, 4, (*shape, 3)),
        top_logprob=-draw.random((*shape, 3)).astype("f4"),
        final_ids=draw.integers(0, 4, N_TOKENS),
        agreement=(
            Agreement(site="lm_head/output", n_values=9, mean_difference=0.5, largest_difference=2),
        ),
    )


def test_layers_have_means_over_tokens_and_the_median_rank(lens):
    came = np.setdiff1d(np.arange(N_TOKENS), LAST)
    for number, found in enumerate(lens.by_layer):
        assert (found.layer, found.site) == (lens.layers[number], lens.sites[number])
        assert found.rank == np.median(lens.rank[number, came])
        assert found.logprob == pytest.approx(lens.logprob[number, came].mean(dtype=float))
        assert found.kl == pytest.approx(lens.kl[number].mean(dtype=float))
        assert found.agrees == (lens.top_ids[number, :, 0] == lens.final_ids).mean()


def test_an_example_is_its_tokens_rows(lens):
    found = lens.example(-1)
    rows = slice(15, 21)
    assert found.number == 5
    assert found.tokens == lens.trace.examples[5].tokens
    np.testing.assert_array_equal(found.rank, lens.rank[:, rows])
    np.testing.assert_array_equal(found.probability, np.exp(lens.top_logprob[:, rows, 0]))
    assert found.said[1] == tuple(VOCABULARY[i] for i in lens.top_ids[1, rows, 0])
    with pytest.raises(IndexError, match="example 6 is out of range"):
        lens.example(6)


def test_it_prints_as_tables(lens):
    lines = repr(lens).splitlines()
    assert lines[0].endswith("logit lens over 21 tokens")
    assert lines[1].split()[:2] == ["layer", "median"]
    assert lines[-1].endswith("gives lm_head/output to 0.5 nats in the mean, 2 at most")
    assert len(repr(lens.example(0)).splitlines()) == 4
    assert "<table" in lens._repr_html_()


def test_a_frame_has_a_row_for_every_layer_and_token(lens):
    frame = lens.to_pandas()
    assert len(frame) == 2 * N_TOKENS
    row = frame.iloc[N_TOKENS + 4]
    assert (row["layer"], row["row"], row["example"], row["position"]) == (5, 4, 2, 0)
    assert row["token"] == lens.trace.tokens[4].text
    assert row["rank"] == lens.rank[1, 4]
    assert row["said"] == VOCABULARY[lens.top_ids[1, 4, 0]]
