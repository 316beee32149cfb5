"""PartialExamples: the examples of a run that is not finished, sealed or not.

Knows that texts and tokens of all of them lie in the run's sealed inputs; rows lie in shards.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from probekit.errors import StoreError
from probekit.store import (
    EXAMPLE,
    INPUTS_FILE,
    TEXT,
    Axis,
    Pieces,
    Scalar,
    SealedInputs,
    Unfinished,
    number_of,
)
from probekit.trace.columns import AxisTable, Opened
from probekit.trace.examples import Example, Examples

Array = np.ndarray[Any, Any]

_READ: dict[str, Any] = {
    "int64": int,
    "float64": float,
    "bool": lambda cell: cell.lower() == "true",
}


class PartialExamples(Examples):
    """The examples of a run; those that are not sealed have their text and tokens, and no rows.

    Args:
        opened: the trace.
        axis: of examples.
        others: gives the table of another axis.
        run: what is there of it.
        inputs: gives its texts and tokens.
    """

    def __init__(
        self,
        opened: Opened,
        axis: Axis,
        others: Callable[[str], AxisTable],
        run: Unfinished,
        inputs: Callable[[], SealedInputs],
    ) -> None:
        super().__init__(opened, axis, others)
        self._run, self._given_inputs = run, inputs
        self._sealed, self._gap = frozenset(run.sealed), run.gap

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        number = self.number(number)
        if not self.is_sealed(number):
            return self._given(number)
        found: Example = super().__getitem__(number)
        return found if self._is_counted(number) else replace(found, first_token=-1)

    def is_sealed(self, number: int) -> bool:
        """Say whether the rows of an example can be read."""
        shard = self._opened._parts_of(EXAMPLE).number(self.number(number))
        return shard in self._sealed

    def token_ids(self, number: int) -> Array:
        """Give the token ids of an example, int32 `[token]`; of one not sealed, those given."""
        number = self.number(number)
        if self.is_sealed(number):
            return super().token_ids(number)
        prompt = number // self._n_each
        return np.array(self._inputs.tokens.piece(prompt, prompt + 1), dtype=np.int32)

    def _given(self, number: int) -> Example:
        """Give an example that is not sealed, as far as it was given."""
        prompt, sample = divmod(number, self._n_each)
        ids = self.token_ids(number)
        own = _text(self._inputs.ids, prompt)
        return Example(
            number=number,
            id=own if self._n_each == 1 else f"{own}:{sample}",
            text=_text(self._inputs.texts, prompt),
            first_token=self._first_token(number),
            n_tokens=len(ids),
            token_ids=ids,
            tokens=tuple(self._opened.token_text(int(i)) for i in ids),
            n_generated=0,
            completion="",
            columns=self._columns_of(prompt),
            prompt=prompt,
            sample=sample,
            **self._document_of(prompt),
        )

    def _first_token(self, number: int) -> int:
        """Give an example's first row; -1 where nobody knows yet how many come before it."""
        return int(self._ends[number]) if self._is_counted(number) else -1

    def _is_counted(self, number: int) -> bool:
        """Say whether it is known how many tokens come before an example."""
        before = self._gap is None or number < self._run.shards[self._gap].first_example
        return before or not self._run.is_local

    @cached_property
    def _ends(self) -> Array:
        sizes = np.repeat(self._inputs.tokens.sizes, self._n_each)
        return np.concatenate([[0], np.cumsum(sizes)])

    def _columns_of(self, prompt: int) -> dict[str, Scalar]:
        columns = self._inputs.columns
        if columns is None:
            return {}
        row = json.loads(bytes(columns.rows.piece(prompt, prompt + 1)))
        return {type.name: _typed(row.get(type.name), type.dtype) for type in columns.types}

    def _document_of(self, prompt: int) -> dict[str, Any]:
        if self._inputs.documents is None:
            return {}
        document, start, _, _, char_start = self._inputs.documents.rows[prompt].tolist()
        at = char_start if self._inputs.spans is not None else None
        return {"document": document, "document_start": start, "document_char_start": at}

    @cached_property
    def _inputs(self) -> SealedInputs:
        return self._given_inputs()

    @cached_property
    def _n_each(self) -> int:
        """How many examples a prompt has."""
        said, place = self._opened.provenance, str(self._opened.path)
        n_each = number_of(said, "n_samples", place) or number_of(said, "n_beams", place) or 1
        if n_each * len(self._inputs.tokens) != len(self):
            raise StoreError(f"{place}: its {INPUTS_FILE} has not the examples of its plan")
        return n_each


def _text(pieces: Pieces, number: int) -> str:
    return bytes(pieces.piece(number, number + 1)).decode(errors="backslashreplace")


def _typed(value: Scalar, dtype: str) -> Scalar:
    """Give a value as its column holds it; a cell of a .csv file waits as text."""
    if isinstance(value, str) and dtype != TEXT:
        found: Scalar = _READ[dtype](value)
        return found
    return float(value) if isinstance(value, int) and dtype == "float64" else value
