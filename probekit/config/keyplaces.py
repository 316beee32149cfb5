"""Paths of keys (``probes[1].layers``): where each was written, and setting one.

This file knows no key by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from probekit.errors import ConfigError
from probekit.wording import counted, shorten, show, show_typed

KeyPath = tuple[str | int, ...]
MAX_DEPTH = 50  # levels of a config, far more than any has
_NAME = r"[A-Za-z_][A-Za-z0-9_-]*"
KEY_PATH = re.compile(rf"{_NAME}(\[[0-9]{{1,6}}\])*(\.{_NAME}(\[[0-9]{{1,6}}\])*)*")
_STEP = re.compile(rf"({_NAME})|\[([0-9]+)\]")


@dataclass(frozen=True, slots=True)
class Places:
    """Where each key was written. Two configs are equal wherever they were written."""

    source: str = field(default="config", compare=False)
    given: Mapping[KeyPath, int | str] = field(default_factory=dict, compare=False)
    # path -> its line in the source, or the `key=value` of a --set

    def where(self, path: KeyPath, *, shown: str = "", with_value: bool = False) -> str:
        """Name a place; ``shown`` stands for a path that only begins with ``path``."""
        shown = shown or path_text(path)
        place = self.find(path)[1]
        if isinstance(place, str):
            own = place.partition("=")[0].strip()
            at = f"--set {shorten(place) if with_value else own}"
            return at if own == shown else f"{at}: {shown}"
        at = self.source if place is None else f"{self.source}:{place}"
        return f"{at}: {shown}" if shown else at

    def find(self, path: KeyPath) -> tuple[KeyPath, int | str | None]:
        """Return the nearest ancestor that was written, and its place."""
        ancestors = (path[:end] for end in range(len(path), -1, -1))
        known = next((path for path in ancestors if path in self.given), ())
        return known, self.given.get(known)

    def with_set(self, path: KeyPath, assignment: str, n_known: int) -> Places:
        """Return the places after a ``--set``, which hides all that stood under its path.

        Args:
            path: of the key that it sets.
            assignment: as it was written.
            n_known: so many steps of the path were there before; it made the others.
        """
        kept = {old: at for old, at in self.given.items() if old[: len(path)] != path}
        made = {path[:end]: assignment for end in range(n_known + 1, len(path))}
        return Places(self.source, {**kept, **made, path: assignment})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """What is wrong with one key, before its place is looked up."""

    path: KeyPath
    message: str
    line: int | None = None  # where it is not the line of the path: a key's second appearance


def count_known(tree: Any, path: KeyPath) -> int:
    """Count the first steps of a path that are there."""
    here = tree
    for n_known, step in enumerate(path):
        keys = (
            here if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        )
        if step not in keys:
            return n_known
        here = here[step]
    return len(path)


def assign(tree: dict[str, Any], path: KeyPath, value: Any) -> None:
    """Set one value; what is missing on the way there is made, a list one item at a time."""
    here: Any = tree
    for depth, step in enumerate(path):
        _make_room(here, step, path_text(path[:depth]))
        if depth == len(path) - 1:
            here[step] = value
        elif here[step] is None:
            here[step] = [] if isinstance(path[depth + 1], int) else {}
        here = here[step]


def _make_room(here: Any, step: str | int, parent: str) -> None:
    if isinstance(step, str):
        if not isinstance(here, dict):
            raise ConfigError(f"{parent} is {show_typed(here)}, expected a mapping")
        here.setdefault(step, None)
        return
    if not isinstance(here, list):
        raise ConfigError(f"{parent} is {show_typed(here)}, expected a list")
    if step > len(here):
        size = f"{parent} has {counted(len(here), 'item')}"
        raise ConfigError(f"{size}; expected an index up to {len(here)}, which appends")
    if step == len(here):
        here.append(None)


def parse_path(text: str) -> KeyPath:
    """Read a path such as ``probes[0].layers``."""
    if not KEY_PATH.fullmatch(text):
        raise ConfigError(f"{show(text)} is not a key such as model.name or probes[0].layers")
    path = tuple(name or int(index) for name, index in _STEP.findall(text))
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"{show(text)} is nested deeper than {MAX_DEPTH} levels")
    return path


def path_text(path: KeyPath) -> str:
    """Write a path; `parse_path` reads it again."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            dot = "." if text else ""
            text += dot + (step if re.fullmatch(_NAME, step) else show(step))
    return text
