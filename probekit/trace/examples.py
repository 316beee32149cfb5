"""Examples: the input texts of a trace, one at a time or column by column.

Knows their table, and how an example's tokens are found; nothing of sites.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from probekit import arguments
from probekit.store import TOKEN, Scalar, known_axes
from probekit.trace.columns import AxisTable, UserColumns
from probekit.wording import numbered

Array = np.ndarray[Any, Any]

_BESIDE = ("prompt", "sample", "score", "document", "document_start", "document_char_start")


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
    completion: str  # what it said itself; empty where it was not asked to generate
    columns: Mapping[str, Scalar]  # values of the user's own, by name; None where there is none
    prompt: int  # number of its prompt in the run; its own where it shares the prompt with nobody
    sample: int = 0  # its number among the completions of its prompt
    score: float | None = None  # what a beam search ranked it by; None where none did
    document: int | None = None  # number of the document that it is a piece of; None: it is whole
    document_start: int | None = None  # place there of its first own token
    document_char_start: int | None = None  # place there of its text; None where nobody says


class Examples(AxisTable, Sequence[Example]):
    """The examples of a trace, read one at a time; `id`, `text`, `n_tokens`, ... are columns."""

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        number = self.number(number)
        first, n_tokens = self.extent(number)
        tokens = self._others(TOKEN)
        ids = self.token_ids(number)
        n_generated = int(np.count_nonzero(tokens._column("step")[first : first + n_tokens]))
        said = ids[n_tokens - n_generated :].tolist()
        return Example(
            number=number,
            id=self.id[number],
            text=self.text[number],
            first_token=first,
            n_tokens=n_tokens,
            token_ids=ids,
            tokens=tuple(self._opened.token_text(int(i)) for i in ids),
            n_generated=n_generated,
            completion=self._opened.vocabulary.text(said) if said else "",
            columns=self.users.of(number),
            **{"prompt": number, **self._beside(number)},
        )

    def _beside(self, number: int) -> dict[str, Any]:
        """Give what stands of an example in columns that not every trace has."""
        return {name: getattr(self, name)[number].item() for name in _BESIDE if self.keeps(name)}

    def is_sealed(self, number: int) -> bool:
        """Say whether the rows of an example can be read: of a run that is not finished not all."""
        self.number(number)
        return True

    def keeps(self, name: str) -> bool:
        """Say whether the file itself has a column."""
        return any(column.name == name for column in self.stored)

    @property
    def shares(self) -> bool:
        """Whether examples share their prompts: each is one of several completions."""
        return self.keeps("prompt")

    @property
    def place(self) -> Path:
        """Where the trace lies, for messages."""
        return self._opened.path

    @cached_property
    def users(self) -> UserColumns:
        """The values of the user's own beside the examples."""
        return UserColumns(self._opened, self)

    def texts(self) -> Iterator[str]:
        """Give every text in order, many at a time read: quicker than one by one."""
        return iter(self.text)

    def number(self, number: int) -> int:
        """Check an example's number; -1 is the last."""
        number = arguments.whole("example", number)
        there = len(self)
        if not -there <= number < there:
            raise IndexError(f"example {number} is out of range: {numbered(there)}")
        return number % there

    def extent(self, number: int, axis: str = TOKEN) -> tuple[int, int]:
        """Give an example's first row among all rows of an axis, and how many it has."""
        return self._others(axis).extent(self.number(number))

    def token_ids(self, number: int) -> Array:
        """Give the token ids of an example, int32 `[token]`, and read nothing else of it."""
        first, n_tokens = self.extent(number)
        ids: Array = self._others(TOKEN)._column("id")[first : first + n_tokens]
        return ids

    @cached_property
    def n_generated(self) -> Array:
        """How many tokens of each example the model said itself, int64 `[example]`."""
        tokens = self._others(TOKEN)
        generated = np.flatnonzero(tokens.step[:])
        return np.bincount(tokens.example[generated], minlength=len(self))

    def _open(self, name: str) -> Any:
        """Open a column; where each example's rows begin and how many they are, whole."""
        for axis in known_axes():
            if axis.is_inner and name in (axis.first, axis.count):
                return self._others(axis.name).extents[name == axis.count]
        return super()._open(name)
