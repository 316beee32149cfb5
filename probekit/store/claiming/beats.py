"""Beats: a worker says that it lives by counting up in a file of its own.

Knows that file; nothing of claims. It is written in place and closed: on a network file system who
opens it next sees the new count, where a file renamed onto it could stay hidden for a minute.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Self

from probekit.store.format import CLAIMS_FOLDER, explained, this_process

ENDING = ".worker"
_SIZE = 1024  # bytes of the file, always: a shorter text than before leaves nothing behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a worker says of itself."""

    worker: str  # host, process and when it began
    host: str
    process: int
    began: str  # by its own clock, for people: compared with nothing
    count: int = 0
    shard: int | None = None  # the one it works on
    examples: int = 0  # captured of that shard
    all_examples: int = 0  # captured since it began
    tokens: int = 0
    n_bytes: int = 0
    seconds: float = 0.0  # since its first forward pass, by its own clock


class Heartbeat:
    """Count up in a worker's file, from a thread, until the block ends.

    Args:
        folder: of the run.
        every_s: seconds between two beats.
    """

    def __init__(self, folder: Path, every_s: float) -> None:
        self.worker = this_process()
        self._path = beat_path(folder, self.worker)
        self._every_s = every_s
        self._beat = Beat(
            worker=self.worker, host=platform.node(), process=os.getpid(), began=now()
        )
        self._lock = Lock()
        self._ended = Event()
        self._thread = Thread(target=self._count, name="probekit-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        with explained(self._path):
            while not self._begun():
                pass
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        with explained(self._path, "removed"):
            self._path.unlink(missing_ok=True)

    def say(self, *, at_once: bool = False, **what: Any) -> None:
        """Say something new of this worker: at once, or with the next beat."""
        with self._lock:
            self._beat = replace(self._beat, **what)
            if at_once:
                self._try_to_write()

    def _begun(self) -> bool:
        """Write the first beat; False where another, who left, removed the folder meanwhile."""
        self._path.parent.mkdir(exist_ok=True)
        try:
            self._write()
        except FileNotFoundError:
            return False
        return True

    def _count(self) -> None:
        while not self._ended.wait(self._every_s):
            with self._lock:
                self._beat = replace(self._beat, count=self._beat.count + 1)
                self._try_to_write()

    def _try_to_write(self) -> None:
        # A disk that takes no beat: others may take over what this worker does, which then comes
        # second. Its own writes say what is wrong with the disk.
        with suppress(OSError):
            self._write()

    def _write(self) -> None:
        said = json.dumps(asdict(self._beat)).encode()
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(fd, said[: _SIZE - 1].ljust(_SIZE - 1) + b"\n", 0)
        finally:
            os.close(fd)


def beat_path(folder: Path, worker: str) -> Path:
    """Name the file in which a worker counts."""
    return folder / CLAIMS_FOLDER / f"{worker}{ENDING}"


def beats_of(folder: Path) -> tuple[Beat, ...]:
    """Read what every worker of a run says of itself, the dead too; see `Watch`."""
    return tuple(_read(folder))


def workers_of(folder: Path) -> frozenset[str]:
    """Name every worker of which there is a file, whatever it says."""
    files = (folder / CLAIMS_FOLDER).glob(f"*{ENDING}")
    return frozenset(path.name.removesuffix(ENDING) for path in files)


def _read(folder: Path) -> Iterator[Beat]:
    for path in sorted((folder / CLAIMS_FOLDER).glob(f"*{ENDING}")):
        try:
            said = json.loads(path.read_bytes())
            yield Beat(**{each.name: said[each.name] for each in fields(Beat)})
        except (OSError, ValueError, LookupError, TypeError):
            continue  # it has just ended, or is just written: the next look shows it


def now() -> str:
    """Give the time by this host's clock, as people read it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
