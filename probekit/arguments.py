"""Arguments: what public functions are given, as they want it, or an error of ours.

Knows kinds of values; nothing of what they mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from operator import index
from pathlib import Path
from typing import Any

from probekit.errors import StoreError
from probekit.wording import show_typed


def whole(name: str, value: Any, *, least: int | None = None) -> int:
    """Give a whole number, numpy's too; at least so large."""
    wanted = "a whole number" if least is None else f"{least} or more"
    try:
        number = index(value)
    except TypeError as error:
        raise StoreError(f"{name} is {show_typed(value)}; expected {wanted}") from error
    if isinstance(value, bool):
        raise StoreError(f"{name} is {show_typed(value)}; expected {wanted}")
    if least is not None and number < least:
        raise StoreError(f"{name} is {number}; expected {wanted}")
    return number


def positive(name: str, value: Any) -> float:
    """Give a number above 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not value > 0:
        raise StoreError(f"{name} is {show_typed(value)}; expected a number above 0")
    return float(value)


def text(name: str, value: Any) -> str:
    """Give a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise StoreError(f"{name} is {show_typed(value)}; expected a text")
    return value


def texts(name: str, value: Any) -> list[str]:
    """Give one text, or several, as a list of at least one."""
    given = [value] if isinstance(value, str) else value
    is_list = isinstance(given, Iterable) and not isinstance(given, bytes | Mapping)
    found = list(given) if is_list else []
    if not found or not all(isinstance(one, str) and one for one in found):
        raise StoreError(f"{name} is {show_typed(value)}; expected a text, or a list of texts")
    return found


def path(name: str, value: Any) -> Path:
    """Give a path."""
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise StoreError(f"{name} is {show_typed(value)}; expected a path")
    return Path(value)
