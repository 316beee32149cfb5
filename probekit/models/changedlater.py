"""Tensors that a model changes in place after the module that made them has given them away.

Knows transformers' families, by model type: 128 were looked through by torch's count of changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from probekit.config import match_paths

# Outputs, by globs over module paths, of a model that may be wrapped.
_CHANGED: Mapping[str, tuple[str, ...]] = {
    "ctrl": ("**.w",),
    "falcon": ("**.mlp", "**.mlp.dense_4h_to_h"),
    "gemma3n_text": ("**.per_layer_model_projection",),
    "llama4_text": ("**.shared_expert", "**.shared_expert.down_proj"),
    "roc_bert": ("**.map_inputs_layer",),
    "rwkv": ("**.time_shift",),
    "xlm": ("**.layer_norm_emb", "**.layer_norm2.*"),
}


def changed_later(hf_config: Any, paths: Iterable[str]) -> frozenset[str]:
    """Give the modules whose output the model changes afterwards, of those with these paths."""
    globs = _CHANGED.get(getattr(hf_config, "model_type", ""), ())
    there = tuple(paths)
    return frozenset(path for glob in globs for path in match_paths(glob, there))
