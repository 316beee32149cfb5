"""What is read of an HDF5 file is in it, and is what it seems."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from probekit.errors import StoreError
from probekit.store.format.nodes import (
    attributes_of,
    dataset_in,
    is_number,
    names_in,
    node_in,
    numbers_in,
    plain,
    texts_in,
)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    with h5py.File(tmp_path / "a.h5", "w") as made:
        made["a/b/c"] = [1, 2, 3]
        made["texts"] = ["x", "é"]
        yield made


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A pipe: who opens it waits for ever."""
    os.mkfifo(tmp_path / "trap.h5")
    return tmp_path / "trap.h5"


# --- links


def test_objects_are_reached_by_hard_links(file):
    assert node_in(file, "a/b/c").shape == (3,)
    assert isinstance(node_in(file, "/a/b"), h5py.Group)
    assert node_in(file, "a/x") is None
    assert node_in(file, "a/b/c/d") is None
    file["again"] = file["a/b/c"]
    assert dataset_in(file, "again")[:].tolist() == [1, 2, 3]


@pytest.mark.parametrize("where", ["x", "a/x", "a/x/deep"])
def test_an_external_link_is_refused_and_its_file_not_opened(file, trap, where):
    file["x"] = h5py.ExternalLink(trap, "/")
    file["a/x"] = h5py.ExternalLink("trap.h5", "/")
    with pytest.raises(
        StoreError, match=rf"a\.h5: {where} points outside the trace, by the link x"
    ):
        node_in(file, where)
    assert "x" in set(names_in(node_in(file, "/"), file))  # the name alone


@pytest.mark.parametrize("target", ["/a/b/c", "/missing", "/soft"])
def test_a_soft_link_is_refused_wherever_it_leads(file, target):
    file["soft"] = h5py.SoftLink(target)
    with pytest.raises(StoreError, match="soft points outside the trace"):
        dataset_in(file, "soft")


@pytest.mark.parametrize("name", ["\x1b[2J", "\u202ex", b"\xff"])
def test_names_that_do_not_print_are_refused(file, name):
    file["a"].create_group(name)
    with pytest.raises(StoreError, match="/a has the odd name") as refused:
        list(names_in(node_in(file, "a"), file))
    assert str(refused.value).isprintable()


def test_what_is_no_group_has_no_names(file):
    for path in ("a/b/c", "missing"):
        with pytest.raises(StoreError, match="is no group"):
            list(names_in(node_in(file, path), file))


# --- datasets


def external(file: h5py.File, trap: Path) -> None:
    file.create_dataset("x", (3,), "i4", external=[(str(trap), 0, 12)])


def virtual(file: h5py.File, trap: Path) -> None:
    layout = h5py.VirtualLayout((3,), "i4")
    layout[:] = h5py.VirtualSource(str(trap), "x", (3,))
    file.create_virtual_dataset("x", layout)


def unlimited(file: h5py.File, trap: Path) -> None:
    layout = h5py.VirtualLayout((3,), "i4", maxshape=(None,))
    source = h5py.VirtualSource(str(trap), "x", (3,), maxshape=(None,))
    layout[0 : h5py.h5s.UNLIMITED] = source[0 : h5py.h5s.UNLIMITED]
    file.create_virtual_dataset("x", layout)


CLAIMED = "claims rows that were never written"
BAD: dict[str, tuple[Callable[[h5py.File, Path], Any], str]] = {
    "external storage": (external, "points outside the trace"),
    "virtual": (virtual, "is itself virtual"),
    "virtual, unlimited": (unlimited, "is itself virtual"),
    "a terabyte": (lambda f, _: f.create_dataset("x", (2**40,), "u1"), CLAIMED),
    "chunks that are not there": (
        lambda f, _: f.create_dataset("x", (2**60, 4), "f4", chunks=(9, 4)),
        CLAIMED,
    ),
    "one chunk of many": (
        lambda f, _: f.create_dataset("x", (90,), "f4", chunks=(9,)).__setitem__(0, 1),
        CLAIMED,
    ),
    "no shape": (lambda f, _: f.__setitem__("x", h5py.Empty("f4")), "has no shape"),
    "a group": (lambda f, _: f.create_group("x"), "there is no dataset x"),
    "a type with a name": (lambda f, _: f.__setitem__("x", np.dtype("f4")), "there is no datas"),
    "nothing": (lambda f, _: None, "there is no dataset x in it"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_dataset_that_is_not_there_is_refused(file, trap, kind):
    make, said = BAD[kind]
    make(file, trap)
    with pytest.raises(StoreError, match=said):
        dataset_in(file, "x")


def test_a_virtual_dataset_is_given_to_who_asks_and_nothing_is_opened(file, trap):
    virtual(file, trap)
    assert dataset_in(file, "x", virtual=True).virtual_sources()[0].file_name == str(trap)


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (2,)}, {"chunks": (2,), "compression": "gzip"}, {"maxshape": (None,)}],
)
def test_a_dataset_that_is_there_is_given_however_it_lies(file, options):
    file.create_dataset("x", data=np.arange(5), **options)
    assert dataset_in(file, "x")[:].tolist() == [0, 1, 2, 3, 4]
    file.create_dataset("none", shape=(0, 3), dtype="f4", maxshape=(None, 3))
    assert dataset_in(file, "none").shape == (0, 3)


@pytest.mark.parametrize("name", ["table", "sites/m/output"])
def test_a_few_bytes_that_unpack_to_fill_the_memory_are_refused(file, name):
    packed = {"compression": "gzip", "shuffle": True}
    file.create_dataset(name, data=np.zeros(9 << 20, "u1"), chunks=(1 << 20,), **packed)
    assert dataset_in(file, name).shape == (9 << 20,)  # small enough, however well it packs
    del file[name]
    file.create_dataset(name, data=np.zeros(65 << 20, "u1"), chunks=(1 << 20,), **packed)
    if name == "table":
        with pytest.raises(StoreError, match=r"table has 68,157,440 bytes, compressed into no"):
            dataset_in(file, name)
    else:  # a site can be all zeros, and is read as far as it is asked for
        assert dataset_in(file, name).shape == (65 << 20,)


def test_a_chunk_that_fills_the_memory_for_one_row_is_refused(file):
    large = np.zeros(257 << 20, "u1")
    file.create_dataset("sites/m/output", data=large, chunks=large.shape, compression="lzf")
    with pytest.raises(StoreError, match="is compressed in pieces of 269,484,032 bytes"):
        dataset_in(file, "sites/m/output")


# --- types


@pytest.mark.parametrize("dtype", ["f2", "f4", "<f8", ">f8", "i1", "u8", "bool", "c16", "f4"])
def test_numbers_of_numpys_are_numbers(file, dtype):
    assert is_number(file.create_dataset("x", (2,), dtype))


def odd_float() -> Any:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(31, 20, 11, 0, 20)
    return h5py.Datatype(kind)


def bits() -> Any:
    return h5py.Datatype(h5py.h5t.STD_B8LE.copy())


@pytest.mark.parametrize(
    "dtype",
    [
        *(odd_float(), bits(), h5py.ref_dtype, h5py.vlen_dtype("i4"), h5py.string_dtype()),
        *("S3", np.dtype("V4"), np.dtype([("a", "i4")])),
    ],
)
def test_what_numpy_has_not_bit_for_bit_is_no_number(file, dtype):
    assert not is_number(file.create_dataset("x", (2,), dtype))


def test_tables_are_whole_numbers_of_the_right_shape(file):
    file["pairs"] = np.array([[1, 2], [3, 4]])
    assert numbers_in(file, "a/b/c").tolist() == [1, 2, 3]
    assert numbers_in(file, "pairs", 2).tolist() == [[1, 2], [3, 4]]
    file["floats"] = [1.5]
    for name, columns in (("pairs", None), ("pairs", 3), ("floats", None), ("texts", None)):
        with pytest.raises(StoreError, match=rf"{name} is .*; expected whole numbers"):
            numbers_in(file, name, columns)


def test_texts_are_texts(file):
    assert texts_in(file, "texts") == ("x", "é")
    assert texts_in(file, "texts", slice(1, 2)) == ("é",)
    with pytest.raises(StoreError, match="a/b/c is no list of texts"):
        texts_in(file, "a/b/c")


# --- attributes


def test_attributes_are_python_values(file):
    given = {"a": "é\n", "b": 3, "c": 1.5, "d": [1, 2], "e": ["x", "y"], "f": True}
    file.attrs.update(given)
    found = attributes_of(file)
    assert found == given
    assert isinstance(found["f"], bool) or found["f"] in (0, 1)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"\xff\xfe", "\\xff\\xfe"),
        ("a\udcff", "a\\xff"),
        (h5py.Empty("f4"), "Empty(dtype=dtype('float32'))"),
        (1 + 2j, "(1+2j)"),
        (np.float32(0.5), 0.5),
    ],
)
def test_what_is_no_python_value_is_told_by_its_name(value, found):
    assert plain(value) == found


def test_a_reference_is_not_followed(file):
    file.attrs["x"] = file["a"].ref
    assert attributes_of(file)["x"].startswith("<HDF5 object reference")


def test_an_attribute_longer_than_any_of_ours_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as made:
        made.attrs["x"] = np.zeros(65 << 20, dtype="u1")
        with pytest.raises(StoreError, match="attribute x of / is too long"):
            attributes_of(made)
