"""Documents: long texts whose pieces are the examples of a trace, put together again.

Knows which pieces a document has, and which tokens two of them share; nothing of how it was split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probekit import arguments
from probekit.errors import StoreError
from probekit.store import TOKEN, Scalar, is_choice
from probekit.trace.site import Site
from probekit.trace.tables import Tables
from probekit.wording import numbered, show_typed

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document: its pieces, and what they are together, no token twice."""

    number: int  # in the run; a lone shard has those of its examples
    id: str  # as the inputs have it; a piece's is "ID:0", "ID:1", ...
    pieces: range  # numbers of its examples, in order
    text: str  # a lone shard has no more of it than its examples
    token_ids: Array  # int32 [token of the document], without special tokens
    tokens: tuple[str, ...]  # the same as strings
    columns: Mapping[str, Scalar]  # values of the user's own, by name; None where there is none

    @property
    def n_tokens(self) -> int:
        """How many tokens it has, special ones left out."""
        return len(self.token_ids)


class Documents(Sequence[Document]):
    """The documents of a trace, read one at a time: `documents[0].text`, `documents.rows(site, 0)`.

    Args:
        tables: of the trace.

    Raises:
        StoreError: if the examples of the run are whole, or are no pieces in order.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        numbers: Array = tables.examples.column("document")[:]
        tables.tokens.column("document_position")
        steps = np.diff(numbers)
        if len(numbers) and (numbers[0] < 0 or not np.isin(steps, (0, 1)).all()):
            raise StoreError(f"{tables.path}: its documents are not numbered one after another")
        self._firsts = [*np.flatnonzero(np.diff(numbers, prepend=-1)).tolist(), len(numbers)]
        self._numbers = numbers

    def __repr__(self) -> str:
        n = len(self._numbers)
        return f"<Documents of {self._tables.path}: {len(self)}, in {n} pieces>"

    def __len__(self) -> int:
        return len(self._firsts) - 1

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        pieces = self.pieces(number)
        examples, (begin, end) = self._tables.examples, self._extent(pieces)
        ids = self._tables.tokens.id[begin:end][self._once(begin, end)]
        return Document(
            number=int(self._numbers[pieces[0]]),
            id=examples.id[pieces[0]].rpartition(":")[0],
            pieces=pieces,
            text=self._text(pieces, ids),
            token_ids=ids,
            tokens=tuple(self._tables.token_text(int(one)) for one in ids),
            columns=examples.users.of(pieces[0]),
        )

    def __iter__(self) -> Iterator[Document]:
        return (self[number] for number in range(len(self)))

    def pieces(self, number: int) -> range:
        """Give the numbers of a document's examples; -1 is the last document."""
        number, there = arguments.whole("document", number), len(self)
        if not -there <= number < there:
            raise IndexError(f"document {number} is out of range: {numbered(there)}")
        number %= there
        return range(self._firsts[number], self._firsts[number + 1])

    def rows_of(self, site: Site, number: int) -> Array:
        """Say which rows of a site are those of a document's tokens, each token once.

        A token of two pieces has the row of the first of them, where most tokens stand before it.

        Args:
            site: of this trace; of one that keeps some positions, the rows that there are.
            number: of the document.

        Returns:
            int64 `[row]`, in the order of the document's tokens; special tokens have none.

        Raises:
            StoreError: if the site's rows are of no tokens, or lie along the tokens of a piece.
        """
        pieces = self.pieces(number)
        there = self._tables.path
        if not isinstance(site, Site):
            raise StoreError(f"given {show_typed(site)}, expected a site, as trace[...] gives it")
        if site.trace.path != there:
            raise StoreError(f"{site.name} is of {site.trace.path}; expected a site of {there}")
        if site.axis != TOKEN:
            raise StoreError(
                f"{site.name} has one row for each {site.axis}, not for each token; "
                f"site[{pieces.start}:{pieces.stop}] are those of the document's pieces"
            )
        if "key" in site.axes:
            raise StoreError(
                f"{site.name} lies along the tokens of a piece, and a document has others; "
                "site.example(piece) gives its maps"
            )
        begin, end = site.rows_of(pieces[0]).start, site.rows_of(pieces[-1]).stop
        if not is_choice(site.rows):
            every: Array = begin + self._once(begin, end)
            return every
        kept = self._tables.rows_of_choice(site.rows)[begin:end]
        found: Array = begin + self._once(*self._extent(pieces), kept)
        return found

    def rows(self, site: Site, number: int) -> Array:
        """Give the rows of a document's tokens, each token once: see `rows_of`.

        Returns:
            `[token of the document, ...]`.
        """
        found: Array = site[self.rows_of(site, number)]
        return found

    def _extent(self, pieces: range) -> tuple[int, int]:
        """Give where the tokens of some pieces begin and end, among all tokens of the trace."""
        begin, _ = self._tables.examples.extent(pieces[0])
        last, n_tokens = self._tables.examples.extent(pieces[-1])
        return begin, last + n_tokens

    def _once(self, begin: int, end: int, tokens: Array | None = None) -> Array:
        """Choose tokens of a document so that each stands there once, in its order, int64.

        Args:
            begin: of its tokens among those of the trace.
            end: of them.
            tokens: to choose from, all of them if it is left out.

        Returns:
            Places in `tokens`, or behind `begin`.
        """
        places: Array = self._tables.tokens.document_position[begin:end]
        places = places if tokens is None else places[tokens - begin]
        own = np.flatnonzero(places >= 0)
        _, firsts = np.unique(places[own], return_index=True)
        found: Array = own[firsts]
        return found

    def _text(self, pieces: range, ids: Array) -> str:
        examples, vocabulary = self._tables.examples, self._tables.vocabulary
        if not examples.keeps("document_char_start"):
            return vocabulary.text(ids.tolist()) if len(vocabulary) else ""
        starts = examples.document_char_start[pieces.start : pieces.stop].tolist()
        at, found = starts[0], []
        for start, text in zip(starts, examples.text[pieces.start : pieces.stop], strict=True):
            if not start <= at <= start + len(text):
                raise StoreError(f"{self._tables.path}: the pieces of a document do not fit")
            found.append(text[at - start :])
            at = start + len(text)
        return "".join(found)
