"""A config of few sizes that is like another in everything else, its layers included.

Knows how configs spell sizes, and which of them say what a model is made of: a size that is 0, 1 or
not given stays so, and two that are equal, or unlike, stay equal or unlike.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from probekit.models.places.tiny.tinymodels import (
    D_HEAD,
    D_MLP,
    D_MODEL,
    D_VOCAB,
    N_HEADS,
    N_KV_HEADS,
    OWN,
    known_to,
)

# What says how many layers there are, and which is of which kind: a model keeps its own.
_OF_LAYERS = frozenset(
    (
        *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"),
        *("decoder_layers", "layer_types", "layers_block_type", "attention_types", "attn_layers"),
        *("first_k_dense_replace", "num_kv_shared_layers", "languages", "default_language"),
    )
)


D_ROTATED = 4
_NOT_ASKED = frozenset(("model_type", "transformers_version", "architectures", "dtype"))
# Sizes of single families, which the tiny models of all leave as a config has them.
_RARE: dict[str, Any] = {
    **dict.fromkeys(("lru_width", "attention_hidden_size", "embedding_dim"), D_MODEL),
    **dict.fromkeys(("dim_ff", "dff", "d_inner", "intermediate_size_mlp"), D_MLP),
    **dict.fromkeys(
        ("dim_head", "d_head", "v_head_dim", "qk_nope_head_dim", "swa_head_dim"), D_HEAD
    ),
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim"), D_HEAD),
    **dict.fromkeys(("index_head_dim", "local_head_dim"), D_HEAD),
    **dict.fromkeys(("qk_rope_head_dim", "mamba_head_dim"), D_ROTATED),
    "qk_head_dim": D_HEAD + D_ROTATED,
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("shared_intermediate_size", "dense_intermediate_size"), 32),
    "moe_shared_expert_intermediate_size": 16,
}
_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
_KV_HEADS = ("num_key_value_heads", "attention_head_dim_kv", "num_kv_heads")
_BY_LAYER = object()
_EMBEDDED = ("word_embed_proj_dim", "embedding_size", "embedding_dim")


def shrunk(config: Any) -> Any:
    """Give a config of few sizes that is like another in everything else, its layers included."""
    kind = type(config)
    # What is no field of it was worked out of these, for other sizes.
    names = {field.name for field in dataclasses.fields(kind)} - _NOT_ASKED
    said = {k: v for k, v in copy.deepcopy(config.to_diff_dict()).items() if k in names}
    rare = {name: size for name, size in _RARE.items() if name in names}
    for key, value in (rare | known_to(kind, config.model_type)).items():
        if key not in _OF_LAYERS:
            own = said_by(config, key, otherwise=_BY_LAYER)
            several = isinstance(own, list | tuple)
            said[key] = (
                [_small(config, key, one, value) for one in own]
                if several and key not in _TOKENS
                else _small(config, key, own, value)
            )
    return kind(**{**said, **_of_positions(said)})


def _small(config: Any, key: str, own: Any, value: Any) -> Any:
    """Give the small size for a size of a config: none where it has none, and one for one."""
    if key in _TOKENS:
        is_there = type(own) is int and 0 <= own < D_VOCAB
        return own if own is None or is_there else value
    if own is _BY_LAYER:
        return value
    if own is None or own == 0 or own == 1:
        return own
    if key in OWN.get(config.model_type, {}):
        return value
    n_heads, d_model = said_by(config, "num_attention_heads"), said_by(config, "hidden_size")
    if key in _KV_HEADS:
        return N_HEADS if own == n_heads else N_KV_HEADS
    if key == "head_dim" and type(n_heads) is int:
        if n_heads == 1:
            return D_MODEL if own == d_model else D_HEAD
        return D_HEAD if own * n_heads == d_model else 2 * D_HEAD
    if key in _EMBEDDED:
        return D_MODEL if own == d_model else D_MODEL // 2
    return value


def said_by(config: Any, name: str, otherwise: Any = None) -> Any:
    """Give what a config says of the whole model: some raise where every layer has its own."""
    try:
        return getattr(config, name, None)
    except RuntimeError:
        return otherwise


def _of_positions(said: dict[str, Any]) -> dict[str, Any]:
    """Leave out what stretches positions with a number for each channel: there are fewer here.

    And rotate an even number of channels, as any model does.
    """
    d_head = said.get("head_dim") or D_HEAD
    changed: dict[str, Any] = {}
    if isinstance(part := said.get("partial_rotary_factor"), float):
        changed["partial_rotary_factor"] = _even(part, d_head)
    rope = said.get("rope_parameters")
    if not isinstance(rope, dict):
        return changed

    def simple(one: dict[str, Any]) -> dict[str, Any]:
        short = {key: value for key, value in one.items() if not isinstance(value, list)}
        if isinstance(part := short.get("partial_rotary_factor"), float):
            short["partial_rotary_factor"] = _even(part, d_head)
        return short if len(short) == len(one) else short | {"rope_type": "default"}

    by_kind = all(isinstance(value, dict) for value in rope.values()) and bool(rope)
    plain = {key: simple(value) for key, value in rope.items()} if by_kind else simple(rope)
    return changed | {"rope_parameters": plain}


def _even(part: float, d_head: Any) -> float:
    n_rotated = int(d_head * part) if type(d_head) is int else 0
    return part if n_rotated % 2 == 0 else (n_rotated + 1) / d_head
