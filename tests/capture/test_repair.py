"""Repair: a damaged run made whole again, by computing no more than was damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import by_hand
import h5py
import pytest
from by_hand import EXAMPLES

import probekit
from probekit import models
from probekit.errors import ConfigError, StoreError
from probekit.store.verification import verify

MLP = [{"modules": "transformer.h.*.mlp.act"}, {"modules": "transformer.h.1", "positions": "last"}]
N_SHARDS = 3

go = partial(probekit.run, self_check=False)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return by_hand.save_tiny(tmp_path_factory.mktemp("gpt2"), "gpt2")


def config(gpt2: Path, **more: Any) -> dict[str, Any]:
    """A config of three shards; its folder is relative, so equal in every directory."""
    return by_hand.config(gpt2, "run", probes=MLP, **{"store__shard_bytes": "22KiB", **more})


@pytest.fixture(scope="module")
def undisturbed(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        go(config(gpt2))
        return Path("run").absolute()


@pytest.fixture
def run(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a copy of a finished run, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(undisturbed, "run", copy_function=shutil.copy2)
    assert len(by_hand.shard_files(Path("run"))) == N_SHARDS
    return Path("run")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the models that are loaded."""
    loaded: list[int] = []
    load = models.load_model

    def load_model(*args: Any) -> Any:
        loaded.append(1)
        return load(*args)

    monkeypatch.setattr(models, "load_model", load_model)
    return loaded


def files(folder: Path) -> dict[str, bytes]:
    there = [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith("made.json")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in there}


def change(path: Path, at: int = 5000) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def change_a_row(path: Path) -> None:
    with h5py.File(path) as file:
        at = file["sites/transformer.h.2.mlp.act/output"].id.get_offset()
    change(path, at)


def n_examples(folder: Path, number: int) -> int:
    with h5py.File(folder / f"shards/0000{number}.h5") as file:
        return len(file["examples/id"])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a row": lambda run: change_a_row(run / "shards/00001.h5"),
    "structure": lambda run: change(run / "shards/00001.h5", 100),
    "cut": lambda run: cut(run / "shards/00001.h5"),
    "record": lambda run: change(run / "shards/00001.json", 30),
    "lost": lambda run: (run / "shards/00001.h5").unlink(),
    "lost record": lambda run: (run / "shards/00001.json").unlink(),
    "another's": lambda run: shutil.copy(run / "shards/00002.h5", run / "shards/00001.h5"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_only_the_damaged_shard_is_computed_again_and_to_the_same_bytes(
    gpt2: Path, run: Path, undisturbed: Path, name: str
) -> None:
    others = [run / f"shards/0000{n}.{ending}" for n in (0, 2) for ending in ("h5", "json")]
    before = [by_hand.fingerprint(file) for file in others]
    DAMAGES[name](run)
    assert verify(run).damaged_shards == (1,)
    done: list[int] = []
    go(config(gpt2), repair=True, on_progress=lambda p: done.append(p.examples))
    assert files(run) == files(undisturbed)
    assert verify(run).whole
    assert [by_hand.fingerprint(file) for file in others] == before
    assert done[-1] == len(EXAMPLES)
    assert min(done) > len(EXAMPLES) - n_examples(run, 1)


def test_what_is_damaged_is_told(gpt2: Path, run: Path) -> None:
    DAMAGES["a row"](run)
    cut(run / "shards/00002.h5")
    notes: list[str] = []
    started: list[tuple[int, int]] = []
    go(config(gpt2), repair=True, on_note=notes.append, on_start=lambda *n: started.append(n))
    assert len(notes) == 2
    assert notes[0].startswith("damaged, and computed again: shards/00001.h5: transformer.h.2.mlp")
    assert notes[1].startswith("damaged, and computed again: shards/00002.h5: has ")
    assert started == [(1, N_SHARDS)]


def test_a_whole_run_is_left_alone(gpt2: Path, run: Path, loads: list[int]) -> None:
    before = [by_hand.fingerprint(p) for p in sorted(run.rglob("*")) if p.is_file()]
    go(config(gpt2), repair=True)
    assert [by_hand.fingerprint(p) for p in sorted(run.rglob("*")) if p.is_file()] == before
    assert loads == []


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("trace.h5", change),
        ("trace.h5", cut),
        ("trace.h5", Path.unlink),
        ("trace.json", lambda path: change(path, 30)),
        ("trace.json", Path.unlink),
        ("run.json", lambda path: change(path, 300)),
        ("run.json", Path.unlink),
    ],
)
def test_index_and_run_file_are_written_again_without_the_model(
    gpt2: Path, run: Path, undisturbed: Path, loads: list[int], name: str, damage: Any
) -> None:
    damage(run / name)
    go(config(gpt2), repair=True)
    assert files(run) == files(undisturbed)
    assert loads == []


def test_a_renamed_shard_is_taken_away(gpt2: Path, run: Path, undisturbed: Path) -> None:
    for ending in ("h5", "json"):
        (run / f"shards/00001.{ending}").rename(run / f"shards/00008.{ending}")
    with pytest.raises(StoreError, match=r"shards/00008\.h5: is not of this run.*--repair"):
        go(config(gpt2))
    go(config(gpt2), repair=True)
    assert files(run) == files(undisturbed)


def test_an_unfinished_run_is_repaired_and_goes_on(
    gpt2: Path, run: Path, undisturbed: Path
) -> None:
    for name in ("trace.h5", "trace.json", "shards/00002.h5", "shards/00002.json"):
        (run / name).unlink()
    DAMAGES["a row"](run)
    go(config(gpt2), repair=True)
    assert files(run) == files(undisturbed)


def test_a_repair_that_is_cut_short_goes_on_without_being_asked_again(
    gpt2: Path, run: Path, undisturbed: Path
) -> None:
    DAMAGES["a row"](run)

    def stop(progress: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(config(gpt2), repair=True, on_progress=stop)
    with pytest.raises(StoreError, match="2 of 3 shards are sealed"):
        probekit.open(run)
    go(config(gpt2))
    assert files(run) == files(undisturbed)


def test_compressed_shards_are_repaired(
    gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    packed = config(gpt2, store__compression="gzip")
    go(packed)
    whole = files(Path("run"))
    DAMAGES["structure"](Path("run"))
    go(packed, repair=True)
    assert files(Path("run")) == whole


# --- what is not done


@pytest.mark.parametrize("name", ["cut", "record", "lost", "lost record", "another's"])
def test_without_being_asked_to_a_damaged_run_is_refused_and_left_alone(
    gpt2: Path, run: Path, name: str
) -> None:
    DAMAGES[name](run)
    before = files(run)
    with pytest.raises(StoreError, match=r"run: is damaged: shards/00001\.(h5|json): .*--repair"):
        go(config(gpt2))
    assert files(run) == before


def test_a_shard_of_a_number_that_the_run_has_not_is_removed(
    gpt2: Path, run: Path, undisturbed: Path
) -> None:
    (run / "shards/00001.h5").rename(run / "shards/00009.h5")
    with pytest.raises(StoreError, match=r"shards/00009\.h5: is not of this run"):
        go(config(gpt2))
    go(config(gpt2), repair=True)
    assert verify(run).whole
    assert files(run).keys() == files(undisturbed).keys()


def test_another_run_is_not_repaired_into_this_one(gpt2: Path, run: Path) -> None:
    DAMAGES["a row"](run)
    before = files(run)
    with pytest.raises(StoreError, match="holds another run"):
        go(config(gpt2, seed=1), repair=True)
    assert files(run) == before


@pytest.mark.parametrize("lost", [False, True])
def test_a_run_file_is_not_written_over_another_runs_shards(
    gpt2: Path, run: Path, lost: bool
) -> None:
    (run / "run.json").unlink() if lost else change(run / "run.json", 300)
    before = files(run)
    with pytest.raises(StoreError, match="--overwrite"):
        go(config(gpt2, seed=1), repair=True)
    assert files(run) == before


@pytest.mark.parametrize("name", ["models.load_model", "capture.selfcheck.self_check"])
def test_what_is_damaged_stays_until_the_model_is_there_and_right(
    gpt2: Path, run: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*args: Any) -> Any:
        raise ConfigError("the weights are gone")

    DAMAGES["a row"](run)
    before = files(run)
    monkeypatch.setattr(f"probekit.{name}", fail)
    with pytest.raises(ConfigError, match="gone"):
        go(config(gpt2), repair=True, self_check=True)
    assert files(run) == before


# --- going on otherwise


def test_going_on_with_other_free_settings_is_told(gpt2: Path, run: Path) -> None:
    for name in ("trace.h5", "trace.json", "shards/00002.h5", "shards/00002.json"):
        (run / name).unlink()
    notes: list[str] = []
    go(config(gpt2, inputs__batch_tokens=13), on_note=notes.append)
    assert notes == [
        "2 sealed shards were made otherwise (inputs.batch_tokens: was 30, now 13): the rows that "
        "come now agree with what they would have given to rounding, not bit for bit"
    ]
    assert verify(run).whole


def test_going_on_on_another_device_is_told(
    gpt2: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("trace.h5", "trace.json", "shards/00002.h5", "shards/00002.json"):
        (run / name).unlink()
    notes: list[str] = []
    monkeypatch.setattr("platform.machine", lambda: "another machine")
    go(config(gpt2), on_note=notes.append)
    assert len(notes) == 1
    assert notes[0].startswith("2 sealed shards were made otherwise (device: was cpu (")
    assert "), now cpu (another machine)): the rows" in notes[0]
    devices = [h5py.File(shard).attrs["device"] for shard in by_hand.shard_files(run)]
    assert devices[2] == "cpu (another machine)" != devices[0]


def test_going_on_as_before_is_not_mentioned(gpt2: Path, run: Path) -> None:
    for name in ("trace.h5", "trace.json", "shards/00002.h5", "shards/00002.json"):
        (run / name).unlink()
    notes: list[str] = []
    go(config(gpt2), on_note=notes.append)
    go(config(gpt2, inputs__batch_tokens=13), on_note=notes.append)
    assert notes == [], "a finished run computes no more rows"
