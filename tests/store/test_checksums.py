"""Checksums: which bytes a record speaks of, and what HDF5 is kept from looking at."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 (h5py reads zstd through it)
import numpy as np
import pytest
from tiny_traces import Shard, a_shard, extent, forget_checksums, same_bits, site, write_trace

import probekit
from probekit.errors import StoreError
from probekit.store.format.checksums import (
    FileRecord,
    check_structure,
    rest_checksum,
    stored_extents,
)
from probekit.store.format.records import write_record
from probekit.store.reading.files import open_file

SITES = (site("a"), site("b", dtype="bfloat16", row_shape=(2, 3)), site("c", rows="90:"))


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return a_shard(tmp_path, SITES).write()


def change(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x11
    path.write_bytes(data)


def outside(shard: Shard) -> list[int]:
    """Give the places of all bytes that are no site's rows."""
    taken: set[int] = set()
    for spec in shard.sites[:2]:
        offset, size = extent(shard.file, spec.name)
        taken |= set(range(offset, offset + size))
    return [at for at in range(shard.file.stat().st_size) if at not in taken]


# --- records


def test_a_record_reads_back_as_it_was_written(shard: Shard, tmp_path: Path) -> None:
    record = FileRecord.read(shard.record)
    assert record.spec == shard.spec
    assert record.file_bytes == shard.file.stat().st_size
    assert [s.rows for s in record.sites.values()] == [9, 9, 0]
    record.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == shard.record.read_bytes()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("checksum", "crc32"),
        ("sites", None),
        ("sites", {"a/output": {"rows": 3}}),
        ("sites", {"a/output": 7}),
        ("spec", {"number": 3}),
        ("rest", ...),
    ],
)
def test_a_record_of_another_kind_is_refused(shard: Shard, key: str, value: Any) -> None:
    record = json.loads(shard.record.read_text())
    record[key] = value
    write_record(shard.record, {k: v for k, v in record.items() if v is not ...})
    with pytest.raises(StoreError, match=r"00000\.json: is not a record of probekit's"):
        FileRecord.read(shard.record)


ODD: tuple[Any, ...] = ("abc", [1], {}, -1, 1.5, float("inf"), True, 2**63, None)


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(
    "place",
    [
        *(("file_bytes",), ("spec", "n_tokens"), ("spec", "n_rows", "all")),
        *(("sites", "a/output", "bytes"), ("sites", "a/output", "extents", 0, 1)),
    ],
)
def test_a_count_of_another_type_is_refused(shard: Shard, place: Any, value: Any) -> None:
    change_record(shard, place, value)
    with pytest.raises(StoreError, match=r"is not a record of probekit's: .* is no count"):
        FileRecord.read(shard.record)
    assert probekit.open(shard.file)["a"][:].shape == (9, 3)  # the file is as it was


@pytest.mark.parametrize("place", [("rest",), ("sites", "a/output", "checksum")])
def test_a_checksum_of_another_type_is_refused(shard: Shard, place: Any) -> None:
    change_record(shard, place, [1])
    with pytest.raises(StoreError, match=r"is not a record of probekit's: \[1\] is no text"):
        FileRecord.read(shard.record)


def test_rows_that_would_be_read_again_and_again_are_refused(shard: Shard) -> None:
    offset, size = extent(shard.file, "a/output")
    change_record(shard, ("sites", "a/output", "extents"), [[offset, size]] * 9)
    with pytest.raises(StoreError, match="rows lie in one another"):
        FileRecord.read(shard.record)


def change_record(shard: Shard, place: tuple[str | int, ...], value: Any) -> None:
    record = json.loads(shard.record.read_text())
    here = record
    for step in place[:-1]:
        here = here[step]
    here[place[-1]] = value
    write_record(shard.record, record)


def test_extents_are_where_the_rows_lie(shard: Shard) -> None:
    found = stored_extents(shard.file)
    assert found == {
        "a/output": (extent(shard.file, "a/output"),),
        "b/output": (extent(shard.file, "b/output"),),
        "c/output": (),
    }


@pytest.mark.parametrize("method", ["gzip", "lzf", "zstd"])
def test_extents_of_a_compressed_site_are_its_chunks(tmp_path: Path, method: str) -> None:
    made = a_shard(tmp_path, [site("a", dtype="float64", row_shape=(300,))], [1000])
    made.write(compression=method)
    with h5py.File(made.file) as file:
        dataset = file["sites/a/output"]
        chunks = [dataset.id.get_chunk_info(n) for n in range(dataset.id.get_num_chunks())]
    assert len(chunks) == 3
    wanted = tuple(sorted((c.byte_offset, c.size) for c in chunks))
    assert stored_extents(made.file) == {"a/output": wanted}


def test_a_file_that_ends_before_its_rows_is_said(shard: Shard) -> None:
    with pytest.raises(StoreError, match=r"00000\.h5: ends at byte \d+, before its rows do"):
        rest_checksum(shard.file, [(shard.file.stat().st_size - 3, 4)])


# --- before HDF5 looks


def test_a_change_of_any_byte_outside_the_rows_is_seen_before_hdf5_sees_it(shard: Shard) -> None:
    whole, places = shard.file.read_bytes(), outside(shard)
    assert len(places) > 5000
    for at in places[:: len(places) // 150]:
        change(shard.file, at)
        with (
            pytest.raises(StoreError, match=r"00000\.h5: cannot be read: it is not whole HDF5"),
            open_file(shard.file),
        ):
            pass
        shard.file.write_bytes(whole)
    check_structure(shard.file)


def test_rows_are_not_looked_at(shard: Shard) -> None:
    offset, _ = extent(shard.file, "a/output")
    change(shard.file, offset + 5)
    check_structure(shard.file)


def test_a_whole_file_is_read_once(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    check_structure(shard.file)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", None)
        check_structure(shard.file)
    os.utime(shard.file)
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(Path, "open", None)
        check_structure(shard.file)


def test_a_file_without_a_record_or_with_another_programs_is_opened(shard: Shard) -> None:
    for text in (None, "{}", '{"this_file": "0000000000000000"}', "not JSON"):
        shard.record.unlink()
        if text is not None:
            shard.record.write_text(text)
        with open_file(shard.file) as file:
            assert same_bits(file["sites/a/output"][:], shard.bits["a/output"])
        shard.record.write_text("")


def test_a_changed_index_is_not_opened(tmp_path: Path) -> None:
    made = write_trace(tmp_path, SITES)
    change(tmp_path / "trace.h5", 3000)
    with pytest.raises(StoreError, match=r"trace\.h5: cannot be read: it is not whole HDF5: .*sum"):
        probekit.open(tmp_path)
    forget_checksums(tmp_path)
    change(tmp_path / "trace.h5", 3000)  # back
    assert same_bits(probekit.open(tmp_path)["a"][:], made.wanted("a/output"))


def test_strings_of_a_changed_shard_are_not_read(tmp_path: Path) -> None:
    # Texts lie in HDF5's global heap, which has no checksum, and whose damage can make it loop.
    made = write_trace(tmp_path, SITES, texts=[f"a text, number {n}" for n in range(6)])
    trace = probekit.open(tmp_path)
    at = made.shards[1].file.read_bytes().index(b"GCOL") + 8
    change(made.shards[1].file, at)
    assert same_bits(trace["a"][:9], made.wanted("a/output")[:9]), "other shards' rows are read"
    with pytest.raises(StoreError, match=r"shards/00001\.h5: cannot be read"):
        trace.examples[3]


def test_numbers_next_to_the_structure_are_numpys(shard: Shard) -> None:
    # Guards `outside`: together with the rows it is the whole file.
    sizes = [extent(shard.file, spec.name)[1] for spec in SITES]
    assert sizes == [shard.bits[spec.name].nbytes for spec in SITES]
    assert len(outside(shard)) + int(np.sum(sizes)) == shard.file.stat().st_size
