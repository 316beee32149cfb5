"""The table of families: where those keep their tensors that a plan is to find without any proof.

A row of `FAMILIES` says where a family keeps each tensor, as `module path/record kind` with
`{layer}` for the layer number, and which names it has not. Knows Hugging Face's names
(transformers 5.23), and takes a config as any object with attributes; imports neither torch nor
transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from probekit.models.places.names import TAPPED_NAMES


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


def _tapped(attention: str) -> dict[str, str]:
    return {name: f"{attention}/{name}" for name in TAPPED_NAMES}


def _norms(first: str, second: str, last: str, kind: str) -> dict[str, str]:
    """Place the norms' scales: `rms`, or `std` where a norm takes the mean away first."""
    return {
        "ln1_scale": f"{first}/{kind}",
        "ln2_scale": f"{second}/{kind}",
        "ln_final_scale": f"{last}/{kind}",
    }


# A row below that has no line for a name takes it from the row it extends.

GPT_NEO = {
    "embed": "transformer.wte/output",
    "resid_pre": "transformer.h.{layer}/input",
    **_norms("transformer.h.{layer}.ln_1", "transformer.h.{layer}.ln_2", "transformer.ln_f", "std"),
    "attn_in": "transformer.h.{layer}.attn/input",
    "attn_out": "transformer.h.{layer}.attn/output",
    "resid_mid": "transformer.h.{layer}.ln_2/input",
    "mlp_in": "transformer.h.{layer}.mlp/input",
    "mlp_pre": "transformer.h.{layer}.mlp.act/input",
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
    **_norms(
        "gpt_neox.layers.{layer}.input_layernorm",
        "gpt_neox.layers.{layer}.post_attention_layernorm",
        "gpt_neox.final_layer_norm",
        "std",
    ),
    "attn_in": "gpt_neox.layers.{layer}.attention/input",
    **_tapped("gpt_neox.layers.{layer}.attention"),
    "attn_out": "gpt_neox.layers.{layer}.attention/output",
    "resid_mid": "gpt_neox.layers.{layer}.post_attention_layernorm/input",
    "mlp_in": "gpt_neox.layers.{layer}.mlp/input",
    "mlp_pre": "gpt_neox.layers.{layer}.mlp.act/input",
    "mlp_post": "gpt_neox.layers.{layer}.mlp.act/output",
    "mlp_out": "gpt_neox.layers.{layer}.mlp/output",
    "resid_post": "gpt_neox.layers.{layer}/output",
    "ln_final": "gpt_neox.final_layer_norm/output",
    "logits": "lm_head/output",
}
OPT = {
    "embed": "model.decoder.embed_tokens/output",
    "resid_pre": "model.decoder.layers.{layer}/input",
    **_norms(
        "model.decoder.layers.{layer}.self_attn_layer_norm",
        "model.decoder.layers.{layer}.final_layer_norm",
        "model.decoder.final_layer_norm",
        "std",
    ),
    "attn_in": "model.decoder.layers.{layer}.self_attn/input",
    **_tapped("model.decoder.layers.{layer}.self_attn"),
    "attn_out": "model.decoder.layers.{layer}.self_attn/output",
    # OPT's blocks flatten [batch, pos] before the MLP: these five are [batch * pos, d].
    "resid_mid": "model.decoder.layers.{layer}.final_layer_norm/input",
    "mlp_in": "model.decoder.layers.{layer}.fc1/input",
    "mlp_pre": "model.decoder.layers.{layer}.activation_fn/input",
    "mlp_post": "model.decoder.layers.{layer}.activation_fn/output",
    "mlp_out": "model.decoder.layers.{layer}.fc2/output",
    "resid_post": "model.decoder.layers.{layer}/output",
    "ln_final": "model.decoder.final_layer_norm/output",
    "logits": "lm_head/output",
}
_LLAMA_NORMS = (
    "model.layers.{layer}.input_layernorm",
    "model.layers.{layer}.post_attention_layernorm",
)
LLAMA = {
    "embed": "model.embed_tokens/output",
    "resid_pre": "model.layers.{layer}/input",
    **_norms(*_LLAMA_NORMS, "model.norm", "rms"),
    "attn_in": "model.layers.{layer}.self_attn/input",
    **_tapped("model.layers.{layer}.self_attn"),
    "attn_out": "model.layers.{layer}.self_attn/output",
    "resid_mid": "model.layers.{layer}.post_attention_layernorm/input",
    "mlp_in": "model.layers.{layer}.mlp/input",
    "mlp_pre": "model.layers.{layer}.mlp.act_fn/input",
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
GEMMA2 = (
    LLAMA
    | POST_NORM
    | {
        "resid_mid": "model.layers.{layer}.pre_feedforward_layernorm/input",
        "ln2_scale": "model.layers.{layer}.pre_feedforward_layernorm/rms",
    }
)
LLAMA_CENTRED = LLAMA | _norms(*_LLAMA_NORMS, "model.norm", "std")
STARCODER2 = LLAMA_CENTRED | {
    "mlp_pre": "model.layers.{layer}.mlp.act/input",
    "mlp_post": "model.layers.{layer}.mlp.act/output",
}
PHI3 = LLAMA | {"mlp_pre": "model.layers.{layer}.mlp.activation_fn/input"}
PHI = (
    LLAMA
    | _norms(*_LLAMA_NORMS, "model.final_layernorm", "std")
    | {
        "mlp_pre": "model.layers.{layer}.mlp.activation_fn/input",
        "mlp_post": "model.layers.{layer}.mlp.activation_fn/output",
        "ln_final": "model.final_layernorm/output",
    }
)

NO_MIXER = Refusal(
    names=("mixer_in", "mixer_out"),
    reason="its layers mix tokens by attention alone: ask for attn_in and attn_out",
)
PARALLEL_BLOCK = Refusal(
    names=("resid_mid",),
    reason="attention and MLP run in parallel on the same input: nothing lies between them",
)
PARALLEL_RESIDUAL = Refusal(
    names=("resid_mid",),
    reason=f"{PARALLEL_BLOCK.reason} (use_parallel_residual is true)",
    when=lambda config: bool(config.use_parallel_residual),
)
ONE_NORM = Refusal(
    names=("ln2_scale",), reason="attention and MLP read the output of one norm: ask for ln1_scale"
)
ONE_NORM_IF_PARALLEL = Refusal(
    names=("ln2_scale",),
    reason=f"{ONE_NORM.reason} (use_parallel_residual is true)",
    when=lambda config: bool(config.use_parallel_residual),
)
OWN_ATTENTION = Refusal(
    names=TAPPED_NAMES,
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
        names=("attn_in", "mlp_in", "ln1_scale", "ln2_scale", "ln_final_scale"),
        reason="this OPT norms the residual stream itself after each half block "
        "(do_layer_norm_before is false): no norm lies before one",
        when=lambda config: not config.do_layer_norm_before,
    ),
    Refusal(
        names=("ln_final", "ln_final_scale"),
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


def _row(templates: Mapping[str, str], *refusals: Refusal) -> Family:
    return Family(templates=templates, refusals=(*refusals, NO_MIXER))


# What is not here is derived from the structure of the model (`probekit.models.places`). These are
# kept, so that planning them costs no proof.
FAMILIES: Mapping[str, Family] = {
    "gemma": _row(LLAMA),
    "gemma2": _row(GEMMA2, CAPPED_LOGITS),
    "gemma3_text": _row(GEMMA2, CAPPED_LOGITS),
    "gpt2": _row(GPT2),
    "gpt_neo": _row(GPT_NEO, OWN_ATTENTION),
    "gpt_neox": _row(GPT_NEOX, PARALLEL_RESIDUAL),
    "gptj": _row(GPT_NEO, OWN_ATTENTION, PARALLEL_BLOCK, ONE_NORM),
    "llama": _row(LLAMA),
    "olmo": _row(LLAMA_CENTRED),
    "opt": _row(OPT, *OPT_REFUSALS),
    "phi": _row(PHI, PARALLEL_BLOCK, ONE_NORM),
    "phi3": _row(PHI3),
    "qwen2": _row(LLAMA),
    "smollm3": _row(LLAMA),
    "stablelm": _row(LLAMA_CENTRED, PARALLEL_RESIDUAL, ONE_NORM_IF_PARALLEL),
    "starcoder2": _row(STARCODER2),
}
