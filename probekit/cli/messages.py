"""What is said, a sentence at a time, and what is printed as JSON; cheap to import.

Knows sentences and warnings; tables and progress are terminal.py's.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO

import typer

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
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # and this, when datasets is
    warnings.showwarning = _unsaid


def calm_datasets() -> None:
    """Have the library datasets log no errors: ours say them, once."""
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # read when datasets is imported


def _unsaid(*said: object, **more: object) -> None:
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


def say_next(folder: Path) -> None:
    """Say how what was recorded is looked at."""
    typer.echo(f"look at it: probekit report {shlex.quote(str(folder))} -o report.html")
    typer.echo(f"in Python:  trace = probekit.open({json.dumps(str(folder), ensure_ascii=False)})")


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    text = json.dumps(value, indent=2, ensure_ascii=not unicode)
    # What does not print stands in names and texts alone, and JSON has an escape for it there.
    typer.echo("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))
