"""The reference of the config, key by key, from its pydantic models and its JSON Schema.

Knows how a type is said in plain words; no key by name.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from probekit.config import ProbeConfig, json_schema
from probekit.config.fields import Expected
from probekit.config.section import FREE, Part
from probekit.wording import human_bytes

_LARGE = 100_000  # a bound from here on says nothing to a reader
_WORDS = {"boolean": "true or false", "integer": "a whole number", "number": "a number"}
_WORDS |= {"string": "text", "object": "a mapping", "array": "a list"}


def keys_page() -> str:
    """Write all keys, a section each: a heading, what it is for, and a table of its keys."""
    schema = json_schema()
    return "\n".join(_sections(ProbeConfig, "", schema, schema["$defs"], set()))


def _sections(
    part: type[BaseModel], path: str, schema: Mapping[str, Any], defs: Any, seen: set[str]
) -> Iterator[str]:
    seen.add(part.__name__)
    yield f"## {f'`{path}`' if path else 'The config'}\n"
    yield (inspect.getdoc(part) or "").replace("``", "`") + "\n"
    yield "| key | takes | default | |\n|---|---|---|---|"
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, field in part.model_fields.items():
        found = schema["properties"].get(name, {})
        below = _part_of(field.annotation)
        is_list = get_origin(field.annotation) is tuple
        whole = f"{path}.{name}" if path else name
        if below is not None and below.__name__ not in seen:
            inner.append((f"{whole}[n]" if is_list else whole, below))
        takes = _takes(field, found, below, is_list)
        yield f"| `{name}` | {takes} | {_default(field)} | {_said(field)} |"
    yield ""
    for whole, below in inner:
        if below.__name__ not in seen:
            yield from _sections(
                below, whole, defs.get(below.__name__, below.model_json_schema()), defs, seen
            )


def _takes(field: FieldInfo, schema: Any, below: type[BaseModel] | None, is_list: bool) -> str:
    said = _expected(field) or _in_words(schema)
    if below is not None and "spot" not in said:
        said = "a list of mappings, see below" if is_list else "a mapping, see below"
    return _plain(said)


def _plain(text: str) -> str:
    """Keep a table's bars and Markdown's stars as they are."""
    return text.replace("|", r"\|").replace("*", r"\*")


def _expected(field: FieldInfo) -> str | None:
    """Give the words of an error message for all that may stand there, where a field has them."""
    found = [one.words for one in field.metadata if isinstance(one, Expected)]
    found += [one.words for one in _inside(field.annotation) if isinstance(one, Expected)]
    return found[0] if found else None


def _inside(annotation: Any) -> Iterator[Any]:
    for one in (*get_args(annotation), *getattr(annotation, "__metadata__", ())):
        yield one
        yield from _inside(one)


def _part_of(annotation: Any) -> type[BaseModel] | None:
    """Give the section that a key holds; None where it holds a value."""
    inside = (annotation, *_inside(annotation))
    return next((one for one in inside if isinstance(one, type) and issubclass(one, Part)), None)


def _in_words(schema: Mapping[str, Any]) -> str:
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " \\| ".join(f"`{word}`" for word in schema["enum"]).replace("\\|", "|")
    if "anyOf" in schema:
        choices = [_in_words(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(choices))
    words = _WORDS.get(schema.get("type", ""), "a value")
    return f"{words}{_bounds(schema)}"


def _bounds(schema: Mapping[str, Any]) -> str:
    said = [
        f"{word} {schema[key]:g}"
        for key, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
        )
        if key in schema and abs(schema[key]) < _LARGE
    ]
    return f" {' '.join(said)}" if said else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=True)
    if "bytes" in (_expected(field) or ""):
        return f"`{human_bytes(value).replace('.0 ', '').replace(' ', '')}`"
    plain = list(value) if isinstance(value, tuple) else value
    return f"`{json.dumps(plain)}`".replace('"', "")


def _said(field: FieldInfo) -> str:
    text = _plain(field.description or "")
    return f"{text} *Free.*" if FREE in field.metadata else text
