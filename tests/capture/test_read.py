"""What a finished run remembers: when it is opened at once, and when it is checked in full."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import by_hand
import pytest
import torch
from by_hand import EXAMPLES
from huggingface_hub import constants

import probekit
from probekit.capture import read as reading
from probekit.config.loading import load_config
from probekit.errors import ConfigError, StoreError
from probekit.models.files import files_of
from probekit.store.format import schema
from probekit.store.format.records import read_record, write_record
from probekit.store.lock import Lock

RUN = Path("run")
Change = Callable[[pytest.MonkeyPatch], None]


def config(**more: Any) -> dict[str, Any]:
    """Give a config of relative paths, so that a copied folder is the same run."""
    made = by_hand.config("model", RUN, probes=[{"sites": "resid_post"}], **more)
    made["inputs"] = {"file": "in.jsonl"} | {
        k: v for k, v in made["inputs"].items() if k != "texts"
    }
    return made


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files for settled as soon as they are written."""
    monkeypatch.setattr(reading, "_SETTLED_NS", 0)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    by_hand.save_tiny(folder / "model", "gpt2")
    rows = [json.dumps({"text": by_hand.text_of(ids)}) for ids in EXAMPLES]
    (folder / "in.jsonl").write_text("\n".join(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        probekit.run(config())
    return folder


@pytest.fixture
def here(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go into a copy of the finished run, that has been checked in full once."""
    shutil.copytree(done, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    probekit.run(config())
    return tmp_path / "copy"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Watch how often a run is carried out, or checked in full."""
    from probekit.capture import running

    found: list[str] = []
    carry_out = running.carry_out

    def watched(*given: Any, **more: Any) -> Any:
        found.append("in full")
        return carry_out(*given, **more)

    monkeypatch.setattr(running, "carry_out", watched)
    return found


def edit(file: str) -> None:
    """Change a byte; size and time of writing stay as they were."""
    there, path = Path(file).stat(), Path(file)
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))


def edit_text(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("in.jsonl")
    there = path.stat()
    path.write_text(path.read_text().replace("60 61", "61 60"))
    os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    made = read_record(RUN / "made.json")
    del made["read"]
    write_record(RUN / "made.json", made)


def damage(monkeypatch: pytest.MonkeyPatch) -> None:
    made = RUN / "made.json"
    made.write_text(made.read_text().replace('"began"', '"begun"'))


def cut_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = RUN / "shards" / "00000.h5"
    shard.write_bytes(shard.read_bytes()[:-1])


def other_version(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {**reading._versions(), "transformers": "5.99"}
    monkeypatch.setattr(reading, "_versions", lambda: versions)


CHANGES: dict[str, tuple[Change, str]] = {  # a change; what the full check says, "" if all is well
    "data touched": (lambda _: os.utime("in.jsonl"), ""),
    "data changed, its size and time kept": (edit_text, "the texts are others"),
    "data gone": (lambda _: Path("in.jsonl").unlink(), ""),
    "model touched": (lambda _: os.utime("model/config.json"), ""),
    "weights changed": (lambda _: edit("model/model.safetensors"), "the model in its folder has"),
    "tokenizer touched": (lambda _: os.utime("model/words/tokenizer.json"), ""),
    "a file more": (lambda _: Path("model/words/chat_template.jinja").write_text("{{ x }}"), ""),
    "a file less": (lambda _: Path("model/generation_config.json").unlink(), "model in its folder"),
    "other versions": (other_version, ""),
    "another meaning": (
        lambda patch: patch.setattr(schema, "MEANINGS", {"output": 2, "input": 2}),
        "means something else",
    ),
    "shard missing": (lambda _: (RUN / "shards/00000.h5").unlink(), "00000.h5: is missing"),
    "shard cut": (cut_shard, "is damaged: .*bytes"),
    "shard's record missing": (lambda _: (RUN / "shards/00000.json").unlink(), "is missing"),
    "index missing": (lambda _: (RUN / "trace.h5").unlink(), ""),
    "inputs missing": (lambda _: (RUN / "inputs.h5").unlink(), "inputs.h5: is missing"),
    "made.json damaged": (damage, "made.json: is damaged"),
    "made.json without it": (forget, ""),
}


def test_a_finished_run_is_opened_at_once(here: Path, checks: list[str]) -> None:
    told: list[tuple[int, int]] = []
    before = by_hand.fingerprint(RUN / "made.json")
    trace = probekit.run(config(), on_start=lambda *n: told.append(n))
    assert not checks
    assert told == [(1, 1)]
    assert len(trace.examples) == len(EXAMPLES)
    assert by_hand.fingerprint(RUN / "made.json") == before
    assert not (RUN / ".lock").exists()
    free = config(inputs__batch_tokens=13, store__buffer_bytes=1 << 20, model__device="auto")
    assert probekit.run(free).site_names == trace.site_names
    assert not checks


@pytest.mark.few(9)
@pytest.mark.parametrize("what", CHANGES)
def test_whatever_is_not_as_it_was_is_checked_in_full(
    here: Path, checks: list[str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    probekit.run(config())
    assert not checks, "it would have been opened at once"
    change, said = CHANGES[what]
    change(monkeypatch)
    if said:
        with pytest.raises(StoreError, match=said):
            probekit.run(config())
        assert checks == ["in full"]
        return
    probekit.run(config())
    assert checks == ["in full"]
    probekit.run(config())
    assert checks == ["in full"], "it is remembered as it is now"


def test_another_config_is_never_taken_for_the_finished_one(here: Path, checks: list[str]) -> None:
    for change in ({"seed": 1}, {"store__dtype": "float16"}, {"inputs__limit": 2}):
        with pytest.raises(StoreError, match=r"config: store\.path: run holds another run"):
            probekit.run(config(**change))


def test_repair_and_overwrite_look_at_everything(here: Path, checks: list[str]) -> None:
    probekit.run(config(), repair=True)
    probekit.run(config(), overwrite=True)
    assert checks == ["in full"] * 2
    probekit.run(config())
    assert len(checks) == 2


def test_a_run_that_another_process_writes_is_not_opened_at_once(here: Path) -> None:
    with (
        Lock(RUN / ".lock"),
        pytest.raises(StoreError, match=r"config: store.path: run: another run \(process"),
    ):
        probekit.run(config())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_here_is_still_refused(here: Path) -> None:
    with pytest.raises(ConfigError, match="there is no cuda here"):
        probekit.run(config(model__device="cuda"))


def test_a_file_that_has_just_been_written_is_not_relied_on(
    here: Path, checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_SETTLED_NS", 2_000_000_000)
    os.utime("in.jsonl")
    probekit.run(config())
    probekit.run(config())
    assert checks == ["in full"] * 2


def test_a_file_that_changes_while_it_is_read_is_not_relied_on(
    here: Path, checks: list[str]
) -> None:
    os.utime("in.jsonl")
    probekit.run(config(), on_plan=lambda plan: os.utime("in.jsonl"))
    probekit.run(config())
    assert checks == ["in full"] * 2


def test_a_full_disk_does_not_end_a_run_that_is_whole(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch)

    def full(*given: Any) -> None:
        raise StoreError("run/made.json: cannot be written: No space left on device")

    monkeypatch.setattr("probekit.store.folder.write_record", full)
    assert probekit.run(config()).site_names


def test_notes_of_the_plan_are_told_again(
    here: Path, checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = config(inputs__max_tokens=5, store__path="short")
    told: list[str] = []
    probekit.run(short, on_plan=lambda plan: told.extend(plan.notes))
    assert "longer than 5 tokens" in told[0]
    again: list[str] = []
    probekit.run(short, on_note=again.append)
    assert checks == ["in full"]
    assert again == told


def test_a_model_of_the_hub_is_known_by_what_the_cache_holds(
    done: Path, tmp_path: Path, checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commits = ("a" * 40, "b" * 40)
    cached = tmp_path / "models--lab--tiny"
    for commit in commits:
        shutil.copytree(done / "model", cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commits[0])
    of_hub = config(store__path=str(tmp_path / "run"))
    of_hub["model"] |= {"name": "lab/tiny", "tokenizer": "model/words"}
    names = {file.name for file in files_of(load_config(of_hub)) or ()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json"}
    probekit.run(of_hub)
    probekit.run(of_hub)
    assert checks == ["in full"]
    (cached / "refs" / "main").write_text(commits[1])
    with pytest.raises(StoreError, match="the model on the hub has changed"):
        probekit.run(of_hub)
    assert checks == ["in full"] * 2
