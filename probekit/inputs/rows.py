"""Rows: what one row of a file, dataset or config gives: its content, its id and its columns.

Knows fields by name; nothing of the forms of files, and nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from probekit.config import ProbeConfig
from probekit.errors import ConfigError, Fault
from probekit.inputs.chats import read_conversation
from probekit.inputs.contents import Content, token_ids, unspelled
from probekit.inputs.usercolumns import Wanted
from probekit.wording import near, shorten


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One example as it was found, before it is tokenized."""

    where: str  # "inputs.texts[3]" or "prompts.jsonl:7"
    id: str
    said: Content
    is_numbered: bool = True  # it came without an id, and has its number for one
    columns: Mapping[str, Any] = field(
        default_factory=dict
    )  # the user's own, as the source has them


@dataclass(frozen=True, slots=True)
class Blank:
    """A line with nothing on it, which is no example."""


Found = Given | Blank | Fault  # what a source holds, in order; a fault is of one example


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """What is read of a row."""

    content: str  # the name of the field that holds what the example says
    key: str  # of the config, that names it
    wanted: Wanted  # of the others

    @classmethod
    def of(cls, config: ProbeConfig) -> Fields:
        """Take what a config names."""
        inputs = config.inputs
        key, content = "inputs.field", inputs.field
        if inputs.tokens_field is not None:
            key, content = "inputs.tokens", inputs.tokens_field
        elif inputs.messages_field is not None:
            key, content = "inputs.messages", inputs.messages_field
        wanted = Wanted(
            names=config.columns,
            asked=inputs.wanted_columns,
            beside=(content, "id"),
            is_spelled=inputs.place is not None and inputs.place.suffix.lower() == ".csv",
            is_alike=inputs.examples is not None,
        )
        return cls(content=content, key=key, wanted=wanted)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields that are read, or ALL_COLUMNS among them."""
        named = self.wanted.names
        return (self.content, "id", *((named,) if isinstance(named, str) else named))

    def pick(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take what is read of a row; all of it where some of that is not there, to say so."""
        named = self.wanted.names
        if isinstance(named, str) or any(name not in row for name in (self.content, *named)):
            return row
        return {name: row[name] for name in self.names if name in row}

    @property
    def are_ids(self) -> bool:
        """Whether examples are lists of token ids."""
        return self.key == "inputs.tokens"

    @property
    def are_chats(self) -> bool:
        """Whether examples are conversations."""
        return self.key == "inputs.messages"


def example_of(row: Mapping[str, Any], fields: Fields, where: str, number: int) -> Given | Fault:
    """Take an example from a row.

    Args:
        row: its values by the names of its fields.
        fields: what is read of it.
        where: it stands.
        number: of the row, from 0.
    """
    name = fields.content
    if name not in row:
        there = [str(key) for key in row]
        if number == 0:  # most likely so in every row
            raise ConfigError.of([Fault(where, no_field(fields, there))])
        return Fault(where, f"there is no field {name!r}; there is: {', '.join(there)}")
    said = _content(row[name], fields, where)
    if isinstance(said, Fault):
        return said
    columns = fields.wanted.of(row, where)
    if isinstance(columns, Fault):
        if number == 0:  # most likely so in every row
            raise ConfigError.of([columns])
        return columns
    given = row.get("id")
    return Given(
        where=where,
        id=str(number if given is None else given),
        said=said,
        is_numbered=given is None,
        columns=columns,
    )


def _content(value: object, fields: Fields, where: str) -> Content | Fault:
    name = fields.content
    if fields.are_ids:
        found = token_ids(value, name, is_spelled=fields.wanted.is_spelled)
        return Fault(where, found) if isinstance(found, str) else found
    if fields.are_chats:
        return _chat(value, fields, where)
    if isinstance(value, str):
        return value
    shown = "null" if value is None else short(value)
    numbers = isinstance(value, list) and {*map(type, value)} == {int}
    meant = f"; are these token ids? Write tokens: {shorten(name)}" if numbers else ""
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        meant = f"; are these messages of a chat? Write messages: {shorten(name)}"
    return Fault(where, f"the field {name!r} is {shown}; expected a text{meant}")


def _chat(value: object, fields: Fields, where: str) -> Content | Fault:
    is_text = fields.wanted.is_spelled and isinstance(value, str)
    found = read_conversation(unspelled(value) if is_text else value)
    return (
        Fault(where, f"the field {fields.content!r}: {found}") if isinstance(found, str) else found
    )


def no_field(fields: Fields, there: Iterable[str]) -> str:
    """Say that the field with the content is not there, and what to do."""
    names = [*there]
    meant = near(fields.content, names)
    hint = f"Did you mean {shorten(meant[0])}? " if meant else ""
    hint += f"Set {fields.key}: {shorten(meant[0])}" if meant else f"Set {fields.key}"
    return f"there is no field {fields.content!r}; there is: {', '.join(names)}. {hint}"


def short(value: Any) -> str:
    """Write a value as Python does, and not too long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
