"""Refusing: what of a place on the disk speaks against a run being written there.

Knows which names are probekit's; writes nothing, but for the folder that `make_folder` makes.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from probekit.errors import StoreError
from probekit.store.claiming import is_claiming
from probekit.store.format import (
    CLAIMS_FOLDER,
    INDEX_FILE,
    INDEX_RECORD,
    INPUTS_FILE,
    INPUTS_RECORD,
    LINKS,
    MADE_FILE,
    OWNED,
    PARTIAL_FILE,
    RUN_FILE,
    SHARDS_FOLDER,
)
from probekit.store.lock import LOCK_FILE
from probekit.store.sealed import SHARD_FILE, shard_files

_ANEW = "--overwrite to begin anew (in Python overwrite=True)"
SCRATCH = ".scratch-"  # names of folders for the time of a run begin so
_FILES = (INDEX_RECORD, INDEX_FILE, INPUTS_RECORD, INPUTS_FILE, MADE_FILE, RUN_FILE)
_OURS = (*_FILES, PARTIAL_FILE, SHARDS_FOLDER, CLAIMS_FOLDER, LOCK_FILE)
_PARTS = "|".join(map(re.escape, (*_FILES, "inputs.aside", *LINKS)))
_PART = re.compile(rf"\.({_PARTS})\.({OWNED}|part)")


def is_part(name: str) -> bool:
    """Say whether a name is that of a file of a run's folder while it is written."""
    return _PART.fullmatch(name) is not None


def make_folder(path: Path, where: str) -> None:
    """Make a run's folder, if it is not there.

    Args:
        path: of the folder.
        where: the place in the user's config that names it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StoreError(f"{where}: {path} {_IS_A_FILE}") from error
    except OSError as error:
        raise StoreError(f"{where}: {path} cannot be made: {error.strerror}") from error


_IS_A_FILE = "is a file; expected a folder, or a new name"


def in_the_way(path: Path) -> str | None:
    """Say what lies where a folder should be made; None where nothing does, or nobody may look."""
    try:
        there = _nearest(path)
        if there.is_dir():
            return None
    except OSError:
        return None
    if there == path.absolute():
        return _IS_A_FILE
    return f"cannot be made: {os.strerror(errno.ENOTDIR)} ({there})"


def closed(path: Path) -> str | None:
    """Say what the system has against a folder at a path, or against writing into it."""
    try:
        there = _nearest(path)
    except OSError as error:  # a name too long, a folder that may not be looked into
        return f"cannot be used: {error.strerror}"
    if os.access(there, os.W_OK | os.X_OK):
        return None
    what = "written" if there == path.absolute() else "made"
    return f"cannot be {what}: {os.strerror(errno.EACCES)} ({there})"


def _nearest(path: Path) -> Path:
    """Give a path, or the nearest above it, that is there, if only as a link to nothing."""
    above = (path.absolute(), *path.absolute().parents)
    return next(p for p in above if p.exists() or p.is_symlink())


def refuse_foreign(path: Path, where: str) -> None:
    """Refuse a folder that holds files of others.

    Raises:
        StoreError: naming some.
    """
    there = [p.name for p in path.iterdir() if not p.name.startswith(SCRATCH)]
    foreign = sorted(n for n in there if n not in _OURS and not is_part(n))
    inside = (path / SHARDS_FOLDER).glob("*")
    foreign += sorted(f"shards/{p.name}" for p in inside if not SHARD_FILE.fullmatch(p.name))
    claims = (path / CLAIMS_FOLDER).glob("*")
    foreign += sorted(f"{CLAIMS_FOLDER}/{p.name}" for p in claims if not is_claiming(p.name))
    if foreign:
        raise StoreError(
            f"{where}: {path} holds files that are not probekit's ({', '.join(foreign[:5])}); "
            "give an empty or a new folder"
        )


def refuse_orphans(path: Path, where: str) -> None:
    """Refuse shards whose run.json is gone: nothing says that they are of this run.

    Raises:
        StoreError: saying what to do.
    """
    if (path / INDEX_FILE).exists() or shard_files(path):
        raise StoreError(
            f"{where}: {path} holds shards, but no {RUN_FILE} that says of which run; "
            f"give another store.path, or {_ANEW}"
        )


def another_run(path: Path, what: str) -> str:
    """Say that a folder holds another run, and in what it differs."""
    return f"{path} holds another run ({what}); give another store.path, or {_ANEW}"
