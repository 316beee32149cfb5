"""What is said of a command that cannot be read: in the words of all other errors.

Knows what typer finds wrong, by its messages: its exceptions are no part of what it exports.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from probekit.wording import by_count, one_of

_MISSING = re.compile(
    r"Missing (?:argument|option|parameter):? ?'?(?P<name>[^']*?)'?\.?(?:\n.*)?$", re.S
)
_NO_COMMAND = re.compile(r"No such command '?(?P<name>[^']*)'?\.")
_NO_OPTION = re.compile(r"No such option:? '?(?P<name>-[^\s']*)")
_TOO_MANY = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((?P<names>.*)\)$", re.S)
_OUT, _FILE = ("-o", "--out", "--output"), "FILE.h5"  # as `report` and others have it
_NO_VALUE = re.compile(r"Option '?(?P<name>-[^\s']*)'? requires an argument")
_A_VALUE = re.compile(r"Option '?(?P<name>-[^\s']*)'? does not take a value")
_WRONG = re.compile(r"Invalid value for '?(?P<name>[^':]*)'?: (?P<why>.*)$", re.S)


def said_of_usage(error: Any) -> str:
    """Say what is wrong with a command, and where its help is.

    Args:
        error: what typer raised: an exception with `format_message`.
    """
    message, context = str(error.format_message()), getattr(error, "ctx", None)
    command = getattr(context, "command_path", "probekit")
    return f"{_said(message, context)}\nsee {command} --help"


def _said(message: str, context: Any) -> str:
    command = getattr(context, "command", None)
    if found := _NO_COMMAND.match(message):
        return f"there is no command {found['name']!r}: {_meant(found['name'], command, context)}"
    if found := _NO_OPTION.match(message):
        name = found["name"]
        if name in _OUT and _FILE in _arguments(command):
            return f"there is no option {name}: the file is named without it: {_form(context)}"
        return f"there is no option {name}: {one_of(name, _options(command, context))}"
    if found := _MISSING.match(message):
        return f"{found['name']} is missing: {_form(context)}"
    if found := _TOO_MANY.match(message):
        if any("=" not in setting[:-1] for setting in context.params.get("settings") or ()):
            return f"{found['names']}: write --set KEY=VALUE with no spaces around ="
        n = len(found["names"].split())
        if n == 1 and "--out" in _options(command, context):
            return f"{found['names']}: one argument too many; did you mean -o {found['names']}?"
        return f"{found['names']}: {by_count(n, 'one argument', f'{n} arguments')} too many"
    if found := _NO_VALUE.match(message):
        return f"{found['name']}: its value is missing"
    if found := _A_VALUE.match(message):
        return f"{found['name']}: takes no value"
    if found := _WRONG.match(message):
        return f"{found['name']}: {found['why']}"
    return message


def _form(context: Any) -> str:
    """Write how a command is called, with the names of what it must be given."""
    return " ".join([context.command_path, *_arguments(context.command)])


def _arguments(command: Any) -> list[str]:
    there = [p for p in getattr(command, "params", ()) if p.param_type_name == "argument"]
    return [str(p.metavar) for p in there if p.required]


def _meant(name: str, command: Any, context: Any) -> str:
    """Say what was meant by a command that there is not: a path is what most commands take."""
    from probekit.store import RUN_FILE

    if name.endswith((".yaml", ".yml")):
        return f"did you mean `probekit run {shlex.quote(name)}`?"
    if name.endswith(".h5") or Path(name, RUN_FILE).exists():
        return f"did you mean `probekit info {shlex.quote(name)}`?"
    if f"--{name}" in _options(command, context):
        return f"did you mean --{name}?"
    return one_of(name, _commands(command))


def _commands(command: Any) -> list[str]:
    return [*getattr(command, "commands", {})]


def _options(command: Any, context: Any) -> list[str]:
    parameters = command.get_params(context) if command is not None else []
    names = [name for p in parameters for name in (*p.opts, *p.secondary_opts)]
    return [name for name in names if name.startswith("--")]
