"""Plots of one site: what is drawn is what was recorded."""

import subprocess
import sys

import matplotlib as mpl
import matplotlib.figure
import numpy as np
import pytest
from matplotlib import pyplot
from tiny_traces import site, write_trace

import probekit
from probekit.errors import ProbekitError, StoreError
from probekit.plots.pictures import drawn

LENGTHS = ((6, 1, 9), (2,), (7, 6))
N_TOKENS, WIDTH = 31, 9
WORDS = ("?", " the", " cat", "$", "\n", "東", *(f" w{n}" for n in range(50)))


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    draw = np.random.default_rng(0)
    specs = (
        site("h.0.attn", "pattern", row_shape=(2, WIDTH), axes=("token", "head", "key"), layer=0,
             details={"heads": [7, 3]}),
        site("h.1.attn", "pattern", row_shape=(9, WIDTH), axes=("token", "head", "key"), rows="3:"),
        site("h.2.attn", "scores", row_shape=(2, WIDTH), axes=("token", "head", "key"), layer=2),
        site("h.0", row_shape=(40,), axes=("token", "d_model"), layer=0),
        site("z", row_shape=(2, 4), axes=("token", "head", "d_head")),
        site("pooled", row_shape=(4,), axes=("example", "d_model"), rows="example"),
        site("lm_head", "entropy", row_shape=(), axes=("token",)),
    )  # fmt: skip
    values = {
        s.name: draw.random((N_TOKENS, *s.row_shape)).astype("f4") for s in specs if s.rows == "all"
    }
    values["h.0/output"][:, 11] += 100
    values["h.2.attn/scores"][:, :, 4:] = -np.inf
    values["h.2.attn/scores"] -= 10
    kept = sum(max(0, n - 3) for of in LENGTHS for n in of)
    values["h.1.attn/pattern"] = draw.random((kept, 9, WIDTH)).astype("f4")
    values["pooled/output"] = draw.random((6, 4)).astype("f4")
    made = write_trace(
        tmp_path_factory.mktemp("plots"), specs, LENGTHS, values=values, vocabulary=WORDS
    )
    return probekit.open(made.folder)


def texts(labels):
    return [label.get_text() for label in labels]


def test_an_attention_map_is_the_recorded_pattern_with_its_tokens(trace):
    figure = trace["h.0.attn/pattern"].plot(example=2, head=3)
    ax, scale = figure.axes
    np.testing.assert_array_equal(
        ax.images[0].get_array(), trace["h.0.attn/pattern"].example(2)[1].astype(float)
    )
    words = [drawn(t) for t in trace.examples[2].tokens]
    assert texts(ax.get_xticklabels()) == texts(ax.get_yticklabels()) == words
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("attended token", "attending token")
    assert scale.get_ylabel() == "attention weight"
    assert ax.get_title() == "h.0.attn, layer 0, head 3"


def test_without_a_head_all_are_drawn(trace):
    axes = trace["h.0.attn/pattern"].plot(example=2).axes
    assert texts(ax.title for ax in axes[:2]) == ["head 7", "head 3"]
    assert axes[0].images[0].get_clim() == axes[1].images[0].get_clim()
    nine = trace["h.1.attn/pattern"].plot(example=2).axes
    assert len([ax for ax in nine if ax.images]) == 9


def test_queries_that_were_chosen_label_their_rows_alone(trace):
    ax = trace["h.1.attn/pattern"].plot(example=2, head=0).axes[0]
    assert ax.images[0].get_array().shape == (6, 9)
    assert texts(ax.get_yticklabels()) == texts(ax.get_xticklabels())[3:]


def test_masked_scores_are_blank_and_the_others_keep_their_range(trace):
    scores = trace["h.2.attn/scores"].example(2).astype(float)
    ax, scale = trace["h.2.attn/scores"].plot(example=2, head=1).axes
    drawn = ax.images[0].get_array()
    np.testing.assert_array_equal(drawn[:, :4], scores[1][:, :4])
    assert drawn.mask[:, 4:].all()
    assert ax.images[0].get_clim() == (scores[1][:, :4].min(), scores[1][:, :4].max())
    assert scale.get_ylabel() == "attention score"
    trace["h.2.attn/scores"].plot(example=2)._repr_png_()


def test_values_over_the_tokens_of_an_example(trace):
    rows = np.asarray(trace["h.0"].example(4)).astype(float)
    (ax,) = trace["h.0"].plot(example=4).axes
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, np.linalg.norm(rows, axis=1))
    assert ax.get_ylabel() == "L2 norm"
    (ax,) = trace["h.0"].plot(example=4, neuron=5).axes
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], rows[:, 5])
    (ax,) = trace["z"].plot(neuron=(1, 2)).axes
    z = np.asarray(trace["z"].example(0))[:, 1, 2]
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], z)
    (ax,) = trace["lm_head/entropy"].plot(example=1).axes
    assert ax.get_ylabel() == "entropy, nats"


def test_statistics_show_means_and_name_outliers(trace):
    (ax,) = trace["h.0"].plot().axes
    wide = np.asarray(trace["h.0"]).astype(float)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), wide.mean(0))
    assert texts(ax.texts) == ["11"]
    assert ax.get_xlabel() == "d_model"
    assert trace["pooled"].plot().axes[0].get_title() == "pooled/output, 6 rows"


@pytest.mark.parametrize(
    "options", [{}, {"example": 2}, {"example": 2, "neuron": 0}], ids=["all", "norms", "neuron"]
)
def test_axes_can_be_given(trace, options):
    figure = matplotlib.figure.Figure()
    ax = figure.add_subplot()
    assert trace["h.0"].plot(ax=ax, **options) is figure
    assert ax.has_data()


def test_maps_can_be_drawn_into_given_axes(trace):
    figure = matplotlib.figure.Figure()
    left, _ = figure.subplots(1, 2)
    assert trace["h.0.attn/pattern"].plot(example=0, head=7, ax=left) is figure
    with pytest.raises(StoreError, match=r"a map of all heads takes a figure; give head= with ax="):
        trace["h.0.attn/pattern"].plot(example=0, ax=left)


def test_nothing_is_left_in_matplotlib(trace, tmp_path):
    before = dict(mpl.rcParams)
    for name in ("h.0.attn/pattern", "h.0", "lm_head/entropy"):
        figure = trace[name].plot(example=0)
        for ending in ("png", "pdf", "svg"):
            figure.savefig(tmp_path / f"map.{ending}")
        assert figure._repr_png_()
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("h.0.attn/pattern", {"head": 0}, r"h.0.attn/pattern: head 0 was not recorded; .*: 7, 3"),
        ("h.0.attn/pattern", {"neuron": 0}, "holds attention, which has heads and no neurons"),
        ("h.0", {"head": 0}, r"h.0/output has rows of \[d_model\]; head= goes with attention"),
        ("h.0", {"neuron": 40}, r"h.0/output: d_model 40 was not recorded; recorded: 0 to 39"),
        ("pooled", {"example": 0}, "one row for each example: there are no tokens to draw it over"),
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_is(trace, name, options, message):
    with pytest.raises(StoreError, match=message):
        trace[name].plot(**options)


def test_an_example_that_is_not_there_is_an_index_error(trace):
    for name in ("h.0", "h.0.attn/pattern"):
        with pytest.raises(IndexError, match="example 6 is out of range: there are 6"):
            trace[name].plot(example=6)


def test_without_matplotlib_the_error_says_what_to_install(trace, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ProbekitError, match=r"plot\(\) needs matplotlib.*probekit\[analysis\]"):
        trace["h.0"].plot()


def test_reading_a_trace_does_not_load_matplotlib(trace):
    code = (
        "import sys, probekit; trace = probekit.open(sys.argv[1]); trace.statistics()\n"
        "trace.head_scores('h.0.attn/pattern'), trace._repr_html_(), trace['h.0']._repr_html_()\n"
        "assert 'matplotlib' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, trace.path], check=True)
