"""Names of methods that are written as functions of their own.

Knows how Python names methods in messages and help.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_F = TypeVar("_F", bound=Callable[..., object])


def method_of(owner: str, name: str | None = None) -> Callable[[_F], _F]:
    """Let a function be called in messages what it is called as a method of a class."""

    def renamed(function: _F) -> _F:
        function.__name__ = name or function.__name__
        function.__qualname__ = f"{owner}.{function.__name__}"
        return function

    return renamed
