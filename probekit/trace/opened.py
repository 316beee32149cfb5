"""Opened: one file of a trace, how it was made, and its datasets by name.

Knows files and attributes; nothing of what a dataset means.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    Vocabulary,
    attributes_of,
    dataset_in,
    file_maps,
    known_axes,
    node_in,
    number_of,
    open_file,
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
        self._maps = file_maps()
        with open_file(self._file) as file:
            self.provenance: dict[str, Any] = attributes_of(file)
        _check_format(self.provenance, path)
        if self._file.name == INDEX_FILE:
            self.provenance |= _said_apart(self._file.parent)
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
            return node_in(file, arguments.text("a name", name)) is not None

    def numbers(self, name: str, axis: str | None = None, *, are_whole: bool = True) -> MappedRows:
        """Open a column of whole numbers, or of true and false.

        Args:
            name: of the dataset.
            axis: whose rows they number, if any; they count from the file's first one on.
            are_whole: False for a column of fractions.

        Raises:
            StoreError: if it is something else.
        """
        with open_file(self._file) as file:
            dataset = dataset_in(file, arguments.text("a column's name", name), virtual=True)
            column = MappedRows(dataset, self._file, self._maps, less=self.first(axis))
        if column.storage.kind not in ("iub" if are_whole else "f") or len(column.shape) != 1:
            raise StoreError(
                f"{self.path}: {name} is {list(column.shape)} {column.dtype}; "
                f"expected {'whole numbers' if are_whole else 'fractions'}"
            )
        return column

    def first(self, axis: str | None) -> int:
        """Say which number the file gives to its first row of an axis."""
        return 0 if axis is None else self._firsts.get(arguments.text("axis", axis), 0)


def _said_apart(folder: Path) -> dict[str, Any]:
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
