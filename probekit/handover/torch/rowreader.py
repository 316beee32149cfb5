"""RowReader: rows of several sites as tensors, in any order, with where they come from.

Knows files and tensors; nothing of epochs or batches. What is open belongs to one process: a reader
that is sent to another opens the files there itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probekit.store import EXAMPLE, MappedRows, axis_of, is_choice

if TYPE_CHECKING:
    from probekit.trace import Trace

Array = np.ndarray[Any, Any]

_SAMPLED = 16  # places that are asked for, to know whether the system has read all already


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Rows of compressed sites, unpacked."""

    rows: Array  # their numbers, ascending
    raw: Mapping[str, Array]  # by site name, `[row, ...]`


class RowReader:
    """Read rows by number: `reader(rows)` gives a dict of tensors.

    Args:
        trace: where the sites are.
        names: of the sites; all have the same rows.
        origin: whether to add where rows come from.
        columns: of the user's own, to add by their names.
        kept: int64, ascending: number n means row `kept[n]`; None for all rows.
    """

    def __init__(
        self,
        trace: Trace,
        names: tuple[str, ...],
        *,
        origin: bool,
        columns: tuple[str, ...] = (),
        kept: Array | None,
    ) -> None:
        self.trace = trace
        self.names = names
        self.origin = origin
        self.columns = columns
        self.kept = kept
        self._rows = trace[names[0]].rows

    def __reduce__(self) -> tuple[Any, ...]:
        return _reader, (self.trace, self.names, self.origin, self.columns, self.kept)

    def __call__(self, numbers: Array, held: Held | None = None) -> dict[str, Any]:
        """Give rows as tensors of their own memory, by site name, `[row, ...]`.

        A column of texts is a list.

        Args:
            numbers: of the rows, int64 `[row]`.
            held: from `hold`, if they were among those.
        """
        rows = numbers if self.kept is None else self.kept[numbers]
        batch: dict[str, Any] = {name: self._tensor(name, rows, held) for name in self.names}
        if self.origin:
            batch |= self._origin_of(rows)
        examples = self.examples_of(rows) if self.columns else rows
        return batch | {name: self._column(name, examples) for name in self.columns}

    def examples_of(self, rows: Array) -> Array:
        """Give the example of each row of the trace."""
        axis = axis_of(self._rows)
        if not axis.is_inner:
            return rows
        if is_choice(self._rows):
            rows = self._numbers(f"rows/{self._rows}", axis.name)[rows]
        found: Array = self._numbers(f"{axis.table}/{EXAMPLE}", EXAMPLE)[rows]
        return found

    def _column(self, name: str, examples: Array) -> torch.Tensor | list[str]:
        if name not in self._values:
            self._values[name] = self.trace.columns[name]
        values = self._values[name][examples]
        if isinstance(values, np.ma.MaskedArray):
            # Of whole numbers and bools no gap is left here: `training` has seen to that.
            nothing: Any = {"O": "", "f": np.nan}.get(values.dtype.kind, 0)
            values = values.filled(nothing)
        return values.tolist() if values.dtype == object else torch.from_numpy(np.array(values))

    def expect(self, stretches: Array) -> None:
        """Let the system begin to read what will be asked for: `[stretch, (begin, end)]`."""
        if not len(stretches) or sys.platform != "linux":
            return
        begins, ends = stretches[np.argsort(stretches[:, 0])].T
        if self.kept is not None:
            begins, ends = self.kept[begins], self.kept[ends - 1] + 1
        apart = begins[1:] != ends[:-1]  # neighbours are read in one piece
        pieces = np.stack([begins[np.r_[True, apart]], ends[np.r_[apart, True]]], axis=1).tolist()
        sample = pieces[:: -(-len(pieces) // _SAMPLED)]
        for name in self.names:
            site = self._sites[name]
            starts = (extent for begin, _ in sample for extent in site.extents(begin, begin + 1))
            if not all(_in_memory(file, offset) for file, offset, _ in starts):
                _advise(extent for begin, end in pieces for extent in site.extents(begin, end))

    def hold(self, stretches: Array) -> Held | None:
        """Unpack rows that will be asked for, where they are compressed."""
        packed = [name for name in self.names if not self._sites[name].is_mapped]
        if not packed:
            return None
        ordered = stretches[np.argsort(stretches[:, 0])]
        numbers = np.concatenate([np.arange(begin, end) for begin, end in ordered])
        rows = numbers if self.kept is None else self.kept[numbers]
        return Held(rows=rows, raw={name: self._sites[name].raw(rows) for name in packed})

    def _tensor(self, name: str, rows: Array, held: Held | None) -> torch.Tensor:
        if held is not None and name in held.raw:
            raw = held.raw[name][np.searchsorted(held.rows, rows)]
        else:
            raw = self._sites[name].raw(_as_slice(rows))
        own = np.require(raw, requirements=["C", "W"])  # a slice is a view of the map: a copy
        dtype: torch.dtype = getattr(torch, self._sites[name].dtype)
        return torch.from_numpy(own.view(f"i{own.dtype.itemsize}")).view(dtype)

    def _origin_of(self, rows: Array) -> dict[str, torch.Tensor]:
        axis = axis_of(self._rows)
        if is_choice(self._rows):
            rows = self._numbers(f"rows/{self._rows}", axis.name)[rows]
        found = {axis.name: rows}
        for name in ("id", "position", "example"):
            column = axis.column(name) if axis.is_inner else None
            if column is not None:
                values = self._numbers(f"{axis.table}/{name}", column.numbers)[rows]
                found[f"{axis.name}_id" if name == "id" else name] = values
        return {name: torch.from_numpy(values.astype(np.int64)) for name, values in found.items()}

    @cached_property
    def _sites(self) -> dict[str, MappedRows]:
        return {name: self._open(f"sites/{name}") for name in self.names}

    @cached_property
    def _values(self) -> dict[str, Array]:
        return {}

    @cached_property
    def _tables(self) -> dict[str, MappedRows]:
        return {}

    def _numbers(self, name: str, numbers: str | None) -> MappedRows:
        if name not in self._tables:
            self._tables[name] = self._open(name, less=self.trace.first(numbers))
        return self._tables[name]

    def _open(self, name: str, *, less: int = 0) -> MappedRows:
        rows = self._rows if name.startswith("sites/") else None
        are_numbers = rows is None and not name.endswith("/id")  # of tokens or examples
        return self.trace._rows_at(name, rows, maps=self._maps, less=less, are_numbers=are_numbers)

    @cached_property
    def _maps(self) -> Any:
        return lru_cache(maxsize=None)(_map)


def _reader(
    trace: Trace,
    names: tuple[str, ...],
    origin: bool,
    columns: tuple[str, ...],
    kept: Array | None,
) -> RowReader:
    return RowReader(trace, names, origin=origin, columns=columns, kept=kept)


def _map(path: Path) -> Array:
    # torch's maps hold no file descriptor, numpy's do, and batches come from all shards at once.
    n_bytes = Path(path).stat().st_size
    mapped = torch.from_file(str(path), shared=False, size=n_bytes, dtype=torch.uint8)
    whole: Array = mapped.numpy()
    whole.flags.writeable = False
    return whole


def _as_slice(rows: Array) -> slice | Array:
    """Give consecutive rows as a slice, which is read in one piece."""
    n = len(rows)
    if n and rows[-1] - rows[0] == n - 1 and bool((np.diff(rows) == 1).all()):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _in_memory(file: Path, offset: int) -> bool:
    """Say whether the system has a byte of a file in memory."""
    fd = os.open(file, os.O_RDONLY)
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:  # it would have to wait, or the file system cannot say
        return False
    finally:
        os.close(fd)


def _advise(extents: Iterable[tuple[Path, int, int]]) -> None:
    for file, pieces in groupby(extents, key=itemgetter(0)):
        fd = os.open(file, os.O_RDONLY)
        try:
            for _, offset, n_bytes in pieces:
                os.posix_fadvise(fd, offset, n_bytes, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)
