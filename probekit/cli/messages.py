"""What is said on stderr, a sentence at a time; cheap to import.

Knows sentences and warnings; tables and progress are terminal.py's.
"""

from __future__ import annotations

import sys
import warnings
from typing import TextIO

import typer

from probekit.errors import ProbekitWarning


def say(sentence: str) -> None:
    """Say a sentence."""
    typer.echo(sentence, err=True)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning, ours without the line of code that it came from."""
    ours = issubclass(category, ProbekitWarning)
    text = f"warning: {message}\n" if ours else None
    sys.stderr.write(text or warnings.formatwarning(message, category, filename, lineno))
