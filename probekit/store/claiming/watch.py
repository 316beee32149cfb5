"""Watch: which workers of a run are gone, as one observer sees it.

Knows beats, and the observer's own monotonic clock; compares no clock and no file time with
another's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from probekit.errors import StoreError
from probekit.store.claiming.beats import beat_path
from probekit.store.format import explained, is_dead, is_of_this_host

_LEASE_S = 60.0  # longer than a network file system may show an old file
_VARIABLE = "PROBEKIT_LEASE_S"


def lease_s() -> float:
    """Give after how many seconds without a beat a worker's claims are given to others.

    Raises:
        StoreError: if the environment says something else than seconds.
    """
    said = os.environ.get(_VARIABLE, "")
    try:
        seconds = float(said or _LEASE_S)
    except ValueError:
        seconds = 0.0
    if not 0.5 <= seconds <= 86400:
        raise StoreError(
            f"{_VARIABLE}: expected seconds, 0.5 to 86400, the same for every worker of a run; "
            f"given {said!r}"
        )
    return seconds


class Watch:
    """See workers count, and which of them do so no more.

    Args:
        folder: of the run.
        lease: seconds after which one that was not seen counting is gone.
        clock: of this observer.
    """

    def __init__(
        self, folder: Path, lease: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._lease = lease
        self._clock = clock
        self._seen: dict[str, tuple[bytes | None, float]] = {}  # the beat, and since when

    def is_gone(self, worker: str) -> bool:
        """Say whether a worker's claims are free: it died, signed off, or is silent for a lease."""
        if is_dead(worker):
            return True
        beat = self._beat(worker)
        if beat is None and is_of_this_host(worker):
            return True  # it beats before it claims, and here that is seen at once
        return self._unchanged_s(worker, beat) >= self._lease

    def _unchanged_s(self, worker: str, beat: bytes | None) -> float:
        now = self._clock()
        was = self._seen.get(worker)
        if was is None or was[0] != beat:
            self._seen[worker] = (beat, now)
            return 0.0
        return now - was[1]

    def _beat(self, worker: str) -> bytes | None:
        path = beat_path(self._folder, worker)
        with explained(path, "read"):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
