"""Models that take other modules for short texts than for long ones.

Knows BigBird: up to some length it replaces its block-sparse attention by the full one, for good.
"""

from __future__ import annotations

from typing import Any


def settle(hf_config: Any) -> int | None:
    """Have a model begin with the attention that short texts get, which it would switch to.

    Returns:
        The tokens up to which that is what it does by itself; None where it never switches.
    """
    if getattr(hf_config, "attention_type", None) != "block_sparse":
        return None
    # modeling_big_bird.py: "global, sliding and random" blocks of one query, and two to spare.
    most = (5 + 2 * hf_config.num_random_blocks) * hf_config.block_size
    if hf_config.model_type != "big_bird":
        return None
    hf_config.attention_type = "original_full"
    return int(most)
