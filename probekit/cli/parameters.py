"""How commands say their options in a help text: a flag takes no value, and names none.

Knows typer; no command.
"""

from __future__ import annotations

import signal
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from probekit.cli.messages import say_stopped


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
