"""Configs of known checkpoints, as far as their config.json files decide what a model is made of.

Layers are as many as show every kind of one, where a config does not name each by itself.
"""

from __future__ import annotations

from typing import Any

HUB: dict[str, tuple[str, dict[str, Any]]] = {}


def _hub(name: str, family: str, /, **fields: Any) -> None:
    HUB[name] = (family, fields)


def _sizes(d_model: int, n_heads: int, n_kv_heads: int, d_mlp: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": d_model,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "intermediate_size": d_mlp,
        "num_hidden_layers": 4,
        **more,
    }


_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_hub(
    *("Llama-3.1-8B", "llama"),
    **_sizes(4096, 32, 8, 14336, vocab_size=128256, max_position_embeddings=131072),
    bos_token_id=128000,
    eos_token_id=[128001, 128008, 128009],
    rope_parameters=_LLAMA3_ROPE,
)
_hub(
    *("Mistral-7B-v0.3", "mistral"),
    **_sizes(4096, 32, 8, 14336, vocab_size=32768, sliding_window=None, head_dim=128),
)
_hub(*("Mistral-7B-v0.1", "mistral"), **_sizes(4096, 32, 8, 14336, sliding_window=4096))
_hub(
    *("Qwen2.5-7B", "qwen2"),
    **_sizes(3584, 28, 4, 18944, use_sliding_window=False, sliding_window=131072),
    max_window_layers=28,
    bos_token_id=151643,
    eos_token_id=151643,
    vocab_size=152064,
)
_hub(*("Qwen3-0.6B", "qwen3"), **_sizes(1024, 16, 8, 3072, head_dim=128, sliding_window=None))
_hub(
    *("Qwen3-30B-A3B", "qwen3_moe"),
    **_sizes(2048, 32, 4, 6144, head_dim=128, moe_intermediate_size=768),
    num_experts=128,
    num_experts_per_tok=8,
    decoder_sparse_step=1,
    norm_topk_prob=True,
    mlp_only_layers=[],
)
_hub(
    *("gemma-2-2b", "gemma2"),
    **_sizes(2304, 8, 4, 9216, head_dim=256, query_pre_attn_scalar=256, sliding_window=4096),
    final_logit_softcapping=30.0,
    attn_logit_softcapping=50.0,
)
_hub(
    *("gemma-3-1b", "gemma3_text"),
    **_sizes(1152, 4, 1, 6912, head_dim=256, sliding_window=512),
)
_hub(
    *("Phi-3-mini-4k", "phi3"),
    **_sizes(3072, 32, 32, 8192, sliding_window=2047, pad_token_id=32000),
    original_max_position_embeddings=4096,
)
_hub(
    *("Phi-4-mini", "phi3"),
    **_sizes(3072, 24, 8, 8192, sliding_window=262144, pad_token_id=199999, vocab_size=200064),
    partial_rotary_factor=0.75,
    original_max_position_embeddings=4096,
)
_hub(*("Phi-4", "phi3"), **_sizes(5120, 40, 10, 17920, pad_token_id=100349, vocab_size=100352))
_hub(*("phi-2", "phi"), **_sizes(2560, 32, 32, 10240, partial_rotary_factor=0.4))
_MLA = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
_hub(
    *("DeepSeek-V2-Lite", "deepseek_v2"),
    **_sizes(2048, 16, 16, 10944, moe_intermediate_size=1408),
    **_MLA,
    q_lora_rank=None,
    n_routed_experts=64,
    n_shared_experts=2,
    num_experts_per_tok=6,
    n_group=1,
    topk_group=1,
    topk_method="greedy",
    first_k_dense_replace=1,
)
_hub(
    *("DeepSeek-V3", "deepseek_v3"),
    **_sizes(7168, 128, 128, 18432, moe_intermediate_size=2048),
    **_MLA,
    q_lora_rank=1536,
    n_routed_experts=256,
    n_shared_experts=1,
    num_experts_per_tok=8,
    n_group=8,
    topk_group=4,
    first_k_dense_replace=3,
)
_hub(
    *("gpt-oss-20b", "gpt_oss"),
    **_sizes(2880, 64, 8, 2880, head_dim=64, sliding_window=128, vocab_size=201088),
    num_local_experts=32,
    num_experts_per_tok=4,
)
_hub(
    *("Mixtral-8x7B", "mixtral"),
    **_sizes(4096, 32, 8, 14336, sliding_window=None),
    num_local_experts=8,
    num_experts_per_tok=2,
)
_hub(
    *("falcon-7b", "falcon"),
    hidden_size=4544,
    num_attention_heads=71,
    num_hidden_layers=4,
    multi_query=True,
    new_decoder_architecture=False,
    parallel_attn=True,
    alibi=False,
    bias=False,
)
_hub(
    *("falcon-40b", "falcon"),
    hidden_size=8192,
    num_attention_heads=128,
    num_kv_heads=8,
    num_hidden_layers=4,
    new_decoder_architecture=True,
    parallel_attn=True,
    alibi=False,
    bias=False,
)
_GRANITE = {
    "embedding_multiplier": 12.0,
    "logits_scaling": 8.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.015625,
}
_hub(*("granite-3.1-2b", "granite"), **_sizes(2048, 32, 8, 8192), **_GRANITE)
_hub(
    *("granite-4.0-h-micro", "granitemoehybrid"),
    **_sizes(2048, 32, 8, 8192, num_local_experts=0, num_experts_per_tok=0),
    **_GRANITE,
    shared_intermediate_size=8192,
    layer_types=["mamba", "mamba", "attention", "mamba"],
    mamba_n_heads=64,
    mamba_d_head=64,
    mamba_d_state=128,
    mamba_n_groups=1,
    position_embedding_type="nope",
)
_hub(*("OLMo-2-1124-7B", "olmo2"), **_sizes(4096, 32, 32, 11008, vocab_size=100352))
_hub(
    *("SmolLM3-3B", "smollm3"),
    **_sizes(2048, 16, 4, 11008, no_rope_layers=[1, 1, 1, 0]),
    pad_token_id=128004,
    vocab_size=128256,
    eos_token_id=128012,
)
_hub(
    *("command-r-v01", "cohere"),
    **_sizes(8192, 64, 64, 22528, logit_scale=0.0625, use_qk_norm=False),
)
_hub(
    *("Jamba-v0.1", "jamba"),
    **_sizes(4096, 32, 8, 14336, num_experts=16, num_experts_per_tok=2),
    attn_layer_period=4,
    attn_layer_offset=2,
    expert_layer_period=2,
    expert_layer_offset=1,
    mamba_dt_rank=256,
)
_hub(
    *("Jamba-without-experts", "jamba"),
    **_sizes(2560, 20, 1, 8192, num_experts=1, num_experts_per_tok=1),
    attn_layer_period=4,
    attn_layer_offset=2,
    mamba_dt_rank=160,
)
_hub(
    *("Bamba-9B", "bamba"),
    **_sizes(4096, 32, 8, 14336, attn_layer_indices=[2]),
    mamba_n_heads=128,
    mamba_d_head=64,
    mamba_d_state=128,
)
_hub(
    *("mamba2-2.7b", "mamba2"),
    hidden_size=2560,
    num_hidden_layers=4,
    num_heads=80,
    head_dim=64,
    state_size=128,
    n_groups=1,
)
_hub(
    *("rwkv-4-169m-pile", "rwkv"),
    hidden_size=768,
    num_hidden_layers=4,
    attention_hidden_size=768,
    intermediate_size=3072,
    vocab_size=50277,
)
_hub(*("bloom-560m", "bloom"), hidden_size=1024, n_head=16, n_layer=4, vocab_size=250880)
_hub(*("mpt-7b", "mpt"), d_model=4096, n_heads=32, n_layers=4, no_bias=True)
_hub(*("gpt-j-6B", "gptj"), n_embd=4096, n_head=16, n_layer=4, rotary_dim=64, n_inner=None)
_hub(
    *("pythia-1b", "gpt_neox"),
    hidden_size=2048,
    num_attention_heads=8,
    num_hidden_layers=4,
    intermediate_size=8192,
    use_parallel_residual=True,
    rotary_pct=0.25,
)
_hub(
    *("opt-350m", "opt"),
    hidden_size=1024,
    word_embed_proj_dim=512,
    num_attention_heads=16,
    num_hidden_layers=4,
    ffn_dim=4096,
    do_layer_norm_before=False,
)
_hub(
    *("opt-1.3b", "opt"),
    hidden_size=2048,
    word_embed_proj_dim=2048,
    num_attention_heads=32,
    num_hidden_layers=4,
    ffn_dim=8192,
)
_hub(
    *("stablelm-2-1_6b", "stablelm"),
    **_sizes(2048, 32, 32, 5632, partial_rotary_factor=0.25, use_qkv_bias=True),
)
_hub(
    *("stablelm-2-12b", "stablelm"),
    **_sizes(5120, 32, 8, 13824, partial_rotary_factor=0.25, qk_layernorm=True),
    use_parallel_residual=True,
)
_hub(*("starcoder2-3b", "starcoder2"), **_sizes(3072, 24, 2, 12288, sliding_window=4096))
_hub(*("Minitron-4B", "nemotron"), **_sizes(3072, 24, 8, 9216, head_dim=128))
_hub(
    *("recurrentgemma-2b", "recurrent_gemma"),
    **_sizes(2560, 10, 1, 15360, lru_width=2560, attention_window_size=2048),
)
_hub(
    *("Zamba2-1.2B", "zamba2"),
    **_sizes(2048, 32, 32, 8192, mamba_d_state=128, mamba_ngroups=1, n_mamba_heads=64),
    attention_hidden_size=4096,
    attention_head_dim=128,
    layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
    num_mem_blocks=1,
)
_hub(
    *("electra-small", "electra"),
    **{k: v for k, v in _sizes(256, 4, 4, 1024).items() if k != "num_key_value_heads"},
    embedding_size=128,
    is_decoder=True,
)
