"""Progress: how far a run has come, for whoever watches it.

Knows numbers; shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come."""

    examples: int
    n_examples: int
    before: int  # of the examples, how many were sealed when this process began
    tokens: int  # captured by this process
    n_bytes: int  # written by this process
    seconds: float  # since the first forward pass


Watcher = Callable[[Progress], None]
