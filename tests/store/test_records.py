"""Records: JSON files that are whole or not there, and that notice every changed byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import xxhash

from probekit.errors import StoreError
from probekit.store.format.records import read_record, write_record

VALUE: dict[str, Any] = {"a": "é", "numbers": [1, 2.5, None], "zeros": "0" * 16, "more": {"b": {}}}


def written(tmp_path: Path) -> Path:
    write_record(tmp_path / "a.json", VALUE)
    return tmp_path / "a.json"


def test_a_record_is_json_with_its_own_checksum_at_the_end(tmp_path: Path) -> None:
    path = written(tmp_path)
    value = json.loads(path.read_text(encoding="utf-8"))
    own = value.pop("this_file")
    assert value == VALUE
    head, _, tail = path.read_bytes().rpartition(own.encode())
    assert xxhash.xxh3_64(head + b"0" * 16 + tail).hexdigest() == own


def test_a_record_reads_back(tmp_path: Path) -> None:
    assert {k: v for k, v in read_record(written(tmp_path)).items() if k != "this_file"} == VALUE


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for change in (1, 0x20, 0x80, 0xFF):  # 0x20 makes another letter case, which JSON allows
            path.write_bytes(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
            with pytest.raises(StoreError, match=r"a\.json: is damaged"):
                read_record(path)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole = path.read_bytes()
    for n_bytes in range(len(whole)):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(StoreError, match=r"a\.json: is damaged"):
            read_record(path)


def test_bytes_behind_the_end_are_noticed(tmp_path: Path) -> None:
    path = written(tmp_path)
    for more in (b" ", b"\n", b"\0", b"{}"):
        path.write_bytes(written(tmp_path).read_bytes() + more)
        with pytest.raises(StoreError, match=r"a\.json: is damaged"):
            read_record(path)


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"this_file": 3}', '{"this_file": "xyz"}', "[" * 10**5]
)
def test_other_json_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(StoreError, match=r"a\.json: is damaged"):
        read_record(tmp_path / "a.json")


def test_a_record_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a\.json: cannot be read: No such file"):
        read_record(tmp_path / "a.json")
    (tmp_path / "a.json").mkdir()
    with pytest.raises(StoreError, match=r"a\.json: cannot be read: it is no plain file"):
        read_record(tmp_path / "a.json")


def test_a_record_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_record(path, {"a": object()})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("name", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(name, fail)
        write_record(tmp_path / "a.json", VALUE)
    assert list(tmp_path.iterdir()) == []
