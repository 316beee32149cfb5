"""Parameters that several commands take, and how a help text shows them: a flag names no value.

Knows typer; no command.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from probekit.cli.messages import say_stopped
from probekit.cli.stopping import last_words
from probekit.errors import ProbekitError

_WIDE = 80  # columns, from which on frames leave room for what they frame
_NARROWEST = 45
_NAMES = 16  # columns of an option's names; beside longer ones nothing stands


def whole_number(text: str | int) -> int:
    """Read a whole number: `8`."""
    try:
        return int(text)
    except ValueError as error:
        raise typer.BadParameter(f"given {text!r}, expected a whole number") from error


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
HowManyExamples = Annotated[
    int,
    typer.Option(parser=whole_number, metavar="N", help="How many examples, from the first on."),
]
TheseExamples = Annotated[
    list[int] | None,
    typer.Option(
        parser=whole_number,
        metavar="NUMBER",
        help="These examples instead, as often as you like.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Command(TyperCommand):
    """A command whose flags stand without the type of a value: `--quiet`, not `--quiet <bool>`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Give the parameters, as a help text shows them."""
        return _without_types(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; what is wrong with them says of which command."""
        with _of_command(ctx):
            return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help; on a narrow terminal without the frames and columns that squeeze it."""
        columns = shutil.get_terminal_size().columns
        if columns >= _WIDE or "TERMINAL_WIDTH" in os.environ:  # typer's own word for a width
            super().format_help(ctx, formatter)
            return
        formatter.width = max(columns - 1, _NARROWEST)
        formatter.write_dl = partial(formatter.write_dl, col_max=_NAMES)
        rich, self.rich_markup_mode = self.rich_markup_mode, None
        try:
            super().format_help(ctx, formatter)
        finally:
            self.rich_markup_mode = rich

    def invoke(self, ctx: Any) -> Any:
        """Run the command; its errors speak of what was typed."""
        try:
            return super().invoke(ctx)
        except ProbekitError as error:
            from probekit.cli.advice import advised

            options = {p.name: p.opts[0] for p in self.params if p.opts[0].startswith("--")}
            raise ProbekitError(advised(error, options, ctx.params)) from error


class Group(TyperGroup):
    """A group of commands, likewise; Ctrl-C ends any of them with a word."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            with last_words(128 + signal.SIGINT):
                say_stopped("stopped")
            raise typer.Exit(128 + signal.SIGINT) from None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments, likewise."""
        with _of_command(ctx):
            return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """Give the parameters, as a help text shows them."""
        return _without_types(super().get_params(ctx))


@contextmanager
def _of_command(context: Any) -> Iterator[None]:
    """Let an error know the command whose arguments were read: typer leaves it out of some."""
    try:
        yield
    except Exception as error:
        if getattr(error, "ctx", context) is None:
            error.ctx = context  # type: ignore[attr-defined]
        raise


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
        expected = "expected a number of bytes, or text such as 512MiB, 1GiB or 2GB"
        reason = f"given {text!r}, {expected}"
        raise typer.BadParameter(reason) from error
