"""The reference of the command line, from the commands themselves.

Knows how a command says its parameters; no command by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from probekit.cli.commands import app


def commands_page() -> str:
    """Write a section for each command: how it is called, what it does, its arguments."""
    group: Any = typer.main.get_command(app)
    context = typer.Context(group, info_name="probekit")
    return "\n".join(
        line
        for name, command in group.commands.items()
        for line in _command(command, typer.Context(command, info_name=name, parent=context))
    )


def _command(command: Any, context: Any) -> Iterator[str]:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    usage = usage.replace("{", "").replace("}", "")  # typer's sign of what must be there
    yield f"## `{context.command_path}`\n"
    yield f"```text\n{usage}\n```\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    yield "| | |\n|---|---|"
    for parameter in command.get_params(context):
        if "--help" not in parameter.opts:
            yield f"| {_spelled(parameter)} | {_meant(parameter)} |"
    yield ""


def _spelled(parameter: Any) -> str:
    metavar = parameter.metavar or parameter.name.upper()
    if parameter.param_type_name == "argument":
        return f"`{metavar}`"
    names = [*parameter.opts, *parameter.secondary_opts]
    value = "" if parameter.is_flag else f" {metavar}"
    return ", ".join(f"`{name}{value}`" for name in names)


def _meant(parameter: Any) -> str:
    text = (parameter.help or "").replace("|", r"\|")
    default = parameter.default
    shown = parameter.param_type_name == "option" and not parameter.is_flag
    return f"{text} Default: `{default}`." if shown and default not in (None, ()) else text
