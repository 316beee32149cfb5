"""What `z`, `z_kernel`, `pattern` and `sink` mean where a gate, a norm or a sink stands."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import probekit
from probekit import PlanError, StoreError

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "head_dim": 8,
    "vocab_size": 101,
    "max_position_embeddings": 64,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GATED = ["afmoe", "bitnet", "qwen3_next", "qwen3_5_text"]
SUNK = ["gpt_oss", "granite_swa"]
go = partial(probekit.run, self_check=False)  # tests/capture/test_selfcheck.py has it


def saved(folder: Path, family: str) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES))
        for name, parameter in model.named_parameters():
            if name.endswith("sinks"):
                torch.nn.init.normal_(parameter)
    return by_hand.save_model(folder, model)


def run(model: Path, folder: Path, kinds: list[str]) -> probekit.Trace:
    probes = [{"modules": "model.layers.*.self_attn", "record": kinds}]
    return go(by_hand.config(model, folder, probes=probes))


def read_by(model: Path, ids: list[int]) -> dict[str, np.ndarray[Any, Any]]:
    """Give what each output projection reads and gives of a text alone, by a bare hook."""
    fresh, seen = AutoModelForCausalLM.from_pretrained(model).eval(), {}

    def hook(path: str) -> Any:
        return lambda module, args: seen.__setitem__(path, args[0].detach().clone()[0].numpy())

    for path, module in fresh.named_modules():
        if path.endswith("self_attn.o_proj"):
            module.register_forward_pre_hook(hook(path.removesuffix(".o_proj")))
    with torch.no_grad():
        fresh(input_ids=torch.tensor([ids]), use_cache=False)
    return seen


@pytest.mark.few(4)
@pytest.mark.parametrize("family", [*GATED, *SUNK, "llama"])
def test_z_is_what_the_output_projection_reads(tmp_path: Path, family: str) -> None:
    model = saved(tmp_path / "model", family)
    trace = run(model, tmp_path / "t", ["z", "z_kernel"])
    sites = [name for name in trace if name.endswith("/z")]
    assert sites
    for example in trace.examples:
        wanted = read_by(model, example.token_ids.tolist())
        for name in sites:
            rows = trace[name].example(example.number)
            flat = wanted[name.removesuffix("/z")]
            assert rows.shape == (example.n_tokens, 4, flat.shape[1] // 4)
            found = rows.reshape(flat.shape)
            np.testing.assert_allclose(found, flat, atol=1e-5 * np.abs(flat).max())
    for name in sites:
        z, kernel = trace[name][:], trace[f"{name}_kernel"][:]
        apart = np.abs(z - kernel).max() / np.abs(z).max()
        assert apart > 0.1 if family in GATED else apart == 0
        assert ("read_by" in trace[name].attributes) == (family in GATED)


@pytest.mark.few(2)
@pytest.mark.parametrize("family", GATED)
def test_record_gives_the_same_z(tmp_path: Path, family: str) -> None:
    model = saved(tmp_path / "model", family)
    trace = run(model, tmp_path / "t", ["z"])
    ids = trace.examples[1].token_ids.tolist()
    fresh = AutoModelForCausalLM.from_pretrained(model).eval()
    with probekit.record(fresh, list(trace)) as rec, torch.no_grad():
        fresh(input_ids=torch.tensor([ids]), use_cache=False)
    for name in trace:
        wanted = trace[name].example(1)
        assert rec[name].shape == (1, *wanted.shape)
        np.testing.assert_allclose(rec[name][0].numpy(), wanted, atol=1e-5)


def test_heads_and_neurons_are_chosen_of_what_is_read(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "qwen3_next")
    whole = run(model, tmp_path / "a", ["z"])
    probes = [{"modules": "model.layers.3.self_attn", "record": ["z"], "heads": [3, 1]}]
    few = go(by_hand.config(model, tmp_path / "b", probes=probes))
    site = "model.layers.3.self_attn/z"
    assert few[site].numbers("head") == (3, 1)
    assert few[site][:].tobytes() == np.ascontiguousarray(whole[site][:][:, [3, 1]]).tobytes()


@pytest.mark.few(2)
@pytest.mark.parametrize("family", SUNK)
@pytest.mark.parametrize("kernel", ["eager", "auto"])
def test_a_pattern_sums_to_what_reaches_tokens_and_the_sink_is_the_rest(
    tmp_path: Path, family: str, kernel: str
) -> None:
    model = saved(tmp_path / "model", family)
    probes = [{"modules": "model.layers.*.self_attn", "record": ["pattern", "sink", "v", "z"]}]
    trace = go(by_hand.config(model, tmp_path / "t", probes=probes, model__attention=kernel))
    for layer in range(4):
        at = f"model.layers.{layer}.self_attn"
        sink = trace[f"{at}/sink"]
        assert sink.axes == ("token", "head")
        for example in trace.examples:
            pattern = trace[f"{at}/pattern"].example(example.number)  # [head, query, key]
            share = sink.example(example.number).T  # [head, query]
            np.testing.assert_allclose(pattern.sum(-1) + share, 1, atol=1e-5)
            assert 0.01 < share.mean() < 0.99
            values = trace[f"{at}/v"].example(example.number).repeat(2, axis=1)
            z = np.einsum("hqk,khd->qhd", pattern, values)  # what reaches the projection
            found = trace[f"{at}/z"].example(example.number)
            np.testing.assert_allclose(found, z, atol=1e-5 * np.abs(z).max())


def test_what_there_is_not_is_refused_with_the_reason(tmp_path: Path) -> None:
    llama = saved(tmp_path / "llama", "llama")
    with pytest.raises(PlanError, match="its attention has no sink"):
        run(llama, tmp_path / "t", ["sink"])
    two = saved(tmp_path / "two", "diffllama")
    for kind in ("z", "pattern", "q"):
        with pytest.raises(PlanError, match="calls its attention kernel 2 times"):
            run(two, tmp_path / "u", [kind])
    assert go(
        by_hand.config(two, tmp_path / "v", probes=[{"modules": "model.layers.*.self_attn"}])
    ).site_names
    with pytest.raises(PlanError, match=r"no one linear map reads .*/z_kernel is what"):
        jet = AutoModelForCausalLM.from_config(AutoConfig.for_model("jetmoe", **SIZES))
        probekit.record(jet, "model.layers.0.self_attention/z")
    with pytest.raises(PlanError, match="is no model of transformers"):
        probekit.record(torch.nn.Sequential(torch.nn.Linear(4, 4)), "0/z")


def test_an_old_run_of_the_old_meaning_is_not_mixed_with_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from probekit.store.format import schema

    model = saved(tmp_path / "model", "bitnet")
    monkeypatch.setattr("probekit.capture.begun.format_of", lambda *_, **__: schema.FIRST)
    with pytest.raises(StoreError, match=r"means something else since format 1\.1; finish the run"):
        run(model, tmp_path / "t", ["z"])
    run(model, tmp_path / "t", ["z_kernel"])
    plain = saved(tmp_path / "plain", "llama")
    run(plain, tmp_path / "u", ["z"])


def test_as_many_experts_as_heads_are_no_heads(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "llama4_text")
    probes = [{"modules": "model.layers.*.feed_forward.**"}]
    plan = probekit.plan(by_hand.config(model, tmp_path / "t", probes=probes))
    axes = {axis for site in plan.sites for axis in site.spec.axes}
    assert len(plan.sites) > 3
    assert not axes & {"head", "kv_head"}
