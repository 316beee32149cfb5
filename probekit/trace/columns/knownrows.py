"""Known rows: what may be read by row numbers of a run that generates and is not finished.

Knows that how many tokens a shard will have is known only once it is sealed: behind the first that
is not, a row has no number yet. Nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from probekit.errors import StoreError
from probekit.store import MappedRows, Segments

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """How many rows have a number that stays."""

    n_known: int
    why: str  # no more have one

    def check(self, stop: int) -> None:
        """Refuse rows before `stop` that have none.

        Raises:
            StoreError: saying why, and how they are read.
        """
        if stop > self.n_known:
            raise StoreError(
                f"rows from {self.n_known:,} on have no number yet: {self.why}. What is sealed "
                "behind them is read by its example: site.example(n), trace.examples[n]"
            )


class FirstRows:
    """Rows up to the first shard that is not sealed, by their numbers.

    Args:
        rows: all that there can be.
        known: which of them have a number.
    """

    def __init__(self, rows: Any, known: Numbered) -> None:
        self._rows, self._known = rows, known

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # nothing is there yet, while it is copied
            raise AttributeError(name)
        found = getattr(self._rows, name)  # what they are: shape, dtype, ...
        return FirstRows(found, self._known) if name == "codes" else found

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._known.n_known} of {self._rows!r}>"

    def __getitem__(self, key: Any) -> Any:
        self._check(key)
        return self._rows[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        self._check(slice(None))
        found: Array = self._rows.__array__(dtype, copy)
        return found

    def raw(self, key: Any) -> Any:
        """Index like `[]`, giving the stored bits."""
        self._check(key)
        return self._rows.raw(key)

    def place(self) -> None:
        """Say that they do not lie in one piece."""

    def _check(self, key: Any) -> None:
        first = key[0] if isinstance(key, tuple) and key else key
        rows = _numbers(first, len(self))
        if rows.size:
            self._known.check(int(rows.max()) + 1)


class CountedOn:
    """A column of rows' numbers that every shard counts from 0, as the run counts them.

    Args:
        rows: the column.
        own: where its rows lie.
        counted: where the rows lie that it numbers.
    """

    def __init__(self, rows: MappedRows, own: Segments, counted: Segments) -> None:
        self._rows = rows
        self._firsts = own.firsts
        self._before = np.array([counted.rows_in(file)[0] for file in own.files], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        numbers = _numbers(key, len(self))
        owner = np.searchsorted(self._firsts, numbers, side="right") - 1
        return self._rows[key] + self._before[owner]


def _numbers(key: Any, n_rows: int) -> Array:
    """Give the numbers of the rows that a key picks, int64."""
    found = np.arange(*key.indices(n_rows)) if isinstance(key, slice) else np.arange(n_rows)[key]
    return np.asarray(found)
