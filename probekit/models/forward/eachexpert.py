"""Each expert for itself: what every chosen expert writes for a token, before its weight.

Knows how a module that holds experts is called; nothing of who listens. Experts are fused since
transformers 5: no module gives what one of them writes, so those of a token are run once more, by
the model's own code, each as if it were the only one and weighed 1.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from probekit.models.forward.experts import given_experts


def each_expert(
    module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> torch.Tensor:
    """Run the experts that a call chose, each for itself.

    Args:
        module: that holds experts.
        args, kwargs: of the call.

    Returns:
        `[token, k, d_model]`, in the order of the ids; their sum by weight is the call's output.
    """
    names = list(inspect.signature(module.forward).parameters)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    parameters = given_experts(type(module))
    assert parameters is not None  # the plan reads such modules alone
    hidden, ids, weights = given[names[0]], given[parameters[0]], given[parameters[1]]
    n_tokens, k = ids.shape
    # Behind transformers' interface a token may have one choice; code of a model's own (LongCat's)
    # may count on more: there the same expert comes twice, the second time for nothing.
    n_choices = 1 if hasattr(module, "has_gate") else min(k, 2)
    alone = weights.new_zeros((n_tokens * k, n_choices))
    alone[:, 0] = 1
    apart = {
        id(hidden): hidden.repeat_interleave(k, dim=0),
        id(ids): ids.reshape(-1, 1).expand(-1, n_choices).contiguous(),
        id(weights): alone,
    }
    with torch.no_grad():
        output: torch.Tensor = _without_hooks(module).forward(
            *(apart.get(id(value), value) for value in args),
            **{name: apart.get(id(value), value) for name, value in kwargs.items()},
        )
    return output.view(n_tokens, k, -1)


def _without_hooks(module: torch.nn.Module) -> torch.nn.Module:
    """Give a module of the same tensors and settings that nobody listens at."""
    twin = copy.copy(module)
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        twin.__dict__[name] = OrderedDict()
    twin.__dict__["_modules"] = {
        name: None if inner is None else _without_hooks(inner)
        for name, inner in module._modules.items()
    }
    return twin
