"""Tiny random causal language models, one per family, and a batch to run them on.

Every size differs from every other (d_model 32, d_mlp 72, vocabulary 101, context 64; 4 heads of
8, or of 12 where the family lets the head be any size), every norm weight differs from 1 and every
bias from 0, sliding windows are shorter than the batch and soft caps low enough to bite: a value
read at the wrong place is a visibly wrong value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

# Threads that wait for each other cost more than these matrices: 0.4 s a forward pass instead of
# 0.01 s on a machine that is also doing something else.
torch.set_num_threads(1)

N_LAYERS, N_HEADS, N_KV_HEADS, D_MODEL, D_MLP, D_VOCAB, N_CTX = 3, 4, 2, 32, 72, 101, 64
WINDOW = 8  # tokens; the longest example of `batch` has 13

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GPT2: dict[str, Any] = {
    "n_layer": N_LAYERS,
    "n_head": N_HEADS,
    "n_embd": D_MODEL,
    "n_inner": D_MLP,
    "vocab_size": D_VOCAB,
    "n_positions": N_CTX,
    **SPECIAL,
}
LLAMA: dict[str, Any] = {
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "hidden_size": D_MODEL,
    "num_key_value_heads": N_KV_HEADS,
    "intermediate_size": D_MLP,
    "vocab_size": D_VOCAB,
    "max_position_embeddings": N_CTX,
    **SPECIAL,
}
MULTI_HEAD = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
WINDOWED = {"sliding_window": WINDOW}
D_HEAD_8, D_HEAD_12 = {"head_dim": 8}, {"head_dim": 12}  # 12: d_head is not d_model / n_heads
GEMMA2 = LLAMA | D_HEAD_12 | WINDOWED | {"query_pre_attn_scalar": 20}

CONFIGS: dict[str, dict[str, Any]] = {
    "gemma": LLAMA | D_HEAD_12,
    "gemma2": GEMMA2 | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": GEMMA2
    | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "gpt2": GPT2,
    "gpt_neo": {
        "num_layers": N_LAYERS,
        "num_heads": N_HEADS,
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "max_position_embeddings": N_CTX,
        "window_size": WINDOW,
        "attention_types": [[["global", "local", "global"], 1]],
        "vocab_size": D_VOCAB,
        **SPECIAL,
    },
    "gpt_neox": MULTI_HEAD,
    "gptj": GPT2 | {"rotary_dim": 4},
    "llama": LLAMA | D_HEAD_8,
    "mistral": LLAMA | D_HEAD_8 | WINDOWED,
    "olmo": LLAMA,
    "olmo2": LLAMA,
    "opt": {
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "hidden_size": D_MODEL,
        "word_embed_proj_dim": D_MODEL,
        "ffn_dim": D_MLP,
        "max_position_embeddings": N_CTX,
        "vocab_size": D_VOCAB,
        **SPECIAL,
    },
    "phi": LLAMA,
    "phi3": LLAMA | WINDOWED | {"original_max_position_embeddings": N_CTX},
    "qwen2": LLAMA,
    "qwen3": LLAMA | D_HEAD_12,
    "smollm3": LLAMA | {"no_rope_layers": [1, 0, 1]},
    "stablelm": LLAMA,
    "starcoder2": LLAMA | WINDOWED,
}
FAMILIES = tuple(CONFIGS)
OFTEN = ("gpt2", "phi3", "gemma2")  # run by default: absolute positions, fused, capped and windowed


def by_family(families: Iterable[str] = FAMILIES, often: Collection[str] = OFTEN) -> list[Any]:
    """Give families as parameters; those that are not run often are marked slow."""
    return [f if f in often else pytest.param(f, marks=pytest.mark.slow) for f in families]


# A config takes any keyword and ignores what it does not know (GPT2Config(n_layers=2) has 12
# layers): only the count says that the model is the one asked for. Tied weights count once.
N_PARAMETERS = {
    "gemma": 38016,
    "gemma2": 38208,
    "gemma3_text": 38280,
    "gpt2": 32536,
    "gpt_neo": 32248,
    "gpt_neox": 33720,
    "gptj": 33245,
    "llama": 36640,
    "mistral": 36640,
    "olmo": 36416,
    "olmo2": 36784,
    "opt": 32600,
    "phi": 30461,
    "phi3": 36640,
    "qwen2": 36832,
    "qwen3": 41320,
    "smollm3": 33408,
    "stablelm": 36864,
    "starcoder2": 27320,
}


def build(model_type: str, **overrides: Any) -> PreTrainedModel:
    """Build the tiny model of a family: seeded, float32, CPU, eval mode.

    Args:
        model_type: one of `FAMILIES`.
        overrides: config fields to change, and `attn_implementation`.
    """
    kernel = overrides.pop("attn_implementation", None)
    values = CONFIGS[model_type] | overrides
    config = AutoConfig.for_model(model_type, **values)
    unknown = set(values) - {field.name for field in dataclasses.fields(config)}
    assert not unknown, f"{model_type}: the config would ignore {sorted(unknown)}"
    with torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=torch.float32, attn_implementation=kernel
        )
    randomize(model)
    if not overrides:
        assert n_parameters(model) == N_PARAMETERS[model_type], (model_type, n_parameters(model))
    model.train(False)
    return model


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Draw every matrix from N(0, 0.2), and move every norm weight and bias by as much."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def batch(n: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Make a right-padded batch of n <= 11 examples of unequal lengths (13, 9, 5, 12, 8, ...).

    Returns:
        `input_ids`, `attention_mask` and `position_ids`, each int64 [example, pos].
    """
    assert 1 <= n <= 11, "beyond 11 the lengths repeat"
    lengths = torch.tensor([13 - 4 * i % 11 for i in range(n)])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    drawn = torch.randint(3, D_VOCAB, mask.shape, generator=torch.Generator().manual_seed(seed))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": drawn * mask, "attention_mask": mask, "position_ids": positions}


def first_tensor(values: Any) -> Tensor:
    """Return the tensor, or the first tensor of a tuple, dict or model output."""
    if isinstance(values, Tensor):
        return values
    inner = values.values() if isinstance(values, dict) else values
    return next(value for value in inner if isinstance(value, Tensor))


def watch(
    model: nn.Module, inputs: dict[str, Tensor], sites: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Tensor]:
    """Run the model once and return what plain PyTorch hooks see: the oracle of the tests.

    Args:
        model: any model.
        inputs: its keyword arguments.
        sites: (module path, "input" or "output") pairs.

    Returns:
        The last call's tensor at each site, cloned, shaped as the module saw it.
    """
    seen: dict[tuple[str, str], Tensor] = {}

    def before(site: tuple[str, str]) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen[site] = first_tensor((*args, *kwargs.values())).clone()

        return hook

    def after(site: tuple[str, str]) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen[site] = first_tensor(output).clone()

        return hook

    handles = []
    for path, kind in sites:
        module = model.get_submodule(path)
        if kind == "input":
            handle = module.register_forward_pre_hook(before((path, kind)), with_kwargs=True)
        else:
            assert kind == "output", kind
            handle = module.register_forward_hook(after((path, kind)))
        handles.append(handle)
    try:
        with torch.no_grad():
            model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def real(values: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Keep the real tokens: [batch, pos, ...] or [batch * pos, ...] -> [token, ...]."""
    mask = inputs["attention_mask"].bool()
    return values.reshape(*mask.shape, *values.shape[-1:])[mask]


def n_hooks(model: nn.Module) -> int:
    """Count the forward and backward hooks on all modules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
