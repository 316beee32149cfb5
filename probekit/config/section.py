"""A part of a config: pydantic's model, with rules between keys.

Knows how rules are told beside what is wrong with single keys; no key by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails

from probekit.config.fields import (
    rule_error,
)
from probekit.config.keyplaces import KeyPath
from probekit.errors import SHOWN


def exactly_one(*keys: str, beside: Mapping[str, dict[str, Any]] | None = None) -> Any:
    """Say in JSON Schema that one of these keys is there and not null, and what goes beside it."""

    def branch(key: str) -> dict[str, Any]:
        others = (beside or {}).get(key, {})
        return {"required": [key], "properties": {key: {"not": {"type": "null"}}} | others}

    return {"oneOf": [branch(key) for key in keys]}


_T = TypeVar("_T")
DECIDES, FREE = "decides", "free"
Deciding = Annotated[_T, DECIDES]  # a key that can change a recorded value or its place
Free = Annotated[_T, FREE]  # a key that can change neither: where, on what, how fast


class Part(BaseModel):
    """A section of a config, with the rules between its keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str | KeyPath, str]]:
        """Yield what is wrong between keys: the key to point at (or ``""``), and a message.

        The place of something inside of a key's value is a tuple of steps.
        """
        yield from ()

    def _is_default(self, key: str) -> bool:
        """Say whether a key's value is what it means when it is left out."""
        field = type(self).model_fields[key]
        return not field.is_required() and getattr(self, key) == field.get_default()

    @model_validator(mode="wrap")
    @classmethod
    def _with_rules(cls, given: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        # An "after" validator would stay silent until every single field is right.
        wrong: list[InitErrorDetails] = []
        try:
            part = validate(given)
        except ValidationError as error:
            told = islice(error.errors(include_url=False), 2 * SHOWN)  # a list can be all wrong
            wrong = [*map(_once_more, told)]
        # What is wrong with a key by itself says it all.
        single = {one["loc"][0] for one in wrong if 0 < len(one["loc"]) <= 2}
        wrong += [
            InitErrorDetails(type=rule_error(message), loc=_path(key), input=given)
            for key, message in (cls._rules(given) if isinstance(given, Mapping) else ())
            if not single.intersection(_path(key)[:1])
        ]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return part


def _path(key: str | KeyPath) -> KeyPath:
    return key if isinstance(key, tuple) else (key,) if key else ()


def _once_more(error: ErrorDetails) -> InitErrorDetails:
    context = error.get("ctx", {})
    kind = rule_error(context["message"]) if error["type"] == "rule" else error["type"]
    return InitErrorDetails(type=kind, loc=error["loc"], input=error["input"], ctx=context)


def one_source(
    given: Mapping[str, Any], keys: Sequence[str], known: Container[str]
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong unless exactly one of some keys is there and not null.

    An unknown key, which is a mistake by itself, may have been meant to be the one.
    """
    found = [key for key in keys if given.get(key) is not None]
    expected = f"expected exactly one of {', '.join(keys)}"
    if len(found) > 1:
        yield found[-1], f"given {' and '.join(found)}, {expected}"
    elif not found and all(key in known for key in given):
        written = [key for key in keys if key in given]
        yield (
            (written[0], f"given null, {expected}") if written else ("", f"given none, {expected}")
        )


def deciding_keys(part: Part) -> dict[str, Any]:
    """Give a section's deciding keys that are not at their default, as plain JSON values."""
    plain = part.model_dump(mode="json")
    found = {key: plain[key] for key in part.model_extra or {}}  # all of them are written
    for key, field in type(part).model_fields.items():
        value = getattr(part, key)
        if FREE not in field.metadata and not part._is_default(key):
            found[key] = _plain(value, plain[key])
    return found


def _plain(value: Any, dumped: Any) -> Any:
    if isinstance(value, Part):
        return deciding_keys(value)
    if isinstance(value, tuple):
        return [_plain(item, plain) for item, plain in zip(value, dumped, strict=True)]
    return dumped


def sha256_of(value: Any) -> str:
    """Digest plain JSON values, in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
