"""What modules are made of, without weights, against bare models with weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import every_family
import numpy as np
import pytest
import tiny_models as tiny
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from probekit.models import skeleton as building
from probekit.models.details import Details, OwnTensor, describe
from probekit.models.modulerows import summarize_modules
from probekit.models.skeleton import build_skeleton

EXPERTS = {"num_local_experts": 6, "num_experts_per_tok": 2}
CONFIGS = {
    "gpt2": tiny.CONFIGS["gpt2"],  # tied; Conv1D
    "llama": tiny.CONFIGS["llama"],
    "phi3": tiny.CONFIGS["phi3"],
    "gemma3_text": tiny.CONFIGS["gemma3_text"],  # tied; layers of two kinds
    "mixtral": tiny.LLAMA | EXPERTS,
}


def hf_config(family: str, **overrides: Any) -> Any:
    return AutoConfig.for_model(family, **CONFIGS[family] | overrides)


def details(config: Any, dtype: torch.dtype = torch.float32) -> Mapping[str, Details]:
    return build_skeleton(config, dtype, details=True).details


def bare(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    with torch.random.fork_rng(devices=[]):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def held(tensors: tuple[OwnTensor, ...]) -> list[tuple[str, tuple[int, ...], str, int]]:
    return [(t.name, t.shape, t.dtype, t.n_values) for t in tensors]


# --- parameters and buffers


@pytest.mark.few(3)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_module_has_the_parameters_that_the_real_one_has_itself(family):
    found = details(hf_config(family), torch.bfloat16)
    model = bare(hf_config(family), torch.bfloat16)
    assert list(found) == [path for path, _ in model.named_modules()]
    for path, module in model.named_modules():
        assert held(found[path].parameters) == [
            (name, tuple(p.shape), "bfloat16", p.numel())
            for name, p in module.named_parameters(recurse=False)
        ], path


@pytest.mark.parametrize("family", CONFIGS)
def test_the_places_of_a_shared_parameter_are_those_where_the_real_tensor_lies(family):
    model = bare(hf_config(family))
    at: dict[int, set[str]] = {}
    for place, parameter in model.named_parameters(remove_duplicate=False):
        at.setdefault(parameter.data_ptr(), set()).add(place)
    for path, made_of in details(hf_config(family)).items():
        for tensor in made_of.parameters:
            place = f"{path}.{tensor.name}"
            real = at[model.get_parameter(place).data_ptr()]
            assert {place, *tensor.shared_with} == real
    tied = family in ("gpt2", "gemma3_text")
    assert any(len(places) > 1 for places in at.values()) == tied, "or the test says nothing"


def test_buffers_are_those_that_are_saved_with_the_weights():
    config = every_family.tiny_config("deepseek_v3")
    found = {path: held(d.buffers) for path, d in details(config).items() if d.buffers}
    correction = ("e_score_correction_bias", (4,), "float32", 4)
    assert found == {f"model.layers.{n}.mlp.gate": [correction] for n in (1, 2, 3)}
    real = [name for name, _ in bare(config).named_buffers()]
    assert "model.rotary_emb.inv_freq" in real, "one that is not saved"


def test_no_run_pays_for_what_modules_are_made_of(monkeypatch):
    def refuse(model: nn.Module) -> None:
        raise AssertionError("nobody asked")

    monkeypatch.setattr(building, "describe", refuse)
    assert build_skeleton(hf_config("gpt2"), torch.float32).details == {}


# --- settings


def test_gpt2_says_its_settings():
    config = hf_config("gpt2", layer_norm_epsilon=3e-4, resid_pdrop=0.3, attn_pdrop=0.2)
    inside = "transformer.h.2"
    found = {path: d.settings for path, d in details(config).items()}
    assert found[f"{inside}.ln_1"] == {
        "normalized_shape": [tiny.D_MODEL],
        "eps": 3e-4,
        "elementwise_affine": True,
        "bias": True,
    }
    assert found[f"{inside}.attn.resid_dropout"] == {"p": 0.3, "inplace": False}
    assert found[f"{inside}.attn.attn_dropout"]["p"] == 0.2, "although it never runs"
    assert found[f"{inside}.mlp.c_fc"] == {"nf": tiny.D_MLP, "nx": tiny.D_MODEL, "bias": True}
    head = {"in_features": tiny.D_MODEL, "out_features": tiny.D_VOCAB, "bias": False}
    assert found["lm_head"] == head
    attention = found[f"{inside}.attn"]
    assert (attention["layer_idx"], attention["is_causal"]) == (2, True)
    assert attention["scaling"] == (tiny.D_MODEL // tiny.N_HEADS) ** -0.5
    assert found["transformer"] == {"embed_dim": tiny.D_MODEL}, "nothing of torch's own"


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma3_text", "mixtral"])
def test_an_epsilon_is_called_eps_whatever_its_attribute_is_called(family):
    found = details(hf_config(family, rms_norm_eps=3e-4))
    norms = [path for path in found if path.endswith("norm")]
    assert len(norms) > 2 * tiny.N_LAYERS
    assert {found[path].settings["eps"] for path in norms} == {3e-4}


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_linear_layers_have_the_sizes_and_biases_of_the_real_ones(family):
    config = hf_config(family, attention_bias=True)
    found, seen = details(config), set()
    for path, module in bare(config).named_modules():
        if isinstance(module, nn.Linear):
            n_out, n_in = module.weight.shape
            has = module.bias is not None
            sizes = {"in_features": n_in, "out_features": n_out, "bias": has}
            assert found[path].settings == sizes
            seen.add(has)
    assert seen == {True, False}


def test_layers_of_two_kinds_say_their_own_window():
    found = details(hf_config("gemma3_text"))
    windows = [found[f"model.layers.{n}.self_attn"].settings["sliding_window"] for n in range(3)]
    assert windows == [tiny.WINDOW, None, tiny.WINDOW]
    assert found["model.layers.0.mlp.act_fn"].settings == {"act": "gelu(approximate='tanh')"}


def test_infinities_of_a_real_model_are_valid_json():
    skeleton = build_skeleton(every_family.tiny_config("bamba"), torch.float32, details=True)
    rows = summarize_modules(skeleton, skeleton.modules)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    limits = [r["settings"]["time_step_limit"] for r in rows if r["class"] == "BambaMixer"]
    assert limits and all(limit == [0.0, "inf"] for limit in limits)


class Odd(nn.Module):
    """What modules of strangers may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.half = np.float32(0.5)
        self.three = np.int64(3)
        self.numbers = (1, float("nan"), -float("inf"))
        self.by_layer = {0: "full", 1: None}
        self.kind = torch.bfloat16
        self.act = functools.partial(nn.functional.gelu, approximate="tanh")
        self.plain_act = torch.relu
        self._private = 4
        self.tensor = torch.ones(3)
        self.config = AutoConfig.for_model("gpt2")
        self.mixed = [1, self.config]
        self.child = nn.GELU(approximate="tanh")
        self.register_parameter("bias", None)
        self.weight = nn.Parameter(torch.ones(2, 3))
        self.twin = self.weight
        self.register_buffer("kept", torch.ones((), dtype=torch.int64))
        self.register_buffer("lost", torch.ones(5), persistent=False)
        self.register_buffer("never", None)


def test_a_module_of_any_kind_is_described():
    found = describe(nn.Sequential(Odd()))
    assert found["0.child"].settings == {"approximate": "tanh"}
    assert found["0"] == Details(
        parameters=(
            OwnTensor(name="weight", shape=(2, 3), dtype="float32", shared_with=("0.twin",)),
            OwnTensor(name="twin", shape=(2, 3), dtype="float32", shared_with=("0.weight",)),
        ),
        buffers=(OwnTensor(name="kept", shape=(), dtype="int64", shared_with=()),),
        settings={
            "half": 0.5,
            "three": 3,
            "numbers": [1, "nan", "-inf"],
            "by_layer": {"0": "full", "1": None},
            "kind": "bfloat16",
            "act": "gelu(approximate='tanh')",
            "plain_act": "relu",
            "bias": False,
        },
    )
    assert found["0"].buffers[0].n_values == 1
    assert json.dumps(found["0"].settings, allow_nan=False)


def test_what_a_model_holds_itself_has_places_too():
    model = Odd()
    (weight, _) = describe(model)[""].parameters
    assert weight.shared_with == ("twin",)
