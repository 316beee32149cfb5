"""The index: one file of virtual datasets, as bare h5py sees it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 (h5py reads zstd through it)
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tiny_traces import Made, numbers, site, write_trace

import probekit
from probekit.errors import StoreError
from probekit.store.format.execution import Execution, Forward
from probekit.store.writing.index import build_index
from probekit.store.writing.said import Joined

SITES = (
    site("h.0", dtype="bfloat16", row_shape=(4,)),
    site("h.0", "pattern", dtype="float16", row_shape=(2, 3)),
    site("h.1", dtype="bool", row_shape=()),
    site("h.2", dtype="int64", rows="last"),
    site("h.3", rows="3:"),  # the second shard has no rows of it
    site("h.4", rows="example", dtype="float64"),
    site("h.5", rows="90:", dtype="bfloat16"),  # no shard has rows of it
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return write_trace(tmp_path_factory.mktemp("trace"), SITES)


def assert_bare_h5py_reads(folder: Path, made: Made) -> None:
    with h5py.File(folder / "trace.h5", "r") as file:
        for spec in made.sites:
            found, wanted = file[f"sites/{spec.name}"], made.wanted(spec.name)
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
            assert np.array_equal(found[()], wanted, equal_nan=wanted.dtype.kind == "f")
        assert list(file["examples/id"].asstr()) == made.ids
        assert list(file["examples/text"].asstr()) == made.texts
        assert file["examples/n_tokens"][:].tolist() == made.n_tokens
        firsts = [made.tokens_of(n).start for n in range(len(made.ids))]
        assert file["examples/first_token"][:].tolist() == firsts
        assert file["tokens/id"][:].tolist() == made.token_ids
        owners = [n for n, n_tokens in enumerate(made.n_tokens) for _ in range(n_tokens)]
        assert file["tokens/example"][:].tolist() == owners
        positions = [p for n_tokens in made.n_tokens for p in range(n_tokens)]
        assert file["tokens/position"][:].tolist() == positions
        for rows, places in made.token_rows.items():
            assert file[f"rows/{rows}"][:].tolist() == places


# --- numbers


def test_bare_h5py_reads_every_number_through_the_index(made: Made) -> None:
    assert_bare_h5py_reads(made.folder, made)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=4),
    dtype=st.sampled_from(["bfloat16", "float32", "bool", "int64"]),
    rows=st.sampled_from(["all", "example", "last", "3:"]),
    row_shape=st.lists(st.integers(1, 3), max_size=2),
)
def test_any_split_into_shards_reads_as_one(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], **given_site: Any
) -> None:
    made = write_trace(tmp_path_factory.mktemp("trace"), [site(**given_site)], lengths)
    assert_bare_h5py_reads(made.folder, made)


@pytest.mark.parametrize("method", ["gzip", "lzf", "zstd"])
def test_compressed_shards_read_the_same_through_the_index(tmp_path: Path, method: str) -> None:
    made = write_trace(tmp_path, SITES, compression=method)
    assert_bare_h5py_reads(tmp_path, made)


def test_a_trace_without_sites_has_an_index(tmp_path: Path) -> None:
    assert_bare_h5py_reads(tmp_path, write_trace(tmp_path, []))


READ = """
import h5py, json, sys
with h5py.File(sys.argv[1], "r") as file:
    print(json.dumps([file["sites/h.2/output"][:].tolist(), list(file["examples/text"].asstr())]))
"""


@pytest.mark.parametrize("relative", [False, True])
def test_another_working_directory_reads_the_same_numbers(
    made: Made, tmp_path: Path, relative: bool
) -> None:
    index = made.folder / "trace.h5"
    name = index.relative_to(made.folder.parent) if relative else index
    read = subprocess.run(
        [sys.executable, "-c", READ, str(name)],
        cwd=made.folder.parent if relative else tmp_path,
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(read.stdout) == [made.wanted("h.2/output").tolist(), made.texts]


def test_a_folder_that_was_moved_reads_the_same(tmp_path: Path) -> None:
    made = write_trace(tmp_path / "old", SITES)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "old").rename(tmp_path / "elsewhere" / "new")
    assert_bare_h5py_reads(tmp_path / "elsewhere" / "new", made)


def test_a_copy_reads_its_own_shards(made: Made, tmp_path: Path) -> None:
    copy = shutil.copytree(made.folder, tmp_path / "copy")
    with h5py.File(copy / "shards" / "00000.h5", "r+") as file:
        file["sites/h.2/output"][0] = 7
    with h5py.File(copy / "trace.h5") as file:
        assert file["sites/h.2/output"][0].tolist() == [7, 7, 7]
    assert_bare_h5py_reads(made.folder, made)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_floats_of_a_shard_that_is_gone_are_nan(tmp_path: Path, dtype: str) -> None:
    made = write_trace(tmp_path, [site("h.0", dtype=dtype), site("h.1", dtype="int64")])
    made.shards[1].file.unlink()
    gone = list(made.tokens_of(3))  # the shard's only example
    there = np.setdiff1d(np.arange(21), gone)
    with h5py.File(tmp_path / "trace.h5") as file:
        found, wanted = file["sites/h.0/output"][:], made.wanted("h.0/output")
        assert np.isnan(found[gone]).all()
        assert np.array_equal(found[there], wanted[there], equal_nan=True)
        assert not file["sites/h.1/output"][gone].any()  # whole numbers have no such value


# --- what else is in it


def test_large_datasets_stay_in_the_shards(made: Made) -> None:
    with h5py.File(made.folder / "trace.h5") as file:
        for spec in made.sites[:-1]:
            dataset = file[f"sites/{spec.name}"]
            assert dataset.is_virtual
            rows = [s.spec.n_rows[spec.rows] for s in made.shards]
            wanted = [f"shards/0000{n}.h5" for n, n_rows in enumerate(rows) if n_rows]
            assert [source.file_name for source in dataset.virtual_sources()] == wanted


def test_bfloat16_stays_a_16_bit_float(made: Made) -> None:
    with h5py.File(made.folder / "trace.h5") as file:
        for name in ("h.0/output", "h.5/output"):
            kind = file[f"sites/{name}"].id.get_type()
            assert (kind.get_class(), kind.get_size()) == (h5py.h5t.FLOAT, 2)
            assert kind.get_fields() == (15, 7, 8, 0, 7)


def test_sites_keep_their_attributes(tmp_path: Path) -> None:
    spec = site(layer=2, portable="mlp_out", details={"heads": [0, 7]})
    write_trace(tmp_path, [spec])
    with h5py.File(tmp_path / "trace.h5") as file:
        found = file["sites/block.0.mlp/output"].attrs
        assert list(found["axes"]) == ["token", "d_0"]
        assert (found["layer"], found["portable"], found["heads"].tolist()) == (
            *(2, "mlp_out", [0, 7]),
        )
        assert list(file["tokens/id"].attrs["axes"]) == ["token"]


def test_the_file_has_the_runs_attributes_and_the_number_of_shards(tmp_path: Path) -> None:
    config = "é" * 100_000
    write_trace(tmp_path, attributes={"probekit_format": 1, "config": config})
    with h5py.File(tmp_path / "trace.h5") as file:
        assert dict(file.attrs) == {"probekit_format": 1, "config": config, "n_shards": 3}


def test_the_vocabulary_holds_every_token_and_a_sign_for_nul(tmp_path: Path) -> None:
    write_trace(tmp_path, vocabulary=["", " Tokyo", "é", "a\0b"])
    with h5py.File(tmp_path / "trace.h5") as file:
        assert list(file["vocabulary"].asstr()) == ["", " Tokyo", "é", "a␀b"]


def test_a_run_without_tokenizer_has_no_vocabulary(tmp_path: Path) -> None:
    write_trace(tmp_path, vocabulary=None)
    with h5py.File(tmp_path / "trace.h5") as file:
        assert "vocabulary" not in file


# --- execution


def events(*modules: int) -> np.ndarray[Any, Any]:
    return np.array([[m, entered, 0] for m in modules for entered in (1, 0)], dtype="<i4")


def forward(order: int, *examples: int) -> Forward:
    return Forward(order=order, phase="forward", examples=examples, n_tokens=1, seconds=0.5)


def test_equal_orders_of_several_shards_are_kept_once() -> None:
    names = ("a", "b", "c")
    one = Execution(
        modules=names,
        orders=(events(0, 1), events(0, 2)),
        forwards=(forward(0, 0), forward(1, 1)),
    )
    two = Execution(
        modules=names,
        orders=(events(0, 2), events(2), events(0, 1)),
        forwards=(forward(1, 2), forward(0, 3), forward(2, 4)),
    )
    both = Joined()
    for part in (one, two):
        both.add(part)
    joined = both.execution
    assert joined is not None
    assert joined.modules == names
    assert [o.tolist() for o in joined.orders] == [
        o.tolist() for o in (events(0, 1), events(0, 2), events(2))
    ]
    assert [(f.order, f.examples) for f in joined.forwards] == [
        *((0, (0,)), (1, (1,)), (2, (2,)), (1, (3,)), (0, (4,))),
    ]


def test_an_order_keeps_its_meaning_when_shards_are_joined(tmp_path: Path) -> None:
    runs = [
        Execution(modules=("a", "b"), orders=(events(n % 2),), forwards=(forward(0, n),))
        for n in range(3)
    ]
    write_trace(tmp_path, executions=runs)
    joined = probekit.open(tmp_path).execution
    assert joined is not None
    ran = {f.examples: joined.orders[f.order].tolist() for f in joined.forwards}
    assert ran == {(n,): events(n % 2).tolist() for n in range(3)}
    assert len(joined.orders) == 2


def test_a_run_that_recorded_no_execution_has_none(made: Made) -> None:
    with h5py.File(made.folder / "trace.h5") as file:
        assert "execution" not in file


# --- whole or not there


def rebuild(made: Made) -> None:
    build_index(made.folder, [s.spec for s in made.shards], made.sites, {}, None)


def test_an_index_is_replaced_whole(tmp_path: Path) -> None:
    made = write_trace(tmp_path, SITES)
    rebuild(made)
    assert_bare_h5py_reads(tmp_path, made)
    assert {p.name for p in tmp_path.iterdir()} == {"trace.h5", "trace.json", "shards"}


@pytest.mark.parametrize("n_bytes", [0, 100, -1])
def test_a_shard_that_was_cut_short_is_named(tmp_path: Path, n_bytes: int) -> None:
    made = write_trace(tmp_path, SITES)
    whole = made.shards[1].file.read_bytes()
    made.shards[1].file.write_bytes(whole[:n_bytes])
    before = (tmp_path / "trace.h5").read_bytes()
    with pytest.raises(StoreError, match=r"shards/00001\.h5: cannot be read: it is not whole HDF5"):
        rebuild(made)
    assert (tmp_path / "trace.h5").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"trace.h5", "trace.json", "shards"}


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    made = write_trace(tmp_path, SITES)
    made.shards[0].file.unlink()
    with pytest.raises(StoreError, match=r"shards/00000\.h5: .*there is no such file"):
        rebuild(made)


def test_shards_that_do_not_follow_on_each_other_are_refused(tmp_path: Path) -> None:
    made = write_trace(tmp_path, SITES)
    specs = [s.spec for s in made.shards]
    later = replace(specs[1], first_token=specs[1].first_token - 1)
    before = (tmp_path / "trace.h5").read_bytes()
    message = r"00001\.h5: begins at example 3, token 8; the shards before it end at 3, 9"
    with pytest.raises(StoreError, match=message):
        build_index(tmp_path, [specs[0], later, specs[2]], made.sites, {}, None)
    with pytest.raises(StoreError, match=r"00002\.h5: begins at example 4, token 11; .* at 3, 9"):
        build_index(tmp_path, [specs[0], specs[2]], made.sites, {}, None)
    assert (tmp_path / "trace.h5").read_bytes() == before


def test_equal_shards_make_equal_indexes(tmp_path: Path) -> None:
    made = [write_trace(tmp_path / name, SITES) for name in ("one", "two")]
    one, two = ([(m.folder / n).read_bytes() for n in ("trace.h5", "trace.json")] for m in made)
    assert one == two


def test_numbers_of_the_helper_are_not_the_bits() -> None:
    # Guards the comparison above: a bfloat16 read as its bits would not pass.
    assert numbers(np.array([0x3FC0], "<u2"), "bfloat16").tolist() == [1.5]
