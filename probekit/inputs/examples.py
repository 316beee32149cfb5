"""Examples: texts and their tokens, off the heap; made once, or taken from a run's folder.

Knows token ids and what was said of them; nothing of files, modules or sites.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from probekit.errors import StoreError
from probekit.inputs.chats import COLUMNS, NOBODY, Parts
from probekit.inputs.usercolumns import columns_of
from probekit.store import (
    INPUTS_FILE,
    ColumnType,
    Named,
    Pieces,
    SealedChats,
    SealedColumns,
    SealedDocuments,
    SealedInputs,
    UserColumn,
)

Array = np.ndarray[Any, Any]


_CHAT_BYTES = 7  # of a token: its role, its turn, whether it is content
_PIECE_BYTES = 16  # of an example: its document, and its place there
_PLACE_BYTES = 4  # of a token: its place in its document


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the model can take."""

    n_tokens: int | None  # the longest example: the smaller of the context and inputs.max_tokens
    d_vocab: int
    too_long: str  # "truncate", "error" or "split"


class Examples:
    """All examples of a run: tokens and texts lie in files, not in memory.

    Where a model is to go on from each prompt several times, each of these completions is an
    example, and the prompt lies in the files once: see `each`.

    Args:
        ids: of the examples, UTF-8.
        texts: UTF-8.
        tokens: int32 ids.
        spans: which characters of its text a token covers, `[token, (start, end)]`.
        columns: values of the user's own; None where there are none.
        chats: whose each character is; None where the texts are no chats.
        documents: whose piece each is; None where they are whole.
        n_truncated: examples cut at the limit.
        n_cut: tokens that were cut; 0 where nobody counted them.
        is_about: `n_cut` is an estimate.
        notes: what the user should know of how they were read.
        digest: of all of it, where it is known.
    """

    def __init__(
        self,
        *,
        ids: Pieces,
        texts: Pieces,
        tokens: Pieces,
        spans: Array | None = None,
        columns: SealedColumns | None = None,
        chats: SealedChats | None = None,
        documents: SealedDocuments | None = None,
        n_truncated: int = 0,
        n_cut: int = 0,
        is_about: bool = False,
        notes: Sequence[str] = (),
        digest: str | None = None,
    ) -> None:
        self.n_truncated, self.n_cut, self.is_about = n_truncated, n_cut, is_about
        self.notes = tuple(notes)
        self._ids, self._texts, self._tokens, self._spans = ids, texts, tokens, spans
        self._columns, self._chats, self._documents = columns, chats, documents
        self._digest = digest
        self._n_each = 1  # examples of a prompt

    @classmethod
    def of(cls, sealed: SealedInputs) -> Self:
        """Take the examples that lie in a run's folder."""
        return cls(
            ids=sealed.ids,
            texts=sealed.texts,
            tokens=sealed.tokens,
            spans=sealed.spans,
            columns=sealed.columns,
            chats=sealed.chats,
            documents=sealed.documents,
            n_truncated=sealed.n_truncated,
            digest=sealed.digest,
        )

    def sealed(self, made_from: Mapping[str, str]) -> SealedInputs:
        """Give what goes into a run's folder."""
        return SealedInputs(
            ids=self._ids,
            texts=self._texts,
            tokens=self._tokens,
            spans=self._spans,
            columns=self._columns,
            chats=self._chats,
            documents=self._documents,
            n_truncated=self.n_truncated,
            digest=self.digest,
            made_from=made_from,
        )

    def each(self, n_completions: int) -> Self:
        """Give so many examples of each prompt, one after another."""
        made = copy(self)
        made._n_each = n_completions
        made.__dict__.pop("n_tokens", None)
        return made

    @property
    def prompts(self) -> Self:
        """One example of each prompt."""
        return self.each(1)

    def place(self, example: int) -> tuple[int, int]:
        """Say which prompt an example is of, and its number among the examples of that prompt."""
        return divmod(example, self._n_each)

    def places(self, begin: int, end: int) -> dict[str, Array]:
        """Say that of examples `begin` to `end`; nothing where each has a prompt of its own.

        Returns:
            `prompt` int64 `[example]`, and `sample` int32 `[example]`.
        """
        if self._n_each == 1:
            return {}
        prompt, sample = np.divmod(np.arange(begin, end), self._n_each)
        return {"prompt": prompt, "sample": sample.astype(np.int32)}

    def _runs(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Give the prompts of examples `begin` to `end`, as runs of them."""
        if self._n_each == 1:
            yield begin, end
        else:
            for example in range(begin, end):
                prompt, _ = self.place(example)
                yield prompt, prompt + 1

    def __len__(self) -> int:
        return self._n_each * len(self._tokens)

    @cached_property
    def n_tokens(self) -> Array:
        """Tokens of each example, int64 `[example]`."""
        n_tokens = np.repeat(self._tokens.sizes, self._n_each)
        n_tokens.flags.writeable = False
        return n_tokens

    @property
    def total_tokens(self) -> int:
        """Tokens of all examples."""
        return self._n_each * len(self._tokens.values)

    def token_ids(self, begin: int, end: int) -> Array:
        """Give the token ids of examples `begin` to `end`, int32 `[token]`."""
        return _joined([self._tokens.piece(*run) for run in self._runs(begin, end)])

    def spans(self, begin: int, end: int) -> dict[str, Array]:
        """Give the characters that the tokens of examples `begin` to `end` cover.

        Returns:
            `char_start` and `char_end`, int32 `[token]`; nothing where the tokenizer says none.
        """
        if self._spans is None:
            return {}
        ends = self._tokens.ends
        runs = [self._spans[ends[first] : ends[last]] for first, last in self._runs(begin, end)]
        spans = _joined(runs).astype(np.int32)
        return {"char_start": spans[:, 0], "char_end": spans[:, 1]}

    @property
    def has_spans(self) -> bool:
        """Whether it is known which characters a token covers."""
        return self._spans is not None

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of roles in chats, by their numbers; none where the texts are no chats."""
        return () if self._chats is None else self._chats.roles

    def chat(self, example: int) -> Parts:
        """Give whose each character of an example is, where it is a chat."""
        assert self._chats is not None  # asked for where there are roles
        prompt, _ = self.place(example)
        rows = self._chats.segments.piece(prompt, prompt + 1)
        return Parts(rows=np.asarray(rows).reshape(-1, COLUMNS))

    def goes_on(self, example: int) -> tuple[int, int, bool]:
        """Say whose is what a model writes behind a chat; nobody's where its tokens were cut."""
        chat = self.chat(example)
        ends = self.spans(example, example + 1)["char_end"]
        is_whole = len(ends) and ends[-1] == chat.rows[-1, 0]
        return chat.goes_on if is_whole else (0, NOBODY, False)

    def chat_columns(self, begin: int, end: int) -> dict[str, Array | Named]:
        """Say whose the tokens of examples `begin` to `end` are.

        Returns:
            `role`, `turn` and `is_content`, `[token]`; nothing where the texts are no chats.
        """
        if self._chats is None or self._spans is None:
            return {}
        found = []
        for number in range(begin, end):
            spans = self.spans(number, number + 1)
            found.append(self.chat(number).owners(spans["char_start"], spans["char_end"]))
        return {
            "role": Named(names=self.roles, codes=np.concatenate([one.role for one in found])),
            "turn": np.concatenate([one.turn for one in found]),
            "is_content": np.concatenate([one.is_content for one in found]),
        }

    @cached_property
    def documents(self) -> Array | None:
        """The document that each example is a piece of, int64 `[example]`; None: they are whole."""
        return None if self._documents is None else self._documents.rows[:, 0].astype(np.int64)

    def pieces(self, begin: int, end: int) -> dict[str, Array]:
        """Say of which documents examples `begin` to `end` are pieces, and which.

        Returns:
            `document`, `document_start` and, where tokens have characters, `document_char_start`,
            int64 `[example]`; nothing where examples are whole.
        """
        if self._documents is None:
            return {}
        document, start, _, _, char_start = self._documents.rows[begin:end].astype(np.int64).T
        found = {"document": document, "document_start": start}
        return {**found, "document_char_start": char_start} if self.has_spans else found

    def document_positions(self, begin: int, end: int) -> dict[str, Array]:
        """Say where in their documents the tokens of examples `begin` to `end` stand.

        Returns:
            `document_position`, int64 `[token]`; nothing where examples are whole.
        """
        if self._documents is None:
            return {}
        n_tokens = self.n_tokens[begin:end]
        rows = self._documents.rows[begin:end].astype(np.int64)
        _, start, n_before, n_own, _ = np.repeat(rows, n_tokens, axis=0).T
        firsts = np.cumsum(n_tokens) - n_tokens
        own = np.arange(n_tokens.sum()) - np.repeat(firsts, n_tokens) - n_before
        return {"document_position": np.where((own >= 0) & (own < n_own), start + own, -1)}

    def text(self, example: int) -> str:
        """Give an example's text as it was given, also where its tokens were cut."""
        return _string(self._texts, self.place(example)[0])

    def id(self, example: int) -> str:
        """Give an example's id: of several of one prompt `ID:0`, `ID:1`, ..."""
        prompt, sample = self.place(example)
        own = _string(self._ids, prompt)
        return own if self._n_each == 1 else f"{own}:{sample}"

    @property
    def column_types(self) -> tuple[ColumnType, ...]:
        """The columns of the user's own."""
        return () if self._columns is None else self._columns.types

    def columns(
        self, begin: int, end: int, names: Collection[str] | None = None
    ) -> tuple[UserColumn, ...]:
        """Give the user's columns over examples `begin` to `end`, all or those of some names."""
        types = [t for t in self.column_types if names is None or t.name in names]
        if self._columns is None or not types:
            return ()
        prompts = [self.place(example)[0] for example in range(begin, end)]
        rows = [bytes(self._columns.rows.piece(n, n + 1)) for n in prompts]
        return columns_of(types, rows)

    @property
    def string_bytes(self) -> Array:
        """Bytes of what each example says, its text, id and columns: int64 `[example]`."""
        said = self._texts.sizes + self._ids.sizes
        said = said if self._columns is None else said + self._columns.rows.sizes
        if self._documents is not None:
            said = said + _PIECE_BYTES + _PLACE_BYTES * self._tokens.sizes
        if self._n_each > 1:
            said = np.repeat(said, self._n_each) + len(f":{self._n_each}")
        return said if self._chats is None else said + _CHAT_BYTES * self.n_tokens

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every id, text and token, and of the characters it covers."""
        if self._digest is not None:
            return self._digest
        more = [] if self._spans is None else [self._spans]
        if self._columns is not None:
            more += [self._columns.said, self._columns.rows.ends, self._columns.rows.values]
        if self._chats is not None:
            more += [self._chats.said, self._chats.segments.ends, self._chats.segments.values]
        if self._documents is not None:
            more += [self._documents.rows]
        return self._digest_of(more)

    @cached_property
    def digest_of_format_1(self) -> str:
        """SHA-256 of every id, text and token, as a run in format 1.0 says it."""
        return self._digest_of(())

    def _digest_of(self, more: Iterable[Array]) -> str:
        digest = hashlib.sha256()
        pieces = (self._tokens, self._texts, self._ids)
        for values in (*(p.ends for p in pieces), *(p.values for p in pieces), *more):
            for begin in range(0, len(values), 1 << 22):
                digest.update(np.ascontiguousarray(values[begin : begin + (1 << 22)]).data)
        return digest.hexdigest()


def _joined(parts: Sequence[Array]) -> Array:
    """Lay arrays end to end; one alone stays as it is, mapped and not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _string(pieces: Pieces, number: int) -> str:
    data = bytes(pieces.piece(number, number + 1))
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise StoreError(f"{INPUTS_FILE}: text {number} is no UTF-8") from error
    if "\0" in text:
        raise StoreError(f"{INPUTS_FILE}: text {number} has a NUL character")
    return text
