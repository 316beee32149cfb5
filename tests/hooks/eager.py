"""Attention weights as eager attention shows them."""

from __future__ import annotations

import numpy as np
import torch


def eager_patterns(model, ids):
    """Every layer's eager weights of one text alone, `[head, query, key]` each.

    Each attention module is run eagerly on what it is given when the whole model runs with its own
    kernel, so that rounding upstream does not add to what is compared.
    """
    ids = torch.tensor(np.asarray(ids, dtype=np.int64))[None]
    given = {"attention_mask": torch.ones_like(ids)}
    modules = [m for _, m in model.named_modules() if type(m).__name__.endswith("Attention")]
    kernel = model.config._attn_implementation
    inputs = {}

    def keep(module, args, kwargs):
        inputs.setdefault(module, []).append((args, kwargs))

    handles = [m.register_forward_pre_hook(keep, with_kwargs=True) for m in modules]
    with torch.no_grad():
        model(ids, **given, use_cache=False)
        model.set_attn_implementation("eager")
        model(ids, **given, use_cache=False)  # for the masks that eager attention needs
        for handle in handles:
            handle.remove()
        patterns = []
        for module in modules:
            (args, kwargs), (_, eager) = inputs[module]
            masked = {**kwargs, "attention_mask": eager.get("attention_mask")}
            module.float()  # the reference is computed in float32, whatever the model runs in
            weights = module(*_float(args), **_float(masked))[1]
            patterns.append(weights[0].numpy())
    if kernel != "eager":
        model.set_attn_implementation(kernel)
    return patterns


def _float(value):
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _float(item) for key, item in value.items()}
    return tuple(map(_float, value)) if isinstance(value, tuple) else value
