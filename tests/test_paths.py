"""One rule for every path that a user gives: in a config, on the command line, in Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import probekit
from probekit import ConfigError, ProbekitError, cli

LONG = "x" * 300
URLS = ("s3://bucket/run", "https://a.b/c.jsonl", "gs://x", "hf://datasets/a/b.jsonl")


@pytest.fixture
def loop(tmp_path: Path) -> Path:
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path / "loop"


def config(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "model": {"name": "sample:tiny-gpt2"},
        "inputs": {"texts": ["Cats are"]},
        "probes": [{"sites": "resid_post"}],
        "store": {"path": "runs/a"},
    }
    return plain | changes


def command(*arguments: str, folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "probekit", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": str(folder / "home")},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("key", ["store.path", "inputs.file", "model.name", "model.tokenizer"])
def test_a_url_in_a_config_is_refused_with_what_to_do(key: str, url: str) -> None:
    section, _, name = key.partition(".")
    plain = config()
    changed = {name: url} if key == "inputs.file" else plain[section] | {name: url}
    with pytest.raises(ConfigError, match=rf"{key}.*a URL; expected .*copy it here"):
        probekit.plan(plain | {section: changed})


@pytest.mark.parametrize("url", URLS)
def test_a_url_elsewhere_is_refused_too(url: str) -> None:
    for call in (probekit.open, probekit.verify, probekit.plan, probekit.run):
        with pytest.raises(ProbekitError, match="a URL; expected"):
            call(url)


def test_every_command_refuses_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("info", "verify", "plan", "run", "report"):
        monkeypatch.setattr(sys, "argv", ["probekit", name, URLS[0]])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert "a URL; expected" in said


def test_home_is_the_home_folder_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("Cats are\n")
    made = probekit.run(config(inputs={"file": "~/in.txt"}, store={"path": "~/runs/a"}))
    assert Path(made.path).is_relative_to(tmp_path / "runs" / "a")
    assert not (tmp_path / "~").exists()
    assert probekit.open("~/runs/a").site_names == made.site_names
    assert probekit.verify("~/runs/a").whole
    made.merge("~/one.h5")
    made.report("~/page.html")
    assert (tmp_path / "one.h5").exists()
    assert (tmp_path / "page.html").exists()
    nobody = config(store={"path": "~nobody-by-this-name/x"})
    with pytest.raises(ProbekitError, match="there is no user of this home folder"):
        probekit.plan(nobody)


def test_a_path_that_the_system_refuses_is_an_error_of_ours(tmp_path: Path, loop: Path) -> None:
    for path in (LONG, str(loop), f"{loop}/x", "a\0b"):
        for call in (probekit.open, probekit.verify, probekit.plan):
            with pytest.raises(ProbekitError):
                call(path)
        for ending in ("", ".txt", ".jsonl", ".csv", ".parquet"):
            with pytest.raises(ProbekitError):
                probekit.plan(config(inputs={"file": f"{path}{ending}"}))
        with pytest.raises(ProbekitError):
            probekit.run(config(store={"path": path}))
        with pytest.raises(ProbekitError):
            probekit.plan(config(model={"name": path}))


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user without rights")
def test_a_path_without_rights_is_an_error_of_ours(tmp_path: Path) -> None:
    """As a user who may not read the file, nor look into the folder."""
    import yaml

    tmp_path.parent.chmod(0o755)
    (tmp_path / "in.txt").write_text("Cats are\n")
    (tmp_path / "closed").mkdir()
    (tmp_path / "open.yaml").write_text(yaml.safe_dump(config()))
    (tmp_path / "closed.yaml").write_text(yaml.safe_dump(config()))
    for name in ("in.txt", "closed", "closed.yaml"):
        (tmp_path / name).chmod(0)
    tmp_path.chmod(0o755)
    script = """
import sys, probekit
from probekit import ProbekitError
from probekit.config import load_config
base = load_config("open.yaml")
tries = {
    "open": lambda: probekit.open("closed"), "open2": lambda: probekit.open("closed/x"),
    "verify": lambda: probekit.verify("closed/x"), "plan": lambda: probekit.plan("closed.yaml"),
    "file": lambda: probekit.plan(base, overrides=["inputs.texts=null", "inputs.file=in.txt"]),
    "store": lambda: probekit.run(base, overrides=["store.path=closed/x"]),
    "model": lambda: probekit.plan(base, overrides=["model.name=closed/x"]),
    "folder": lambda: probekit.plan(base, overrides=["model.name=./closed"]),
}
for name, call in tries.items():
    try:
        call()
    except ProbekitError as error:
        print(name, "ours", error)
    else:
        print(name, "nothing")
"""
    done = subprocess.run(
        [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            sys.executable,
            "-c",
            script,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "HOME": "/nowhere",
            "PYTHONPATH": str(Path(probekit.__file__).parents[1]),
        },
    )
    if "ModuleNotFoundError" in done.stderr or "can't open" in done.stderr:
        pytest.skip("another user may not read this environment")
    lines = done.stdout.splitlines()
    assert len(lines) == 8, done.stderr
    assert all(" ours " in line for line in lines), done.stdout
