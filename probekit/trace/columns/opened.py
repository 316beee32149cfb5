"""Opened: one file of a trace, how it was made, and its datasets by name.

Knows files and attributes; nothing of what a dataset means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from probekit import arguments
from probekit.errors import StoreError
from probekit.store import (
    INDEX_FILE,
    NEWEST,
    Format,
    MappedRows,
    Segments,
    ShardFiles,
    ShardRows,
    Vocabulary,
    attributes_of,
    dataset_in,
    file_maps,
    is_choice,
    is_in,
    known_axes,
    number_of,
    open_file,
    segments_of,
    sessions_of,
    times_of,
)


class Opened:
    """One opened file of a trace.

    Args:
        path: of an index, a shard, or a merged trace.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.absolute()  # read lazily, maybe after a change of the working directory
        self._parts: dict[str, Segments] = {}
        self._maps = file_maps()
        with open_file(self._file) as file:
            self.provenance: dict[str, Any] = attributes_of(file)
        _check_format(self.provenance, path)
        if self._file.name == INDEX_FILE:
            self.provenance |= said_apart(self._file.parent)
        # Shards hold the run's numbers; a shard that is opened alone has them from 0 on.
        self._firsts: Mapping[str | None, int] = {
            axis.name: number_of(self.provenance, axis.first, str(path)) or 0
            for axis in known_axes()
        }

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The string of every token id, and its bytes; empty where there is none (a lone shard)."""
        with open_file(self._file) as file:
            return Vocabulary.read(file)

    def token_text(self, token_id: int) -> str:
        """Give the string of a token id."""
        token_id = arguments.whole("a token id", token_id)
        known = 0 <= token_id < len(self.vocabulary)
        return self.vocabulary[token_id] if known else f"<{token_id}>"

    def has(self, name: str) -> bool:
        """Say whether there is a dataset or a group of that name."""
        with open_file(self._file) as file:
            return is_in(file, arguments.text("a name", name))

    def numbers(self, name: str, axis: str | None = None, *, are_whole: bool = True) -> MappedRows:
        """Open a column of whole numbers, or of true and false.

        Args:
            name: of the dataset.
            axis: whose rows they number, if any; they count from the file's first one on.
            are_whole: False for a column of fractions.

        Raises:
            StoreError: if it is something else.
        """

        def fit(column: MappedRows) -> None:
            if column.storage.kind not in ("iub" if are_whole else "f") or len(column.shape) != 1:
                raise StoreError(
                    f"{self.path}: {name} is {list(column.shape)} {column.dtype}; "
                    f"expected {'whole numbers' if are_whole else 'fractions'}"
                )

        name = arguments.text("a column's name", name)
        return self._rows_at(name, less=self.first(axis), are_numbers=axis is not None, fit=fit)

    def _rows_at(
        self,
        name: str,
        rows: str | None = None,
        *,
        maps: Callable[[str], Any] | None = None,
        less: int = 0,
        are_numbers: bool = False,
        row_shape: tuple[int, ...] | None = None,
        dtype: str | None = None,
        fit: Callable[[MappedRows], None] | None = None,
    ) -> MappedRows:
        """Open the rows of a dataset.

        Args:
            name: of the dataset.
            rows: what they are, a site's `rows`; of a column its name says so.
            maps: from `file_maps`; the trace's own where there are none.
            less: is subtracted from every value.
            are_numbers: whether they number rows; an index can hold such a column itself.
            row_shape: of a row, where the index says it.
            dtype: as stored, where the index says it.
            fit: told the rows once it is known what they are; raises what it has against them.

        Raises:
            StoreError: if there is no such dataset, or it is none of a trace's.
        """
        maps = maps or self._maps
        if self._shard_files is not None and not (are_numbers and self._is_inside(name)):
            if not self.has(name):
                raise StoreError(f"{self._file}: there is no dataset {name} in it")
            told = self._parts_of(rows_of(name) if rows is None else rows).of(f"/{name}")
            return MappedRows.told(
                told, self._file, maps, less=less, row_shape=row_shape, dtype=dtype, fit=fit
            )
        with open_file(self._file) as file:
            found = MappedRows(dataset_in(file, name, virtual=True), self._file, maps, less=less)
        if fit is not None:
            fit(found)
        return found

    def _known_of(self, found: Any, rows: str) -> Any:
        """Give of rows what may be read by their numbers: all of them, where the run is finished.

        Args:
            found: an array, or what reads one.
            rows: what they are: a site's `rows`.
        """
        return found

    def _is_inside(self, name: str) -> bool:
        with open_file(self._file) as file:
            return not dataset_in(file, name, virtual=True).is_virtual

    def _parts_of(self, rows: str) -> Segments:
        """Give the files in which rows lie, and which.

        Args:
            rows: what they are: a site's `rows`.
        """
        if rows not in self._parts:
            if self._shard_files is not None:
                self._parts[rows] = self._shard_files.segments(rows, str(self.path))
            else:
                whole = {
                    axis.whole: f"{axis.table}/{axis.columns[0].name}" for axis in known_axes()
                }
                name = f"rows/{rows}" if is_choice(rows) else whole[rows]
                with open_file(self._file) as file:
                    dataset = dataset_in(file, name, virtual=True)
                    self._parts[rows] = segments_of(dataset, self._file)
        return self._parts[rows]

    @cached_property
    def _shard_files(self) -> ShardFiles | None:
        """Where rows lie, of an index that has a table of its shards."""
        if self._file.name != INDEX_FILE:
            return None
        with open_file(self._file) as file:
            table = ShardRows.read(file)
        return None if table is None else ShardFiles(self._file.parent, table)

    def first(self, axis: str | None) -> int:
        """Say which number the file gives to its first row of an axis."""
        return 0 if axis is None else self._firsts.get(arguments.text("axis", axis), 0)


def rows_of(name: str) -> str:
    """Say which rows a column has, a site's `rows`, by the place of the column."""
    table, _, rest = name.partition("/")
    return next((axis.whole for axis in known_axes() if axis.table == table), rest)


def said_apart(folder: Path) -> dict[str, Any]:
    """Give what made.json says: the config as written, notes, what the last self-check found."""
    said: dict[str, Any] = dict(times_of(folder))
    for number, session in enumerate(sessions_of(folder)):
        once = ("config", "notes", "began", "host", "command") if not number else ()
        kept = {k: v for k, v in session.items() if k in once or k.startswith("self_check")}
        said |= {k: v for k, v in kept.items() if isinstance(v, str | int | float | list)}
    return said


def _check_format(attributes: Mapping[str, Any], path: Path) -> None:
    if "probekit_format" not in attributes:
        raise StoreError(f"{path}: is not a probekit trace (no probekit_format attribute)")
    given = attributes["probekit_format"]
    found = Format.of(given)
    if found is None:
        raise StoreError(f"{path}: probekit_format is {given!r}, which is no format")
    if found.major > NEWEST.major:
        raise StoreError(
            f"{path}: has format {found}; this probekit reads format {NEWEST.major}. "
            "Upgrade probekit"
        )
