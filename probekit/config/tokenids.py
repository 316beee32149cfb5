"""Token ids as they may be written in a config: one list, several, or the name of a field.

Knows whole numbers; no vocabulary.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema

from probekit.arguments import plain
from probekit.config.fields import MAX_COUNT, TAG, Expected, Text, listed

_NAME, _IDS, _LISTS = (f"{TAG}{name}" for name in ("name", "ids", "lists"))


def _kind(value: object) -> str:
    if isinstance(value, str):
        return _NAME
    many = isinstance(value, list | tuple) and any(isinstance(one, list | tuple) for one in value)
    return _LISTS if many else _IDS


def _one_list(ids: tuple[int, ...]) -> tuple[tuple[int, ...]]:
    return (ids,)


_ID: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": MAX_COUNT}
_LIST = {"type": "array", "items": _ID, "minItems": 1}
_Ids = Annotated[
    tuple[Annotated[int, Field(ge=0, le=MAX_COUNT)], ...],
    Field(min_length=1),
    BeforeValidator(listed),
]
Tokens = Annotated[
    Annotated[Text, Tag(_NAME)]
    | Annotated[_Ids, AfterValidator(_one_list), Tag(_IDS)]
    | Annotated[tuple[_Ids, ...], Field(min_length=1), BeforeValidator(listed), Tag(_LISTS)],
    Discriminator(_kind),
    BeforeValidator(plain),
    Expected("lists of token ids, such as [[5, 17], [300]], or the name of a field that holds one"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                _LIST,
                {"type": "array", "items": _LIST, "minItems": 1},
            ]
        }
    ),
]
