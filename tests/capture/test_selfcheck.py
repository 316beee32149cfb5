"""The self-check: what it finds, what it says, and that the run is none the wiser."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import by_hand
import every_family
import numpy as np
import pytest
import tiny_models as tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

import probekit
from probekit import models
from probekit.capture.rows import packing, receiver
from probekit.capture.selfcheck.rehearsal import rehearsals
from probekit.cli.commands import app
from probekit.errors import CaptureError
from probekit.inputs import ANY_LENGTHS

pytestmark = pytest.mark.rehearsed

EVERYTHING = [{"modules": "**", "record": ["output", "input"]}]
SOME = [{"modules": "transformer.h.*.mlp.act"}, {"modules": "lm_head"}]  # 4 sites
LEAKING = {
    "cpmant": {
        "vocab_size": 101,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "dim_head": 8,
        "dim_ff": 72,
        "num_hidden_layers": 2,
        "position_bias_num_buckets": 32,
        "prompt_types": 4,
        "prompt_length": 4,
        "segment_types": 4,
    },
    "prophetnet": {
        "vocab_size": 101,
        "hidden_size": 32,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 64,
        "is_decoder": True,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
    },
}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return by_hand.save_tiny(tmp_path_factory.mktemp("gpt2"), "gpt2")


def checked(model: Path, folder: Path, probes: Any = EVERYTHING, **more: Any) -> dict[str, Any]:
    """Run, and give what the trace says of the self-check."""
    trace = probekit.run(by_hand.config(model, folder, probes=probes, **more))
    return {k: v for k, v in trace.provenance.items() if k.startswith("self_check")}


# --- what it says of a run that is right


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_right_runs_pass_and_the_trace_says_so(tmp_path, family):
    found = checked(by_hand.save_tiny(tmp_path / "model", family), tmp_path / "t")
    assert found["self_check"] == "passed"
    assert 20 < found["self_check_sites"] <= 64
    assert 0 < found["self_check_difference"] < 1e-5
    assert found["self_check_tolerance"] == 1e-3
    assert found["self_check_site"] in by_hand.site_names(tmp_path / "t" / "trace.h5")


@pytest.mark.parametrize(("dtype", "store"), [("bfloat16", "float16"), ("float16", "auto")])
def test_sixteen_bits_pass_with_their_own_tolerance(gpt2, tmp_path, dtype, store):
    found = checked(gpt2, tmp_path / "t", SOME, model__dtype=dtype, store__dtype=store)
    assert found["self_check"] == "passed"
    assert found["self_check_tolerance"] == (0.2 if dtype == "bfloat16" else 0.05)


ATTENTION = [{"modules": "**.attn", "record": ["pattern", "scores", "q", "k", "v", "z"]}]
ENDINGS = [{"modules": "lm_head", "record": ["top_k", "token_logprob", "entropy"]}]
CHOICES = [
    {"modules": "transformer.h.0.mlp.act", "neurons": [3, 1]},
    {"modules": "transformer.h.1", "positions": "1:"},
    {"modules": "transformer.h.2", "positions": "last"},
    {"modules": "transformer.h.*.mlp", "pool": "mean"},
]


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("probes", "n_sites", "more"),
    [
        (ATTENTION, 0, {}),
        (ATTENTION, 0, {"model__attention": "eager"}),
        (ENDINGS, 0, {}),
        (CHOICES, 3, {}),
        (CHOICES, 3, {"early_stop": False}),
        (CHOICES, 3, {"execution_order": True}),
        (CHOICES, 3, {"inputs__batch_tokens": 1}),
        ([{"modules": "lm_head", "positions": [0, 1]}], 1, {}),
        ([{"modules": "transformer.h.0"}], 1, {"generate": {"max_new_tokens": 3}}),
        (SOME, 4, {"generate": {"max_new_tokens": 2, "use_cache": "both"}}),
        (ATTENTION, 0, {"generate": {"max_new_tokens": 2, "use_cache": False}}),
        (SOME, 4, {"store__compression": "gzip"}),
    ],
)
def test_every_kind_of_run_is_checked(gpt2, tmp_path, probes, n_sites, more):
    found = checked(gpt2, tmp_path / "t", probes, **more)
    assert found["self_check"] == "passed"
    assert found["self_check_sites"] == n_sites
    assert found["self_check_difference"] <= 1e-5


MULTIPLES = [{"sites": ["attn_out", "embed"]}]


@pytest.fixture(scope="module")
def granite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = every_family.build("granite")
    return by_hand.save_model(tmp_path_factory.mktemp("granite") / "model", model)


@pytest.mark.parametrize(
    ("dtype", "store"), [("float32", "auto"), ("bfloat16", "auto"), ("bfloat16", "float16")]
)
def test_a_multiple_of_what_a_module_gives_is_checked_too(granite, tmp_path, dtype, store):
    found = checked(granite, tmp_path / "t", MULTIPLES, model__dtype=dtype, store__dtype=store)
    assert (found["self_check"], found["self_check_sites"]) == ("passed", 5)
    site = probekit.open(tmp_path / "t").select("attn_out", layer=1)
    assert site.attributes["exactness"] == "derived, within rounding"


def test_another_multiple_than_the_models_is_found(granite, tmp_path, monkeypatch):
    multiplied = receiver.computed
    monkeypatch.setattr(receiver, "computed", lambda *given: multiplied(*given) * 1.01)
    with pytest.raises(CaptureError, match=r"embed_tokens/scaled by up to"):
        checked(granite, tmp_path / "t", MULTIPLES)


def test_one_text_alone_is_compared_with_hooks_only(gpt2, tmp_path):
    found = checked(gpt2, tmp_path / "t", SOME, inputs__texts=["5 6 7"])
    assert found == {"self_check": "passed", "self_check_sites": 4}


def test_a_run_that_records_no_tensor_has_nothing_to_check(gpt2, tmp_path):
    assert checked(gpt2, tmp_path / "t", [], execution_order=True) == {
        "self_check": "nothing to check"
    }


def test_it_can_be_left_out_and_the_trace_says_that(gpt2, tmp_path):
    config = by_hand.config(gpt2, tmp_path / "t", probes=SOME)
    trace = probekit.run(config, self_check=False)
    assert trace.provenance["self_check"] == "skipped"


def test_info_shows_it(gpt2, tmp_path):
    checked(gpt2, tmp_path / "t", SOME)
    shown = " ".join(CliRunner().invoke(app, ["info", str(tmp_path / "t")]).output.split())
    assert "self-check: passed, 4 sites equal a bare hook bit for bit; alone and in a" in shown


# --- what it finds


def spoil(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Make packing give other rows than the model's."""
    right = packing.pack
    monkeypatch.setattr("probekit.capture.rows.receiver.pack", lambda *args: change(right(*args)))
    monkeypatch.setattr("probekit.capture.rows.receiver.padded", lambda *args: None)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.roll(1, 0),
        lambda rows: rows + torch.finfo(torch.float32).eps * rows.abs().clamp(min=1),
        lambda rows: rows.flip(-1),
    ],
    ids=["shifted", "a last bit", "turned"],
)
def test_rows_that_are_not_the_models_are_an_error_that_names_the_site(
    gpt2, tmp_path, monkeypatch, change
):
    spoil(monkeypatch, change)
    probes = [{"modules": "transformer.h.{0,1}.mlp.act"}]
    with pytest.raises(CaptureError) as refused:
        checked(gpt2, tmp_path / "t", probes)
    said = str(refused.value)
    assert "self-check: what would be stored is not what a bare torch hook sees" in said
    assert "transformer.h.0.mlp.act/output by up to " in said
    assert by_hand.shard_files(tmp_path / "t") == []
    config = by_hand.config(gpt2, tmp_path / "t", probes=probes)
    probekit.run(config, self_check=False)  # what was asked for


def test_rows_of_another_call_are_found(gpt2, tmp_path, monkeypatch):
    from probekit.hooks import taps as hooks

    right = hooks.pick_output
    monkeypatch.setattr(hooks, "pick_output", lambda out, element: right(out, element) * 1)
    checked(gpt2, tmp_path / "a", [{"modules": "lm_head"}])  # the same values: nothing to find
    monkeypatch.setattr(hooks, "pick_output", lambda out, element: right(out, element) * 2)
    with pytest.raises(CaptureError, match="lm_head/output by up to"):
        checked(gpt2, tmp_path / "b", [{"modules": "lm_head"}])


def leaking(folder: Path, model_type: str) -> Path:
    config = AutoConfig.for_model(model_type, **LEAKING[model_type])
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config)
    tiny.randomize(model)
    return by_hand.save_model(folder, model)


def alone(model: Path, ids: list[int], site: str) -> np.ndarray[Any, Any]:
    """Give what a bare hook sees of one text on a model that has just been loaded, `[token, d]`."""
    fresh = AutoModelForCausalLM.from_pretrained(model).eval()
    seen: list[torch.Tensor] = []
    hook = fresh.get_submodule(site).register_forward_hook(lambda m, a, out: seen.append(out))
    with torch.no_grad():
        fresh(input_ids=torch.tensor([ids]), use_cache=False)
    hook.remove()
    (rows,) = seen
    return rows[0].numpy()


def assert_true(trace: probekit.Trace, model: Path, site: str) -> None:
    """Compare each text with itself alone on a fresh model."""
    for example in trace.examples:
        wanted = alone(model, example.token_ids.tolist(), site)
        found = trace[site].example(example.number)
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("model_type", ["cpmant", "prophetnet"])
def test_where_padding_reaches_the_rows_texts_of_one_length_run_together(tmp_path, model_type):
    model = leaking(tmp_path / "model", model_type)
    notes: list[str] = []
    config = by_hand.config(model, tmp_path / "t", probes=[{"modules": "lm_head"}])
    trace = probekit.run(config, on_note=notes.append)
    assert trace.provenance["self_check_batches"] == "one length"
    assert any("lets padding or longer texts in a batch reach" in note for note in notes)
    assert trace.provenance["self_check_difference"] < 1e-5
    if model_type == "prophetnet":
        return  # its head gives [batch, ngram, position], of the n-grams alone
    assert_true(trace, model, "lm_head")
    for file in (*by_hand.shard_files(tmp_path / "t"), tmp_path / "t" / "trace.h5"):
        file.unlink()  # it goes on in the company that was found, also unchecked
    again = probekit.run(config, self_check=False, repair=True)
    assert_true(again, model, "lm_head")


def test_where_batch_mates_reach_the_rows_every_text_runs_alone(gpt2, tmp_path, monkeypatch):
    load = models.load_model

    def mixes(*args: Any) -> Any:
        model = load(*args)
        model.transformer.wte.register_forward_hook(lambda m, a, out: out + out.mean(0) / len(out))
        return model

    monkeypatch.setattr(models, "load_model", mixes)
    found = checked(gpt2, tmp_path / "t", SOME)
    assert found["self_check_batches"] == "alone"
    assert found["self_check_difference"] == 0
    generated = checked(gpt2, tmp_path / "u", SOME, generate={"max_new_tokens": 2})
    assert generated["self_check_batches"] == "alone"


def test_the_command_line_says_it_and_can_leave_it_out(tmp_path):
    model = leaking(tmp_path / "model", "cpmant")
    config = by_hand.config(model, tmp_path / "t", probes=[{"modules": "lm_head"}])
    (tmp_path / "a.yaml").write_text(probekit.config.load_config(config).to_yaml())
    ran = CliRunner().invoke(app, ["run", str(tmp_path / "a.yaml")])
    assert ran.exit_code == 0
    assert "texts of one length run together, without" in " ".join(ran.output.split())
    options = ["--no-self-check", "--overwrite", "--set", f"store.path={tmp_path / 'u'}"]
    assert CliRunner().invoke(app, ["run", str(tmp_path / "a.yaml"), *options]).exit_code == 0
    assert probekit.open(tmp_path / "u").provenance["self_check"] == "skipped"


def dynamic(folder: Path, model_type: str) -> Path:
    """Save a model whose rotary embeddings stretch with the longest text beyond 16 tokens."""
    config = AutoConfig.for_model(
        model_type, **{**tiny.CONFIGS[model_type], "max_position_embeddings": 8}
    )
    config.rope_parameters = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config)
    tiny.randomize(model)
    return by_hand.save_model(folder, model)


@pytest.mark.few(2)
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma"])
@pytest.mark.parametrize("self_check", [True, False])
def test_dynamic_rope_gives_a_text_what_it_has_alone(tmp_path, model_type, self_check):
    model = dynamic(tmp_path / "model", model_type)
    config = by_hand.config(model, tmp_path / "t", probes=[{"modules": "model.layers.*"}])
    plan = probekit.plan(config)
    assert any("are dynamic, they stretch with the longest text" in note for note in plan.notes)
    trace = probekit.run(config, self_check=self_check)
    assert {len(e.token_ids) > 8 for e in trace.examples} == {True, False}
    for layer in range(2):
        assert_true(trace, model, f"model.layers.{layer}")


def test_a_model_that_carries_something_else_is_refused(gpt2, tmp_path, monkeypatch):
    load = models.load_model

    def remembers(*args: Any) -> Any:
        model = load(*args)
        longest = [0]

        def hook(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            longest[0] = max(longest[0], output.shape[1])
            return output * (1 + longest[0] / 100)

        model.transformer.wte.register_forward_hook(hook)
        return model

    monkeypatch.setattr(models, "load_model", remembers)
    with pytest.raises(CaptureError, match="carries something from pass to pass"):
        checked(gpt2, tmp_path / "t", SOME)


def test_what_shows_at_the_lengths_of_the_run_alone_is_found(gpt2, tmp_path, monkeypatch):
    """Other values as soon as a batch is wider than what is rehearsed with many sites."""
    monkeypatch.setattr("probekit.capture.selfcheck.rehearsal._MOST_TOKENS", 8)
    load = models.load_model

    def wide(*args: Any) -> Any:
        model = load(*args)
        model.transformer.wte.register_forward_hook(
            lambda module, inputs, output: output * (2 if output.shape[1] > 8 else 1)
        )
        return model

    monkeypatch.setattr(models, "load_model", wide)
    assert checked(gpt2, tmp_path / "t", SOME)["self_check_batches"] == "one length"


# --- the run is none the wiser


def test_what_is_recorded_is_the_same_with_and_without_it(gpt2, tmp_path):
    contents = []
    for self_check in (True, False):
        config = by_hand.config(gpt2, tmp_path / "t", probes=SOME, execution_order=True)
        probekit.run(config, overwrite=True, self_check=self_check)
        found = by_hand.everything(by_hand.shard_files(tmp_path / "t")[0])
        contents.append(found)
    assert contents[0] == contents[1]


def test_it_leaves_no_hook_no_file_and_no_random_state(gpt2, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    loaded = []
    right = models.load_model
    monkeypatch.setattr(
        models, "load_model", lambda *args: loaded.append(right(*args)) or loaded[0]
    )
    torch.manual_seed(3)
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    checked(gpt2, tmp_path / "t", SOME)
    assert by_hand.n_hooks(loaded[0]) == 0
    assert list(scratch.iterdir()) == []
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_nothing_is_left_after_it_has_failed(gpt2, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    spoil(monkeypatch, lambda rows: rows * 2)
    with pytest.raises(CaptureError):
        checked(gpt2, tmp_path / "t", SOME)
    assert list(scratch.iterdir()) == []


def test_nothing_is_left_by_an_interrupt_while_it_is_cleared_away(gpt2, tmp_path, monkeypatch):
    class Struck(tempfile.TemporaryDirectory[str]):
        def cleanup(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            super().cleanup()

    monkeypatch.setattr("probekit.capture.selfcheck.checking.TemporaryDirectory", Struck)
    with pytest.raises(KeyboardInterrupt):
        probekit.run(by_hand.config(gpt2, tmp_path / "t", probes=SOME))
    assert [p.name for p in (tmp_path / "t").rglob("*") if p.is_file()] == ["run.json"]


def test_a_run_that_goes_on_is_checked_on_the_same_texts(gpt2, tmp_path):
    whole = by_hand.config(gpt2, tmp_path / "t", probes=SOME)
    whole["store"]["shard_bytes"] = 10_000
    first = probekit.run(whole).provenance
    shards = by_hand.shard_files(tmp_path / "t")
    assert len(shards) > 2
    for file in (shards[1], shards[1].with_suffix(".json"), tmp_path / "t" / "trace.h5"):
        file.unlink()
    again = probekit.run(whole).provenance
    assert {k: v for k, v in again.items() if k.startswith("self_check")} == {
        k: v for k, v in first.items() if k.startswith("self_check")
    }


def test_long_texts_are_cut_and_many_sites_are_chosen_from(tmp_path):
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    plan = probekit.plan(
        by_hand.config(
            model,
            tmp_path / "t",
            probes=[*EVERYTHING, {"sites": "pattern"}],
            inputs__texts=[" ".join(["5"] * 60), "1 2 3"],
        )
    )
    (small,) = rehearsals(plan, ANY_LENGTHS)
    assert small.examples is not None
    assert small.examples.n_tokens.tolist() == [60, 3]
    assert len(small.sites) == 64 < len(plan.sites)
    kinds = {site.spec.kind for site in plan.sites}
    assert {site.spec.kind for site in small.sites} == kinds  # one of each at least
