"""What pydantic found, for somebody who has never heard of pydantic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import (
    BaseModel,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from probekit.config.fields import TAG, Expected
from probekit.config.keyplaces import KeyPath, Mistake
from probekit.wording import is_number, near, one_of, shorten, show, show_typed

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a number that is not infinite",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "a name of letters, digits and _",
    "too_short": "at least one value",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}
# Answered with all that a field takes, where that is known.
_OF_TYPES = (
    *("string_type", "int_type", "float_type", "bool_type", "tuple_type", "literal_error"),
    "greater_than",
)
_NAMED = 3  # keys of a mapping, for one who has never seen it
_GLUED = re.compile(r"(\w+)\s*[:\uff1a]")
_SWITCHES = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")


def mistakes_of(error: ValidationError, tree: Any, root: type[BaseModel]) -> Iterator[Mistake]:
    """Say in plain words, and at the keys of the text, what pydantic found."""
    found = [(_written_path(one["loc"], tree), one) for one in error.errors(include_url=False)]
    unknown = [path for path, detail in found if detail["type"] == "extra_forbidden"]
    for path, detail in found:
        # pydantic calls a list too short also if its only item is wrong, which was said already.
        is_said = detail["type"] == "too_short" and bool(detail["input"])
        if not is_said and not (detail["type"] == "missing" and _is_meant(path, unknown, root)):
            yield Mistake(path=path, message=_plain_words(detail, path, root))


def _is_meant(path: KeyPath, unknown: Iterable[KeyPath], root: type[BaseModel]) -> bool:
    """Say whether an unknown key stands where one is missing: one mistake, and not two."""
    keys = tuple(_model_of(path[:-1], root).model_fields)
    beside = [near(str(one[-1]), keys) for one in unknown if one[:-1] == path[:-1]]
    return any(not meant or path[-1] in meant for meant in beside)


_OF_KEY = "[key]"  # how pydantic ends the place of a key that is wrong itself


def _written_path(loc: KeyPath, tree: Any) -> KeyPath:
    """Turn pydantic's place into what was written: no tags of types, no [0] of a lone value."""
    path: KeyPath = ()
    here: Any = tree
    for step in loc:
        is_key = isinstance(here, dict) and step in here  # also an odd one: a key with a NUL
        if isinstance(step, str) and step.startswith(TAG) and not is_key:
            continue
        if step == _OF_KEY and not is_key:
            continue
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
        field = _model_of(path[:-1], root).model_fields[str(path[-1])]
        description = field.description or ""
        said = f"{description[:1].lower()}{description[1:].rstrip('.')}"
        return f"missing; expected `{path[-1]}: {_form_of(field)}`, {said}"
    if kind == "value_error":
        return f"given {show_typed(given)}, {context['error']}"
    return f"given {show_typed(given)}, {_wanted(detail, path, root)}{_hint(detail, path, root)}"


def _form_of(field: FieldInfo) -> str:
    """Show how a value is written: a section by the keys that it needs."""
    model = next(_models_in(field.annotation), None)
    if model is None:
        return "..."
    needed = [key for key, inner in model.model_fields.items() if inner.is_required()]
    keys = needed or [*model.model_fields][:1]
    return f"{{{', '.join(f'{key}: ...' for key in keys)}}}"


def _wanted(detail: ErrorDetails, path: KeyPath, root: type[BaseModel]) -> str:
    kind, context, given = detail["type"], detail.get("ctx", {}), detail["input"]
    field = _field_of(path, root)
    words = None if field is None else _words_of(field)
    if kind in ("model_type", "model_attributes_type"):
        keys = [*_model_of(path, root).model_fields][:_NAMED]
        return f"expected a mapping with keys such as {', '.join(keys)}"
    options = re.findall(r"'([^']*)'", context.get("expected", ""))
    if words and kind == "too_short":
        wanted = f"expected at least one value: {words}"
    elif words and (kind in _OF_TYPES or isinstance(given, float)):
        meant = near(given, options) if isinstance(given, str) else []
        wanted = f"{f'did you mean {meant[0]}? ' if meant else ''}expected {words}"
    elif kind == "literal_error":
        wanted = one_of(given if isinstance(given, str) else "", options)
    else:
        wanted = f"expected {_EXPECTED.get(kind, 'another value').format(**context)}"
    if given is None and field is not None and not field.is_required() and field.default != ():
        return f"{wanted}; leave it out for {show(field.default)}"
    return wanted


def _hint(detail: ErrorDetails, path: KeyPath, root: type[BaseModel]) -> str:
    kind, given = detail["type"], detail["input"]
    if kind == "string_type" and is_number(given):
        return "; if it is text, put it in quotes"
    if kind == "string_type" and isinstance(given, dict):
        return '; put text with ": " in quotes'
    if kind == "tuple_type" and isinstance(given, dict):
        return '; begin each item with "- "'
    if kind in ("model_type", "model_attributes_type") and isinstance(given, str):
        keys = _model_of(path, root).model_fields
        glued = _GLUED.match(given)
        if glued and glued[1] in keys:
            return "; write a colon and a space behind a key"
        needed = [key for key, field in keys.items() if field.is_required()]
        if len(needed) == 1:
            return f"; write {{{needed[0]}: {shorten(given)}}}"
    if kind == "int_type" and isinstance(given, float) and given.is_integer():
        return f"; write {given:.0f}"
    if kind == "bool_type" and str(given).lower() in _SWITCHES:
        return f"; write {_SWITCHES[str(given).lower()]}"
    if kind in ("int_type", "float_type") and isinstance(given, str) and _NUMBER.fullmatch(given):
        return "; write it without quotes"
    return ""


def default_at(path: KeyPath, root: type[BaseModel]) -> Any:
    """Give the plain value that a key has where it is left out; None for none."""
    field = _field_of(path, root)
    if field is None or field.is_required():
        return None
    default = field.get_default()
    return default if isinstance(default, str | int | float) else None


def _field_of(path: KeyPath, root: type[BaseModel]) -> FieldInfo | None:
    """Find the field that a path ends at; None for an item of one, and inside a free key."""
    if not path or not isinstance(path[-1], str):
        return None
    model = root
    for step in path[:-1]:
        if isinstance(step, str):
            field = model.model_fields.get(step)
            inner = None if field is None else next(_models_in(field.annotation), None)
            if inner is None:
                return None
            model = inner
    return model.model_fields.get(path[-1])


def _words_of(field: FieldInfo) -> str | None:
    found = [*field.metadata, *_metadata_in(field.annotation)]
    return next((one.words for one in found if isinstance(one, Expected)), None)


def _metadata_in(annotation: Any) -> Iterator[Any]:
    yield from getattr(annotation, "__metadata__", ())
    for argument in get_args(annotation):
        yield from _metadata_in(argument)


def _model_of(path: KeyPath, root: type[BaseModel]) -> type[BaseModel]:
    model = root
    for step in path:
        if isinstance(step, str):
            model = next(_models_in(model.model_fields[step].annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
