"""The line that says what a command is doing before there is progress."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from probekit.cli import starting as module
from probekit.cli.starting import Following, Starting
from probekit.stages import TEXTS, WEIGHTS


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_for(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in the place of stderr; in a test itself, since pytest puts its own before."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    return found


def shown(screen: str) -> list[str]:
    """Give the lines a terminal still shows: what was erased is gone."""
    lines = [""]
    for piece in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", screen):
        if piece == "\x1b[2K":
            lines[-1] = ""
        elif piece.endswith("A") and piece.startswith("\x1b["):
            lines.pop()
        elif piece == "\n":
            lines.append("")
        elif not piece.startswith(("\x1b", "\r")):
            lines[-1] += piece
    return [line for line in lines if line]


def test_a_terminal_shows_one_stage_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = terminal_for(monkeypatch)
    with Starting() as starting:
        starting.stage(TEXTS)
        assert shown(terminal.getvalue()) == [TEXTS]
        starting.stage(WEIGHTS)
        assert shown(terminal.getvalue()) == [WEIGHTS]
        print("note: odd", file=sys.stderr)
        assert "note: odd" in shown(terminal.getvalue())
    assert shown(terminal.getvalue()) == ["note: odd"]
    assert sys.stderr is terminal


def test_the_line_is_gone_before_progress_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_for(monkeypatch)
    seen: list[Any] = []

    @contextmanager
    def progress() -> Iterator[Any]:
        seen.append(shown(terminal.getvalue()))
        yield seen.append
        seen.append("end")

    with Starting() as starting, Following(starting, progress) as show:
        starting.stage(WEIGHTS)
        assert not seen
        show("first")  # type: ignore[arg-type]
        show("second")  # type: ignore[arg-type]
    assert seen == [[], "first", "second", "end"]


def test_the_line_is_gone_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_for(monkeypatch)
    with pytest.raises(KeyboardInterrupt), Starting() as starting:
        starting.stage(WEIGHTS)
        raise KeyboardInterrupt
    assert not shown(terminal.getvalue())


def test_elsewhere_only_what_takes_long_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []

    class Now:
        """A timer that goes off at once for the weights, and never for the texts."""

        def __init__(self, wait_s: float, function: Any, given: Any) -> None:
            waited.append(wait_s)
            self.start = lambda: function(*given) if WEIGHTS in given[0] else None

        def cancel(self) -> None: ...

    monkeypatch.setattr(module, "Timer", Now)
    with Starting() as starting:
        starting.stage(TEXTS)
        starting.stage(WEIGHTS)
    assert capsys.readouterr() == ("", f"{WEIGHTS} ...\n")
    assert waited == [10.0, 10.0]


def test_quiet_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_for(monkeypatch)
    with Starting(quiet=True) as starting:
        starting.stage(WEIGHTS)
    assert not terminal.getvalue()


@pytest.mark.slow  # a run in a process of its own, with torch
def test_a_run_says_on_a_terminal_what_it_is_doing(tmp_path: Path) -> None:
    config = {
        "model": {"name": "sample:tiny-gpt2"},
        "inputs": {"texts": ["Cats are"]},
        "probes": [{"sites": "resid_post"}],
        "store": {"path": "run"},
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "probekit", "run", "a.yaml"]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, cwd=tmp_path, stderr=theirs, stdout=theirs, env=env) as ran:
        os.close(theirs)
        said = b""
        try:
            while data := os.read(ours, 4096):
                said += data
        except OSError:  # the other side is closed
            pass
    os.close(ours)
    assert ran.returncode == 0
    text = said.decode()
    places = [
        text.index(words)
        for words in ("importing torch", "reading the model's config", "loading the tokenizer")
    ]
    places += [text.index(words) for words in ("loading the weights", "self-check", "1/1")]
    assert places == sorted(places)
    assert not any("self-check" in line for line in shown(text.replace("\r\n", "\n")))


def test_reading_a_gguf_file_shows_no_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tqdm.auto import tqdm
    from transformers import modeling_gguf_pytorch_utils as reading
    from transformers.utils import logging

    monkeypatch.setattr(reading, "tqdm", tqdm)  # as it is before any command ran here
    list(reading.tqdm([1, 2], desc="Converting"))
    assert "Converting" in capsys.readouterr().err
    shown = logging.is_progress_bar_enabled()
    try:
        module.calm_transformers()
        module.calm_gguf()
        assert list(reading.tqdm([1, 2], desc="Converting")) == [1, 2]
    finally:
        if shown:
            logging.enable_progress_bar()
    assert capsys.readouterr() == ("", "")


def test_what_datasets_cannot_read_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{broken\n')
    config = {
        "model": {"name": "sample:tiny-gpt2"},
        "inputs": {"dataset": {"name": "json", "data_files": "rows.jsonl"}},
        "probes": [{"sites": "resid_post"}],
        "store": {"path": "run"},
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    there = {k: v for k, v in os.environ.items() if k != "DATASETS_VERBOSITY"}
    own = {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "probekit", "plan", "a.yaml"],
        cwd=tmp_path,
        env=there | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: a\.yaml:\d+: inputs\.dataset: rows\.jsonl cannot be loaded: JSON parse error: "
        r"[^\n]* in row 1\n",
        done.stderr,
    )
