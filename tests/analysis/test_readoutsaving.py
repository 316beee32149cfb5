"""Readouts in files, and applied to other traces, against safetensors and numpy by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_traces import labelled_trace, planted
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import probekit
from probekit.errors import StoreError
from probekit.trace import Trace

Array = np.ndarray[Any, Any]

N, D = 60, 6


def made(folder: Path, *, d: int = D, seed: int = 0, **options: Any) -> Trace:
    rows, labels, _ = planted(N, d, seed=seed)
    return labelled_trace(
        folder,
        [rows, 3 * rows + 1],
        {
            "label": labels.tolist(),
            "kind": [f"{'abc'[n % 3]}" for n in range(N)],
            "height": (rows[:, 0] + 0.5).astype(float).tolist(),
        },
        **options,
    )


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return made(tmp_path_factory.mktemp("made") / "run")


def fitted(trace: Trace, target: str, **options: Any) -> Any:
    return trace.fit_readout("resid_post", target=target, strength=0.1, shuffles=1, **options)


@pytest.mark.parametrize("target", ["label", "kind", "height"])
def test_a_file_gives_back_the_readout_that_was_saved(
    trace: Trace, target: str, tmp_path: Path
) -> None:
    readout = fitted(trace, target)
    path = readout.save(tmp_path / "r.safetensors")
    loaded = probekit.load_readout(path)
    assert repr(loaded) == repr(readout)
    for one, same in zip(readout.layers, loaded.layers, strict=True):
        np.testing.assert_array_equal(one.direction, same.direction)
        assert same.direction.dtype == np.float32
        np.testing.assert_array_equal(one.bias, same.bias)
        assert (one.key, one.site, one.score, one.shuffled) == (
            *(same.key, same.site, same.score, same.shuffled),
        )
    assert loaded.classes == readout.classes
    for one, same in zip(readout.apply(trace).layers, loaded.apply(trace).layers, strict=True):
        np.testing.assert_array_equal(one.scores, same.scores)
        np.testing.assert_array_equal(one.said, same.said)


def test_the_file_has_one_direction_a_layer_and_says_the_rest_in_its_metadata(
    trace: Trace, tmp_path: Path
) -> None:
    readout = fitted(trace, "kind")
    readout.save(tmp_path / "r.safetensors")
    tensors = load_file(tmp_path / "r.safetensors")
    assert sorted(tensors) == ["layer0", "layer1"]
    assert tensors["layer1"].shape == (3, D)
    np.testing.assert_array_equal(tensors["layer1"], readout.layer(1).direction)
    with safe_open(tmp_path / "r.safetensors", "numpy") as file:
        said = json.loads(file.metadata()["probekit_readout"])
    assert said["classes"] == ["a", "b", "c"]
    assert (said["method"], said["model"], said["portable"]) == (
        "logistic",
        "by-hand",
        "resid_post",
    )
    assert said["layers"][1]["bias"] == readout.layer(1).bias.tolist()
    first = (tmp_path / "r.safetensors").read_bytes()
    readout.save(tmp_path / "r.safetensors")  # a readout replaces another
    assert (tmp_path / "r.safetensors").read_bytes() == first


def test_what_is_no_readout_is_not_replaced_unless_it_is_said(trace: Trace, tmp_path: Path) -> None:
    readout = fitted(trace, "label")
    other = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(3)}, other)
    with pytest.raises(StoreError, match="exists and is no readout of probekit"):
        readout.save(other)
    with pytest.raises(StoreError, match="is no readout of probekit: its metadata have no"):
        probekit.load_readout(other)
    readout.save(other, overwrite=True)
    assert probekit.load_readout(other).target == "label"
    with pytest.raises(StoreError, match="there is no folder"):
        readout.save(tmp_path / "nowhere" / "r.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.safetensors"]


def changed(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, Array]], None]:
    def change(said: dict[str, Any], tensors: dict[str, Array]) -> None:
        said[name] = value

    return change


def in_layer(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, Array]], None]:
    def change(said: dict[str, Any], tensors: dict[str, Array]) -> None:
        said["layers"][0][name] = value

    return change


def tensor(value: Array | None) -> Callable[[dict[str, Any], dict[str, Array]], None]:
    def change(said: dict[str, Any], tensors: dict[str, Array]) -> None:
        if value is None:
            del tensors["layer0"]
        else:
            tensors["layer0"] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed("format", 2), "is of another format than 1"),
        (changed("layers", []), "it has no layers"),
        (changed("layers", None), "layers is None"),
        (changed("row_shape", ["6"]), "row_shape is '6'"),
        (changed("classes", [0]), "method 'logistic' of 1 classes"),
        (changed("method", "magic"), "method 'magic'"),
        (changed("n_train", True), "n_train is True"),
        (changed("notes", [{}]), r"notes is \{\}"),
        (in_layer("bias", [1.0]), r"the bias of layer0 is \[1.0\]"),
        (in_layer("bias", "x"), "is no readout of probekit"),
        (in_layer("bias", float("nan")), "the bias of layer0 is nan"),
        (in_layer("score", "high"), "score is 'high'"),
        (in_layer("key", 5), "key is 5"),
        (tensor(None), "there is no 'layer0'"),
        (tensor(np.zeros(5, np.float32)), r"layer0 is \[5\] float32; expected \[6\] float32"),
        (tensor(np.zeros(6, np.int32)), r"layer0 is \[6\] int32"),
        (tensor(np.full(6, np.nan, np.float32)), "layer0 holds values that are not finite"),
    ],
)  # fmt: skip
def test_a_strangers_file_is_refused_with_what_is_wrong(
    trace: Trace, tmp_path: Path, change: Any, says: str
) -> None:
    path = fitted(trace, "label").save(tmp_path / "r.safetensors")
    tensors = load_file(path)
    with safe_open(path, "numpy") as file:
        said = json.loads(file.metadata()["probekit_readout"])
    change(said, tensors)
    save_file(tensors, path, {"probekit_readout": json.dumps(said)})
    with pytest.raises(StoreError, match=says):
        probekit.load_readout(path)


@pytest.mark.parametrize("data", [b"", b"\x00" * 40, b"no safetensors at all", b"\xff" * 9])
def test_bytes_that_are_no_file_of_tensors_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r.safetensors"
    path.write_bytes(data)
    with pytest.raises(StoreError, match="is no safetensors file of a readout"):
        probekit.load_readout(path)
    with pytest.raises(StoreError, match=r"is a folder; expected a file that Readout\.save wrote"):
        probekit.load_readout(tmp_path)
    with pytest.raises(StoreError, match="there is no such file"):
        probekit.load_readout(tmp_path / "other")


@pytest.mark.parametrize("target", ["label", "kind", "height"])
def test_what_is_said_of_another_trace_is_numpys(trace: Trace, target: str, tmp_path: Path) -> None:
    readout = fitted(trace, target)
    other = made(tmp_path / "other", seed=7)
    said = readout.apply(other)
    np.testing.assert_array_equal(said.examples, np.arange(N))
    assert list(said.ids[:2]) == ["id-0", "id-1"]
    for one, layer in zip(readout.layers, said.layers, strict=True):
        rows = other.select("resid_post", layer=one.layer)[:].astype(float)
        directions = one.direction.astype(float)
        expected = rows @ directions.T + one.bias
        np.testing.assert_allclose(layer.scores, expected, rtol=1e-12)
        if target == "label":
            np.testing.assert_array_equal(layer.said, (expected > 0).astype(int))
        elif target == "kind":
            np.testing.assert_array_equal(layer.said, np.array([*"abc"])[expected.argmax(1)])
        else:
            np.testing.assert_array_equal(layer.said, layer.scores)
    frame = said.to_pandas()
    assert len(frame) == 2 * N
    assert frame[frame.layer == 1].said.tolist() == said.layer(1).said.tolist()
    assert "as read from" in repr(said)


def test_a_trace_in_which_the_place_is_missing_or_other_is_refused(
    trace: Trace, tmp_path: Path
) -> None:
    readout = fitted(trace, "label")
    wide = made(tmp_path / "wide", d=D + 1)
    with pytest.raises(StoreError, match=r"has rows of \[7\]; this readout is of rows of \[6\]"):
        readout.apply(wide)
    elsewhere = made(tmp_path / "elsewhere", portable="mlp_out")
    with pytest.raises(StoreError, match="resid_post was not recorded"):
        readout.apply(elsewhere)
    nan = planted(N, D)[0]
    nan[3, 1] = np.nan
    broken = labelled_trace(tmp_path / "nan", [nan, nan], {"label": [0, 1] * (N // 2)})
    with pytest.raises(StoreError, match=r"example 3 \('id-3'\) has values that are not finite"):
        readout.apply(broken)


def test_rows_are_pooled_as_they_were_for_the_fit(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(2 * N, D)).astype(np.float32)
    labels = (rows.reshape(N, 2, D).mean(1)[:, 0] > 0).astype(int)
    trace = labelled_trace(tmp_path / "run", [rows], {"label": labels.tolist()}, rows="all")
    readout = fitted(trace, "label", pool="mean")
    said = readout.apply(str(trace.path))
    one = readout.layers[0]
    expected = rows.astype(float).reshape(N, 2, D).mean(1) @ one.direction.astype(float) + one.bias
    np.testing.assert_allclose(said.layers[0].scores, expected, rtol=1e-9)
    by_token = fitted(trace, "label").apply(trace)
    np.testing.assert_array_equal(by_token.examples, np.repeat(np.arange(N), 2))
