"""Data files: which files of this machine a dataset's `data_files` are.

Knows paths and globs; opens no file.
"""

from __future__ import annotations

import glob
import stat
from pathlib import Path

from probekit.arguments import at_home, no_path
from probekit.config import DatasetInputs
from probekit.errors import ConfigError
from probekit.wording import shorten

_SHOWN = 200  # characters of a path in a message


def local_files(wanted: DatasetInputs) -> tuple[Path, ...]:
    """Give the files that are there, in the order in which they are read; URLs left out."""
    return tuple(
        file
        for pattern in wanted.own_files
        if no_path(pattern) is None
        for file in _files(pattern)
        if _is_file(file)
    )


def check_files(wanted: DatasetInputs, where: str) -> list[str]:
    """Give what a builder is to read: paths of this machine written out, and URLs as they are.

    Raises:
        ConfigError: naming the first that is no file, or a glob that matches none.
    """
    found: list[str] = []
    for pattern in wanted.own_files:
        if no_path(pattern) is not None:
            found.append(pattern)
            continue
        files = [str(file.absolute()) for file in _files(pattern) if _is_file(file)]
        if not files:
            raise ConfigError(f"{where}.data_files: {_instead(pattern)}")
        found += files
    return found


def _files(pattern: str) -> list[Path]:
    place = str(at_home(pattern))
    if not glob.has_magic(place) or _is_file(Path(place)):
        return [Path(place)]
    found = glob.glob(place, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    return [Path(path) for path in sorted(found)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file has, or a folder that may not be looked into
        return False


def _instead(pattern: str) -> str:
    """Say what there is in the place of files."""
    place = at_home(pattern).absolute()
    shown = shorten(str(place), _SHOWN)
    if glob.has_magic(pattern):
        return f"{shorten(pattern)} matches no file ({shown})"
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:
        return f"there is no such file ({shown})"
    except OSError as error:
        return f"cannot be read: {error.strerror} ({shown})"
    if stat.S_ISDIR(mode):
        return f"is a folder; write a glob ({shown})"
    return f"is no plain file (a device, a pipe or a socket: {shown})"
