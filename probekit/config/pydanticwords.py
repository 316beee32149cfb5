"""What pydantic found, for somebody who has never heard of pydantic."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import (
    BaseModel,
    ValidationError,
)
from pydantic_core import ErrorDetails

from probekit.config.keyplaces import KeyPath, Mistake
from probekit.wording import is_number, one_of, show_typed

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "a name of letters, digits and _",
    "too_short": "at least one value",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}


def mistakes_of(error: ValidationError, tree: Any, root: type[BaseModel]) -> Iterator[Mistake]:
    """Say in plain words, and at the keys of the text, what pydantic found."""
    for detail in error.errors(include_url=False):
        # pydantic calls a list too short also if its only item is wrong, which was said already.
        if detail["type"] != "too_short" or not detail["input"]:
            path = _written_path(detail["loc"], tree)
            yield Mistake(path=path, message=_plain_words(detail, path, root))


def _written_path(loc: KeyPath, tree: Any) -> KeyPath:
    """Turn pydantic's place into what was written: no branch names, no [0] of a lone value."""
    path: KeyPath = ()
    here: Any = tree
    for step in loc:
        in_list = isinstance(step, int) and isinstance(here, list)
        in_mapping = isinstance(step, str) and isinstance(here, dict)
        if in_list or in_mapping:
            path = (*path, step)
            here = here[step] if in_list or step in here else None
    return path


def _plain_words(detail: ErrorDetails, path: KeyPath, root: type[BaseModel]) -> str:
    kind, context, given = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "rule":
        return str(context["message"])
    if kind == "extra_forbidden":
        allowed = tuple(_model_of(path[:-1], root).model_fields)
        return f"unknown key; {one_of(str(path[-1]), allowed)}"
    if kind == "missing":
        description = _model_of(path[:-1], root).model_fields[str(path[-1])].description or ""
        return f"missing; expected {description[:1].lower()}{description[1:].rstrip('.')}"
    if kind == "value_error":
        return f"given {show_typed(given)}, {context['error']}"
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", context["expected"])
        near = one_of(given if isinstance(given, str) else "", options)
        return f"given {show_typed(given)}, {near}"
    expected = _EXPECTED.get(kind, detail["msg"]).format(**context)
    quote = (
        "; if it is text, put it in quotes" if kind == "string_type" and is_number(given) else ""
    )
    return f"given {show_typed(given)}, expected {expected}{quote}"


def _model_of(path: KeyPath, root: type[BaseModel]) -> type[BaseModel]:
    model = root
    for step in path:
        if isinstance(step, str):
            model = next(_models_in(model.model_fields[step].annotation))
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
