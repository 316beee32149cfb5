"""What the command line adds to an error of the library: what was typed, and what lies near it.

Knows parameters by their names and looks at paths; opens no trace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from probekit.errors import ProbekitError, printable
from probekit.wording import counted

_SHOWN = 5
_LOOKED_AT = 1000  # entries of a folder; one of data may hold millions
_YAML = {".yaml": ".yml", ".yml": ".yaml"}
_PLACE = (("on", "host"), ("at", "began"))  # of a session
_A_NAME = re.compile(r"(?P<name>[a-z_]+)(?=: )")


def advised(error: ProbekitError, options: Mapping[str, str], given: Mapping[str, Any]) -> str:
    """Say an error in the words of a command line.

    Args:
        error: what the library raised.
        options: how each option of the command is typed, by its name in Python.
        given: the value of each parameter of the command.
    """
    said = str(error)
    if (found := _A_NAME.match(said)) and found["name"] in options:
        said = options[found["name"]] + said[found.end() :]
    for name in ("config", "model"):
        said += _other_ending(given.get(name))
    for name in ("trace", "a", "b"):
        said += _beneath(given.get(name))
    return said


def _other_ending(given: object) -> str:
    """Name the config that lies beside one that is not there: a.yaml beside a.yml."""
    path = Path(str(given))
    if given is None or path.suffix not in _YAML or path.exists():
        return ""
    other = path.with_suffix(_YAML[path.suffix])
    return f"\ndid you mean {printable(str(other))}?" if other.is_file() else ""


def _beneath(given: object) -> str:
    """Name the traces in a folder that is none."""
    from probekit.store import RUN_FILE

    if not isinstance(given, Path) or not given.is_dir() or (given / RUN_FILE).exists():
        return ""
    try:
        found = sorted(p for p in islice(given.iterdir(), _LOOKED_AT) if (p / RUN_FILE).is_file())
    except OSError:  # the error itself says that it cannot be read
        return ""
    if not found:
        return ""
    names = ", ".join(printable(str(path)) for path in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"\n{counted(len(found), 'trace')} in it: {names}{more}"


def last_session(folder: Path) -> str:
    """Say who worked on a run last, on a line of its own; nothing where nobody wrote it down."""
    from probekit.store import sessions_of

    sessions = sessions_of(folder) if folder.is_dir() else []
    if not sessions:
        return ""
    said = {key: value for key, value in sessions[-1].items() if isinstance(value, str)}
    place = "".join(f" {word} {said[key]}" for word, key in _PLACE if key in said)
    return (
        f"\nits last session was begun{place}{': ' + said['command'] if 'command' in said else ''}"
    )
