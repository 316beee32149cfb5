"""Data files: which files of this machine a dataset's `data_files` are.

Knows paths and globs; opens no file.
"""

from __future__ import annotations

import glob
from pathlib import Path

from probekit.arguments import at_home, no_path
from probekit.config import DatasetInputs
from probekit.errors import ConfigError
from probekit.wording import shorten


def local_files(wanted: DatasetInputs) -> tuple[Path, ...]:
    """Give the files that are there, in the order in which they are read; URLs left out."""
    return tuple(
        file
        for pattern in wanted.own_files
        if no_path(pattern) is None
        for file in _files(pattern)
        if file.is_file()
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
        files = [str(file.absolute()) for file in _files(pattern) if file.is_file()]
        if not files:
            place = at_home(pattern).absolute()
            what = "is a folder; write a glob" if place.is_dir() else "there is no such file"
            said = f"{shorten(pattern)} matches no file" if glob.has_magic(pattern) else what
            raise ConfigError(f"{where}.data_files: {said} ({place})")
        found += files
    return found


def _files(pattern: str) -> list[Path]:
    place = str(at_home(pattern))
    if not glob.has_magic(place) or Path(place).is_file():
        return [Path(place)]
    found = glob.glob(place, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    return [Path(path) for path in sorted(found)]
