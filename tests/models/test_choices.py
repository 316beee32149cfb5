"""Choices that a block works out itself: Llama 4's, JetMoE's and Doge's, against sums by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import by_hand
import choices_by_hand as hand
import every_family
import numpy as np
import pytest
import tiny_models as tiny
import torch
from transformers import AutoModelForCausalLM

import probekit
from probekit.errors import CaptureError
from probekit.models import build_skeleton, families
from probekit.models.forward import EXPERT_KINDS
from probekit.planning import list_families

FAMILIES = tuple(hand.BLOCKS)
CHOICES = ("expert_ids", "expert_weights")
LAYER = 2
MOA = f"model.layers.{LAYER}.self_attention.experts"


def name(family: str, kind: str, layer: int = LAYER) -> str:
    return f"model.layers.{layer}.{hand.BLOCKS[family]}/{kind}"


def recorded(model: Any, inputs: Any, sites: Any, mask: Any = None) -> Any:
    with probekit.record(model, sites, mask=mask) as rec, torch.no_grad():
        model(**inputs, use_cache=False)
    return rec


# --- in memory


@pytest.mark.parametrize("family", FAMILIES)
def test_choices_are_those_by_hand_and_make_what_the_experts_give(family: str) -> None:
    model, inputs = hand.build(family), tiny.batch()
    rec = recorded(model, inputs, list(EXPERT_KINDS))
    logits, ids, weights, written = (rec[name(family, kind)] for kind in EXPERT_KINDS)
    wanted = hand.routed(model, family, LAYER, inputs)

    torch.testing.assert_close(logits, wanted.logits)
    assert logits.shape[1] == hand.N_EXPERTS[family]
    assert torch.equal(ids, wanted.ids)
    assert len(ids.unique()) > hand.K  # not all tokens go to the same ones
    torch.testing.assert_close(weights, wanted.weights)
    torch.testing.assert_close(written, wanted.written, rtol=1e-4, atol=1e-5)
    weighed = written if family == "llama4_text" else written * weights[..., None]
    torch.testing.assert_close(weighed.sum(1), wanted.total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_16_bits_they_are_what_the_router_gave(family: str) -> None:
    model, inputs = hand.build(family, torch.bfloat16), tiny.batch()
    rec = recorded(model, inputs, list(EXPERT_KINDS))
    logits, ids, weights, written = (rec[name(family, kind)] for kind in EXPERT_KINDS)
    wanted = hand.routed(model, family, LAYER, inputs)
    assert logits.dtype == (torch.float32 if family == "jetmoe" else torch.bfloat16)
    assert weights.dtype == written.dtype == torch.bfloat16
    torch.testing.assert_close(logits, wanted.logits, rtol=0.02, atol=0.02)
    # By the recorded logits, in which several may be equal: any order of those is right.
    picked = logits.gather(1, ids)
    assert torch.equal(picked, logits.topk(hand.K).values)
    assert all(len(row.unique()) == hand.K for row in ids)
    by_logits = {
        "llama4_text": lambda: picked.float().sigmoid(),
        "jetmoe": lambda: picked.softmax(-1),
        "doge": lambda: picked.softmax(-1),
    }[family]()
    assert torch.equal(weights, by_logits.to(torch.bfloat16))
    weighed = written if family == "llama4_text" else written * weights[..., None]
    torch.testing.assert_close(weighed.sum(1), wanted.total, rtol=0.05, atol=0.05)


def test_scores_that_round_to_zero_or_one_keep_their_order_and_their_place() -> None:
    model, inputs = hand.build("llama4_text"), tiny.batch()
    router = model.model.layers[LAYER].feed_forward.router
    router.weight.data += 100 * router.weight.data[:1]  # all of a token's are far above 0, or below
    rec = recorded(model, inputs, list(EXPERT_KINDS))
    logits, ids, weights, written = (rec[name("llama4_text", kind)] for kind in EXPERT_KINDS)
    wanted = hand.routed(model, "llama4_text", LAYER, inputs)
    assert ((weights == 0).sum(-1) > 1).any() and ((weights == 1).sum(-1) > 1).any()
    assert torch.equal(ids, wanted.ids)
    assert torch.equal(ids, logits.argsort(-1, descending=True)[:, : hand.K])
    torch.testing.assert_close(weights, wanted.weights)
    torch.testing.assert_close(written, wanted.written, rtol=1e-3, atol=1e-4)


def test_what_a_token_is_looked_up_by_are_its_experts() -> None:
    """Doge's embeddings are handed the numbers: they are another witness."""
    model, inputs = hand.build("doge", norm_topk_prob=True), tiny.batch()
    path = f"model.layers.{LAYER}.mlp.down_embed"
    with hand.seeing(model, path) as seen:
        rec = recorded(model, inputs, list(CHOICES))
    (((ids,), _),) = seen[path]  # and no second time, for probekit
    assert torch.equal(rec[name("doge", "expert_ids")], ids)
    torch.testing.assert_close(rec[name("doge", "expert_weights")].sum(-1), torch.ones(len(ids)))


def test_heads_that_are_experts_have_their_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = hand.build("jetmoe"), tiny.batch()
    moa = model.get_submodule(MOA)
    mixed: list[torch.Tensor] = []  # what the chosen heads made, [batch, pos, k, d]
    reduce = moa.reduce
    monkeypatch.setattr(moa, "reduce", lambda z, how: (mixed.append(z), reduce(z, how))[1])
    attention = MOA.rpartition(".")[0]
    with hand.seeing(model, f"{MOA}.router", attention) as seen:
        rec = recorded(model, inputs, [f"{MOA}/{kind}" for kind in EXPERT_KINDS])
    logits, ids, weights, written = (rec[f"{MOA}/{kind}"] for kind in EXPERT_KINDS)
    ((read, _),) = seen[f"{MOA}.router"]
    by_weights = read[0] @ moa.router.layer.weight.T
    wanted = hand.best_first(by_weights)
    torch.testing.assert_close(logits, by_weights)
    assert torch.equal(ids, wanted)
    torch.testing.assert_close(weights, by_weights.gather(1, wanted).softmax(-1))
    z = mixed[0].flatten(0, 1)
    by_head = torch.einsum("tkoi,tki->tko", moa.output_linear.weight[ids], z)
    torch.testing.assert_close(written, by_head, rtol=1e-4, atol=1e-5)
    ((_, output),) = seen[attention]
    total = (written * weights[..., None]).sum(1) + moa.bias
    torch.testing.assert_close(total, output[0].flatten(0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama4_text", "jetmoe"])
def test_with_a_mask_they_are_the_tokens_as_alone(family: str) -> None:
    model, inputs = hand.build(family), tiny.batch()
    sites = [name(family, kind) for kind in EXPERT_KINDS]
    sites += [f"{MOA}/{kind}" for kind in EXPERT_KINDS if family == "jetmoe"]
    rec = recorded(model, inputs, sites, inputs["attention_mask"])
    for number, ids in enumerate(inputs["input_ids"]):
        n_tokens = int(inputs["attention_mask"][number].sum())
        alone = recorded(model, {"input_ids": ids[None, :n_tokens]}, sites)
        for site in sites:
            torch.testing.assert_close(
                rec.example(site, number), alone[site], rtol=1e-4, atol=1e-5, msg=site
            )


def test_where_tokens_mix_a_mask_is_of_one_text_without_padding() -> None:
    model, inputs = hand.build("doge"), tiny.batch()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    sites = [name("doge", kind) for kind in EXPERT_KINDS]
    short = int(mask.sum(1).argmin())
    padded = {"input_ids": ids[short][None], "attention_mask": mask[short][None]}
    assert not padded["attention_mask"].all()
    together = {"input_ids": ids[:, :2], "attention_mask": mask[:, :2]}
    assert together["attention_mask"].all()
    said = r"model.layers.0.mlp: .* across the tokens of a batch.*record one text at a time"
    for given in (padded, together):
        with pytest.raises(CaptureError, match=said):
            recorded(model, given, ["resid_post"], given["attention_mask"])
    lone = {"input_ids": ids[short][None, : int(mask[short].sum())]}
    rec = recorded(model, lone, sites, torch.ones_like(lone["input_ids"]))
    wanted = hand.routed(model, "doge", LAYER, lone)
    assert torch.equal(rec.example(sites[1], 0), wanted.ids)
    torch.testing.assert_close(rec.example(sites[0], 0), wanted.logits)


def test_listening_leaves_nothing_behind_and_changes_nothing() -> None:
    model, inputs = hand.build("jetmoe"), tiny.batch()
    n_hooks = by_hand.n_hooks(model)
    with torch.no_grad():
        plain = model(**inputs).logits
        with probekit.record(model, ["expert_out", "expert_ids"]):
            assert torch.equal(model(**inputs).logits, plain)
    assert by_hand.n_hooks(model) == n_hooks


def test_experts_that_nobody_chose_are_refused() -> None:
    model = hand.build("llama4_text")
    experts = model.model.layers[LAYER].feed_forward.experts
    said = "feed_forward.experts: ran without model.layers.2.feed_forward.router, which chooses"
    with pytest.raises(CaptureError, match=said), probekit.record(model, ["expert_out"]):
        experts(torch.zeros(8, 32))


# --- in a run


def check_run(trace: Any, model: Any, family: str) -> None:
    """Compare each text of a trace with itself alone."""
    for example in trace.examples:
        alone = {"input_ids": torch.tensor([example.token_ids.tolist()])}
        wanted = hand.routed(model, family, LAYER, alone)
        rows = {k: trace[name(family, k)].example(example.number) for k in EXPERT_KINDS}
        np.testing.assert_allclose(rows["router_logits"], wanted.logits, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(rows["expert_ids"], wanted.ids)
        np.testing.assert_allclose(rows["expert_weights"], wanted.weights, rtol=1e-3)
        np.testing.assert_allclose(rows["expert_out"], wanted.written, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_has_of_each_text_what_it_has_alone(tmp_path: Path, family: str) -> None:
    folder = by_hand.save_model(tmp_path / "model", hand.build(family))
    probes = [{"sites": list(EXPERT_KINDS), "layers": [LAYER]}]
    trace = probekit.run(by_hand.config(folder, tmp_path / "trace", probes=probes))
    check_run(trace, AutoModelForCausalLM.from_pretrained(folder).eval(), family)
    ids, out = trace[name(family, "expert_ids")], trace[name(family, "expert_out")]
    assert (ids.dtype, ids.axes, ids.portable) == ("int32", ("token", "k"), "expert_ids")
    assert ids.attributes["n_experts"] == hand.N_EXPERTS[family]
    assert out.axes == ("token", "k", "d_model")
    assert out.attributes.get("weighed") == ("input" if family == "llama4_text" else None)
    (load,) = trace.statistics().experts
    assert load.counts.sum() == by_hand.N_TOKENS * hand.K


@pytest.mark.rehearsed
@pytest.mark.few(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_self_check_passes_and_tells_whose_tokens_mix(tmp_path: Path, family: str) -> None:
    folder = by_hand.save_model(tmp_path / "model", hand.build(family))
    probes = [{"sites": ["expert_weights", "router_logits", "resid_post"]}]
    config = by_hand.config(folder, tmp_path / "trace", probes=probes)
    mixes = [note for note in probekit.plan(config).notes if "every text runs alone" in note]
    assert len(mixes) == (family == "doge")
    trace = probekit.run(config)
    assert trace.provenance["self_check"] == "passed"
    batches = trace.provenance.get("self_check_batches")
    assert batches == ("alone" if family == "doge" else None)


@pytest.mark.few(2)
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_generated_tokens_have_their_choices(tmp_path: Path, family: str, cached: bool) -> None:
    folder = by_hand.save_model(tmp_path / "model", hand.build(family))
    probes = [{"sites": list(EXPERT_KINDS), "layers": [LAYER]}]
    generate = {"max_new_tokens": 5, "stop_at_eos": False, "use_cache": cached}
    config = by_hand.config(folder, tmp_path / "trace", probes=probes, generate=generate)
    trace = probekit.run(config)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    path = name(family, "").rstrip("/")
    for example in trace.examples:
        tokens = torch.tensor([example.token_ids.tolist()])
        n_prompt = example.n_tokens - example.n_generated
        past, ends = None, [0, *range(n_prompt, tokens.shape[1] + 1)]
        with hand.seeing(model, path) as seen, torch.no_grad():
            for begin, end in pairwise(ends):
                read = tokens[:, begin if cached else 0 : end]
                past = model(read, past_key_values=past, use_cache=cached).past_key_values
            block = model.get_submodule(path)
            steps = [hand.BY_HAND[family](block, args[0], out) for args, out in seen[path]]
        rows = {k: trace[name(family, k)].example(example.number) for k in EXPERT_KINDS}
        ids, weights, out = (
            torch.cat(
                [
                    getattr(step, what)[begin - end :]
                    for step, (begin, end) in zip(steps, pairwise(ends), strict=True)
                ]
            )
            for what in ("ids", "weights", "written")
        )
        np.testing.assert_array_equal(rows["expert_ids"], ids)
        np.testing.assert_allclose(rows["expert_weights"], weights, rtol=1e-3)
        np.testing.assert_allclose(rows["expert_out"], out, rtol=1e-3, atol=1e-4)


# --- in a plan


@pytest.mark.few(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_ends_behind_the_last_of_them(tmp_path: Path, family: str) -> None:
    folder = by_hand.save_model(tmp_path / "model", hand.build(family))
    probes = [{"sites": ["expert_out", "expert_ids"], "layers": [1]}, {"sites": "resid_pre"}]
    probes[1]["layers"] = [0]
    config = by_hand.config(folder, tmp_path / "trace", probes=probes)
    stop = probekit.plan(config).stop
    writer = {"llama4_text": ".experts", "jetmoe": ".output_linear", "doge": ""}[family]
    assert stop is not None
    assert stop.module == f"model.layers.1.{hand.BLOCKS[family]}{writer}"
    assert len(probekit.run(config).site_names) == 3


def test_what_is_worked_out_cannot_be_changed() -> None:
    (row,) = list_families("llama4_text")
    names = {kind: row["names"][kind]["can_be_changed"] for kind in EXPERT_KINDS}
    assert names == dict.fromkeys(EXPERT_KINDS, False)


def test_a_dense_doge_has_no_experts() -> None:
    config = hand.build("doge").config
    config.is_moe = False
    assert not build_skeleton(config, torch.float32).mixtures
    assert len(families.places(config, "resid_post")) == every_family.N_LAYERS
