"""RunFolder: the folder of one run, who may write into it, and what in it is whole.

Knows run.json, the lock and the names of sealed shards; nothing of what is inside a shard.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
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
    OWNED,
    RUN_FILE,
    SHARDS_FOLDER,
    FileRecord,
    Format,
    ShardSpec,
    explained,
    fsync,
    is_forsaken,
    plain,
    write_record,
)
from probekit.store.lock import LOCK_FILE, Lock
from probekit.store.madefile import made_in, sessions_of, times_in
from probekit.store.reading import open_file
from probekit.store.runrecord import RunRecord, config_changes, free_changes, read_run

SCRATCH = ".scratch-"  # names of folders for the time of a run begin so
_DIFFERS = {  # parts of a run's identity, where its config is the same
    "meanings": "it asks for what means something else now: finish it with the version that began "
    "it",
    "inputs_digest": "the texts are others",
    "model_digest": "the model in its folder has changed",
    "model_commit": "the model on the hub has changed",
    "sites": "the sites are others",
    "shards": "the shards are cut otherwise",
}
_SHARD_FILE = re.compile(
    r"\d{5,}\.(h5|json|made\.json)"
    rf"|\.\d{{5,}}\.(h5|aside|json|made\.json)\.({OWNED}|part)(\.packed)?"
)
_FILES = (INDEX_RECORD, INDEX_FILE, INPUTS_RECORD, INPUTS_FILE, MADE_FILE, RUN_FILE)
_PART = re.compile(rf"\.({'|'.join(map(re.escape, _FILES))}|inputs\.aside)\.({OWNED}|part)")
_OURS = (*_FILES, SHARDS_FOLDER, LOCK_FILE)


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
    """

    def __init__(
        self,
        path: Path,
        record: RunRecord,
        session: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
        repair: bool = False,
    ) -> None:
        self.path = path
        self.changed = ""  # what is not as it was when the run began, and may be
        self._record = record
        self._session = session
        self._overwrite = overwrite
        self._repair = repair
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        _make(self.path)
        with ExitStack() as stack:
            stack.enter_context(Lock(self.path / LOCK_FILE))
            with explained(self.path):
                if self._overwrite:
                    _refuse_foreign(self.path)
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
                clear(self.path)
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
        """Add up in made.json how long the shards took to generate."""
        sums: Counter[str] = Counter()
        for number in self.sealed():
            sums.update(times_in(made_in(self.path / SHARDS_FOLDER / f"{number:05d}.{MADE_FILE}")))
        if sums:
            sessions = sessions_of(self.path)
            write_record(self.path / MADE_FILE, {"sessions": sessions, "generate": dict(sums)})

    def _begin_or_go_on(self) -> None:
        earlier = self._earlier()
        if earlier is None:
            self._begin()
            return
        identity = earlier["identity"]
        differs = [
            key
            for key, value in json.loads(json.dumps(self._record.identity)).items()
            if identity.get(key) != value
        ]
        if differs:
            changes = config_changes(
                earlier.get("provenance", {}).get("config"),
                self._record.provenance.get("config"),
            )
            what = changes or ", ".join(_DIFFERS.get(key, f"another {key}") for key in differs)
            raise StoreError(
                f"{self.path}: holds another run ({what}); "
                "give another store.path, or --overwrite to begin anew"
            )
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
            _refuse_foreign(self.path)
            _refuse_orphans(self.path)
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
        for file in _shard_files(self.path):
            if file.name.startswith("."):
                if is_forsaken(file.name):
                    file.unlink()
            elif not has_index and _is_record(file.name) and not file.with_suffix(".h5").exists():
                file.unlink()


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
            f"{NEWEST}; finish it with the version that began it, or --overwrite"
        )
    return found


def sealed_shards(folder: Path) -> frozenset[int]:
    """Give the numbers of the shards that are whole: the .h5 and, written after it, the .json."""
    files = {file.name for file in _shard_files(folder)}
    return frozenset(
        int(name.removesuffix(".json"))
        for name in files
        if _is_record(name) and name.replace(".json", ".h5") in files
    )


def _is_record(name: str) -> bool:
    return re.fullmatch(r"\d+\.json", name) is not None


def is_indexed(folder: Path) -> bool:
    """Say whether a run has come to its end: its index is there."""
    return (folder / INDEX_FILE).exists()


def shard_numbers(folder: Path) -> frozenset[int]:
    """Give the numbers of the shards of which there is a file, whole or not."""
    names = [file.name for file in _shard_files(folder)]
    return frozenset(int(name.partition(".")[0]) for name in names if not name.startswith("."))


def kept_shards(folder: Path) -> frozenset[int]:
    """Give the numbers of the shards that are no leftovers of a killed run.

    The index is written when every shard is sealed: beside it, half a shard is damage.
    """
    return (shard_numbers if is_indexed(folder) else sealed_shards)(folder)


def sealed_specs(folder: Path) -> tuple[ShardSpec, ...]:
    """Give the sealed shards as they really are, in order."""
    found: list[ShardSpec] = []
    for number in sorted(sealed_shards(folder)):
        record = FileRecord.read(folder / SHARDS_FOLDER / f"{number:05d}.json")
        if record.spec is not None:
            n_before = found[-1].first_token + found[-1].n_tokens if found else 0
            first_token = n_before if record.is_local else record.spec.first_token
            found.append(replace(record.spec, first_token=first_token))
    return tuple(found)


def clear(folder: Path) -> None:
    """Remove what probekit wrote into a folder, and nothing else.

    The index goes first, which says that all shards are there, and run.json last: shards without
    it could be taken for another run's.
    """
    _refuse_foreign(folder)
    _remove_temporary(folder)
    _remove(folder, INDEX_RECORD, INDEX_FILE)
    for file in _shard_files(folder):
        if not file.name.startswith(".") or is_forsaken(file.name):
            file.unlink()
    _remove(folder, INPUTS_RECORD, INPUTS_FILE, MADE_FILE, RUN_FILE)


def _remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _remove_temporary(folder: Path) -> None:
    """Remove temporary folders and files that are ours, or nobody's any more."""
    for left in folder.glob(".*"):
        if left.name.startswith(SCRATCH) and is_forsaken(left.name):
            shutil.rmtree(left)
        elif _PART.fullmatch(left.name) and is_forsaken(left.name):
            left.unlink()


def _shard_files(folder: Path) -> tuple[Path, ...]:
    """Give the files under shards/ that have a name of ours."""
    with explained(folder, "looked into"):
        inside = tuple((folder / SHARDS_FOLDER).glob("*"))
    return tuple(path for path in inside if _SHARD_FILE.fullmatch(path.name))


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
    there = [p.name for p in path.iterdir() if not p.name.startswith(SCRATCH)]
    foreign = sorted(n for n in there if n not in _OURS and not _PART.fullmatch(n))
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
