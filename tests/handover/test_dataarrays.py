"""The sites of a trace in xarray, against the arrays that were written and bare h5py."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import by_hand
import h5py
import numpy as np
import pytest
from tiny_traces import Made, same_bits, site, write_trace

import probekit
from probekit.errors import ProbekitError, StoreError
from probekit.store.reading.mapped import MappedRows
from probekit.trace.trace import Trace

xr = pytest.importorskip("xarray")

SITES = (
    site("h.0", row_shape=(4,), axes=("token", "d_model"), dtype="bfloat16", layer=0),
    site("h.1", row_shape=(4,), axes=("token", "d_model"), portable="resid_post", layer=1),
    site("h.0.attn", "pattern", row_shape=(2, 6), axes=("token", "head", "key")),
    site("h.1.attn", "z", row_shape=(3, 5), axes=("token", "head", "d_head"), dtype="float16"),
    site("h.2", axes=("token", "d_model"), row_shape=(4,), rows="0,-1", dtype="int64"),
    site("h.3", axes=("example",), row_shape=(), rows="example", dtype="float64"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return write_trace(tmp_path_factory.mktemp("trace"), SITES)


@pytest.fixture(scope="module")
def trace(made: Made) -> Trace:
    return probekit.open(made.folder)


@pytest.fixture
def dataset(trace: Trace) -> Any:
    return trace.to_xarray()


def test_every_number_is_what_was_written(made: Made, dataset: Any) -> None:
    assert set(dataset.data_vars) == {spec.name for spec in SITES}
    for spec in SITES:
        assert same_bits(dataset[spec.name].values, made.wanted(spec.name))


def test_axes_are_named_and_a_name_means_one_size(dataset: Any) -> None:
    assert {name: variable.dims for name, variable in dataset.data_vars.items()} == {
        "h.0/output": ("token", "d_model"),
        "h.1/output": ("token", "d_model"),
        "h.0.attn/pattern": ("token", "head_2", "key"),
        "h.1.attn/z": ("token", "head_3", "d_head"),
        "h.2/output": ("token_0,-1", "d_model"),
        "h.3/output": ("example",),
    }


def test_attributes_go_along(trace: Trace, dataset: Any) -> None:
    assert dataset["h.1/output"].attrs["portable"] == "resid_post"
    assert dataset["h.0/output"].attrs == trace["h.0"].attributes
    assert dataset.attrs["model_name"] == "by-hand"


def test_coordinates_say_what_a_row_is(made: Made, trace: Trace, dataset: Any) -> None:
    owners = [n for n, length in enumerate(made.n_tokens) for _ in range(length)]
    assert dataset.token.values.tolist() == list(range(21))
    assert dataset.token_id.values.tolist() == made.token_ids
    assert dataset.token_text.values.tolist() == [trace.vocabulary[i] for i in made.token_ids]
    assert dataset.token_example.values.tolist() == owners
    assert dataset.token_position.values.tolist() == [
        p for length in made.n_tokens for p in range(length)
    ]
    assert dataset.example_id.values.tolist() == made.ids
    assert dataset.example_text.values.tolist() == made.texts
    assert dataset.example_n_tokens.values.tolist() == made.n_tokens
    assert "token_step" not in dataset.coords
    assert dataset["token_0,-1"].values.tolist() == made.token_rows["0,-1"]


def test_rows_are_found_by_their_token(made: Made, dataset: Any) -> None:
    part = dataset.isel(token=slice(5, 12))
    wanted = made.wanted("h.1/output")
    assert same_bits(part["h.1/output"].sel(token=7).values, wanted[7])
    chosen = dataset.token_id.sel(token=dataset["token_0,-1"])
    assert chosen.values.tolist() == [made.token_ids[row] for row in made.token_rows["0,-1"]]
    last = dataset.token_text.isel(token=[20, 3])
    assert last.values.tolist() == [f"<{made.token_ids[row]}|" for row in (20, 3)]


@pytest.mark.parametrize(
    "key",
    [
        {"token": [3, 17, 3]},
        {"token": slice(15, 2, -3), "d_model": 1},
        {"token": [20, 0], "d_model": [0, 2, 3]},
        {"token": xr.DataArray([1, 19], dims="at"), "d_model": xr.DataArray([0, 3], dims="at")},
        {"d_model": [True, False, True, False]},
        {"token": -1},
    ],
    ids=str,
)
def test_any_way_of_indexing_is_numpys(made: Made, dataset: Any, key: dict[str, Any]) -> None:
    for name in ("h.0/output", "h.1/output"):
        whole = xr.DataArray(made.wanted(name), dims=("token", "d_model"))
        assert same_bits(dataset[name].isel(key).values, whole.isel(key).values)


def test_means_by_example_are_numpys(made: Made, dataset: Any) -> None:
    clean = xr.where(np.abs(dataset["h.1/output"]) < 1e3, dataset["h.1/output"], 0.0)
    means = clean.groupby("token_example").mean()
    wanted = made.wanted("h.1/output")
    wanted = np.where(np.abs(wanted) < 1e3, wanted, 0.0)
    for example in range(len(made.n_tokens)):
        rows = wanted[list(made.tokens_of(example))]
        np.testing.assert_allclose(means.sel(token_example=example), rows.mean(0), rtol=1e-5)


def test_nothing_is_read_before_it_is_used(trace: Trace, monkeypatch: Any) -> None:
    read: list[Any] = []
    original = MappedRows.raw

    def raw(self: MappedRows, key: Any) -> Any:
        if len(self.shape) > 1:  # a site's rows
            read.append(key)
        return original(self, key)

    monkeypatch.setattr(MappedRows, "raw", raw)
    dataset = trace.to_xarray(["h.0", "h.0.attn/pattern"])
    part = dataset["h.0/output"].isel(token=slice(2, 4))
    repr(dataset), repr(part)
    assert set(map(str, read)) == {str(slice(None, 0))}  # to learn the dtype
    part.load()
    assert read[-1] == (slice(2, 4, 1), slice(None)) and len(read) == 3


def test_writing_into_it_changes_no_file(made: Made, trace: Trace) -> None:
    dataset = trace.to_xarray("h.1")
    dataset["h.1/output"][0] = 7.0
    assert (dataset["h.1/output"].values[0] == 7.0).all()
    assert same_bits(trace["h.1"][:], made.wanted("h.1/output"))


def test_it_can_be_sent_to_another_process(made: Made, dataset: Any) -> None:
    copy = pickle.loads(pickle.dumps(dataset))
    assert same_bits(copy["h.0/output"].values, made.wanted("h.0/output"))


def test_some_sites(trace: Trace) -> None:
    assert list(trace.to_xarray("h.*").data_vars) == [
        *("h.0/output", "h.1/output", "h.2/output", "h.3/output")
    ]
    assert list(trace.to_xarray("resid_post").data_vars) == ["h.1/output"]
    with pytest.raises(StoreError, match=r"h.9 was not recorded; the nearest: h.{0..3}"):
        trace.to_xarray("h.9")


def test_a_shard_alone_counts_from_its_own_start(made: Made) -> None:
    dataset = probekit.open(made.shards[2].file).to_xarray()
    assert dataset.token_example.values.tolist() == [0] * 4 + [1] * 6
    assert dataset["token_0,-1"].values.tolist() == [0, 3, 4, 9]
    assert dataset.example_text.values.tolist() == made.texts[4:]


def test_generated_tokens_say_their_step(tmp_path: Path) -> None:
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    probes = [{"modules": "transformer.h.*.mlp.act"}, {"sites": "pattern"}]
    more = {"max_new_tokens": 3, "stop_at_eos": False}
    config = by_hand.config(model, tmp_path / "t", probes=probes, generate=more)
    config["store"]["shard_bytes"] = 20_000
    trace = probekit.run(config)
    dataset = trace.to_xarray()
    with h5py.File(tmp_path / "t" / "trace.h5") as file:
        assert dataset.token_step.values.tolist() == file["tokens/step"][:].tolist()
        for name in trace.site_names:
            assert np.array_equal(dataset[name], file[f"sites/{name}"][:])
    assert dataset.token_step.max() == 3


def test_without_xarray_the_extra_is_named(trace: Trace, monkeypatch: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ProbekitError, match=r"to_xarray needs xarray.*'probekit\[analysis\]'"):
        trace.to_xarray()
