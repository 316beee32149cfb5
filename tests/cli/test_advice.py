"""What the command line adds to an error of the library."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from probekit.cli import commands
from probekit.cli.advice import advised
from probekit.errors import StoreError

Told = Callable[[str], str]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    """Run a command that ends in an error; give what it says."""

    def run(line: str) -> str:
        monkeypatch.setattr(sys, "argv", ["probekit", *line.split()])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("max_bytes: given 3", "--max-bytes: given 3"),
        ("max_bytes", "max_bytes"),
        ("dtype: given 3", "dtype: given 3"),
        ("/max_bytes: is full", "/max_bytes: is full"),
    ],
)
def test_an_option_is_called_as_it_is_typed(raised: str, said: str) -> None:
    assert advised(StoreError(raised), {"max_bytes": "--max-bytes"}, {}) == said


def test_a_folder_that_holds_traces_names_them(tmp_path: Path, told: Told) -> None:
    for name in "abcdefg":
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").touch()
    (tmp_path / "another").mkdir()
    names = ", ".join(f"{tmp_path}/{name}" for name in "abcde")
    for command in ("info", "verify", "report", "merge", "compare"):
        more = f" {tmp_path / 'x.h5'}" if command in ("merge", "compare") else ""
        first, last = told(f"{command} {tmp_path}{more}").splitlines()
        assert first.startswith(f"error: {tmp_path}: ")
        assert last == f"7 traces in it: {names} and 2 more"
    assert len(told(f"info {tmp_path / 'another'}").splitlines()) == 1


def test_a_config_with_the_other_ending_is_named(tmp_path: Path, told: Told) -> None:
    assert "did you mean" not in told(f"run {tmp_path}/a.yml")
    (tmp_path / "a.yaml").touch()
    for command in ("run", "plan", "tokens", "modules"):
        assert f"did you mean {tmp_path}/a.yaml?" in told(f"{command} {tmp_path}/a.yml")
    assert "did you mean" not in told(f"run {tmp_path}/a.yaml")


def test_tokens_says_which_examples_there_are(tmp_path: Path, told: Told) -> None:
    texts = {"one": '["Cats are"]', "two": '["Cats are", "Dogs"]'}
    for name, given in texts.items():
        (tmp_path / name).write_text(
            "model: {name: sample:tiny-gpt2}\nprobes: [{sites: resid_post}]\n"
            f"inputs: {{texts: {given}}}\nstore: {{path: run}}\n"
        )
    for line, said in (
        ("one --example 7", "--example: there is no example 7: there is one, 0"),
        ("two --example 2", "--example: there is no example 2: there are 2, 0 to 1"),
        ("two --example -1", "--example: there is no example -1: there are 2, 0 to 1"),
        ("two --examples 0", "--examples: given 0, expected at least 1"),
    ):
        assert told(f"tokens {tmp_path}/{line}").splitlines()[-1] == f"error: {said}"
