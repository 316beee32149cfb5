"""Names of dimensions: one size each, as bare h5py and xarray see them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, strategies as st
from tiny_traces import Made, site, write_trace

import probekit
from probekit.store.format.dimensions import Axes, dimension_names, write_dimensions
from probekit.store.format.execution import Execution, Forward
from probekit.store.format.nodes import BOOKKEEPING
from probekit.store.format.schema import LIBVER

SITES = (
    site("h.0.mlp", row_shape=(6,), axes=("token", "d_mlp"), dtype="bfloat16"),
    site("h.1.mlp", row_shape=(6,), axes=("token", "d_mlp")),
    site("h.0.attn", "pattern", row_shape=(2, 9), axes=("token", "head", "key")),
    site("h.1.attn", "pattern", row_shape=(3, 9), axes=("token", "head", "key")),
    site("h.1", row_shape=(6,), axes=("token", "d_mlp"), rows="last"),
    site("h.2", row_shape=(4, 4), axes=("token", "d_4", "d_4"), dtype="bool"),
    site("h.3", row_shape=(5,), axes=("token", "tokens"), dtype="int64"),
    site("h.4", row_shape=(), axes=("example",), rows="example", dtype="float16"),
    site("h.5", row_shape=(6,), axes=("token", "d_mlp"), rows="90:"),  # no rows
)
EVENTS = np.array([[0, 1, 0], [1, 1, 1], [1, 0, 1], [0, 0, 0]], dtype="<i4")
RAN = Forward(order=0, phase="forward", examples=(0,), n_tokens=3, seconds=0.5)
EXECUTION = Execution(modules=("a", "b"), orders=(EVENTS, EVENTS[:2]), forwards=(RAN,))
NAMES = {
    "sites/h.0.mlp/output": ("token", "d_mlp"),
    "sites/h.1.mlp/output": ("token", "d_mlp"),
    "sites/h.0.attn/pattern": ("token", "head_2", "key"),
    "sites/h.1.attn/pattern": ("token", "head_3", "key"),
    "sites/h.1/output": ("token_last", "d_mlp"),
    "sites/h.2/output": ("token", "d_4", "d_4_2"),
    "sites/h.3/output": ("token", "tokens_5"),
    "sites/h.4/output": ("example",),
    "sites/h.5/output": ("token_90:", "d_mlp"),
    "tokens/id": ("token",),
    "examples/text": ("example",),
    "rows/last": ("token_last",),
    "vocabulary": ("d_vocab",),
    "execution/modules": ("module",),
    "execution/orders/0": ("event_4", "column_3"),
    "execution/orders/1": ("event_2", "column_3"),
    "execution/forward_examples": ("forward_example", "column_2"),
}


def names_in(file: Path) -> dict[str, tuple[str, ...]]:
    """In an index the forward passes lie apart, and `column` has one size."""
    if file.name != "trace.h5":
        return NAMES
    alike = {name: tuple(n.replace("column_3", "column") for n in ns) for name, ns in NAMES.items()}
    del alike["execution/forward_examples"]
    return alike


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("trace")
    return write_trace(folder, SITES, executions=(EXECUTION, None, None))


@pytest.fixture(scope="module", params=["index", "merged"])
def file(made: Made, request: pytest.FixtureRequest, tmp_path_factory: Any) -> Path:
    if request.param == "index":
        return made.folder / "trace.h5"
    merged: Path = tmp_path_factory.mktemp("merged") / "merged.h5"
    probekit.open(made.folder).merge(merged)
    return merged


def test_every_axis_has_a_scale_of_its_name_and_size(file: Path) -> None:
    with h5py.File(file) as opened:
        for name, names in names_in(file).items():
            dataset = opened[name]
            assert tuple(dim[0].name.removeprefix("/") for dim in dataset.dims) == names
            assert tuple(len(dim[0]) for dim in dataset.dims) == dataset.shape
            assert all(dim[0].is_scale for dim in dataset.dims)


def test_no_axis_of_any_dataset_is_without_one(file: Path) -> None:
    bare: list[str] = []

    def look(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and not node.is_scale:
            bare.extend(f"{name}[{n}]" for n, dim in enumerate(node.dims) if not len(dim))

    with h5py.File(file) as opened:
        opened.visititems(look)
    assert bare == []


def test_scales_take_no_space(file: Path) -> None:
    with h5py.File(file) as opened:
        scales = [node for node in opened.values() if getattr(node, "is_scale", False)]
        assert len(scales) > 10
        assert all(scale.id.get_storage_size() == 0 for scale in scales)


def test_xarray_opens_every_group_without_a_warning(file: Path, made: Made) -> None:
    xarray = pytest.importorskip("xarray")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, names in names_in(file).items():
            group, _, variable = name.rpartition("/")
            with xarray.open_dataset(file, engine="h5netcdf", group=group) as found:
                assert found[variable].dims == names
        with xarray.open_dataset(file, engine="h5netcdf", group="sites/h.0.mlp") as found:
            assert np.array_equal(found.output, made.wanted("h.0.mlp/output"), equal_nan=True)
        with xarray.open_dataset(file, engine="h5netcdf", group="tokens") as found:
            assert found.id.values.tolist() == made.token_ids


def test_xarray_opens_the_whole_tree_without_a_warning(file: Path, made: Made) -> None:
    xarray = pytest.importorskip("xarray")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xarray.open_datatree(file, engine="h5netcdf") as tree:
            for spec in made.sites:
                found = tree["sites"][spec.module][spec.kind].values
                assert np.array_equal(
                    found, made.wanted(spec.name), equal_nan=found.dtype.kind == "f"
                )
            assert tree["examples"].text.values.tolist() == made.texts


def test_equal_traces_have_equal_files(made: Made, tmp_path: Path) -> None:
    write_trace(tmp_path, SITES, executions=(EXECUTION, None, None))
    assert (tmp_path / "trace.h5").read_bytes() == (made.folder / "trace.h5").read_bytes()
    for name in ("a.h5", "b.h5"):
        probekit.open(made.folder).merge(tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_what_hdf5_keeps_for_itself_is_no_attribute_of_a_site(made: Made) -> None:
    attributes = probekit.open(made.folder)["h.0.mlp"].attributes
    assert not set(attributes) & set(BOOKKEEPING)
    assert attributes["axes"] == ["token", "d_mlp"]


@pytest.mark.slow
def test_thousands_of_sites_can_share_a_dimension(tmp_path: Path) -> None:
    """Their references are more than the 64 KiB that an attribute had in older files."""
    with h5py.File(tmp_path / "a.h5", "w", libver=LIBVER) as file:
        file.create_group("examples"), file.create_group("tokens")
        for number in range(3000):
            dataset = file.create_dataset(f"sites/h.{number}/output", data=np.arange(3))
            dataset.attrs.update({"axes": ["token"], "rows": "all"})
        write_dimensions(file)
    with h5py.File(tmp_path / "a.h5") as file:
        assert len(file["token"].attrs["REFERENCE_LIST"]) == 3000
        assert file["sites/h.2999/output"].dims[0][0] == file["token"]


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(["head", "head_2", "d_4", "tokens"]), st.integers(0, 4)),
            min_size=1,
            max_size=4,
        ),
        max_size=5,
    )
)
def test_a_name_means_one_size_and_occurs_once_in_a_dataset(
    datasets: list[list[tuple[str, int]]],
) -> None:
    axes = [
        Axes(names=tuple(n for n, _ in d), sizes=tuple(size for _, size in d)) for d in datasets
    ]
    sizes: dict[str, int] = {}
    for names, given_axes in zip(dimension_names(axes), axes, strict=True):
        assert len(set(names)) == len(names)
        for name, size in zip(names, given_axes.sizes, strict=True):
            assert sizes.setdefault(name, size) == size
            assert name not in ("sites", "tokens", "rows", "examples", "vocabulary", "execution")
