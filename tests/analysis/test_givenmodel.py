"""The lens of a trace of a model in memory: with that model's own weights, and no others."""

import copy

import by_hand
import h5py
import pytest
import tiny_models as tiny
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

import probekit
from probekit.analysis.logitlens import givenmodel
from probekit.errors import PlanError, StoreError

PROBES = [{"sites": "resid_post"}]  # nothing that the lens could compare its predictions with


class Wrapper(nn.Module):
    """What wraps a model, and has no config of its own."""

    def __init__(self, model):
        super().__init__()
        self.inside = model

    def forward(self, *args, **kwargs):
        return self.inside(*args, **kwargs)


def run(folder, model, **options):
    config = by_hand.config("none", folder / "t", probes=PROBES)
    del config["model"]
    words = PreTrainedTokenizerFast.from_pretrained(by_hand.save_words(folder / "words"))
    return probekit.run(config, model=model, tokenizer=words, **options)


def merged(trace, path):
    trace.merge(path)
    return probekit.open(path)


def last_ids(trace, model):
    """What the whole model says last, by its own norm and head: int64 [token]."""
    stream = torch.from_numpy(trace.select("resid_post", layer=-1)[:].copy())
    with torch.no_grad():
        return model.lm_head(model.transformer.ln_f(stream)).argmax(-1).numpy()


def trained_on(model):
    """A copy after a step of training in a block: its norm and head are as they were."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.transformer.h[0].mlp.c_fc.weight[0, 0] += 1e-3
    return other


def test_a_model_with_other_weights_than_the_run_is_refused(tmp_path):
    model = tiny.build("gpt2")
    trace = run(tmp_path, model)
    assert (probekit.lens(trace, model=model).final_ids == last_ids(trace, model)).all()
    probekit.lens(trace, model=copy.deepcopy(model).train())
    with pytest.raises(
        StoreError, match=r"t/trace\.h5: GPT2LMHeadModel has other weights.*as they were then"
    ):
        probekit.lens(trace, model=trained_on(model))


def test_what_touches_no_weight_is_no_other_model(tmp_path):
    model = tiny.build("gpt2")
    trace = run(tmp_path, model)
    model.set_attn_implementation("eager")
    model.transformer.h[0].register_forward_hook(lambda module, args, output: None)
    probekit.lens(trace, model=model)


def test_a_single_file_knows_its_model_too(tmp_path):
    model = tiny.build("gpt2")
    one = merged(run(tmp_path, model), tmp_path / "one.h5")
    probekit.lens(one, model=model)
    with pytest.raises(StoreError, match=r"one\.h5: .*other weights"):
        probekit.lens(one, model=trained_on(model))


def test_a_wrapped_model_is_given_as_the_run_had_it(tmp_path):
    model = tiny.build("gpt2")
    trace = run(tmp_path, Wrapper(model))
    found = probekit.lens(trace, model=Wrapper(model))
    assert (found.final_ids == last_ids(trace, model)).all()
    with pytest.raises(StoreError, match="the very object that the run was given, wrapped as"):
        probekit.lens(trace, model=model)


def test_weights_are_read_only_where_the_trace_has_a_digest(tmp_path, monkeypatch):
    model, read = tiny.build("gpt2"), []
    trace = run(tmp_path, model, digest=False)
    saved = by_hand.save_tiny(tmp_path / "model", "gpt2")
    named = probekit.run(by_hand.config(saved, tmp_path / "named", probes=PROBES))
    monkeypatch.setattr(givenmodel.models, "weights_digest", read.append)
    assert probekit.lens(trace, model=trained_on(model)).final_ids.size
    assert probekit.lens(named, model=trained_on(model)).final_ids.size
    assert read == []


def test_a_model_whose_weights_cannot_all_be_read_is_no_model_of_a_digest(tmp_path):
    model = tiny.build("gpt2")
    trace = run(tmp_path, model)
    other = copy.deepcopy(model)
    other.transformer.h[0].to("meta")
    with pytest.raises(StoreError, match=r"bytes of transformer\.h\.0.*loaded as a whole"):
        probekit.lens(trace, model=other)


def test_what_is_no_model_is_said_to_be_none(tmp_path):
    trace = run(tmp_path, tiny.build("gpt2"))
    with pytest.raises(PlanError, match=r"model is .gpt2. \(text\); expected a torch"):
        probekit.lens(trace, model="gpt2")
    with pytest.raises(PlanError, match="Linear is no model of transformers, and holds none"):
        probekit.lens(trace, model=nn.Linear(2, 2))


def test_a_digest_of_a_stranger_is_refused_in_one_message(tmp_path):
    model = tiny.build("gpt2")
    run(tmp_path, model).merge(tmp_path / "one.h5")
    with h5py.File(tmp_path / "one.h5", "r+") as file:
        file.attrs["model_digest"] = [1, 2]
    with pytest.raises(StoreError, match="other weights"):
        probekit.lens(tmp_path / "one.h5", model=model)
