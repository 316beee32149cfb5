"""Failing: what the library and the readers of files below it raise, in one line.

Knows how it wraps errors, and how a source says in which of its files it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probekit.wording import shorten


def reason(error: BaseException) -> str:
    """Say why: the library's own error often says only that there was another."""
    if type(error).__name__ == "DatasetGenerationError":
        error = error.__cause__ or error.__context__ or error
    while error.__cause__ is not None:
        error = error.__cause__
    return shorten(" ".join(str(error).split()) or type(error).__name__, 300)


def file_read(rows: Any, files: Sequence[Path]) -> Path | None:
    """Give which of its files a source is in; None where it does not say."""
    if len(files) < 2:
        return next(iter(files), None)
    says = getattr(rows, "state_dict", None)  # a list of rows has none
    number = None if says is None else _found(says(), "shard_idx")
    return files[number] if isinstance(number, int) and 0 <= number < len(files) else None


def _found(state: Any, key: str) -> Any:
    if not isinstance(state, Mapping):
        return None
    if state.get(key) is not None:
        return state[key]
    return next((found for v in state.values() if (found := _found(v, key)) is not None), None)
