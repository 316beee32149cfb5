"""The first look: what needs no model is told before torch is imported, and all of it together."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import by_hand
import pytest
import yaml

import probekit
from probekit.errors import ConfigError, Fault, PlanError, StoreError, raise_together

WITHOUT_TORCH = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from probekit import cli
found = {}
for name, arguments in json.load(sys.stdin).items():
    sys.argv = ["probekit", *arguments]
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        code = end.code
    heavy = sorted({"torch", "transformers"} & set(sys.modules))
    found[name] = [code, out.getvalue() + err.getvalue(), heavy]
json.dump(found, sys.stdout)
"""

DATA = {
    "good.jsonl": '{"text": "Cats are"}\n',
    "field.jsonl": '{"body": "Cats are"}\n',
    "bad.jsonl": '{"text": "Cats"}\nnope\n{"text": 3}\n{"text": ""}\n',
    "data.xyz": "Cats\n",
    "empty.txt": "\n\n",
    "latin.csv": b"text\nna\xefve\n",
    "two.csv": "text,text\na,b\n",
    "zeros.gguf": b"\0" * 64,
}
AT = "a.yaml:{line}: "  # where a key stands
MISTAKES: Mapping[str, tuple[dict[str, Any], str]] = {  # by what is wrong: changes, what is said
    "no folder": ({"model.name": "./gone"}, AT + "model.name: there is no folder"),
    "no gguf": ({"model.name": "gone.gguf"}, AT + "model.name: there is no file"),
    "no GGUF": ({"model.name": "zeros.gguf"}, AT + "model.name: .*it is no GGUF file"),
    "no config.json": ({"model.name": "./hollow"}, AT + "model.name: .*there is no config.json"),
    "pickled": ({"model.name": "./pickled"}, AT + "model.name: the weights in pickled are pickled"),
    "no data": ({"inputs.file": "gone.jsonl"}, AT + "inputs.file: there is no file"),
    "no field": ({"inputs.file": "field.jsonl"}, "field.jsonl:1: there is no field 'text'"),
    "bad lines": (
        {"inputs.file": "bad.jsonl"},
        "bad.jsonl:2: is not JSON.*\n.*bad.jsonl:3: .*expected a text\n.*bad.jsonl:4: .*empty",
    ),
    "odd ending": ({"inputs.file": "data.xyz"}, AT + "inputs.file: .*ending that is not known"),
    "no texts": ({"inputs.file": "empty.txt"}, "inputs.*there are no texts in it"),
    "not UTF-8": ({"inputs.file": "latin.csv"}, "latin.csv:2: is not UTF-8"),
    "a column twice": ({"inputs.file": "two.csv"}, "two.csv:1: names the column 'text' twice"),
    "a file at store.path": (
        {"store.path": "good.jsonl"},
        AT + "store.path: good.jsonl is a file; expected a folder, or a new name",
    ),
    "a file above store.path": (
        {"store.path": "good.jsonl/run"},
        AT + r"store.path: good.jsonl/run cannot be made: Not a directory \(.*good.jsonl\)",
    ),
    "foreign files": (
        {"store.path": "thesis"},
        AT + r"store.path: thesis holds files that are not probekit's \(chapter.tex\)",
    ),
}
OF_A_RUN: Mapping[str, tuple[dict[str, Any], str]] = {  # what a plan may still be made in spite of
    "no tokenizer": ({"model.name": "./untold"}, AT + "model.name: there is no tokenizer in"),
    "no tokenizer folder": (
        {"model.tokenizer": "./gone"},
        AT + "model.tokenizer: there is no folder",
    ),
    "no weights": (
        {"model.name": "./untold", "model.tokenizer": "sample:tiny-gpt2"},
        AT + "model.name: .*there is no file named model.safetensors",
    ),
    "another run": (
        {"store.path": "begun"},
        AT + r"store.path: begun holds another run \(seed: was 7, now 0\); give another",
    ),
    "orphans": (
        {"store.path": "orphans"},
        AT + "store.path: orphans holds shards, but no run.json",
    ),
}


def plain() -> dict[str, Any]:
    return {
        "model": {"name": "sample:tiny-gpt2", "tokenizer": None},
        "inputs": {"file": "good.jsonl"},
        "probes": [{"sites": "resid_post"}],
        "store": {"path": "runs/a"},
    }


def write(file: Path, changes: Mapping[str, Any]) -> str:
    """Write a config and give its text."""
    config = plain()
    for key, value in changes.items():
        section, _, name = key.partition(".")
        config[section][name] = value
    file.write_text(yaml.safe_dump(config))
    return file.read_text()


def expected(said: str, changes: Mapping[str, Any], text: str) -> str:
    """Put in the line on which the changed key stands."""
    name = next(iter(changes)).partition(".")[2]
    lines = [n for n, line in enumerate(text.splitlines(), 1) if line.startswith(f"  {name}: ")]
    return said.replace("{line}", str(lines[0] if lines else 0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with data, and with models and runs of which something is missing."""
    folder = tmp_path_factory.mktemp("first")
    for name, content in DATA.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
    for name in ("hollow", "pickled", "untold", "thesis", "orphans/shards"):
        (folder / name).mkdir(parents=True)
    (folder / "pickled" / "pytorch_model.bin").write_bytes(b"\x80")
    for name in ("pickled", "untold"):
        (folder / name / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "thesis" / "chapter.tex").write_text("five years of work")
    (folder / "orphans" / "shards" / "00000.h5").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("probekit.capture.read._SETTLED_NS", 0)  # all of it was written just now
        probekit.run(plain() | {"seed": 7, "store": {"path": "begun"}})
        probekit.run(plain() | {"store": {"path": "done"}})
    return folder


def ended(folder: Path, commands: Mapping[str, list[str]]) -> dict[str, list[Any]]:
    """Carry commands out, in one fresh process; gives code, words, and the libraries loaded."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found


def test_what_needs_no_model_is_told_before_torch_is_imported(folder: Path) -> None:
    commands, said = {}, {}
    for number, (what, (changes, words)) in enumerate({**MISTAKES, **OF_A_RUN}.items()):
        (folder / f"{number}").mkdir()
        file = folder / f"{number}" / "a.yaml"
        text = write(file, changes)
        for command in ("run", "plan") if what in MISTAKES else ("run",):
            commands[f"{command}: {what}"] = [command, str(file)]
            said[f"{command}: {what}"] = expected(words, changes, text)
    write(folder / "done.yaml", {"store.path": "done"})
    (folder / "bad.yaml").write_text("model: {nmae: gpt2}\n")
    for name, words in {
        "gone.yaml": "no such file",
        "bad.yaml": "bad.yaml:1: model.nmae: unknown key",
        "./gone": "there is no folder",
        "hollow/../hollow": "there is no config.json",
    }.items():
        commands[f"modules {name}"], said[f"modules {name}"] = ["modules", name], words
    commands["finished"], said["finished"] = ["run", "done.yaml"], "complete already; nothing to do"
    found = ended(folder, commands)

    wrong = {
        what: (code, words, heavy)
        for what, (code, words, heavy) in found.items()
        if code != (0 if what == "finished" else 2) or heavy or not re.search(said[what], words)
    }
    assert not wrong


@pytest.mark.slow  # it imports torch
def test_the_check_for_torch_can_fail(folder: Path) -> None:
    write(folder / "fine.yaml", {})
    ((code, _, heavy),) = ended(folder, {"plan": ["plan", "fine.yaml"]}).values()
    assert code == 0
    assert heavy == ["torch", "transformers"]


def test_mistakes_of_several_kinds_are_told_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    config = plain() | {"inputs": {"file": "gone.jsonl"}, "store": {"path": "thesis"}}
    config["model"]["name"] = "./gone"
    for call in (probekit.run, probekit.plan):
        with pytest.raises(ConfigError) as told:
            call(config)
        assert [line.split(": ")[1] for line in str(told.value).splitlines()] == [
            "model.name",
            "inputs.file",
            "store.path",
        ]


def test_a_plan_says_what_would_be_in_the_way_of_its_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for path in ("begun", "orphans"):
        plan = probekit.plan(plain() | {"store": {"path": path}})
        assert f"store.path: {path} holds " in plan.notes[-1]
    assert not probekit.plan(plain() | {"store": {"path": "done"}}).notes


def test_a_run_that_is_begun_anew_may_take_the_place_of_another(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name in ("begun", "orphans", "thesis"):
        shutil.copytree(folder / name, tmp_path / name)
    for name in ("begun", "orphans"):
        config = plain() | {"store": {"path": str(tmp_path / name)}}
        assert probekit.run(config, overwrite=True).site_names
    with pytest.raises(StoreError, match=r"config: store.path: .*not probekit's \(chapter.tex\)"):
        probekit.run(plain() | {"store": {"path": str(tmp_path / "thesis")}}, overwrite=True)


def test_the_texts_of_a_run_may_be_gone_once_it_has_sealed_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "good.jsonl", tmp_path)
    probekit.run(plain())
    Path("good.jsonl").unlink()
    notes: list[str] = []
    for file in (Path("runs/a/trace.h5"), Path("runs/a/trace.json")):
        file.unlink()
    probekit.run(plain(), on_plan=lambda plan: notes.extend(plan.notes))
    assert "is gone; the run goes on with the texts that it has sealed" in notes[0]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user without rights")
def test_a_folder_without_rights_is_told_with_its_line(tmp_path: Path) -> None:
    tmp_path.parent.chmod(0o755)
    tmp_path.chmod(0o755)
    (tmp_path / "good.jsonl").write_text(DATA["good.jsonl"])
    text = write(tmp_path / "a.yaml", {"store.path": "runs/a"})
    line = text.splitlines().index("  path: runs/a") + 1
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = subprocess.run(
        [*user, sys.executable, "-m", "probekit", "run", "a.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": "/nonexistent"},
    )
    assert done.returncode == 2
    said = rf"a.yaml:{line}: store.path: runs/a cannot be (made|used): Permission denied"
    assert re.search(said, done.stderr), done.stderr


def test_what_is_found_stays_of_its_kind_where_it_is_of_one() -> None:
    raise_together([])
    store, plan = StoreError("a: full"), PlanError("b: wrong")
    with pytest.raises(StoreError, match=r"^a: full$") as alone:
        raise_together([store])
    assert alone.value is store
    with pytest.raises(StoreError, match=r"^a: full\na: full$"):
        raise_together([store, store])
    with pytest.raises(ConfigError, match=r"^a: full\nb: wrong\nc: odd$") as several:
        raise_together([store, plan, Fault("c", "odd")])
    assert several.value.faults == (Fault("c", "odd"),)


def test_the_words_of_a_saved_model_are_not_missed(tmp_path: Path) -> None:
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    by_hand.save_words(model)
    config = by_hand.config(model, tmp_path / "t", probes=[{"sites": "resid_post"}])
    del config["model"]["tokenizer"]
    assert probekit.run(config).site_names
