"""RunFolder: the folder of one run, who may write into it, and what in it is whole.

Knows run.json, the lock and the names of sealed shards; nothing of what is inside a shard.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from probekit.errors import StoreError
from probekit.schema import INDEX_FILE, RUN_FILE, SHARDS_FOLDER, ShardSpec
from probekit.writer import write_json

_LOCK_FILE = ".lock"
_SHOWN = 5  # changed settings named in a message
_LONG = 60  # characters of one
_SHARD_FILE = re.compile(r"\d{5,}\.(h5|json)|\.\d{5,}\.(h5\.part(\.packed)?|json\.part)")
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
            _refuse_orphans(self.path)
            write_json(self.path / RUN_FILE, self._record.to_json())
            return
        differs = [
            key
            for key, value in self._record.identity.items()
            if earlier["identity"].get(key) != json.loads(json.dumps(value))
        ]
        if differs:
            changes = _changes(
                earlier.get("provenance", {}).get("config"),
                self._record.provenance.get("config"),
            )
            raise StoreError(
                f"{self.path}: holds another run "
                f"({changes or 'differs in: ' + ', '.join(differs)}); "
                "give another store.path, or --overwrite to begin anew"
            )

    def _remove_leftovers(self) -> None:
        whole = self.sealed()
        for file in _shard_files(self.path):
            if file.name.startswith(".") or int(file.stem) not in whole:
                file.unlink()


def _changes(earlier: str | None, now: str | None) -> str:
    """Name the settings that differ between two configs, each as YAML."""
    old, new = (_flat(yaml.safe_load(text or "{}")) for text in (earlier, now))
    changed = [
        f"{key}: was {old.get(key, 'not set')}, now {new.get(key, 'not set')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and not key.startswith("store.path")
    ]
    more = f", and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return ", ".join(changed[:_SHOWN]) + more


def _flat(value: Any, key: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        parts = ((f"{key}.{name}" if key else name, item) for name, item in value.items())
    elif isinstance(value, list):
        parts = ((f"{key}[{number}]", item) for number, item in enumerate(value))
    else:
        shown = str(value)
        return {key: shown if len(shown) <= _LONG else f"{shown[:_LONG]}..."}
    return {name: text for part, item in parts for name, text in _flat(item, part).items()}


class _Lock:
    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOCK_FILE

    def __enter__(self) -> None:
        while not self._locked():
            pass
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._fd)

    def _locked(self) -> bool:
        """Lock the file; False where its last owner removed it between our opening and locking."""
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._fd, 64, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise StoreError(
                f"{self._path.parent}: another run (process {owner or 'unknown'}) is writing here; "
                "wait for it, or give another store.path"
            ) from error
        if os.fstat(self._fd).st_nlink:
            return True
        os.close(self._fd)
        return False


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
    if not isinstance(value, dict) or not isinstance(value.get("identity"), dict):
        raise StoreError(f"{path}: is not a run of probekit's; give another store.path")
    return value


def sealed_shards(folder: Path) -> frozenset[int]:
    """Give the numbers of the shards that are whole: the .h5 and, written after it, the .json."""
    files = {file.name for file in _shard_files(folder)}
    return frozenset(
        int(name.removesuffix(".json"))
        for name in files
        if re.fullmatch(r"\d+\.json", name) and name.replace(".json", ".h5") in files
    )


def sealed_specs(folder: Path) -> tuple[ShardSpec, ...]:
    """Give the sealed shards as they really are, in order."""
    found = []
    for number in sorted(sealed_shards(folder)):
        path = folder / SHARDS_FOLDER / f"{number:05d}.json"
        found.append(ShardSpec(**json.loads(path.read_text(encoding="utf-8"))["spec"]))
    return tuple(found)


def clear(folder: Path) -> None:
    """Remove what probekit wrote into a folder, and nothing else.

    run.json goes last: shards without it could be taken for another run's.
    """
    _refuse_foreign(folder)
    for file in _shard_files(folder):
        file.unlink()
    for name in (INDEX_FILE, f".{INDEX_FILE}.part", f".{RUN_FILE}.part", RUN_FILE):
        (folder / name).unlink(missing_ok=True)


def _shard_files(folder: Path) -> tuple[Path, ...]:
    """Give the files under shards/ that have a name of ours."""
    return tuple(p for p in (folder / SHARDS_FOLDER).glob("*") if _SHARD_FILE.fullmatch(p.name))


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
    inside = (path / SHARDS_FOLDER).glob("*")
    foreign += sorted(f"shards/{p.name}" for p in inside if not _SHARD_FILE.fullmatch(p.name))
    if foreign:
        raise StoreError(
            f"store.path: {path} holds files that are not probekit's ({', '.join(foreign[:5])}); "
            "give an empty or a new folder"
        )


def _refuse_orphans(path: Path) -> None:
    """Refuse shards whose run.json is gone: nothing says that they are of this run."""
    if (path / INDEX_FILE).exists() or _shard_files(path):
        raise StoreError(
            f"{path}: holds shards, but no {RUN_FILE} that says of which run; "
            "give another store.path, or --overwrite to begin anew"
        )
