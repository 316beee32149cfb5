"""Streaming: rows as they come, read once, and kept in the run's folder until it has sealed them.

Knows rows by number, and what a source says by which it goes on; nothing of what a row says. What
was kept of a source that failed, or of a process that was killed, is not asked for again: the
source goes on behind it, and some of the rows before are compared, since it may have changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from probekit.arguments import no_path, plain
from probekit.config import DatasetInputs, ProbeConfig, deciding_keys
from probekit.errors import ConfigError
from probekit.inputs.datasets.datafiles import local_files
from probekit.inputs.datasets.failing import file_read, reason
from probekit.store import LOCK_FILE, Lock, PartialRows, make_folder
from probekit.wording import counted

Row = Mapping[str, Any]

_ROWS, _CHARACTERS = 1000, 1 << 22  # between two marks of where the source is


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is read, and where it is kept."""

    name: str
    where: str  # the place in the user's config that names it
    files: tuple[Path, ...]  # of this machine that it is; none where others are among them
    digest: str  # tells it from others
    folder: Path  # of the run
    where_folder: str

    @classmethod
    def of(cls, config: ProbeConfig, wanted: DatasetInputs, names: Sequence[str]) -> Self:
        """Tell the source that a config names, by the fields of its rows that are read."""
        local = local_files(wanted)
        stats = [(file.name, file.stat()) for file in local]
        files = [[name, there.st_size, there.st_mtime_ns] for name, there in stats]
        said = json.dumps([deciding_keys(wanted), list(names), files])
        return cls(
            name=wanted.name,
            where=config.where("inputs.dataset"),
            files=() if any(map(no_path, wanted.own_files)) else local,
            digest=hashlib.sha256(said.encode()).hexdigest(),
            folder=config.store.folder,
            where_folder=config.where("store.path"),
        )


def read_once(
    source: Source, opened: Callable[[], Any], pick: Callable[[Row], Row]
) -> Iterator[Row]:
    """Give the rows of a source: those that are kept already, then those that come.

    Args:
        source: what is read.
        opened: opens it; rows are gone through from the first, or behind a state that is loaded.
        pick: what of a row is kept.

    Raises:
        ConfigError: if it fails, or is not what it was when the first of its rows were kept.
    """
    make_folder(source.folder, source.where_folder)
    with (
        Lock(source.folder / LOCK_FILE, source.where_folder, reading=True),
        PartialRows(source.folder, source.digest) as partial,
    ):
        yield from partial.kept()
        if not partial.is_whole:
            yield from _coming(source, opened, pick, partial)


def _coming(
    source: Source, opened: Callable[[], Any], pick: Callable[[Row], Row], partial: PartialRows
) -> Iterator[Row]:
    """Give the rows that are not kept yet, and keep them."""
    n_kept = partial.n_rows
    rows, n_seen = _gone_to(opened, partial)
    known, n_compared = iter(partial.latest), len(partial.latest)
    marks = _Marks(rows)
    for row in _told(source, rows, partial):
        line = _line(pick(row))
        n_seen += 1
        if n_seen <= n_kept:
            if n_seen > n_kept - n_compared and line != next(known):
                raise ConfigError(_changed(source, partial, n_seen - 1))
            continue
        marks.before(partial)
        partial.add(line)
        marks.behind(line)
        kept: Row = json.loads(line)  # as it will be read again
        yield kept
    if n_seen < n_kept:
        raise ConfigError(_changed(source, partial, n_seen))
    partial.end()


def _gone_to(opened: Callable[[], Any], partial: PartialRows) -> tuple[Any, int]:
    """Open a source behind as many rows as its last mark stands; say how many these are."""
    rows = opened()
    version, state = partial.state or (None, None)
    if version != _version():  # which may mean another place: all rows come, and are left out
        return rows, 0
    try:
        rows.load_state_dict(state)
    except Exception:
        # The library trusts what it is given, and raises whatever a mark that is none leads to.
        return opened(), 0
    return rows, partial.n_rows - partial.n_behind


def _version() -> str:
    return metadata.version("datasets")  # whose states these are


class _Marks:
    """Where a source is, marked now and then.

    A mark is written before the next row, so that there is a row behind it to compare.
    """

    def __init__(self, rows: Any) -> None:
        self._state = getattr(rows, "state_dict", None)  # a list of rows has none
        self._waiting: Any = None
        self._n_rows = self._n_characters = 0

    def before(self, partial: PartialRows) -> None:
        """Write the mark that waits."""
        if self._waiting is not None:
            partial.mark([_version(), self._waiting])
            self._waiting = None

    def behind(self, line: str) -> None:
        """Take a mark behind a row, if it is time."""
        self._n_rows += 1
        self._n_characters += len(line)
        if self._n_rows < _ROWS and self._n_characters < _CHARACTERS:
            return
        self._n_rows = self._n_characters = 0
        self._waiting = None if self._state is None else self._state()


def _told(source: Source, rows: Any, partial: PartialRows) -> Iterator[Row]:
    """Give what a source gives; where it fails, say behind which row, and what becomes of them."""
    coming = iter(rows)
    while True:
        try:
            row = next(coming)
        except StopIteration:
            return
        except Exception as error:
            # Readers of files and clients of networks raise dozens of types.
            n = partial.n_rows
            file = file_read(rows, source.files)
            kept = (
                f". What was read is kept in {partial.path}: the same command goes on from row {n}"
            )
            raise ConfigError(
                f"{source.where}: {file or source.name} failed after {counted(n, 'row')}: "
                f"{reason(error)}{kept if n and not file else ''}"
            ) from error
        yield row


def _changed(source: Source, partial: PartialRows, row: int) -> str:
    return (
        f"{source.where}: {source.name} is not what it was: row {row} is another than the one that "
        f"is kept in {partial.path}; remove that file, and the same command reads all of it anew"
    )


def _line(row: Row) -> str:
    return json.dumps(dict(row), default=_plain)


def _plain(value: object) -> object:
    """Give what JSON cannot hold as a list, which no column holds either."""
    found = plain(value)
    return found if isinstance(found, str | int | float | list | tuple) else [str(value)]
