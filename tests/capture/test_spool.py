"""Spool: rows that wait for their shard."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from tiny_traces import a_shard, site

from probekit.capture.rows.spool import Spool
from probekit.errors import StoreError

SITES = (site("a"), site("b", dtype="bfloat16", row_shape=(2, 3)))


def test_rows_that_waited_make_the_same_shard(tmp_path: Path) -> None:
    direct, waited = (a_shard(tmp_path / name, SITES) for name in ("direct", "waited"))
    direct.write()
    with Spool(tmp_path / "waited" / "shards", SITES) as spool:
        for row in range(5):  # row after row, of all examples at once
            for number in range(2):
                examples = [e for e, n in enumerate((3, 1, 5)) if row < n]
                rows = np.concatenate([waited.rows_of(number, e)[row : row + 1] for e in examples])
                ones = [1] * len(examples)
                spool.write(number, rows, examples, range(len(examples)), ones)
        with waited.writer() as out:
            spool.copy_into(out)
            out.seal()
    assert waited.file.read_bytes() == direct.file.read_bytes()
    assert {p.name for p in (tmp_path / "waited" / "shards").iterdir()} == {
        *("00000.h5", "00000.json"),
    }


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = np.zeros((1000, 3), "<f4")
    message = r"shards: cannot be written: File too large"
    try:
        with pytest.raises(StoreError, match=message), Spool(tmp_path / "shards", SITES) as spool:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
            spool.write(0, rows, [0], [0], [1000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("a file")
    with pytest.raises(StoreError, match=r"shards: cannot be written: File exists"):
        Spool(tmp_path / "shards", SITES)
