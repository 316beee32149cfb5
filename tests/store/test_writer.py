"""Shards: laid out, written, checksummed and sealed, as bare h5py and numpy see them."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 (h5py reads zstd through it)
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings, strategies as st
from tiny_traces import (
    ATTRIBUTES,
    Shard,
    a_shard,
    extent,
    numbers,
    same_bits,
    site,
    spec_of,
    tables_of,
)

from probekit.errors import StoreError
from probekit.store.format import owner
from probekit.store.format.checksums import FileRecord, rest_checksum
from probekit.store.format.execution import Execution, Forward
from probekit.store.format.owner import part_of
from probekit.store.writing.publishing import publish_sealed

METHODS = ("gzip", "lzf", "zstd")
MIXED = (
    site("a.0", dtype="bfloat16", row_shape=(5,)),
    site("a.0", "input", dtype="bool", row_shape=(3,)),
    site("a.1", dtype="float64", row_shape=(2, 3)),
    site("a.2", dtype="int64", row_shape=()),
    site("a.3", dtype="float16", rows="last"),
    site("a.4", dtype="uint8", rows="example"),
    site("a.5", dtype="bfloat16", rows="90:"),  # no example is as long: no rows
)
EXECUTION = Execution(
    modules=("a", "a.0"),
    orders=(np.array([[0, 1, 0], [1, 1, 1], [1, 0, 1], [0, 0, 0]], dtype="<i4"),),
    forwards=(Forward(order=0, phase="forward", examples=(0, 1, 2), n_tokens=9, seconds=0.1),),
)


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "shards").iterdir()}


def record_of(shard: Shard) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(shard.record.read_text(encoding="utf-8"))
    return value


# --- bytes


@st.composite
def any_shard(draw: st.DrawFn) -> tuple[Any, ...]:
    dtypes = ("bfloat16", "float16", "float32", "float64", "bool", "int64", "int32", "uint8")
    sites = tuple(
        site(
            f"m.{number}",
            dtype=draw(st.sampled_from(dtypes)),
            row_shape=draw(st.lists(st.integers(0, 4), max_size=3)),
            rows=draw(st.sampled_from(["all", "example", "last", "3:", "90:"])),
        )
        for number in range(draw(st.integers(1, 4)))
    )
    return sites, draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))


@settings(max_examples=40, deadline=None)
@given(any_shard())
def test_the_bits_lie_in_one_piece_at_the_datasets_offset(
    tmp_path_factory: pytest.TempPathFactory, given_shard: tuple[Any, ...]
) -> None:
    shard = a_shard(tmp_path_factory.mktemp("shard"), *given_shard).write()
    whole = shard.file.read_bytes()
    for spec in shard.sites:
        bits = shard.bits[spec.name]
        offset, size = extent(shard.file, spec.name)
        assert (size, whole[offset : offset + size]) == (bits.nbytes, bits.tobytes())
        with h5py.File(shard.file) as file:
            read = file[f"sites/{spec.name}"]
            assert read.chunks is None
            assert np.array_equal(
                read[()], numbers(bits, spec.dtype), equal_nan=spec.dtype[0] in "bf"
            )


def test_a_memory_map_at_the_offset_is_what_was_written(tmp_path: Path) -> None:
    shard = a_shard(tmp_path, [site(dtype="float32", row_shape=(7,))]).write()
    offset, _ = extent(shard.file, "block.0.mlp/output")
    mapped = np.memmap(shard.file, "<f4", "r", offset, (9, 7))
    assert mapped.tobytes() == shard.bits["block.0.mlp/output"].tobytes()


def test_offsets_are_aligned_for_every_dtype(tmp_path: Path) -> None:
    shard = a_shard(tmp_path, MIXED).write()
    assert {extent(shard.file, spec.name)[0] % 64 for spec in MIXED} == {0}


def test_rows_may_come_in_any_order_and_in_blocks_of_several_examples(tmp_path: Path) -> None:
    shard = a_shard(tmp_path, [site()], lengths=(3, 1, 5))
    rows = [shard.rows_of(0, example) for example in range(3)]
    with shard.writer() as out:
        # Behind example 2 lie two rows that nobody asked for.
        out.write(0, np.concatenate([rows[2], np.ones((2, 3), "<f4"), rows[0]]), [0, 2], [7, 0])
        out.write(0, rows[1], [1], [0])
        out.seal()
    with h5py.File(shard.file) as file:
        assert same_bits(file["sites/block.0.mlp/output"][:], shard.bits["block.0.mlp/output"])


def test_an_example_may_come_in_parts(tmp_path: Path) -> None:
    sites = [site("a"), site("b", dtype="bfloat16")]
    whole, parted = a_shard(tmp_path / "whole", sites), a_shard(tmp_path / "parted", sites)
    whole.write()
    with parted.writer() as out:
        for number in range(2):
            rows = [parted.rows_of(number, example) for example in range(3)]
            together = np.concatenate([rows[2][:2], rows[0][:1]])
            out.write(number, together, [2, 0], [0, 2], [2, 1])
            out.write(number, np.concatenate([rows[2][2:], rows[1]]), [2, 1], [0, 3], [3, 1])
            out.write(number, rows[0][:0], [0], [0], [0])
            out.write(number, rows[0][1:], [0], [0], [2])
        out.seal()
    assert parted.file.read_bytes() == whole.file.read_bytes()
    assert record_of(parted) == record_of(whole)


def test_equal_rows_make_equal_files(tmp_path: Path) -> None:
    one, two = (a_shard(tmp_path / name, MIXED).write(EXECUTION) for name in ("one", "two"))
    assert one.file.read_bytes() == two.file.read_bytes()
    assert one.record.read_bytes() == two.record.read_bytes()


def test_hdf5_1_10_can_open_a_shard(tmp_path: Path) -> None:
    # Version 3 of the superblock came with HDF5 1.10, version 2 with 1.8.
    for number, method in enumerate([None, *METHODS]):
        shard = a_shard(tmp_path / str(number), MIXED).write(compression=method)
        assert shard.file.read_bytes()[8] <= 3


# --- tables and attributes


def test_bare_h5py_reads_the_tables(tmp_path: Path) -> None:
    shard = a_shard(
        tmp_path, [site(rows="last"), site("b", rows="0,-1")], (3, 1, 5), texts=["a", "b", "ç"]
    )
    shard.write()
    with h5py.File(shard.file) as file:
        assert list(file["examples/id"].asstr()) == ["id-0", "id-1", "id-2"]
        assert list(file["examples/text"].asstr()) == ["a", "b", "ç"]
        assert file["examples/first_token"][:].tolist() == [0, 3, 4]
        assert file["examples/n_tokens"][:].tolist() == [3, 1, 5]
        assert file["tokens/id"][:].tolist() == list(range(9))
        assert file["tokens/position"][:].tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4]
        assert file["tokens/example"][:].tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]
        assert file["rows/last"][:].tolist() == [2, 3, 8]
        assert file["rows/0,-1"][:].tolist() == [0, 2, 3, 4, 8]
        assert [list(file[t].attrs["axes"]) for t in ("examples/id", "tokens/id", "rows/last")] == [
            *(["example"], ["token"], ["row"]),
        ]


def test_a_later_shard_counts_examples_and_tokens_from_the_runs_start(tmp_path: Path) -> None:
    shard, sites = a_shard(tmp_path, lengths=(2, 1)), [site(rows="last")]
    places: dict[str, int] = {"number": 3, "first_example": 10, "first_token": 40}
    shard.sites, shard.spec = tuple(sites), spec_of((2, 1), sites, **places)
    shard.tables = tables_of((2, 1), sites, range(3), first_token=40)
    shard.bits = {sites[0].name: np.zeros((2, 3), "<f4")}
    shard.write()
    assert names(tmp_path) == {"00003.h5", "00003.json"}
    with h5py.File(shard.file) as file:
        attributes = [file.attrs[name] for name in ("shard", "first_example", "first_token")]
        assert attributes == [3, 10, 40]
        assert file["examples/first_token"][:].tolist() == [40, 42]
        assert file["tokens/example"][:].tolist() == [10, 10, 11]
        assert file["tokens/position"][:].tolist() == [0, 1, 0]
        assert file["rows/last"][:].tolist() == [41, 42]


def test_a_site_carries_its_attributes(tmp_path: Path) -> None:
    spec = site(layer=3, portable="mlp_out", details={"heads": [0, 7], "einops": "a b -> b"})
    shard = a_shard(tmp_path, [spec]).write()
    with h5py.File(shard.file) as file:
        found = dict(file["sites/block.0.mlp/output"].attrs)
    assert list(found.pop("axes")) == ["token", "d_0"]
    assert found.pop("heads").tolist() == [0, 7]
    assert found == {
        "rows": "all",
        "layer": 3,
        "portable": "mlp_out",
        "module_class": "Linear",
        "dtype": "float32",
        "source_dtype": "float32",
        "probe": 0,
        "einops": "a b -> b",
    }


def test_attributes_of_the_file_are_the_runs_and_the_shards(tmp_path: Path) -> None:
    shard = a_shard(tmp_path)
    with shard.writer({"seed": 3}) as out:
        shard.fill(out)
        out.seal(times={"generate_naive_s": 2.5})
    with h5py.File(shard.file) as file:
        found = dict(file.attrs)
    assert found == {"seed": 3, "shard": 0, "first_example": 0, "first_token": 0}
    made = json.loads(shard.file.with_name("00000.made.json").read_text())
    assert made["generate"] == {"generate_naive_s": 2.5}


@pytest.mark.parametrize("method", [None, "gzip"])
def test_attributes_longer_than_64_kib_can_be_stored(tmp_path: Path, method: str | None) -> None:
    config = "".join(f"- text number {n}, ça va\n" for n in range(10_000))
    neurons = np.arange(20_000)
    spec = site(details={"neurons": neurons})
    shard = a_shard(tmp_path, [spec])
    shard.write(attributes={**ATTRIBUTES, "config": config}, compression=method)
    with h5py.File(shard.file) as file:
        assert file.attrs["config"] == config
        assert np.array_equal(file["sites/block.0.mlp/output"].attrs["neurons"], neurons)


def test_texts_may_be_empty_very_long_or_of_any_script(tmp_path: Path) -> None:
    texts = ["", "日本語 🙂 ‮ \ud7ff\ue000", "x" * 3_000_000]
    shard = a_shard(tmp_path, texts=texts).write()
    with h5py.File(shard.file) as file:
        assert list(file["examples/text"].asstr()) == texts


def test_a_shard_may_hold_a_thousand_sites(tmp_path: Path) -> None:
    sites = [site(f"h.{n}.mlp", kind) for n in range(500) for kind in ("input", "output")]
    shard = a_shard(tmp_path, sites, (2,)).write()
    assert len(record_of(shard)["sites"]) == 1000
    with h5py.File(shard.file) as file:
        for name in ("h.0.mlp/input", "h.499.mlp/output"):
            assert same_bits(file[f"sites/{name}"][:], shard.bits[name])


def test_the_execution_lies_in_the_shard(tmp_path: Path) -> None:
    shard = a_shard(tmp_path).write(EXECUTION)
    with h5py.File(shard.file) as file:
        assert list(file["execution/modules"].asstr()) == ["a", "a.0"]
        assert np.array_equal(file["execution/orders/0"][:], EXECUTION.orders[0])
        assert "forwards" not in file["execution"]
    made = json.loads(shard.file.with_name("00000.made.json").read_text())
    assert made["forwards"]["n_tokens"] == [9]


# --- what is sealed


def test_a_sealed_shard_is_an_h5_and_a_json(tmp_path: Path) -> None:
    a_shard(tmp_path).write()
    assert names(tmp_path) == {"00000.h5", "00000.json"}


def test_nothing_has_the_shards_name_before_it_is_sealed(tmp_path: Path) -> None:
    shard = a_shard(tmp_path)
    with shard.writer() as out:
        shard.fill(out)
        assert not {"00000.h5", "00000.json"} & names(tmp_path)
        out.seal()


def extents_of(shard: Shard, name: str) -> list[list[int]]:
    """Ask bare h5py where a site's bytes lie: in one piece, or in chunks."""
    with h5py.File(shard.file) as file:
        dataset = file[f"sites/{name}"]
        if not dataset.size:
            return []
        if dataset.chunks is None:
            return [[dataset.id.get_offset(), dataset.id.get_storage_size()]]
        numbers = range(dataset.id.get_num_chunks())
        chunks = [dataset.id.get_chunk_info(n) for n in numbers]
    return sorted([chunk.byte_offset, chunk.size] for chunk in chunks)


def stored_checksum(shard: Shard, name: str) -> str:
    whole = shard.file.read_bytes()
    pieces = [whole[offset : offset + size] for offset, size in extents_of(shard, name)]
    return xxhash.xxh3_64(b"".join(pieces)).hexdigest()


@pytest.mark.parametrize("method", [None, *METHODS])
def test_the_json_says_rows_bytes_and_checksums(tmp_path: Path, method: str | None) -> None:
    shard = a_shard(tmp_path, MIXED).write(EXECUTION, compression=method)
    record = record_of(shard)
    assert record.pop("rest") and record.pop("this_file")
    assert record == {
        "spec": shard.spec.to_json(),
        "file_bytes": shard.file.stat().st_size,
        "checksum": "xxh3_64",
        "is_timed": True,
        "sites": {
            spec.name: {
                "rows": len(shard.bits[spec.name]),
                "bytes": shard.bits[spec.name].nbytes,
                "checksum": shard.checksum(spec.name),
                "extents": extents_of(shard, spec.name),
                "stored": method and stored_checksum(shard, spec.name),
            }
            for spec in MIXED
        },
    }


@pytest.mark.parametrize("method", [None, *METHODS])
def test_rest_is_the_checksum_of_every_byte_outside_the_sites(
    tmp_path: Path, method: str | None
) -> None:
    shard = a_shard(tmp_path, MIXED).write(EXECUTION, compression=method)
    outside = bytearray(shard.file.read_bytes())
    extents = [extent for spec in MIXED for extent in extents_of(shard, spec.name)]
    for offset, size in sorted(extents, reverse=True):
        del outside[offset : offset + size]
    assert record_of(shard)["rest"] == xxhash.xxh3_64(bytes(outside)).hexdigest()


@pytest.mark.parametrize("missing", [(0, 0), (1, 2)])
def test_a_shard_with_a_missing_row_is_not_sealed(tmp_path: Path, missing: tuple[int, int]) -> None:
    shard = a_shard(tmp_path, [site("a"), site("b", rows="last")])
    with shard.writer() as out:
        shard.fill(out, without=[missing])
        name = "ab"[missing[0]]
        with pytest.raises(StoreError, match=rf"never came.*{name}/output \(1 of 3 examples\)"):
            out.seal()
        assert "00000.json" not in names(tmp_path)
    assert not names(tmp_path)


def test_a_shard_with_a_part_of_an_example_is_not_sealed(tmp_path: Path) -> None:
    shard = a_shard(tmp_path, lengths=(3,))
    with shard.writer() as out:
        out.write(0, shard.rows_of(0, 0)[:2], [0], [0], [2])
        with pytest.raises(StoreError, match=r"shard 0: rows .* never came.*1 of 1 example"):
            out.seal()


def test_an_example_without_rows_need_not_come(tmp_path: Path) -> None:
    shard = a_shard(tmp_path, [site(rows="3:")], lengths=(2, 5))
    with shard.writer() as out:
        shard.fill(out, without=[(0, 0)])
        out.seal()
    record = record_of(shard)["sites"]["block.0.mlp/output"]
    assert (record["rows"], record["checksum"]) == (2, shard.checksum("block.0.mlp/output"))


# --- what is refused


def refused(tmp_path: Path, message: str, **given: Any) -> None:
    """Write one block into a shard of two examples of 2 and 3 rows."""
    shard = a_shard(tmp_path, lengths=(2, 3))
    block = given.pop("block", np.zeros((5, 3), dtype="<f4"))
    with shard.writer() as out, pytest.raises(StoreError, match=message):
        out.write(0, block, **{"examples": [0, 1], "starts": [0, 2], **given})


def test_an_example_that_comes_twice_is_refused(tmp_path: Path) -> None:
    refused(
        tmp_path,
        r"block\.0\.mlp/output: example 0 of the shard has 2 rows; 2 were there when 2 more came",
        examples=[0, 0],
    )


def test_more_rows_than_planned_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "has 2 rows; 0 were there when 3 more came", n_rows=[3, 2])


def test_a_block_with_too_few_rows_is_refused(tmp_path: Path) -> None:
    refused(
        tmp_path, "example 1 of the shard has 3 rows to write, the block holds 2", starts=[0, 3]
    )


@pytest.mark.parametrize(
    "block",
    [
        np.zeros((5, 4), "<f4"),
        np.zeros((5, 1, 3), "<f4"),
        np.zeros((5, 3), "<f8"),
        np.zeros((5, 3), ">f4"),
        np.zeros((5, 3), "<i4"),
    ],
    ids=["width", "axes", "float64", "big-endian", "int32"],
)
def test_rows_of_another_shape_or_dtype_are_refused(
    tmp_path: Path, block: np.ndarray[Any, Any]
) -> None:
    refused(tmp_path, r"the plan says rows of \[3\] float32 .* given ", block=block)


def test_bfloat16_rows_come_as_16_bit_integers(tmp_path: Path) -> None:
    shard = a_shard(tmp_path, [site(dtype="bfloat16")], lengths=(2,))
    with shard.writer() as out, pytest.raises(StoreError, match=r"bfloat16 \(uint16\), given .*16"):
        out.write(0, np.zeros((2, 3), "<f2"), [0], [0])


def test_rows_that_lie_apart_in_memory_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "C-contiguous", block=np.zeros((3, 5), "<f4").T)


# --- errors leave nothing behind


def test_an_error_inside_the_block_removes_what_was_written(tmp_path: Path) -> None:
    shard = a_shard(tmp_path)
    with pytest.raises(ZeroDivisionError), shard.writer() as out:
        shard.fill(out)
        assert names(tmp_path) == {part_of(shard.file).name}
        raise ZeroDivisionError
    assert not names(tmp_path)


def test_a_block_that_is_left_unsealed_leaves_nothing(tmp_path: Path) -> None:
    shard = a_shard(tmp_path)
    with shard.writer() as out:
        shard.fill(out)
    assert not names(tmp_path)


def test_a_shard_that_cannot_be_laid_out_leaves_nothing(tmp_path: Path) -> None:
    shard = a_shard(tmp_path, texts=["a", "b", "a NUL: \0"])
    with pytest.raises(ValueError, match="NULL"), shard.writer():
        pass
    assert not names(tmp_path)


def test_an_error_while_sealing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)  # as if it were not installed
    shard = a_shard(tmp_path)
    with pytest.raises(StoreError, match=r"needs the hdf5plugin .* choose gzip or lzf"):
        shard.write(compression="zstd")
    assert not names(tmp_path)


def full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_an_error_that_names_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = a_shard(tmp_path)
    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(StoreError, match=r"00000\.h5: cannot be written: No space left"):
        shard.write()
    assert not names(tmp_path)


def test_a_disk_that_is_full_when_the_shard_is_sealed_seals_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = a_shard(tmp_path)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match=r"00000\.h5: cannot be written: No space left"):
        shard.write()
    assert "00000.json" not in names(tmp_path)


@pytest.mark.parametrize("n_named", [0, 1, 2])
def test_a_json_never_stands_without_its_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_named: int
) -> None:
    plain, left = Path.hardlink_to, iter(range(n_named))

    def link(path: Path, target: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        plain(path, target)

    monkeypatch.setattr(Path, "hardlink_to", link)
    try:
        a_shard(tmp_path).write()
    except KeyboardInterrupt:
        assert n_named < 2
    assert (n_named == 2) == ("00000.json" in names(tmp_path))
    assert "00000.h5" in names(tmp_path) or "00000.json" not in names(tmp_path)


# --- two that seal the same shard


@contextmanager
def on_host(who: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as other:
        other.setattr(owner, "_host", lambda: f"host{who}")
        yield


def sealed_by(shard: Any, who: int) -> Any:
    """A writer on a host of its own with every row in it, one step before it seals."""
    with on_host(who):
        out = shard.writer({"who": who})
    out.__enter__()
    shard.fill(out)
    return out


def test_of_two_that_seal_a_shard_the_second_discards_its_own(tmp_path: Path) -> None:
    shard = a_shard(tmp_path)
    first, second = sealed_by(shard, 1), sealed_by(shard, 2)
    first.seal()
    before = {
        name: (tmp_path / "shards" / name).read_bytes() for name in ("00000.h5", "00000.json")
    }
    second.seal()
    for out in (first, second):
        out.__exit__(None, None, None)
    assert {n: (tmp_path / "shards" / n).read_bytes() for n in before} == before
    assert names(tmp_path) == {"00000.h5", "00000.json"}


@pytest.mark.parametrize("equal", [True, False])
def test_a_file_without_a_record_is_replaced_before_the_record_appears(
    tmp_path: Path, equal: bool
) -> None:
    shard = a_shard(tmp_path)
    if equal:
        shard.write(attributes={"who": 2})
        left = shard.file.read_bytes()
        shard.file.with_suffix(".json").unlink()
    else:
        shard.file.parent.mkdir()
        left = b"of a process that died"
        shard.file.write_bytes(left)
    out = sealed_by(shard, 2)
    out.seal()
    out.__exit__(None, None, None)
    assert (shard.file.read_bytes() == left) == equal
    assert FileRecord.read(shard.file.with_suffix(".json")).file_bytes == shard.file.stat().st_size
    with h5py.File(shard.file) as file:
        assert file.attrs["who"] == 2
    assert names(tmp_path) == {"00000.h5", "00000.json"}


def test_a_record_that_comes_in_between_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has named its file, the second replaces it, and then the first's record appears."""
    shard = a_shard(tmp_path)
    first, second = sealed_by(shard, 1), sealed_by(shard, 2)
    plain, steps = Path.hardlink_to, []

    def link(path: Path, target: Path) -> None:
        steps.append(path.name)
        if path.name == "00000.json" and steps.count("00000.json") == 1:
            with on_host(2):
                second.seal()  # up to its own record, which comes first: it replaced the file
            assert (tmp_path / "shards" / "00000.json").exists()
        plain(path, target)

    monkeypatch.setattr(Path, "hardlink_to", link)
    first.seal()
    for out in (first, second):
        out.__exit__(None, None, None)
    record = FileRecord.read(shard.file.with_suffix(".json"))
    rest = rest_checksum(shard.file, record.extents)
    assert (rest, shard.file.stat().st_size) == (record.rest, record.file_bytes)
    assert names(tmp_path) == {"00000.h5", "00000.json"}


def test_of_three_with_two_kinds_of_bytes_those_stay_that_the_record_is_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each comes while the one before is about to write its record; the first one's appears."""
    path, records = tmp_path / "00000.h5", {}
    for who, kind in ((1, "A"), (2, "B"), (3, "A")):
        (tmp_path / f"part-{who}").write_text(kind)
        records[who] = FileRecord(file_bytes=1, rest=kind, sites={})
    plain, begun = FileRecord.write, []

    def publish(who: int) -> None:
        begun.append(who)
        with on_host(who):
            publish_sealed(tmp_path / f"part-{who}", path, records[who])

    def write(record: FileRecord, at: Path, *, only_first: bool = False) -> bool:
        if len(begun) < 3:
            publish(len(begun) + 1)
        else:
            plain(records[1], at, only_first=True)
        return plain(record, at, only_first=only_first)

    monkeypatch.setattr(FileRecord, "write", write)
    publish(1)
    assert begun == [1, 2, 3]
    assert FileRecord.read(tmp_path / "00000.json").rest == path.read_text() == "A"


def test_where_there_are_no_hard_links_files_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    a_shard(tmp_path).write()
    assert names(tmp_path) == {"00000.h5", "00000.json"}


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("a file")
    with pytest.raises(StoreError, match=r"shards/00000\.h5: cannot be written"):
        a_shard(tmp_path).write()


def test_one_write_may_take_several_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Callable[..., int] = os.pwrite
    monkeypatch.setattr("os.pwrite", lambda fd, data, at: plain(fd, data[:5], at))
    shard = a_shard(tmp_path).write()
    monkeypatch.undo()
    with h5py.File(shard.file) as file:
        assert same_bits(file["sites/block.0.mlp/output"][:], shard.bits["block.0.mlp/output"])


# --- compression


@pytest.mark.parametrize("method", METHODS)
def test_a_compressed_shard_holds_the_same_numbers(tmp_path: Path, method: str) -> None:
    shard = a_shard(tmp_path, MIXED).write(EXECUTION, compression=method)
    with h5py.File(shard.file) as file:
        for spec in MIXED:
            dataset, bits = file[f"sites/{spec.name}"], shard.bits[spec.name]
            raw = np.empty_like(bits)
            if bits.size:
                assert dataset.chunks is not None
                dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, raw, mtype=dataset.id.get_type())
            assert raw.tobytes() == bits.tobytes()
            assert np.array_equal(dataset[()], numbers(bits, spec.dtype), equal_nan=bool(bits.size))


@pytest.mark.parametrize("method", METHODS)
def test_compression_changes_nothing_but_the_layout(tmp_path: Path, method: str) -> None:
    plain = a_shard(tmp_path / "plain", MIXED).write(EXECUTION)
    packed = a_shard(tmp_path / "packed", MIXED).write(EXECUTION, compression=method)
    with h5py.File(plain.file) as one, h5py.File(packed.file) as two:
        one.visit(lambda name: assert_alike(one[name], two[name]))
        assert_alike(one, two)
        found: list[str] = []
        two.visit(found.append)
        one.visit(found.remove)
        assert not found


def assert_alike(one: Any, two: Any) -> None:
    assert {k: np.array(v).tolist() for k, v in one.attrs.items()} == {
        k: np.array(v).tolist() for k, v in two.attrs.items()
    }
    if isinstance(one, h5py.Dataset):
        assert one.id.get_type() == two.id.get_type()
        assert repr(one[()]) == repr(two[()])


def test_equal_rows_compress_to_a_smaller_file(tmp_path: Path) -> None:
    sizes = []
    for method in (None, *METHODS):
        shard = a_shard(tmp_path / str(method), [site(row_shape=(500,))], (100,))
        shard.bits["block.0.mlp/output"][:] = 1.5
        sizes.append(shard.write(compression=method).file.stat().st_size)
    assert all(size < sizes[0] / 4 for size in sizes[1:])


def test_chunks_of_a_compressed_site_stay_near_a_mebibyte(tmp_path: Path) -> None:
    shard = a_shard(tmp_path, [site(row_shape=(1000,), dtype="float64")], (300,))
    shard.write(compression="lzf")
    with h5py.File(shard.file) as file:
        rows, width = file["sites/block.0.mlp/output"].chunks
    assert width == 1000
    assert 2**19 < rows * width * 8 <= 2**20
