"""Plots of readouts: what is drawn is what was fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from labelled_traces import labelled_trace, planted
from matplotlib import pyplot

from probekit.trace import Trace


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    rows, labels, _ = planted(60, 4, strength=0.7)
    columns = {"label": labels.tolist(), "height": (rows[:, 0] + 0.25).astype(float).tolist()}
    return labelled_trace(tmp_path_factory.mktemp("plots") / "run", [rows, 2 * rows], columns)


@pytest.mark.parametrize("target", ["label", "height"])
def test_scores_are_drawn_with_their_interval_beside_shuffled_labels(
    trace: Trace, target: str
) -> None:
    found = trace.fit_readout("resid_post", target=target, strength=0.1, shuffles=3)
    (ax,) = found.plot().axes
    score, shuffled, baseline = ax.lines
    assert score.get_xdata().tolist() == [0, 1]
    assert score.get_ydata().tolist() == [one.score for one in found.layers]
    np.testing.assert_allclose(shuffled.get_ydata(), [one.shuffled_mean for one in found.layers])
    assert set(baseline.get_ydata()) == {found.baseline}
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(min(one.low for one in found.layers))
    assert band.max() == pytest.approx(max(one.high for one in found.layers))
    assert ax.get_ylabel() == (
        "accuracy on what was held out" if target == "label" else "R² on what was held out"
    )
    assert "label from resid_post of by-hand" in ax.get_title() or target == "height"
    said = [text.get_text() for text in ax.get_legend().get_texts()]
    assert said == [
        f"{target}, 95% interval", "labels shuffled, 3 times", "always the same answer"
    ]  # fmt: skip


def test_a_lone_layer_is_a_point_with_a_bar(trace: Trace, tmp_path: Path) -> None:
    found = trace.fit_readout("block.1", target="label", strength=0.1, shuffles=0)
    _, own = pyplot.subplots()
    figure = found.plot(ax=own)
    assert figure is own.figure
    assert len(own.containers) == 1
    figure.savefig(tmp_path / "one.png")
    pyplot.close("all")
