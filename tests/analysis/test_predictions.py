"""What the sample model would say next, as strings with probabilities."""

import numpy as np
import pytest
import torch

import probekit
from probekit import models
from probekit.config.loading import load_config
from probekit.inputs import tokenizing

TEXTS = ["The capital of Japan is", "What is the capital of France?", "Cats are"]


def config(tmp_path, *probes):
    return load_config(
        {
            "model": {"name": "sample:tiny-gpt2"},
            "inputs": {"texts": TEXTS},
            "probes": list(probes),
            "store": {"path": str(tmp_path / "run")},
        }
    )


def by_hand(text):
    """Probabilities of the token after a text, from the model itself."""
    where = config_of_the_sample()
    model = models.load_model(where, models.load_hf_config(where), torch.device("cpu"))
    ids = tokenizing.load_tokenizer(where)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(ids).logits[0, -1].double().softmax(-1)


def config_of_the_sample():
    return load_config(
        {
            "model": {"name": "sample:tiny-gpt2"},
            "inputs": {"texts": ["a"]},
            "execution_order": True,
            "store": {"path": "unused"},
        }
    )


@pytest.mark.parametrize(
    "probe", [{"sites": "logits", "record": "top_k", "k": 5}, {"modules": "lm_head"}]
)
def test_the_five_likeliest_and_the_rest_sum_to_one(tmp_path, probe):
    trace = probekit.run(config(tmp_path, probe))
    for number, text in enumerate(TEXTS):
        said = trace.next_tokens(number)
        expected = by_hand(text).topk(5)
        assert [c.id for c in said.candidates] == expected.indices.tolist()
        np.testing.assert_allclose(
            [c.probability for c in said.candidates], expected.values, rtol=1e-4
        )
        assert sum(c.probability for c in said.candidates) + said.rest == pytest.approx(1)
    assert trace.next_tokens(0).candidates[0].text == " Tokyo"
    assert str(trace.next_tokens(0)).startswith("' Tokyo' ")


def test_a_place_in_the_middle_can_be_asked_for(tmp_path):
    trace = probekit.run(config(tmp_path, {"sites": "logits", "record": "top_k"}))
    position = trace.examples[0].tokens.index(" capital")
    expected = by_hand("The capital").argmax()
    assert trace.next_tokens(0, position).candidates[0].id == int(expected)
    assert len(trace.next_tokens(0, position, k=2).candidates) == 2
    with pytest.raises(IndexError, match="the example has"):
        trace.next_tokens(0, 99)


def test_what_was_not_recorded_is_said(tmp_path):
    last = probekit.run(
        config(tmp_path, {"sites": "logits", "record": "top_k", "positions": "last"})
    )
    assert last.next_tokens(0).candidates
    with pytest.raises(probekit.StoreError, match="recorded at positions last"):
        last.next_tokens(0, 0)


def test_without_logits_there_is_an_error_that_says_which_probe_to_add(tmp_path):
    trace = probekit.run(config(tmp_path, {"sites": "resid_post"}))
    with pytest.raises(probekit.StoreError, match="neither logits nor top_k were recorded"):
        trace.next_tokens(0)
