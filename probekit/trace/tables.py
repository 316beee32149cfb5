"""Tables: what an opened trace says beside its sites.

Knows how a trace counts its examples and tokens, their texts, and which modules ran; nothing of
sites.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from probekit.errors import StoreError
from probekit.store import (
    ALL_TOKENS,
    INDEX_FILE,
    MADE_FILE,
    NEWEST,
    PER_EXAMPLE,
    SHARDS_FOLDER,
    Execution,
    FileRecord,
    Format,
    Forward,
    MappedRows,
    Segment,
    attributes_of,
    dataset_in,
    file_maps,
    forwards_from_json,
    node_in,
    number_of,
    open_file,
    read_execution,
    read_record,
    segments_of,
    sessions_of,
    texts_in,
    times_of,
)

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

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def __len__(self) -> int:
        return len(self.n_tokens)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        number = self.number(number)
        first, n_tokens = self.extent(number)
        ids = self._tables.tokens.id[first : first + n_tokens]
        return Example(
            number=number,
            id=self._string("id", number),
            text=self._string("text", number),
            first_token=first,
            n_tokens=n_tokens,
            token_ids=ids,
            tokens=tuple(self._tables.token_text(int(i)) for i in ids),
            n_generated=int(np.count_nonzero(self._tables.tokens.step[first : first + n_tokens])),
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
        less = self._tables._first_token
        table: Array = self._tables._table("examples/first_token", less=less)[:]
        ends = np.cumsum(self.n_tokens)
        whole = not len(ends) or int(ends[-1]) == len(self._tables.tokens)
        if not whole or not np.array_equal(table, ends - self.n_tokens):
            place = self._tables.path
            raise StoreError(f"{place}: its examples and its tokens do not fit together")
        return table

    @cached_property
    def n_tokens(self) -> Array:
        """How many tokens each example has, int64 `[example]`."""
        table: Array = self._tables._table("examples/n_tokens")[:]
        if len(table) and table.min() < 0:
            raise StoreError(f"{self._tables.path}: an example has {table.min()} tokens")
        return table

    @cached_property
    def _segments(self) -> tuple[Segment, ...]:
        with open_file(self._tables._file) as file:
            dataset = dataset_in(file, "examples/id", virtual=True)
            return segments_of(dataset, self._tables._file)

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

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[r] for r in range(*row.indices(len(self)))]
        token_id, position, example = (
            int(column[row]) for column in (self.id, self.position, self.example)
        )
        row = int(row) % len(self)
        examples = self._tables.examples
        first, n_tokens = examples.extent(example) if 0 <= example < len(examples) else (0, 0)
        if not 0 <= position < n_tokens or first + position != row:
            raise StoreError(
                f"{self._tables.path}: token {row} is said to be token {position} of example "
                f"{example}, which it is not"
            )
        return Token(
            row=row,
            id=token_id,
            text=self._tables.token_text(token_id),
            position=position,
            example=example,
            step=int(self.step[row]),
        )

    @cached_property
    def id(self) -> MappedRows:
        """Token ids, int32 `[token]`."""
        return self._tables._table("tokens/id")

    @cached_property
    def position(self) -> MappedRows:
        """Position in the token's own example, int32 `[token]`."""
        return self._tables._table("tokens/position")

    @cached_property
    def example(self) -> MappedRows:
        """Number of the token's example, int64 `[token]`."""
        return self._tables._table("tokens/example", less=self._tables._first_example)

    @cached_property
    def step(self) -> MappedRows | Array:
        """0 for a text's own tokens, 1, 2, ... for generated ones, int32 `[token]`."""
        if self._tables._has("tokens/step"):
            return self._tables._table("tokens/step")
        return np.broadcast_to(np.int32(0), (len(self),))


class Tables:
    """One opened file of a trace: how it was made, and its tables.

    Args:
        path: of an index, a shard, or a merged trace.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.absolute()  # read lazily, maybe after a change of the working directory
        self._maps = file_maps()
        self._choices: dict[str, Array] = {}
        with open_file(self._file) as file:
            self.provenance: dict[str, Any] = attributes_of(file)
        _check_format(self.provenance, path)
        if self._file.name == INDEX_FILE:
            self.provenance |= _said_apart(self._file.parent)
        # Shards hold the run's numbers; a shard that is opened alone has them from 0 on.
        self._first_example = number_of(self.provenance, "first_example", str(path)) or 0
        self._first_token = number_of(self.provenance, "first_token", str(path)) or 0
        self.examples = Examples(self)
        self.tokens = Tokens(self)

    @cached_property
    def execution(self) -> Execution | None:
        """Orders and forward passes of the run; None when they were not recorded.

        A shard that was carried away from the file beside it knows its orders, and no passes.
        """
        with open_file(self._file) as file:
            found = read_execution(file)
        if found is None:
            return None
        forwards = found.forwards or tuple(self._forwards_apart(found))
        if self._first_example:
            forwards = tuple(
                replace(f, examples=tuple(e - self._first_example for e in f.examples))
                for f in forwards
            )
        return replace(found, forwards=forwards)

    def _forwards_apart(self, execution: Execution) -> Iterator[Forward]:
        """Read the forward passes that lie beside the shards."""
        if "shard" in self.provenance:
            path = self._file.with_name(f"{self._file.stem}.{MADE_FILE}")
            files = [path] if path.exists() else []
        elif self._file.name == INDEX_FILE:
            n_shards = number_of(self.provenance, "n_shards", str(self.path)) or 0
            folder = self._file.parent / SHARDS_FOLDER
            files = [folder / f"{number:05d}.{MADE_FILE}" for number in range(n_shards)]
            files = [path for path in files if path.exists() or _is_timed(path)]
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
        if self.execution is None:
            raise StoreError(
                f"{self.path}: the execution order was not recorded; "
                "set execution_order: true in the config"
            )
        counts = Counter(forward.order for forward in self.execution.forwards)
        orders = counts or range(len(self.execution.orders))
        events = self.execution.orders[min(orders, key=lambda order: (-counts[order], order))]
        return [self.execution.modules[m] for m, entered, _ in events if entered]

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The string of every token id; empty where the trace has none (a lone shard)."""
        with open_file(self._file) as file:
            return texts_in(file, "vocabulary") if node_in(file, "vocabulary") else ()

    def token_text(self, token_id: int) -> str:
        """Give the string of a token id."""
        known = 0 <= token_id < len(self.vocabulary)
        return self.vocabulary[token_id] if known else f"<{token_id}>"

    def context(self, row: int, *, before: int = 8, after: int = 4) -> str:
        """Give the text around a token, the token itself in «marks»."""
        token = self.tokens[row]
        words = list(self.examples[token.example].tokens)
        words[token.position] = f"«{words[token.position]}»"
        return "".join(words[max(0, token.position - before) : token.position + after + 1])

    def rows_of_choice(self, choice: str) -> Array:
        """Give, for every row of a choice of positions, its token row: int64 `[row]`, read-only."""
        if choice not in self._choices:
            rows: Array = self._table(f"rows/{choice}", less=self._first_token)[:]
            inside = not len(rows) or (rows[0] >= 0 and rows[-1] < len(self.tokens))
            if not inside or not (rows[1:] >= rows[:-1]).all():
                raise StoreError(f"{self.path}: rows/{choice} are not tokens of it, in their order")
            rows.flags.writeable = False
            self._choices[choice] = rows
        return self._choices[choice]

    def n_rows(self, rows: str) -> int:
        """Count the rows of the sites that keep these: every token, one an example, or a choice."""
        if rows == ALL_TOKENS:
            return len(self.tokens)
        return len(self.examples) if rows == PER_EXAMPLE else len(self.rows_of_choice(rows))

    def _has(self, name: str) -> bool:
        with open_file(self._file) as file:
            return node_in(file, name) is not None

    def _table(self, name: str, *, less: int = 0) -> MappedRows:
        with open_file(self._file) as file:
            dataset = dataset_in(file, name, virtual=True)
            table = MappedRows(dataset, self._file, self._maps, less=less)
        if table.storage.kind not in "iu" or len(table.shape) != 1:
            raise StoreError(
                f"{self.path}: {name} is {list(table.shape)} {table.dtype}; expected whole numbers"
            )
        return table


def _is_timed(made_file: Path) -> bool:
    """Say whether a shard was written with this file beside it."""
    record = made_file.with_name(made_file.name.replace(MADE_FILE, "json"))
    return record.exists() and FileRecord.read(record).is_timed


def _said_apart(folder: Path) -> dict[str, Any]:
    """Give what made.json says: the config as written, notes, what the last self-check found."""
    said: dict[str, Any] = dict(times_of(folder))
    for number, session in enumerate(sessions_of(folder)):
        once = ("config", "notes", "began", "host") if not number else ()
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
