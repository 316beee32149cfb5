"""The plan: sizes by hand, notes, what it needs and what not, and the full-size configs."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import by_hand
import pytest
import tiny_models as tiny
from by_hand import EXAMPLES, N_TOKENS
from transformers import AutoConfig

import probekit
from probekit import models
from probekit.errors import ConfigError, PlanError, StoreError
from probekit.models.listing import list_modules

ROOT = Path(__file__).parents[2]
MLP = [{"modules": "transformer.h.*.mlp.act"}]
OFFLINE = ["model.weights=random", "model.tokenizer=sample:tiny-gpt2"]


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny GPT-2's config.json and a tokenizer; no weights anywhere."""
    folder = tmp_path_factory.mktemp("gpt2")
    AutoConfig.for_model("gpt2", **tiny.CONFIGS["gpt2"]).save_pretrained(folder)
    by_hand.save_words(folder / "words")
    return folder


def test_a_plan_needs_no_weights_and_writes_nothing(architecture, tmp_path, monkeypatch):
    def refuse(*args: Any) -> None:
        raise AssertionError("loaded the model")

    monkeypatch.setattr(models, "load_model", refuse)
    probekit.plan(by_hand.config(architecture, tmp_path / "a" / "b", probes=MLP))
    assert list(tmp_path.iterdir()) == []
    assert not list(architecture.glob("*.safetensors"))


def test_sizes_are_those_worked_out_by_hand(architecture, tmp_path):
    probes = [
        {"modules": "transformer.h.*.mlp.act"},  # 72 float32, on 3 layers
        {"modules": "transformer.h.1", "positions": "last"},  # 32 float32 an example
        {"modules": "transformer.wte", "record": "input"},  # one int64
        {"modules": "lm_head", "positions": ":2"},  # 101 float32; all examples have two tokens
    ]
    found = probekit.plan(by_hand.config(architecture, tmp_path / "t", probes=probes)).to_json()
    n = len(EXAMPLES)
    act = [(f"transformer.h.{layer}.mlp.act/output", N_TOKENS, 288) for layer in range(3)]
    assert {(s["name"], s["rows"], s["row_bytes"]) for s in found["sites"]} == {
        *act,
        ("transformer.h.1/output", n, 128),
        ("transformer.wte/input", N_TOKENS, 8),
        ("lm_head/output", 2 * n, 404),
    }
    assert all(s["bytes"] == s["rows"] * s["row_bytes"] for s in found["sites"])
    assert found["token_bytes"] == 3 * 288 + 8, "of the sites that keep every token"
    assert found["total_bytes"] == N_TOKENS * (3 * 288 + 8) + n * 128 + 2 * n * 404
    assert (found["n_examples"], found["n_tokens"], found["n_shards"]) == (n, N_TOKENS, 1)
    assert found["n_parameters"] == tiny.N_PARAMETERS["gpt2"]
    assert found["model_class"] == "GPT2LMHeadModel"
    assert found["dtype"] == "float32"
    assert found["notes"] == []


def test_the_json_of_a_plan_keeps_its_keys(architecture, tmp_path):
    found = probekit.plan(by_hand.config(architecture, tmp_path / "t", probes=MLP)).to_json()
    assert json.loads(json.dumps(found)) == found
    assert {
        *("model", "model_class", "n_parameters", "dtype", "n_examples", "n_tokens", "n_shards"),
        *("token_bytes", "total_bytes", "free_bytes", "sites", "notes"),
    } <= set(found)
    assert {
        *("name", "axes", "rows", "row_shape", "dtype", "row_bytes", "bytes", "layer", "portable"),
    } <= set(found["sites"][0])


@pytest.mark.parametrize(
    ("model", "store", "stored", "row_bytes"),
    [
        ("float32", "auto", "float32", 288),
        ("bfloat16", "auto", "bfloat16", 144),
        ("bfloat16", "float32", "float32", 288),
        ("float32", "float16", "float16", 144),
    ],
)
def test_stored_dtype_is_the_computed_one_or_the_one_asked_for(
    architecture, tmp_path, model, store, stored, row_bytes
):
    config = by_hand.config(
        architecture, tmp_path / "t", probes=MLP, model__dtype=model, store__dtype=store
    )
    site = probekit.plan(config).to_json()["sites"][0]
    assert (site["dtype"], site["row_bytes"]) == (stored, row_bytes)


def test_the_plan_of_a_run_is_the_plan(tmp_path):
    config = by_hand.config(by_hand.save_tiny(tmp_path / "m", "gpt2"), tmp_path / "t", probes=MLP)
    shown: list[Any] = []
    planned = probekit.plan(config).to_json()
    probekit.run(config, on_plan=lambda plan: shown.append(plan.to_json()))
    planned["free_bytes"] = shown[0]["free_bytes"]
    assert shown == [planned]


def test_free_bytes_are_those_of_the_disk_the_trace_will_lie_on(architecture, tmp_path):
    planned = probekit.plan(by_hand.config(architecture, tmp_path / "a/b/c", probes=MLP))
    there = os.statvfs(tmp_path)
    assert abs(planned.free_bytes - there.f_bavail * there.f_frsize) < 2**30


# --- inputs


def test_texts_that_are_cut_are_noted(architecture, tmp_path):
    config = by_hand.config(architecture, tmp_path / "t", probes=MLP, inputs__max_tokens=9)
    found = probekit.plan(config).to_json()
    assert found["notes"] == [
        "2 of 6 texts are longer than 9 tokens and are cut there, 8 tokens in all "
        "(inputs.too_long: error refuses them instead)"
    ]
    assert found["n_tokens"] == sum(min(9, len(ids)) for ids in EXAMPLES)


def test_the_models_context_is_a_limit_too(architecture, tmp_path):
    long = by_hand.text_of(range(3, 83))
    config = by_hand.config(
        architecture, tmp_path / "t", probes=MLP, inputs__texts=[long], inputs__max_tokens=70
    )
    found = probekit.plan(config).to_json()
    assert found["n_tokens"] == tiny.N_CTX
    assert sorted(found["notes"]) == [
        f"1 of 1 text is longer than {tiny.N_CTX} tokens and is cut there, 16 tokens in all "
        "(inputs.too_long: error refuses them instead)",
        f"config: inputs.max_tokens: 70 is more than the model's context; {tiny.N_CTX} is used",
    ]


def test_too_long_texts_can_be_refused(architecture, tmp_path):
    config = by_hand.config(
        *(architecture, tmp_path / "t"),
        probes=MLP,
        inputs__max_tokens=9,
        inputs__too_long="error",
    )
    with pytest.raises(ConfigError, match=r"inputs.texts\[1\]: the text has 13 tokens, the limit"):
        probekit.plan(config)


def test_without_a_tokenizer_a_plan_knows_bytes_a_token_and_no_totals(architecture, tmp_path):
    config = by_hand.config(architecture, tmp_path / "t", probes=MLP)
    del config["model"]["tokenizer"]
    found = probekit.plan(config).to_json()
    assert found["token_bytes"] == 3 * 288
    for key in ("n_examples", "n_tokens", "n_shards", "total_bytes"):
        assert found[key] is None
    assert found["sites"][0]["rows"] is found["sites"][0]["bytes"] is None
    (note,) = found["notes"]
    assert note.startswith("texts cannot be counted in tokens: config: model.name: there is no tok")
    with pytest.raises(ConfigError, match=r"config: model.name: there is no tokenizer in "):
        probekit.run(config)


def test_random_inputs_need_no_tokenizer(architecture, tmp_path):
    config = by_hand.config(architecture, tmp_path / "t", probes=MLP)
    del config["model"]["tokenizer"]
    config["inputs"] = {"random": {"examples": 4, "min_tokens": 6, "max_tokens": 6}}
    assert probekit.plan(config).to_json()["n_tokens"] == 24


def test_token_ids_beyond_the_vocabulary_are_refused(architecture, tmp_path):
    by_hand.save_words(tmp_path / "more", n_words=200)
    config = by_hand.config(
        *(architecture, tmp_path / "t"),
        probes=MLP,
        inputs__texts=["1", "150"],
        model__tokenizer=str(tmp_path / "more"),
    )
    said = r"inputs.texts\[1\]: token id 150 is out of the model's vocabulary \(0..100\)"
    with pytest.raises(ConfigError, match=said):
        probekit.plan(config)


@pytest.mark.parametrize(
    ("positions", "advice"),
    [([0, 4], "a slice takes what there is"), (4, 'write "4:5" to take it where it is there')],
)
def test_a_position_that_an_example_does_not_have_is_refused(
    architecture, tmp_path, positions, advice
):
    probes = [{"modules": "transformer.h.0"}]
    probes += [{"modules": "transformer.h.1", "positions": positions}]
    said = (
        r"config: probes\[1\].positions: position 4 does not exist: it has 2 tokens "
        rf"\(example 4, 0 to 1\); {advice}"
    )
    with pytest.raises(PlanError, match=said):
        probekit.plan(by_hand.config(architecture, tmp_path / "t", probes=probes))


def test_positions_that_no_example_has_are_refused(architecture, tmp_path):
    probes = [{"modules": "transformer.h.1", "positions": "40:"}]
    said = r"config: probes\[0\].positions: no example is long enough to have rows at 40:"
    with pytest.raises(PlanError, match=said):
        probekit.plan(by_hand.config(architecture, tmp_path / "t", probes=probes))


# --- the full-size configs, with nothing in reach


@pytest.mark.parametrize(
    ("name", "n_parameters", "n_layers"), [("distilgpt2", 81_912_576, 6), ("gpt2", 124_439_808, 12)]
)
def test_full_size_configs_have_their_parameters(name, n_parameters, n_layers, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = probekit.plan(f"configs/{name}.yaml", overrides=OFFLINE).to_json()
    assert found["n_parameters"] == n_parameters
    act = [s for s in found["sites"] if s["name"].endswith(".mlp.act/output")]
    assert len(act) == n_layers
    assert {s["row_bytes"] for s in act} == {3072 * 4}
    assert found["total_bytes"] == sum(s["bytes"] for s in found["sites"])


def run_plan(*arguments: str) -> tuple[dict[str, Any], float]:
    """Run `probekit plan --json` as its own process; give what it says and its seconds of CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [Path(sys.executable).with_name("probekit"), "plan", *arguments, "--json"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found: dict[str, Any] = json.loads(ran.stdout)
    return found, seconds


def test_phi3_is_planned_in_seconds_and_its_numbers_are_right():
    found, seconds = run_plan("configs/phi3.yaml")
    assert seconds < 30, "imports included; CPU time, so that a busy machine is no failure"
    assert found["n_parameters"] == 3_821_079_552
    assert found["model_class"] == "Phi3ForCausalLM"
    assert found["dtype"] == "bfloat16"
    sites = {s["name"]: s for s in found["sites"]}
    assert len(sites) == 32 + 32 + 1
    for layer in range(32):
        neurons = sites[f"model.layers.{layer}.mlp.down_proj/input"]
        assert (neurons["row_shape"], neurons["row_bytes"]) == ([8192], 16_384)
        stream = sites[f"model.layers.{layer}/output"]
        assert (stream["row_shape"], stream["row_bytes"]) == ([3072], 6_144)
        assert (stream["portable"], stream["layer"]) == ("resid_post", layer)
    assert (sites["lm_head/output"]["row_shape"]) == [32_064]
    assert found["token_bytes"] == 32 * (16_384 + 6_144)
    assert found["total_bytes"] is None, "its tokenizer is out of reach here"


@pytest.mark.slow
def test_phi3_totals_with_a_tokenizer_at_hand(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = probekit.plan("configs/phi3.yaml", overrides=OFFLINE).to_json()
    n_tokens = found["n_tokens"]
    assert found["n_examples"] == 4
    assert found["total_bytes"] == n_tokens * 32 * (16_384 + 6_144) + 4 * 32_064 * 2


@pytest.mark.parametrize("name", ["distilgpt2", "gpt2", "microsoft/Phi-3-mini-4k-instruct"])
def test_the_portable_config_means_the_same_places_on_every_model(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = probekit.plan("configs/portable.yaml", overrides=[*OFFLINE, f"model.name={name}"])
    names = {(s.spec.portable, s.spec.layer) for s in found.sites}
    n_layers = found.sizes.n_layers
    assert n_layers in (6, 12, 32)
    assert {layer for portable, layer in names if portable == "resid_post"} == set(range(n_layers))
    assert {layer for portable, layer in names if portable == "mlp_out"} == {0, n_layers - 1}
    assert {"embed", "resid_pre", "resid_mid", "attn_out", "mlp_post", "logits", "ln_final"} <= {
        portable for portable, _ in names
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["distilgpt2", "gpt2"])
def test_full_size_configs_run_with_random_weights(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    trace = probekit.run(
        f"configs/{name}.yaml", overrides=[*OFFLINE, f"store.path={tmp_path / name}"]
    )
    planned = probekit.plan(f"configs/{name}.yaml", overrides=OFFLINE).to_json()
    assert {s["name"]: s["rows"] for s in planned["sites"]} == {
        name: len(trace[name]) for name in trace.site_names
    }


@pytest.mark.slow
def test_a_cut_phi3_runs_with_random_weights_in_bfloat16(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    trace = probekit.run(
        "configs/phi3.yaml",
        overrides=[
            *OFFLINE,
            "model.overrides.num_hidden_layers=2",
            f"store.path={tmp_path / 'phi3'}",
        ],
    )
    assert trace["model.layers.1.mlp.down_proj/input"].dtype == "bfloat16"
    assert trace["model.layers.1.mlp.down_proj/input"].shape[1:] == (8192,)


# --- listing modules


def test_modules_are_listed_in_the_order_they_run_those_that_never_run_last(architecture):
    rows = list_modules(str(architecture), match="transformer.h.0.**")
    inside = "transformer.h.0"
    assert [row["path"] for row in rows] == [
        inside,
        *(f"{inside}.{m}" for m in ("ln_1", "attn", "attn.c_attn", "attn.c_proj")),
        *(f"{inside}.{m}" for m in ("attn.resid_dropout", "ln_2", "mlp", "mlp.c_fc", "mlp.act")),
        *(f"{inside}.{m}" for m in ("mlp.c_proj", "mlp.dropout", "attn.attn_dropout")),
    ]
    by_path = {row["path"]: row for row in rows}
    act = by_path[f"{inside}.mlp.act"]
    assert (act["class"], act["calls"], act["portable"]) == (
        "NewGELUActivation",
        1,
        ["mlp_pre (input)", "mlp_post (output)"],
    )
    assert act["outputs"] == [
        {"index": None, "key": None, "axes": ["batch", "position", 72], "dtype": "float32"}
    ]
    never = by_path[f"{inside}.attn.attn_dropout"]
    assert (never["calls"], never["inputs"], never["outputs"]) == (0, [], [])


def test_modules_of_a_configs_model_are_listed(architecture, tmp_path):
    (tmp_path / "a.yaml").write_text(
        f"model: {{name: {architecture}}}\ninputs: {{texts: [a]}}\n"
        "execution_order: true\nstore: {path: t}\n"
    )
    rows = list_modules(str(tmp_path / "a.yaml"), overrides=["model.overrides.n_layer=1"])
    assert sum(row["class"] == "GPT2Block" for row in rows) == 1


def test_modules_that_match_nothing_name_the_nearest(architecture):
    with pytest.raises(
        PlanError, match=r"'\*\*.mpl' matches no module of GPT2LMHeadModel; the near"
    ):
        list_modules(str(architecture), match="**.mpl")


@pytest.mark.parametrize("name", ["a" * 300, "x/" * 3000])
def test_a_place_that_no_disk_can_have_is_refused_by_the_plan(architecture, tmp_path, name):
    config = {
        "model": {"name": str(architecture), "weights": "random"},
        "inputs": {"random": {"examples": 1, "max_tokens": 8}},
        "execution_order": True,
        "store": {"path": str(tmp_path / name)},
    }
    with pytest.raises(StoreError, match="cannot be looked into: File name too long"):
        probekit.plan(config).to_json()
