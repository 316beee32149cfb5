"""PartialTrace: the sealed part of a run that is not finished, read like a trace.

Knows that examples keep their numbers, and that what is not sealed is no gap but an error. What a
run's shards have in common is read from the first that is sealed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Never

import numpy as np

from probekit.errors import StoreError
from probekit.store import (
    COUNTS,
    EXAMPLE,
    TOKEN,
    Execution,
    Forward,
    Joined,
    MappedRows,
    SealedInputs,
    ShardFiles,
    ShardRows,
    Unfinished,
    axis_of,
    dataset_in,
    forwards_from_json,
    is_choice,
    open_file,
    read_execution,
    read_record,
    schema,
)
from probekit.trace.columns import CountedOn, FirstRows, Numbered, said_apart
from probekit.trace.partialexamples import PartialExamples
from probekit.trace.tables import is_timed
from probekit.trace.trace import Trace

Array = np.ndarray[Any, Any]

_OF_A_SHARD = ("shard", "first_example", "first_token")  # attributes


def _refused(name: str) -> Any:
    """Make a method that says why a partial trace has it not."""

    def method(self: PartialTrace, *_: Any, **__: Any) -> Never:
        raise StoreError(
            f"{self.path}: {name} reads a whole trace, and this one is partial: {self._run.said}; "
            "let the run come to its end, or read examples one by one"
        )

    method.__name__ = name
    method.__doc__ = f"Say that `{name}` needs a finished run."
    return method


class PartialTrace(Trace):
    """The sealed part of a run, as it was when it was opened.

    Args:
        run: what is there.
    """

    def __init__(self, run: Unfinished) -> None:
        self._run = run
        super().__init__(run.first_file)
        self.path = run.index
        own = {k: v for k, v in self.provenance.items() if k not in _OF_A_SHARD}
        self.provenance = own | {"n_shards": len(run.shards)} | said_apart(run.folder)
        self._firsts = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return PartialTrace, (self._run,)

    def __repr__(self) -> str:
        return f"<Partial{super().__repr__()[1:-1]}; {self._run.said}>"

    @property
    def is_partial(self) -> bool:
        """Whether the run was not finished when it was opened."""
        return True

    @property
    def shards_sealed(self) -> tuple[int, ...]:
        """The numbers of the shards that can be read."""
        return self._run.sealed

    @cached_property
    def _inputs(self) -> SealedInputs:
        """The run's texts and tokens, of all examples."""
        found = SealedInputs.read(self._run.folder)
        if found is None:
            raise StoreError(f"{self.path}: its inputs are gone")
        if found.digest != self._run.inputs_digest:
            raise StoreError(f"{self._run.folder}: its inputs are another run's; verify says more")
        return found

    def table(self, axis: str) -> Any:
        """Give what the trace says of each row of an axis."""
        if axis == EXAMPLE and axis not in self._tables:
            own = super().table(axis).axis
            self._tables[axis] = PartialExamples(
                self, own, self.table, self._run, lambda: self._inputs
            )
        return super().table(axis)

    @cached_property
    def _shard_table(self) -> ShardRows:
        return self._run.table

    @cached_property
    def _shard_files(self) -> ShardFiles:
        return ShardFiles(self._run.folder, self._shard_table, self._run.unsealed)

    def _rows_at(self, name: str, rows: str | None = None, **options: Any) -> Any:
        """Open the rows of a dataset; see `Opened._rows_at`."""
        are_numbers = options.pop("are_numbers", False)
        with open_file(self._file) as file:
            dataset = dataset_in(file, name)
            kind = {"row_shape": dataset.shape[1:], "dtype": schema.dtype_of(dataset)}
        found = super()._rows_at(name, rows, **{**options, **kind})
        return self._counted_on(name, found) if are_numbers and self._run.is_local else found

    def _counted_on(self, name: str, found: MappedRows) -> Any:
        """Count tokens over the run where shards count their own from 0."""
        table, _, column = name.partition("/")
        axis = axis_of(column).name if table == "rows" else None
        declared = super().table(EXAMPLE).axis.column(column) if table == "examples" else None
        numbers = axis if declared is None else declared.numbers
        return (
            CountedOn(found, found.segments, self._parts_of("all")) if numbers == TOKEN else found
        )

    def _known_of(self, found: Any, rows: str) -> Any:
        """Give of rows what may be read by their numbers; see `Opened._known_of`."""
        known = self._numbered(rows)
        if known is None or isinstance(found, np.ndarray):  # of that, the same for every row
            return found
        return FirstRows(found, known)

    def rows_of_choice(self, choice: str) -> Array:
        """Give, for every row of a choice, its row of the axis; see `Tables.rows_of_choice`."""
        if is_choice(choice):
            self._check_numbered(choice, self.n_rows(choice))
        return super().rows_of_choice(choice)

    def _of_all_rows(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """Leave out what the first sealed shard counted of its own rows alone."""
        return {name: value for name, value in attributes.items() if name not in COUNTS}

    def _check_numbered(self, rows: str, stop: int) -> None:
        """Refuse rows that have no number yet; see `Tables`."""
        if (known := self._numbered(rows)) is not None:
            known.check(stop)

    def _numbered(self, rows: str) -> Numbered | None:
        """Say which rows have their numbers; None where all have."""
        gap = self._run.gap
        if not self._run.is_local or gap is None or axis_of(rows).name == EXAMPLE:
            return None
        n_known = int(self._shard_table.n_rows[rows][:gap].sum())
        return Numbered(n_known=n_known, why=self._run.lacks(self._run.shards[gap]))

    @cached_property
    def _orders(self) -> Execution | None:
        joined = Joined()
        for number in self._run.sealed:
            with open_file(self._run.folder / self._run.shards[number].file) as file:
                if (found := read_execution(file)) is not None:
                    joined.add(found)
        return joined.execution

    def _forwards_apart(self, execution: Execution) -> Iterator[Forward]:
        for number in self._run.sealed:
            path = self._run.folder / self._run.shards[number].made_file
            if path.exists() or is_timed(path):
                yield from forwards_from_json(read_record(path)["forwards"], execution.orders, path)

    top_examples = _refused("top_examples")
    head_scores = _refused("head_scores")
    statistics = _refused("statistics")
    fit_readout = _refused("fit_readout")
    report = _refused("report")
    dataset = _refused("dataset")
    map_dataset = _refused("map_dataset")
    to_pandas = _refused("to_pandas")
    to_xarray = _refused("to_xarray")
    to_safetensors = _refused("to_safetensors")
    merge = _refused("merge")
