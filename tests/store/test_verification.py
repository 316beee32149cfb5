"""Verify: whatever happens to a byte or a file of a run is found and named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 (h5py reads zstd through it)
import pytest
from tiny_traces import LENGTHS, Made, extent, site, write_trace

import probekit
from probekit.errors import StoreError
from probekit.store.format.checksums import FileRecord, rest_checksum
from probekit.store.format.records import write_record
from probekit.store.runrecord import RunRecord
from probekit.store.verdict import Verdict
from probekit.store.verification import index_is_whole, sealed_damages, verify

SITES = (
    site("h.0", dtype="bfloat16", row_shape=(40,)),
    site("h.1", rows="last"),
    site("h.2", rows="example"),
    site("h.3", rows="3:"),
    site("h.4", rows="90:"),  # no rows
)


@dataclass
class Run:
    made: Made

    @property
    def folder(self) -> Path:
        return self.made.folder

    def damages(self) -> list[tuple[str, str | None]]:
        return [(d.file, d.site) for d in verify(self.folder).damages]


def a_run(folder: Path, *, seed: int = 0, **options: Any) -> Run:
    """Write a whole run's folder: shards, index and run.json that agree with each other."""
    shards = [s.spec.to_json() for s in write_trace(folder, SITES).shards]
    shutil.rmtree(folder)
    record = RunRecord(identity={"shards": shards, "seed": seed}, provenance={})
    attributes = {"probekit_format": 1, "run_digest": record.digest}
    made = write_trace(folder, SITES, seed=seed, attributes=attributes, **options)
    write_record(folder / "run.json", record.to_json())
    return Run(made)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return a_run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def run(whole: Run, tmp_path: Path) -> Run:
    """A run of its own for each test, which may damage it."""
    return Run(whole.made.copied(tmp_path / "run"))


def change(path: Path, at: int, by: int = 0x40) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= by
    path.write_bytes(data)


@pytest.mark.parametrize("method", [None, "gzip", "lzf", "zstd"])
def test_a_run_that_nothing_happened_to_is_whole(tmp_path: Path, method: str | None) -> None:
    run = a_run(tmp_path / "run", compression=method)
    verdict = verify(run.folder)
    assert verdict.whole and verdict.damages == () and verdict.damaged_shards == ()
    files = [*run.folder.glob("shards/*.h5"), run.folder / "trace.h5"]
    assert (verdict.n_shards, verdict.n_bytes) == (3, sum(f.stat().st_size for f in files))
    assert sealed_damages(run.folder, sums=True) == []
    assert index_is_whole(run.folder, sums=True)


# --- bytes


@pytest.mark.few(5)
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("name", [s.name for s in SITES[:4]])
def test_a_changed_row_names_its_shard_and_its_site(run: Run, number: int, name: str) -> None:
    shard = run.made.shards[number]
    offset, size = extent(shard.file, name)
    for at in {offset, offset + size // 2, offset + size - 1} if size else ():
        change(shard.file, at)
        assert run.damages() == [(f"shards/0000{number}.h5", name)]
        change(shard.file, at)
    assert run.damages() == []


@pytest.mark.parametrize("method", ["gzip", "lzf", "zstd"])
def test_a_changed_byte_of_a_compressed_row_names_its_site(tmp_path: Path, method: str) -> None:
    run = a_run(tmp_path / "run", compression=method)
    shard = run.made.shards[2]
    with h5py.File(shard.file) as file:
        chunk = file["sites/h.0/output"].id.get_chunk_info(0)
    for at in (chunk.byte_offset, chunk.byte_offset + chunk.size - 1):
        change(shard.file, at)
        assert run.damages() == [("shards/00002.h5", "h.0/output")]
        change(shard.file, at)


def test_a_changed_byte_outside_the_rows_names_its_shard(run: Run) -> None:
    shard = run.made.shards[1]
    for at in (0, 9, 500, shard.file.read_bytes().index(b"text 3"), shard.file.stat().st_size - 1):
        change(shard.file, at)
        assert run.damages() == [("shards/00001.h5", None)]
        change(shard.file, at)


def test_every_changed_byte_of_a_file_is_found(run: Run) -> None:
    chance = Random(0)
    files = [p for p in sorted(run.folder.rglob("*")) if p.is_file()]
    assert len(files) == 9
    for path in files:
        for _ in range(8):
            at = chance.randrange(path.stat().st_size)
            by = chance.randint(1, 255)
            change(path, at, by)
            name = str(path.relative_to(run.folder))
            assert name in {file for file, _ in run.damages()}, (name, at, by)
            change(path, at, by)
    assert run.damages() == []


def test_several_damages_are_all_named(run: Run) -> None:
    for number, name in ((0, "h.0/output"), (0, "h.2/output"), (2, "h.1/output")):
        file = run.made.shards[number].file
        change(file, extent(file, name)[0])
    change(run.folder / "trace.h5", 100)
    assert run.damages() == [
        ("shards/00000.h5", "h.0/output"),
        ("shards/00000.h5", "h.2/output"),
        ("shards/00002.h5", "h.1/output"),
        ("trace.h5", None),
    ]
    assert verify(run.folder).damaged_shards == (0, 2)


# --- files


def swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def both(do: Callable[[Path, Path], object], folder: Path, one: int, two: int) -> None:
    for ending in ("h5", "json"):
        do(folder / f"shards/0000{one}.{ending}", folder / f"shards/0000{two}.{ending}")


@pytest.mark.parametrize("name", ["shards/00001.h5", "trace.h5"])
@pytest.mark.parametrize("n_bytes", [0, 1, 3000, -1])
def test_a_file_that_was_cut_short_is_named(run: Run, name: str, n_bytes: int) -> None:
    path = run.folder / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:n_bytes])
    (damage,) = verify(run.folder).damages
    assert damage.file == name
    there = n_bytes % size
    noun = "byte" if there == 1 else "bytes"
    assert damage.what == f"has {there:,} {noun}, {size:,} were written"
    assert bool(sealed_damages(run.folder, sums=False)) == (name != "trace.h5")
    assert index_is_whole(run.folder, sums=False) == (name != "trace.h5")


def test_a_file_that_has_grown_is_named(run: Run) -> None:
    with (run.folder / "shards/00002.h5").open("ab") as file:
        file.write(b"\0")
    assert run.damages() == [("shards/00002.h5", None)]


@pytest.mark.parametrize("name", ["shards/00000.h5", "shards/00002.json", "trace.h5", "trace.json"])
def test_a_missing_file_is_named(run: Run, name: str) -> None:
    (run.folder / name).unlink()
    (damage,) = verify(run.folder).damages
    assert (damage.file, damage.what) == (name, "is missing")


def test_a_missing_shard_is_named(run: Run) -> None:
    (run.folder / "shards/00001.h5").unlink()
    (run.folder / "shards/00001.json").unlink()
    assert run.damages() == [("shards/00001.h5", None), ("shards/00001.json", None)]


def test_swapped_shards_are_both_named(run: Run) -> None:
    swap(run.made.shards[0].file, run.made.shards[2].file)
    assert run.damages() == [("shards/00000.h5", None), ("shards/00002.h5", None)]
    swap(run.made.shards[0].record, run.made.shards[2].record)
    verdict = verify(run.folder)
    assert [d.what for d in verdict.damages[:2]] == [
        *("is the record of shard 2", "is the record of shard 0"),
    ]
    assert verdict.damaged_shards == (0, 2)


@pytest.mark.parametrize("value", ["abc", [1], float("inf"), -1])
def test_a_record_with_odd_values_is_named(run: Run, value: Any) -> None:
    path = run.folder / "shards/00001.json"
    record = json.loads(path.read_text())
    record["spec"]["n_tokens"] = value
    write_record(path, record)
    (damage,) = verify(run.folder).damages
    assert damage.file == "shards/00001.json"
    assert damage.what.startswith("is not a record of probekit's")


@pytest.mark.parametrize("name", ["trace.h5", "shards/00001.h5"])
def test_a_file_that_does_not_name_its_run_is_named(run: Run, name: str) -> None:
    path = run.folder / name
    with h5py.File(path, "r+") as file:
        file.attrs["run_digest"] = [1, 2]
    record = FileRecord.read(path.with_suffix(".json"))
    rest = rest_checksum(path, record.extents)
    replace(record, file_bytes=path.stat().st_size, rest=rest).write(path.with_suffix(".json"))
    (damage,) = verify(run.folder).damages
    assert (damage.file, damage.what) == (name, "is of another run")


def test_shards_of_the_same_size_that_are_swapped_are_named(tmp_path: Path) -> None:
    lengths = [[3, 4], [4, 3]]
    shards = [s.spec.to_json() for s in write_trace(tmp_path / "x", SITES, lengths).shards]
    run = write_trace(tmp_path / "run", SITES, lengths)
    write_record(tmp_path / "run" / "run.json", {"identity": {"shards": shards}})
    assert run.shards[0].file.stat().st_size == run.shards[1].file.stat().st_size
    swap(run.shards[0].file, run.shards[1].file)
    assert verify(tmp_path / "run").damaged_shards == (0, 1)


def test_a_renamed_shard_is_named_by_both_names(run: Run) -> None:
    both(Path.rename, run.folder, 1, 7)
    verdict = verify(run.folder)
    assert verdict.damaged_shards == (1, 7)
    assert verdict.damages[-1].what == "is not of this run, which has 3 shards, from 0 on"


def test_a_shard_of_another_run_is_named(run: Run, tmp_path: Path) -> None:
    other = a_run(tmp_path / "other", seed=1)
    for ending in ("h5", "json"):
        shutil.copy(other.folder / f"shards/00001.{ending}", run.folder / "shards")
    (damage,) = verify(run.folder).damages
    assert (damage.file, damage.what) == ("shards/00001.h5", "is of another run")


def test_an_index_of_another_run_is_named(run: Run, tmp_path: Path) -> None:
    other = a_run(tmp_path / "other", seed=1)
    for name in ("trace.h5", "trace.json"):
        shutil.copy(other.folder / name, run.folder)
    (damage,) = verify(run.folder).damages
    assert (damage.file, damage.what) == ("trace.h5", "is of another run")


def test_a_run_file_of_another_run_is_noticed_by_every_shard(run: Run, tmp_path: Path) -> None:
    shutil.copy(a_run(tmp_path / "other", seed=1).folder / "run.json", run.folder)
    assert verify(run.folder).damaged_shards == (0, 1, 2)


def test_shards_that_do_not_follow_on_each_other_are_named(run: Run, tmp_path: Path) -> None:
    # As where another device generated fewer tokens: each shard is right by itself.
    record = RunRecord(
        identity={"shards": [s.spec.to_json() for s in run.made.shards], "seed": 0}, provenance={}
    )
    attributes = {"probekit_format": 1, "run_digest": record.digest}
    lengths = [[3, 1, 4], *LENGTHS[1:]]
    write_trace(tmp_path / "other", SITES, lengths, attributes=attributes)
    for ending in ("h5", "json"):
        shutil.copy(tmp_path / f"other/shards/00000.{ending}", run.folder / "shards")
    (damage,) = verify(run.folder).damages
    assert damage.shard == 1
    assert damage.what == "begins at token 9; the shards before it end at 8"


@pytest.mark.parametrize("name", ["shards/00001.h5", "shards/00001.json", "trace.h5", "trace.json"])
def test_a_folder_where_a_file_should_be_is_named(run: Run, name: str) -> None:
    (run.folder / name).unlink()
    (run.folder / name).mkdir()
    assert name in {file for file, _ in run.damages()}


def test_other_files_do_not_matter(run: Run) -> None:
    (run.folder / "notes.txt").write_text("of the user")
    (run.folder / "shards" / ".00004.h5.part").write_text("of a run that was killed")
    assert run.damages() == []


def test_a_run_that_is_not_finished_is_not_whole(run: Run) -> None:
    for name in ("trace.h5", "trace.json", "shards/00002.h5", "shards/00002.json"):
        (run.folder / name).unlink()
    verdict = verify(run.folder)
    assert not verdict.whole and verdict.only_unfinished
    assert (verdict.n_unsealed, verdict.n_shards, verdict.damaged_shards) == (1, 3, ())
    assert run.damages() == [("trace.h5", None)]
    assert sealed_damages(run.folder, sums=True) == [], "what is there is whole"
    change(run.made.shards[1].file, 100)
    assert not verify(run.folder).only_unfinished
    assert verify(run.folder).damaged_shards == (1,)


def test_a_shard_that_is_missing_in_a_finished_run_is_damage(run: Run) -> None:
    both(lambda one, two: one.unlink(), run.folder, 2, 2)
    verdict = verify(run.folder)
    assert not verdict.only_unfinished
    assert (verdict.n_unsealed, verdict.damaged_shards) == (0, (2,))


def test_without_a_run_file_the_shards_are_still_verified(run: Run) -> None:
    change(run.made.shards[1].file, 100)
    (run.folder / "run.json").unlink()
    assert run.damages() == [("run.json", None), ("shards/00001.h5", None)]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone", "nothing is there"),
        ("folder", "there is neither run.json nor a shard"),
        ("gg.yaml", "it is a config: give its store.path"),
        ("run/shards/00000.h5", "it is one file of .*run: give that folder"),
        ("merged.h5", "it is one file, and a merged file has no checksums"),
    ],
)
def test_what_is_no_run_is_told_why(tmp_path: Path, name: str, why: str) -> None:
    for folder in ("folder", "run/shards"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("gg.yaml", "merged.h5", "run/run.json", "run/shards/00000.h5"):
        (tmp_path / file).touch()
    with pytest.raises(StoreError, match=rf"is not a run's folder \({why}\); the checksums"):
        verify(tmp_path / name)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone", tmp_path / "trace.h5"):
        with pytest.raises(StoreError, match="is not a run's folder"):
            verify(path)


def test_the_index_stands_for_its_folder(run: Run) -> None:
    assert verify(run.folder / "trace.h5") == verify(run.folder)


# --- how


def test_only_sums_need_the_bytes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    offset, _ = extent(run.made.shards[0].file, "h.0/output")
    change(run.made.shards[0].file, offset)
    assert sealed_damages(run.folder, sums=False) == []
    assert [d.site for d in sealed_damages(run.folder, sums=True)] == ["h.0/output"]


def test_progress_ends_at_all_bytes(run: Run) -> None:
    told: list[tuple[int, int]] = []
    verdict = verify(run.folder, on_progress=lambda *now: told.append(now))
    sizes = [shard.file.stat().st_size for shard in run.made.shards]
    assert [done for done, _ in told] == [sum(sizes[: n + 1]) for n in range(3)]
    assert {total for _, total in told} == {verdict.n_bytes}


def test_nothing_is_changed_by_looking(run: Run) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.folder.rglob("*")}
    verify(run.folder)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.folder.rglob("*")} == before


def test_memory_does_not_grow_with_the_shard(tmp_path: Path) -> None:
    import tracemalloc

    run = write_trace(tmp_path, [site("a", row_shape=(100_000,))], [[200, 1]])  # 80 MB
    assert run.shards[0].file.stat().st_size > 80_000_000
    tracemalloc.start()
    verify(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20


def test_a_verdict_is_plain_json(run: Run) -> None:
    change(run.made.shards[1].file, 100)
    verdict: Verdict = verify(run.folder)
    assert verdict.to_json() == {
        "path": str(run.folder),
        "whole": False,
        "n_shards": 3,
        "n_unsealed": 0,
        "n_bytes": verdict.n_bytes,
        "damaged_shards": [1],
        "damages": [
            {
                "file": "shards/00001.h5",
                "shard": 1,
                "site": None,
                "what": "tables, attributes or structure do not have their checksum",
            }
        ],
    }
    assert str(verdict.damages[0]).startswith("shards/00001.h5: tables, attributes")


def test_the_old_name_says_the_new_one(run):
    with pytest.warns(DeprecationWarning, match=r"verify_trace is probekit\.verify now"):
        assert probekit.verify.verify_trace(run.folder) == probekit.verify(run.folder)


def test_the_old_import_still_works_and_says_the_new_one(run):
    code = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    from probekit.verify import verify_trace\n"
        "    import probekit, sys\n"
        "    assert verify_trace(sys.argv[1]).whole and probekit.verify(sys.argv[1]).whole\n"
        "print([str(w.message).split(':')[0] for w in said])\n"
    )
    command = [sys.executable, "-c", code, str(run.folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "probekit.verify is a function now" in ended.stdout
