"""Positions by what stands there: a text, a pattern, a column's value, or what is beside one.

In chats also by whose turn it is. Knows how a spot is written; nothing of tokens. `positions` of a
probe is a spot, or one of the words, numbers and slices of fields.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import regex
from pydantic import AfterValidator, Discriminator, Field, Tag, WithJsonSchema, create_model

from probekit.config.fields import (
    MAX_COUNT,
    POSITIONS_TEXT,
    POSITIONS_WRITTEN,
    TAG,
    Count,
    Expected,
    Name,
    PositionNumbers,
    PositionWord,
    Text,
)
from probekit.config.section import Deciding, Part, one_source
from probekit.wording import show

_WORD, _LIST, _MAPPING, _NUMBER = (f"{TAG}{name}" for name in ("word", "list", "mapping", "number"))
_PLAIN = ("match", "regex", "column")
_BESIDE = ("after", "before")
_OF_CHATS = ("role", "content", "turn")
CONTENTS, ALL_TEXT = "contents", "all"  # where in a chat a text is looked for


def _word_or_number(value: object) -> str:
    return _WORD if isinstance(value, str) else _NUMBER


def _pattern(text: str) -> str:
    try:
        regex.compile(text)
    except (regex.error, RecursionError) as error:
        raise ValueError(f"expected a regular expression: {error}") from None
    return text


_TAKE_TEXT = "all, first, last, or a number from 0"
Take = Annotated[
    Annotated[Literal["all", "first", "last"], Tag(_WORD)]
    | Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT), Tag(_NUMBER)],
    Discriminator(_word_or_number),
    Expected(_TAKE_TEXT),
]


class Spot(Part):
    """Characters of a text: exactly one of match, regex and column."""

    match: Deciding[Text | None] = Field(None, description='A text, such as " Japan".')
    regex: Deciding[Annotated[Text, AfterValidator(_pattern)] | None] = Field(
        None, description="A regular expression."
    )
    column: Deciding[Name | None] = Field(
        None, description="A column; its value, a text, is looked for."
    )

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from one_source(given, _PLAIN, cls.model_fields)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it looks at."""
        return () if self.column is None else (self.column,)

    def __str__(self) -> str:
        key = next(key for key in _PLAIN if getattr(self, key) is not None)
        return f"{key}: {show(getattr(self, key))}"


if TYPE_CHECKING:
    _Looking = Spot
else:  # its key is a word of Python's own
    _Looking = create_model(
        "_Looking",
        __base__=Spot,
        **{
            "in": (
                Deciding[Literal[CONTENTS, ALL_TEXT]],
                Field(CONTENTS, description="all: in a chat look between contents, too."),
            )
        },
    )


class Where(_Looking):
    """Tokens by what stands there: at most one of match, regex, column, after and before.

    In chats also by turn; what is given together holds together.
    """

    after: Deciding[Spot | None] = Field(
        None, description="The token that comes offset tokens after each spot."
    )
    before: Deciding[Spot | None] = Field(
        None, description="The token that comes offset tokens before each spot."
    )
    offset: Deciding[Count] = Field(
        1, description="How many tokens after the last one of a spot, or before its first."
    )
    role: Deciding[Name | None] = Field(
        None, description="In chats: tokens of that role's turns, such as user."
    )
    content: Deciding[bool | None] = Field(
        None, description="In chats: true for what was said, false for what the template writes."
    )
    turn: Deciding[Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT)] | None] = Field(
        None,
        description="In chats: tokens of one turn: of those of the role, or where none is named "
        "the message of that number; -1 is the last that is there.",
    )
    take: Deciding[Take] = Field("all", description=f"Which of the tokens: {_TAKE_TEXT}.")
    missing: Deciding[Literal["error", "skip"]] = Field(
        "error", description="skip: an example in which nothing is found has no row."
    )

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        of_chats = any(given.get(key) is not None for key in _OF_CHATS)
        sought = [key for key in (*_PLAIN, *_BESIDE) if given.get(key) is not None]
        if not of_chats or len(sought) > 1:
            yield from one_source(given, (*_PLAIN, *_BESIDE), cls.model_fields)
        if "offset" in given and not any(given.get(key) is not None for key in _BESIDE):
            yield "offset", "goes with after and before alone"
        if given.get("in") == ALL_TEXT and not sought:
            yield "in", "goes with match, regex, column, after and before alone"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it looks at."""
        inner = self.after or self.before
        return super().columns if inner is None else inner.columns

    @property
    def is_of_chats(self) -> bool:
        """Whether it says anything that only chats have."""
        return any(getattr(self, key) is not None for key in _OF_CHATS) or self.looks_everywhere

    @property
    def looks_everywhere(self) -> bool:
        """Whether a text is looked for between contents, too."""
        return bool(getattr(self, "in") == ALL_TEXT)

    @property
    def sought(self) -> Spot | None:
        """What is looked for; None where tokens are told by their turns alone."""
        beside = self.after or self.before
        if beside is not None:
            return beside
        return self if any(getattr(self, key) is not None for key in _PLAIN) else None

    def __str__(self) -> str:
        said = [self._said_sought] if self.sought is not None else []
        said += [f"{key}: {show(v)}" for key in _OF_CHATS if (v := getattr(self, key)) is not None]
        said += [f"in: {ALL_TEXT}"] if self.looks_everywhere else []
        said += [] if self.take == "all" else [f"take: {self.take}"]
        return ", ".join(said)

    @property
    def _said_sought(self) -> str:
        for key in _BESIDE:
            if (spot := getattr(self, key)) is not None:
                return f"{self.offset} {key} {{{spot}}}"
        return super().__str__()


def _kind_of(value: object) -> str:
    if isinstance(value, Mapping | Where):
        return _MAPPING
    return _WORD if isinstance(value, str) else _LIST


_TEXT_KEYS = {key: {"type": ["string", "null"], "minLength": 1} for key in _PLAIN}
_SPOT = {"type": "object", "properties": _TEXT_KEYS, "additionalProperties": False}


def _exactly_one(keys: tuple[str, ...]) -> dict[str, Any]:
    there = {"not": {"type": "null"}}
    return {"oneOf": [{"required": [key], "properties": {key: there}} for key in keys]}


_NONE = {"properties": {key: {"type": "null"} for key in (*_PLAIN, *_BESIDE)}}
_WHERE = {
    "type": "object",
    "properties": {
        **_TEXT_KEYS,
        **{key: {"anyOf": [_SPOT | _exactly_one(_PLAIN), {"type": "null"}]} for key in _BESIDE},
        "offset": {"type": "integer", "minimum": 1, "maximum": MAX_COUNT},
        "take": {
            "anyOf": [
                {"enum": ["all", "first", "last"]},
                {"type": "integer", "minimum": -MAX_COUNT, "maximum": MAX_COUNT},
            ]
        },
        "role": {"type": ["string", "null"], "minLength": 1},
        "content": {"type": ["boolean", "null"]},
        "turn": {"type": ["integer", "null"], "minimum": -MAX_COUNT, "maximum": MAX_COUNT},
        "in": {"enum": [CONTENTS, ALL_TEXT]},
        "missing": {"enum": ["error", "skip"]},
    },
    "additionalProperties": False,
    "if": {
        "anyOf": [
            {"required": [key], "properties": {key: {"not": {"type": "null"}}}} for key in _OF_CHATS
        ]
    },
    "then": {"oneOf": [*_exactly_one((*_PLAIN, *_BESIDE))["oneOf"], _NONE]},
    "else": _exactly_one((*_PLAIN, *_BESIDE)),
}
POSITIONS_HELP = f'{POSITIONS_TEXT}, or a spot such as {{match: " Japan"}}'

Positions = Annotated[
    Annotated[PositionWord, Tag(_WORD)]
    | Annotated[PositionNumbers, Tag(_LIST)]
    | Annotated[Where, Tag(_MAPPING)],
    Discriminator(_kind_of),
    Expected(POSITIONS_HELP),
    WithJsonSchema({"anyOf": [*POSITIONS_WRITTEN, _WHERE]}),
]
