"""The folder of a run: whose it is, who writes into it, what in it is whole."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from probekit.errors import StoreError
from probekit.store.folder import RunFolder, clear
from probekit.store.format.records import write_record
from probekit.store.lock import Lock
from probekit.store.runrecord import RunRecord, config_changes, read_run

RECORD = RunRecord(
    identity={"config_digest": "abc", "sites": [{"axes": ("token", "d_mlp")}], "shards": [{}, {}]},
    provenance={"torch_version": "2.13"},
)
OTHER = RunRecord(
    identity={**RECORD.identity, "config_digest": "xyz", "shards": [{}]}, provenance={}
)


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def n_open_files() -> int:
    gc.collect()  # what earlier tests left to it
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def claims(folder: Path) -> set[str]:
    return {name for name in tree(folder) if name.startswith("claims/")}


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def saved(file: Path) -> dict[str, Any]:
    """Read a record as any JSON, without its own checksum."""
    value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert len(value.pop("this_file")) == 16
    return value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a folder of `RECORD` with one sealed shard and an index."""
    path = tmp_path / "runs" / "gpt2"
    with RunFolder(path, RECORD):
        pass
    put(path, "shards/00000.h5", "shards/00000.json", "trace.h5")
    return path


# --- run.json


def test_a_new_folder_is_made_and_says_which_run_it_is_of(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a" / "b", RECORD) as folder:
        assert folder.sealed() == frozenset()
    assert tree(tmp_path) == {"a/b/run.json"}
    assert saved(tmp_path / "a/b/run.json") == {
        "identity": {
            "config_digest": "abc",
            "sites": [{"axes": ["token", "d_mlp"]}],
            "shards": [{}, {}],
        },
        "provenance": {"torch_version": "2.13"},
    }


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    with RunFolder(tmp_path, RECORD):
        pass
    assert tree(tmp_path) == {"run.json"}


def test_the_same_run_goes_on(path: Path) -> None:
    before = (path / "run.json").read_bytes()
    later = RunRecord(identity=RECORD.identity, provenance={"torch_version": "3.0"})
    with RunFolder(path, later) as folder:
        assert folder.sealed() == {0}
    assert (path / "run.json").read_bytes() == before


def test_another_run_is_refused_by_what_differs(path: Path) -> None:
    before = tree(path)
    differs = r"another run \(another config_digest, the shards are cut otherwise\); "
    message = differs + r".* --overwrite to begin anew \(in Python overwrite=True\)"
    with pytest.raises(StoreError, match=message), RunFolder(path, OTHER):
        pass
    assert tree(path) == before


def test_a_damaged_run_file_is_named(path: Path) -> None:
    (path / "run.json").write_text('{"identity": ')
    with pytest.raises(
        StoreError, match=r"run\.json: is damaged .*--overwrite begins the run anew .in Python"
    ):
        read_run(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"identity": 3}', "null"])
def test_a_run_file_of_another_program_is_not_taken_for_ours(path: Path, text: str) -> None:
    (path / "run.json").write_text(text)
    with pytest.raises(StoreError, match=r"run\.json: is damaged or not probekit's"):
        read_run(path)


def test_a_record_of_something_else_is_not_a_run(path: Path) -> None:
    write_record(path / "run.json", {"identity": 3})
    with pytest.raises(StoreError, match=r"run\.json: is not a run of probekit"):
        read_run(path)


@pytest.mark.parametrize("provenance", [[1], 5, "x", {"config": 5}, {"config": ["a"]}])
def test_a_run_file_that_says_nothing_of_how_it_was_made_is_no_runs(
    path: Path, provenance: Any
) -> None:
    identity = json.loads(json.dumps(RECORD.to_json()["identity"]))
    write_record(path / "run.json", {"identity": identity, "provenance": provenance})
    with pytest.raises(StoreError, match="is not a run of probekit"), RunFolder(path, RECORD):
        pass


LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 20))
ODD_CONFIGS = {
    "aliases without an end": (LAUGHS, "more than 20,000 values, aliases written out"),
    "deep": ("[" * 9999, "nested deeper than 50 levels"),
    "a tag": ("!!python/object:os.system x", "given the tag"),
    "no YAML": ("a: [", "not valid YAML"),
    "long keys": (f"? {'k' * 100_000}\n: [{'1, ' * 10_000}]", r"k+\.\.\.\[0\]: was 1, now not set"),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ODD_CONFIGS)
def test_an_odd_config_of_another_run_is_told_and_not_carried_out(path: Path, kind: str) -> None:
    text, said = ODD_CONFIGS[kind]
    odd = RunRecord(identity={"shards": [{}]}, provenance={"config": text})
    write_record(path / "run.json", odd.to_json())
    now = {"config": "seed: 1\n"}
    tracemalloc.start()
    with (
        pytest.raises(StoreError, match="holds another run"),
        RunFolder(path, RunRecord(identity=RECORD.identity, provenance=now)),
    ):
        pass
    with RunFolder(path, RunRecord(identity=odd.identity, provenance=now)) as folder:
        assert re.search(said, folder.changed)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


def test_a_folder_without_a_run_file_has_no_run(tmp_path: Path) -> None:
    assert read_run(tmp_path) is None


@pytest.mark.parametrize("left", ["shards/00000.h5", "trace.h5"])
def test_shards_without_a_run_file_are_not_taken_for_this_runs(path: Path, left: str) -> None:
    for name in tree(path) - {left}:
        (path / name).unlink()
    with pytest.raises(StoreError, match=r"holds shards, but no run\.json"), RunFolder(path, OTHER):
        pass
    assert tree(path) == {left}


# --- places that cannot be a run's folder


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "gpt2")
    with (
        pytest.raises(StoreError, match=r"store\.path: .*gpt2 is a file; expected a folder"),
        RunFolder(tmp_path / "gpt2", RECORD),
    ):
        pass


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "file")
    with (
        pytest.raises(StoreError, match=r"store\.path: .*cannot be made: Not a directory"),
        RunFolder(tmp_path / "file" / "gpt2", RECORD),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()  # what even root cannot open for writing
    with (
        pytest.raises(StoreError, match=r"\.lock: cannot be written: Is a directory"),
        RunFolder(tmp_path, RECORD),
    ):
        pass


def test_a_refusal_names_the_place_in_the_config(tmp_path: Path) -> None:
    put(tmp_path, "thesis/chapter.tex", "file")
    at = "a.yaml:12: store.path"
    for name in ("thesis", "file", "file/run"):
        with (
            pytest.raises(StoreError, match=rf"^a\.yaml:12: store\.path: {tmp_path / name} "),
            RunFolder(tmp_path / name, RECORD, where=at),
        ):
            pass
    with RunFolder(tmp_path / "run", RECORD, where=at):
        for kind in (RECORD, OTHER):
            with (
                pytest.raises(StoreError, match=r"^a\.yaml:12: store\.path: .*another run"),
                RunFolder(tmp_path / "run", kind, where=at),
            ):
                pass
    with (
        pytest.raises(StoreError, match=r"^a\.yaml:12: store\.path: .*holds another run"),
        RunFolder(tmp_path / "run", OTHER, where=at),
    ):
        pass


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_foreign_files_is_refused(tmp_path: Path, overwrite: bool) -> None:
    put(tmp_path, "thesis.tex", "data/a.csv")
    with (
        pytest.raises(StoreError, match=r"not probekit's \(data, thesis\.tex\); give an empty"),
        RunFolder(tmp_path, RECORD, overwrite=overwrite),
    ):
        pass
    assert tree(tmp_path) == {"thesis.tex", "data/a.csv"}


# --- overwrite


def test_overwrite_begins_anew(path: Path) -> None:
    before = tree(path)
    with RunFolder(path, OTHER, overwrite=True) as folder:
        assert folder.sealed() == frozenset()
        assert tree(path) - claims(path) == before | {".lock"}
        folder.reopen()
    assert tree(path) == {"run.json"}
    assert saved(path / "run.json") == json.loads(json.dumps(OTHER.to_json()))


def test_overwrite_takes_the_index_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []
    monkeypatch.setattr(Path, "unlink", lambda file, missing_ok=False: gone.append(file.name))
    clear(path)
    names = [name for name in gone if not name.startswith(".")]
    assert names[:2] == ["trace.json", "trace.h5"]
    assert names[-1] == "run.json"


def test_overwrite_removes_leftovers_at_once(path: Path) -> None:
    whole = tree(path)
    put(path, "shards/.00003.h5.part", ".scratch-x1/together/shards/00000.h5")
    with RunFolder(path, OTHER, overwrite=True):
        assert tree(path) - claims(path) == whole | {".lock"}


def test_overwrite_begins_anew_over_a_damaged_run_file(path: Path) -> None:
    (path / "run.json").write_text("{")
    with RunFolder(path, OTHER, overwrite=True) as folder:
        folder.reopen()
    assert tree(path) == {"run.json"}


@pytest.mark.parametrize("foreign", ["notes.txt", "shards/notes.txt", "shards/1.h5"])
def test_overwrite_removes_nothing_where_a_file_is_not_ours(path: Path, foreign: str) -> None:
    put(path, foreign)
    before = tree(path)
    with (
        pytest.raises(StoreError, match=rf"not probekit's \({foreign}\)"),
        RunFolder(path, OTHER, overwrite=True),
    ):
        pass
    assert tree(path) == before


def test_an_overwrite_that_is_killed_leaves_nothing_to_be_taken_for_the_new_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(path, "shards/00001.h5", "shards/00001.json")
    plain, n_files = Path.unlink, len(tree(path))
    for n_removed in range(n_files):
        left = iter(range(n_removed))

        def unlink(file: Path, missing_ok: bool = False, left: Iterator[int] = left) -> None:
            if file.name != ".lock" and file.exists() and next(left, None) is None:
                raise KeyboardInterrupt
            plain(file, missing_ok=missing_ok)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "unlink", unlink)
            with RunFolder(path, OTHER, overwrite=True) as folder:
                folder.reopen()
        with pytest.raises(StoreError, match="holds"), RunFolder(path, OTHER):
            pass
        put(path, *(f"shards/0000{n}.{end}" for n in (0, 1) for end in ("h5", "json")))
        put(path, "trace.h5")


# --- the lock

HOLD = """
import sys
from pathlib import Path
from probekit.store.folder import RunFolder, RunRecord
alone = sys.argv[2] == "alone"
with RunFolder(Path(sys.argv[1]), RunRecord(identity={}, provenance={}), alone=alone):
    print("held", flush=True)
    sys.stdin.read()
"""
Holder = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Holder]:
    """Give what starts another process that holds `tmp_path / "run"`, alone or shared."""
    with ExitStack() as stack:

        def start(how: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", HOLD, str(tmp_path / "run"), how]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            return process

        yield start


EMPTY = RunRecord(identity={}, provenance={})


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("alone", {}), ("alone", {"overwrite": True}), ("shared", {"repair": True})],
)
def test_a_folder_that_another_process_writes_is_refused(
    tmp_path: Path, hold: Holder, theirs: str, ours: dict[str, bool]
) -> None:
    holder = hold(theirs)
    message = rf"run: another run \(process {holder.pid}\) is writing here; wait for it"
    with pytest.raises(StoreError, match=message), RunFolder(tmp_path / "run", EMPTY, **ours):
        pass
    there = tree(tmp_path / "run")
    assert there - claims(tmp_path / "run") == {"run.json", ".lock"}


def test_workers_of_one_run_share_a_folder_and_another_run_is_refused(
    tmp_path: Path, hold: Holder
) -> None:
    path = tmp_path / "run"
    hold("shared")
    with RunFolder(path, EMPTY) as folder:
        assert len(folder.claims.others()) == 1
        with pytest.raises(StoreError, match="another run"), RunFolder(path, RECORD):
            pass
    assert (path / ".lock").exists(), "the other has it still"
    holder = hold("shared")
    assert holder.stdin is not None
    holder.stdin.close()
    assert holder.wait() == 0
    assert len(claims(path)) == 1


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path, hold: Holder) -> None:
    holder = hold("alone")
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / ".lock").exists()
    with RunFolder(tmp_path / "run", EMPTY):
        pass


def test_the_lock_is_gone_when_the_run_ends(tmp_path: Path) -> None:
    n_open = n_open_files()
    with RunFolder(tmp_path, RECORD):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    with pytest.raises(StoreError, match="another run"), RunFolder(tmp_path, OTHER):
        pass
    assert not (tmp_path / ".lock").exists()
    assert n_open_files() == n_open


def test_two_runs_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path, RECORD),
        pytest.raises(StoreError, match=rf"another run \(process {os.getpid()}\)"),
        RunFolder(tmp_path, RECORD),
    ):
        pass


def test_a_lock_that_its_owner_removes_just_now_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, owner_leaves = fcntl.flock, iter([(tmp_path / ".lock").unlink])

    def flock(fd: int, how: int) -> None:
        next(owner_leaves, lambda: None)()
        plain(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        RunFolder(tmp_path, RECORD),
        pytest.raises(StoreError, match="another run"),
        RunFolder(tmp_path, RECORD),
    ):
        pass


def test_two_threads_do_not_share_a_folder(tmp_path: Path) -> None:
    def enter(together: threading.Barrier, refused: threading.Event, inside: list[bool]) -> None:
        together.wait()
        try:
            with Lock(tmp_path / ".lock", shared=True):
                inside.append(refused.wait(20))
        except StoreError:
            refused.set()

    for _ in range(30):
        inside: list[bool] = []
        given = (threading.Barrier(2), threading.Event(), inside)
        threads = [threading.Thread(target=enter, args=given) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert inside == [True], "one was in, and the other was refused meanwhile"


# --- workers of other hosts

ELSEWHERE = "anotherhost-12-345"


def alone_elsewhere(path: Path, count: int) -> None:
    """Have a worker of another host say that it is alone in a run's folder."""
    (path / "claims").mkdir(exist_ok=True)
    beat = {"worker": ELSEWHERE, "host": "anotherhost", "process": 12, "began": "", "count": count}
    rest = {"shard": None, "examples": 0, "all_examples": 0, "tokens": 0}
    said = json.dumps(beat | rest | {"n_bytes": 0, "seconds": 0.0})
    (path / "claims" / f"{ELSEWHERE}.worker").write_text(said)
    (path / "claims" / "alone.claim").write_text(json.dumps({"worker": ELSEWHERE, "since": ""}))


@pytest.mark.parametrize("ours", [{}, {"repair": True}])
def test_one_that_died_elsewhere_is_waited_for_once(
    path: Path, ours: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBEKIT_LEASE_S", "0.5")
    alone_elsewhere(path, 3)
    notes: list[str] = []
    with RunFolder(path, RECORD, on_note=notes.append, **ours):
        pass
    assert notes == [
        "process 12 on anotherhost has worked here: up to 0.5 s to see whether it still does"
    ]


@pytest.mark.parametrize("ours", [{}, {"repair": True}, {"overwrite": True}])
def test_one_that_is_alone_elsewhere_is_left_alone(
    path: Path, ours: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBEKIT_LEASE_S", "5")
    alone_elsewhere(path, 3)
    message = r"another run \(process 12 on anotherhost\) is writing here; wait for it"
    with (
        pytest.raises(StoreError, match=message),
        RunFolder(path, RECORD, on_note=lambda note: alone_elsewhere(path, 4), **ours),
    ):
        pass
    assert (path / "trace.h5").exists()


def test_an_index_stays_where_others_may_have_written_it(path: Path) -> None:
    with RunFolder(path, RECORD) as folder:
        folder.reopen()  # held for long behind the look whether it was needed
    assert (path / "trace.h5").exists()
    with RunFolder(path, RECORD, repair=True) as folder:
        folder.reopen()
    assert not (path / "trace.h5").exists()


def test_two_that_clear_away_the_same_leftovers_do_not_mind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path / "trace.h5").unlink()
    put(path, "shards/.00003.h5.part", "shards/00002.json", ".run.json.part", ".scratch-x1/a/b")
    plain, plainly = Path.unlink, shutil.rmtree

    def unlink(file: Path, missing_ok: bool = False) -> None:
        plain(file, missing_ok=True)  # the other, a moment before
        plain(file, missing_ok=missing_ok)

    def rmtree(folder: Path, **more: Any) -> None:
        plainly(folder)
        plainly(folder, **more)

    monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    # What is certainly there, and may not go twice, is the folder's own business.
    monkeypatch.setattr(Lock, "__exit__", lambda self, *_: os.close(self._fd))
    with RunFolder(path, RECORD) as folder:
        assert folder.sealed() == {0}
    assert not (path / ".scratch-x1").exists()


# --- what is whole


def test_leftovers_of_a_killed_run_are_removed(path: Path) -> None:
    (path / "trace.h5").unlink()
    whole = tree(path)
    put(path, "shards/00001.h5", "shards/00002.json", "shards/.00003.h5.part")
    put(path, "shards/.00003.h5.part.packed", "shards/.00003.json.part")
    with RunFolder(path, RECORD) as folder:
        assert folder.sealed() == {0}
    # It may be another's who is about to write its record, and is replaced when its turn comes.
    assert tree(path) == whole | {"shards/00001.h5"}


def test_half_a_shard_beside_an_index_is_damage_and_stays(path: Path) -> None:
    put(path, "shards/00001.h5", "shards/00002.json")
    before = tree(path)
    put(path, "shards/.00003.h5.part")
    with RunFolder(path, RECORD) as folder:
        assert folder.sealed() == {0}
    assert tree(path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_scratch_of_a_killed_run_is_removed(path: Path, overwrite: bool) -> None:
    whole = tree(path)
    put(path, ".scratch-x1/together/shards/00000.h5", ".scratch-y2/a")
    with RunFolder(path, RECORD, overwrite=overwrite) as folder:
        if overwrite:
            folder.reopen()
    assert tree(path) == ({"run.json"} if overwrite else whole)
    assert {p.name for p in path.iterdir()} <= {"run.json", "trace.h5", "shards"}


def test_scratch_alone_does_not_make_a_folder_foreign(tmp_path: Path) -> None:
    put(tmp_path, ".scratch-x1/a")
    with RunFolder(tmp_path, RECORD):
        pass
    assert tree(tmp_path) == {"run.json"}


def test_going_on_leaves_foreign_files_alone(path: Path) -> None:
    put(path, "notes.txt", "shards/notes.txt", "shards/.DS_Store", "shards/more/a.h5")
    before = tree(path)
    with RunFolder(path, RECORD):
        pass
    assert tree(path) == before


def test_an_error_inside_the_block_frees_the_folder(path: Path) -> None:
    values: list[Any] = []
    with pytest.raises(IndexError), RunFolder(path, RECORD):
        values[0]
    with RunFolder(path, RECORD) as folder:
        assert folder.sealed() == {0}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("inputs: {random: {examples: 2}}", "inputs: {random: {seed: 1, examples: 2}}",
         "inputs.random.seed: was 0, now 1"),
        ("seed: 0", "{}", ""),
        ("seed: 7", "{}", "seed: was 7, now 0"),
        ("{}", "generate: {strategy: sample}", "generate.strategy: was not set, now sample"),
        ("probes: [{modules: a}]", "probes: [{modules: a, k: 3}]", "probes[0].k: was 5, now 3"),
        ("{}", "probes: [{pool: mean}]", "probes[0].pool: was not set, now mean"),
        ("{a: {b: 1}}", "{a: {b: 1, c: 2}}", "a.c: was not set, now 2"),
    ],
)  # fmt: skip
def test_a_setting_that_was_left_out_was_at_its_default(old: str, new: str, said: str) -> None:
    assert config_changes(old, new) == said


# --- a lock while inputs are read


def test_workers_wait_for_the_one_that_reads_their_inputs(tmp_path: Path) -> None:
    order: list[str] = []

    def read(name: str) -> None:
        command = [sys.executable, "-c", READ, str(tmp_path / ".lock")]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "reads\n"
            begun.set()
            time.sleep(0.3)
            order.append(name)
            process.communicate("")

    begun = threading.Event()
    reader = threading.Thread(target=read, args=("read",))
    reader.start()
    begun.wait()
    with pytest.raises(StoreError, match="another run"), Lock(tmp_path / ".lock"):
        pass  # one that wants to be alone does not wait
    with Lock(tmp_path / ".lock", shared=True):
        order.append("shared")
    reader.join()
    assert order == ["read", "shared"]


READ = """
import sys
from pathlib import Path
from probekit.store.lock import Lock
with Lock(Path(sys.argv[1]), reading=True):
    print("reads", flush=True)
    sys.stdin.read()
"""
