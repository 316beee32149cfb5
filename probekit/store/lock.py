"""Lock: who writes into a folder on this host, one process alone or several workers of one run.

Knows a lock file and its owner; nothing of what is written. Workers of several hosts see each other
by their claims.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import ClassVar

from probekit.errors import StoreError
from probekit.store.claiming import living_here
from probekit.store.format import explained

LOCK_FILE = ".lock"
_READING = "reads the inputs"  # what a lock file says of its owner
_MOMENT_S = 1.0  # in which who leaves has left


def writer_of(folder: Path) -> str | None:
    """Name the process that writes into a run's folder, as far as it can be told."""
    try:
        fd = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return None
    try:
        owner = os.pread(fd, 64, 0).decode(errors="replace").partition("\n")[0]
        # A lock of our own, if only for a moment, is in the way of a run that begins: it is tried
        # only where the owner seems to live, and then it is not given.
        os.kill(int(owner), 0)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return owner
    except (OSError, ValueError):  # the last who came has ended: others may be at work
        return None if (beat := living_here(folder)) is None else str(beat.process)
    finally:
        os.close(fd)
    return None


class BusyError(StoreError):
    """Another process writes into the folder."""


class Lock:
    """Hold a file that says who writes; the system lets go of it when its owner dies.

    Args:
        path: of the file.
        where: the place in the user's config that names its folder, for messages.
        shared: with other processes that share it.
        reading: only to read the inputs that its run will seal; others of that run wait for it.

    Raises:
        BusyError: on entering, if another process holds it otherwise, or this one holds it already.
        StoreError: if it cannot be made.
    """

    _asking: ClassVar = threading.Lock()
    _held: ClassVar[set[tuple[int, int, int]]] = set()  # process, device, file: it shares with none

    def __init__(
        self,
        path: Path,
        where: str = "store.path",
        *,
        shared: bool = False,
        reading: bool = False,
    ) -> None:
        self._path = path
        self._at = f"{where}: {path.parent}"
        self._shared = shared
        self._reading = reading

    def __enter__(self) -> None:
        until = time.monotonic() + _MOMENT_S
        while not self._locked(until):
            pass
        try:
            with explained(self._path):
                os.ftruncate(self._fd, 0)
                said = f"{os.getpid()}\n{_READING if self._reading else ''}"
                os.pwrite(self._fd, said.encode(), 0)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            if not self._shared or self._is_last():
                with explained(self._path, "removed"):
                    self._path.unlink(missing_ok=True)
        finally:
            self._held.discard(self._key)
            os.close(self._fd)

    def _may_wait(self, what: str, until: float) -> bool:
        if what == _READING and (self._shared or self._reading):
            return True
        return self._shared and time.monotonic() < until  # the last of others may just be leaving

    def _is_last(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _locked(self, until: float) -> bool:
        """Lock the file; False where its last owner removed it between our opening and locking."""
        with explained(self._path):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        there = os.fstat(self._fd)
        self._key = (os.getpid(), there.st_dev, there.st_ino)
        try:
            with self._asking:  # or two threads would get in
                if self._key in self._held:
                    raise BlockingIOError
                how = fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX
                fcntl.flock(self._fd, how | fcntl.LOCK_NB)
                self._held.add(self._key)
        except BlockingIOError as error:
            owner, _, what = os.pread(self._fd, 64, 0).decode(errors="replace").partition("\n")
            os.close(self._fd)
            if self._key not in self._held and self._may_wait(what, until):
                time.sleep(_MOMENT_S / 100)
                return False
            raise BusyError(
                f"{self._at}: another run (process {owner or 'unknown'}) is writing here; "
                "wait for it, or give another store.path"
            ) from error
        except OSError as error:
            os.close(self._fd)
            raise StoreError(
                f"{self._at}: cannot be locked against a second run: {error.strerror}; "
                "give a store.path on another file system"
            ) from error
        if self._has_its_name(there):
            return True
        self._held.discard(self._key)
        os.close(self._fd)
        return False

    def _has_its_name(self, there: os.stat_result) -> bool:
        """Say whether the file is still what its name stands for; NFS keeps it by another name."""
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        return (named.st_dev, named.st_ino) == (there.st_dev, there.st_ino)
