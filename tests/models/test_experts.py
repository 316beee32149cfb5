"""Which experts each token goes to: against a hand-written router, and the sum that a block makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import by_hand
import every_family
import numpy as np
import pytest
import tiny_models as tiny
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

import probekit
from probekit.models.forward import EXPERT_KINDS

N_EXPERTS, K = 8, 3
OWN: dict[str, dict[str, Any]] = {
    "deepseek_v3": {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.7},
    "olmoe": {"norm_topk_prob": False},
    "phimoe": {"num_experts_per_tok": 2},  # its router knows no other number
    "qwen3_moe": {"norm_topk_prob": True},
}

# --- routers by hand: logits [token, expert] -> weights, ids [token, k]

Routed = tuple[Tensor, Tensor]


def softmax_first(logits: Tensor, *, normed: bool) -> Routed:
    weights, ids = logits.softmax(-1).topk(K)
    return (weights / weights.sum(-1, keepdim=True) if normed else weights), ids


def softmax_after(logits: Tensor) -> Routed:
    best, ids = logits.topk(K)
    return best.softmax(-1), ids


def grouped_sigmoid(logits: Tensor, bias: Tensor) -> Routed:
    """DeepSeek V3: two of four groups by their two best experts; a bias chooses and weighs not."""
    scores = logits.sigmoid()
    groups = (scores + bias).view(-1, 4, N_EXPERTS // 4)
    best = groups.topk(2).values.sum(-1).topk(2).indices
    kept = torch.zeros(len(groups), 4, dtype=torch.bool).scatter(1, best, True)
    choice = groups.masked_fill(~kept[..., None], -torch.inf).flatten(1)
    ids = choice.topk(K).indices
    weights = scores.gather(1, ids)
    return weights / weights.sum(-1, keepdim=True) * 1.7, ids


def sparse_mixer(logits: Tensor, jitter: float) -> Routed:
    """Phi-MoE: each choice is weighed against the experts that come near it alone."""
    first = logits.argmax(-1, keepdim=True)
    second = logits.scatter(1, first, -torch.inf).argmax(-1, keepdim=True)
    weights = []
    for chosen, others in ((first, logits), (second, logits.scatter(1, first, -torch.inf))):
        best = logits.gather(1, chosen)
        far = (best - logits) / torch.maximum(logits.abs(), best) > 2 * jitter
        weights.append(others.masked_fill(far, -torch.inf).softmax(-1).gather(1, chosen))
    return torch.cat(weights, 1), torch.cat([first, second], 1)


def router_by_hand(family: str, block: nn.Module, logits: Tensor) -> Routed:
    if family == "deepseek_v3":
        return grouped_sigmoid(logits, block.gate.e_score_correction_bias)
    if family == "phimoe":
        return sparse_mixer(logits, block.router.router_jitter_noise)
    if family in ("gpt_oss", "granitemoe"):
        return softmax_after(logits)
    return softmax_first(logits, normed=family != "olmoe")


def expert_by_hand(family: str, experts: nn.Module, number: int, x: Tensor) -> Tensor:
    """Run one expert on `[token, d_model]`."""
    into, out = experts.gate_up_proj[number], experts.down_proj[number]
    if family == "gpt_oss":
        both = x @ into + experts.gate_up_proj_bias[number]
        gate, up = both[:, ::2].clamp(max=7.0), both[:, 1::2].clamp(-7.0, 7.0)
        inner = (up + 1) * gate * torch.sigmoid(1.702 * gate)
        return inner @ out + experts.down_proj_bias[number]
    gate, up = (x @ into.T).chunk(2, -1)
    return (functional.silu(gate) * up) @ out.T


ROUTERS = {  # the block of a layer, and its router's name
    "deepseek_v3": ("mlp", "gate"),
    "gpt_oss": ("mlp", "router"),
    "granitemoe": ("block_sparse_moe", "router"),
    "mixtral": ("mlp", "gate"),
    "olmoe": ("mlp", "gate"),
    "phimoe": ("mlp", "router"),
    "qwen3_moe": ("mlp", "gate"),
}
FAMILIES = tuple(ROUTERS)


def build(family: str) -> PreTrainedModel:
    sizes = every_family.known(family)
    more = {
        **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), N_EXPERTS),
        "num_experts_per_tok": K,
    }
    sizes |= {name: size for name, size in more.items() if name in sizes} | OWN.get(family, {})
    with torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            CONFIG_MAPPING[family](**sizes), dtype=torch.float32
        )
        tiny.randomize(model)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                nn.init.normal_(buffer, std=0.3)
    return model.eval()


def seen_by_hooks(
    model: PreTrainedModel, layer: int, family: str, inputs: Any
) -> dict[str, Tensor]:
    """Give a block's input and output and its router's logits, by hooks on the family's modules."""
    name, router = ROUTERS[family]
    block = model.model.layers[layer].get_submodule(name)
    seen: dict[str, Tensor] = {}

    def keep(key: str) -> Callable[..., None]:
        return lambda module, args, output: seen.__setitem__(key, tiny.first_tensor(output))

    handles = [
        block.register_forward_pre_hook(lambda module, args: seen.__setitem__("x", args[0])),
        block.register_forward_hook(keep("out")),
        block.get_submodule(router).register_forward_hook(keep("logits")),
    ]
    with torch.no_grad():
        model(**inputs, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_are_what_a_router_by_hand_chooses_and_make_the_blocks_output(family: str) -> None:
    model, inputs, layer = build(family), tiny.batch(), 2
    name = f"model.layers.{layer}.{ROUTERS[family][0]}"
    block = model.get_submodule(name)
    with probekit.record(model, list(EXPERT_KINDS)) as rec, torch.no_grad():
        model(**inputs, use_cache=False)
    logits, ids, weights = (rec[f"{name}/{kind}"] for kind in EXPERT_KINDS)
    seen = seen_by_hooks(model, layer, family, inputs)
    x = seen["x"].reshape(-1, 32)
    router = block.get_submodule(ROUTERS[family][1])
    by_weights = x @ router.weight.T + (router.bias if family == "gpt_oss" else 0)

    assert torch.equal(logits, seen["logits"])
    torch.testing.assert_close(logits, by_weights)
    wanted_weights, wanted_ids = router_by_hand(family, block, by_weights)
    # A router may give its choices in any order.
    order, wanted_order = ids.argsort(-1), wanted_ids.argsort(-1)
    assert torch.equal(ids.gather(1, order), wanted_ids.gather(1, wanted_order))
    torch.testing.assert_close(weights.gather(1, order), wanted_weights.gather(1, wanted_order))

    total = block.shared_experts(seen["x"]).reshape(-1, 32) if family == "deepseek_v3" else 0
    every = torch.stack(
        [expert_by_hand(family, block.experts, n, x) for n in range(N_EXPERTS)], 1
    )  # [token, expert, d_model]
    chosen = every.gather(1, ids[..., None].expand(-1, -1, 32))
    total = total + (chosen * weights[..., None]).sum(1)
    torch.testing.assert_close(seen["out"].reshape(-1, 32), total, rtol=1e-4, atol=1e-5)
    assert len(ids.unique()) > K  # not all tokens go to the same ones


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_a_run_keeps_what_experts_are_given_of_each_text_alone(tmp_path: Path, family: str) -> None:
    folder = by_hand.save_model(tmp_path / "model", build(family))
    probes = [{"sites": list(EXPERT_KINDS), "layers": [-1, 1]}]
    trace = probekit.run(by_hand.config(folder, tmp_path / "trace", probes=probes))
    assert len(trace.site_names) == 6
    fresh = AutoModelForCausalLM.from_pretrained(folder).eval()
    for example in trace.examples:
        inputs = {"input_ids": torch.tensor([example.token_ids.tolist()])}
        seen = seen_by_hooks(fresh, 3, family, inputs)
        block = fresh.model.layers[3].mlp
        weights, ids = router_by_hand(family, block, seen["logits"])
        rows = {kind: trace.select(kind, layer=-1).example(example.number) for kind in EXPERT_KINDS}
        order = ids.argsort(-1)
        mine = rows["expert_ids"].argsort(-1)
        np.testing.assert_allclose(rows["router_logits"], seen["logits"], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(
            np.take_along_axis(rows["expert_ids"], mine, 1), ids.gather(1, order)
        )
        np.testing.assert_allclose(
            np.take_along_axis(rows["expert_weights"], mine, 1),
            weights.detach().gather(1, order),
            rtol=1e-4,
        )
    ids_site = trace.select("expert_ids", layer=1)
    assert (ids_site.name, ids_site.dtype) == ("model.layers.1.mlp/expert_ids", "int32")
    assert ids_site.axes == ("token", "k")
    assert ids_site.attributes["n_experts"] == N_EXPERTS
    assert ids_site.attributes["given_to"] == "model.layers.1.mlp.experts"
    assert trace.select("router_logits", layer=1).axes == ("token", "expert")
