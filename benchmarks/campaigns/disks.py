"""Starved: disks that are full, read-only or closed, limits of the process, things in the way.

What must hold then: one message that names the place and the reason, code 2, no traceback; sealed
shards whole; and the same command goes on to the same bytes once there is room.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from campaigns.children import Ended, run_probekit
from campaigns.kills import COMMAND, Watched, finish
from campaigns.runs import FOLDER, Undisturbed
from campaigns.tally import Runs, Tally

_FORCED = (*COMMAND, "--force")  # the disk is known to be too small: how the run fails is asked
_NOBODY = 65534


def starve(n: int, chance: Random, scratch: Path, runs: Runs, tally: Tally) -> None:
    """Let runs run into n limits, in turn of each kind."""
    kinds = {
        **EVERYWHERE,
        **(ON_DISKS if _can_mount(scratch) else {}),
        **(AS_ROOT if os.geteuid() == 0 else {}),
    }
    in_turn = cycle(chance.sample(list(kinds), len(kinds)))
    for kind in islice(in_turn, n):
        run = runs[chance.choice(list(runs))]
        place = run.fresh(scratch / "starved")
        try:
            ended = kinds[kind].starve(run, place, chance)
            spared = ended.code == 0  # it had enough
            problems = [] if spared else _unclear(ended, kinds[kind])
            kinds[kind].relieve(place)
            shown = f"{kind}, but enough" if spared else kind
            tally.count(shown, problems + finish(run, place))
        finally:
            _unmount(place)


def _unclear(ended: Ended, way: _Way) -> list[str]:
    said = ended.refused and way.place in ended.err and any(r in ended.err for r in way.reasons)
    return [] if said else [f"none of {way.reasons} said clearly: {ended}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """A way to starve a run."""

    starve: Callable[[Undisturbed, Path, Random], Ended]
    reasons: tuple[str, ...]  # one of them must be said
    relieve: Callable[[Path], None] = lambda place: None
    place: str = FOLDER  # must be named too


# --- limits of the process


@dataclass(frozen=True, slots=True)
class _Limited:
    """Called in a child: the system then refuses it more than so much."""

    what: int
    n: int

    def __call__(self) -> None:
        """Limit the child it is called in."""
        n = self.n
        if self.what == resource.RLIMIT_NOFILE:
            n += max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
        resource.setrlimit(self.what, (n, resource.getrlimit(self.what)[1]))


def _small_files(run: Undisturbed, place: Path, chance: Random) -> Ended:
    largest = max(map(len, run.files.values()))
    limit = _Limited(resource.RLIMIT_FSIZE, chance.randint(500, int(largest * 1.1)))
    return run_probekit(place, *_FORCED, before=limit)


def _few_files(run: Undisturbed, place: Path, chance: Random) -> Ended:
    limit = _Limited(resource.RLIMIT_NOFILE, chance.randint(0, 15))
    return run_probekit(place, *_FORCED, before=limit)


# --- things in the way


def _file_in_the_way(run: Undisturbed, place: Path, chance: Random) -> Ended:
    if chance.random() < 0.5:
        (place / FOLDER).write_text("a file")
    else:
        (place / FOLDER).mkdir()
        (place / FOLDER / "shards").write_text("a file")
    return run_probekit(place, *_FORCED)


def _folder_in_the_way(run: Undisturbed, place: Path, chance: Random) -> Ended:
    name = chance.choice(
        [".lock", "run.json", ".run.json.part", "trace.json", ".trace.h5.part", "inputs.json"]
    )
    (place / FOLDER / name / "inner").mkdir(parents=True)
    return run_probekit(place, *_FORCED)


def _out_of_the_way(place: Path) -> None:
    folder = place / FOLDER
    for path in (folder, folder / "shards") if folder.is_file() or folder.is_dir() else ():
        if path.is_file():
            path.unlink()
    for inner in folder.glob("*/inner"):
        inner.rmdir()
        inner.parent.rmdir()


# --- disks, where this process may mount them


def _mount(place: Path, options: str) -> None:
    (place / FOLDER).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place / FOLDER], check=True)


def _can_mount(scratch: Path) -> bool:
    place = scratch / "mounted"
    place.mkdir()
    try:
        _mount(place, "size=64k")
    except (OSError, subprocess.CalledProcessError):
        return False  # the counts say which kinds were tried
    _unmount(place)
    return True


def _unmount(place: Path) -> None:
    if (place / FOLDER).is_mount():
        subprocess.run(["umount", place / FOLDER], check=True)


def _grow(place: Path) -> None:
    command = ["mount", "-o", "remount,rw,size=64m,nr_inodes=1000", place / FOLDER]
    subprocess.run(command, check=True)


def _full_disk(run: Undisturbed, place: Path, chance: Random) -> Ended:
    needed = sum(map(len, run.files.values()))
    _mount(place, f"size={max(4096, int(needed * chance.uniform(0.01, 1.3)))}")
    return run_probekit(place, *_FORCED)


def _too_small_a_disk(run: Undisturbed, place: Path, chance: Random) -> Ended:
    _mount(place, f"size={chance.randint(4096, sum(map(len, run.files.values())))}")
    ended = run_probekit(place, *COMMAND, before=Watched())
    assert not any(line.startswith("examples") for line in ended.log), "weights were loaded"
    assert list((place / FOLDER).iterdir()) == [], "something was written"
    return ended


def _no_more_names(run: Undisturbed, place: Path, chance: Random) -> Ended:
    _mount(place, f"size=64m,nr_inodes={chance.randint(2, len(run.files) + 4)}")
    return run_probekit(place, *_FORCED)


def _read_only_disk(run: Undisturbed, place: Path, chance: Random) -> Ended:
    _mount(place, "size=64m,ro")
    return run_probekit(place, *_FORCED)


# --- rights


@dataclass(frozen=True, slots=True)
class _AsNobody:
    """Called in a child: it has no rights of its own as soon as its plan is made."""

    def __call__(self) -> None:
        """Patch the child it is called in."""
        from probekit.capture import running as capture

        record = capture.run_record

        def run_record(*args: Any) -> Any:
            os.seteuid(_NOBODY)
            return record(*args)

        capture.run_record = run_record


def _no_rights(run: Undisturbed, place: Path, chance: Random) -> Ended:
    if chance.random() < 0.5:
        (place / FOLDER).mkdir()
    return run_probekit(place, *_FORCED, before=_AsNobody())


EVERYWHERE = {
    # The first file can be one of temporary ones, where texts wait for their run.
    "too large a file": _Way(starve=_small_files, reasons=("File too large",), place=""),
    "too many files": _Way(starve=_few_files, reasons=("Too many open files",), place=""),
    "a file in the way": _Way(
        starve=_file_in_the_way,
        reasons=("is a file; expected a folder", "Not a directory", "File exists"),
        relieve=_out_of_the_way,
    ),
    "a folder in the way": _Way(
        starve=_folder_in_the_way,
        reasons=("Is a directory", "is no plain file"),
        relieve=_out_of_the_way,
    ),
}
ON_DISKS = {
    "a full disk": _Way(starve=_full_disk, reasons=("No space left on device",), relieve=_grow),
    "a small disk": _Way(
        starve=_too_small_a_disk,
        reasons=("and the disk has",),
        relieve=_grow,
    ),
    "no more names": _Way(
        starve=_no_more_names, reasons=("No space left on device",), relieve=_grow
    ),
    "read-only": _Way(starve=_read_only_disk, reasons=("Read-only file system",), relieve=_grow),
}
AS_ROOT = {
    "no rights": _Way(starve=_no_rights, reasons=("Permission denied",)),
}
