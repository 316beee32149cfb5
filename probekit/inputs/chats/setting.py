"""Setting: a chat template, and what it is given beside messages.

Knows no Jinja; the process that carries templates out takes it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What decides a rendering beside the messages."""

    source: str  # of the template
    date: str  # ISO: what it takes for today
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    tools: Sequence[Any] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)  # special tokens, and arguments
