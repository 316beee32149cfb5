"""Contents: what an example says, and how each kind of it becomes what the model reads.

The one place where kinds of content differ. Knows no file; the tokenizer comes in as functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from probekit.arguments import plain
from probekit.inputs.chats import Conversation, Rendered
from probekit.inputs.documents import Splitting
from probekit.wording import show

Array = np.ndarray[Any, Any]

_MOST = 2**31 - 1  # token ids are stored as int32
_FORM = "a list of token ids such as [5, 17]"

Ids = Sequence[int] | Array  # [token]; of a long document an array
Spans = Sequence[tuple[int, int]] | Array
# [token]: its first character, and the one behind its last


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Token ids as they were given: whole numbers, at least one, none of them negative."""

    ids: Sequence[int]
    field: str | None = None  # that holds them; None where the config itself is the list

    def __len__(self) -> int:
        return len(self.ids)


Content = str | TokenIds | Conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One example as the model will read it."""

    text: str
    ids: Ids
    spans: Spans | None
    n_more: int = 0  # about so many tokens were left out behind these
    has_bos: bool = False  # it begins with the BOS token itself, and got no second one
    chat: Rendered | None = None  # whose each character is


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What a tokenizer makes of texts."""

    ids: Sequence[Ids]  # [text][token]
    spans: Sequence[Spans] | None = None  # [text][token]: first character, end
    n_more: Sequence[int] | None = None  # [text]: about so many tokens were left out behind these
    has_bos: Sequence[bool] | None = None  # [text]: begins with BOS itself, and got no second one

    def reading(self, n: int, text: str, chat: Rendered | None = None) -> Reading:
        """Give one text of them as the model will read it."""
        return Reading(
            text=text,
            ids=self.ids[n],
            spans=None if self.spans is None else self.spans[n],
            n_more=0 if self.n_more is None else self.n_more[n],
            has_bos=self.has_bos is not None and self.has_bos[n],
            chat=chat,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What a tokenizer makes of token ids."""

    texts: Sequence[str]
    spans: Sequence[Spans | None]  # None where a text does not tell which characters are whose


Encode = Callable[[list[str]], Encoded]
Decode = Callable[[Sequence[Sequence[int]]], Decoded]


@dataclass(frozen=True, slots=True)
class Unread:
    """Why there is nothing of an example that the model could read."""

    reason: str
    is_last: bool = False  # what comes behind it is not read, since it would take as long


class ChatReading(Protocol):
    """What renders chats, and tokenizes what a template writes."""

    def readings(self, chats: Sequence[Conversation]) -> Iterator[Reading | Unread]:
        """Turn conversations into what the model reads, in their order."""

    def notes(self) -> Sequence[str]:
        """Say what the user should know of those that were read."""

    def close(self) -> None:
        """Let go of what was needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """What a tokenizer can do; without one nothing."""

    encode: Encode | None = None
    decode: Decode | None = None
    bos: str | None = None  # its token for the beginning of a text, as it is spelled
    chats: ChatReading | None = None
    splitting: Splitting | None = None  # what is encoded are documents, all of them without `bos`


def readings(contents: Sequence[Content], codec: Codec) -> Iterator[Reading | Unread]:
    """Turn contents into what the model reads, in their order."""
    texts = [one for one in contents if isinstance(one, str)]
    given = [one for one in contents if isinstance(one, TokenIds)]
    chats = [one for one in contents if isinstance(one, Conversation)]
    made: dict[type, Iterator[Reading | Unread]] = {
        str: _of_texts(texts, codec),
        TokenIds: _of_ids(given, codec),
        Conversation: _of_chats(chats, codec),
    }
    for one in contents:
        yield next(made[type(one)])


def _of_texts(texts: list[str], codec: Codec) -> Iterator[Reading]:
    assert codec.encode is not None  # checked before any text is read
    found = codec.encode(texts)
    yield from (found.reading(n, text) for n, text in enumerate(texts))


def _of_chats(chats: list[Conversation], codec: Codec) -> Iterator[Reading | Unread]:
    assert codec.chats is not None  # made for chats
    yield from codec.chats.readings(chats)


def _of_ids(given: list[TokenIds], codec: Codec) -> Iterator[Reading]:
    lists = [one.ids for one in given]
    if codec.decode is None:
        yield from (Reading(text="", ids=ids, spans=None) for ids in lists)
        return
    found = codec.decode(lists)
    for ids, text, spans in zip(lists, found.texts, found.spans, strict=True):
        yield Reading(text=text, ids=ids, spans=spans)


def place_of_id(where: str, content: TokenIds, number: int) -> tuple[str, str]:
    """Say where one id of a list stands: the place for a message, and how it begins."""
    if content.field is None:
        return f"{where}[{number}]", f"given {show(content.ids[number])}, "
    return where, f"{content.field}[{number}] is {show(content.ids[number])}, "


def token_ids(value: object, field: str, *, is_spelled: bool = False) -> TokenIds | str:
    """Take token ids from the field of a row.

    Args:
        value: as the source has it: a list, or an array of numpy, torch or arrow.
        field: its name.
        is_spelled: values are text, as in a .csv file, where JSON may stand in a cell.

    Returns:
        The ids, or what is wrong with them.
    """
    found = unspelled(value) if is_spelled and isinstance(value, str) else value
    found = plain(found)
    if not isinstance(found, list | tuple):
        return f"the field {field!r} is {show(value)}; expected {_FORM}"
    if not found:
        return f"the field {field!r} is empty: there is no token to record; remove it"
    for number, one in enumerate(found):
        if type(one) is not int or not 0 <= one <= _MOST:
            what = f"a token id is a whole number from 0 to {_MOST}"
            return f"{field}[{number}] is {show(one)}; {what}"
    return TokenIds(found, field)


def unspelled(cell: object) -> object:
    """Read the JSON of a cell of a .csv file; what is none stays as it is."""
    assert isinstance(cell, str)
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):  # no JSON, and so no list, which is told as such
        return cell
