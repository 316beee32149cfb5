"""Derived places: as the table has them, as transformers says, and as hand-written hooks see."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import by_hand
import every_family
import numpy as np
import pytest
import tiny_models as tiny
import torch
from tiny_models import batch, watch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

import probekit
from probekit.errors import PlanError
from probekit.models import families, places
from probekit.models.forward import passed, scale
from probekit.models.places.derive import derive
from probekit.models.places.derived import derived, proved
from probekit.models.places.identities import checked
from probekit.models.places.tinyrun import followed

TAPPED = {*families.ATTENTION_NAMES, "head_out"}


def places_of(family: str, **overrides: Any) -> Any:
    model = tiny.build(family, **overrides)
    return model, derived(type(model), model.config)


def real_derived(family: str) -> Any:
    config = every_family.tiny_config(family)
    return config, families.derived_of(config)


# --- the table is the oracle, where there is one


@pytest.mark.parametrize(
    "family", tiny.by_family(families.FAMILIES, (*tiny.OFTEN, "gptj", "gpt_neo"))
)
def test_derived_places_are_those_of_the_table(family: str) -> None:
    model, found = places_of(family)
    inputs = batch()
    for name in families.PORTABLE_NAMES:
        try:
            known = families.places(model.config, name)
        except PlanError:
            assert name not in found.places, f"{name} is refused by the table"
            continue
        assert list(found.places[name]) == list(known), name
        pairs = [(found.places[name][layer], place) for layer, place in known.items()]
        assert all(ours.factor == theirs.factor == 1.0 for ours, theirs in pairs)
        if name in TAPPED or name.endswith("scale"):
            assert [str(ours) for ours, _ in pairs] == [str(theirs) for _, theirs in pairs]
            continue
        sites = {(place.module, place.kind) for pair in pairs for place in pair}
        seen = watch(model, inputs, sites)  # a tensor can be read where it is given, or taken
        for ours, theirs in pairs:
            a, b = seen[ours.module, ours.kind], seen[theirs.module, theirs.kind]
            assert torch.equal(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])), name


@pytest.mark.parametrize(
    ("family", "fields", "name"),
    [
        ("gpt_neox", {"use_parallel_residual": True}, "resid_mid"),
        ("stablelm", {"use_parallel_residual": True}, "resid_mid"),
        ("stablelm", {"use_parallel_residual": True}, "ln2_scale"),
        ("opt", {"do_layer_norm_before": False}, "resid_post"),
        ("opt", {"do_layer_norm_before": False}, "ln_final"),
        ("opt", {"do_layer_norm_before": False}, "attn_in"),
    ],
)
def test_a_setting_of_the_config_changes_what_is_derived_as_it_does_the_table(
    family: str, fields: dict[str, Any], name: str
) -> None:
    model, found = places_of(family, **fields)
    with pytest.raises(PlanError):
        families.places(model.config, name)
    assert name in found.refused


@pytest.mark.parametrize("family", ["mixtral", "cohere", "granite", "gpt_oss", "qwen3_next"])
def test_layers_and_attention_are_those_that_transformers_records(family: str) -> None:
    config, found = real_derived(family)
    model = AutoModelForCausalLM.from_config(config)
    said = model._can_record_outputs
    for name, what in (("resid_post", "hidden_states"), ("pattern", "attentions")):
        kind = getattr(said[what], "target_class", said[what])
        there = {path for path, module in model.named_modules() if isinstance(module, kind)}
        assert {place.module for place in found.places[name].values()} == there


# --- what is refused, and the number


@pytest.mark.parametrize(
    ("family", "name", "reason"),
    [
        ("cohere", "resid_mid", "run in parallel"),
        ("falcon", "resid_mid", "run in parallel"),
        ("falcon", "pattern", "the model's own code"),
        ("bert", "resid_mid", "norms the stream itself"),
        ("bert", "resid_post", r"mlp_out = resid_post fails by 0\.\d+ of the largest"),
        ("rwkv", "embed", r"embed = first resid_pre, .* fails by [01]\.?\d* of the largest"),
        ("mixtral", "mlp_post", "no one linear map gives what its mlp gives"),
        ("gemma3n_text", "resid_pre", r"reads \[4, 2, 7, 32\] .* more than one stream"),
        ("mamba", "attn_out", "no attention"),
        ("hrm_text", "resid_post", "no list of layers that run once each"),
    ],
)
def test_a_name_whose_identity_fails_is_refused_with_the_reason(
    family: str, name: str, reason: str
) -> None:
    config, found = real_derived(family)
    assert name not in found.places
    with pytest.raises(PlanError, match=rf"{name!r} does not exist on this {family}: .*{reason}"):
        families.places(config, name)


@pytest.mark.parametrize(
    ("name", "wrong", "refused"),
    [
        ("resid_mid", "model.layers.{}.mlp/input", "resid_mid"),
        ("mlp_out", "model.layers.{}.self_attn/output", "resid_post"),
        ("mlp_post", "model.layers.{}.mlp.act_fn/output", "mlp_post"),
        ("mlp_pre", "model.layers.{}.mlp.up_proj/output", "mlp_pre"),
        ("attn_in", "model.layers.{}.input_layernorm/input", "attn_in"),
        ("ln1_scale", "model.layers.{}.input_layernorm/std", "ln1_scale"),
    ],
)
def test_an_identity_finds_a_place_that_is_wrong(name: str, wrong: str, refused: str) -> None:
    run = followed(tiny.build("llama"))
    found = derive(run)
    assert all(row.holds for row in checked(run, found))
    for layer in range(tiny.N_LAYERS):
        module, _, kind = wrong.format(layer).rpartition("/")
        found.places[name, layer] = places.Place(module=module, kind=kind)
    failing = [row for row in checked(run, found) if not row.holds]
    assert refused in {name for row in failing for name in row.names}
    assert all(row.difference > 0.01 for row in failing)


def test_a_name_that_some_layers_have_says_why_others_have_not() -> None:
    model = tiny.build("llama")
    hook = model.model.layers[1].mlp.register_forward_hook(lambda m, args, out: out * 1.01)
    found = proved(followed(model))
    hook.remove()
    assert list(found.places["mlp_post"]) == [0, 2]
    assert found.left_out["mlp_post"] == {1: "no one linear map gives what its mlp gives"}
    assert list(found.places["mlp_out"]) == [0, 1, 2]


# --- values that no module holds


@pytest.fixture(scope="module")
def granite(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    model = every_family.build("granite")
    tiny.randomize(model)
    folder = by_hand.save_model(tmp_path_factory.mktemp("granite") / "model", model)
    names = ["embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post", "logits"]
    probes = [{"sites": [*names, "head_out"]}, {"sites": "logits", "record": "top_k"}]
    config = by_hand.config(folder, tmp_path_factory.mktemp("run") / "t", probes=probes)
    return model, probekit.run(config)


def test_a_value_that_no_module_holds_is_stored_as_the_multiple_it_is(granite: Any) -> None:
    model, trace = granite
    config = model.config
    factors = (config.embedding_multiplier, config.residual_multiplier, 1 / config.logits_scaling)
    assert factors == (12.0, 0.22, 0.125)
    for example in trace.examples:
        inputs = {"input_ids": torch.from_numpy(np.array(example.token_ids))[None].long()}
        sites = [("model.embed_tokens", "output"), ("model.layers.1.self_attn", "output")]
        seen = watch(model, inputs, [*sites, ("lm_head", "output")])
        for name, layer, (site, factor) in (
            ("embed", None, (sites[0], 12.0)),
            ("attn_out", 1, (sites[1], 0.22)),
            ("logits", None, (("lm_head", "output"), 0.125)),
        ):
            found = trace.select(name, layer=layer)
            expected = seen[site][0].numpy() * np.float32(factor)
            np.testing.assert_allclose(
                found.example(example.number), expected, rtol=1e-4, atol=1e-6
            )
            assert found.attributes["factor"] == factor
            assert found.name.endswith("/scaled")


def test_the_stream_adds_up_with_the_factors(granite: Any) -> None:
    _, trace = granite
    for layer in range(every_family.N_LAYERS):
        pre, mid, post = (
            trace.select(name, layer=layer)[:] for name in ("resid_pre", "resid_mid", "resid_post")
        )
        added = trace.select("attn_out", layer=layer)[:]
        np.testing.assert_allclose(pre + added, mid, atol=1e-5)
        np.testing.assert_allclose(mid + trace.select("mlp_out", layer=layer)[:], post, atol=1e-5)
        heads = trace.select("head_out", layer=layer)[:].sum(axis=1)  # granite has no bias
        np.testing.assert_allclose(heads, added, atol=1e-5)


def test_the_lens_knows_what_logits_are_multiplied_with(granite: Any) -> None:
    model, trace = granite
    assert probekit.lens(trace, model=model).agreement[0].largest_difference < 1e-4


def test_a_recording_has_the_same_values(granite: Any) -> None:
    model, trace = granite
    names = ["attn_out", "embed", "head_out"]
    ids = torch.from_numpy(np.array(trace.examples[0].token_ids))[None].long()
    with probekit.record(model, names) as rec, torch.no_grad():
        model(input_ids=ids)
    for name, layer in (("attn_out", 2), ("embed", None), ("head_out", 2)):
        expected = trace.select(name, layer=layer).example(0)
        np.testing.assert_allclose(rec.select(name, layer=layer)[0].numpy(), expected, atol=1e-5)


def test_factors_are_those_of_the_model_and_not_of_the_tiny_one() -> None:
    config = AutoConfig.for_model(
        "minicpm3", num_hidden_layers=2, hidden_size=2560, dim_model_base=256, vocab_size=300
    )
    assert places_factor(config, "logits") == pytest.approx(1.0)
    found = families.unembedding(config)
    assert found.before * found.after == pytest.approx(0.1)  # hidden_size / dim_model_base


def places_factor(config: Any, name: str) -> float:
    return next(iter(families.places(config, name).values())).factor


# --- the rest of a layer


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen3"])
def layers(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    model = tiny.build(request.param)
    folder = by_hand.save_model(tmp_path_factory.mktemp("m") / "model", model)
    names = ["attn_in", "mlp_in", "mlp_pre", "head_out", "attn_out", "z", "resid_pre", "resid_mid"]
    names += ["ln1_scale", "ln2_scale", "ln_final_scale", "resid_post", "mlp_post"]
    config = by_hand.config(folder, tmp_path_factory.mktemp("run") / "t", probes=[{"sites": names}])
    plan = probekit.plan(config)
    assert all(site.spec.row_bytes for site in plan.sites)
    return model, probekit.run(config)


def parts(model: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Give layer 1's norms, its projection, what enters its activation, and the final norm."""
    if model.config.model_type == "gpt2":
        block = model.transformer.h[1]
        return block.ln_1, block.ln_2, block.attn.c_proj, block.mlp.c_fc, model.transformer.ln_f
    block = model.model.layers[1]
    gate = block.mlp.gate_proj
    return (
        block.input_layernorm,
        block.post_attention_layernorm,
        block.self_attn.o_proj,
        gate,
        model.model.norm,
    )


def scale_by_hand(read: np.ndarray, norm: Any) -> np.ndarray:
    centred = isinstance(norm, torch.nn.LayerNorm)
    values = read - read.mean(-1, keepdims=True) if centred else read
    eps = norm.eps if centred else norm.variance_epsilon
    return np.sqrt((values**2).mean(-1, keepdims=True) + eps)


def test_norms_and_the_gate_are_what_is_worked_out_by_hand(layers: Any) -> None:
    model, trace = layers
    first, second, _, gate, last = parts(model)
    read = {
        name: torch.from_numpy(np.array(trace.select(name, layer=1)[:]))
        for name in ("resid_pre", "resid_mid", "mlp_in")
    }
    with torch.no_grad():
        expected = {
            "attn_in": first(read["resid_pre"]),
            "mlp_in": second(read["resid_mid"]),
            "mlp_pre": gate(read["mlp_in"]),
        }
    for name, value in expected.items():
        found = trace.select(name, layer=1)
        np.testing.assert_allclose(found[:], value.numpy(), atol=1e-5, err_msg=name)
    final = trace.select("resid_post", layer=-1)[:]
    for name, layer, norm, values in (
        ("ln1_scale", 1, first, read["resid_pre"].numpy()),
        ("ln2_scale", 1, second, read["resid_mid"].numpy()),
        ("ln_final_scale", None, last, final),
    ):
        found = trace.select(name, layer=layer)
        assert found.shape == (len(trace.tokens), 1)
        np.testing.assert_allclose(found[:], scale_by_hand(values, norm), rtol=1e-5, err_msg=name)


def test_heads_write_what_attention_adds_without_its_bias(layers: Any) -> None:
    model, trace = layers
    _, _, projection, _, _ = parts(model)
    is_conv = type(projection).__name__ == "Conv1D"
    weight = projection.weight.detach().numpy() if is_conv else projection.weight.detach().numpy().T
    z = trace.select("z", layer=1)[:]
    n_heads, d_head = z.shape[1:]
    found = trace.select("head_out", layer=1)
    expected = np.einsum("thd,hdm->thm", z, weight.reshape(n_heads, d_head, -1))
    np.testing.assert_allclose(found[:], expected, atol=1e-5)
    assert found.axes == ("token", "head", "d_model")
    bias = 0.0 if projection.bias is None else projection.bias.detach().numpy()
    np.testing.assert_allclose(
        found[:].sum(1) + bias, trace.select("attn_out", layer=1)[:], atol=1e-5
    )


def test_a_recording_has_all_of_them_too(layers: Any) -> None:
    model, trace = layers
    names = ["attn_in", "mlp_in", "mlp_pre", "head_out", "ln1_scale", "ln2_scale", "ln_final_scale"]
    ids = torch.from_numpy(np.array(trace.examples[0].token_ids))[None].long()
    with probekit.record(model, names) as rec, torch.no_grad():
        model(input_ids=ids)
    for name in names:
        layer = None if name == "ln_final_scale" else 1
        expected = trace.select(name, layer=layer).example(0)
        np.testing.assert_allclose(rec.select(name, layer=layer)[0].numpy(), expected, atol=1e-5)


def test_chosen_heads_write_as_they_do_among_all(layers: Any, tmp_path: Path) -> None:
    model, trace = layers
    folder = by_hand.save_model(tmp_path / "model", model)
    probes = [{"sites": "head_out", "layers": 1, "heads": [3, 0], "positions": "last"}]
    few = probekit.run(by_hand.config(folder, tmp_path / "t", probes=probes))
    found, whole = few.select("head_out", layer=1), trace.select("head_out", layer=1)
    assert list(found.attributes["heads"]) == [3, 0]
    for example in trace.examples:
        expected = whole.example(example.number)[-1:, [3, 0]]
        np.testing.assert_allclose(found.example(example.number), expected, atol=1e-5)


def test_kinds_that_are_computed_can_be_asked_of_a_module(tmp_path: Path) -> None:
    model = tiny.build("gpt2")
    folder = by_hand.save_model(tmp_path / "model", model)
    probes = [{"modules": "transformer.ln_f", "record": ["rms", "input"]}]
    trace = probekit.run(by_hand.config(folder, tmp_path / "t", probes=probes))
    read = trace["transformer.ln_f/input"][:]
    expected = np.sqrt((read**2).mean(-1, keepdims=True) + model.transformer.ln_f.eps)
    np.testing.assert_allclose(trace["transformer.ln_f/rms"][:], expected, rtol=1e-5)


# --- values


class Adding(torch.nn.Module):
    """Adds in place to what its map gave, as Falcon does, and scales by a half."""

    def __init__(self) -> None:
        super().__init__()
        self.map = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.map(x)
        y += x.view(2, 3, 4)
        return y * 0.5


def test_a_value_changed_in_place_is_another_value() -> None:
    model = torch.nn.Sequential(Adding())
    x = torch.ones(2, 3, 4)
    with torch.no_grad():
        run = passed(model, lambda: model(x))
    whole, inner = run.at("0"), run.at("0.map")
    assert whole is not None and whole.gives is not None
    assert inner is not None and inner.gives is not None
    (added,) = whole.gives.of
    assert (whole.gives.made, whole.gives.factors, added.made) == ("scaled", (0.5,), "sum")
    assert [value.origin for value in added.of] == [inner.gives.origin, whole.reads]
    assert inner.gave is not None
    torch.testing.assert_close(
        inner.gave, functional.linear(x, model[0].map.weight, model[0].map.bias)
    )


def test_a_model_of_several_inside_is_refused_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import Gemma3Config

    module = importlib.import_module("probekit.models.places.derived")
    monkeypatch.setattr(module, "tiny", lambda *_: pytest.fail("was built"))
    with pytest.raises(PlanError, match="a model of several inside"):
        derived(object, Gemma3Config())


def test_what_cannot_be_derived_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    tried = []

    def fails(*_: object) -> None:
        tried.append(1)
        raise ValueError("odd sizes")

    monkeypatch.setattr(importlib.import_module("probekit.models.places.derived"), "tiny", fails)
    config = MistralConfig(hidden_size=128, num_hidden_layers=1, vocab_size=77)
    for _ in range(3):
        with pytest.raises(PlanError, match="shows where its places are: ValueError: odd sizes"):
            derived(MistralForCausalLM, config)
    assert len(tried) == 1


def test_an_epsilon_that_stands_in_a_norms_code_is_known() -> None:
    from transformers import OlmoConfig, OlmoForCausalLM

    norm = OlmoForCausalLM(
        OlmoConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    ).model.norm
    read = torch.randn(5, 16) * 1e-3
    centred = read - read.mean(-1, keepdim=True)
    torch.testing.assert_close(centred / scale(norm, read, "std"), norm(read))


@pytest.mark.parametrize(
    "form",
    [
        {"multi_query": True, "new_decoder_architecture": False},
        {"multi_query": False, "new_decoder_architecture": False, "alibi": True},
        {"new_decoder_architecture": True, "num_kv_heads": 2},
    ],
)
def test_every_form_of_falcon_has_its_names(form: dict[str, Any]) -> None:
    from transformers import FalconConfig, FalconForCausalLM

    sizes = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8}
    found = derived(FalconForCausalLM, FalconConfig(**sizes, vocab_size=99, **form))
    assert {"resid_pre", "attn_out", "mlp_out", "resid_post", "ln_final"} <= set(found.places)
