"""Rows kept of a stream, damaged in every way: all of them come, or one message says what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import xxhash

from probekit.errors import ConfigError, StoreError
from probekit.inputs.datasets import streaming
from probekit.inputs.datasets.streaming import Source, read_once

ROWS = [{"text": f"téxt {n}\n", "label": n % 3} for n in range(20)]
KEPT = 12
OTHER = [{"text": "another's", "label": 7}] * 20


class Lines:
    """A source that knows where it is, and fails behind some row."""

    def __init__(self, rows: list[dict[str, Any]], fail: int | None = None) -> None:
        self.rows, self.fail, self.next = rows, fail, 0

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while self.next < len(self.rows):
            if self.next == self.fail:
                raise ConnectionError("the line is dead")
            self.next += 1
            yield self.rows[self.next - 1]


def source(folder: Path, digest: str = "ours") -> Source:
    return Source(
        name="lines",
        where="c.yaml:3: inputs.dataset",
        files=(),
        digest=digest,
        folder=folder,
        where_folder="c.yaml:9: store.path",
    )


def read(folder: Path, rows: Any = ROWS, fail: int | None = None, digest: str = "ours") -> Any:
    return [*read_once(source(folder, digest), lambda: Lines(rows, fail), lambda row: row)]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 12 rows and two marks, behind which a source failed."""
    monkeypatch.setattr(streaming, "_ROWS", 5)
    with pytest.raises(ConfigError, match=r"failed after 12 rows.*the same command goes on from"):
        read(tmp_path / "run", fail=KEPT)
    file = tmp_path / "run/inputs.partial"
    assert [line[17:18] for line in file.read_bytes().splitlines()].count(b"s") == 2
    return file


def line(kind: str, said: bytes) -> bytes:
    """Write a line as one would who knows how they are written."""
    data = kind.encode() + said
    return xxhash.xxh3_64_hexdigest(data).encode() + b" " + data + b"\n"


def test_cut_anywhere_it_goes_on_with_every_row(kept):
    whole = kept.read_bytes()
    for end in range(0, len(whole), 10):
        kept.write_bytes(whole[:end])
        assert read(kept.parent) == ROWS, end
    kept.write_bytes(b"")
    assert read(kept.parent) == ROWS


def test_with_any_byte_another_it_goes_on_with_every_row(kept):
    whole, draw = kept.read_bytes(), Random(0)
    for at in range(0, len(whole), 10):
        data = bytearray(whole)
        data[at : at + draw.choice([1, 3, 60])] = draw.randbytes(draw.choice([1, 2, 90]))
        kept.write_bytes(data)
        assert read(kept.parent) == ROWS, at


def test_noise_and_another_run_s_rows_are_read_anew(kept, tmp_path):
    whole = kept.read_bytes()
    with pytest.raises(ConfigError, match="failed after 14 rows"):
        read(tmp_path / "other", OTHER, fail=14, digest="theirs")
    others = (tmp_path / "other/inputs.partial").read_bytes()
    noise = Random(1).randbytes(5000)
    for data in (others, others + whole, noise, noise + whole, bytes(4096), b"\n" * 99, whole[1:]):
        kept.write_bytes(data)
        assert read(kept.parent) == ROWS
    kept.write_bytes(whole + others)  # behind ours nothing of theirs is taken
    assert read(kept.parent) == ROWS


HEAD = line("h", json.dumps("ours").encode())
FIRST = line("r", json.dumps(ROWS[0]).encode())
FORGED = {
    "a row that is no JSON": line("r", b"{broken"),
    "a row that is no mapping": line("r", b"[1]"),
    "a row that is no text": line("r", b"\xff\xfe"),
    "a row too deep to be read": line("r", b"[" * 100_000 + b"]" * 100_000),
    "a number too long to be read": line("r", b'{"text": ' + b"9" * 10_000 + b"}"),
    "a mark that is no JSON": line("s", b"{broken"),
    "a mark without a version": line("s", b"5"),
    "a mark of three": line("s", b'["1", "2", "3"]'),
    "a mark too deep to be read": line("s", b"[" * 100_000 + b"]" * 100_000),
    "a mark that leads nowhere": line("s", json.dumps([streaming._version(), {}]).encode()),
    "a mark of another kind": line("s", json.dumps([streaming._version(), 5]).encode()),
    "a line of no kind": line("x", b"1"),
    "a second head": HEAD,
}


@pytest.mark.parametrize("what", FORGED)
def test_a_line_that_nobody_here_wrote_counts_as_never_kept(tmp_path, what):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/inputs.partial").write_bytes(HEAD + FIRST + FORGED[what])
    assert read(tmp_path / "run") == ROWS
    assert read(tmp_path / "run", OTHER) == ROWS, "what is kept now is whole"


def test_rows_that_the_source_does_not_give_are_refused_in_one_message(tmp_path):
    (tmp_path / "run").mkdir()
    row = line("r", b'{"text": "never said", "label": 1}')
    (tmp_path / "run/inputs.partial").write_bytes(HEAD + FIRST + row)
    with pytest.raises(ConfigError, match=r"lines is not what it was: row 1 .*remove that file"):
        read(tmp_path / "run")


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_of_ours_is_refused_in_one_message(tmp_path, kind):
    (tmp_path / "run").mkdir()
    (tmp_path / "secret").write_text("kept")
    file = tmp_path / "run/inputs.partial"
    if kind == "folder":
        file.mkdir()
    elif kind == "link":
        file.symlink_to(tmp_path / "secret")
    else:
        os.mkfifo(file)
    with pytest.raises(StoreError, match=r"inputs\.partial"):
        read(tmp_path / "run")
    assert (tmp_path / "secret").read_text() == "kept"
