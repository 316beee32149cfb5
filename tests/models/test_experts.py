"""Which experts each token goes to: against routers by hand, and the sum that a block makes."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
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
from probekit.config import RecordKind
from probekit.errors import PlanError
from probekit.models import build_skeleton, list_modules
from probekit.models.forward import EXPERT_KINDS, OF_CHOICES, mixtures_of
from probekit.planning import list_families
from probekit.planning.expertkinds import find

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
    logits, ids, weights, written = (rec[f"{name}/{kind}"] for kind in EXPERT_KINDS)
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
    torch.testing.assert_close(written, chosen, rtol=1e-4, atol=1e-5)
    total = total + (chosen * weights[..., None]).sum(1)
    torch.testing.assert_close(seen["out"].reshape(-1, 32), total, rtol=1e-4, atol=1e-5)
    assert len(ids.unique()) > K  # not all tokens go to the same ones


def test_a_run_keeps_what_experts_are_given_of_each_text_alone(tmp_path: Path) -> None:
    family = "deepseek_v3"
    folder = by_hand.save_model(tmp_path / "model", build(family))
    probes = [{"sites": list(EXPERT_KINDS), "layers": [-1, 1]}]
    trace = probekit.run(by_hand.config(folder, tmp_path / "trace", probes=probes))
    assert len(trace.site_names) == 8
    fresh = AutoModelForCausalLM.from_pretrained(folder).eval()
    for example in trace.examples:
        inputs = {"input_ids": torch.tensor([example.token_ids.tolist()])}
        seen = seen_by_hooks(fresh, 3, family, inputs)
        block = fresh.model.layers[3].mlp
        weights, ids = router_by_hand(family, block, seen["logits"])
        rows: dict[str, Any] = {
            kind: trace.select(kind, layer=-1).example(example.number) for kind in EXPERT_KINDS
        }
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
        experts, x = block.experts, seen["x"][0]
        for place in range(K):
            alone = [
                expert_by_hand(family, experts, int(n), x[token : token + 1])[0]
                for token, n in enumerate(rows["expert_ids"][:, place])
            ]
            wanted = torch.stack(alone).detach().numpy()
            np.testing.assert_allclose(rows["expert_out"][:, place], wanted, rtol=1e-3, atol=1e-5)
    ids_site = trace.select("expert_ids", layer=1)
    assert (ids_site.name, ids_site.dtype) == ("model.layers.1.mlp/expert_ids", "int32")
    assert ids_site.axes == ("token", "k")
    assert ids_site.attributes["n_experts"] == N_EXPERTS
    assert ids_site.attributes["given_to"] == "model.layers.1.mlp.experts"
    assert trace.select("router_logits", layer=1).axes == ("token", "expert")


# --- which models have them, and what the others are told


def skeleton(family: str, **more: Any) -> Any:
    return build_skeleton(
        CONFIG_MAPPING[family](**every_family.known(family) | more), torch.float32
    )


def found(family: str, kind: str, module: str, **more: Any) -> Any:
    (one,) = find(skeleton(family, **more), module, RecordKind(name=kind), 9)
    return one


def readings(family: str, block: str, **more: Any) -> Any:
    with torch.device("meta"):
        config = CONFIG_MAPPING[family](**every_family.known(family) | more)
        return mixtures_of(AutoModelForCausalLM.from_config(config))[block].readings


def test_logits_of_a_router_that_gives_probabilities_are_those_of_its_projection() -> None:
    sizes = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}
    at = readings("gemma4_text", "model.layers.1", **sizes)
    assert at["router_logits"].module == "model.layers.1.router.proj"
    assert at["expert_ids"].module == "model.layers.1.experts"


def test_a_router_of_another_class_under_the_same_name_is_found() -> None:
    first = readings("deepseek_v4", "model.layers.0.mlp")["router_logits"]  # by the token alone
    later = readings("deepseek_v4", "model.layers.3.mlp")["router_logits"]
    assert (first.module, first.element) == ("model.layers.0.mlp.gate", "0")
    assert (later.module, later.element) == ("model.layers.3.mlp.gate", "0")


@pytest.mark.parametrize(
    ("family", "kind", "module", "more", "message"),
    [
        (
            "deepseek_v3",
            "expert_ids",
            "model.layers.0.mlp",
            {},
            r"model.layers.0.mlp \(DeepseekV3MLP\) is no block that chooses experts; "
            "model.layers.1.mlp is one",
        ),
        (
            "llama",
            "expert_ids",
            "model.layers.0.mlp",
            {},
            "is no block that chooses experts, and LlamaForCausalLM has none",
        ),
    ],
)
def test_what_is_no_block_of_experts_is_refused(
    family: str, kind: str, module: str, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        found(family, kind, module, **more)


def test_what_can_be_changed_of_experts_is_what_they_are_given() -> None:
    (row,) = list_families("olmoe")
    said = {kind: row["names"][kind]["can_be_changed"] for kind in EXPERT_KINDS}
    assert said == dict(zip(EXPERT_KINDS, (False, True, True, False), strict=True))

    model, inputs = every_family.build("olmoe"), tiny.batch()
    tiny.randomize(model)
    block = model.model.layers[2].mlp
    with torch.no_grad():
        plain = model(**inputs).logits
        other_logits = block.gate.register_forward_hook(lambda m, a, out: (-out[0], *out[1:]))
        assert torch.equal(model(**inputs).logits, plain)
        other_logits.remove()
        for place in (1, 2):  # ids, weights
            block.experts.register_forward_pre_hook(
                lambda m, args, place=place: tuple(
                    value.flip(0) if n == place else value for n, value in enumerate(args)
                )
            )
            changed = model(**inputs).logits
            assert not torch.equal(changed, plain)
            plain = changed


def test_experts_of_attention_heads_have_a_kind_and_no_portable_name() -> None:
    mixtures = skeleton("jetmoe").mixtures
    (attention,) = (m for m in mixtures.values() if m.in_attention and m.layer == 0)
    assert attention.module == "model.layers.0.self_attention.experts"
    logits = found("jetmoe", "router_logits", attention.module)
    assert logits.source.module == "model.layers.0.self_attention.experts.router"
    model = every_family.build("jetmoe")
    for kind in EXPERT_KINDS:
        with probekit.record(model, kind) as rec, torch.no_grad():
            model(**tiny.batch())
        assert list(rec) == [f"model.layers.{n}.mlp/{kind}" for n in range(4)]


def test_a_model_without_experts_says_so_at_once(tmp_path: Path) -> None:
    config = by_hand.config("sample:tiny-gpt2", tmp_path, probes=[{"sites": "expert_ids"}])
    with pytest.raises(PlanError, match="'expert_ids' does not exist on this GPT2LMHeadModel"):
        probekit.plan(config)
    with pytest.raises(PlanError, match="'expert_ids' does not exist on this LlamaForCausalLM"):
        probekit.record(tiny.build("llama"), "expert_ids")


def test_a_glob_over_dense_layers_too_records_those_that_choose(tmp_path: Path) -> None:
    model = build("deepseek_v3")
    with probekit.record(model, "model.layers.*.mlp/expert_ids") as rec, torch.no_grad():
        model(**tiny.batch())
    assert list(rec) == [f"model.layers.{n}.mlp/expert_ids" for n in (1, 2, 3)]
    with pytest.raises(PlanError, match=r"layers.0.mlp has no expert_ids.*layers.1.mlp has one"):
        probekit.record(model, "model.layers.0.mlp/expert_ids")
    folder = by_hand.save_model(tmp_path / "model", model)
    probes = [{"modules": "model.layers.*.mlp", "record": ["expert_ids"]}]
    plan = probekit.plan(by_hand.config(folder, tmp_path / "trace", probes=probes))
    assert [site.spec.layer for site in plan.sites] == [1, 2, 3]
    assert any("model.layers.0.mlp (DeepseekV3MLP)" in note for note in plan.notes)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_numbers_of_experts_are_not_averaged(tmp_path: Path, pool: str) -> None:
    folder = by_hand.save_model(tmp_path / "model", build("mixtral"))
    probes = [{"sites": "expert_ids", "pool": pool}]
    with pytest.raises(PlanError, match="numbers of experts, of which nothing can be reduced"):
        probekit.plan(by_hand.config(folder, tmp_path / "trace", probes=probes))


def test_modules_says_the_names_of_a_block(tmp_path: Path) -> None:
    folder = by_hand.save_model(tmp_path / "model", build("mixtral"))
    (row,) = list_modules(str(folder), match="model.layers.1.mlp")
    names = [f"{kind} ({kind})" for kind in EXPERT_KINDS]
    assert [name for name in row["portable"] if name in names] == names


@pytest.mark.slow
def test_every_family_with_experts_has_their_names() -> None:
    """The table of the closing note: where names are missing is known, family by family."""
    lacks: dict[str, set[str]] = {}
    n_with = 0
    for family in every_family.FAMILIES:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(every_family.tiny_config(family))
        mixtures = list(mixtures_of(model).values())
        is_moe = any(re.search("expert|CDMoE", type(m).__name__, re.I) for m in model.modules())
        assert bool(mixtures) == is_moe, family
        n_with += is_moe
        missing = {k for m in mixtures for k, at in m.readings.items() if isinstance(at, str)}
        if missing:
            lacks[family] = missing
    assert n_with == 53
    assert lacks == {}


def keep_output(kept: dict[str, Tensor], key: str, module: Any, args: Any, output: Tensor) -> None:
    kept[key] = output


@pytest.mark.slow
def test_what_every_router_gives_are_logits_and_its_experts_are_few_of_them() -> None:
    n_seen = n_summed = 0
    for family in every_family.FAMILIES:
        with torch.device("meta"):
            outline = AutoModelForCausalLM.from_config(every_family.tiny_config(family))
        if not mixtures_of(outline):
            continue
        model, inputs = every_family.build(family), tiny.batch()
        tiny.randomize(model)
        holders = {m.module: m.readings["expert_ids"] for m in mixtures_of(model).values()}
        outputs: dict[str, Tensor] = {}
        for block, at in holders.items():
            assert not isinstance(at, str), (family, block)
            if at.side == "input":  # the others' sums are in test_choices.py
                holder = model.get_submodule(at.module)
                holder.register_forward_hook(partial(keep_output, outputs, block))
        with probekit.record(model, list(EXPERT_KINDS)) as rec, torch.no_grad():
            model(**inputs, use_cache=False)
        for site in rec:
            rows, (block, _, kind) = rec[site], site.rpartition("/")
            assert len(rows) == inputs["input_ids"].numel(), site
            if kind == "router_logits":  # probabilities are positive, and those of a row sum to 1
                assert (rows < 0).any(), (family, site)
                assert not torch.allclose(rows.sum(-1), torch.ones(len(rows))), (family, site)
                n_seen += 1
            elif kind == "expert_ids":
                n_experts = rec[f"{block}/router_logits"].shape[-1]
                assert not rows.is_floating_point() and 0 <= rows.min() <= rows.max() < n_experts
                weights, written = (rec[f"{block}/{k}"] for k in OF_CHOICES[1:])
                assert rows.shape == weights.shape == written.shape[:2]
                total = (written * weights[..., None]).sum(1)
                if block in outputs:
                    torch.testing.assert_close(total, outputs[block], rtol=1e-4, atol=1e-5)
                    n_summed += 1
    assert n_seen > 150
    assert n_summed > 150


def test_running_experts_once_more_shows_to_nobody_and_changes_nothing() -> None:
    model, inputs = build("mixtral"), tiny.batch()
    called: list[str] = []
    for path, module in model.named_modules():
        module.register_forward_hook(lambda m, a, out, path=path: called.append(path))
    n_hooks = tiny.n_hooks(model)
    with torch.no_grad():
        plain = model(**inputs).logits
        once = list(called)
        called.clear()
        with probekit.record(model, "expert_out") as rec:
            recorded = model(**inputs).logits
    assert torch.equal(plain, recorded)
    assert called == once
    assert tiny.n_hooks(model) == n_hooks
    n_tokens = inputs["input_ids"].numel()
    assert rec.select("expert_out", layer=0).shape == (n_tokens, K, 32)


def test_with_a_mask_a_recording_has_the_choices_of_tokens_alone() -> None:
    model = build("mixtral")
    ids = torch.tensor([[5, 17, 42, 7], [3, 4, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    names = ["router_logits", "expert_ids", "expert_weights", "head_out", "ln1_scale"]
    with torch.no_grad(), probekit.record(model, names, mask=mask) as both:
        model(input_ids=ids, attention_mask=mask)
    with torch.no_grad(), probekit.record(model, names) as alone:
        model(input_ids=ids[1:, :2])
    for name in names:
        mine, theirs = both.select(name, layer=1)[4:], alone.select(name, layer=1)
        torch.testing.assert_close(mine, theirs.reshape(mine.shape), rtol=1e-4, atol=1e-5)


def test_with_a_mask_what_each_expert_writes_is_refused() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(PlanError, match=r"worked out expert by expert.*record it without mask="):
        probekit.record(build("mixtral"), ["expert_out"], mask=mask)
