"""Routers that hand nobody their choices, worked out by hand: of their input, with their weights.

Nothing here imports probekit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import every_family
import tiny_models as tiny
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

K = 3
SIZES: Mapping[str, dict[str, Any]] = {
    "llama4_text": {"num_local_experts": 8, "num_experts_per_tok": K},
    "jetmoe": {"num_local_experts": 8, "num_experts_per_tok": K},
    "doge": {"is_moe": True, "num_experts": 18, "num_experts_per_tok": K},  # two without keys
}
N_EXPERTS = {"llama4_text": 8, "jetmoe": 8, "doge": 16}
BLOCKS = {"llama4_text": "feed_forward", "jetmoe": "mlp", "doge": "mlp"}


@dataclass
class Routed:
    """What a block did in one call; a row a place of the batch."""

    logits: Tensor  # [token, expert]
    ids: Tensor  # [token, k]
    weights: Tensor  # [token, k]
    written: Tensor  # [token, k, d_model]
    total: Tensor  # [token, d_model]: what the block's experts give together


def build(family: str, dtype: torch.dtype = torch.float32, **more: Any) -> PreTrainedModel:
    sizes = every_family.known(family) | SIZES[family] | more
    with torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            CONFIG_MAPPING[family](**sizes), dtype=torch.float32
        )
    tiny.randomize(model)
    return model.to(dtype).eval()


@contextmanager
def seeing(model: nn.Module, *paths: str) -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    """Keep what modules are given and give, by hooks of torch's."""
    seen: dict[str, list[tuple[Any, Any]]] = {path: [] for path in paths}
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda m, args, output, path=path: seen[path].append((args, output))
        )
        for path in paths
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def routed(model: Any, family: str, layer: int, inputs: Mapping[str, Any]) -> Routed:
    """Run a model and work out by hand what its block of a layer did."""
    path = f"model.layers.{layer}.{BLOCKS[family]}"
    with seeing(model, path) as seen, torch.no_grad():
        model(**inputs, use_cache=False)
    ((args, output),) = seen[path]
    with torch.no_grad():
        return BY_HAND[family](model.get_submodule(path), args[0], output)


def best_first(logits: Tensor) -> Tensor:
    """Sort by hand: the numbers of the K largest of each row, the largest first."""
    return logits.float().argsort(dim=-1, descending=True, stable=True)[:, :K]


def llama4(block: Any, given: Tensor, output: Any) -> Routed:
    x = given.reshape(-1, given.shape[-1])
    logits = x @ block.router.weight.T
    ids = best_first(logits)
    weights = logits.gather(1, ids).float().sigmoid().to(x.dtype)
    written = []
    for place in range(K):
        read = x * weights[:, place : place + 1]
        gate, up = torch.bmm(read[:, None], block.experts.gate_up_proj[ids[:, place]]).chunk(2, -1)
        inner = up * functional.silu(gate)
        written.append(torch.bmm(inner, block.experts.down_proj[ids[:, place]])[:, 0])
    total = output[0].reshape(x.shape) - block.shared_expert(x)
    return Routed(logits, ids, weights, torch.stack(written, 1), total)


def jetmoe(block: Any, given: Tensor, output: Any) -> Routed:
    x = given.reshape(-1, given.shape[-1])
    logits = (x @ block.router.layer.weight.T).float()
    ids = best_first(logits)
    weights = logits.gather(1, ids).softmax(-1).to(x.dtype)
    written = []
    for place in range(K):
        both = torch.einsum("toi,ti->to", block.input_linear.weight[ids[:, place]], x)
        gate, up = both.chunk(2, -1)
        out = block.output_linear.weight[ids[:, place]]
        written.append(torch.einsum("toi,ti->to", out, functional.silu(gate) * up))
    total = output.reshape(x.shape) - block.bias
    return Routed(logits, ids, weights, torch.stack(written, 1), total)


def doge(block: Any, given: Tensor, output: Any) -> Routed:
    x = given.reshape(-1, given.shape[-1])
    n_keys = block.num_keys
    # As the model has it, a token's two halves are rows of the split, which mixes tokens.
    first, second = (given @ block.router_gate.weight.T).reshape(2, len(x), n_keys)
    logits = torch.stack(
        [first[:, n // n_keys] + second[:, n % n_keys] for n in range(n_keys**2)], 1
    )
    ids = best_first(logits)
    weights = logits.gather(1, ids).softmax(-1)
    down, up = block.down_embed.weight[ids], block.up_embed.weight[ids]
    written = functional.silu((down * x[:, None]).sum(-1))[..., None] * up
    shared = block.down_proj(functional.silu(block.gate_proj(x)) * block.up_proj(x))
    return Routed(logits, ids, weights, written, output[0].reshape(x.shape) - shared)


BY_HAND = {"llama4_text": llama4, "jetmoe": jetmoe, "doge": doge}
