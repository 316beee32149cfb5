"""Portable names: the same word for the same tensor on every model family.

Where each lies is said by a row of the table of families, or derived from the model's structure;
`_SPELLINGS` says how configs spell their sizes. This file imports neither torch nor transformers,
and takes a config as any object with attributes.

The names are TransformerLens's, and mean what they mean there on a model loaded without weight
processing (`from_pretrained_no_processing`), with dropout off:

| name | tensor |
|---|---|
| embed | token embeddings as they enter the residual stream, before positional embeddings |
| resid_pre, resid_mid, resid_post | residual stream before a block, between its halves, after it |
| attn_in, mlp_in | what attention and MLP read, after the norm before them |
| attn_out, mlp_out | what attention and MLP add to the residual stream, after any post-norm |
| mixer_in, mixer_out | the same of what mixes tokens and is no attention: Mamba, linear attention |
| mlp_pre | what enters the MLP's activation function: of a gated MLP, its gate |
| mlp_post | what enters the MLP's output projection: act(x), or act(gate) * up |
| q, k, v, z, scores, pattern | of each head; recorded by the attention tap |
| head_out | what each head writes: z through its part of the output projection, without bias |
| ln1_scale, ln2_scale, ln_final_scale | what the norm before attention, before the MLP, and the \
final one divide each token by |
| ln_final, logits | after the final norm; what the model returns |

A tensor that a family, or one config of it, does not have is refused with the reason, never
answered with a near match. Where a module returns a tuple, `output` means its first tensor;
`input` means the first tensor argument, positional or keyword.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probekit.errors import ConfigError, PlanError
from probekit.models.places import (
    ATTENTION_NAMES,
    FAMILIES,
    PORTABLE_NAMES,
    Family,
    Place,
    Refusal,
    Unembedding,
)
from probekit.models.rope import stretch

if TYPE_CHECKING:
    from probekit.models.places import Derived

__all__ = [
    "ATTENTION_NAMES",
    "FAMILIES",
    "PORTABLE_NAMES",
    "Family",
    "Place",
    "Refusal",
    "Sizes",
    "Unembedding",
    "derived_of",
    "family_of",
    "places",
    "portable_names",
    "sizes",
    "unembedding",
]


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

    A family that is not in the table is derived from its structure and proved on a tiny model of
    it, which takes a second; the answer is kept.

    Args:
        config: a Hugging Face config of a causal language model.
        name: one of `PORTABLE_NAMES`.

    Returns:
        One place for each layer that has it, by layer number, in order; for `embed`, `ln_final`
        and `logits` a single place under None.

    Raises:
        PlanError: the name is not a portable name, no tiny model of the family can be made, or
            this model has no such tensor; the message says which, and why.

    Example:
        >>> places(GPT2Config(), "resid_mid")[11]
        Place(module='transformer.h.11.ln_2', kind='input', factor=1.0)
    """
    if name not in PORTABLE_NAMES:
        raise PlanError(
            f"{name!r} is not a portable name (expected one of: {', '.join(PORTABLE_NAMES)})"
        )
    model_type = _model_type(config)
    family = family_of(model_type)
    if family is None:
        found = derived_of(config)
        if name in found.places:
            return dict(found.places[name])
        reason = found.refused[name]
    else:
        reason = next(iter(_reasons(family, config, name)), "")
        if not reason:
            return _expand(family.templates[name], _n_layers(config))
    raise PlanError(f"portable name {name!r} does not exist on this {model_type}: {reason}")


def derived_of(config: Any) -> Derived:
    """Derive the places of the model of a config, in the table or not.

    Raises:
        PlanError: no tiny model of it can be made.
    """
    from probekit.models.checkpoints import model_class
    from probekit.models.places import derived

    if not hasattr(config, "get_text_config"):
        raise PlanError(
            f"portable names: model type {_model_type(config)!r} is not in the table of families, "
            "and is no model of transformers; name the modules instead: globs, in a config under "
            "`modules:`"
        )
    try:
        kind = model_class(config)
    except ConfigError as error:
        raise PlanError(f"portable names: {error}") from error
    return derived(kind, config)


def unembedding(config: object) -> Unembedding:
    """Say how the model of this config makes logits of its last residual stream.

    Raises:
        PlanError: as `places` does, where there is no final norm.
    """
    family = family_of(_model_type(config))
    if family is None:
        found = derived_of(config)
        if found.unembedding is None:
            places(config, "ln_final")  # it says why, where there is none
            raise PlanError(
                f"this {_model_type(config)} makes its logits of the final norm's output in a way "
                f"that is not known: {found.refused.get('logits', '')}"
            )
        return found.unembedding
    (norm,) = places(config, "ln_final").values()
    cap = getattr(config, "final_logit_softcapping", None)
    return Unembedding(norm=norm.module, head=_place(family.templates["logits"]).module, cap=cap)


def portable_names(config: object) -> dict[str, tuple[str, int | None]]:
    """Map every place of this model that has a portable name to that name.

    Args:
        config: a Hugging Face config.

    Returns:
        `module path/record kind` -> (portable name, layer or None), in the order computed;
        empty for a family that is not in the table and cannot be derived.

    Example:
        >>> portable_names(GPT2Config())["transformer.h.0.mlp.act/output"]
        ('mlp_post', 0)
    """
    found: dict[str, tuple[str, int | None]] = {}
    for name in PORTABLE_NAMES:
        try:
            there = places(config, name)
        except PlanError:
            continue
        found |= {str(place): (name, layer) for layer, place in there.items()}
    return found


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
