"""RunFolder: the folder of one run, who may write into it, and which run it holds.

Knows run.json, made.json and the lock; nothing of what is inside a shard.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from probekit.errors import StoreError
from probekit.store.format import (
    FIRST,
    INDEX_FILE,
    INDEX_RECORD,
    INPUTS_FILE,
    INPUTS_RECORD,
    MADE_FILE,
    NEWEST,
    PARTIAL_FILE,
    RUN_FILE,
    SHARDS_FOLDER,
    Format,
    explained,
    fsync,
    is_forsaken,
    plain,
    write_record,
)
from probekit.store.lock import LOCK_FILE, Lock
from probekit.store.madefile import READ, made_in, sessions_of, summed
from probekit.store.reading import open_file
from probekit.store.refusing import (
    SCRATCH,
    another_run,
    is_part,
    make_folder,
    refuse_foreign,
    refuse_orphans,
)
from probekit.store.runrecord import (
    NOT_DIGESTED,
    RunRecord,
    config_changes,
    free_changes,
    read_run,
)
from probekit.store.sealed import is_indexed, is_record, sealed_shards, shard_files

_DIFFERS = {  # parts of a run's identity, where its config is the same
    "meanings": "it asks for what means something else now: finish it with the version that began "
    "it",
    "inputs_digest": "the texts are others",
    "model_digest": "the model in its folder has changed",
    "model_commit": "the model on the hub has changed",
    "model_architecture": "the model in memory is built or set otherwise",
    "model_weights": "the model in memory has other weights",
    "sites": "the sites are others",
    "shards": "the shards are cut otherwise",
}


class RunFolder:
    """Hold a run's folder for writing.

    Entering creates the folder, or checks that the run in it is the same one, and locks it against
    a second writer; a lock whose owner has died is free again, since the system holds it.

    Args:
        path: of the folder.
        record: which run it is to hold.
        session: what made.json says of this process; None where the run has no such file.
        overwrite: remove what is there, and begin anew; not before `reopen`.
        repair: write a damaged or lost run.json again, if the shards say that they are of this run.
        where: the place in the user's config that names the folder, for messages.
    """

    def __init__(
        self,
        path: Path,
        record: RunRecord,
        session: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
        repair: bool = False,
        where: str = "store.path",
    ) -> None:
        self.path = path
        self._where = where
        self.changed = ""  # what is not as it was when the run began, and may be
        self._record = record
        self._session = session
        self._overwrite = overwrite
        self._repair = repair
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        make_folder(self.path, self._where)
        with ExitStack() as stack:
            stack.enter_context(Lock(self.path / LOCK_FILE, self._where))
            with explained(self.path):
                if self._overwrite:
                    refuse_foreign(self.path, self._where)
                else:
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
        """Give the numbers of the shards that are whole, and stay."""
        return frozenset() if self._overwrite else sealed_shards(self.path)

    def reopen(self, damaged: Iterable[int] = (), checked: Mapping[str, Any] | None = None) -> None:
        """Make room for shards: the index goes, and damaged shards, of each its record first.

        Of a run that is overwritten all goes, and only now: until here its trace can be read.

        Args:
            damaged: numbers of shards.
            checked: what the self-check found, for made.json.
        """
        with explained(self.path):
            if self._overwrite:
                self._overwrite = False
                clear(self.path, self._where)
                self._begin()
            _remove(self.path, INDEX_RECORD, INDEX_FILE)
            for number in damaged:
                for ending in ("json", "h5", MADE_FILE):
                    file = self.path / SHARDS_FOLDER / f"{number:05d}.{ending}"
                    file.unlink(missing_ok=True)
            if self._session is not None:
                sessions = [*sessions_of(self.path), {**self._session, **(checked or {})}]
                write_record(self.path / MADE_FILE, {"sessions": sessions})

    def sum_up(self) -> None:
        """Add up in made.json what the shards say of their passes, and how long they took."""
        if sums := summed(self.path, self.sealed()):
            write_record(self.path / MADE_FILE, {"sessions": sessions_of(self.path), **sums})

    def remember(self, read: Mapping[str, Any]) -> None:
        """Write down, in made.json, what a run that is whole was made from; see `remembered`."""
        made = made_in(self.path / MADE_FILE)
        if made and made.get(READ) != read:
            write_record(self.path / MADE_FILE, {**made, READ: read})

    def _begin_or_go_on(self) -> None:
        earlier = self._earlier()
        if earlier is None:
            self._begin()
            return
        identity = earlier["identity"]
        differs = {
            key: _differing(key, identity.get(key), value)
            for key, value in json.loads(json.dumps(self._record.identity)).items()
            if identity.get(key) != value
        }
        if differs:
            changes = config_changes(
                earlier.get("provenance", {}).get("config"),
                self._record.provenance.get("config"),
            )
            what = changes or ", ".join(differs.values())
            raise StoreError(f"{self._where}: {another_run(self.path, what)}")
        before = [earlier.get("provenance", {}), *sessions_of(self.path)][-1]
        self.changed = free_changes(before, self._session or self._record.provenance)

    def _begin(self) -> None:
        (self.path / SHARDS_FOLDER).mkdir(exist_ok=True)
        write_record(self.path / RUN_FILE, self._record.to_json())
        fsync(self.path.absolute().parent)  # a sealed shard in a folder without a name is lost

    def _earlier(self) -> dict[str, Any] | None:
        """Read the run.json that is there; None where it is to be written."""
        try:
            earlier = read_run(self.path)
        except StoreError:
            if not (self._repair and self._is_ours()):
                raise
            return None
        if earlier is None and not (self._repair and self._is_ours()):
            refuse_foreign(self.path, self._where)
            refuse_orphans(self.path, self._where)
        return earlier

    def _is_ours(self) -> bool:
        """Say whether all shards that can be read, and at least one, say they are of this run."""
        files = (self.path / SHARDS_FOLDER / f"{n:05d}.h5" for n in sorted(self.sealed()))
        return {digest for file in files if (digest := _attribute(file, "run_digest"))} == {
            self._record.digest
        }

    def _remove_leftovers(self) -> None:
        """Remove what is ours or a dead process's, and records of files that were lost.

        A shard without a record stays, and is replaced in its time: it may be another's who is
        about to write the record, since no lock reaches every host. A record comes last, so that
        without its file it is of no use to anybody.
        """
        _remove_temporary(self.path)
        has_index = is_indexed(self.path)  # beside it, half a shard is damage
        for file in shard_files(self.path):
            if file.name.startswith("."):
                if is_forsaken(file.name):
                    file.unlink()
            elif not has_index and is_record(file.name) and not file.with_suffix(".h5").exists():
                file.unlink()


def _differing(key: str, was: Any, now: Any) -> str:
    """Say how a part of a run's identity differs."""
    if key == "model_weights" and any(str(one).startswith(NOT_DIGESTED) for one in (was, now)):
        return (
            "its weights or these were not digested (digest=False), and nobody can tell whether "
            "they are the same; a finished run is read by probekit.open"
        )
    return _DIFFERS.get(key, f"another {key}")


def _attribute(shard: Path, name: str) -> Any:
    """Read an attribute of a shard; None where it cannot be read, which says nothing."""
    try:
        with open_file(shard) as file:
            return plain(file.attrs[name])
    except StoreError:
        return None


def format_of(folder: Path, *, repair: bool = False) -> Format:
    """Give the format that a run was begun in, and is finished in; the newest where there is none.

    Args:
        folder: of the run.
        repair: where run.json is damaged or lost, ask the shards.

    Raises:
        StoreError: if run.json is damaged, or this version cannot write that format.
    """
    try:
        with explained(folder, "read"):
            run = read_run(folder)
        begun = [] if run is None else [run["identity"].get("format", FIRST.attribute)]
    except StoreError:
        if not repair:
            raise
        begun = []
    if not begun and repair:
        files = (folder / SHARDS_FOLDER / f"{n:05d}.h5" for n in sorted(sealed_shards(folder)))
        begun = [
            mark for file in files if (mark := _attribute(file, "probekit_format")) is not None
        ]
    if not begun:
        return NEWEST
    found = Format.of(begun[0])
    if found is None or not FIRST <= found <= NEWEST:
        raise StoreError(
            f"{folder}: holds a run in format {begun[0]}, and this probekit writes {FIRST} to "
            f"{NEWEST}; finish it with the version that began it, or --overwrite (in Python "
            "overwrite=True)"
        )
    return found


def clear(folder: Path, where: str = "store.path") -> None:
    """Remove what probekit wrote into a folder, and nothing else.

    The index goes first, which says that all shards are there, and run.json last: shards without
    it could be taken for another run's.
    """
    refuse_foreign(folder, where)
    _remove_temporary(folder)
    _remove(folder, INDEX_RECORD, INDEX_FILE)
    for file in shard_files(folder):
        if not file.name.startswith(".") or is_forsaken(file.name):
            file.unlink()
    _remove(folder, PARTIAL_FILE, INPUTS_RECORD, INPUTS_FILE, MADE_FILE, RUN_FILE)


def _remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _remove_temporary(folder: Path) -> None:
    """Remove temporary folders and files that are ours, or nobody's any more."""
    for left in folder.glob(".*"):
        if left.name.startswith(SCRATCH) and is_forsaken(left.name):
            shutil.rmtree(left)
        elif is_part(left.name) and is_forsaken(left.name):
            left.unlink()
