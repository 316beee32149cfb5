"""Reading a trace: rows against numpy on the whole array, and what a trace refuses."""

from __future__ import annotations

import multiprocessing
import operator
import pickle
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tiny_traces import (
    LENGTHS,
    VOCABULARY,
    Made,
    a_shard,
    extent,
    forget_checksums,
    numbers,
    same_bits,
    site,
    storage,
    write_trace,
)

import probekit
from probekit.errors import StoreError
from probekit.store.format import schema
from probekit.store.format.execution import Execution, Forward
from probekit.store.format.records import write_record
from probekit.store.reading.files import open_file
from probekit.store.reading.mapped import MappedRows
from probekit.store.reading.segments import segments_of
from probekit.trace.site import Site
from probekit.trace.trace import Trace

Array = np.ndarray[Any, Any]

ONE_SHARD = ((3, 1, 5, 2),)
SITES = (
    site("h.0", row_shape=(4,), dtype="bfloat16", portable="resid_post", layer=0),
    site("h.1", row_shape=(4,), portable="resid_post", layer=1),
    site("h.3", row_shape=(4,), dtype="float16", portable="resid_post", layer=3),
    site("h.10", "pattern", row_shape=(2, 6), axes=("token", "head", "key")),
    site("h.2", dtype="int64", rows="last"),
    site("h.2", "input", rows="0,-1", dtype="bfloat16"),
    site("h.4", rows="3:"),
    site("h.5", rows="example", dtype="float64"),
    site("embed", portable="embed"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return write_trace(tmp_path_factory.mktemp("trace"), SITES, executions=EXECUTIONS)


@pytest.fixture(scope="module")
def trace(made: Made) -> Trace:
    return probekit.open(made.folder)


def events(*modules: int) -> Array:
    return np.array([[m, entered, 0] for m in modules for entered in (1, 0)], dtype="<i4")


def forward(order: int, *examples: int) -> Forward:
    return Forward(order=order, phase="forward", examples=examples, n_tokens=1, seconds=0.5)


MODULES = ("wte", "act", "c_proj")
EXECUTIONS = (
    Execution(modules=MODULES, orders=(events(0, 1, 2),), forwards=(forward(0, 0, 1, 2),)),
    Execution(modules=MODULES, orders=(events(2, 1, 0),), forwards=(forward(0, 3),)),
    Execution(modules=MODULES, orders=(events(2, 1, 0),), forwards=(forward(0, 5), forward(0, 4))),
)


# --- rows, against numpy on the whole array


@st.composite
def keys(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """Draw a key that numpy may or may not take: every kind of index, an ellipsis anywhere."""
    n_given = draw(st.integers(0, len(shape)))
    parts: list[Any] = [draw(part_of(n)) for n in shape[:n_given]]
    if draw(st.booleans()):
        at = draw(st.integers(0, len(parts)))
        skipped = len(shape) - n_given
        behind = [draw(part_of(shape[at + skipped + n])) for n in range(len(parts) - at)]
        parts = [*parts[:at], Ellipsis, *behind]
    if parts and parts[0] is not Ellipsis and draw(st.booleans()):
        parts.insert(draw(st.integers(1, len(parts))), None)
    return parts[0] if len(parts) == 1 and draw(st.booleans()) else tuple(parts)


def part_of(size: int) -> st.SearchStrategy[Any]:
    number = st.integers(-size - 1, size)  # some out of range
    inside = st.integers(-size, size - 1) if size else number
    return st.one_of(
        number,
        number.map(np.int64),
        st.slices(size),
        st.lists(inside, max_size=4),
        st.lists(inside, min_size=2, max_size=2).map(np.array),
        st.lists(st.lists(inside, min_size=2, max_size=2), min_size=1, max_size=2).map(np.array),
        st.lists(st.booleans(), min_size=size, max_size=size).map(lambda m: np.array(m, bool)),
    )


def attempt(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except IndexError:
        return IndexError


def assert_same(found: Any, wanted: Any) -> None:
    if wanted is IndexError or found is IndexError:
        # numpy forgives an index out of range where nothing is picked; we do not.
        assert found is IndexError and (wanted is IndexError or not np.size(wanted))
    else:
        assert same_bits(found, np.asarray(wanted))


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    lengths=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=4),
    rows=st.sampled_from(["all", "all", "example", "last", "3:", "90:"]),
    dtype=st.sampled_from(["bfloat16", "float16", "float64", "bool", "int64", "uint8"]),
    row_shape=st.lists(st.integers(0, 3), max_size=2),
    compression=st.sampled_from([None, None, "lzf", "zstd"]),
)
def test_any_key_reads_what_numpy_reads(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    lengths: list[list[int]],
    compression: str | None,
    **given_site: Any,
) -> None:
    folder = tmp_path_factory.mktemp("trace")
    made = write_trace(folder, [site(**given_site)], lengths, compression=compression)
    found = probekit.open(folder)["block.0.mlp"]
    bits, wanted = made.bits["block.0.mlp/output"], made.wanted("block.0.mlp/output")
    assert (found.shape, found.dtype, len(found)) == (
        *(wanted.shape, given_site["dtype"], len(wanted)),
    )
    assert same_bits(found[:], wanted)
    for _ in range(8):
        key = data.draw(keys(wanted.shape), label="key")
        assert_same(attempt(lambda key=key: found[key]), attempt(lambda key=key: wanted[key]))
        assert_same(attempt(lambda key=key: found.raw(key)), attempt(lambda key=key: bits[key]))


@pytest.mark.parametrize("name", ["h.1", "h.0"])
@pytest.mark.parametrize(
    "key",
    [
        (),
        Ellipsis,
        (Ellipsis, 1),
        (Ellipsis, 2, slice(1, 3)),
        (slice(2, 12), Ellipsis),
        (slice(None, None, 3), 2),
        slice(13, 2, -3),
        slice(9, 5),
        (slice(None), None, 0),
        (-1, [0, 2]),
        [],
        ([-1, 0, 11, 0], slice(None, 2)),
        ([1, 12, 7], [0, 1, 2]),
        np.array([[20, 3], [9, 9]]),
        (range(5, 15), 3),
        np.uint8(7),
        torch.tensor([2, 20]),
    ],
    ids=str,
)
def test_a_key_over_several_shards_reads_what_numpy_reads(
    made: Made, trace: Trace, name: str, key: Any
) -> None:
    assert same_bits(trace[name][key], made.wanted(f"{name}/output")[key])


@pytest.mark.parametrize(
    "key",
    [
        (slice(2, 15), [0, 1], [3, 4]),
        (slice(2, 15), [0, 1], None, [3, 4]),  # numpy puts the picked axis first
        (slice(15, 2, -2), 1, None, [3, 4]),
        (slice(None), 1, [3, 4]),
        (slice(2, 15), slice(None), [3, 4]),
        ([3, 20], slice(None), [3, 4]),
        (3, slice(None), [3, 4]),
    ],
    ids=str,
)
def test_several_picks_inside_of_rows_lie_as_in_numpy(made: Made, trace: Trace, key: Any) -> None:
    assert same_bits(trace["h.10/pattern"][key], made.wanted("h.10/pattern")[key])


def test_a_mask_picks_rows_or_single_values(made: Made, trace: Trace) -> None:
    wanted = made.wanted("h.1/output")
    with np.errstate(invalid="ignore"):
        for mask in (wanted[:, 0] > 0, wanted > 0, np.zeros(len(wanted), bool)):
            assert same_bits(trace["h.1"][mask], wanted[mask])
    with pytest.raises(IndexError, match=r"a mask of \(20,\) does not fit \(21, 4\)"):
        trace["h.1"][np.ones(20, bool)]


@pytest.mark.parametrize("key", [21, -22, [0, 21], [[-22]], (21, 0)])
def test_rows_out_of_range_are_refused(trace: Trace, key: Any) -> None:
    with pytest.raises(IndexError, match=r"of 21 (is|are) out of range: there are 21: 0 to 20"):
        trace["h.1"][key]


@pytest.mark.parametrize(
    ("key", "says"), [(99, "^row 99 of 21 is out"), ([-30, 99], "^rows -30 to 99 of 21 are out")]
)
def test_one_row_out_of_range_is_called_one(trace: Trace, key: Any, says: str) -> None:
    with pytest.raises(IndexError, match=says):
        trace["h.1"][key]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (1.0, "picked by whole numbers, given floats"),
        ([0.5, 1], "picked by whole numbers, given floats"),
        ("h.1", "picked by whole numbers, given text"),
        (None, "None cannot pick rows"),
        (True, "True cannot pick rows"),
        ((0, 0, 0), "too many indices"),
    ],
)
def test_what_is_no_index_is_refused(trace: Trace, key: Any, message: str) -> None:
    with pytest.raises(IndexError, match=message):
        trace["h.1"][key]


def test_only_the_rows_asked_for_are_read(tmp_path: Path) -> None:
    made = write_trace(tmp_path, SITES)
    found = probekit.open(tmp_path)["h.1"]
    made.shards[1].file.unlink()
    assert same_bits(found[:9], made.wanted("h.1/output")[:9])
    assert same_bits(found[[0, 20, 11]], made.wanted("h.1/output")[[0, 20, 11]])
    says = r"shards/00001\.h5: .*there is no such file, a shard .*move the whole folder .*--repair"
    with pytest.raises(StoreError, match=says):
        found[8:10]


def test_rows_of_one_shard_are_the_file_itself(made: Made, trace: Trace) -> None:
    rows = trace["h.1"][2:9]
    assert not rows.flags.owndata and not rows.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0


def test_compressed_rows_far_apart_are_right(tmp_path: Path) -> None:
    made = write_trace(tmp_path, [site(row_shape=(40_000,))], [[40]], compression="lzf")
    found, wanted = probekit.open(tmp_path)["block.0.mlp"], made.wanted("block.0.mlp/output")
    with h5py.File(tmp_path / "shards/00000.h5") as file:
        assert file["sites/block.0.mlp/output"].chunks[0] < 10  # several chunks
    for key in ([39, 0, 7, 7, -1, 20], slice(5, 17), slice(None, None, 9), (slice(3, 38), 5)):
        assert same_bits(found[key], wanted[key])


# --- as an array


def test_numpy_takes_a_site_for_an_array(made: Made, trace: Trace) -> None:
    for name in ("h.0/output", "h.1/output", "h.2/output"):
        assert same_bits(np.asarray(trace[name]), made.wanted(name))
    wanted = made.wanted("h.2/output")
    assert same_bits(np.asarray(trace["h.2"], dtype="f8"), wanted.astype("f8"))
    assert np.equal(trace["h.2"], wanted).all()


@pytest.mark.parametrize("lengths", [ONE_SHARD, LENGTHS], ids=["one shard", "several"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_copy_is_writable_and_ones_own(tmp_path: Path, lengths: Any, dtype: str) -> None:
    made = write_trace(tmp_path, [site(dtype=dtype)], lengths)
    found = probekit.open(tmp_path)["block.0.mlp"]
    copy = np.array(found)
    copy[:] = 7
    assert same_bits(found[:], made.wanted("block.0.mlp/output"))


def test_no_copy_means_no_copy_or_an_error(tmp_path: Path) -> None:
    sites = [site("plain"), site("brain", dtype="bfloat16")]
    one = write_trace(tmp_path / "one", sites, ONE_SHARD)
    trace = probekit.open(tmp_path / "one")
    shared = np.array(trace["plain"], copy=False)
    assert same_bits(shared, one.wanted("plain/output")) and not shared.flags.owndata
    with pytest.raises(ValueError, match="cannot be had without a copy"):
        np.array(trace["brain"], copy=False)
    with pytest.raises(ValueError, match="copy"):
        np.array(trace["plain"], dtype="f8", copy=False)
    write_trace(tmp_path / "several", sites)
    with pytest.raises(ValueError, match=r"rows in 3 files cannot be had without a copy"):
        np.array(probekit.open(tmp_path / "several")["plain"], copy=False)


# --- as a tensor

DTYPES = ("bfloat16", "float16", "float32", "float64", "int64", "int32", "int8", "uint8", "bool")


@pytest.mark.parametrize("lengths", [ONE_SHARD, LENGTHS], ids=["one shard", "several"])
@pytest.mark.parametrize("compression", [None, "lzf"])
def test_a_tensor_has_the_stored_dtype_and_every_bit(
    tmp_path: Path, lengths: Any, compression: str | None
) -> None:
    sites = [site(f"m.{dtype}", dtype=dtype, row_shape=(2, 3)) for dtype in DTYPES]
    made = write_trace(tmp_path, sites, lengths, compression=compression)
    trace = probekit.open(tmp_path)
    for spec in sites:
        tensor, bits = trace[spec.name].torch(), made.bits[spec.name]
        assert tensor.dtype == getattr(torch, spec.dtype)
        assert tuple(tensor.shape) == bits.shape
        assert tensor.contiguous().view(torch.uint8).numpy().tobytes() == bits.tobytes()
        tensor.zero_()
        assert same_bits(trace[spec.name].raw(slice(None)), bits)


@pytest.mark.parametrize("dtype", ["bfloat16", "bool", "int64"])
@pytest.mark.parametrize("given", [{"rows": "90:"}, {"row_shape": (0,)}], ids=["rows", "width"])
def test_a_site_without_values_is_an_empty_tensor(
    tmp_path: Path, dtype: str, given: dict[str, Any]
) -> None:
    write_trace(tmp_path, [site(dtype=dtype, **given)])
    found = probekit.open(tmp_path)["block.0.mlp"]
    tensor = found.torch()
    assert tuple(tensor.shape) == found.shape and not tensor.numel()
    assert tensor.dtype == getattr(torch, dtype)


def test_a_tensor_of_one_shard_is_mapped_privately(tmp_path: Path) -> None:
    made = write_trace(tmp_path, [site("a", dtype="bfloat16"), site("b")], ONE_SHARD)
    file, before = made.shards[0].file, made.shards[0].file.read_bytes()
    trace = probekit.open(tmp_path)
    one, two = trace["a"].torch(), trace["a"].torch()
    assert file_mapped_at(one.data_ptr()) == file
    assert one.untyped_storage().nbytes() == len(before)  # the whole file, mapped
    one.zero_()
    assert two.view(torch.uint8).numpy().tobytes() == made.bits["a/output"].tobytes()
    assert same_bits(trace["a"][:], made.wanted("a/output"))
    assert file.read_bytes() == before


def file_mapped_at(address: int) -> Path | None:
    """Ask Linux which file lies at an address, mapped so that writing reaches nobody else."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, *_, name = (
            line.split(maxsplit=5) if line.count("/") else (line.split()[0],) * 3
        )
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= address < last:
            return Path(name) if rights == "rw-p" else None
    return None


def test_tensors_of_read_only_files_can_be_written(tmp_path: Path) -> None:
    made = write_trace(tmp_path, lengths=ONE_SHARD)
    made.shards[0].file.chmod(0o444)
    tensor = probekit.open(tmp_path)["block.0.mlp"].torch()
    tensor += 1
    assert same_bits(probekit.open(tmp_path)["block.0.mlp"][:], made.wanted("block.0.mlp/output"))


@pytest.mark.parametrize("lengths", [ONE_SHARD, LENGTHS], ids=["one shard", "several"])
@pytest.mark.parametrize("compression", [None, "lzf"])
@pytest.mark.parametrize(
    "key",
    [slice(1, 3), slice(None, None, -2), 3, -1, [5, 0, 5], (slice(2, 8), ..., 1), ([9, 1], 0, 2)],
    ids=str,
)
def test_a_tensor_of_some_rows_has_their_bits_and_is_ones_own(
    tmp_path: Path, lengths: Any, compression: str | None, key: Any
) -> None:
    sites = [site(dtype, dtype=dtype, row_shape=(2, 3)) for dtype in ("bfloat16", "float32")]
    made = write_trace(tmp_path, sites, lengths, compression=compression)
    for spec in sites:
        found, bits = probekit.open(tmp_path)[spec.name], made.bits[spec.name]
        tensor = found.torch(key)
        assert tensor.dtype == getattr(torch, spec.dtype)
        assert tuple(tensor.shape) == bits[key].shape
        assert tensor.contiguous().view(torch.uint8).numpy().tobytes() == bits[key].tobytes()
        tensor.zero_()
        assert same_bits(found.raw(slice(None)), bits)


def test_a_tensor_of_rows_out_of_range_is_refused(trace: Trace) -> None:
    with pytest.raises(IndexError, match="of 21 are out of range"):
        trace["h.0"].torch([0, 21])


def test_an_unaligned_site_of_another_writer_is_a_tensor_too(tmp_path: Path) -> None:
    for n_bytes in range(1, 9):  # of all offsets, most are odd for a float64
        with h5py.File(tmp_path / f"{n_bytes}.h5", "w", meta_block_size=0) as file:
            by_hand(file, pad=n_bytes)
        assert_by_hand(probekit.open(tmp_path / f"{n_bytes}.h5"))


def test_a_dtype_that_torch_has_not_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "big.h5", "w") as file:
        by_hand(file, dtype=">f8")
    trace = probekit.open(tmp_path / "big.h5")
    assert trace["m"][:].tolist() == BY_HAND.tolist()
    with pytest.raises(StoreError, match="m/output: torch has no dtype >f8"):
        trace["m"].torch()


# --- a trace that bare h5py wrote

BY_HAND = np.arange(12, dtype="f8").reshape(4, 3) / 7


def by_hand(file: h5py.File, *, dtype: str = "<f8", pad: int = 0) -> None:
    """Write two examples, of 1 and 3 tokens, as design.md lays a trace out."""
    file.attrs["probekit_format"] = 1
    file["examples/id"] = ["a", "b"]
    file["examples/text"] = ["A", "B"]
    file["examples/first_token"] = [0, 1]
    file["examples/n_tokens"] = [1, 3]
    file["tokens/id"] = np.array([7, 1, 0, 1], "i4")
    file["tokens/position"] = np.array([0, 0, 1, 2], "i4")
    file["tokens/example"] = np.array([0, 1, 1, 1], "i8")
    file["vocabulary"] = ["x", "y"]
    if pad:
        file["pad"] = np.zeros(pad, "i1")
    file["sites/m/output"] = BY_HAND.astype(dtype)
    file["sites/m/output"].attrs["axes"] = ["token", "d_model"]


def assert_by_hand(trace: Trace) -> None:
    assert trace.site_names == ("m/output",)
    assert trace["m"].torch().tolist() == BY_HAND.tolist()
    assert trace["m"].example(1).tolist() == BY_HAND[1:].tolist()
    assert trace.examples[1].tokens == ("y", "x", "y")
    assert trace.examples[0].tokens == ("<7>",)
    assert trace.context(2) == "y«x»y"
    assert trace.execution is None


def test_a_plain_hdf5_file_with_this_tree_is_a_trace(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "merged.h5", "w") as file:
        by_hand(file)
    assert_by_hand(probekit.open(tmp_path / "merged.h5"))


def test_a_chunked_file_of_another_writer_reads_the_same(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "chunked.h5", "w") as file:
        by_hand(file)
        del file["sites/m/output"]
        file.create_dataset("sites/m/output", data=BY_HAND, chunks=(3, 2), fletcher32=True)
        file["sites/m/output"].attrs["axes"] = ["token", "d_model"]
    assert_by_hand(probekit.open(tmp_path / "chunked.h5"))


# --- sites


def test_sites_are_named_in_the_order_of_their_layers(trace: Trace) -> None:
    assert (
        trace.site_names
        == tuple(trace)
        == (
            *("embed/output", "h.0/output", "h.1/output", "h.2/input", "h.2/output"),
            *("h.3/output", "h.4/output", "h.5/output", "h.10/pattern"),
        )
    )


def test_a_module_alone_means_its_output(trace: Trace) -> None:
    assert trace["h.2"] is trace["h.2/output"]
    assert trace["h.2/input"].name == "h.2/input"
    assert "h.2" in trace and "h.2/input" in trace
    assert "h.10" not in trace and "h.2/pattern" not in trace


def test_a_site_says_what_it_is(trace: Trace) -> None:
    found = trace["h.10/pattern"]
    assert (found.module, found.kind, found.axes, found.shape) == (
        *("h.10", "pattern", ("token", "head", "key"), (21, 2, 6)),
    )
    assert (found.rows, found.layer, found.portable) == ("all", None, None)
    assert found.attributes["module_class"] == "Linear"
    shown = "<Site h.10/pattern [token=21, head=2, key=6] float32; example(i): [head, query, key]>"
    assert repr(found) == shown
    assert (trace["h.3"].layer, trace["h.3"].portable, trace["h.3"].dtype) == (
        *(3, "resid_post", "float16"),
    )


def test_a_site_that_was_not_recorded_names_the_nearest(trace: Trace) -> None:
    message = r"h\.11/pattern was not recorded; 9 sites were, the nearest: h\.10/pattern"
    with pytest.raises(StoreError, match=message):
        trace["h.11/pattern"]


def test_match_picks_sites_by_glob(trace: Trace) -> None:
    assert [s.name for s in trace.match("h.{0..3}")] == [
        *("h.0/output", "h.1/output", "h.2/output", "h.3/output"),
    ]
    assert [s.name for s in trace.match("**/pattern")] == ["h.10/pattern"]


def test_tables_and_columns_say_what_they_hold(trace: Trace) -> None:
    assert repr(trace.examples).startswith(f"<Examples of {trace.path}: 6 examples; columns id, ")
    assert repr(trace.tokens).startswith(f"<Tokens of {trace.path}: 21 tokens; columns id, posi")
    assert repr(trace.tokens.id) == "<MappedRows [21] int32: [:] reads them>"
    assert repr(trace.examples.text) == "<Texts [6] examples/text: [:] reads them>"


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (
            lambda t: t.match("h.*/scores"),
            r"h.\*/scores matches none of the 9 sites; the nearest: h",
        ),
        (lambda t: t.match("model.*"), r"model.\* matches none of the 9 sites"),
        (lambda t: t.match("g.*"), r"g.\* matches none of the 9 sites; the nearest: .*h.\*"),
        (lambda t: t["h.*"], r"h.\* is a glob; trace.match\('h.\*'\)"),
        (lambda t: t["h.{0..1}/output"], r"is a glob; trace.match"),
    ],
)
def test_a_glob_that_matches_nothing_or_is_asked_for_as_a_site_is_told(
    trace: Trace, ask: Callable[[Trace], object], says: str
) -> None:
    with pytest.raises(StoreError, match=says):
        ask(trace)


@pytest.mark.parametrize(
    ("layer", "name"), [(0, "h.0"), (3, "h.3"), (-1, "h.3"), (-4, "h.0"), (-3, "h.1")]
)
def test_select_counts_layers_of_the_model_from_either_end(
    trace: Trace, layer: int, name: str
) -> None:
    assert trace.select("resid_post", layer=layer).module == name


def test_select_needs_no_layer_where_there_is_one_place(trace: Trace, tmp_path: Path) -> None:
    assert trace.select("embed").module == "embed"
    write_trace(tmp_path, [site("h.2", portable="mlp_out", layer=2)])
    assert probekit.open(tmp_path).select("mlp_out").module == "h.2"


@pytest.mark.parametrize("layer", [2, -2, 4, -5, None])
def test_select_of_a_layer_that_is_not_there_names_those_that_are(
    trace: Trace, layer: int | None
) -> None:
    said = "say which with layer=" if layer is None else f"layer={layer} picks none"
    message = rf"resid_post was recorded at layers \[0, 1, 3\]; {said}"
    with pytest.raises(StoreError, match=message):
        trace.select("resid_post", layer=layer)


def test_select_of_a_layer_outside_the_layers_says_so(trace: Trace) -> None:
    with pytest.raises(StoreError, match="embed lies outside the layers; leave layer=0 out"):
        trace.select("embed", layer=0)


def test_select_of_a_name_that_is_not_there_names_those_that_are(
    trace: Trace, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=r"mlp_out was not recorded; .*: embed, resid_post"):
        trace.select("mlp_out", layer=0)
    write_trace(tmp_path)
    with pytest.raises(StoreError, match="portable names recorded: none"):
        probekit.open(tmp_path).select("mlp_out")


# --- examples and tokens


def test_examples_are_what_was_given(made: Made, trace: Trace) -> None:
    assert len(trace.examples) == len(made.ids) == 6
    for number, example in enumerate(trace.examples):
        tokens = made.tokens_of(number)
        ids = [made.token_ids[t] for t in tokens]
        assert (example.number, example.id, example.text) == (
            *(number, made.ids[number], made.texts[number]),
        )
        assert (example.first_token, example.n_tokens) == (tokens.start, len(tokens))
        assert example.token_ids.tolist() == ids
        assert example.tokens == tuple(VOCABULARY[i] for i in ids)
        assert (example.n_generated, example.completion) == (0, "")


def test_examples_are_picked_like_those_of_a_list(made: Made, trace: Trace) -> None:
    assert trace.examples[-1].id == made.ids[-1]
    assert trace.examples[np.int64(3)].id == made.ids[3]
    for cut in (slice(1, 3), slice(None, None, -2), slice(4, 99), slice(3, 3)):
        assert [e.id for e in trace.examples[cut]] == made.ids[cut]


@pytest.mark.parametrize("number", [6, -7])
def test_an_example_out_of_range_is_refused(trace: Trace, number: int) -> None:
    with pytest.raises(IndexError, match=f"example {number} is out of range: there are 6: 0 to 5"):
        trace.examples[number]
    with pytest.raises(IndexError, match=f"example {number} is out of range: there are 6: 0 to 5"):
        trace["h.1"].example(number)


def test_tokens_are_what_was_given(made: Made, trace: Trace) -> None:
    assert len(trace.tokens) == len(made.token_ids) == 21
    for example in range(6):
        for position, row in enumerate(made.tokens_of(example)):
            token, token_id = trace.tokens[row], made.token_ids[row]
            assert (token.row, token.id, token.text) == (row, token_id, VOCABULARY[token_id])
            assert (token.position, token.example, token.step) == (position, example, 0)
    assert trace.tokens[-1].row == 20
    assert [t.row for t in trace.tokens[5:2:-1]] == [5, 4, 3]
    with pytest.raises(IndexError, match="out of range"):
        trace.tokens[21]


def test_generated_tokens_know_their_step(tmp_path: Path) -> None:
    shard = a_shard(tmp_path, lengths=(3, 1, 5))
    steps = np.array([0, 1, 2, 0, 0, 0, 1, 2, 3])
    tokens = {**shard.tables.columns["token"], "step": steps}
    shard.tables = replace(shard.tables, columns={**shard.tables.columns, "token": tokens})
    shard.write()
    trace = probekit.open(shard.file)
    assert [token.step for token in trace.tokens] == steps.tolist()
    assert [example.n_generated for example in trace.examples] == [2, 0, 3]
    assert [example.completion for example in trace.examples] == ["<1><2>", "", "<6><7><8>"]


@pytest.mark.parametrize(("example", "position"), [(0, 2), (1, -1), (2, 0), (-1, 1), (1, 2)])
def test_a_token_that_is_not_where_it_says_is_refused(
    tmp_path: Path, example: int, position: int
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        by_hand(file)
        file["tokens/example"][2], file["tokens/position"][2] = example, position
    trace = probekit.open(tmp_path / "a.h5")
    for read in (trace.tokens.__getitem__, trace.context):
        with pytest.raises(StoreError, match=f"token {position} of example {example}, which it"):
            read(2)


def test_context_marks_the_token(made: Made, trace: Trace) -> None:
    words = [VOCABULARY[made.token_ids[t]] for t in made.tokens_of(5)]
    row = made.tokens_of(5)[2]
    assert trace.context(row) == f"{words[0]}{words[1]}«{words[2]}»{words[3]}{words[4]}{words[5]}"
    assert trace.context(row, before=1, after=0) == f"{words[1]}«{words[2]}»"
    assert trace.context(-1, before=0) == f"«{words[5]}»"


def test_a_token_outside_the_vocabulary_is_shown_by_its_number(
    trace: Trace, tmp_path: Path
) -> None:
    assert trace.token_text(3) == VOCABULARY[3]
    assert (trace.token_text(50), trace.token_text(-1)) == ("<50>", "<-1>")
    made = write_trace(tmp_path, vocabulary=None)
    bare = probekit.open(tmp_path)
    assert bare.vocabulary == ()
    assert bare.examples[0].tokens == tuple(f"<{i}>" for i in made.token_ids[:3])


def test_texts_of_any_kind_come_back(tmp_path: Path) -> None:
    texts = ["", "日本語 🙂 \n\t\\", "y" * 1_000_000]
    write_trace(tmp_path, lengths=[[1, 2], [3]], texts=texts)
    assert [example.text for example in probekit.open(tmp_path).examples] == texts


@pytest.mark.parametrize("name", ["h.0/output", "h.2/output", "h.2/input", "h.4/output"])
def test_the_rows_of_an_example_are_those_of_its_tokens(
    made: Made, trace: Trace, name: str
) -> None:
    rows, wanted = trace[name].rows, made.wanted(name)
    tokens = made.token_rows[rows] if rows != "all" else range(21)
    assert trace[name].token_rows().tolist() == list(tokens)
    for number in (*range(6), -1):
        inside = made.tokens_of(number % 6)
        mine = [row for row, token in enumerate(tokens) if token in inside]
        assert same_bits(trace[name].example(number), wanted[mine])


def test_whose_rows_they_are_stays_true_when_one_writes_on_the_answer(made: Made) -> None:
    for path in (made.folder, made.shards[0].file):
        found = probekit.open(path)["h.2"]
        wanted = found.token_rows().tolist()
        found.token_rows()[:] = 0
        assert found.token_rows().tolist() == wanted


@pytest.mark.parametrize("n_values", [2**19 - 8, 2**19 + 8], ids=["small", "large"])
def test_bfloat16_of_any_size_is_widened_exactly(n_values: int) -> None:
    raw = np.arange(n_values, dtype="<u4").astype("<u2").reshape(-1, 8)
    assert same_bits(schema.widen(raw, "bfloat16"), numbers(raw, "bfloat16"))
    assert same_bits(schema.widen(raw[:, 3], "bfloat16"), numbers(raw[:, 3].copy(), "bfloat16"))


def test_the_rows_of_an_example_are_its_row_where_it_has_one(made: Made, trace: Trace) -> None:
    for number in (*range(6), -1):
        assert same_bits(trace["h.5"].example(number), made.wanted("h.5/output")[number])
    with pytest.raises(StoreError, match=r"h\.5/output has one row for each example, not f"):
        trace["h.5"].token_rows()


def test_attention_of_an_example_is_head_query_key(made: Made, trace: Trace) -> None:
    wanted, tokens = made.wanted("h.10/pattern"), made.tokens_of(2)
    found = trace["h.10/pattern"].example(2)
    assert found.shape == (2, 5, 5)
    for query in range(5):
        for key in range(5):
            assert same_bits(found[:, query, key], wanted[tokens[query], :, key])


# --- execution


def test_the_execution_order_is_that_of_most_forward_passes(trace: Trace) -> None:
    assert trace.execution_order == ["c_proj", "act", "wte"]
    assert trace.execution is not None
    assert [f.examples for f in trace.execution.forwards] == [(0, 1, 2), (3,), (5,), (4,)]


def test_an_execution_that_was_not_recorded_is_an_error(tmp_path: Path) -> None:
    write_trace(tmp_path)
    trace = probekit.open(tmp_path)
    assert trace.execution is None
    with pytest.raises(StoreError, match="set execution_order: true in the config"):
        _ = trace.execution_order


# --- a shard opened alone


@pytest.mark.parametrize("number", range(3))
def test_a_shard_alone_counts_from_zero(made: Made, number: int) -> None:
    alone, shard = probekit.open(made.shards[number].file), made.shards[number]
    n_before = sum(len(lengths) for lengths in LENGTHS[:number])
    token_before = sum(sum(lengths) for lengths in LENGTHS[:number])
    lengths = LENGTHS[number]
    assert (len(alone.examples), len(alone.tokens)) == (len(lengths), sum(lengths))
    assert [e.id for e in alone.examples] == made.ids[n_before : n_before + len(lengths)]
    row = 0
    for example, n_tokens in enumerate(lengths):
        assert alone.examples[example].first_token == row
        for position in range(n_tokens):
            token = alone.tokens[row]
            assert (token.row, token.example, token.position) == (row, example, position)
            assert token.id == made.token_ids[token_before + row]
            row += 1
    assert alone.tokens.example[:].tolist() == np.repeat(range(len(lengths)), lengths).tolist()
    for spec in SITES:
        assert same_bits(alone[spec.name].raw(slice(None)), shard.bits[spec.name])
    assert alone.execution is not None
    examples = sorted(e for f in alone.execution.forwards for e in f.examples)
    assert examples == list(range(len(lengths)))


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("name", [s.name for s in SITES if s.name != "h.10/pattern"])
def test_a_shard_alone_has_the_rows_of_its_examples(made: Made, number: int, name: str) -> None:
    alone, whole = probekit.open(made.shards[number].file), probekit.open(made.folder)
    n_before = sum(len(lengths) for lengths in LENGTHS[:number])
    token_before = sum(sum(lengths) for lengths in LENGTHS[:number])
    for example in range(len(LENGTHS[number])):
        assert same_bits(alone[name].example(example), whole[name].example(n_before + example))
    if alone[name].rows != "example":
        inside = [t for t in whole[name].token_rows() - token_before if t >= 0]
        assert alone[name].token_rows().tolist() == inside[: len(alone[name])]


def test_a_shard_alone_shows_the_context_of_its_tokens(made: Made) -> None:
    alone = probekit.open(made.shards[2].file)
    a, b, c, *_ = (f"<{i}>" for i in made.token_ids[11:])
    assert alone.context(1, before=1, after=1) == f"{a}«{b}»{c}"
    assert alone.context(4, before=0, after=0) == f"«<{made.token_ids[15]}>»"


# --- opening


def test_a_trace_opens_by_its_folder_or_its_index(made: Made) -> None:
    for path in (made.folder, str(made.folder), made.folder / "trace.h5"):
        trace = probekit.open(path)
        assert trace.path == made.folder / "trace.h5"
        assert trace.provenance["model_name"] == "by-hand"
    text = f"<Trace {trace.path}: by-hand, 6 examples, 21 tokens, 9 sites>"
    assert repr(trace) == text


def test_provenance_is_plain_python(tmp_path: Path) -> None:
    attributes = {"probekit_format": 1, "config": "x" * 100_000, "sizes": [1, 2], "rate": 0.5}
    write_trace(tmp_path, attributes=attributes)
    assert probekit.open(tmp_path).provenance == {**attributes, "n_shards": 3}
    assert type(probekit.open(tmp_path).provenance["sizes"][0]) is int


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"gone: cannot be read: there is no such file"):
        probekit.open(tmp_path / "gone")
    with pytest.raises(StoreError, match=r"holds no trace \(there is no run\.json\)"):
        probekit.open(tmp_path)


def test_a_file_that_is_no_hdf5_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("not HDF5")
    with pytest.raises(StoreError, match=r"a\.h5: cannot be read: it is not whole HDF5"):
        probekit.open(tmp_path / "a.h5")


def test_an_hdf5_file_that_is_no_trace_is_said(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="is not a probekit trace"):
        probekit.open(tmp_path / "a.h5")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    write_trace(tmp_path, attributes={"probekit_format": 2})
    message = r"has format 2\.0; this probekit reads format 1\. Upgrade"
    with pytest.raises(StoreError, match=message):
        probekit.open(tmp_path)


@pytest.mark.parametrize("value", [np.inf, np.nan, 1.0, "x", [0, 1], np.uint64(2**64 - 1)])
def test_a_format_that_is_none_is_refused(tmp_path: Path, value: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        by_hand(file)
        file.attrs["probekit_format"] = value
    with pytest.raises(StoreError, match=r"a\.h5: (probekit_format is .* no format|has format)"):
        probekit.open(tmp_path / "a.h5")


@pytest.mark.parametrize("value", ["1.2", "1.17", 1])
def test_any_minor_of_a_known_format_is_read(tmp_path: Path, value: Any) -> None:
    write_trace(tmp_path, attributes={"probekit_format": value, "not_known": 3})
    assert probekit.open(tmp_path).tokens[0].position == 0


@pytest.mark.parametrize("value", [np.inf, np.nan, 1.0, "x", [0, 1], np.uint64(2**64 - 1)])
@pytest.mark.parametrize("name", ["first_example", "first_token"])
def test_a_number_of_another_type_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        by_hand(file)
        file.attrs[name] = value
    with pytest.raises(StoreError, match=rf"a\.h5: {name} is .*; expected a whole number"):
        probekit.open(tmp_path / "a.h5")


@pytest.mark.parametrize("value", [np.inf, "x", [0, 1]])
def test_a_layer_of_another_type_is_refused(tmp_path: Path, value: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        by_hand(file)
        file["sites/m/output"].attrs.update({"portable": "resid_post", "layer": value})
    trace = probekit.open(tmp_path / "a.h5")
    with pytest.raises(StoreError, match=r"m/output: layer is .*; expected a whole number"):
        trace.select("resid_post", layer=0)


@pytest.mark.parametrize("rows", [[1, 4], [-1, 2], [2, 1], [-(2**63), 2**63 - 1]])
def test_rows_of_tokens_that_are_not_there_are_refused(tmp_path: Path, rows: list[int]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        by_hand(file)
        file["rows/last"] = rows
        file["sites/x/output"] = np.zeros((2, 3))
        file["sites/x/output"].attrs.update({"axes": ["token", "d_model"], "rows": "last"})
    with pytest.raises(StoreError, match="rows/last are not tokens of it, in their order"):
        probekit.open(tmp_path / "a.h5")["x"]


@pytest.mark.parametrize("axis", ["head", "neuron"])
@pytest.mark.parametrize("value", [5, "abc", [1, 2], [1.0, 2.0, 3.0], ["a", "b", "c"]])
def test_numbers_that_do_not_fit_an_axis_are_refused(tmp_path: Path, axis: str, value: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        by_hand(file)
        file["sites/m/output"].attrs.update({"axes": ["token", axis], f"{axis}s": value})
    with pytest.raises(StoreError, match=rf"m/output.*: {axis}s is |its {axis}s are"):
        probekit.open(tmp_path / "a.h5")["m"].numbers(axis)


@pytest.mark.parametrize("dtype", ["i4", "u1", "u8"])
def test_counts_from_an_absurd_start_are_numbers_all_the_same(tmp_path: Path, dtype: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        by_hand(file)
        del file["tokens/example"]
        file["tokens/example"] = np.array([0, 1, 1, 1], dtype)
        file.attrs["first_example"] = 2**62
    examples = probekit.open(tmp_path / "a.h5").tokens.example
    assert examples[:].tolist() == [n - 2**62 for n in (0, 1, 1, 1)]
    assert int(examples[0]) == -(2**62)


def test_a_run_that_is_not_finished_says_how_far_it_is(tmp_path: Path) -> None:
    write_trace(tmp_path)
    (tmp_path / "trace.h5").unlink()
    (tmp_path / "shards" / "00001.json").unlink()
    write_record(tmp_path / "run.json", {"identity": {"shards": [{}, {}, {}, {}]}})
    with pytest.raises(StoreError, match="not finished: 2 of 4 shards are sealed; run the same"):
        probekit.open(tmp_path)


def test_a_run_without_its_index_or_that_another_process_writes_is_told(tmp_path: Path) -> None:
    write_trace(tmp_path)
    (tmp_path / "trace.h5").unlink()
    write_record(tmp_path / "run.json", {"identity": {"shards": [{}, {}, {}]}})
    says = "has no index: 3 of 3 shards are sealed; run the same .* wri"
    with pytest.raises(StoreError, match=says):
        probekit.open(tmp_path)
    hold = (
        "import fcntl, os, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print(os.getpid(), file=file, flush=True); print(flush=True); input()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdout.readline()
        with pytest.raises(StoreError, match=f"sealed; process {other.pid} is writing it; wait"):
            probekit.open(tmp_path)
        other.communicate(b"\n")
    with pytest.raises(StoreError, match="has no index"):  # its lock file stays: it is dead
        probekit.open(tmp_path)


def test_a_config_is_told_from_a_trace(tmp_path: Path) -> None:
    for text, says in (
        ("model: {name: gpt2}", "gg.yaml: is a config, no trace; a trace lies at the store.path"),
        (
            Path("configs/phi3.yaml").read_text(),
            "is a config, .*its trace is at runs/phi3",
        ),
    ):
        (tmp_path / "gg.yaml").write_text(text)
        with pytest.raises(StoreError, match=says):
            probekit.open(tmp_path / "gg.yaml")


def test_reading_needs_no_torch(made: Made) -> None:
    code = (
        "import sys, probekit; trace = probekit.open(sys.argv[1]); trace['h.0'][:];"
        "trace.examples[-1].text; trace.execution_order;"
        "sys.exit(bool({'torch', 'transformers', 'pydantic'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, str(made.folder)], check=True)


def test_a_fresh_process_reads_zstd(tmp_path: Path) -> None:
    made = write_trace(tmp_path, [site(dtype="int64")], compression="zstd")
    code = (
        "import sys, probekit; s = probekit.open(sys.argv[1])['block.0.mlp'];"
        "assert 'hdf5plugin' not in sys.modules; print(s[:].tolist())"
    )
    read = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=True, text=True
    )
    assert read.stdout == f"{made.wanted('block.0.mlp/output').tolist()}\n"


def test_zstd_without_its_package_says_what_to_install(tmp_path: Path) -> None:
    write_trace(tmp_path, compression="zstd")
    code = (
        "import sys; sys.modules['hdf5plugin'] = None; import probekit;"
        "probekit.open(sys.argv[1])['block.0.mlp'][:]"
    )
    read = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert "needs the hdf5plugin package; install probekit[compression]" in read.stderr


# --- other places, other processes


def test_a_trace_can_be_read_after_a_change_of_directory(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.folder.parent)
    trace = probekit.open(made.folder.name)
    monkeypatch.chdir(tmp_path)
    assert same_bits(trace["h.1"][:], made.wanted("h.1/output"))
    assert trace.examples[4].text == made.texts[4]
    assert pickle.loads(pickle.dumps(trace)).site_names == trace.site_names


def test_a_moved_and_a_read_only_copy_read_the_same(made: Made, tmp_path: Path) -> None:
    copy = shutil.copytree(made.folder, tmp_path / "copy")
    for path in (*copy.rglob("*"), copy):
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path.is_dir() else 0))
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    trace = probekit.open(copy)
    for spec in SITES:
        assert same_bits(trace[spec.name][:], made.wanted(spec.name))
        trace[spec.name].torch()
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == before
    (tmp_path / "copy").chmod(0o755)
    (tmp_path / "copy").rename(tmp_path / "moved")
    assert same_bits(probekit.open(tmp_path / "moved")["h.0"][:], made.wanted("h.0/output"))


def test_a_trace_and_its_sites_can_be_pickled(made: Made, trace: Trace) -> None:
    for value in (trace["h.0"], trace["h.2/input"]):
        assert same_bits(pickle.loads(pickle.dumps(value))[:], made.wanted(value.name))
    assert len(pickle.dumps(trace["h.0"])) < 1000  # names it, and does not hold the rows


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("lengths", [ONE_SHARD, LENGTHS], ids=["one shard", "several"])
def test_other_processes_read_the_same_rows(tmp_path: Path, lengths: Any, method: str) -> None:
    made = write_trace(tmp_path, [site(dtype="bfloat16")], lengths)
    found, wanted = probekit.open(tmp_path)["block.0.mlp"], made.wanted("block.0.mlp/output")
    found[:2]  # maps are open before the fork
    with multiprocessing.get_context(method).Pool(2) as pool:
        keys = [slice(n, None) for n in range(len(wanted))]
        read = pool.starmap(operator.getitem, [(found, key) for key in keys])
    assert all(same_bits(rows, wanted[key]) for key, rows in zip(keys, read, strict=True))
    assert same_bits(found[:], wanted)


@pytest.fixture
def few_files() -> Iterator[None]:
    """Let the process open only 120 files more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    free = (number for number in count() if number not in taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(free, 120, None)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_files_can_be_read_than_a_process_may_open(tmp_path: Path, few_files: None) -> None:
    sites = [site("a"), site("b", dtype="int64")]
    made = write_trace(tmp_path, sites, [[1, 2]] * 130)
    trace = probekit.open(tmp_path)
    everything = [trace[name][row] for row in range(len(trace["a"])) for name in ("a", "b")]
    for number, name in enumerate(("a/output", "b/output")):
        assert same_bits(np.stack(everything[number::2]), made.wanted(name))
    rows = np.random.default_rng(0).permutation(len(trace["a"]))
    assert same_bits(trace["a"][rows], made.wanted("a/output")[rows])
    assert same_bits(trace["b"][rows, 1], made.wanted("b/output")[rows, 1])
    one = probekit.open(made.shards[0].file)
    tensors = [one["a"].torch() for _ in range(300)]
    assert all(torch.equal(t, tensors[0]) for t in tensors) or tensors[0].isnan().any()


# --- nothing outside the trace is followed, nothing damaged is read


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        by_hand(file)
    return tmp_path / "secret.h5"


@pytest.mark.parametrize("name", ["../secret.h5", "{absolute}", "shards/../../secret.h5"])
def test_a_virtual_dataset_that_points_outside_is_refused(
    tmp_path: Path, secret: Path, name: str
) -> None:
    (tmp_path / "run").mkdir()
    layout = h5py.VirtualLayout((4, 3), "f8")
    layout[:] = h5py.VirtualSource(name.format(absolute=secret), "sites/m/output", (4, 3))
    with h5py.File(tmp_path / "run" / "trace.h5", "w") as file:
        by_hand(file)
        del file["sites/m/output"]
        file.create_virtual_dataset("sites/m/output", layout)
        file["sites/m/output"].attrs["axes"] = ["token", "d_model"]
    with pytest.raises(StoreError, match=r"/sites/m/output points outside the trace: .*secret\.h5"):
        probekit.open(tmp_path / "run")["m"]


def test_a_shard_that_is_a_link_to_another_place_is_refused(tmp_path: Path) -> None:
    made = write_trace(tmp_path / "run")
    made.shards[0].file.rename(tmp_path / "elsewhere.h5")
    made.shards[0].file.symlink_to(tmp_path / "elsewhere.h5")
    with pytest.raises(StoreError, match=r"points outside the trace: shards/00000\.h5"):
        probekit.open(tmp_path / "run")["block.0.mlp"]


def test_a_trace_below_a_linked_folder_is_read(tmp_path: Path) -> None:
    made = write_trace(tmp_path / "disk2" / "run")
    (tmp_path / "runs").symlink_to(tmp_path / "disk2")
    found = probekit.open(tmp_path / "runs" / "run")["block.0.mlp"]
    assert same_bits(found[:], made.wanted("block.0.mlp/output"))


def test_an_external_link_is_refused(tmp_path: Path, secret: Path) -> None:
    with h5py.File(tmp_path / "trace.h5", "w") as file:
        by_hand(file)
        for name in ("vocabulary", "tokens/id"):
            del file[name]
            file[name] = h5py.ExternalLink("secret.h5", f"/{name}")
    trace = probekit.open(tmp_path / "trace.h5")
    for read in (
        lambda: trace["m"],
        lambda: trace.vocabulary,
        lambda: trace.tokens[0],
        lambda: trace.examples[0],
    ):
        with pytest.raises(StoreError, match="points outside the trace"):
            read()
    with h5py.File(tmp_path / "trace.h5", "r+") as file:
        del file["sites/m"]
        file["sites/m"] = h5py.ExternalLink("secret.h5", "/sites/m")
    with pytest.raises(StoreError, match="sites/m points outside the trace, by the link m"):
        probekit.open(tmp_path / "trace.h5")  # already its names are another file's


@pytest.mark.parametrize("shard", [False, True], ids=["index", "shard"])
def test_bytes_that_lie_in_another_file_are_refused(tmp_path: Path, shard: bool) -> None:
    (tmp_path / "passwd").write_bytes(b"secret!!" * 12)
    made = write_trace(tmp_path / "run", [site("m", dtype="float64")], [[1, 3]])
    forget_checksums(tmp_path / "run")
    path = made.shards[0].file if shard else tmp_path / "run" / "trace.h5"
    with h5py.File(path, "r+") as file:
        axes = file["sites/m/output"].attrs["axes"]
        del file["sites/m/output"]
        outside = [(str(tmp_path / "passwd"), 0, 96)]
        file.create_dataset("sites/m/output", (4, 3), "f8", external=outside)
        file["sites/m/output"].attrs["axes"] = axes
    with pytest.raises(StoreError, match="sites/m/output points outside the trace"):
        probekit.open(tmp_path / "run")["m"][:]


def test_a_shard_whose_rows_lie_in_yet_another_file_is_refused(
    tmp_path: Path, secret: Path
) -> None:
    made = write_trace(tmp_path / "run", [site("m", dtype="float64")], [[1, 3]])
    forget_checksums(tmp_path / "run")
    layout = h5py.VirtualLayout((4, 3), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "sites/m/output", (4, 3))
    with h5py.File(made.shards[0].file, "r+") as file:
        del file["sites/m/output"]
        file.create_virtual_dataset("sites/m/output", layout)
    with pytest.raises(StoreError, match=r"00000\.h5: .*is itself virtual"):
        probekit.open(tmp_path / "run")["m"][:]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (np.zeros((4, 3), "f4"), r"is \[4, 3\] float32; the index says \[4, 3\] float64"),
        (np.zeros((4, 3), "i8"), r"is \[4, 3\] int64"),
        (np.zeros((5, 3)), r"is \[5, 3\] float64; the index says \[4, 3\]"),
    ],
)
def test_a_shard_that_is_not_what_the_index_says_is_refused(
    tmp_path: Path, other: Array, message: str
) -> None:
    made = write_trace(tmp_path, [site("m", dtype="float64")], [[1, 3]])
    forget_checksums(tmp_path)
    with h5py.File(made.shards[0].file, "r+") as file:
        del file["sites/m/output"]
        file["sites/m/output"] = other
    with pytest.raises(StoreError, match=message):
        probekit.open(tmp_path)["m"][:]


def test_an_index_that_has_rows_from_elsewhere_or_twice_is_refused(tmp_path: Path) -> None:
    write_trace(tmp_path, [site("m", dtype="float64")], [[1, 3]])
    source = h5py.VirtualSource("shards/00000.h5", "sites/m/output", (4, 3))
    layout = h5py.VirtualLayout((8, 3), "f8")
    layout[:4], layout[4:] = source, source
    with h5py.File(tmp_path / "trace.h5", "r+") as file:
        del file["sites/m/output"]
        for name, said in (("sites/m/output", "one file more than once"), ("x", "rows of sites/m")):
            dataset = file.create_virtual_dataset(name, layout)
            with pytest.raises(StoreError, match=said):
                segments_of(dataset, tmp_path / "trace.h5")


def test_an_index_with_a_gap_is_refused(tmp_path: Path) -> None:
    write_trace(tmp_path, [site("m", dtype="float64")], [[1, 3]])
    layout = h5py.VirtualLayout((6, 3), "f8")
    layout[2:] = h5py.VirtualSource("shards/00000.h5", "sites/m/output", (4, 3))
    with h5py.File(tmp_path / "trace.h5", "r+") as file:
        del file["sites/m/output"]
        dataset = file.create_virtual_dataset("sites/m/output", layout)
        with pytest.raises(StoreError, match="rows that lie in no shard, or in two"):
            segments_of(dataset, tmp_path / "trace.h5")


@pytest.mark.parametrize("n_bytes", [0, 64, 5000, -1])
def test_a_shard_that_was_cut_short_is_named(tmp_path: Path, n_bytes: int) -> None:
    made = write_trace(tmp_path, SITES)
    whole = made.shards[1].file.read_bytes()
    made.shards[1].file.write_bytes(whole[:n_bytes])
    trace = probekit.open(tmp_path)
    assert same_bits(trace["h.1"][:9], made.wanted("h.1/output")[:9])
    for read in (lambda: trace["h.1"][:], lambda: trace["h.1"].torch(), lambda: trace.examples[3]):
        with pytest.raises(StoreError, match=r"shards/00001\.h5: cannot be read: it is not whole"):
            read()
    with pytest.raises(StoreError, match=r"00001\.h5: cannot be read: it is not whole"):
        probekit.open(made.shards[1].file)


def test_a_shard_that_is_cut_after_it_was_found_is_named(tmp_path: Path) -> None:
    made = write_trace(tmp_path, [site("m", row_shape=(5000,))], [[2]])
    found = probekit.open(tmp_path)["m"]
    assert found.torch().shape == (2, 5000)
    whole = made.shards[0].file.read_bytes()
    made.shards[0].file.write_bytes(whole[: extent(made.shards[0].file, "m/output")[0] + 8])
    for read in (found.torch, lambda: found[:]):
        with pytest.raises(StoreError, match=r"00000\.h5: .*m/output reaches past the end of the"):
            read()


def test_a_shard_without_a_site_is_named(tmp_path: Path) -> None:
    made = write_trace(tmp_path)
    forget_checksums(tmp_path)
    with h5py.File(made.shards[2].file, "r+") as file:
        del file["sites/block.0.mlp"]
    with pytest.raises(StoreError, match=r"shards/00002\.h5: there is no dataset .*block\.0\.mlp"):
        probekit.open(tmp_path)["block.0.mlp"][:]


def test_damage_to_the_structure_of_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    made = write_trace(tmp_path, [site("m")], [[2]])
    whole = bytearray(made.shards[0].file.read_bytes())
    at = bytes(whole).index(b"OHDR", 100)  # the header of some group or dataset
    whole[at : at + 4] = b"oops"
    made.shards[0].file.write_bytes(whole)
    with pytest.raises(StoreError, match=r"00000\.h5: cannot be read: it is not whole HDF5"):
        trace = probekit.open(made.shards[0].file)
        _ = trace["m"][:], list(trace.examples), list(trace.tokens)


# --- the pieces by themselves


def test_mapped_rows_read_any_dataset(tmp_path: Path) -> None:
    values = np.arange(10, dtype="i4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = values
    with open_file(tmp_path / "a.h5") as file:
        rows = MappedRows(file["x"], tmp_path / "a.h5", less=3)
    assert rows[2:5].tolist() == [-1, 0, 1]
    assert rows[[0, -1]].tolist() == [-3, 6]
    assert int(rows[4]) == 1
    assert rows.raw(slice(2)).tolist() == [0, 1]
    assert rows.place() == (tmp_path / "a.h5", extent_of(tmp_path / "a.h5", "x"))


def extent_of(path: Path, name: str) -> int:
    with h5py.File(path) as file:
        return int(file[name].id.get_offset())


def test_sites_are_the_public_names_of_these_classes(trace: Trace) -> None:
    assert isinstance(trace["h.0"], Site) and probekit.Site is Site
    assert isinstance(trace, probekit.Trace)


def test_the_helpers_storage_is_numpys_of_the_same_bytes(made: Made) -> None:
    # Guards the comparisons above: what they call bits is what lies in the file.
    for spec in made.sites:
        offset, size = extent(made.shards[0].file, spec.name)
        raw = made.shards[0].file.read_bytes()[offset : offset + size]
        assert raw == made.shards[0].bits[spec.name].tobytes()
        assert made.shards[0].bits[spec.name].dtype == storage(spec.dtype)


def test_a_file_that_another_library_has_open_can_be_read(made: Made) -> None:
    with h5py.File(made.folder / "trace.h5"):  # with locking, as xarray and others open it
        assert same_bits(probekit.open(made.folder)["h.1"][:], made.wanted("h.1/output"))
