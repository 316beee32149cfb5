"""Flushing: put what was written on the disk while the model goes on.

Knows file descriptors and one thread. A shard that is synced only when it is sealed makes the model
wait for the whole disk; synced piece by piece beside the model, little is left to wait for.
"""

from __future__ import annotations

import os
from threading import Condition, Thread

_EVERY_BYTES = 32 << 20

_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class Flusher:
    """Sync a file again and again while it is written; the thread starts with the first sync."""

    def __init__(self, fd: int, *, every_bytes: int = _EVERY_BYTES) -> None:
        self._fd = fd
        self._every_bytes = every_bytes
        self._waiting = 0  # bytes written since the last sync began
        self._closed = False
        self._error: OSError | None = None
        self._changed = Condition()
        self._thread: Thread | None = None

    def wrote(self, n_bytes: int) -> None:
        """Count bytes that were written; many of them wake the thread."""
        with self._changed:
            self._waiting += n_bytes
            if self._waiting < self._every_bytes:
                return
            if self._thread is None:
                self._thread = Thread(target=self._work, name="probekit-flush", daemon=True)
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """End the thread; the file may be closed afterwards."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """Raise what a sync has met: the system tells of it only once.

        Raises:
            OSError: the disk could not take what was written.
        """
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._waiting < self._every_bytes and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                self._waiting = 0
            try:
                _sync(self._fd)
            except OSError as error:
                self._error = error
                return
