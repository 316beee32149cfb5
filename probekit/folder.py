"""RunFolder: the folder of one run, who may write into it, and what in it is whole.

Knows run.json, the lock and the names of sealed shards; nothing of what is inside a shard.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from probekit.errors import StoreError
from probekit.schema import INDEX_FILE, RUN_FILE, SHARDS_FOLDER
from probekit.writer import write_json

_LOCK_FILE = ".lock"
_OURS = (
    RUN_FILE,
    INDEX_FILE,
    SHARDS_FOLDER,
    _LOCK_FILE,
    f".{INDEX_FILE}.part",
    f".{RUN_FILE}.part",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What run.json says. `identity` must be equal for a run to go on; the rest is provenance."""

    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Give the whole record as plain JSON values."""
        return {"identity": dict(self.identity), "provenance": dict(self.provenance)}


class RunFolder:
    """Hold a run's folder for writing.

    Entering creates the folder, or checks that the run in it is the same one, and locks it against
    a second writer; a lock whose owner has died is free again, since the system holds it.
    """

    def __init__(self, path: Path, record: RunRecord, *, overwrite: bool = False) -> None:
        self.path = path
        self._record = record
        self._overwrite = overwrite
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        _make(self.path)
        with ExitStack() as stack:
            stack.enter_context(_Lock(self.path))
            if self._overwrite:
                clear(self.path)
            self._begin_or_go_on()
            self._remove_leftovers()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def sealed(self) -> frozenset[int]:
        """Give the numbers of the shards that are whole."""
        return sealed_shards(self.path)

    def _begin_or_go_on(self) -> None:
        earlier = read_run(self.path)
        if earlier is None:
            _refuse_foreign(self.path)
            write_json(self.path / RUN_FILE, self._record.to_json())
            return
        differs = [
            key
            for key, value in self._record.identity.items()
            if earlier.get("identity", {}).get(key) != json.loads(json.dumps(value))
        ]
        if differs:
            raise StoreError(
                f"{self.path}: holds another run (differs in: {', '.join(differs)}); "
                "give another store.path, or --overwrite to begin anew"
            )

    def _remove_leftovers(self) -> None:
        whole = self.sealed()
        for file in (self.path / SHARDS_FOLDER).glob("*"):
            if file.name.startswith(".") or int(file.stem) not in whole:
                file.unlink()


class _Lock:
    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOCK_FILE

    def __enter__(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._fd, 64, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise StoreError(
                f"{self._path.parent}: another run (process {owner or 'unknown'}) is writing here; "
                "wait for it, or give another store.path"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def __exit__(self, *_: object) -> None:
        # Removed while still held, so that nobody can lock a file that is about to go.
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def read_run(folder: Path) -> dict[str, Any] | None:
    """Read run.json; None when there is none."""
    path = folder / RUN_FILE
    if not path.exists():
        return None
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(
            f"{path}: is damaged ({error}); --overwrite begins the run anew"
        ) from error
    return value


def sealed_shards(folder: Path) -> frozenset[int]:
    """Give the numbers of the shards that are whole: the .h5 and, written after it, the .json."""
    shards = folder / SHARDS_FOLDER
    return frozenset(
        int(record.stem)
        for record in shards.glob("[0-9]*.json")
        if record.with_suffix(".h5").exists()
    )


def clear(folder: Path) -> None:
    """Remove what probekit wrote into a folder, and nothing else."""
    _refuse_foreign(folder)
    for name in _OURS:
        path = folder / name
        if name == _LOCK_FILE:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StoreError(
            f"store.path: {path} is a file; expected a folder, or a new name"
        ) from error
    except OSError as error:
        raise StoreError(f"store.path: {path} cannot be made: {error.strerror}") from error


def _refuse_foreign(path: Path) -> None:
    foreign = sorted(p.name for p in path.iterdir() if p.name not in _OURS)
    if foreign:
        raise StoreError(
            f"store.path: {path} holds files that are not probekit's ({', '.join(foreign[:5])}); "
            "give an empty or a new folder"
        )
