"""Commands that cannot be read: each is told as all other errors are."""

from __future__ import annotations

import sys

import pytest

from probekit.cli import commands
from probekit.cli.parameters import Command

COMMANDS = (
    "run, plan, tokens, modules, families, info, status, verify, report, compare, merge, schema"
)


def told(arguments: list[str], monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", ["probekit", *arguments])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith("error: ")
    return err.removeprefix("error: ")


@pytest.mark.parametrize(
    ("line", "said", "command"),
    [
        ("ru", f"there is no command 'ru': did you mean run? expected one of {COMMANDS}", ""),
        ("xyz", f"there is no command 'xyz': expected one of {COMMANDS}", ""),
        ("run", "CONFIG is missing: probekit run CONFIG", " run"),
        ("run a b", "b: one argument too many", " run"),
        ("run a b c", "b c: 2 arguments too many", " run"),
        ("report x --examples x", "--examples: given 'x', expected a whole number", " report"),
        ("report x --max-bytes 3z", "--max-bytes: given '3z', expected a number of bytes, or "
         "text such as 512MiB, 1GiB or 2GB", " report"),
        ("info --jason x", "there is no option --jason: did you mean --json? expected one of "
         "--json, --help", " info"),
        ("merge x", "FILE.h5 is missing: probekit merge TRACE FILE.h5", " merge"),
        ("merge", "TRACE is missing: probekit merge TRACE FILE.h5", " merge"),
        ("compare x", "B is missing: probekit compare A B", " compare"),
        ("modules", "MODEL_OR_CONFIG is missing: probekit modules MODEL_OR_CONFIG", " modules"),
        *(
            (f"merge x {o} y.h5", f"there is no option {o}: the file is named without it: "
             "probekit merge TRACE FILE.h5", " merge")
            for o in ("-o", "--out", "--output")
        ),
        ("report x y.html", "y.html: one argument too many; did you mean -o y.html?", " report"),
        ("report x -o", "-o: its value is missing", " report"),
        ("run a --set", "--set: its value is missing", " run"),
        ("run a --quiet=3", "--quiet: takes no value", " run"),
        ("run a --set b = c", "= c: write --set KEY=VALUE with no spaces around =", " run"),
        ("run a --set b= c", "c: write --set KEY=VALUE with no spaces around =", " run"),
        ("run --set b = c a", "c a: write --set KEY=VALUE with no spaces around =", " run"),
        ("run a --set b=c d", "d: one argument too many", " run"),
        ("a.yaml", "there is no command 'a.yaml': did you mean `probekit run a.yaml`?", ""),
        ("a.h5", "there is no command 'a.h5': did you mean `probekit info a.h5`?", ""),
        ("version", "there is no command 'version': did you mean --version?", ""),
        ("help", "there is no command 'help': did you mean --help?", ""),
    ],
)  # fmt: skip
def test_a_wrong_command_is_told_with_what_was_meant(
    line: str, said: str, command: str, monkeypatch, capsys
) -> None:
    err = told(line.split(), monkeypatch, capsys)
    assert err == f"{said}\nsee probekit{command} --help\n"


@pytest.mark.parametrize("command", ["", *COMMANDS.split(", ")])
def test_no_flag_names_the_type_of_a_value(command: str, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    monkeypatch.setattr(sys, "argv", ["probekit", *command.split(), "--help"])
    with pytest.raises(SystemExit):
        commands.main()
    out, err = capsys.readouterr()
    assert err == ""
    assert "--help" in out
    assert "<bool>" not in out and "BOOLEAN" not in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("command", ["", *COMMANDS.split(", ")])
def test_h_is_help(command: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["probekit", *command.split(), "-h"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert not ended.value.code
    assert f"Usage: probekit {command}".strip() in capsys.readouterr().out


@pytest.mark.parametrize("columns", [45, 60, 79])
def test_help_cuts_nothing_on_a_narrow_terminal(columns: int, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in COMMANDS.split(", "):
        monkeypatch.setattr(sys, "argv", ["probekit", command, "--help"])
        with pytest.raises(SystemExit):
            commands.main()
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= columns
        said = " ".join(" ".join(lines).split())
        assert "…" not in said and "Show this message and exit." in said
        if command == "run":
            assert "--set model.name=gpt2 --set 'probes[0].layers=[0, -1]'" in said
            assert "--self-check / --no-self-check" in said


def test_every_command_shows_its_flags_so() -> None:
    for command in commands.app.registered_commands:
        assert command.cls is Command, command.callback
