"""Which shards of a folder are whole."""

from __future__ import annotations

from pathlib import Path

from probekit.store.sealed import sealed_shards


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_a_shard_is_whole_when_its_h5_and_its_json_are_there(tmp_path: Path) -> None:
    put(tmp_path, "shards/00000.h5", "shards/00000.json", "shards/00001.h5", "shards/00002.json")
    put(tmp_path, "shards/123456.h5", "shards/123456.json", "shards/.00004.h5.part")
    put(tmp_path, "shards/7.h5", "shards/7.json", "shards/1 (copy).json", "shards/notes.json")
    assert sealed_shards(tmp_path) == {0, 123456}


def test_a_folder_without_shards_has_none_that_are_whole(tmp_path: Path) -> None:
    assert sealed_shards(tmp_path) == frozenset()
