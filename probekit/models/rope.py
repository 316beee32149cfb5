"""Rotary embeddings whose values depend on more than a token's own position.

Knows how configs spell them; imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def depends_on_longest(hf_config: Any) -> bool:
    """Say whether a row depends on the longest text of its batch, whatever the lengths are.

    "dynamic" embeddings (NTK by length) stretch with it; the model also keeps the longest length it
    has seen.
    """
    return "dynamic" in dict(_kinds(hf_config))


def length_border(hf_config: Any) -> int | None:
    """Give the length above which the model computes short texts in a batch otherwise.

    Rotary embeddings of the kind "longrope" (Phi-3 128k) take other factors as soon as the longest
    text of a batch is longer than this.
    """
    rope = dict(_kinds(hf_config)).get("longrope")
    if rope is None:
        return None
    own = getattr(hf_config.get_text_config(), "original_max_position_embeddings", None)
    found = rope.get("original_max_position_embeddings", own)
    return found if isinstance(found, int) else None


def stretch(text_config: Any) -> float:
    """Say how many times its trained context a model of this config reaches over."""
    rope = dict(_kinds_of(text_config)).get("dynamic")
    factor = 1.0 if rope is None else rope.get("factor", 1.0)
    return float(factor) if isinstance(factor, int | float) and factor > 1 else 1.0


def _kinds(hf_config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return _kinds_of(hf_config.get_text_config())


def _kinds_of(text_config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give what a config says of rotary embeddings by their kind; a kind of layers has its own."""
    for name in ("rope_parameters", "rope_scaling"):
        said = getattr(text_config, name, None)
        for rope in (said, *(said.values() if isinstance(said, Mapping) else ())):
            if isinstance(rope, Mapping) and (kind := rope.get("rope_type", rope.get("type"))):
                yield str(kind), rope
