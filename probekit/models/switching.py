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
    if hf_config.model_type != "big_bird" or hf_config.attention_type != "block_sparse":
        return None
    hf_config.attention_type = "original_full"
    return int(
        (5 + 2 * hf_config.num_random_blocks) * hf_config.block_size
    )  # as its forward has it
