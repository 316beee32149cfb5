"""What cannot run here is refused when it is planned, with what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import by_hand
import pytest
import tiny_models as tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import probekit
from probekit import PlanError

MLP = [{"modules": "transformer.h.*.mlp.act"}]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return by_hand.save_tiny(tmp_path_factory.mktemp("gpt2"), "gpt2")


def plan(gpt2: Path, folder: Path, **more: Any) -> Any:
    flash = {"model__attention": "flash_attention_2", **more}
    return probekit.plan(by_hand.config(gpt2, folder / "t", probes=MLP, **flash))


def test_flash_attention_says_all_that_it_needs(gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError) as refused:
        plan(gpt2, tmp_path)
    said = str(refused.value)
    assert "flash_attention_2 needs a CUDA device (this run is on cpu)" in said
    assert "model.dtype: bfloat16 or float16 (this run computes in float32)" in said
    assert "the package flash-attn" in said


def test_flash_attention_runs_where_all_is_there(
    gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "probekit.models.checkpoints.compute_device", lambda *_: torch.device("cuda")
    )
    with pytest.raises(PlanError, match=r"needs the package flash-attn \("):
        plan(gpt2, tmp_path, model__dtype="bfloat16")
    with pytest.raises(PlanError, match=r"needs model.dtype: bfloat16"):
        plan(gpt2, tmp_path, model__trust_remote_code=True)
    monkeypatch.setattr("probekit.models.checkpoints.is_flash_attn_2_available", lambda: True)
    assert plan(gpt2, tmp_path, model__dtype="bfloat16").sites


@pytest.mark.parametrize("family", ["xlnet", "xlm"])
def test_a_model_that_adds_tokens_does_not_generate(tmp_path: Path, family: str) -> None:
    sizes = {"n_layer": 2, "n_head": 4, "d_model": 32, "n_layers": 2, "n_heads": 4, "emb_dim": 32}
    config = AutoConfig.for_model(family, vocab_size=tiny.D_VOCAB, n_words=tiny.D_VOCAB, **sizes)
    model = by_hand.save_model(tmp_path / "m", AutoModelForCausalLM.from_config(config))
    made = by_hand.config(model, tmp_path / "t", probes=[{"modules": "**"}])
    assert probekit.plan(made).sites
    with pytest.raises(PlanError, match="reads other tokens than it was given while it generates"):
        probekit.plan({**made, "generate": {"max_new_tokens": 2}})


def test_a_model_that_switches_its_attention_begins_with_that_of_short_texts(
    tmp_path: Path,
) -> None:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
    blocks = {"block_size": 4, "num_random_blocks": 2, "intermediate_size": 64}
    config = AutoConfig.for_model(
        "big_bird", vocab_size=tiny.D_VOCAB, is_decoder=True, **sizes, **blocks
    )
    model = by_hand.save_model(tmp_path / "m", AutoModelForCausalLM.from_config(config))
    probes = [{"modules": "bert.encoder.layer.*.attention.self"}]
    trace = probekit.run(by_hand.config(model, tmp_path / "t", probes=probes))
    fresh = AutoModelForCausalLM.from_pretrained(model).eval()  # switches by itself
    for example in trace.examples:
        with torch.no_grad():
            out = fresh(torch.tensor([example.token_ids.tolist()]), output_hidden_states=True)
        assert out.logits.shape[1] == example.n_tokens
    last = probekit.run(
        by_hand.config(model, tmp_path / "u", probes=[{"modules": "bert.encoder.layer.1"}])
    )
    for example in last.examples:
        with torch.no_grad():
            out = fresh(torch.tensor([example.token_ids.tolist()]), output_hidden_states=True)
        wanted = out.hidden_states[-1][0]
        found = torch.from_numpy(last["bert.encoder.layer.1"].example(example.number).copy())
        assert torch.allclose(found, wanted, atol=1e-5)
    long = by_hand.config(model, tmp_path / "v", probes=probes)
    long["inputs"]["texts"] = [" ".join(["5"] * 37)]
    with pytest.raises(PlanError, match="takes other modules for texts of more than 36 tokens"):
        probekit.plan(long)
