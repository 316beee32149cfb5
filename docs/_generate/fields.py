"""What the fields of a result are, from the comments beside them in the source.

probekit's data are frozen dataclasses whose fields say in a comment what they hold, with shape and
unit. A page of the reference shows them as attributes.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

_FIELD = re.compile(r"^    (?P<name>[a-z]\w*): [^#=]+(=[^#]+)?(#\s*(?P<said>.*))?$")


def describe_fields(
    app: object, what: str, name: str, obj: Any, options: object, lines: list[str]
) -> None:
    """Add a dataclass's fields to its docstring, before napoleon reads it."""
    if what == "class" and dataclasses.is_dataclass(obj) and (found := fields_of(obj)):
        lines += ["", "Attributes:", *(f"    {field}: {said}" for field, said in found), ""]


def say_plainly(
    app: object, what: str, name: str, obj: Any, options: object, lines: list[str]
) -> None:
    """Mend what napoleon and reStructuredText misunderstand, after them.

    What a property says before a colon is no type, and a shape such as `[*feature]` no emphasis.
    """
    if what == "property":
        lines[:] = (inspect.getdoc(obj) or "").splitlines()
    lines[:] = [line.replace("[*", r"[\*") for line in lines]


def fields_of(cls: type) -> list[tuple[str, str]]:
    """Give the name of each field that has a comment, and the comment."""
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    found = map(_FIELD.match, inspect.getsource(cls).splitlines())
    return [
        (one["name"], one["said"].strip())
        for one in found
        if one is not None and one["name"] in known and one["said"]
    ]
