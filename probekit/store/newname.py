"""Where a new file may be written: one rule for every file that a user names.

Knows names and what lies there; nothing of what is written.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from probekit.errors import StoreError
from probekit.store.format import RUN_FILE, SHARDS_FOLDER, explained

_KINDS = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def new_name(
    path: Path, *, overwrite: bool, is_ours: tuple[str, Callable[[Path], bool]] | None = None
) -> Path:
    """Give the path that a new file is renamed to: `path`, or what it points to.

    A link stays a link: renaming onto it would leave its target as it was, unseen.

    Args:
        path: as the user gave it.
        overwrite: whether any file that is there may be replaced.
        is_ours: which files may be replaced without being asked for, in words, and how they are
            told.

    Raises:
        StoreError: if something is there that must stay, or there is no such folder.
    """
    if str(path) == "-":
        raise StoreError("-: nothing is written to standard output; give the name of a file")
    with explained(path):
        target = path.resolve() if path.is_symlink() else path
        shown = str(path) if target is path else f"{path} (a link to {target})"
        if target.is_dir():
            raise StoreError(f"{shown}: {_instead_of_folder(path, target)}")
        if not target.absolute().parent.is_dir():
            raise StoreError(f"{shown}: there is no folder {target.parent}; make it first")
        if target.exists():
            _refuse_what_is_there(shown, target, overwrite, is_ours)
        _refuse_inside_a_run(shown, target)
    return target


def _instead_of_folder(path: Path, target: Path) -> str:
    if (target / RUN_FILE).exists():
        return "is the folder of a run; give the name of a file outside of it"
    return f"is a folder; give the name of a file, such as {path / 'NAME'}"


def _refuse_what_is_there(
    shown: str,
    target: Path,
    overwrite: bool,
    is_ours: tuple[str, Callable[[Path], bool]] | None,
) -> None:
    if not target.is_file():
        kind = _KINDS.get(stat.S_IFMT(target.stat().st_mode), "a pipe")
        raise StoreError(f"{shown}: is {kind}, no file that can be replaced; give another name")
    if overwrite or (is_ours is not None and is_ours[1](target)):
        return
    but = "" if is_ours is None else f" and is no {is_ours[0]}"
    raise StoreError(
        f"{shown}: exists{but}; give another name, or overwrite it (--overwrite; in Python "
        "overwrite=True)"
    )


def _refuse_inside_a_run(shown: str, target: Path) -> None:
    folder = target.resolve().parent
    run = folder.parent if folder.name == SHARDS_FOLDER else folder
    if (run / RUN_FILE).exists():
        raise StoreError(
            f"{shown}: lies in the folder of a run, {run}, which holds that run's files and no "
            "others; give a name outside of it"
        )
