"""The self-check: what it finds, what it says, and that the run is none the wiser."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import pytest
import tiny_models as tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

import probekit
from probekit import models
from probekit.capture import packing, selfcheck
from probekit.cli.commands import app
from probekit.errors import CaptureError

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
    monkeypatch.setattr("probekit.capture.receiver.pack", lambda *args: change(right(*args)))
    monkeypatch.setattr("probekit.capture.receiver.padded", lambda *args: None)


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


@pytest.mark.parametrize(
    ("model_type", "cause"),
    [
        ("cpmant", "its padding reaches them: with other padding the same text differs at"),
        ("prophetnet", "not by the padding's own values"),
    ],
)
def test_a_model_that_lets_padding_through_is_refused_and_told_how_to_run(
    tmp_path, model_type, cause
):
    model = leaking(tmp_path / "model", model_type)
    with pytest.raises(CaptureError) as refused:
        checked(model, tmp_path / "t", [{"modules": "**"}])
    said = str(refused.value)
    assert "gives a text other rows in a batch than alone, at " in said
    assert cause in said
    assert "inputs.batch_tokens: 1 runs every text alone" in said
    found = checked(model, tmp_path / "t", [{"modules": "**"}], inputs__batch_tokens=1)
    assert found["self_check"] == "passed"
    assert found["self_check_difference"] == 0


def test_the_command_line_says_it_and_can_leave_it_out(tmp_path):
    model = leaking(tmp_path / "model", "cpmant")
    config = by_hand.config(model, tmp_path / "t", probes=[{"modules": "lm_head"}])
    (tmp_path / "a.yaml").write_text(probekit.config.load_config(config).to_yaml())
    refused = CliRunner().invoke(app, ["run", str(tmp_path / "a.yaml")])
    assert isinstance(refused.exception, CaptureError)
    ran = CliRunner().invoke(app, ["run", str(tmp_path / "a.yaml"), "--no-self-check"])
    assert ran.exit_code == 0
    assert probekit.open(tmp_path / "t").provenance["self_check"] == "skipped"


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

    monkeypatch.setattr("probekit.capture.selfcheck.TemporaryDirectory", Struck)
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
    small = selfcheck._rehearsal(plan)
    assert small is not None
    assert small.examples is not None
    assert small.examples.n_tokens.tolist() == [60, 3]
    assert len(small.sites) == 64 < len(plan.sites)
    kinds = {site.spec.kind for site in plan.sites}
    assert {site.spec.kind for site in small.sites} == kinds  # one of each at least


@pytest.mark.parametrize(
    ("a", "b", "share"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.nan, 1.0], [0.0, 1.0], np.inf),
        ([-np.inf, 1.0], [-np.inf, 2.0], 0.5),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([np.nan], [np.nan], 0.0),
        ([1.0], [1.0, 2.0], np.inf),
    ],
)
def test_the_difference_is_a_share_of_the_largest_value(a, b, share):
    assert selfcheck._share(np.array(a), np.array(b)) == share
