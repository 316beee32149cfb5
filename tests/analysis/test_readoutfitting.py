"""Readouts against scikit-learn called by hand, on rows that bare h5py reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from labelled_traces import labelled_trace, planted
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

import probekit
from probekit.errors import ProbekitError, StoreError
from probekit.trace import Trace

Array = np.ndarray[Any, Any]

N, D = 120, 12
SCALES = np.geomspace(0.01, 1000, D)  # of the features: as unlike as those of residual streams


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Two layers, the second of which knows the label; columns of every type."""
    rows, labels, direction = planted(N, D)
    noise = np.random.default_rng(9).normal(size=(N, D)).astype(np.float32)
    kinds = np.where(labels == 1, np.where(rows[:, 0] > 0, "red", "green"), "blue")
    return labelled_trace(
        tmp_path_factory.mktemp("labelled") / "run",
        [noise * SCALES, rows * SCALES],
        {
            "label": labels.tolist(),
            "truth": [bool(n) for n in labels],
            "kind": kinds.tolist(),
            "height": (rows @ direction * 1000 + 5e4).astype(float).tolist(),
            "gap": [None if n % 10 == 0 else int(label) for n, label in enumerate(labels)],
            "part": ["test" if n % 4 == 0 else "train" for n in range(N)],
            "is_test": [n % 4 == 0 for n in range(N)],
            "same": [3] * N,
            "rare": ["once" if n == 7 else "often" for n in range(N)],
        },
    )


def by_hand(trace: Trace, layer: int, column: str) -> tuple[Array, Array, Array, Array]:
    """Read rows and labels with bare h5py, parted as the column `part` says."""
    with h5py.File(trace.path) as file:
        rows = file[f"sites/block.{layer}/output"][:].astype(np.float64)
        values = file[f"examples/columns/{column}"]
        labels = values.asstr()[:] if h5py.check_string_dtype(values.dtype) else values[:]
    held = np.arange(N) % 4 == 0
    return rows[~held], labels[~held], rows[held], labels[held]


@pytest.mark.parametrize("column", ["label", "truth", "kind"])
@pytest.mark.parametrize("layer", [0, 1])
def test_logistic_is_scikit_learns(trace: Trace, column: str, layer: int) -> None:
    found = probekit.fit_readout(
        trace, "resid_post", target=column, split="part", strength=0.1, shuffles=0
    )
    assert found.method == "logistic"
    train, labels, test, true = by_hand(trace, layer, column)
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(C=1 / (0.1 * len(train)), tol=1e-8, max_iter=5000)
    model.fit(scaler.transform(train), labels)
    one = found.layer(layer)
    weights = model.coef_ / scaler.scale_
    bias = model.intercept_ - weights @ scaler.mean_
    np.testing.assert_allclose(
        np.reshape(one.direction, weights.shape) * scaler.scale_, model.coef_, atol=2e-5
    )
    np.testing.assert_allclose(np.reshape(one.bias, bias.shape), bias, atol=2e-4)
    assert list(found.classes) == model.classes_.tolist()
    assert one.score == pytest.approx(model.score(scaler.transform(test), true))
    balanced = probekit.fit_readout(
        trace, "resid_post", target=column, split="part", strength=0.1, shuffles=0,
        measure="balanced_accuracy",
    ).layer(layer)  # fmt: skip
    said = model.predict(scaler.transform(test))
    assert balanced.score == pytest.approx(balanced_accuracy_score(true, said))
    assert balanced.low <= balanced.score <= balanced.high


@pytest.mark.parametrize("layer", [0, 1])
def test_ridge_is_scikit_learns(trace: Trace, layer: int) -> None:
    found = probekit.fit_readout(
        trace, "resid_post", target="height", split="is_test", strength=0.01, shuffles=0
    )
    assert (found.method, found.measure, found.classes) == ("ridge", "r2", ())
    train, labels, test, true = by_hand(trace, layer, "height")
    scaler = StandardScaler().fit(train)
    model = Ridge(alpha=0.01 * len(train)).fit(scaler.transform(train), labels)
    one = found.layer(layer)
    np.testing.assert_allclose(one.direction, model.coef_ / scaler.scale_, rtol=1e-5)
    said = model.predict(scaler.transform(test))
    assert one.score == pytest.approx(r2_score(true, said), abs=1e-5)
    assert one.low <= one.score <= one.high
    assert found.baseline == pytest.approx(r2_score(true, np.full(len(true), labels.mean())))


def test_a_difference_of_means_is_numpys_and_tells_as_the_nearest_centroid(trace: Trace) -> None:
    found = probekit.fit_readout(
        trace, "resid_post", target="truth", method="mean_difference", split="part"
    )
    train, labels, test, true = by_hand(trace, 1, "truth")
    one = found.layer(1)
    expected = train[labels].mean(0) - train[~labels].mean(0)
    np.testing.assert_allclose(one.direction, expected, rtol=1e-6)
    nearest = NearestCentroid().fit(train, labels)
    np.testing.assert_array_equal(
        test @ one.direction.astype(float) + one.bias > 0, nearest.predict(test)
    )
    assert one.score == pytest.approx(nearest.score(test, true))
    assert one.strength is None


def test_a_planted_direction_is_found_and_shuffled_labels_are_chance(tmp_path: Path) -> None:
    rows, labels, direction = planted(600, 16, seed=3)
    trace = labelled_trace(
        tmp_path / "run", [rows * SCALES.repeat(2)[:16]], {"label": labels.tolist()}
    )
    for method in ("logistic", "mean_difference"):
        one = trace.fit_readout("resid_post", target="label", method=method, shuffles=10).layers[0]
        scaled = one.direction * SCALES.repeat(2)[:16]
        if method == "mean_difference":  # its direction is that of the means, features as they are
            scaled = one.direction / SCALES.repeat(2)[:16]
        assert scaled @ direction / np.linalg.norm(scaled) > 0.95
        if method == "logistic":
            assert one.score > 0.95
        assert abs(one.shuffled_mean - 0.5) < 0.08
        assert one.low <= one.score <= one.high


def test_numbers_are_found_by_the_same_direction_in_any_units(tmp_path: Path) -> None:
    rows, _, direction = planted(300, 8, seed=4, strength=0)
    heights = rows @ direction
    trace = labelled_trace(
        tmp_path / "run",
        [rows],
        {"metres": heights.astype(float).tolist(), "mm": (1000.0 * heights + 7e5).tolist()},
    )
    metres, mm = (
        trace.fit_readout("resid_post", target=c, shuffles=3).layers[0] for c in ("metres", "mm")
    )
    assert metres.score > 0.99
    np.testing.assert_allclose(mm.direction, 1000 * metres.direction, rtol=1e-4)
    assert mm.score == pytest.approx(metres.score, abs=1e-6)
    assert max(metres.shuffled) < 0.2


def test_groups_are_not_parted_so_that_knowing_the_group_does_not_help(tmp_path: Path) -> None:
    """A layer that knows nothing but the group, whose label is drawn by lot."""
    draw = np.random.default_rng(5)
    groups = np.repeat(np.arange(60), 8)
    marks = draw.normal(size=(60, 64)).astype(np.float32)
    rows = marks[groups] + 0.1 * draw.normal(size=(480, 64)).astype(np.float32)
    trace = labelled_trace(
        tmp_path / "run",
        [rows],
        {
            "label": draw.permutation(np.arange(60) % 2)[groups].tolist(),
            "group": [f"g{n}" for n in groups],
        },
    )
    leaking = trace.fit_readout("resid_post", target="label", split=0.3).layers[0]
    whole = trace.fit_readout("resid_post", target="label", split=0.3, group="group").layers[0]
    assert leaking.score > 0.95
    assert leaking.shuffled_mean < 0.6
    assert 0.3 < whole.score < 0.7
    assert whole.low < 0.5 < whole.high
    assert whole.high - whole.low > leaking.high - leaking.low


def test_the_strength_is_chosen_by_what_helps(tmp_path: Path) -> None:
    strong, labels, _ = planted(200, 4, strength=4)
    noise = np.random.default_rng(2).normal(size=(200, 150)).astype(np.float32)
    columns = {"label": labels.tolist()}
    clear = labelled_trace(tmp_path / "clear", [strong], columns)
    noisy = labelled_trace(tmp_path / "noisy", [noise], columns)
    assert clear.fit_readout("resid_post", target="label").layers[0].strength < 0.1
    assert noisy.fit_readout("resid_post", target="label").layers[0].strength == 1


def test_missing_labels_are_left_out_and_counted(trace: Trace) -> None:
    found = trace.fit_readout("resid_post", target="gap", shuffles=0)
    assert found.n_train + found.n_test == N - N // 10
    assert "12 examples left out: no gap" in found.notes
    assert "12 examples left out: no gap" in repr(found)


def test_equal_calls_give_equal_readouts_and_another_seed_another_split(trace: Trace) -> None:
    first, again, other = (
        trace.fit_readout("resid_post", target="label", seed=seed) for seed in (3, 3, 4)
    )
    assert repr(first) == repr(again)
    for one, same in zip(first.layers, again.layers, strict=True):
        np.testing.assert_array_equal(one.direction, same.direction)
        assert one.shuffled == same.shuffled
    assert not np.array_equal(first.layer(1).direction, other.layer(1).direction)


def test_what_is_not_said_is_chosen_by_the_column(trace: Trace) -> None:
    methods = {c: trace.fit_readout("resid_post", target=c, shuffles=0).method
               for c in ("label", "truth", "kind", "height")}  # fmt: skip
    assert list(methods.values()) == ["logistic", "logistic", "logistic", "ridge"]
    numbers = trace.fit_readout("resid_post", target="label", method="ridge", shuffles=0)
    assert numbers.classes == ()
    assert numbers.measure == "r2"


def test_a_lone_site_outside_of_layers_is_called_by_its_place(tmp_path: Path) -> None:
    rows, labels, _ = planted(40, 4)
    trace = labelled_trace(tmp_path / "run", [rows], {"label": labels.tolist()}, portable=None)
    found = probekit.fit_readout(str(trace.path), "block.0", target="label", shuffles=1)
    assert [one.key for one in found.layers] == ["layer0"]
    assert found.place == "block.{}/output"


def test_a_direction_has_the_shape_of_a_row(tmp_path: Path) -> None:
    rows, labels, _ = planted(60, 12)
    heads = rows.reshape(60, 3, 4)
    trace = labelled_trace(
        tmp_path / "z", [heads], {"label": labels.tolist()}, portable="z", axes=("head", "d_head")
    )
    flat = labelled_trace(tmp_path / "flat", [rows], {"label": labels.tolist()})
    found = trace.fit_readout("z", target="label").layers[0]
    assert found.direction.shape == (3, 4)
    expected = flat.fit_readout("resid_post", target="label").layers[0]
    np.testing.assert_array_equal(found.direction.reshape(-1), expected.direction)


def test_a_constant_feature_has_no_say(tmp_path: Path) -> None:
    rows, labels, _ = planted(60, 4)
    rows[:, 2] = 0.1
    trace = labelled_trace(tmp_path / "run", [rows], {"label": labels.tolist()})
    assert trace.fit_readout("resid_post", target="label").layers[0].direction[2] == 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"target": "lable"}, "there is no column 'lable'; did you mean label"),
        ({"target": "same"}, "the column 'same' says 3 wherever it has a value; .* two classes"),
        ({"target": "rare"}, "the class 'once' has 1 example, which cannot be on both sides"),
        ({"target": "kind", "method": "mean_difference"}, r"3 classes \('blue', 'green', 'red'\)"),
        ({"target": "kind", "method": "ridge"}, "holds text, and ridge predicts numbers"),
        ({"target": "label", "method": "lda"}, "there is no method 'lda'; expected one of log"),
        ({"target": "height", "method": "logistic"}, "has 1 example.*method='ridge'"),
        ({"target": "label", "split": "kind"}, "'kind', which split= names, holds 'blue'"),
        ({"target": "label", "split": 1.5}, "split is 1.5 .*; expected a number between 0 and 1"),
        ({"target": "label", "split": "part", "group": "truth"}, "2 groups are on both sides"),
        ({"target": "label", "group": "truth"}, "the class 0 has .* in 1 group, .* two groups"),
        ({"target": "label", "measure": "r2"}, "there is no measure 'r2' of classes"),
        ({"target": "height", "measure": "accuracy"}, "no measure 'accuracy' of numbers"),
        ({"target": "label", "pool": "max"}, "pool is 'max' .text.; .*expected one of mean, last"),
        ({"target": "label", "strength": -1}, "strength is -1 .*; expected a number above 0"),
        ({"target": "label", "method": "mean_difference", "strength": 1}, "has no penalty"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused_with_the_reason(
    trace: Trace, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(StoreError, match=says):
        trace.fit_readout("resid_post", **given)


def test_a_value_that_is_not_finite_is_named_with_its_example(tmp_path: Path) -> None:
    rows, labels, _ = planted(40, 4)
    rows[17, 2] = np.inf
    trace = labelled_trace(tmp_path / "run", [rows], {"label": labels.tolist()})
    for method in ("logistic", "mean_difference"):
        with pytest.raises(StoreError, match=r"block\.0/output: example 17 \('id-17'\) has values"):
            trace.fit_readout("resid_post", target="label", method=method)
    some = [None if n == 17 else int(v) for n, v in enumerate(labels)]
    left = labelled_trace(tmp_path / "less", [rows], {"label": some})
    assert left.fit_readout("resid_post", target="label", shuffles=0).n_test in (7, 8)


def test_sites_of_two_places_and_of_whole_numbers_are_refused(tmp_path: Path) -> None:
    rows, labels, _ = planted(40, 4)
    columns = {"label": labels.tolist()}
    two = labelled_trace(tmp_path / "two", [rows] * 2, columns, portable=("resid_post", "mlp_out"))
    with pytest.raises(StoreError, match="are of two places; a readout is of one place"):
        two.fit_readout(["resid_post", "mlp_out"], target="label")
    maps = labelled_trace(
        tmp_path / "maps", [rows.reshape(40, 2, 2)], columns, axes=("head", "key")
    )
    with pytest.raises(StoreError, match=r"rows of \[head, key\]: what lies at a place along key"):
        maps.fit_readout("resid_post", target="label")
    whole = labelled_trace(tmp_path / "whole", [rows], columns, dtype="int32")
    with pytest.raises(StoreError, match="holds int32; a readout is fitted on floats"):
        whole.fit_readout("resid_post", target="label")


def test_without_scikit_learn_the_message_says_how_to_get_it(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.linear_model", None)
    with pytest.raises(ProbekitError, match=r"needs sklearn, .*pip install 'probekit\[analysis\]'"):
        trace.fit_readout("resid_post", target="label")
    assert trace.fit_readout("resid_post", target="label", method="mean_difference")


def test_a_readout_shows_itself_and_gives_a_frame(trace: Trace) -> None:
    found = trace.fit_readout("resid_post", target="kind")
    said = repr(found)
    assert "kind from resid_post of by-hand: logistic, 'blue' against 'green' against 'red'" in said
    assert "accuracy on 24 examples that were held out (96 examples to train on)" in said
    frame = found.to_pandas()
    assert frame.layer.tolist() == [0, 1]
    assert frame.score.tolist() == [one.score for one in found.layers]
    assert (frame.low <= frame.score).all()
    assert found.best is found.layer(1) is found.layer(-1)
    assert found.layer(1).direction.shape == (3, D)
    with pytest.raises(StoreError, match="no readout of layer 5 of resid_post; there is: 0, 1"):
        found.layer(5)
