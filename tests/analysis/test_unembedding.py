"""The final norm and unembedding alone, against those of the whole model."""

import shutil

import by_hand
import every_family
import pytest
import tiny_models as tiny
import torch
import yaml
from tiny_traces import ATTRIBUTES, site, write_trace
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import probekit
from probekit import models
from probekit.analysis.logitlens.unembedding import load_output_head, output_head_of
from probekit.errors import PlanError, StoreError
from probekit.models.families import FAMILIES

FAST = ("gemma2", "gpt2", "gpt_neo", "llama", "opt", "qwen2")
RESIDUAL = torch.randn(5, tiny.D_MODEL, generator=torch.Generator().manual_seed(0))


def a_trace(folder, model, **more):
    """A trace that says it was made with a model."""
    config = by_hand.config(model, folder, probes=[{"sites": "resid_post"}], **more)
    attributes = ATTRIBUTES | {"config": yaml.safe_dump(config), "model_name": str(model)}
    return probekit.open(write_trace(folder, [site()], attributes=attributes).folder)


def logits_by_hand(model, residual):
    """What the whole model makes of a residual stream behind its last layer."""
    norm = {
        "gpt_neox": "gpt_neox.final_layer_norm",
        "opt": "model.decoder.final_layer_norm",
        "phi": "model.final_layernorm",
        **dict.fromkeys(("gpt2", "gpt_neo", "gptj"), "transformer.ln_f"),
    }.get(model.config.model_type, "model.norm")
    with torch.no_grad():
        logits = model.get_output_embeddings()(model.get_submodule(norm)(residual))
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@pytest.mark.parametrize(
    "family", [f if f in FAST else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
)
def test_it_is_that_of_the_whole_model_with_few_weights(tmp_path, family):
    saved = by_hand.save_tiny(tmp_path / "model", family)
    head = load_output_head(a_trace(tmp_path / "t", saved), "cpu")
    model = AutoModelForCausalLM.from_pretrained(saved)
    expected = logits_by_hand(model, RESIDUAL)
    assert torch.equal(head.capped(head.head_output(RESIDUAL)), expected)
    given = output_head_of(model)
    assert torch.equal(given.capped(given.head_output(RESIDUAL)), expected)


def test_no_other_weights_are_loaded(tmp_path, monkeypatch):
    loaded, load = [], models.load_model

    def watched(*given):
        loaded.append(load(*given))
        return loaded[0]

    monkeypatch.setattr(models, "load_model", watched)
    saved = by_hand.save_tiny(tmp_path / "model", "llama")
    load_output_head(a_trace(tmp_path / "t", saved), "cpu")
    # Embedding, unembedding, final norm.
    assert tiny.n_parameters(loaded[0]) == (2 * tiny.D_VOCAB + 1) * tiny.D_MODEL


def test_16_bits_are_computed_as_the_model_does(tmp_path):
    saved = by_hand.save_tiny(tmp_path / "model", "gpt2")
    head = load_output_head(a_trace(tmp_path / "t", saved, model__dtype="bfloat16"), "cpu")
    model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.bfloat16)
    expected = logits_by_hand(model, RESIDUAL.bfloat16()).float()
    assert torch.equal(head.head_output(RESIDUAL), expected)


def test_random_weights_are_those_of_the_seed(tmp_path):
    saved = by_hand.save_tiny(tmp_path / "model", "gpt2")
    more = {"model__weights": "random", "model__overrides": {"n_layer": 2}, "seed": 3}
    trace = probekit.run(
        by_hand.config(saved, tmp_path / "t", probes=[{"sites": ["resid_post", "logits"]}], **more)
    )
    last = torch.from_numpy(trace.select("resid_post", layer=-1)[:].copy())
    recorded = torch.from_numpy(trace.select("logits")[:].copy())
    torch.testing.assert_close(load_output_head(trace, "cpu").head_output(last), recorded)


def test_overrides_of_the_run_are_kept(tmp_path):
    saved = by_hand.save_tiny(tmp_path / "model", "gemma2")
    kinds = ["sliding_attention", "full_attention"]
    overrides = {"num_hidden_layers": 2, "layer_types": kinds, "final_logit_softcapping": 9.0}
    head = load_output_head(a_trace(tmp_path / "t", saved, model__overrides=overrides), "cpu")
    assert head.cap == 9


def test_transformers_keeps_its_voice(tmp_path, capfd):
    saved = by_hand.save_tiny(tmp_path / "model", "gpt2")
    trace = a_trace(tmp_path / "t", saved)
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    capfd.readouterr()
    load_output_head(trace, "cpu")
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_weights_that_cannot_be_had_are_an_error_that_says_what_to_do(tmp_path):
    saved = by_hand.save_tiny(tmp_path / "model", "gpt2")
    trace = a_trace(tmp_path / "t", saved)
    shutil.rmtree(saved)
    with pytest.raises(
        StoreError, match=r"(?s)cannot be had: .*there is no folder .*Give the model itself: lens"
    ):
        load_output_head(trace, "cpu")
    nameless = probekit.open(write_trace(tmp_path / "nameless", [site()]).folder)
    with pytest.raises(StoreError, match="does not say which model"):
        load_output_head(nameless, "cpu")


def test_weights_that_changed_since_the_run_are_refused(tmp_path):
    saved = by_hand.save_tiny(tmp_path / "model", "gpt2")
    trace = probekit.run(by_hand.config(saved, tmp_path / "t", probes=[{"sites": "resid_post"}]))
    load_output_head(trace, "cpu")
    model = AutoModelForCausalLM.from_pretrained(saved)
    tiny.randomize(model, seed=1)
    model.save_pretrained(saved)
    with pytest.raises(StoreError, match="has changed since the run"):
        load_output_head(trace, "cpu")


def test_models_without_a_readout_say_why(tmp_path):
    post_norm = tiny.build("opt", do_layer_norm_before=False)
    with pytest.raises(PlanError, match=r"'ln_final' does not exist on this opt"):
        output_head_of(post_norm)
    narrow = tiny.build("opt", word_embed_proj_dim=16)
    with pytest.raises(PlanError, match="lm_head takes 16 values and the residual stream has 32"):
        output_head_of(narrow)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(tiny.build("gpt2").config)
    with pytest.raises(PlanError, match="its weights are not loaded"):
        output_head_of(empty)
    with pytest.raises(
        PlanError, match=r"'ln_final' does not exist on this bert: cls\.predictions"
    ):
        output_head_of(every_family.build("bert"))
