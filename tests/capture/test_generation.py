"""Generated tokens, against a hand-written loop over the model and its cache."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_models import build, by_family, n_hooks
from transformers import GenerationConfig

import probekit
from probekit import ConfigError, PlanError, StoreError
from probekit.capture import generation, stepwise, strategies
from probekit.config import load_config
from probekit.store import schema

LAYER = {"gpt2": "transformer.h.{}", "gpt_neox": "gpt_neox.layers.{}"}
ATTENTION = {"gpt2": "attn", "gpt_neox": "attention"}
run = partial(probekit.run, self_check=False)  # which is tried in test_selfcheck.py

N_NEW = 8  # tokens: with the prompt they are more than a sliding window holds
FAMILIES = ("gpt2", "llama", "phi3", "mistral", "gemma2", "gpt_neox", "qwen3")


def layer(model_type, number):
    return LAYER.get(model_type, "model.layers.{}").format(number)


def config(tmp_path, model_type="llama", store="run", probes=None, **generate):
    attention = f"{layer(model_type, '*')}.{ATTENTION.get(model_type, 'self_attn')}"
    return {
        "model": {"name": str(tmp_path / "model")},
        "inputs": {
            "random": {"examples": 5, "min_tokens": 3, "max_tokens": 5, "seed": 2},
            "batch_tokens": 60,
        },
        "probes": probes
        or [
            {"modules": layer(model_type, "*")},
            {"modules": attention, "record": ["pattern", "k", "z"]},
            {"modules": "lm_head" if model_type != "x" else "", "record": ["output"]},
        ],
        "generate": {"max_new_tokens": N_NEW, "stop_at_eos": False, **generate},
        "execution_order": True,
        "store": {"path": str(tmp_path / store), "shard_bytes": 40_000},
    }


def saved(tmp_path, model_type, **overrides):
    model = build(model_type, **overrides)
    model.save_pretrained(tmp_path / "model")
    return model


@dataclass
class Made:
    """A tiny model, and the run of it by `config`: for tests that only read."""

    folder: Path  # the model lies in model/, the run in run/
    model: Any
    trace: Any


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """Give the one run of a family that all tests of this file share."""
    known: dict[str, Made] = {}

    def of(model_type: str) -> Made:
        if model_type not in known:
            folder = tmp_path_factory.mktemp(model_type)
            model = saved(folder, model_type)
            known[model_type] = Made(folder, model, run(config(folder, model_type)))
        return known[model_type]

    return of


def by_hand(model, prompt, n_new, watched):
    """Greedy decoding with the cache: tokens, and what the watched module gave for each."""
    rows, ids = [], torch.tensor(prompt)[None]
    handle = model.get_submodule(watched).register_forward_hook(
        lambda m, a, o: rows.append((o if torch.is_tensor(o) else o[0])[0])
    )
    tokens, past = list(prompt), None
    with torch.no_grad():
        for _ in range(n_new + 1):
            out = model(ids, past_key_values=past, use_cache=True)
            past, chosen = out.past_key_values, int(out.logits[0, -1].argmax())
            tokens.append(chosen)
            ids = torch.tensor([[chosen]])
    handle.remove()
    return tokens[:-1], torch.cat(rows).numpy()


@pytest.mark.parametrize("model_type", by_family(FAMILIES))
def test_every_token_has_the_row_of_a_hand_written_loop(made, model_type):
    model, trace = made(model_type).model, made(model_type).trace
    for number, example in enumerate(trace.examples):
        n_prompt = example.n_tokens - example.n_generated
        assert example.n_generated == N_NEW
        prompt = [int(i) for i in example.token_ids[:n_prompt]]
        for watched in (layer(model_type, 1), "lm_head"):
            tokens, rows = by_hand(model, prompt, N_NEW, watched)
            assert [int(i) for i in example.token_ids] == tokens
            np.testing.assert_allclose(trace[watched].example(number), rows, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", by_family(FAMILIES))
def test_a_second_forward_over_the_whole_text_gives_the_same(made, tmp_path, model_type):
    trace = made(model_type).trace
    whole = tmp_path / "whole.jsonl"
    again = config(made(model_type).folder, model_type, store=tmp_path / "again")
    del again["generate"]
    # The same tokens as plain inputs, through a tokenizer that only splits numbers.
    lines = [" ".join(str(int(i)) for i in e.token_ids) for e in trace.examples]
    whole.write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
    number_tokenizer(tmp_path / "numbers")
    again["inputs"] = {"file": str(whole)}
    again["model"]["tokenizer"] = str(tmp_path / "numbers")
    second = run(again)
    assert second.site_names == trace.site_names
    for name in trace.site_names:
        for number in range(len(trace.examples)):
            np.testing.assert_allclose(
                trace[name].example(number), second[name].example(number), rtol=1e-4, atol=1e-4
            )


def number_tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 101, **{str(n): n for n in range(101)}}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)


def test_steps_and_phases_are_told_apart(made):
    trace = made("llama").trace
    steps = np.asarray(trace.tokens.step[:])
    for number, example in enumerate(trace.examples):
        first, n_tokens = trace.examples.extent(number)
        n_prompt = n_tokens - example.n_generated
        assert steps[first : first + n_tokens].tolist() == [0] * n_prompt + list(
            range(1, N_NEW + 1)
        )
    phases = [f.phase for f in trace.execution.forwards]
    assert phases.count("decode") == N_NEW * phases.count("prefill") > 0
    assert sum(f.n_tokens for f in trace.execution.forwards) == len(trace.tokens)


@pytest.mark.parametrize("execution_order", [True, False])
def test_the_seconds_of_a_pass_are_the_devices(tmp_path, monkeypatch, execution_order):
    """A device that is still at work when the pass is queued; nobody waits for it unasked."""
    waits = []

    def work(device):
        waits.append(device)
        time.sleep(0.02)

    monkeypatch.setattr(stepwise, "finish", work)
    saved(tmp_path, "llama")
    probes = [{"modules": "model.layers.0"}]
    asked = config(tmp_path, probes=probes, max_new_tokens=3)
    trace = run({**asked, "execution_order": execution_order})
    if execution_order:
        assert min(f.seconds for f in trace.execution.forwards) > 0.02
        assert len(waits) == len(trace.execution.forwards)
    else:
        assert waits == []


def test_waiting_for_a_pass_waits_for_no_copy(monkeypatch):
    waits = []

    class Stream:
        def __init__(self, device):
            self.synchronize = lambda: waits.append(device)

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("of every stream"))
    stepwise.finish(torch.device("cuda", 1))
    stepwise.finish(torch.device("cpu"))
    assert waits == [torch.device("cuda", 1)]


@pytest.mark.few(2)
@pytest.mark.parametrize("strategy", ["greedy", "sample", "top_k", "top_p"])
def test_a_batch_gives_each_example_what_it_gets_alone(tmp_path, strategy):
    saved(tmp_path, "gpt2")
    settings = {"strategy": strategy}
    settings |= {"repetition_penalty": 1.3} if strategy == "greedy" else {"temperature": 0.7}
    together = run(config(tmp_path, "gpt2", **settings))
    alone_config = config(tmp_path, "gpt2", store="alone", **settings)
    alone_config["inputs"]["batch_tokens"] = 1
    alone = run(alone_config)
    for one, other in zip(together.examples, alone.examples, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
    for name in together.site_names:
        np.testing.assert_allclose(together[name][:], alone[name][:], rtol=1e-4, atol=1e-4)


def test_sampling_follows_its_seed(made, tmp_path):
    folder = made("gpt2").folder

    def tokens(store, **settings):
        probes = [{"modules": "transformer.h.0"}]
        settings |= {"strategy": "sample"}
        trace = run(config(folder, "gpt2", tmp_path / store, probes, **settings))
        return np.asarray(trace.tokens.id[:]).tolist()

    assert tokens("a", seed=1) == tokens("b", seed=1) != tokens("c", seed=2)
    low = tokens("d", seed=1, temperature=1e-4)
    assert low == np.asarray(made("gpt2").trace.tokens.id[:]).tolist()


PENALTIES = [{"repetition_penalty": 1.7}, {"no_repeat_ngram_size": 2}]  # all that greedy takes
SAMPLED = [
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_p": 0.6},
    {"min_p": 0.3},
    *PENALTIES,
    {"temperature": 1.5, "top_k": 20, "top_p": 0.8, "min_p": 0.02},
    {"temperature": 0.8, "top_k": 30, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2},
]


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [("sample", settings) for settings in SAMPLED] + [("greedy", one) for one in PENALTIES],
    ids=str,
)
def test_scores_are_those_of_generate(tmp_path, monkeypatch, strategy, settings):
    """What is drawn from, against `output_scores` of `generate` on every prefix."""
    model, seen = saved(tmp_path, "gpt2"), []
    real = strategies.processors

    def watched(settings):
        return [*real(settings), lambda ids, scores: seen.append((ids, scores)) or scores]

    monkeypatch.setattr(strategies, "processors", watched)
    probes = [{"modules": "transformer.h.0"}]
    run(config(tmp_path, "gpt2", probes=probes, strategy=strategy, **settings))
    assert len(seen) > 10
    own = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if strategy == "sample" else {}
    for ids, scores in seen:
        plain = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(
                max_new_tokens=1,
                do_sample=strategy == "sample",
                output_scores=True,
                return_dict_in_generate=True,
                pad_token_id=0,
                **{**own, **settings},
            ),
        )
        torch.testing.assert_close(scores, plain.scores[0], rtol=1e-4, atol=1e-4)


def test_a_setting_that_nothing_uses_is_a_mistake_but_not_in_a_trace(made, tmp_path):
    folder = made("gpt2").folder
    for settings, words in [
        ({"temperature": 0.5}, "generate.temperature: the strategy greedy does"),
        ({"seed": 3}, "generate.seed: the strategy greedy does"),
        ({"strategy": "top_k", "top_p": 0.5}, "the strategy top_k does not use it"),
        ({"strategy": "top_p", "min_p": 0.5}, "or write strategy: sample"),
        ({"strategy": "greedy", "top_k": 50}, "leave it out, or write strategy: sample"),
    ]:
        with pytest.raises(PlanError, match=re.escape(words)):
            probekit.plan(config(folder, "gpt2", tmp_path / "run", **settings))
    for settings in ({"temperature": 1.0}, {"seed": 0}, {"top_k": None}):
        assert probekit.plan(config(folder, "gpt2", tmp_path / "run", **settings)).sites
    text = yaml.safe_load(made("gpt2").trace.provenance["config"])
    text["generate"]["temperature"] = 0.5  # as a trace of before could say
    assert load_config(text).generate.temperature == 0.5


def test_a_run_begun_with_a_setting_that_nothing_used_can_be_finished(tmp_path, monkeypatch):
    saved(tmp_path, "gpt2")
    before = config(tmp_path, "gpt2", temperature=0.5, top_k=20)
    monkeypatch.setattr(type(load_config(before).generate), "unused", {})
    rows = run(before)["lm_head"][:]
    monkeypatch.undo()
    last = max((tmp_path / "run" / "shards").glob("0*.h5"))
    last.unlink()
    np.testing.assert_array_equal(run(before, repair=True)["lm_head"][:], rows)
    with pytest.raises(PlanError, match="the strategy greedy does not use it"):
        run({**before, "store": {"path": str(tmp_path / "other")}})


def test_a_run_begun_with_a_k_that_nothing_used_can_be_finished(tmp_path, monkeypatch):
    saved(tmp_path, "gpt2")
    before = config(tmp_path, "gpt2", probes=[{"modules": "transformer.h.0.mlp", "k": 3}])
    monkeypatch.setattr(type(load_config(before).probes[0]), "unused", {})
    rows = run(before)["transformer.h.0.mlp"][:]
    monkeypatch.undo()
    max((tmp_path / "run" / "shards").glob("0*.h5")).unlink()
    np.testing.assert_array_equal(run(before, repair=True)["transformer.h.0.mlp"][:], rows)
    with pytest.raises(PlanError, match="leave it out, or write that"):
        run({**before, "store": {"path": str(tmp_path / "other")}})


def test_a_slice_of_everything_says_of_what(tmp_path):
    saved(tmp_path, "llama")
    for text in ("0:", ":", "::", "0::1"):
        probes = [{"modules": "model.layers.0", "positions": text}]
        with pytest.raises(ConfigError, match="write prompt or all"):
            probekit.plan(config(tmp_path, probes=probes))
    probes = [{"modules": "model.layers.0", "positions": "::2"}]
    assert probekit.plan(config(tmp_path, probes=probes)).sites


def test_a_default_that_was_written_is_the_run_that_it_was(tmp_path):
    def digest(**settings):
        return load_config(config(tmp_path, "gpt2", **settings)).digest

    assert digest(strategy="top_k") == digest(strategy="top_k", top_k=50)
    assert digest(strategy="top_p") == digest(strategy="top_p", top_p=0.9)
    assert digest(strategy="sample") != digest(strategy="sample", top_k=50)
    assert digest(strategy="sample") == digest(strategy="sample", temperature=1.0)


def test_a_run_begun_when_sample_took_no_top_k_is_not_mixed_with_the_new(tmp_path, monkeypatch):
    saved(tmp_path, "gpt2")
    settings = {"strategy": "sample", "top_k": 5}
    monkeypatch.setattr(type(load_config(config(tmp_path)).generate), "combines", False)
    run(config(tmp_path, "gpt2", **settings))
    monkeypatch.undo()
    with pytest.raises(StoreError, match="means something else now"):
        run(config(tmp_path, "gpt2", **settings))


def test_sampling_draws_from_the_models_probabilities(tmp_path):
    """One step, many examples of one prompt: frequencies against the softmax, by chi-square."""
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    generators = [torch.Generator().manual_seed(n) for n in range(4000)]
    drawn = strategies.gumbel(generators)(None, logits.expand(4000, -1)).argmax(-1)
    counts = torch.bincount(drawn, minlength=4).double()
    expected = 4000 * torch.tensor([0.5, 0.3, 0.15, 0.05]).double()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 16.3  # 0.999 quantile at 3 degrees of freedom


def test_an_example_ends_at_its_end_token_and_the_others_go_on(made, tmp_path):
    model, free = saved(tmp_path, "gpt2"), made("gpt2").trace
    new = [e.token_ids[e.n_tokens - N_NEW :].tolist() for e in free.examples]
    end = new[0][4]  # what the first example says at its fifth step ends a text from now on
    model.generation_config.eos_token_id = int(end)
    model.save_pretrained(tmp_path / "model")
    trace = run(config(tmp_path, "gpt2", "ended", stop_at_eos=True))
    for example, said in zip(trace.examples, new, strict=True):
        stop = said.index(end) + 1 if end in said else N_NEW
        assert example.token_ids[-example.n_generated :].tolist() == said[:stop]
    assert {e.n_generated for e in trace.examples} != {N_NEW}
    assert len(trace["lm_head"]) == len(trace.tokens) < len(free.tokens)


@pytest.mark.parametrize("use_cache", [False, "both"])
def test_the_naive_loop_gives_the_same(made, tmp_path, use_cache):
    cached = made("llama").trace
    other = run(config(made("llama").folder, "llama", tmp_path / "other", use_cache=use_cache))
    for name in cached.site_names:
        np.testing.assert_allclose(cached[name][:], other[name][:], rtol=1e-4, atol=1e-4)
    times = {k: v for k, v in other.provenance.items() if k.startswith("generate_")}
    assert "generate_naive_s" in times
    if use_cache == "both":
        assert times["generate_cached_s"] > 0
        assert times["generate_same"] == times["generate_compared"] == 5


def test_the_probability_of_what_was_said_is_recorded(tmp_path):
    saved(tmp_path, "gpt2")
    probes = [{"modules": "lm_head", "record": ["output", "token_logprob", "top_k"]}]
    trace = run(config(tmp_path, "gpt2", probes=probes))
    logits = torch.from_numpy(np.array(trace["lm_head"][:])).double()
    logprobs = torch.log_softmax(logits, -1).numpy()
    for number, example in enumerate(trace.examples):
        first, n_tokens = trace.examples.extent(number)
        said = trace["lm_head/token_logprob"].example(number)
        rows = np.arange(first, first + n_tokens - 1)
        np.testing.assert_allclose(
            said[:-1], logprobs[rows, example.token_ids[1:]], rtol=1e-4, atol=1e-4
        )
        assert np.isnan(said[-1])


def test_a_cut_short_generation_goes_on(made, tmp_path):
    whole, asked = made("llama").trace, config(made("llama").folder, store=tmp_path / "cut")
    assert whole.provenance["n_shards"] > 1
    seen = []

    def stop(progress):
        seen.append(progress)
        if progress.examples >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(asked, on_progress=stop)
    again = run(asked)
    for name in whole.site_names:
        np.testing.assert_array_equal(whole[name][:], again[name][:])
    assert [e.first_token for e in whole.examples] == [e.first_token for e in again.examples]


@pytest.mark.parametrize(("layout", "n_read"), [(schema.FIRST, 1), (schema.NEWEST, 0)])
def test_what_is_sealed_is_read_once_where_a_shard_counts_the_tokens_before_it(
    tmp_path, monkeypatch, layout, n_read
):
    read = []
    monkeypatch.setattr(generation, "sealed_specs", lambda path: read.append(path) or ())
    monkeypatch.setattr("probekit.capture.begun.format_of", lambda *_, **__: layout)
    saved(tmp_path, "llama")
    trace = run(config(tmp_path))
    assert trace.provenance["n_shards"] > 1
    assert len(read) == n_read
    ends = np.cumsum([e.n_tokens for e in trace.examples])
    assert [e.first_token for e in trace.examples] == [0, *ends[:-1]]


KEPT = {
    "prompt": lambda rows, n: rows[:n],
    "generated": lambda rows, n: rows[n:],
    "last": lambda rows, n: rows[n - 1 : n],
    "first": lambda rows, n: rows[:1],
    "1:-1": lambda rows, n: rows[1 : n - 1],
    (0, -1): lambda rows, n: rows[[0, n - 1]],
}
POOLED = {
    "mean": lambda rows: rows.mean(0),
    "max": lambda rows: rows.max(0),
    "last": lambda rows: rows[-1],
}


@pytest.mark.few(3)
@pytest.mark.parametrize("positions", KEPT, ids=str)
def test_positions_are_the_prompts_but_for_generated(made, tmp_path, positions):
    model, folder = made("llama").model, made("llama").folder
    wanted = list(positions) if isinstance(positions, tuple) else positions
    probes = [{"modules": ["model.layers.1", "model.layers.2"], "positions": wanted}]
    probes += [{"modules": "model.layers.1.self_attn", "record": "pattern", "positions": wanted}]
    trace, whole = run(config(folder, store=tmp_path / "run", probes=probes)), made("llama").trace
    for e in trace.examples:
        n = e.n_tokens - e.n_generated
        tokens, rows = by_hand(model, e.token_ids[:n].tolist(), N_NEW, "model.layers.1")
        kept = KEPT[positions](np.arange(len(tokens)), n)
        found = trace["model.layers.1"].example(e.number)
        np.testing.assert_allclose(found, rows[kept], rtol=1e-4, atol=1e-4)
        pattern = "model.layers.1.self_attn/pattern"
        every = whole[pattern].example(e.number)[:, kept]
        np.testing.assert_allclose(trace[pattern].example(e.number), every, atol=1e-5)
    assert trace["model.layers.1"].rows == trace["model.layers.2"].rows != "token"
    assert probekit.verify(tmp_path / "run").whole


@pytest.mark.few(4)
@pytest.mark.parametrize("positions", ["all", "generated", "prompt", "1:"])
@pytest.mark.parametrize("pool", POOLED)
def test_a_pool_is_over_the_tokens_that_are_kept(tmp_path, pool, positions):
    model = saved(tmp_path, "llama")
    probes = [{"modules": "model.layers.1", "positions": positions, "pool": pool}]
    probes += [{"modules": "model.layers.*.mlp", "pool": pool, "neurons": [3, 5]}]
    trace = run(config(tmp_path, probes=probes))
    keep = {"all": lambda rows, n: rows, "1:": lambda rows, n: rows[1:n], **KEPT}[positions]
    for e in trace.examples:
        n = e.n_tokens - e.n_generated
        _, rows = by_hand(model, e.token_ids[:n].tolist(), N_NEW, "model.layers.1")
        found = trace["model.layers.1"][e.number]
        np.testing.assert_allclose(found, POOLED[pool](keep(rows, n)), rtol=1e-4, atol=1e-4)
        _, rows = by_hand(model, e.token_ids[:n].tolist(), N_NEW, "model.layers.0.mlp")
        found = trace["model.layers.0.mlp"][e.number]
        np.testing.assert_allclose(found, POOLED[pool](rows[:, [3, 5]]), rtol=1e-4, atol=1e-4)


@pytest.mark.few(2)
@pytest.mark.parametrize("positions", ["prompt", "generated", "last", ":-1", [0, -1]])
def test_log_probabilities_of_kept_tokens_are_those_of_all(tmp_path, positions):
    saved(tmp_path, "llama")

    def probes(positions):
        kinds = ["token_logprob", "entropy", "top_k"]
        return [{"modules": "lm_head", "record": kinds, "positions": positions}]

    some = run(config(tmp_path, probes=probes(positions)))
    every = run(config(tmp_path, store="every", probes=probes("all")))
    for kind in ("token_logprob", "entropy", "top_k.id"):
        for e in every.examples:
            n = e.n_tokens - e.n_generated
            keep = {":-1": lambda rows, n: rows[: n - 1], **KEPT}
            at = keep[tuple(positions) if isinstance(positions, list) else positions]
            wanted = every[f"lm_head/{kind}"].example(e.number)[at(np.arange(e.n_tokens), n)]
            np.testing.assert_array_equal(some[f"lm_head/{kind}"].example(e.number), wanted)


def test_pools_of_examples_that_end_early_are_over_their_own_tokens(made, tmp_path):
    model, free = saved(tmp_path, "gpt2"), made("gpt2").trace
    ends = {int(e.token_ids[-1 - k]) for k, e in enumerate(free.examples)}
    model.generation_config.eos_token_id = sorted(ends)
    model.save_pretrained(tmp_path / "model")
    probes = [{"modules": "transformer.h.1"}]
    every = run(config(tmp_path, "gpt2", "every", probes, stop_at_eos=True))
    pooled = [{**probes[0], "positions": "generated", "pool": "mean"}]
    trace = run(config(tmp_path, "gpt2", "pooled", pooled, stop_at_eos=True))
    assert len({e.n_generated for e in trace.examples}) > 1
    for e in every.examples:
        rows = every["transformer.h.1"].example(e.number)[-e.n_generated :]
        np.testing.assert_allclose(trace["transformer.h.1"][e.number], rows.mean(0), atol=1e-5)


def test_a_killed_run_of_chosen_positions_goes_on(tmp_path):
    saved(tmp_path, "llama")
    probes = [{"modules": "model.layers.*", "positions": p} for p in ("generated",)]
    whole = config(tmp_path, probes=probes)
    whole["store"]["shard_bytes"] = 4000
    first = run(whole)
    shards = sorted((tmp_path / "run" / "shards").glob("0*.h5"))
    assert len(shards) > 1
    rows = {name: first[name][:] for name in first}
    for file in (tmp_path / "run" / "shards").glob(f"{shards[-1].stem}*"):
        file.unlink()
    for file in (tmp_path / "run").glob("index*"):
        file.unlink()
    again = run(whole, repair=True)
    for name, wanted in rows.items():
        np.testing.assert_array_equal(again[name][:], wanted)


def test_what_cannot_be_kept_while_generating_is_refused(tmp_path):
    saved(tmp_path, "llama")
    probes = [{"modules": "model.layers.0", "positions": "generated"}]
    plain = config(tmp_path, probes=probes)
    del plain["generate"]
    with pytest.raises(probekit.PlanError, match=r"positions: generated, but nothing is"):
        probekit.plan(plain)
    probes[0]["positions"] = [7]
    with pytest.raises(probekit.PlanError, match="position 7 does not exist"):
        probekit.plan(config(tmp_path, probes=probes))
    with pytest.raises(probekit.PlanError, match="leave no room for a text"):
        probekit.plan(config(tmp_path, max_new_tokens=64))


def test_generation_leaves_no_hook_and_the_models_own_settings(tmp_path):
    from probekit import capture, models

    saved(tmp_path, "llama")
    kept = []
    load = models.load_model

    def keep(*args, **kwargs):
        kept.append(load(*args, **kwargs))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_model", keep)
        capture.run(config(tmp_path))
    assert n_hooks(kept[0]) == 0
    assert kept[0].generation_config.max_new_tokens is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_generates_what_the_cpu_does(tmp_path):
    from probekit.config.loading import load_config

    example = Path(__file__).parents[2] / "configs" / "generate.yaml"

    def on(device):
        changes = [f"model.device={device}", f"store.path={tmp_path / device}"]
        return run(load_config(example, overrides=changes))

    cpu, gpu = on("cpu"), on("cuda")
    assert gpu.site_names == cpu.site_names
    assert np.asarray(gpu.tokens.id[:]).tolist() == np.asarray(cpu.tokens.id[:]).tolist()
    for name in cpu.site_names:
        if not name.endswith("top_k.id"):  # ids of nearly equal values can change places
            np.testing.assert_allclose(gpu[name][:], cpu[name][:], rtol=1e-3, atol=1e-3)
