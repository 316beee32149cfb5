"""Plots of results: what is drawn is what was worked out."""

import matplotlib as mpl
import matplotlib.figure
import numpy as np
import pytest
from matplotlib import pyplot
from tiny_traces import site, write_trace

import probekit
from probekit.analysis.logitlens.result import Lens
from probekit.errors import StoreError

LENGTHS = ((6, 1, 9), (2,), (7, 6))
N_TOKENS, WIDTH = 31, 9


def a_trace(folder, n_layers=3, model="a", seed=0):
    draw = np.random.default_rng(seed)
    specs = [
        spec
        for layer in range(n_layers)
        for spec in (
            site(f"h.{layer}", row_shape=(5,), axes=("token", "d_model"), layer=layer,
                 portable="resid_post"),
            site(f"h.{layer}.attn", "pattern", row_shape=(2, WIDTH), layer=layer,
                 axes=("token", "head", "key")),
        )
    ]  # fmt: skip
    values = {
        s.name: (draw.random((N_TOKENS, *s.row_shape)) * 10**s.layer).astype("f4") for s in specs
    }
    attributes = {"probekit_format": 1, "model_name": model, "n_layers": n_layers}
    ids = [n % 4 for n in range(N_TOKENS)]
    made = write_trace(folder, specs, LENGTHS, values=values, attributes=attributes, token_ids=ids)
    return probekit.open(made.folder)


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return a_trace(tmp_path_factory.mktemp("a"))


@pytest.fixture(scope="module")
def comparison(trace, tmp_path_factory):
    other = a_trace(tmp_path_factory.mktemp("b"), n_layers=4, model="b", seed=1)
    return probekit.compare(trace, other, sites="resid_post")


def a_lens(trace):
    draw = np.random.default_rng(0)
    shape = (3, N_TOKENS)
    return Lens(
        trace=trace,
        sites=tuple(f"h.{n}/output" for n in range(3)),
        layers=(0, 1, 2),
        rows=np.arange(N_TOKENS),
        rank=np.ones(shape, dtype=np.int32),
        logprob=-draw.random(shape),
        kl=draw.random(shape),
        entropy=draw.random(shape),
        top_ids=draw.integers(0, 50, (*shape, 2)),
        top_logprob=-draw.random((*shape, 2)),
        final_ids=draw.integers(0, 50, N_TOKENS),
        agreement=(),
    )


def test_norms_are_drawn_by_layer(trace):
    found = trace.statistics()
    (ax,) = found.plot().axes
    (line,) = ax.lines  # attention has no norm that means something
    assert line.get_label() == "resid_post"
    norms = [np.linalg.norm(np.asarray(trace[f"h.{n}"]).astype(float), axis=1) for n in range(3)]
    np.testing.assert_allclose(line.get_ydata(), [n.mean() for n in norms])
    assert line.get_xdata().tolist() == [0, 1, 2]
    assert ax.get_yscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "L2 norm of a row")
    with pytest.raises(StoreError, match="no statistics of sites inside of layers"):
        trace.statistics("h.*.attn/pattern").plot()


def test_scores_of_heads_are_a_map_of_layers_by_heads(trace):
    scores = trace.head_scores()
    ax, scale = scores.plot("previous_token").axes
    np.testing.assert_array_equal(ax.images[0].get_array(), scores.matrix("previous_token")[0])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("head", "layer")
    assert scale.get_ylabel() == "previous-token score"
    assert len(ax.texts) == 6
    with pytest.raises(StoreError, match="no kind of head 'copying'"):
        scores.plot("copying")


def test_a_cka_matrix_is_drawn_from_the_lower_left(comparison):
    matrix = comparison.matrix("resid_post")
    ax, scale = matrix.plot().axes
    np.testing.assert_array_equal(ax.images[0].get_array(), matrix.values)
    assert ax.images[0].origin == "lower"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer of b", "layer of a")
    assert scale.get_ylabel() == "linear CKA"
    ax, scale = matrix.plot(debiased=True).axes
    np.testing.assert_array_equal(ax.images[0].get_array(), matrix.debiased)
    assert scale.get_ylabel() == "linear CKA, debiased"


def test_a_comparison_is_drawn_by_layer(comparison):
    (ax,) = comparison.plot("cosine").axes
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [p.cosine for p in comparison.pairs])
    assert ax.get_ylabel() == "cosine"
    assert comparison.plot().axes[0].get_ylabel() == "CKA"
    with pytest.raises(StoreError, match="no measure 'correlation'; expected cka, cka_debiased"):
        comparison.plot("correlation")


def test_a_lens_is_drawn_by_layer_and_by_token(trace):
    found = a_lens(trace)
    (ax,) = found.plot().axes
    np.testing.assert_allclose(ax.lines[0].get_ydata(), found.kl.mean(1))
    assert ax.get_ylabel() == "nats"
    example = found.example(2)
    ax, scale = example.plot().axes
    np.testing.assert_array_equal(ax.images[0].get_array(), example.probability)
    assert [t.get_text() for t in ax.texts] == [word for row in example.said for word in row]
    assert scale.get_ylabel() == "its probability"


def test_axes_can_be_given_and_nothing_is_left_in_matplotlib(trace, comparison):
    before = dict(mpl.rcParams)
    lens = a_lens(trace)
    for result in (
        trace.statistics(),
        trace["h.0"].statistics(),
        trace.head_scores(),
        comparison,
        comparison.matrix(),
        lens,
        lens.example(0),
    ):
        figure = matplotlib.figure.Figure()
        ax = figure.add_subplot()
        assert result.plot(ax=ax) is figure
        assert ax.has_data()
        assert result.plot()._repr_png_().startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == []
