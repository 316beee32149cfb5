"""Stages: what goes on before the first batch, for whoever waits for it.

Knows words; nothing of what is done.
"""

from __future__ import annotations

from collections.abc import Callable

LIBRARIES = "importing torch and transformers"
ARCHITECTURE = "reading the model's config"
TOKENIZER = "loading the tokenizer"
TEXTS = "reading the texts"
WEIGHTS = "loading the weights"
SELF_CHECK = "self-check"
WORKERS = "workers are starting"
FIRST_BATCH = "first batch"

OnStage = Callable[[str], None]  # told what begins, in such words


def unseen(*what: object) -> None:
    """Show nobody."""
