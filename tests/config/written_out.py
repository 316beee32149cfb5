"""An oracle of globs that knows nothing of automata: write every choice out, match by recursion."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hypothesis import strategies as st

GPT2_BLOCK = " .ln_1 .attn .attn.c_attn .attn.c_proj .mlp .mlp.c_fc .mlp.act .mlp.c_proj"


GPT2 = (
    *("", "transformer", "transformer.wte", "transformer.wpe", "transformer.h"),
    *(f"transformer.h.{layer}{rest}" for layer in range(12) for rest in GPT2_BLOCK.split(" ")),
    *("transformer.ln_f", "lm_head"),
)


PHI3_BLOCK = (
    "self_attn self_attn.qkv_proj self_attn.o_proj mlp mlp.gate_up_proj mlp.activation_fn"
    " mlp.down_proj input_layernorm"
)


PHI3 = (
    "model.embed_tokens",
    *(f"model.layers.{layer}.{rest}" for layer in range(32) for rest in PHI3_BLOCK.split()),
    *("model.norm", "lm_head"),
)


def written_out(pattern: str) -> Iterator[str]:
    """Replace the first innermost pair of braces by each of its choices, and go on."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if not braces:
        yield pattern
        return
    for item in braces[1].split(","):
        bounds = re.fullmatch(r"(\d+)\.\.(\d+)", item)
        items = map(str, range(int(bounds[1]), int(bounds[2]) + 1)) if bounds else [item]
        for text in items:
            yield from written_out(pattern[: braces.start()] + text + pattern[braces.end() :])


def part_matches(pattern: str, segment: str) -> bool:
    if not pattern:
        return not segment
    if pattern[0] == "*":
        return any(part_matches(pattern[1:], segment[i:]) for i in range(len(segment) + 1))
    return segment[:1] == pattern[0] and part_matches(pattern[1:], segment[1:])


def segments_match(patterns: Sequence[str], segments: Sequence[str]) -> bool:
    if not patterns:
        return not segments
    if patterns[0] == "**":
        return any(segments_match(patterns[1:], segments[i:]) for i in range(len(segments) + 1))
    return (
        bool(segments)
        and part_matches(patterns[0], segments[0])
        and segments_match(patterns[1:], segments[1:])
    )


def oracle(pattern: str, path: str) -> bool:
    segments = path.split(".") if path else []
    return any(segments_match(plain.split("."), segments) for plain in written_out(pattern))


SEGMENT = st.sampled_from(["a", "b", "ab", "ba", "aab", "0", "1", "10", "h"])
PIECE = st.sampled_from(["a", "b", "h", "0", "1", "*", ".", "**", ".**.", "a*", "*b", "{0..3}"])
PATH = st.lists(SEGMENT, max_size=5).map(".".join)
