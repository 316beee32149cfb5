"""Examples and Tokens: the tables of a trace, as sequences.

Knows how a trace counts its examples and tokens; nothing of sites.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.errors import StoreError
from probekit.store import MappedRows, Segment, dataset_in, open_file, segments_of, texts_in

if TYPE_CHECKING:
    from probekit.trace.trace import Trace

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
            segment, local = self._segment_of(begin)
            end = min(local + _TEXTS_READ, segment.n_rows)
            with open_file(segment.file) as file:
                texts = texts_in(file, "examples/text", slice(local, end))
            if len(texts) != end - local:
                raise StoreError(f"{segment.file}: it has fewer texts than examples")
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
        ends = np.cumsum(self.n_tokens)
        whole = not len(ends) or int(ends[-1]) == len(self._trace.tokens)
        if not whole or not np.array_equal(table, ends - self.n_tokens):
            raise StoreError(f"{self._trace.path}: its examples and its tokens do not fit together")
        return table

    @cached_property
    def n_tokens(self) -> Array:
        """How many tokens each example has, int64 `[example]`."""
        table: Array = self._trace._table("examples/n_tokens")[:]
        if len(table) and table.min() < 0:
            raise StoreError(f"{self._trace.path}: an example has {table.min()} tokens")
        return table

    @cached_property
    def _segments(self) -> tuple[Segment, ...]:
        with open_file(self._trace._file) as file:
            dataset = dataset_in(file, "examples/id", virtual=True)
            return segments_of(dataset, self._trace._file)

    def _segment_of(self, number: int) -> tuple[Segment, int]:
        """Give the segment that holds an example's id and text, and its number inside it."""
        at = bisect_right([s.first_row for s in self._segments], number) - 1
        return self._segments[at], number - self._segments[at].first_row

    def strings(self, column: str, key: Any = slice(None)) -> Array:
        """Give `id` or `text` of the examples that a key picks, object `[example]`."""
        numbers = np.arange(len(self))[key]
        flat = numbers.reshape(-1)
        found = np.empty(flat.shape, dtype=object)
        for segment in self._segments:
            local = flat - segment.first_row
            here = (local >= 0) & (local < segment.n_rows)
            if here.any():
                begin, end = int(local[here].min()), int(local[here].max()) + 1
                with open_file(segment.file) as file:
                    strings = texts_in(file, f"examples/{column}", slice(begin, end))
                found[here] = np.array(strings, dtype=object)[local[here] - begin]
        return found.reshape(numbers.shape)

    def _string(self, column: str, number: int) -> str:
        segment, local = self._segment_of(number)
        with open_file(segment.file) as file:
            (text,) = texts_in(file, f"examples/{column}", slice(local, local + 1))
        return text


class Tokens(Sequence[Token]):
    """The tokens of a trace; `id`, `position` and `example` are lazy columns `[token]`."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[r] for r in range(*row.indices(len(self)))]
        token_id, position, example = (
            int(column[row]) for column in (self.id, self.position, self.example)
        )
        row = int(row) % len(self)
        examples = self._trace.examples
        first, n_tokens = examples.extent(example) if 0 <= example < len(examples) else (0, 0)
        if not 0 <= position < n_tokens or first + position != row:
            raise StoreError(
                f"{self._trace.path}: token {row} is said to be token {position} of example "
                f"{example}, which it is not"
            )
        return Token(
            row=row,
            id=token_id,
            text=self._trace.token_text(token_id),
            position=position,
            example=example,
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
