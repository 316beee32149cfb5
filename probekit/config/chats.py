"""Chats as they may be written in a config: messages, or the name of a field that holds them.

Knows plain values, and what a chat template is given; nothing of roles and of templates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
)

from probekit.arguments import plain
from probekit.config.fields import TAG, Expected, Text
from probekit.config.section import Deciding, Part

_NAME, _CHATS = (f"{TAG}{name}" for name in ("name", "chats"))
_EXPECTED = (
    "lists of messages, such as [[{role: user, content: hi}]], or the name of a field that holds "
    "one"
)
_TAKEN = ("messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template")
_DEEPEST = 40  # values inside of values


def _kind(value: object) -> str:
    return _NAME if isinstance(value, str) else _CHATS


def plain_json(value: Any, depth: int = 0) -> Any:
    """Give a value as JSON has it.

    Raises:
        ValueError: if JSON has no such value.
    """
    value = plain(value)
    if depth > _DEEPEST:
        raise ValueError(f"expected at most {_DEEPEST} values inside of each other")
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"expected texts for keys, given {odd[0]!r}")
        return {key: plain_json(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(inner, depth + 1) for inner in value]
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError("expected texts, numbers, true, false, null, lists and mappings")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("expected finite numbers")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("expected whole numbers that fit 64 bits")
    return value


def _conversations(value: object) -> object:
    """Take one conversation for a list of one, and check no more than what is a list."""
    found = plain(value)
    if not isinstance(found, list | tuple) or not found:
        raise ValueError(f"expected {_EXPECTED}")
    chats = [found] if any(isinstance(one, Mapping) for one in found) else found
    for chat in chats:
        is_list = isinstance(chat, list | tuple) and len(chat) > 0
        if not is_list or not all(isinstance(message, Mapping) for message in chat):
            raise ValueError(f"expected {_EXPECTED}")
    return tuple(plain_json(chat) for chat in chats)


def _tools(value: object) -> object:
    found = plain(value)
    if not isinstance(found, list | tuple) or not all(isinstance(one, Mapping) for one in found):
        raise ValueError("expected a list of mappings, each the JSON schema of a tool")
    return [plain_json(one) for one in found]


def _date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError("expected a date such as 2024-07-26") from None


_MESSAGE: dict[str, Any] = {"type": "object", "minProperties": 1}
_CHAT = {"type": "array", "items": _MESSAGE, "minItems": 1}
Messages = Annotated[
    Annotated[Text, Tag(_NAME)] | Annotated[Any, BeforeValidator(_conversations), Tag(_CHATS)],
    Discriminator(_kind),
    Expected(_EXPECTED),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                _CHAT,
                {"type": "array", "items": _CHAT, "minItems": 1},
            ]
        }
    ),
]


class TemplateInputs(Part):
    """What a chat template is given beside the messages."""

    add_generation_prompt: Deciding[bool] = Field(
        False, description="End with the header by which the assistant's next turn begins."
    )
    continue_final_message: Deciding[bool] = Field(
        False, description="End inside of the last message, so that a model goes on in it."
    )
    tools: Deciding[
        Annotated[
            Any,
            BeforeValidator(_tools),
            Expected("a list of mappings, each the JSON schema of a tool"),
            WithJsonSchema({"type": ["array", "null"], "items": {"type": "object"}}),
        ]
    ] = Field(None, description="Tools that the template tells the model of, as JSON schemas.")
    arguments: Deciding[
        Annotated[
            dict[str, Any],
            AfterValidator(plain_json),
            WithJsonSchema({"type": "object", "propertyNames": {"not": {"enum": [*_TAKEN]}}}),
        ]
    ] = Field(
        default_factory=dict,
        description="Variables of the template's own, e.g. {enable_thinking: false}.",
    )
    date: Deciding[Annotated[Text, AfterValidator(_date)]] = Field(
        "2024-07-26",
        description="What a template that asks takes for today, so that equal runs are equal.",
        json_schema_extra={"pattern": r"^\d{4}-\d{2}-\d{2}$"},
    )

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if (
            given.get("add_generation_prompt") is True
            and given.get("continue_final_message") is True
        ):
            yield (
                "continue_final_message",
                "given true beside add_generation_prompt: true; a model goes on in the last "
                "message or begins one of its own, so leave one out",
            )
        arguments = given.get("arguments")
        for name in arguments if isinstance(arguments, Mapping) else ():
            if name in _TAKEN:
                yield "arguments", f"{name} has a key of its own in the config; remove it here"
