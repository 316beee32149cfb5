"""Parameters that several commands take, and how a help text shows them: a flag names no value.

Knows typer; no command.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from probekit.cli.messages import say_stopped

ConfigPath = Annotated[
    Path, typer.Argument(readable=False, metavar="CONFIG", help="A YAML probe config.")
]
TracePath = Annotated[
    Path, typer.Argument(readable=False, metavar="TRACE", help="A run's folder, or an HDF5 file.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, as often as you like: --set model.name=gpt2 "
        "--set 'probes[0].layers=[0, -1]'",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Command(TyperCommand):
    """A command whose flags stand without the type of a value: `--quiet`, not `--quiet <bool>`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Give the parameters, as a help text shows them."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands, likewise; Ctrl-C ends any of them with a word."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say_stopped("stopped")
            raise typer.Exit(128 + signal.SIGINT) from None

    def get_params(self, ctx: Any) -> list[Any]:
        """Give the parameters, as a help text shows them."""
        return _without_types(super().get_params(ctx))


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


def byte_count(text: str) -> int:
    """Read a number of bytes: `512MiB`."""
    from pydantic import TypeAdapter, ValidationError

    from probekit.config import ByteCount

    try:
        return TypeAdapter(ByteCount).validate_python(text)
    except ValidationError as error:
        reason = "expected a number of bytes, or text such as 512MiB, 1GiB or 2GB"
        raise typer.BadParameter(reason) from error
