"""Arguments: what public functions are given, as they want it, or an error of ours.

Knows kinds of values; nothing of what they mean.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Mapping
from operator import index
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from probekit.errors import StoreError
from probekit.wording import shorten, show_typed


def whole(name: str, value: Any, *, least: int | None = None) -> int:
    """Give a whole number, numpy's too; at least so large."""
    wanted = "a whole number" if least is None else f"{least} or more"
    try:
        number = index(value)
    except TypeError as error:
        raise StoreError(f"{name} is {show_typed(value)}; expected {wanted}") from error
    if isinstance(value, bool):
        raise StoreError(f"{name} is {show_typed(value)}; expected {wanted}")
    if least is not None and number < least:
        raise StoreError(f"{name} is {number}; expected {wanted}")
    return number


def plain(value: Any) -> Any:
    """Give the lists and numbers that an array of numpy, torch or arrow holds; all else as it is.

    Of a list the items are made plain too, where they are such arrays or their numbers.
    """
    for way in ("tolist", "to_pylist"):
        if hasattr(value, way) and not isinstance(value, type):
            return getattr(value, way)()
    if isinstance(value, list | tuple) and any(hasattr(one, "tolist") for one in value):
        return [plain(one) for one in value]
    return value


def positive(name: str, value: Any) -> float:
    """Give a number above 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not value > 0:
        raise StoreError(f"{name} is {show_typed(value)}; expected a number above 0")
    return float(value)


def text(name: str, value: Any) -> str:
    """Give a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise StoreError(f"{name} is {show_typed(value)}; expected a text")
    return value


def texts(name: str, value: Any) -> list[str]:
    """Give one text, or several, as a list of at least one."""
    given = [value] if isinstance(value, str) else value
    is_list = isinstance(given, Iterable) and not isinstance(given, bytes | Mapping)
    found = list(given) if is_list else []
    if not found or not all(isinstance(one, str) and one for one in found):
        raise StoreError(f"{name} is {show_typed(value)}; expected a text, or a list of texts")
    return found


def path(name: str, value: Any) -> Path:
    """Give a path of this machine that can be looked at, whether or not anything lies there.

    One rule for every path that a user gives: `~` is the home folder, a relative path is relative
    to the current folder, and a URL is none.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise StoreError(f"{name} is {show_typed(value)}; expected a path")
    if (wrong := no_path(os.fspath(value))) is not None:
        raise StoreError(f"{name} is {shorten(os.fspath(value))}, {wrong}")
    found = at_home(value)
    if (reason := unreachable(found)) is not None:
        raise StoreError(f"{shorten(str(found))}: {reason}")
    return found


def no_path(text: str) -> str | None:
    """Say what a text is that can name no file of this machine; None for one that can."""
    if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text):
        return (
            f"a URL; expected a path of this machine: mount what {scheme[1]}: names, or copy it "
            "here"
        )
    if "\0" in text:
        return "which holds a null character; no path does"
    return None


def at_home(value: str | os.PathLike[str]) -> Path:
    """Put the home folder where a path says `~`.

    Raises:
        StoreError: if it is the home of a user that there is not.
    """
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise StoreError(f"{shorten(str(value))}: there is no user of this home folder") from error


def unreachable(path: Path) -> str | None:
    """Say why the system lets nobody look at a path; None where it does, or nothing is there."""
    try:
        is_folder = S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # no rights, a name too long, a loop of links, a broken disk
        return f"cannot be looked at: {error.strerror}"
    if is_folder and not os.access(path, os.R_OK | os.X_OK):
        return f"cannot be looked into: {os.strerror(errno.EACCES)}"
    return None
