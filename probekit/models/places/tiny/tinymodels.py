"""Tiny models of every causal family, built from a few sizes in all their spellings.

Knows transformers' causal families and the sizes that some of them want otherwise; nothing of
places.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from probekit.models.places.tiny.seeding import random_weights

N_LAYERS, N_HEADS, N_KV_HEADS, D_HEAD, D_MODEL, D_MLP, D_VOCAB, N_CTX = 4, 4, 2, 8, 32, 64, 101, 64

# A config takes any keyword and ignores what it does not know: so all spellings go to all.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), N_LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), N_HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), N_HEADS),
    **dict.fromkeys(("num_key_value_heads", "attention_head_dim_kv"), N_KV_HEADS),
    "num_kv_heads": N_HEADS,  # of Falcon, which has as many in one of its three forms
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "emb_dim", "embed_dim", "dim"), D_MODEL),
    **dict.fromkeys(("word_embed_proj_dim", "embedding_size"), D_MODEL),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "hidden_dim"), D_MLP),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), D_MLP),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), N_CTX),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "experts_per_token"), 2),
    "vocab_size": D_VOCAB,
    "head_dim": D_HEAD,
    "sliding_window": 4,  # shorter than the texts it is tried on
    **dict.fromkeys(("attention_window_size", "sliding_window_size"), 4),
    "vocab_size_per_layer_input": D_VOCAB,
    "rotary_dim": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

MLA = {  # attention over a compressed key-value: as many heads of keys as of queries
    "num_key_value_heads": 4,
    "head_dim": 4,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
INDEXED = MLA | {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 2}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
OWN: dict[str, dict[str, Any]] = {  # what a family wants otherwise
    "axk1": MLA,
    "axk2": MLA,
    "bailing_hybrid": MLA,
    "bamba": MAMBA,
    "beam": {"n_group": 1, "topk_group": 1},
    "deepseek_v2": MLA,
    "deepseek_v3": MLA,
    "deepseek_v32": INDEXED,
    "doge": {"is_moe": True, "num_experts": 16},  # pairs of four keys
    "dots1": {"n_shared_experts": 1},
    "dots3_note_text": MLA,
    "falcon": {"head_dim": None},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8},
    "gemma4_text": {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8},
    "glm4_moe_lite": MLA,
    "glm_moe_dsa": INDEXED,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 4},
    "granitemoehybrid": MAMBA | {"layer_types": ["mamba", "attention"] * 2},
    "hy_v4": MLA,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": MLA,
    "jamba": {"mamba_dt_rank": 4},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "chunk_size": 8, "n_groups": 1},
    "minicpm3": MLA,
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"], "adapter_reduction_factor": 2},
    "youtu": MLA,
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_embds": False,
        "num_buckets": 2,
        "feed_forward_size": 64,
        "attention_head_size": 8,
    },
    "cohere_compass_text": {
        "layer_types": ["full_attention"] * 4,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
    },
    "zamba2": MAMBA | {"layers_block_type": ["mamba", "hybrid"] * 2, "n_mamba_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
}

# What configs have and leave at 1: a factor that does nothing would prove nothing.
_TELLING: dict[str, float] = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
    "lm_head_multiplier": 0.04,
    "attention_out_multiplier": 0.9,
    "ssm_out_multiplier": 0.24,
}

# Those that are not built from these sizes, and why.
OTHERS = {
    **dict.fromkeys(
        (
            *(
                "blt",
                "dots3_note",
                "emu3",
                "fuyu",
                "gemma3",
                "gemma3n",
                "gemma4",
                "gemma4_assistant",
            ),
            *("gemma4_unified", "gemma4_unified_assistant", "got_ocr2", "llama4"),
            *(
                "mllama",
                "moss_transcribe_diarize",
                "musicgen",
                "musicgen_melody",
                "phi4_multimodal",
            ),
            *("qwen3_5", "qwen3_5_moe", "qwen4_exp"),
        ),
        "a model of several inside: each has a config of its own",
    ),
    "dbrx": "transformers' own code reads a field that its config has not",
    "dots3_note_text": "its n-gram tables have 77 million parameters whatever the config says",
    "qwen4_exp_text": "it wants sizes that have no default",
    "zamba": "transformers cannot tie its weights at this size",
}
FAMILIES = tuple(sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(OTHERS)))


def known(family: str) -> dict[str, Any]:
    """Give our sizes under the names that a family's config knows."""
    return known_to(CONFIG_MAPPING[family], family)


def known_to(kind: Any, family: str) -> dict[str, Any]:
    """Give our sizes under the names that a class of configs knows."""
    names = {field.name for field in dataclasses.fields(kind)} | set(kind.attribute_map)
    wanted = SIZES | OWN.get(family, {})
    return {name: size for name, size in wanted.items() if name in names}


def tiny_config(family: str) -> Any:
    """Give the tiny config of a family."""
    kind = CONFIG_MAPPING[family]
    names = {field.name for field in dataclasses.fields(kind)}
    telling: dict[str, Any] = {name: factor for name, factor in _TELLING.items() if name in names}
    return kind(**known(family), **telling)


def build(family: str) -> PreTrainedModel:
    """Build the tiny model of a family: seeded, float32, in eval mode."""
    with random_weights(0):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            tiny_config(family), dtype=torch.float32
        )
    model.eval()  # type: ignore[no-untyped-call]
    return model


def moved(model: torch.nn.Module, seed: int = 0) -> None:
    """Draw matrices from N(0, 0.2), and move norms' weights and biases by as much.

    A value read at the wrong place is a visibly wrong value then.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
