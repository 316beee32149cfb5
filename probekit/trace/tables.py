"""Tables: what an opened trace says beside its sites.

Knows how a trace counts its examples and tokens, the strings of its tokens, and which modules ran;
nothing of sites.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from probekit import arguments
from probekit.errors import StoreError
from probekit.store import (
    EXAMPLE,
    INDEX_FILE,
    MADE_FILE,
    SHARDS_FOLDER,
    TOKEN,
    Execution,
    FileRecord,
    Forward,
    MappedRows,
    Passes,
    axis_of,
    forwards_from_json,
    is_choice,
    known_axes,
    node_in,
    number_of,
    open_file,
    passes_from_json,
    passes_of,
    read_execution,
    read_record,
)
from probekit.trace.columns import AxisTable, Opened, UserColumns
from probekit.trace.examples import Examples
from probekit.trace.prompts import Prompts
from probekit.trace.tokens import Tokens
from probekit.wording import one_of

Array = np.ndarray[Any, Any]

_PARTS_KEPT = 64  # shards of which it is kept what they chose


class Tables(Opened):
    """One opened file of a trace: how it was made, and its tables.

    Args:
        path: of an index, a shard, or a merged trace.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._choices: dict[str, Array] = {}
        self._choice_columns: dict[str, MappedRows] = {}
        self._choices_in = lru_cache(_PARTS_KEPT)(self._choices_of)
        self._tables: dict[str, AxisTable] = {}

    @property
    def examples(self) -> Examples:
        """The examples, one by one or column by column."""
        return cast(Examples, self.table(EXAMPLE))

    @cached_property
    def prompts(self) -> Prompts:
        """The prompts, each with all completions of it."""
        return Prompts(self.examples)

    @property
    def tokens(self) -> Tokens:
        """The tokens, one by one or column by column."""
        return cast(Tokens, self.table(TOKEN))

    @property
    def columns(self) -> UserColumns:
        """The user's own values beside the examples; `columns["label"]` is `[example]`."""
        return self.examples.users

    @property
    def tables(self) -> tuple[AxisTable, ...]:
        """What the trace says of each row of each axis that it has."""
        with open_file(self._file) as file:
            there = [axis.name for axis in known_axes() if node_in(file, axis.table) is not None]
        return tuple(self.table(name) for name in there)

    def table(self, axis: str) -> AxisTable:
        """Give what the trace says of each row of an axis.

        Args:
            axis: `token`, `example`, ...: what a site's first axis is called.

        Raises:
            StoreError: if no table of a trace is of that axis.
        """
        if arguments.text("axis", axis) not in self._tables:
            known = {known.name: known for known in known_axes()}
            if axis not in known:
                said = one_of(axis, [*known])
                raise StoreError(f"{self.path}: no axis of a table is called {axis!r}; {said}")
            self._tables[axis] = _KINDS.get(axis, AxisTable)(self, known[axis], self.table)
        return self._tables[axis]

    @cached_property
    def execution(self) -> Execution | None:
        """Orders and forward passes of the run; None when they were not recorded.

        A shard that was carried away from the file beside it knows its orders, and no passes.
        """
        found = self._orders
        if found is None:
            return None
        forwards = found.forwards or tuple(self._forwards_apart(found))
        if less := self.first(EXAMPLE):
            forwards = tuple(
                replace(f, examples=tuple(e - less for e in f.examples)) for f in forwards
            )
        return replace(found, forwards=forwards)

    @cached_property
    def passes(self) -> Passes | None:
        """How many forward passes the run took; None where nothing was recorded of them."""
        if self._orders is None:
            return None
        if self._file.name == INDEX_FILE and not self._orders.forwards:
            said = passes_from_json(passes_of(self._file.parent), self._orders.orders)
            if said is not None:
                return said
        return None if self.execution is None else Passes.of(self.execution)

    @cached_property
    def _orders(self) -> Execution | None:
        """What the file itself says of the execution."""
        with open_file(self._file) as file:
            return read_execution(file)

    def _forwards_apart(self, execution: Execution) -> Iterator[Forward]:
        """Read the forward passes that lie beside the shards."""
        if "shard" in self.provenance:
            path = self._file.with_name(f"{self._file.stem}.{MADE_FILE}")
            files = [path] if path.exists() else []
        elif self._file.name == INDEX_FILE:
            n_shards = number_of(self.provenance, "n_shards", str(self.path)) or 0
            folder = self._file.parent / SHARDS_FOLDER
            files = [folder / f"{number:05d}.{MADE_FILE}" for number in range(n_shards)]
            files = [path for path in files if path.exists() or is_timed(path)]
        else:
            files = []
        for path in files:
            yield from forwards_from_json(read_record(path)["forwards"], execution.orders, path)

    @property
    def execution_order(self) -> list[str]:
        """Module paths in the order they ran, in the run's most frequent order.

        Raises:
            StoreError: if the run did not record it.
        """
        orders, passes = self._orders, self.passes
        if orders is None or passes is None:
            raise StoreError(
                f"{self.path}: the execution order was not recorded; "
                "set execution_order: true in the config"
            )
        counts = passes.by_order
        numbers = counts or range(len(orders.orders))
        most = min(numbers, key=lambda order: (-counts.get(order, 0), order))
        return [orders.modules[m] for m, entered, _ in orders.orders[most] if entered]

    def context(self, row: int, *, before: int = 8, after: int = 4) -> str:
        """Give the text around a token, the token itself in «marks»."""
        token = self.tokens[arguments.whole("row", row)]
        before = arguments.whole("before", before, least=0)
        after = arguments.whole("after", after, least=0)
        ids, at = self.examples.token_ids(token.example).tolist(), token.position
        text = self.vocabulary.text  # whole characters put together
        return f"{text(ids[max(0, at - before) : at])}«{token.text}»{text(ids[at + 1 :][:after])}"

    def rows_of_choice(self, choice: str) -> Array:
        """Give, for every row of a choice, its row of the axis: int64 `[row]`, read-only."""
        if arguments.text("a choice", choice) not in self._choices:
            axis = axis_of(choice)
            rows: Array = self.numbers(f"rows/{choice}", axis.name)[:]
            self._check_choice(choice, rows, 0, len(self.table(axis.name)))
            rows.flags.writeable = False
            self._choices[choice] = rows
        return self._choices[choice]

    def _of_all_rows(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """Give what a site says of all its rows; of the sites that are read here, all of it."""
        return attributes

    def _check_numbered(self, rows: str, stop: int) -> None:
        """Refuse rows before `stop` that have no number yet: of a finished run all have one."""

    def _chosen(self, choice: str, example: int) -> slice:
        """Say which rows of a choice are those of an example; no shard but its own is read."""
        axis = axis_of(choice)
        first, n_rows = self.table(axis.name).extent(example)
        begin, rows = self._choices_in(choice, self._parts_of(EXAMPLE).number(example))
        inside = np.searchsorted(rows, (first, first + n_rows))
        return slice(begin + int(inside[0]), begin + int(inside[1]))

    def _choices_of(self, choice: str, part: int) -> tuple[int, Array]:
        """Give the first row of a choice in a file of examples, and the same as `rows_of_choice`.

        Where the file of the trace holds all of them itself, they are all.
        """
        if self._holds(choice):
            return 0, self.rows_of_choice(choice)
        parts, axis = self._parts_of(choice), axis_of(choice)
        files = self._parts_of(EXAMPLE).files
        file = files[part]
        begin, end = parts.rows_in(file)
        if begin == end:  # it holds none, and they would lie behind those of the files before
            begin = end = next((e for f in reversed(files[:part]) if (e := parts.rows_in(f)[1])), 0)
        # A copy: a view of a map would keep its file open.
        rows = np.array(self._choice_rows(choice)[begin:end])
        self._check_choice(choice, rows, *self._parts_of(axis.whole).rows_in(file))
        return begin, rows

    def _choice_rows(self, choice: str) -> MappedRows:
        if choice not in self._choice_columns:
            numbers = self.numbers(f"rows/{choice}", axis_of(choice).name)
            self._choice_columns[choice] = numbers
        return self._choice_columns[choice]

    def _check_choice(self, choice: str, rows: Array, begin: int, end: int) -> None:
        """Refuse a choice that is not of the rows from `begin` to `end` of its axis, in order."""
        inside = not len(rows) or (rows[0] >= begin and rows[-1] < end)
        if not inside or not (rows[1:] >= rows[:-1]).all():
            table = axis_of(choice).table
            raise StoreError(f"{self.path}: rows/{choice} are not {table} of it, in their order")

    def n_rows(self, rows: str) -> int:
        """Count the rows of the sites that keep these: every token, one an example, or a choice."""
        if is_choice(arguments.text("rows", rows)) and self._holds(rows):
            return len(self.rows_of_choice(rows))  # it costs nothing to look whether they are right
        return self._parts_of(rows).n_rows

    def _holds(self, choice: str) -> bool:
        """Say whether the file of the trace holds all rows of a choice itself."""
        return [*self._parts_of(choice).files] == [str(self._file)]


_KINDS: Mapping[str, type[AxisTable]] = {EXAMPLE: Examples, TOKEN: Tokens}


def is_timed(made_file: Path) -> bool:
    """Say whether a shard was written with this file beside it."""
    record = made_file.with_name(made_file.name.replace(MADE_FILE, "json"))
    return record.exists() and FileRecord.read(record).is_timed
