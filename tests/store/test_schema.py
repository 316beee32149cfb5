"""The trace format: what other HDF5 readers see of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tiny_traces import numbers, same_bits, site

from probekit.errors import StoreError
from probekit.store.format import execution, schema
from probekit.store.format.execution import Execution, Forward
from probekit.store.format.schema import DTYPES, ShardSpec

EVERY_BFLOAT16 = np.arange(2**16, dtype="<u2")


def write_raw(file: h5py.File, name: str, dtype: str, bits: np.ndarray[Any, Any]) -> h5py.Dataset:
    """Put bits into a dataset of one of our types with h5py's own low level."""
    kind = schema.h5_type(dtype)
    made = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(bits.shape))
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, bits, mtype=kind)
    return file[name]


@pytest.fixture
def file(tmp_path: Path) -> Any:
    with h5py.File(tmp_path / "any.h5", "w") as opened:
        yield opened


# --- dtypes


def test_h5py_reads_every_bfloat16_as_the_float32_it_is(file: h5py.File) -> None:
    wanted = torch.from_numpy(EVERY_BFLOAT16.view(np.int16)).view(torch.bfloat16).float().numpy()
    read = write_raw(file, "x", "bfloat16", EVERY_BFLOAT16)[:]
    assert read.dtype == np.float32
    assert np.array_equal(read, wanted, equal_nan=True)


def test_bfloat16_is_a_16_bit_float_to_hdf5(file: h5py.File) -> None:
    kind = write_raw(file, "x", "bfloat16", EVERY_BFLOAT16).id.get_type()
    assert kind.get_class() == h5py.h5t.FLOAT
    assert (kind.get_size(), kind.get_precision(), kind.get_offset()) == (2, 16, 0)
    assert kind.get_order() == h5py.h5t.ORDER_LE
    assert kind.get_fields() == (15, 7, 8, 0, 7)  # sign bit; exponent at 7, 8 bits; mantissa 7 bits
    assert kind.get_ebias() == 127


def test_widen_is_torchs_bfloat16_to_float32_bit_for_bit() -> None:
    wide = schema.widen(EVERY_BFLOAT16, "bfloat16")
    assert same_bits(wide, numbers(EVERY_BFLOAT16, "bfloat16"))


def test_widen_leaves_other_dtypes_as_they_are() -> None:
    values = np.arange(6, dtype=np.float16)
    assert schema.widen(values, "float16") is values


@pytest.mark.parametrize("dtype", sorted(set(DTYPES) - {"bfloat16"}))
def test_h5py_reads_our_types_as_numpys_own(file: h5py.File, dtype: str) -> None:
    values = (np.arange(4) % 2).astype(dtype)
    read = write_raw(file, "x", dtype, values)[:]
    assert same_bits(read, values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_of_gives_back_the_name_a_dataset_was_made_with(file: h5py.File, dtype: str) -> None:
    bits = np.zeros(3, dtype=DTYPES[dtype].storage)
    assert schema.dtype_of(write_raw(file, "x", dtype, bits)) == dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_has_every_dtype_in_as_many_bytes(dtype: str) -> None:
    assert getattr(torch, dtype).itemsize == DTYPES[dtype].storage.itemsize


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">i8"])
def test_a_big_endian_dtype_is_not_taken_for_ours(file: h5py.File, dtype: str) -> None:
    found = schema.dtype_of(file.create_dataset("x", data=np.arange(3).astype(dtype)))
    assert found not in DTYPES
    assert np.dtype(found) == np.dtype(dtype)


# --- sites and shards


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "bool", "int64"])
def test_row_bytes_are_what_numpy_needs_for_one_row(dtype: str) -> None:
    spec = site(dtype=dtype, row_shape=(3, 4))
    assert spec.row_bytes == np.zeros((3, 4), dtype=DTYPES[dtype].storage).nbytes


def test_a_scalar_row_has_the_bytes_of_its_dtype() -> None:
    assert site(dtype="float32", row_shape=()).row_bytes == 4


def test_a_sites_place_is_its_module_and_kind() -> None:
    spec = site("transformer.h.3.attn", "pattern")
    assert spec.name == "transformer.h.3.attn/pattern"
    assert schema.site_path(spec) == "/sites/transformer.h.3.attn/pattern"


def test_what_a_site_does_not_have_is_no_attribute() -> None:
    bare = schema.site_attributes(site(layer=None, portable=None, probe=None))
    assert not {"layer", "portable", "probe"} & set(bare)
    full = schema.site_attributes(site(layer=0, portable="resid_post", probe=0))
    assert (full["layer"], full["portable"], full["probe"]) == (0, "resid_post", 0)


def test_details_of_a_probe_become_attributes_of_the_site() -> None:
    assert schema.site_attributes(site(details={"heads": [0, 7]}))["heads"] == [0, 7]


def test_specs_are_plain_json() -> None:
    shard = ShardSpec(
        number=7, first_example=1, n_examples=2, first_token=3, n_tokens=4, n_rows={"all": 4}
    )
    assert shard.file == "shards/00007.h5"
    for spec in (site(row_shape=(2, 3)), shard):
        value = spec.to_json()
        assert json.loads(json.dumps(value)) == value


# --- execution

N_MODULES = 5
EVENT = st.tuples(st.integers(0, N_MODULES - 1), st.integers(0, 1), st.integers(0, 9))
ORDERS = st.lists(st.lists(EVENT, max_size=8), min_size=1, max_size=3)


@st.composite
def executions(draw: st.DrawFn) -> Execution:
    orders = draw(ORDERS)
    forward = st.builds(
        Forward,
        order=st.integers(0, len(orders) - 1),
        phase=st.sampled_from(["forward", "prefill", "decode"]),
        examples=st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
        n_tokens=st.integers(0, 2**40),
        seconds=st.floats(0, 1e6),
    )
    return Execution(
        modules=tuple(f"модуль.{n}" for n in range(N_MODULES)),
        orders=tuple(np.array(events, dtype="<i4").reshape(-1, 3) for events in orders),
        forwards=tuple(draw(st.lists(forward, max_size=5))),
    )


@settings(max_examples=60, deadline=None)
@given(executions())
def test_an_execution_comes_back_as_it_was(given_execution: Execution) -> None:
    with h5py.File("execution", "w", driver="core", backing_store=False) as file:
        execution.write_execution(file, given_execution)
        read = execution.read_execution(file)
    assert read is not None
    assert read.modules == given_execution.modules
    assert read.forwards == given_execution.forwards
    assert len(read.orders) == len(given_execution.orders)
    assert all(map(same_bits, read.orders, given_execution.orders))


def test_more_than_ten_orders_keep_their_numbers(file: h5py.File) -> None:
    # HDF5 lists "10" before "2".
    orders = tuple(np.array([[n, 1, 0]], dtype="<i4") for n in range(12))
    execution.write_execution(file, Execution(modules=("m",) * 12, orders=orders, forwards=()))
    read = execution.read_execution(file)
    assert read is not None
    assert [int(events[0, 0]) for events in read.orders] == list(range(12))


def test_h5py_reads_an_execution_by_the_names_of_its_columns(file: h5py.File) -> None:
    forward = Forward(order=0, phase="decode", examples=(4, 9), n_tokens=12, seconds=0.5)
    events = np.array([[0, 1, 0], [1, 1, 1], [1, 0, 1], [0, 0, 0]], dtype="<i4")
    whole = Execution(modules=("a", "a.b"), orders=(events,), forwards=(forward,))
    execution.write_execution(file, whole)
    group = file["execution"]
    assert list(group["modules"].asstr()[:]) == ["a", "a.b"]
    assert list(group["orders/0"].attrs["columns"]) == ["module", "entered", "depth"]
    assert np.array_equal(group["orders/0"][:], events)
    row = group["forwards"][0]
    assert (row["order"], row["phase"], row["n_examples"], row["n_tokens"], row["seconds"]) == (
        *(0, b"decode", 2, 12, 0.5),
    )
    assert list(group["forward_examples"].attrs["columns"]) == ["forward", "example"]
    assert group["forward_examples"][:].tolist() == [[0, 4], [0, 9]]


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        *(("phase", "i4"), ("n_tokens", "f8"), ("order", "f4"), ("seconds", "S3")),
        *(("order", ("i4", (2,))), ("lost", "i4")),
    ],
)
def test_a_table_of_forward_passes_with_other_columns_is_refused(
    file: h5py.File, column: str, dtype: Any
) -> None:
    forward = Forward(order=0, phase="x", examples=(0,), n_tokens=3, seconds=0.5)
    orders = (np.zeros((1, 3), "<i4"),)
    execution.write_execution(file, Execution(modules=("a",), orders=orders, forwards=(forward,)))
    known = {name: execution.FORWARD_DTYPE[name] for name in execution.FORWARD_DTYPE.names or ()}
    del file["execution/forwards"]
    kind = np.dtype(list({**known, column: dtype}.items()))
    rows = np.zeros(1, kind)
    rows["phase"] = 1 if column == "phase" else b"x"
    file.create_dataset("execution/forwards", data=rows)
    with pytest.raises(StoreError, match="execution/forwards is no table of forward passes"):
        execution.read_execution(file)


def test_a_file_without_an_execution_has_none(file: h5py.File) -> None:
    assert execution.read_execution(file) is None
