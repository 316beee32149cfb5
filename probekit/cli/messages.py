"""What is said on stderr, a sentence at a time; cheap to import.

Knows sentences and warnings; tables and progress are terminal.py's.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import TextIO

from probekit.errors import ProbekitWarning


def say(sentence: str) -> None:
    """Say a sentence, on a line of its own; above a progress bar, where there is one."""
    # Through sys.stderr as it is now: rich puts its own there while it shows a bar.
    print(sentence, file=sys.stderr, flush=True)


def say_stopped(sentence: str) -> None:
    """Say that the program was told to end, on a line without the `^C` of the terminal."""
    if sys.stderr.isatty():
        dumb = os.environ.get("TERM", "dumb") == "dumb"
        sys.stderr.write("\n" if dumb else "\r\x1b[K")
    say(sentence)


def hush() -> None:
    """Leave out what warns or shows progress, from here on: ours, and that of other libraries."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when huggingface_hub is imported
    warnings.showwarning = _unsaid


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
