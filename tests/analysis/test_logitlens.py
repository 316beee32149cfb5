"""The logit lens, against the whole model's own hidden states, norm and head."""

import by_hand
import numpy as np
import pytest
import tiny_models as tiny
import torch
from by_hand import EXAMPLES, N_TOKENS
from transformers import AutoModelForCausalLM

import probekit
from probekit.analysis.logitlens import computing as logitlens
from probekit.errors import StoreError

NEXT_IDS = np.array([i for ids in EXAMPLES for i in (*ids[1:], -1)])
HEAD = {"modules": "lm_head", "record": ["top_k", "token_logprob"]}
PROBES = ({"sites": ["resid_post", "resid_mid"]}, HEAD)


def run(folder, family="gpt2", probes=PROBES, **more):
    saved = folder / "model"
    if not saved.exists():
        by_hand.save_tiny(saved, family)
    return probekit.run(by_hand.config(saved, folder / f"t{len(more)}", probes=probes, **more))


@pytest.fixture(scope="module", params=["gpt2", "gemma2"])
def made(request, tmp_path_factory):
    """A trace, and the log-probabilities at every layer by hand, float64 [layer, token, vocab]."""
    folder = tmp_path_factory.mktemp(request.param)
    trace = run(folder, request.param)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    norm = model.transformer.ln_f if request.param == "gpt2" else model.model.norm
    cap = getattr(model.config, "final_logit_softcapping", None)
    layers = []
    for layer in range(tiny.N_LAYERS):
        stream = []
        for ids in EXAMPLES:
            blocks = model.transformer.h if request.param == "gpt2" else model.model.layers
            kept = []
            handle = blocks[layer].register_forward_hook(
                lambda module, args, output, kept=kept: kept.append(tiny.first_tensor(output))
            )
            with torch.no_grad():
                model(input_ids=torch.tensor([ids]))
            handle.remove()
            stream.append(kept[0][0])
        with torch.no_grad():
            logits = model.lm_head(norm(torch.cat(stream))).double()
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        layers.append(logits.log_softmax(-1).numpy())
    return trace, np.stack(layers)


def test_every_measure_is_that_of_numpy(made):
    trace, logprobs = made
    found = probekit.lens(trace, k=3)
    assert found.layers == tuple(range(tiny.N_LAYERS))
    assert found.rows.tolist() == list(range(N_TOKENS))
    final = logprobs[-1]
    came = NEXT_IDS >= 0
    for layer, here in enumerate(logprobs):
        entropy = -(np.exp(here) * here).sum(-1)
        kl = (np.exp(final) * (final - here)).sum(-1)
        np.testing.assert_allclose(found.entropy[layer], entropy, atol=1e-5)
        np.testing.assert_allclose(found.kl[layer], kl, atol=1e-5)
        picked = here[came, NEXT_IDS[came]]
        np.testing.assert_allclose(found.logprob[layer][came], picked, atol=1e-5)
        order = np.argsort(-here, axis=-1, kind="stable")
        rank = 1 + np.argmax(order[came] == NEXT_IDS[came][:, None], axis=1)
        np.testing.assert_array_equal(found.rank[layer][came], rank)
        np.testing.assert_array_equal(found.top_ids[layer], order[:, :3])
        top = np.take_along_axis(here, order[:, :3], -1)
        np.testing.assert_allclose(found.top_logprob[layer], top, atol=1e-5)
    assert np.isnan(found.logprob[:, ~came]).all()
    assert (found.rank[:, ~came] == 0).all()
    np.testing.assert_array_equal(found.final_ids, final.argmax(-1))


def test_the_last_layer_is_what_the_run_recorded_of_the_model(made):
    trace, _ = made
    found = probekit.lens(trace)
    assert [a.site for a in found.agreement] == ["lm_head/top_k.logprob", "lm_head/token_logprob"]
    assert [a.n_values for a in found.agreement] == [N_TOKENS * 5, N_TOKENS - len(EXAMPLES)]
    for agreement in found.agreement:
        assert agreement.largest_difference < 1e-5
    recorded = by_hand.numbers(trace.path, "lm_head/token_logprob")
    np.testing.assert_allclose(found.logprob[-1], recorded, atol=1e-5)
    assert found.by_layer[-1].agrees == 1
    assert found.by_layer[-1].kl == pytest.approx(0, abs=1e-6)


def test_blocks_of_tokens_change_nothing(made, monkeypatch):
    trace, _ = made
    whole = probekit.lens(trace)
    monkeypatch.setattr(logitlens, "_LOGITS_BYTES", 4 * tiny.D_VOCAB * 4)
    for name in ("rank", "logprob", "kl", "entropy", "top_ids", "top_logprob", "final_ids"):
        np.testing.assert_allclose(
            getattr(probekit.lens(trace), name), getattr(whole, name), atol=1e-5
        )


def test_some_examples_are_looked_at_alone(made):
    trace, logprobs = made
    found = probekit.lens(trace, k=2, examples=[4, -6])
    tokens = [*range(len(EXAMPLES[0])), *range(40, 42)]
    assert found.rows.tolist() == tokens
    order = np.argsort(-logprobs[:, tokens], axis=-1, kind="stable")
    np.testing.assert_array_equal(found.top_ids, order[..., :2])
    np.testing.assert_array_equal(found.final_ids, logprobs[-1, tokens].argmax(-1))
    assert found.example(4).tokens == trace.examples[4].tokens
    with pytest.raises(IndexError, match="example 6 is out of range"):
        probekit.lens(trace, examples=[6])


def test_a_model_can_be_given(made):
    trace, _ = made
    model = AutoModelForCausalLM.from_pretrained(trace.path.parents[1] / "model")
    hooks = tiny.n_hooks(model)
    found = probekit.lens(trace.path.parent, model=model)
    np.testing.assert_array_equal(found.rank, probekit.lens(trace).rank)
    assert tiny.n_hooks(model) == hooks


def test_another_model_is_refused(made):
    trace, _ = made
    other = tiny.build(trace.provenance["model_type"])
    tiny.randomize(other, seed=1)
    with pytest.raises(
        StoreError, match=r"the last layer does not say what the model said.*Is this the model"
    ):
        probekit.lens(trace, model=other)
    wide = tiny.build("gpt2", n_embd=64)
    with pytest.raises(StoreError, match="is 32 wide and the model's unembedding takes 64"):
        probekit.lens(trace, model=wide)


def test_other_residual_streams_can_be_looked_at(made):
    trace, _ = made
    found = probekit.lens(trace, sites="resid_mid")
    assert all(trace[name].portable == "resid_mid" for name in found.sites)
    assert found.by_layer[-1].kl > 1e-3
    np.testing.assert_array_equal(found.final_ids, probekit.lens(trace).final_ids)


@pytest.mark.parametrize("final", ["ln_final", "logits"])
def test_the_final_prediction_can_come_from_later_places(tmp_path, final):
    probes = [{"sites": "resid_post", "layers": [0, 1]}, {"sites": final}]
    found = probekit.lens(run(tmp_path, probes=probes))
    whole = probekit.lens(run(tmp_path, seed=1))
    np.testing.assert_allclose(found.kl, whole.kl[:2], atol=1e-5)
    assert found.layers == (0, 1)
    if final == "logits":
        assert [a.largest_difference for a in found.agreement] == [0]


def test_last_tokens_have_a_prediction_and_nothing_that_came_next(tmp_path):
    found = probekit.lens(
        run(tmp_path, probes=[{"sites": "resid_post", "positions": "last"}, HEAD])
    )
    assert found.rows.tolist() == (np.cumsum([len(ids) for ids in EXAMPLES]) - 1).tolist()
    assert np.isnan(found.logprob).all()
    assert np.isnan(found.by_layer[0].rank)
    assert [a.site for a in found.agreement] == ["lm_head/top_k.logprob"]
    assert found.example(2).tokens == (f" {EXAMPLES[2][-1]}",)


def test_16_bits_agree_to_within_their_rounding(tmp_path):
    found = probekit.lens(run(tmp_path, model__dtype="bfloat16"))
    assert found.agreement[0].largest_difference == 0
    stored = probekit.lens(run(tmp_path, store__dtype="float16", seed=2))
    assert 0 < stored.agreement[0].largest_difference < 0.05


def test_what_is_not_there_is_an_error_that_says_what_is(tmp_path):
    first = run(tmp_path, probes=[{"sites": "resid_post", "layers": [0]}, {"sites": "embed"}])
    with pytest.raises(
        StoreError, match=r"final prediction was not recorded at positions all: add"
    ):
        probekit.lens(first)
    with pytest.raises(StoreError, match=r"resid_mid was not recorded; .*recorded: embed, resid_p"):
        probekit.lens(first, sites="resid_mid")
    with pytest.raises(StoreError, match=r"at resid_pre, resid_mid, resid_post; given 'embed'"):
        probekit.lens(first, sites="embed")
    with pytest.raises(StoreError, match="k is 0; expected 1 or more"):
        probekit.lens(first, k=0)
    pooled = run(tmp_path, probes=[{"sites": "resid_post", "pool": "mean"}], seed=3)
    with pytest.raises(StoreError, match="was not recorded as it is: it was pooled"):
        probekit.lens(pooled)


def test_an_example_says_what_each_layer_would_say(made):
    trace, logprobs = made
    example = probekit.lens(trace).example(1)
    first = len(EXAMPLES[0])
    here = logprobs[:, first : first + len(EXAMPLES[1])]
    assert example.tokens == tuple(f" {n}" for n in EXAMPLES[1])
    assert example.said == tuple(tuple(f" {n}" for n in row) for row in here.argmax(-1))
    np.testing.assert_allclose(example.probability, np.exp(here.max(-1)), atol=1e-5)
