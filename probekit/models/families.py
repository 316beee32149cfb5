"""Portable names: the same word for the same tensor on every model family.

A row of `FAMILIES` says where a family keeps each tensor, as `module path/record kind` with
`{layer}` for the layer number; `_SPELLINGS` says how configs spell their sizes. This file
knows Hugging Face's names (transformers 5.23) and nothing else: it imports neither torch nor
transformers, and takes a config as any object with attributes.

The names are TransformerLens's, and mean what they mean there on a model loaded without weight
processing (`from_pretrained_no_processing`), with dropout off:

| name | tensor |
|---|---|
| embed | token embeddings as they enter the residual stream, before positional embeddings |
| resid_pre, resid_mid, resid_post | residual stream before a block, between its halves, after it |
| attn_out, mlp_out | what attention and MLP add to the residual stream, after any post-norm |
| mlp_post | what enters the MLP's output projection: act(x), or act(gate) * up |
| q, k, v, z, scores, pattern | of each head; recorded by the attention tap |
| ln_final, logits | after the final norm; what the model returns |

A tensor that a family, or one config of it, does not have is refused with the reason, never
answered with a near match. Where a module returns a tuple, `output` means its first tensor;
`input` means the first tensor argument, positional or keyword.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from probekit.errors import PlanError
from probekit.models.rope import stretch

__all__ = [
    "FAMILIES",
    "PORTABLE_NAMES",
    "Family",
    "Place",
    "Refusal",
    "Sizes",
    "Unembedding",
    "family_of",
    "places",
    "portable_names",
    "sizes",
    "unembedding",
]

ATTENTION_NAMES = ("q", "q_pre_rot", "k", "k_pre_rot", "v", "z", "scores", "pattern")
PORTABLE_NAMES = (
    *("embed", "resid_pre", *ATTENTION_NAMES, "attn_out", "resid_mid"),
    *("mlp_post", "mlp_out", "resid_post", "ln_final", "logits"),
)  # in the order they are computed


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor is read: a module path and a record kind."""

    module: str
    kind: str

    def __str__(self) -> str:
        return f"{self.module}/{self.kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why names do not exist on the configs for which `when` holds."""

    names: tuple[str, ...]
    reason: str
    when: Callable[[Any], bool] = lambda config: True


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One model family (a Hugging Face `model_type`): a place template for every name it has."""

    templates: Mapping[str, str]
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of a model under one spelling; None where the config does not say."""

    n_layers: int | None
    n_heads: int | None
    n_kv_heads: int | None
    d_model: int | None
    d_mlp: int | None
    d_head: int | None
    d_vocab: int | None
    n_ctx: int | None  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Unembedding:
    """How a model makes logits of the last residual stream."""

    norm: str  # the path of the final norm
    head: str  # of the linear map onto the vocabulary
    cap: float | None  # logits are cap * tanh(logits / cap) in the end; None where they are not


def _tapped(attention: str) -> dict[str, str]:
    return {name: f"{attention}/{name}" for name in ATTENTION_NAMES}


# A row below that has no line for a name takes it from the row it extends.

GPT_NEO = {
    "embed": "transformer.wte/output",
    "resid_pre": "transformer.h.{layer}/input",
    "attn_out": "transformer.h.{layer}.attn/output",
    "resid_mid": "transformer.h.{layer}.ln_2/input",
    "mlp_post": "transformer.h.{layer}.mlp.act/output",
    "mlp_out": "transformer.h.{layer}.mlp/output",
    "resid_post": "transformer.h.{layer}/output",
    "ln_final": "transformer.ln_f/output",
    "logits": "lm_head/output",
}
GPT2 = GPT_NEO | _tapped("transformer.h.{layer}.attn")
GPT_NEOX = {
    "embed": "gpt_neox.embed_in/output",
    "resid_pre": "gpt_neox.layers.{layer}/input",
    **_tapped("gpt_neox.layers.{layer}.attention"),
    "attn_out": "gpt_neox.layers.{layer}.attention/output",
    "resid_mid": "gpt_neox.layers.{layer}.post_attention_layernorm/input",
    "mlp_post": "gpt_neox.layers.{layer}.mlp.act/output",
    "mlp_out": "gpt_neox.layers.{layer}.mlp/output",
    "resid_post": "gpt_neox.layers.{layer}/output",
    "ln_final": "gpt_neox.final_layer_norm/output",
    "logits": "lm_head/output",
}
OPT = {
    "embed": "model.decoder.embed_tokens/output",
    "resid_pre": "model.decoder.layers.{layer}/input",
    **_tapped("model.decoder.layers.{layer}.self_attn"),
    "attn_out": "model.decoder.layers.{layer}.self_attn/output",
    # OPT's blocks flatten [batch, pos] before the MLP: these three are [batch * pos, d].
    "resid_mid": "model.decoder.layers.{layer}.final_layer_norm/input",
    "mlp_post": "model.decoder.layers.{layer}.activation_fn/output",
    "mlp_out": "model.decoder.layers.{layer}.fc2/output",
    "resid_post": "model.decoder.layers.{layer}/output",
    "ln_final": "model.decoder.final_layer_norm/output",
    "logits": "lm_head/output",
}
LLAMA = {
    "embed": "model.embed_tokens/output",
    "resid_pre": "model.layers.{layer}/input",
    **_tapped("model.layers.{layer}.self_attn"),
    "attn_out": "model.layers.{layer}.self_attn/output",
    "resid_mid": "model.layers.{layer}.post_attention_layernorm/input",
    "mlp_post": "model.layers.{layer}.mlp.down_proj/input",
    "mlp_out": "model.layers.{layer}.mlp/output",
    "resid_post": "model.layers.{layer}/output",
    "ln_final": "model.norm/output",
    "logits": "lm_head/output",
}
POST_NORM = {  # attention and MLP outputs are normed before they are added
    "attn_out": "model.layers.{layer}.post_attention_layernorm/output",
    "mlp_out": "model.layers.{layer}.post_feedforward_layernorm/output",
}
GEMMA2 = LLAMA | POST_NORM | {"resid_mid": "model.layers.{layer}.pre_feedforward_layernorm/input"}
OLMO2 = LLAMA | POST_NORM | {"resid_mid": "model.layers.{layer}.mlp/input"}
STARCODER2 = LLAMA | {"mlp_post": "model.layers.{layer}.mlp.act/output"}
PHI = LLAMA | {
    "mlp_post": "model.layers.{layer}.mlp.activation_fn/output",
    "ln_final": "model.final_layernorm/output",
}

PARALLEL_BLOCK = Refusal(
    names=("resid_mid",),
    reason="attention and MLP run in parallel on the same input: nothing lies between them",
)
PARALLEL_RESIDUAL = Refusal(
    names=("resid_mid",),
    reason=f"{PARALLEL_BLOCK.reason} (use_parallel_residual is true)",
    when=lambda config: bool(config.use_parallel_residual),
)
OWN_ATTENTION = Refusal(
    names=ATTENTION_NAMES,
    reason="its attention is the model's own code, which the attention tap cannot reach",
)
CAPPED_LOGITS = Refusal(
    names=("logits",),
    reason="the model caps the output of lm_head (final_logit_softcapping) outside any module; "
    "`modules: lm_head` records the value before the cap",
    when=lambda config: config.final_logit_softcapping is not None,
)
OPT_REFUSALS = (
    Refusal(
        names=("resid_mid", "resid_post", "ln_final"),
        reason="this OPT norms the residual stream itself after each half block "
        "(do_layer_norm_before is false), and has no final norm",
        when=lambda config: not config.do_layer_norm_before,
    ),
    Refusal(
        names=("ln_final",),
        reason="this OPT was saved without a final norm (_remove_final_layer_norm is true)",
        when=lambda config: bool(config._remove_final_layer_norm),
    ),
    Refusal(
        names=("embed",),
        reason="token embeddings are word_embed_proj_dim wide and enter the residual stream "
        "through a projection: use `modules: model.decoder.project_in`",
        when=lambda config: config.word_embed_proj_dim != config.hidden_size,
    ),
)

# Left out on purpose: granite (scales attn_out, mlp_out, the embeddings and the logits outside
# any module) and cohere (scales the logits) need more than a place.
FAMILIES: Mapping[str, Family] = {
    "gemma": Family(templates=LLAMA),
    "gemma2": Family(templates=GEMMA2, refusals=(CAPPED_LOGITS,)),
    "gemma3_text": Family(templates=GEMMA2, refusals=(CAPPED_LOGITS,)),
    "gpt2": Family(templates=GPT2),
    "gpt_neo": Family(templates=GPT_NEO, refusals=(OWN_ATTENTION,)),
    "gpt_neox": Family(templates=GPT_NEOX, refusals=(PARALLEL_RESIDUAL,)),
    "gptj": Family(templates=GPT_NEO, refusals=(OWN_ATTENTION, PARALLEL_BLOCK)),
    "llama": Family(templates=LLAMA),
    "mistral": Family(templates=LLAMA),
    "olmo": Family(templates=LLAMA),
    "olmo2": Family(templates=OLMO2),
    "opt": Family(templates=OPT, refusals=OPT_REFUSALS),
    "phi": Family(templates=PHI, refusals=(PARALLEL_BLOCK,)),
    "phi3": Family(templates=LLAMA),
    "qwen2": Family(templates=LLAMA),
    "qwen3": Family(templates=LLAMA),
    "smollm3": Family(templates=LLAMA),
    "stablelm": Family(templates=LLAMA, refusals=(PARALLEL_RESIDUAL,)),
    "starcoder2": Family(templates=STARCODER2),
}

_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "n_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "n_heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "n_kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "d_model": ("hidden_size", "n_embd", "d_model"),
    "d_mlp": ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"),
    "d_head": ("head_dim",),
    "d_vocab": ("vocab_size",),
    "n_ctx": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"),
}


def family_of(model_type: str) -> Family | None:
    """Return the row of a Hugging Face `model_type`, or None where the table has none."""
    return FAMILIES.get(model_type)


def places(config: object, name: str) -> dict[int | None, Place]:
    """Say where a portable name is read on the model of this config.

    Args:
        config: a Hugging Face config of a causal language model.
        name: one of `PORTABLE_NAMES`.

    Returns:
        One place for each layer, by layer number, in order; for `embed`, `ln_final` and
        `logits` a single place under None.

    Raises:
        PlanError: the family is not in the table, the name is not a portable name, or this
            model has no such tensor; the message says which, and why.

    Example:
        >>> places(GPT2Config(), "resid_mid")[11]
        Place(module='transformer.h.11.ln_2', kind='input')
    """
    model_type = _model_type(config)
    family = family_of(model_type)
    if family is None:
        raise PlanError(
            f"portable name {name!r}: model type {model_type!r} is not in the table of families "
            f"(expected one of: {', '.join(FAMILIES)}). Name the modules instead, with `modules:` "
            "globs; `probekit modules MODEL` lists their paths"
        )
    if name not in PORTABLE_NAMES:
        raise PlanError(
            f"{name!r} is not a portable name (expected one of: {', '.join(PORTABLE_NAMES)})"
        )
    for reason in _reasons(family, config, name):
        raise PlanError(f"portable name {name!r} does not exist on this {model_type}: {reason}")
    return _expand(family.templates[name], _n_layers(config))


def unembedding(config: object) -> Unembedding:
    """Say how the model of this config makes logits of its last residual stream.

    Raises:
        PlanError: as `places` does, where there is no final norm.
    """
    (norm,) = places(config, "ln_final").values()
    template = FAMILIES[_model_type(config)].templates["logits"]
    cap = getattr(config, "final_logit_softcapping", None)
    return Unembedding(norm=norm.module, head=_place(template).module, cap=cap)


def portable_names(config: object) -> dict[str, tuple[str, int | None]]:
    """Map every place of this model that has a portable name to that name.

    Args:
        config: a Hugging Face config.

    Returns:
        `module path/record kind` -> (portable name, layer or None), in the order computed;
        empty for a family that is not in the table.

    Example:
        >>> portable_names(GPT2Config())["transformer.h.0.mlp.act/output"]
        ('mlp_post', 0)
    """
    family = family_of(_model_type(config))
    if family is None:
        return {}
    return {
        str(place): (name, layer)
        for name in PORTABLE_NAMES
        if not _reasons(family, config, name)
        for layer, place in _expand(family.templates[name], _n_layers(config)).items()
    }


def sizes(config: object) -> Sizes:
    """Read the sizes of a model from its config, whatever the config calls them.

    Works for configs of any family; a config that nests its language model (`text_config`) is
    read there. Where the config leaves a size to a default of the modelling code, that default
    is applied: d_mlp = 4 * d_model (an MLP width present but None, as in GPT-2),
    n_kv_heads = n_heads (1 under multi-query attention), d_head = d_model / n_heads.

    Returns:
        The sizes; None for one that the config does not say, or gives as other than one int.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    read = {size: _first_int(text, spellings) for size, spellings in _SPELLINGS.items()}
    d_model, n_heads = read["d_model"], read["n_heads"]
    if d_model and any(_said(text, key, 0) is None for key in _SPELLINGS["d_mlp"]):
        read["d_mlp"] = read["d_mlp"] or 4 * d_model
    if d_model and n_heads and d_model % n_heads == 0:
        read["d_head"] = read["d_head"] or d_model // n_heads
    if read["n_ctx"]:
        read["n_ctx"] = int(read["n_ctx"] * stretch(text))
    read["n_kv_heads"] = 1 if _is_multi_query(text) else read["n_kv_heads"] or n_heads
    return Sizes(**read)


def _model_type(config: object) -> str:
    return str(getattr(config, "model_type", None))


def _n_layers(config: object) -> int:
    n_layers = sizes(config).n_layers
    if n_layers is None:
        raise PlanError("model.name: its config does not say how many layers it has")
    return n_layers


def _reasons(family: Family, config: object, name: str) -> list[str]:
    """Say why the name does not exist on this config; empty where it does."""
    return [r.reason for r in family.refusals if name in r.names and r.when(config)]


def _expand(template: str, n_layers: int) -> dict[int | None, Place]:
    layers = range(n_layers) if "{layer}" in template else (None,)
    return {layer: _place(template.format(layer=layer)) for layer in layers}


def _place(text: str) -> Place:
    module, _, kind = text.rpartition("/")
    return Place(module=module, kind=kind)


def _first_int(config: object, spellings: tuple[str, ...]) -> int | None:
    values = (_said(config, spelling) for spelling in spellings)
    return next((value for value in values if type(value) is int and value > 0), None)


def _said(config: object, name: str, default: Any = None) -> Any:
    """Give what a config says of the whole model, where it says anything."""
    try:
        return getattr(config, name, default)
    except RuntimeError:  # every layer has its own, as Gemma 4's head_dim: transformers'
        return default  # AmbiguousGlobalPerLayerAttributeError, which is no AttributeError


def _is_multi_query(config: object) -> bool:
    """Falcon and GPT-BigCode share one key-value head under this flag, whatever num_kv_heads is."""
    return bool(getattr(config, "multi_query", False)) and not getattr(
        config, "new_decoder_architecture", False
    )
