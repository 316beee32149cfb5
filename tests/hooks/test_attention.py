"""The attention tap against eager attention, and against the model's own projections."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from eager import eager_patterns
from tiny_models import OFTEN, build, by_family
from transformers.modeling_utils import AttentionInterface

import probekit
from probekit.capture import run
from probekit.models.forward.attention import AttentionTap

FAMILIES = ("gpt2", "phi3", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text",
            "gpt_neox", "opt", "phi", "starcoder2")  # fmt: skip
ATTENTION = {
    "gpt2": "transformer.h.*.attn",
    "gpt_neox": "gpt_neox.layers.*.attention",
    "opt": "model.decoder.layers.*.self_attn",
}
LENGTHS = {"examples": 7, "min_tokens": 1, "max_tokens": 21, "seed": 3}


def saved(tmp_path: Path, model_type: str, **overrides):
    model = build(model_type, **overrides)
    model.save_pretrained(tmp_path / "model")
    return model


def config(tmp_path: Path, model_type: str, record, **more):
    probe = {"modules": ATTENTION.get(model_type, "model.layers.*.self_attn"), "record": record}
    return {
        "model": {"name": str(tmp_path / "model"), **more.pop("model", {})},
        "inputs": {"random": LENGTHS, "batch_tokens": 48},
        "probes": [{**probe, **more.pop("probe", {})}],
        "store": {"path": str(tmp_path / "run")},
        **more,
    }


@pytest.mark.parametrize("model_type", by_family(FAMILIES, (*OFTEN, "mistral")))
def test_patterns_are_those_of_eager_attention(tmp_path, model_type):
    model = saved(tmp_path, model_type)
    alone = {"random": LENGTHS, "batch_tokens": 1}  # so that batching does not add to the rounding
    trace = run(config(tmp_path, model_type, ["pattern"], inputs=alone))
    for number in range(len(trace.examples)):
        example = trace.examples[number]
        for layer, expected in enumerate(eager_patterns(model, example.token_ids)):
            pattern = trace.select("pattern", layer=layer).example(number)
            np.testing.assert_allclose(pattern, expected, atol=1e-6)
            np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-5)
            assert not np.triu(pattern, 1).any()


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma2"])
def test_patterns_in_bfloat16_are_near_those_in_float32(tmp_path, model_type):
    model = saved(tmp_path, model_type)
    trace = run(config(tmp_path, model_type, ["pattern"], model={"dtype": "bfloat16"}))
    assert trace.select("pattern", layer=0).dtype == "bfloat16"
    model.bfloat16()
    ids = trace.examples[0].token_ids
    for layer, expected in enumerate(eager_patterns(model, ids)):
        np.testing.assert_allclose(
            trace.select("pattern", layer=layer).example(0), expected, atol=2e-2
        )


@pytest.mark.parametrize("model_type", by_family(FAMILIES, (*OFTEN, "mistral")))
def test_patterns_of_a_padded_batch_are_those_of_each_text_alone(tmp_path, model_type):
    saved(tmp_path, model_type)
    batched = run(config(tmp_path, model_type, ["pattern"]))
    store, alone = {"path": str(tmp_path / "alone")}, {"random": LENGTHS, "batch_tokens": 1}
    single = run(config(tmp_path, model_type, ["pattern"], inputs=alone, store=store))
    for site in batched:
        np.testing.assert_allclose(batched[site][:], single[site][:], atol=1e-5)


@pytest.mark.parametrize("model_type", by_family(FAMILIES, (*OFTEN, "mistral")))
def test_scores_are_the_scaled_products_of_queries_and_keys(tmp_path, model_type):
    saved(tmp_path, model_type)
    trace = run(config(tmp_path, model_type, ["q", "k", "scores", "pattern"]))
    cap = getattr(build(model_type).config, "attn_logit_softcapping", None)
    for number in (0, 3):
        q = trace.select("q", layer=1).example(number)  # [token, head, d_head]
        k = np.repeat(
            trace.select("k", layer=1).example(number),
            q.shape[1] // trace.select("k", layer=1).shape[1],
            axis=1,
        )
        scores = trace.select("scores", layer=1).example(number)
        seen = np.isfinite(scores)
        scaling = trace.select("scores", layer=1).attributes["scaling"]
        products = np.einsum("qhd,khd->hqk", q, k) * scaling
        if cap is not None:
            products = np.tanh(products / cap) * cap
        np.testing.assert_allclose(scores[seen], products[seen], rtol=1e-4, atol=1e-5)
        weights = np.exp(np.where(seen, products, -np.inf) - products.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(
            trace.select("pattern", layer=1).example(number), weights, atol=1e-5
        )


def test_scores_are_not_capped_where_the_kernel_leaves_the_cap_away(monkeypatch):
    """As the sdpa of older transformers does."""
    sdpa = AttentionInterface._global_mapping["sdpa"]

    def older(*given, softcap=None, **options):
        assert softcap is not None
        return sdpa(*given, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", older)
    model = build("gemma2", attn_logit_softcapping=0.1)
    model.config._attn_implementation = "sdpa"
    sites = [f"model.layers.0.self_attn/{kind}" for kind in ("pattern", "v", "z")]
    with torch.no_grad(), probekit.record(model, sites) as rec:
        model(torch.arange(9)[None])
    pattern, v, z = (rec[site] for site in sites)
    v = v.repeat_interleave(z.shape[2] // v.shape[2], dim=2)
    through = torch.einsum("bhqk,bkhd->bqhd", pattern, v)
    np.testing.assert_allclose(through, z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "scaling"),
    [("llama", 8**-0.5), ("gpt2", 8**-0.5), ("opt", 1.0), ("gemma2", None)],
)
def test_the_scaling_of_scores_is_said(tmp_path, model_type, scaling):
    """OPT scales its queries itself; Gemma 2 scales by a number of its config."""
    model = saved(tmp_path, model_type)
    trace = run(config(tmp_path, model_type, ["scores"]))
    expected = scaling or model.config.query_pre_attn_scalar**-0.5
    assert trace.select("scores", layer=0).attributes["scaling"] == pytest.approx(expected)


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("model_type", "projection"),
    [("gpt2", "c_proj"), ("llama", "o_proj"), ("phi3", "o_proj"), ("gpt_neox", "dense"),
     ("mistral", "o_proj"), ("qwen2", "o_proj"), ("gemma2", "o_proj")],
)  # fmt: skip
def test_z_through_the_output_projection_is_what_the_module_gives(tmp_path, model_type, projection):
    model = saved(tmp_path, model_type)
    trace = run(config(tmp_path, model_type, ["z", "output"]))
    z_site = trace.select("z", layer=1)
    module = model.get_submodule(z_site.module)
    z = torch.from_numpy(np.array(z_site[:])).flatten(1)
    with torch.no_grad():
        through = module.get_submodule(projection)(z).numpy()
    np.testing.assert_allclose(through, trace[z_site.module][:], rtol=1e-4, atol=1e-5)


def test_k_and_v_have_as_many_heads_as_the_model_has(tmp_path):
    saved(tmp_path, "llama")
    trace = run(config(tmp_path, "llama", ["k", "v", "q"]))
    assert trace.select("k", layer=0).axes == ("token", "kv_head", "d_head")
    assert trace.select("k", layer=0).shape[1:] == (2, 8)
    assert trace.select("q", layer=0).shape[1:] == (4, 8)


def test_chosen_heads_are_those_heads(tmp_path):
    saved(tmp_path, "llama")
    every = run(config(tmp_path, "llama", ["pattern", "z"]))
    store = {"path": str(tmp_path / "some")}
    some = run(config(tmp_path, "llama", ["pattern", "z"], probe={"heads": [3, -4]}, store=store))
    for kind in ("pattern", "z"):
        np.testing.assert_array_equal(
            some.select(kind, layer=2)[:], every.select(kind, layer=2)[:][:, [3, 0]]
        )
    assert some.select("pattern", layer=2).attributes["heads"] == [3, 0]


@pytest.mark.parametrize("positions", ["last", [0, -1], "1::2"])
def test_chosen_positions_are_those_rows(tmp_path, positions):
    saved(tmp_path, "llama")
    every = run(config(tmp_path, "llama", ["pattern"]))
    store = {"path": str(tmp_path / "some")}
    chosen = config(tmp_path, "llama", ["pattern"], probe={"positions": positions}, store=store)
    chosen = run(chosen).select("pattern", layer=1)
    np.testing.assert_allclose(
        chosen[:], every.select("pattern", layer=1)[:][chosen.token_rows()], atol=1e-6
    )


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma2"])
def test_logits_are_the_same_bit_for_bit_and_the_model_is_left_as_it_was(model_type):
    model = build(model_type)
    ids = torch.arange(24).reshape(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    paths = [p for p, m in model.named_modules() if type(m).__name__.endswith("Attention")]
    kernel, registry = model.config._attn_implementation, dict(AttentionInterface._global_mapping)
    with torch.no_grad():
        bare = model(ids, attention_mask=mask).logits
        seen = []
        with AttentionTap(model, {path: lambda call: seen.append(call.kernel) for path in paths}):
            tapped = model(ids, attention_mask=mask).logits
    assert seen == [kernel] * len(paths)
    assert torch.equal(bare, tapped)
    assert model.config._attn_implementation == kernel
    assert dict(AttentionInterface._global_mapping) == registry


def test_the_tap_is_gone_after_an_error():
    model = build("llama")
    registry = dict(AttentionInterface._global_mapping)

    def fail(call):
        raise RuntimeError("mine")

    with (
        pytest.raises(RuntimeError, match="mine"),
        AttentionTap(model, {"model.layers.0.self_attn": fail}),
    ):
        model(torch.arange(5)[None])
    assert dict(AttentionInterface._global_mapping) == registry


def test_two_models_tapped_at_once_do_not_mix():
    one, two = build("llama"), build("qwen2")
    heard = {"one": 0, "two": 0}

    def count(name):
        def listen(call):
            heard[name] += 1

        return listen

    with (
        AttentionTap(one, {"model.layers.0.self_attn": count("one")}),
        AttentionTap(two, {"model.layers.1.self_attn": count("two")}),
    ):
        one(torch.arange(5)[None])
        two(torch.arange(5)[None])
        one(torch.arange(5)[None])
    assert heard == {"one": 2, "two": 1}


def test_a_model_outside_the_interface_shows_its_pattern_or_is_refused(tmp_path):
    model = saved(tmp_path, "gptj")
    trace = run(config(tmp_path, "gptj", ["pattern"], probe={"modules": "transformer.h.*.attn"}))
    expected = eager_patterns(model, trace.examples[0].token_ids)
    for layer in range(3):
        np.testing.assert_allclose(
            trace[f"transformer.h.{layer}.attn/pattern"].example(0), expected[layer], atol=1e-6
        )
    with pytest.raises(probekit.PlanError, match="does not use transformers' attention interface"):
        probekit.plan(config(tmp_path, "gptj", ["q"], probe={"modules": "transformer.h.*.attn"}))


def test_a_module_that_is_no_attention_module_is_refused_with_one_that_is(tmp_path):
    saved(tmp_path, "llama")
    with pytest.raises(probekit.PlanError, match=r"no attention module.*self_attn"):
        probekit.plan(config(tmp_path, "llama", ["pattern"], probe={"modules": "**.mlp"}))
    with pytest.raises(probekit.PlanError, match=r"head 4 is out of range \(4 there: 0..3"):
        probekit.plan(config(tmp_path, "llama", ["pattern"], probe={"heads": 4}))
    with pytest.raises(probekit.PlanError, match="has no head axis"):
        probekit.plan(config(tmp_path, "llama", ["output"], probe={"heads": 0}))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of this process from /proc")
@pytest.mark.slow
def test_two_heads_of_a_long_text_need_far_less_memory_than_eager():
    """At 2 048 tokens, in a fresh process each, so that peaks do not mix."""
    import subprocess

    script = Path(__file__).with_name("peak_of_attention.py")
    peaks = {
        how: int(
            subprocess.run(
                [sys.executable, script, how], check=True, capture_output=True, text=True
            ).stdout
        )
        for how in ("bare", "tap", "eager")
    }
    assert peaks["tap"] - peaks["bare"] < (peaks["eager"] - peaks["bare"]) / 3


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "mistral"])
def test_left_padding_gives_the_true_pattern_of_the_real_tokens(model_type):
    """In a notebook a user pads as they like; a padding query that may look nowhere has zeros."""
    model = build(model_type)
    ids = torch.arange(1, 11)[None]
    padded = torch.cat([torch.zeros((1, 4), dtype=torch.long), ids], dim=1)
    mask = torch.cat([torch.zeros((1, 4), dtype=torch.long), torch.ones_like(ids)], dim=1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    path = next(p for p, m in model.named_modules() if type(m).__name__.endswith("Attention"))
    with torch.no_grad():
        with probekit.record(model, [f"{path}/pattern"]) as rec:
            model(padded, attention_mask=mask, position_ids=positions)
        expected = eager_patterns(model, ids[0])[0]
    pattern = rec[f"{path}/pattern"][0]
    np.testing.assert_allclose(pattern[:, 4:, 4:], expected, atol=1e-6)
    assert not pattern[:, 4:, :4].any()
    assert torch.isfinite(pattern).all()


def test_falling_back_to_eager_is_said(tmp_path):
    """A model whose own attention code shows weights under eager attention alone."""
    from transformers import FalconConfig, FalconForCausalLM

    torch.manual_seed(0)
    shape = FalconConfig(
        vocab_size=101, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=False,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    FalconForCausalLM(shape).save_pretrained(tmp_path / "model")
    asked = config(
        tmp_path, "falcon", ["pattern"], probe={"modules": "transformer.h.*.self_attention"}
    )
    plan = probekit.plan(asked)
    outside = not plan.skeleton.attention
    assert outside == (plan.attention == "eager")
    assert outside == any("runs with eager attention" in note for note in plan.notes)
    trace = run(asked)
    name = "transformer.h.1.self_attention/pattern"
    np.testing.assert_allclose(trace[name].example(0).sum(-1), 1, atol=1e-5)
    assert outside == (trace.provenance["attention"] == "eager")


def test_attention_sinks_take_their_share_of_the_pattern(tmp_path):
    """GPT-OSS gives a part of each row to a sink that is no key, so rows sum to less than 1."""
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    shape = GptOssConfig(
        vocab_size=101, hidden_size=32, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=2,
        num_experts_per_tok=1, max_position_embeddings=64, sliding_window=8,
        pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    model = GptOssForCausalLM(shape).eval()
    model.save_pretrained(tmp_path / "model")
    trace = run(config(tmp_path, "gpt_oss", ["pattern"]))
    ids = torch.from_numpy(np.array(trace.examples[0].token_ids, dtype=np.int64))[None]
    with torch.no_grad():
        shown = model(ids, attention_mask=torch.ones_like(ids), output_attentions=True).attentions
    for layer, weights in enumerate(shown):
        pattern = trace[f"model.layers.{layer}.self_attn/pattern"].example(0)
        np.testing.assert_allclose(pattern, weights[0], atol=1e-6)
        assert (pattern.sum(-1) < 0.999).all()
