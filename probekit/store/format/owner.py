"""Whose a temporary file is: its name says which process of which host writes it.

Knows hosts and processes; removes nothing. Several processes, on several hosts, may write into one
folder: each clears away what is its own, or what belongs to a process that is provably dead.
"""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

import xxhash

_OWNER = r"(?P<host>[A-Za-z0-9]+)-(?P<process>\d+)-(?P<started>\d+)"
OWNED = rf"{_OWNER}\.part"  # what names of temporary files end in
_MARK = re.compile(_OWNER)


def this_process() -> str:
    """Name this process: host, number, and when it began, since numbers come again."""
    return f"{_host()}-{os.getpid()}-{_started(os.getpid())}"


def part_of(path: Path) -> Path:
    """Name the temporary file that this process writes before it gets the name `path`."""
    return path.with_name(f".{path.name}.{this_process()}.part")


def is_forsaken(name: str) -> bool:
    """Say whether a temporary file or folder may go: it is ours, or nobody's any more.

    One without an owner is of format 1.0, whose processes hold the lock on the folder.
    """
    found = _MARK.search(name)
    is_ours = found is not None and found[0] == this_process()
    return is_ours or is_dead(name)


def is_dead(name: str) -> bool:
    """Say whether a name is that of a process of this host which has ended, or of none."""
    found = _MARK.search(name)
    if found is None:  # of nobody
        return True
    if not is_of_this_host(name):
        return False
    process = int(found["process"])
    return not _lives(process) or _started(process) != int(found["started"])


def is_of_this_host(name: str) -> bool:
    """Say whether a name is that of a process whose number means something here."""
    found = _MARK.search(name)
    return found is not None and found["host"] in (_host(), _node())


@cache
def _host() -> str:
    """Name this host, and in it the processes that see each other: a container counts its own.

    Hosts may share a name, and containers of one host do; a process of another would seem dead.
    """
    said = [_node()]
    with suppress(OSError):  # there is neither on systems other than Linux
        said.append(Path("/etc/machine-id").read_text())
    with suppress(OSError):
        said.append(str(Path("/proc/self/ns/pid").readlink()))
    return f"{_node()}x{xxhash.xxh32_hexdigest(' '.join(said).encode())}"


def _node() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", platform.node())[:32] or "host"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _started(process: int) -> int:
    """Give when a process began, in ticks since the system did; 0 where that is not said."""
    try:
        said = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    return int(said.rpartition(")")[2].split()[19])  # proc(5): field 22, behind the command's name
