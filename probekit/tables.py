"""Examples and Tokens: the tables of a trace, as sequences.

Knows how a trace counts its examples and tokens; nothing of sites.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.mapped import MappedRows, dataset_in, open_file

if TYPE_CHECKING:
    from probekit.trace import Trace

Array = np.ndarray[Any, Any]

_TEXTS_READ = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One input text."""

    number: int  # in the trace; a lone shard counts its examples and tokens from 0
    id: str
    text: str
    first_token: int  # its first row among all tokens of the trace
    n_tokens: int
    token_ids: Array  # int32 [token]
    tokens: tuple[str, ...]  # the tokens as strings
    n_generated: int  # of them, how many the model said itself: the last ones

    @property
    def completion(self) -> str:
        """What the model said itself; empty where it was not asked to generate."""
        return "".join(self.tokens[self.n_tokens - self.n_generated :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One real token of an example."""

    row: int
    id: int
    text: str
    position: int  # in its example, from 0
    example: int
    step: int  # 0 for a text's own token, 1, 2, ... for generated ones


class Examples(Sequence[Example]):
    """The examples of a trace, read one at a time; `first_token` and `n_tokens` are columns."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __len__(self) -> int:
        return len(self.n_tokens)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        number = self.number(number)
        first, n_tokens = self.extent(number)
        ids = self._trace.tokens.id[first : first + n_tokens]
        return Example(
            number=number,
            id=self._string("id", number),
            text=self._string("text", number),
            first_token=first,
            n_tokens=n_tokens,
            token_ids=ids,
            tokens=tuple(self._trace.token_text(int(i)) for i in ids),
            n_generated=int(np.count_nonzero(self._trace.tokens.step[first : first + n_tokens])),
        )

    def texts(self) -> Iterator[str]:
        """Give every text in order, many at a time read: quicker than one by one."""
        begin = 0
        while begin < len(self):
            segment, local = self._segments.segment_of(begin)
            end = min(local + _TEXTS_READ, segment.n_rows)
            with open_file(segment.file) as file:
                texts = list(dataset_in(file, "examples/text").asstr()[local:end])
            yield from texts
            begin += len(texts)

    def number(self, number: int) -> int:
        """Check an example's number; -1 is the last."""
        there = len(self.n_tokens)
        if not -there <= number < there:
            raise IndexError(f"example {number} is out of range: there are {there}")
        return number % there

    def extent(self, number: int) -> tuple[int, int]:
        """Give an example's first row among all tokens, and its number of tokens."""
        return int(self.first_token[number]), int(self.n_tokens[number])

    @cached_property
    def first_token(self) -> Array:
        """Each example's first row among all tokens, int64 `[example]`."""
        less = self._trace._first_token
        table: Array = self._trace._table("examples/first_token", less=less)[:]
        return table

    @cached_property
    def n_tokens(self) -> Array:
        """How many tokens each example has, int64 `[example]`."""
        table: Array = self._trace._table("examples/n_tokens")[:]
        return table

    @cached_property
    def _segments(self) -> MappedRows:
        return self._trace._table("examples/id")

    def strings(self, column: str, key: Any = slice(None)) -> Array:
        """Give `id` or `text` of the examples that a key picks, object `[example]`."""
        numbers = np.arange(len(self))[key]
        flat = numbers.reshape(-1)
        found = np.empty(flat.shape, dtype=object)
        for segment in self._segments.segments:
            local = flat - segment.first_row
            here = (local >= 0) & (local < segment.n_rows)
            if here.any():
                begin, end = int(local[here].min()), int(local[here].max()) + 1
                with open_file(segment.file) as file:
                    strings = dataset_in(file, f"examples/{column}").asstr()[begin:end]
                found[here] = strings[local[here] - begin]
        return found.reshape(numbers.shape)

    def _string(self, column: str, number: int) -> str:
        segment, local = self._segments.segment_of(number)
        with open_file(segment.file) as file:
            value: str = dataset_in(file, f"examples/{column}").asstr()[local]
        return value


class Tokens(Sequence[Token]):
    """The tokens of a trace; `id`, `position` and `example` are lazy columns `[token]`."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[r] for r in range(*row.indices(len(self)))]
        token_id = int(self.id[row])
        return Token(
            row=int(row) % len(self),
            id=token_id,
            text=self._trace.token_text(token_id),
            position=int(self.position[row]),
            example=int(self.example[row]),
            step=int(self.step[row]),
        )

    @cached_property
    def id(self) -> MappedRows:
        """Token ids, int32 `[token]`."""
        return self._trace._table("tokens/id")

    @cached_property
    def position(self) -> MappedRows:
        """Position in the token's own example, int32 `[token]`."""
        return self._trace._table("tokens/position")

    @cached_property
    def example(self) -> MappedRows:
        """Number of the token's example, int64 `[token]`."""
        return self._trace._table("tokens/example", less=self._trace._first_example)

    @cached_property
    def step(self) -> MappedRows | Array:
        """0 for a text's own tokens, 1, 2, ... for generated ones, int32 `[token]`."""
        if self._trace._has("tokens/step"):
            return self._trace._table("tokens/step")
        return np.broadcast_to(np.int32(0), (len(self),))
