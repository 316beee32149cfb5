"""A forward pass ends after the last module that is asked for; the values are the same."""

import numpy as np
import pytest
from tiny_models import build

import probekit
from probekit import capture, models


@pytest.fixture
def config(tmp_path):
    build("gpt2").save_pretrained(tmp_path / "model")

    def one(store, probes, **more):
        return {
            "model": {"name": str(tmp_path / "model")},
            "inputs": {
                "random": {"examples": 5, "min_tokens": 2, "max_tokens": 9},
                "batch_tokens": 30,
            },
            "probes": probes,
            "store": {"path": str(tmp_path / store)},
            **more,
        }

    return one


def modules_that_ran(monkeypatch, config):
    """Run a config, counting by plain hooks which modules were called to their end."""
    ran = set()
    load = models.load_model

    def watched(*args, **kwargs):
        model = load(*args, **kwargs)
        for path, module in model.named_modules():
            module.register_forward_hook(lambda m, a, o, path=path: ran.add(path))
        return model

    monkeypatch.setattr(models, "load_model", watched)
    return capture.run(config), ran


PROBES = [
    [{"modules": "transformer.h.0.mlp.act"}],
    [{"modules": "transformer.h.1.mlp", "record": "input"}],
    [{"modules": "transformer.h.1.attn", "record": ["pattern", "z"]}],
    [{"modules": "transformer.h.0"}, {"modules": "transformer.wte"}],
]


@pytest.mark.parametrize("probes", PROBES)
def test_values_are_those_of_the_whole_forward(config, probes):
    stopped = probekit.run(config("stopped", probes))
    whole = probekit.run(config("whole", probes, early_stop=False))
    assert stopped.site_names == whole.site_names
    for name in whole.site_names:
        np.testing.assert_array_equal(stopped[name][:], whole[name][:])


def test_no_later_layer_and_no_output_head_runs(config, monkeypatch):
    trace, ran = modules_that_ran(monkeypatch, config("run", PROBES[0]))
    assert "transformer.h.0.mlp.act" in ran
    assert not {"transformer.h.0.mlp.c_proj", "transformer.h.1", "lm_head"} & ran
    assert trace.provenance["stopped_after"] == "transformer.h.0.mlp.act"


def test_an_input_stops_before_its_module(config, monkeypatch):
    _, ran = modules_that_ran(monkeypatch, config("run", PROBES[1]))
    assert "transformer.h.1.ln_2" in ran
    assert not {"transformer.h.1.mlp.c_fc", "transformer.h.1.mlp"} & ran


@pytest.mark.parametrize(
    "more",
    [{"early_stop": False}, {"execution_order": True}],
    ids=["turned off", "full order asked for"],
)
def test_the_whole_model_runs_when_that_is_asked_for(config, monkeypatch, more):
    trace, ran = modules_that_ran(monkeypatch, config("run", PROBES[0], **more))
    assert "lm_head" in ran
    assert "stopped_after" not in trace.provenance


def test_logits_need_the_whole_model(config):
    assert probekit.plan(config("run", [{"modules": "lm_head", "record": "top_k"}])).stop is None


def test_the_order_says_where_it_stopped(config):
    trace = probekit.run(config("run", PROBES[0], execution_order="as_run"))
    assert trace.execution_order[-1] == "transformer.h.0.mlp.act"
    assert trace.provenance["stopped_after"] == "transformer.h.0.mlp.act"
    events = trace.execution.orders[0]
    entered, left = (events[:, 1] == 1).sum(), (events[:, 1] == 0).sum()
    # The model, its first block and that block's MLP were entered and not left.
    assert entered - left == 3


def test_hooks_are_gone_after_a_stop(config, monkeypatch):
    from tiny_models import n_hooks

    kept = []
    load = models.load_model
    monkeypatch.setattr(models, "load_model", lambda *a, **k: kept.append(load(*a, **k)) or kept[0])
    capture.run(config("run", PROBES[0]))
    assert n_hooks(kept[0]) == 0
