"""What is said on stderr, a sentence at a time; cheap to import.

Knows sentences and warnings; tables and progress are terminal.py's.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import TextIO

import typer

from probekit.errors import ProbekitWarning


def say(sentence: str) -> None:
    """Say a sentence."""
    typer.echo(sentence, err=True)


def hush() -> Callable[[str], None]:
    """Leave out what warns or shows progress, from here on: ours, and that of other libraries.

    Returns:
        what says nothing, in the place of `say`.
    """
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when huggingface_hub is imported
    warnings.showwarning = _unsaid
    return _unsaid


def _unsaid(*said: object) -> None:
    """Say nothing."""


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
