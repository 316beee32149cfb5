"""Lock: one run at a time writes into a folder.

Knows a lock file and its owner; nothing of what is written.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from probekit.errors import StoreError
from probekit.store.format import explained

LOCK_FILE = ".lock"


def writer_of(folder: Path) -> str | None:
    """Name the process that writes into a run's folder, as far as it can be told."""
    try:
        fd = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return None
    try:
        owner = os.pread(fd, 64, 0).decode(errors="replace").strip()
        # A lock of our own, if only for a moment, is in the way of a run that begins: it is tried
        # only where the owner seems to live, and then it is not given.
        os.kill(int(owner), 0)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return owner
    except (OSError, ValueError):  # it has ended, or the system has no locks here
        return None
    finally:
        os.close(fd)
    return None


class Lock:
    """Hold a file that says who writes; the system lets go of it when its owner dies.

    Args:
        path: of the file.
        where: the place in the user's config that names its folder, for messages.

    Raises:
        StoreError: on entering, if another process or run holds it, or it cannot be made.
    """

    def __init__(self, path: Path, where: str = "store.path") -> None:
        self._path = path
        self._at = f"{where}: {path.parent}"

    def __enter__(self) -> None:
        while not self._locked():
            pass
        try:
            with explained(self._path):
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            with explained(self._path, "removed"):
                self._path.unlink(missing_ok=True)
        finally:
            os.close(self._fd)

    def _locked(self) -> bool:
        """Lock the file; False where its last owner removed it between our opening and locking."""
        with explained(self._path):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._fd, 64, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise StoreError(
                f"{self._at}: another run (process {owner or 'unknown'}) is writing here; "
                "wait for it, or give another store.path"
            ) from error
        except OSError as error:
            os.close(self._fd)
            raise StoreError(
                f"{self._at}: cannot be locked against a second run: {error.strerror}; "
                "give a store.path on another file system"
            ) from error
        if os.fstat(self._fd).st_nlink:
            return True
        os.close(self._fd)
        return False
