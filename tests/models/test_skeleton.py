"""What is known of a model without weights, against real models that run."""

from __future__ import annotations

import copy
from typing import Any

import by_hand
import pytest
import tiny_models as tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from probekit.errors import PlanError
from probekit.models.forward import Call, Slot
from probekit.models.skeleton import Skeleton, build_skeleton, forward_arguments

# Not the sizes that the skeleton itself runs on, and equal to no size of any tiny model.
N_BATCH, N_POSITIONS = 5, 13


def hf_config(model_type: str, **overrides: Any) -> Any:
    return AutoConfig.for_model(model_type, **tiny.CONFIGS[model_type] | overrides)


def skeleton(model_type: str, **overrides: Any) -> Skeleton:
    return build_skeleton(hf_config(model_type, **overrides), torch.float32)


def shape(slot: Slot) -> tuple[int, ...]:
    """The shape that a tensor has on our batch, as the skeleton foretells it."""
    sizes = {"batch": N_BATCH, "position": N_POSITIONS, "token": N_BATCH * N_POSITIONS}
    return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in slot.axes)


def outside_experts(call: Call) -> bool:
    return ".experts" not in call.module


# Each is built otherwise than the others; the families that are built like one of them are slow.
OTHERWISE = ("gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "llama", "phi3", "gemma3_text", "olmo2")


@pytest.fixture(scope="module", params=tiny.by_family(often=OTHERWISE))
def both(request: pytest.FixtureRequest) -> tuple[Skeleton, by_hand.Watched, Any]:
    """A skeleton, and the same model in flesh, watched on a batch of its own."""
    model = tiny.build(request.param)
    return skeleton(request.param), by_hand.watch(model, **padded_batch()), model


def padded_batch() -> dict[str, torch.Tensor]:
    """With padding: where there is none, transformers leaves the mask out."""
    return by_hand.pad([list(range(3, 3 + n)) for n in (N_POSITIONS, 9, 5, 12, 8)])


def test_calls_are_the_calls_of_the_real_model_in_their_order(both):
    found, seen, _ = both
    assert [(c.module, c.number) for c in found.calls] == [(c.module, c.number) for c in seen.calls]
    entered = [(module, depth) for module, entered, depth in seen.events if entered]
    assert [(c.module, c.depth) for c in found.calls] == entered


def test_events_of_calls_are_in_the_order_of_the_real_model(both):
    found, seen, _ = both
    moments = [(c.entered, c.module, 1) for c in found.calls]
    moments += [(c.left, c.module, 0) for c in found.calls]
    assert [event[1:] for event in sorted(moments)] == [event[:2] for event in seen.events]


def test_tensors_are_those_of_the_real_model_in_name_shape_and_dtype(both):
    found, seen, _ = both
    for foretold, real in zip(found.calls, seen.calls, strict=True):
        for side in ("inputs", "outputs"):
            slots, tensors = getattr(foretold, side), getattr(real, side)
            assert [shape(s) for s in slots] == [tuple(t.shape) for t in tensors.values()], real
            assert [s.dtype for s in slots] == [str(t.dtype)[6:] for t in tensors.values()]
            for slot, name in zip(slots, tensors, strict=True):
                # By hand a keyword is known by its name, all else by its place.
                assert name in (slot.key, "" if slot.index is None else str(slot.index)), real


def test_positional_arguments_have_the_names_of_the_parameters():
    calls = skeleton("gpt2").calls_of("transformer.h.0")
    assert [(s.index, s.key) for s in calls[0].inputs][:1] == [(0, "hidden_states")]
    calls = skeleton("llama").calls_of("model.layers.0.self_attn")
    assert "hidden_states" in [s.key for s in calls[0].inputs if s.index is None]


def test_modules_and_parameters_are_those_of_the_real_model(both):
    found, _, model = both
    assert list(found.modules.items()) == [
        (path, type(module).__name__) for path, module in model.named_modules() if path
    ]
    assert found.n_parameters == tiny.n_parameters(model)
    assert found.model_class == type(model).__name__


def test_dtype_is_what_the_model_computes_in():
    found = build_skeleton(hf_config("gpt2"), torch.bfloat16)
    (call,) = found.calls_of("transformer.h.0.mlp.act")
    assert [slot.dtype for slot in call.outputs] == ["bfloat16"]
    assert found.calls_of("transformer.wte")[0].inputs[0].dtype == "int64"


def test_gpt2_runs_its_mlp_in_another_order_than_it_prints_it():
    found = skeleton("gpt2")
    inside = "transformer.h.0.mlp."
    ran = [c.module.removeprefix(inside) for c in found.calls if c.module.startswith(inside)]
    assert ran == ["c_fc", "act", "c_proj", "dropout"]
    printed = [path.removeprefix(inside) for path in found.modules if path.startswith(inside)]
    assert printed == ["c_fc", "c_proj", "act", "dropout"]


def test_modules_that_never_run_have_no_calls():
    found = skeleton("gpt2")
    never = [path for path in found.modules if not found.calls_of(path)]
    assert never == ["transformer.h", *(f"transformer.h.{n}.attn.attn_dropout" for n in range(3))]


def test_a_module_that_runs_twice_has_two_calls():
    calls = skeleton("gemma3_text").calls_of("model.rotary_emb")
    assert [call.number for call in calls] == [0, 1]


def test_tokens_folded_into_the_batch_are_one_axis():
    (call,) = skeleton("opt").calls_of("model.decoder.layers.0.fc1")
    assert [slot.axes for slot in call.inputs] == [("token", 32)]
    router = moe("mixtral").calls_of("model.layers.0.mlp.gate")[0]
    assert [slot.axes for slot in router.outputs] == [("token", 6), ("token", 2), ("token", 2)]


def moe(model_type: str) -> Skeleton:
    sizes = {"num_local_experts": 6, "num_experts": 6, "num_experts_per_tok": 2}
    own = {"moe_intermediate_size": 40, "shared_expert_intermediate_size": 48}
    more = sizes | (own if model_type == "qwen2_moe" else {})
    return build_skeleton(AutoConfig.for_model(model_type, **tiny.LLAMA | more), torch.float32)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe"])
def test_mixtures_of_experts_are_as_the_real_model_outside_the_experts(model_type):
    found = moe(model_type)
    model = AutoModelForCausalLM.from_config(found.hf_config).eval()
    seen = by_hand.watch(model, **padded_batch())
    real = [call for call in seen.calls if outside_experts(call)]
    foretold = [call for call in found.calls if outside_experts(call)]
    assert [(c.module, c.number) for c in foretold] == [(c.module, c.number) for c in real]
    for a, b in zip(foretold, real, strict=True):
        assert [shape(s) for s in a.outputs] == [tuple(t.shape) for t in b.outputs.values()]


def test_two_position_axes_and_tables_without_a_batch_are_seen():
    (call,) = skeleton("gpt_neo").calls_of("transformer.h.0.attn.attention")
    assert call.outputs[1].axes == ("batch", 4, "position", "position")
    bart = AutoConfig.for_model(
        "bart", d_model=32, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=72,
        vocab_size=101, max_position_embeddings=64, is_decoder=True,
    )  # fmt: skip
    found = build_skeleton(bart, torch.float32)
    (call,) = found.calls_of("model.decoder.embed_positions")
    assert call.outputs[0].axes == (1, "position", 32)


def test_eager_attention_shows_its_weights():
    (sdpa,) = skeleton("gpt2").calls_of("transformer.h.0.attn")
    found = build_skeleton(hf_config("gpt2"), torch.float32, "eager")
    (eager,) = found.calls_of("transformer.h.0.attn")
    assert [slot.axes for slot in sdpa.outputs] == [("batch", "position", 32)]
    assert eager.outputs[1].axes == ("batch", 4, "position", "position")


def test_flash_attention_needs_no_gpu_to_be_planned():
    found = build_skeleton(hf_config("llama"), torch.bfloat16, "flash_attention_2")
    assert found.calls == build_skeleton(hf_config("llama"), torch.bfloat16, "sdpa").calls


@pytest.mark.parametrize(
    ("model_type", "accepted"),
    [
        ("gpt2", {"input_ids", "attention_mask", "position_ids", "use_cache"}),
        ("opt", {"input_ids", "attention_mask", "position_ids", "use_cache"}),
        ("bloom", {"input_ids", "attention_mask", "use_cache"}),
        ("mamba", {"input_ids", "attention_mask", "use_cache"}),
    ],
)
def test_only_arguments_that_the_forward_takes_are_given(model_type, accepted):
    sizes = {"hidden_size": 32, "vocab_size": 101, "num_hidden_layers": 1, "n_layer": 1}
    own = tiny.CONFIGS.get(model_type, sizes)
    found = build_skeleton(AutoConfig.for_model(model_type, **own), torch.float32)
    assert forward_arguments(found.arguments) == accepted


def test_building_one_changes_neither_the_config_nor_torch():
    config = hf_config("gemma3_text")
    before, random = copy.deepcopy(config).to_dict(), torch.get_rng_state()
    build_skeleton(config, torch.bfloat16, "eager")
    assert config.to_dict() == before
    assert config._attn_implementation == hf_config("gemma3_text")._attn_implementation
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    layer = torch.nn.Linear(3, 3)
    assert layer.weight.device.type == "cpu" and layer.weight.abs().sum() > 0, "drawn as ever"


def test_a_model_whose_weights_cannot_be_drawn_without_values_is_still_planned():
    # Gemma 3 with its vision tower: drawing the tower's weights looks at what was drawn.
    text = tiny.CONFIGS["gemma3_text"]
    vision = {"hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 4, "image_size": 28, "patch_size": 14}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision)
    found = build_skeleton(config, torch.float32)
    assert found.calls_of("model.language_model.layers.2.mlp")
    assert not found.calls_of("model.vision_tower")


def test_a_model_that_does_not_run_on_token_ids_is_refused():
    config = AutoConfig.for_model("t5", d_model=32, num_layers=1, vocab_size=101)
    config.architectures = ["T5ForConditionalGeneration"]
    with pytest.raises(
        PlanError, match="T5ForConditionalGeneration cannot be built and run on tok"
    ):
        build_skeleton(config, torch.float32)


def test_a_model_that_cannot_be_built_is_refused_with_the_reason():
    with pytest.raises(PlanError, match=r"GPT2LMHeadModel cannot be built.*KeyError: 'blorp'"):
        skeleton("gpt2", activation_function="blorp")


def test_a_model_that_runs_other_modules_on_longer_texts_is_refused(monkeypatch):
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        short = hidden_states.shape[1] < 10
        hidden_states = self.c_proj(self.act(self.c_fc(hidden_states)))
        return hidden_states if short else self.dropout(hidden_states)

    monkeypatch.setattr(GPT2MLP, "forward", forward)
    with pytest.raises(PlanError, match="GPT2LMHeadModel runs other modules on longer texts"):
        skeleton("gpt2")


def test_the_head_is_the_module_that_gives_the_logits(both):
    found, _, model = both
    assert model.get_submodule(found.head) is model.get_output_embeddings()


def test_the_models_own_output_is_known_too():
    (slot,) = [s for s in skeleton("gemma2").outputs if s.key == "logits"]
    assert slot.axes == ("batch", "position", tiny.D_VOCAB)


def test_positions_are_left_to_a_model_that_numbers_them_itself(tmp_path):
    """RoBERTa's positions begin behind its padding token: 0, 1, ... would be wrong ones."""
    import numpy as np
    from transformers import RobertaConfig, RobertaForMaskedLM

    from probekit.capture import run

    torch.manual_seed(0)
    shape = RobertaConfig(
        vocab_size=99, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=40, pad_token_id=1,
        bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = RobertaForMaskedLM(shape).eval()
    model.save_pretrained(tmp_path / "model")
    trace = run(
        {
            "model": {"name": str(tmp_path / "model")},
            "inputs": {"random": {"examples": 4, "min_tokens": 2, "max_tokens": 9}},
            "probes": [{"modules": "roberta.encoder.layer.1"}],
            "store": {"path": str(tmp_path / "run")},
        }
    )
    kept = []
    model.roberta.encoder.layer[1].register_forward_hook(
        lambda m, a, o: kept.append(o if torch.is_tensor(o) else o[0])
    )
    for number, example in enumerate(trace.examples):
        ids = torch.from_numpy(np.array(example.token_ids, dtype=np.int64))[None]
        with torch.no_grad():
            model(ids, attention_mask=torch.ones_like(ids))
        np.testing.assert_allclose(
            trace["roberta.encoder.layer.1"].example(number), kept[-1][0], rtol=1e-4, atol=1e-5
        )
