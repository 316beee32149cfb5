"""Tiny models are made of what the model itself is made of, or are refused with the difference."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from hub_configs import HUB
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from probekit.errors import PlanError
from probekit.models import build_skeleton, families
from probekit.models.places import derived, tinymodels
from probekit.models.places.tiny import shrunk

SAMPLE = (
    "granite-4.0-h-micro",
    "Jamba-without-experts",
    "opt-350m",
    "falcon-7b",
    "DeepSeek-V2-Lite",
)
STREAM = {"resid_pre", "mlp_out", "ln1_scale"}
NO_NORM_BEFORE = ("opt", "electra", "olmo2")  # some of opt; the others' norms come behind
NO_MLP = ("mamba2", "zamba2", "recurrent_gemma")  # whose mixers and MLPs are one, or share modules


def config_of(name: str) -> Any:
    family, fields = HUB[name]
    return AutoConfig.for_model(family, **fields)


def made_of(config: Any) -> set[tuple[str, str]]:
    """Give the paths and classes of a model's modules, by hand; experts, heads are any number."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = set()
    for path, module in model.named_modules():
        head, several, _ = path.partition(".experts.")
        if not several:
            head, several, _ = path.partition("layernorm.norms.")  # one of each head
        found.add((head + several, "" if several else type(module).__name__))
    return found


def check(name: str) -> None:
    config = config_of(name)
    assert made_of(shrunk(config)) == made_of(config)
    found = derived(type(AutoModelForCausalLM.from_config(shrunk(config))), config)
    assert {"resid_pre", "ln1_scale"} - set(found.places) <= (
        {"ln1_scale"} if config.model_type in NO_NORM_BEFORE else set()
    )
    assert {"attn_out", "mixer_out"} & set(found.places)
    if config.model_type not in NO_MLP:
        assert "mlp_out" in found.places


@pytest.mark.parametrize("name", SAMPLE)
def test_a_config_of_the_hub_has_a_tiny_model_like_it_that_shows_its_names(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(HUB) - set(SAMPLE)))
def test_so_has_every_other(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("family", tinymodels.FAMILIES)
def test_the_config_that_a_family_has_by_default_has_the_names_of_the_page(family: str) -> None:
    try:
        tiny = families.derived_of(tinymodels.tiny_config(family))
    except PlanError:
        pytest.skip("no tiny model of it is built")
    config = CONFIG_MAPPING[family]()
    try:
        build_skeleton(config, torch.float32)
    except PlanError as error:
        pytest.skip(f"transformers' default config of it is of no model that runs: {error}")
    found = families.derived_of(config)
    assert found.places or not tiny.places
    if family not in BY_DEFAULT_OTHERWISE:
        assert set(tiny.places) - set(found.places) == set()


# Families whose default config is another model than the tiny one, so that names differ: RWKV's
# halves the stream every six layers, and the hand-over from layer to layer fails by that half.
BY_DEFAULT_OTHERWISE = frozenset({"rwkv"})


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"sliding_window": None}, {"sliding_window": None}),
        ({"sliding_window": 4096}, {"sliding_window": 4}),
        ({"num_attention_heads": 32, "num_key_value_heads": 32}, {"num_key_value_heads": 4}),
        ({"num_attention_heads": 32, "num_key_value_heads": 8}, {"num_key_value_heads": 2}),
        ({"num_attention_heads": 8, "num_key_value_heads": 1}, {"num_key_value_heads": 1}),
        ({"hidden_size": 1024, "num_attention_heads": 16, "head_dim": 128}, {"head_dim": 16}),
        ({"hidden_size": 4096, "num_attention_heads": 32, "head_dim": 128}, {"head_dim": 8}),
        ({"pad_token_id": 32000, "eos_token_id": [128001, 2]}, {"pad_token_id": 0}),
    ],
)
def test_sizes_that_are_none_or_one_or_alike_stay_so(
    fields: dict[str, Any], kept: dict[str, Any]
) -> None:
    small = shrunk(AutoConfig.for_model("mistral", **fields))
    assert small.hidden_size == 32
    assert {key: getattr(small, key) for key in kept} == kept


def test_an_even_number_of_channels_is_rotated() -> None:
    small = shrunk(config_of("phi-2"))
    part = small.rope_parameters["partial_rotary_factor"]
    assert int(small.hidden_size // small.num_attention_heads * part) % 2 == 0


def test_no_epsilon_and_no_factor_is_changed() -> None:
    config = config_of("granite-3.1-2b")
    small = shrunk(config)
    for key in ("residual_multiplier", "embedding_multiplier", "logits_scaling", "rms_norm_eps"):
        assert getattr(small, key) == getattr(config, key)


def test_a_tiny_model_that_is_unlike_is_refused_with_the_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def with_experts(config: Any) -> Any:
        small = shrunk(config)
        small.num_experts, small.num_experts_per_tok = 4, 2
        return small

    config = AutoConfig.for_model(
        "jamba", num_experts=1, num_experts_per_tok=1, num_hidden_layers=2, attn_layer_offset=1
    )
    module = importlib.import_module("probekit.models.places.derived")
    monkeypatch.setattr(module, "shrunk", with_experts)
    config.vocab_size = 4321  # another key than any other test's
    with pytest.raises(
        PlanError, match=r"the tiny model has no model\.layers\.1\.feed_forward \(JambaMLP\)"
    ):
        families.derived_of(config)


def test_a_tiny_model_that_is_large_is_refused_with_its_size() -> None:
    config = AutoConfig.for_model("cpmant", num_hidden_layers=1, prompt_types=100_000)
    with pytest.raises(PlanError, match=r"has 1\d\d,\d+,\d+ parameters whatever sizes"):
        families.derived_of(config)


def test_a_model_type_without_a_language_model_has_no_names_and_no_config_error() -> None:
    config = AutoConfig.for_model("vit")
    assert families.portable_names(config) == {}
    with pytest.raises(PlanError, match="no language model for the model type 'vit'"):
        families.places(config, "resid_pre")
