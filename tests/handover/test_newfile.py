"""A new file: whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_traces import Made, site, write_trace

import probekit
from probekit.errors import StoreError
from probekit.handover import newfile
from probekit.handover.newfile import Copied, Part, new_file, refuse_full_disk, write_parts


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_gets_its_name_when_the_block_is_done(tmp_path: Path) -> None:
    with new_file(tmp_path / "a", overwrite=False) as part:
        part.write_bytes(b"whole")
        assert names(tmp_path) == [part.name] and part.name.startswith(".a.")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_an_error_leaves_nothing_and_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(KeyError), new_file(tmp_path / "a", overwrite=True) as part:
        part.write_bytes(b"ne")
        raise KeyError
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_what_is_there_is_replaced_only_when_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    says = (
        r"a: exists; give another name, or overwrite it \(--overwrite; in Python overwrite=True\)"
    )
    with pytest.raises(StoreError, match=says), new_file(tmp_path / "a", overwrite=False):
        pass
    with new_file(tmp_path / "a", overwrite=True) as part:
        part.write_bytes(b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_places_that_are_none_are_said(tmp_path: Path) -> None:
    run = write_trace(tmp_path / "run").folder
    (run / "run.json").write_text("{}")
    for path, says in (
        (tmp_path, "is a folder; give the name of a file, such as"),
        (tmp_path / "no" / "a", "there is no folder .*no; make it first"),
        (run / "a.h5", "lies in the folder of a run, .*run, which holds that run's files"),
        (run / "shards" / "00000.h5", "lies in the folder of a run, .*run, which"),
    ):
        with pytest.raises(StoreError, match=says), new_file(path, overwrite=True):
            pass


def test_a_disk_that_refuses_is_said_and_nothing_stays(tmp_path: Path) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    says = "a: cannot be written: No space left on device"
    with pytest.raises(StoreError, match=says), new_file(tmp_path / "a", overwrite=False) as part:
        part.write_bytes(b"half")
        full()
    assert names(tmp_path) == []


def test_more_than_the_disk_has_is_refused_beforehand(tmp_path: Path) -> None:
    refuse_full_disk(tmp_path / "a", 1000)
    with pytest.raises(StoreError, match=r"takes 1048576.0 GiB, and [\d.]+ GiB are free there"):
        refuse_full_disk(tmp_path / "a", 2**50)


@pytest.mark.parametrize("piece_bytes", [1, 50, 2**20])
def test_rows_are_written_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(newfile, "_PIECE_BYTES", piece_bytes)
    made: Made = write_trace(tmp_path, [site(dtype="bfloat16"), site("half", dtype="float16")])
    trace = probekit.open(tmp_path)
    sixteen, half = trace["block.0.mlp"], trace["half"]
    n_bytes = 21 * 3
    parts = [
        Part(rows=sixteen, dtype="bfloat16", offset=10),
        Part(rows=sixteen, dtype="float32", offset=10 + 2 * n_bytes),
        Part(rows=half, dtype="float32", offset=10 + 6 * n_bytes),
    ]
    seen: list[Copied] = []
    (tmp_path / "a").write_bytes(bytes(10))
    write_parts(tmp_path / "a", parts, seen.append)
    raw = (tmp_path / "a").read_bytes()[10:]
    assert raw[: 2 * n_bytes] == made.bits["block.0.mlp/output"].tobytes()
    assert raw[2 * n_bytes : 6 * n_bytes] == made.wanted("block.0.mlp/output").tobytes()
    with np.errstate(invalid="ignore"):
        wide = made.bits["half/output"].astype("<f4")
    assert raw[6 * n_bytes :] == wide.tobytes()
    assert seen[-1].n_bytes == seen[-1].total_bytes == 10 * n_bytes
    assert [c.n_bytes for c in seen] == sorted({c.n_bytes for c in seen})
    rows_of = {1: 1, 50: 8, 2**20: 21}[piece_bytes]  # bfloat16: 6 bytes a row
    assert seen[0].n_bytes == 6 * rows_of
