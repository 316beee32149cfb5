"""How probes meet the modules of a model: which sites they mean, and every refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import by_hand
import pytest
import tiny_models as tiny
from transformers import AutoConfig, BertConfig

import probekit
from probekit.errors import PlanError

Planned = Callable[..., Any]


def save_architecture(folder: Path, model_type: str, **sizes: Any) -> Path:
    """Save a config.json and no weights: all that a plan needs."""
    AutoConfig.for_model(model_type, **sizes).save_pretrained(folder)
    by_hand.save_words(folder / "words")
    return folder


def tiny_architecture(folder: Path, model_type: str, **overrides: Any) -> Path:
    return save_architecture(folder, model_type, **tiny.CONFIGS[model_type] | overrides)


MOE = {"num_local_experts": 6, "num_experts": 6, "num_experts_per_tok": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of an architecture, made when it is first asked for."""
    made: dict[str, Path] = {}
    others: dict[str, dict[str, Any]] = {
        "mixtral": tiny.LLAMA | MOE,
        "bart": {
            "d_model": 32,
            "decoder_layers": 2,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 72,
            "vocab_size": 101,
            "max_position_embeddings": 64,
            "is_decoder": True,
        },
    }

    def folder(model_type: str) -> Path:
        if model_type not in made:
            place = tmp_path_factory.mktemp(model_type)
            sizes = others.get(model_type) or tiny.CONFIGS[model_type]
            made[model_type] = save_architecture(place, model_type, **sizes)
        return made[model_type]

    return folder


@pytest.fixture
def plan(models: Callable[[str], Path], tmp_path: Path) -> Planned:
    """Plan probes written as YAML; the first stands on line 5 of a.yaml."""

    def planned(probes: str, model: str = "gpt2", **settings: str) -> Any:
        given = "".join(f", {key}: {value}" for key, value in settings.items())
        file = tmp_path / "a.yaml"
        file.write_text(
            f"model: {{name: {models(model)}, tokenizer: {models(model)}/words{given}}}\n"
            "inputs: {texts: [1 2 3 4, 5 6 7]}\n"
            f"store: {{path: {tmp_path}/never}}\n"
            f"probes:\n{probes}"
        )
        return probekit.plan(file)

    return planned


def names(plan: Any) -> list[str]:
    return [site["name"] for site in plan.to_json()["sites"]]


def site(plan: Any, name: str) -> dict[str, Any]:
    return {s["name"]: s for s in plan.to_json()["sites"]}[name]


# --- what a probe means


def test_a_glob_means_every_module_it_matches_in_the_order_they_run(plan):
    found = plan("  - {modules: 'transformer.h.*.mlp.*', layers: 1}\n")
    inside = "transformer.h.1.mlp."
    assert names(found) == [f"{inside}{m}/output" for m in ("c_fc", "act", "c_proj", "dropout")]


def test_an_input_comes_before_what_runs_inside_and_an_output_after_it(plan):
    probe = "  - {modules: 'transformer.h.0.{mlp,mlp.act}', record: [output, input]}\n"
    inside = "transformer.h.0.mlp"
    assert names(plan(probe)) == [
        *(f"{inside}/input", f"{inside}.act/input", f"{inside}.act/output", f"{inside}/output"),
    ]


def test_layers_count_from_either_end(plan):
    for layers, expected in (
        *(("[0, -1]", [0, 2]), ("-2", [1]), ("2", [2]), ("all", [0, 1, 2])),
        *(("0..1", [0, 1]), ("'1:'", [1, 2]), ("':-1'", [0, 1]), ("'::2'", [0, 2])),
    ):
        found = plan(f"  - {{modules: 'transformer.h.*', layers: {layers}}}\n")
        assert names(found) == [f"transformer.h.{n}/output" for n in expected]


def test_portable_names_mean_their_places_and_say_so(plan):
    found = plan("  - {sites: [resid_mid, logits, embed], layers: [1]}\n")
    said = [(s["name"], s["portable"], s["layer"]) for s in found.to_json()["sites"]]
    assert said == [
        ("transformer.wte/output", "embed", None),
        ("transformer.h.1.ln_2/input", "resid_mid", 1),
        ("lm_head/output", "logits", None),
    ], "what lies in no layer is there whatever the layers"


def test_a_module_path_that_has_a_portable_name_carries_it(plan):
    found = plan("  - modules: [transformer.h.2, transformer.h.2.ln_1]\n")
    assert site(found, "transformer.h.2/output")["portable"] == "resid_post"
    assert site(found, "transformer.h.2.ln_1/output")["portable"] is None
    assert site(found, "transformer.h.2.ln_1/output")["layer"] == 2


def test_a_site_that_two_probes_ask_for_is_one_site(plan):
    found = plan("  - modules: transformer.h.0\n  - {sites: resid_post, layers: [0, 1]}\n")
    assert names(found) == ["transformer.h.0/output", "transformer.h.1/output"]
    assert [s.spec.probe for s in found.sites] == [0, 1]


def test_each_call_of_a_module_is_a_site(plan):
    both = plan("  - {modules: model.rotary_emb}\n", "gemma3_text")
    assert names(both) == ["model.rotary_emb/output", "model.rotary_emb/output@1"]
    one = plan("  - {modules: model.rotary_emb, record: 'output@1'}\n", "gemma3_text")
    assert names(one) == ["model.rotary_emb/output@1"]
    first = plan("  - {modules: model.rotary_emb, record: ['output@0', output.1]}\n", "gemma3_text")
    assert names(first) == [
        *("model.rotary_emb/output", "model.rotary_emb/output.1", "model.rotary_emb/output.1@1"),
    ]


def test_elements_are_named_by_place_or_by_parameter(plan):
    records = "[input, input.hidden_states, output, output.0]"
    found = plan(f"  - {{modules: model.layers.0.self_attn, record: {records}}}\n", "llama")
    assert sorted(names(found)) == sorted(
        f"model.layers.0.self_attn/{r}" for r in records.strip("[]").split(", ")
    )


# --- axes

ATTENTION = "model.layers.0.self_attn"


@pytest.mark.parametrize(
    ("model", "name", "axes", "row_shape"),
    [
        ("gpt2", "transformer.h.0.mlp.act/output", ["token", "d_mlp"], [72]),
        ("gpt2", "transformer.h.0/output", ["token", "d_model"], [32]),
        ("gpt2", "transformer.h.0.attn.c_attn/output", ["token", "d_96"], [96]),
        ("gpt2", "transformer.wte/input", ["token"], []),
        ("gpt2", "lm_head/output", ["token", "d_vocab"], [101]),
        ("opt", "model.decoder.layers.0.fc1/output", ["token", "d_mlp"], [72]),
        ("qwen3", f"{ATTENTION}.q_norm/output", ["token", "head", "d_head"], [4, 12]),
        ("qwen3", f"{ATTENTION}.k_norm/output", ["token", "kv_head", "d_head"], [2, 12]),
        # [batch, head, pos, d_head] on the way through the model
        ("gemma3_text", f"{ATTENTION}.q_norm/output", ["token", "head", "d_head"], [4, 12]),
        ("llama", "model.rotary_emb/output", ["token", "d_head"], [8]),
        # tokens folded into the batch
        ("mixtral", "model.layers.0.mlp.gate/output", ["token", "d_6"], [6]),
        ("mixtral", "model.layers.0.mlp.gate/output.2", ["token", "d_2"], [2]),
    ],
)  # fmt: skip
def test_axes_are_named_after_the_models_sizes(plan, model, name, axes, row_shape):
    module, _, kind = name.partition("/")
    found = site(plan(f"  - {{modules: {module}, record: {kind}}}\n", model), name)
    assert (found["axes"], found["row_shape"]) == (axes, row_shape)


def test_a_tensor_without_positions_has_one_row_an_example(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    bert = BertConfig(**sizes, intermediate_size=72, vocab_size=101)
    bert.architectures = ["BertForSequenceClassification"]
    bert.save_pretrained(tmp_path)
    by_hand.save_words(tmp_path / "words")
    config = by_hand.config(tmp_path, tmp_path / "t", probes=[{"modules": "bert.pooler"}])
    (found,) = probekit.plan(config).to_json()["sites"]
    assert (found["axes"], found["rows"]) == (["example", "d_model"], len(by_hand.EXAMPLES))
    last = [{"modules": "bert.pooler", "positions": "last"}]
    said = r"probes\[0\].modules: bert.pooler/output has one row an example: positions do not apply"
    with pytest.raises(PlanError, match=said):
        probekit.plan({**config, "probes": last})


# --- refusals: each at the line of its probe, with its reason


def refusal(plan: Planned, probes: str, model: str = "gpt2", **settings: str) -> str:
    with pytest.raises(PlanError) as caught:
        plan(probes, model, **settings)
    return str(caught.value).partition("a.yaml")[2]


REFUSALS = {
    "a module that never runs": (
        "  - modules: transformer.h.1.attn.attn_dropout\n",
        "gpt2",
        ":5: probes[0].modules: transformer.h.1.attn.attn_dropout (Dropout) never runs as a module "
        "in a forward pass, so there is nothing to record",
    ),
    "a list of modules": (
        "  - modules: transformer.h\n",
        "gpt2",
        ":5: probes[0].modules: transformer.h (ModuleList) never runs as a module in a forward "
        "pass, so there is nothing to record",
    ),
    "a glob that matches nothing": (
        "  - modules: transformer.h.*.mlp.activation\n",
        "gpt2",
        ":5: probes[0].modules: 'transformer.h.*.mlp.activation' matches no module of "
        "GPT2LMHeadModel; the nearest: transformer.h.*.mlp.act, ",
    ),
    "a name of another family": (
        "  - modules: '**.mlp.act'\n",
        "phi3",
        ":5: probes[0].modules: '**.mlp.act' matches no module of Phi3ForCausalLM; the nearest: "
        "model.layers.*.mlp.activation_fn, ",
    ),
    "a layer in a path that does not exist": (
        "  - modules: transformer.h.7.mlp\n",
        "gpt2",
        ":5: probes[0].modules: 'transformer.h.7.mlp' matches no module of GPT2LMHeadModel; the "
        "nearest: transformer.h.{0..2}.mlp. `probekit modules` lists them all",
    ),
    "a pattern that is not well formed": (
        "  - modules: 'transformer.h.{0..2'\n",
        "gpt2",
        ":5: probes[0].modules: pattern 'transformer.h.{0..2': a { is never closed; add the",
    ),
    "a layer that does not exist": (
        "  - modules: transformer.h.*\n    layers: [0, 3]\n",
        "gpt2",
        ":6: probes[0].layers: layer 3 is out of range for gpt2 (3 layers: 0..2, or -3..-1)",
    ),
    "a layer before the first": (
        "  - sites: resid_post\n    layers: -4\n",
        "llama",
        ":6: probes[0].layers: layer -4 is out of range for llama (3 layers: 0..2, or -3..-1)",
    ),
    "layers of a module that lies in none": (
        "  - modules: transformer.wte\n    layers: [0]\n",
        "gpt2",
        ":6: probes[0].layers: transformer.wte is in no layer; leave layers out",
    ),
    "two position axes": (
        "  - {modules: transformer.h.0.attn.attention, record: output.1}\n",
        "gpt_neo",
        ":5: probes[0].modules: transformer.h.0.attn.attention/output.1 is [batch, 4, position, "
        "position], with two position axes; record: [pattern] keeps those",
    ),
    "a table that is the same for every example": (
        "  - modules: model.decoder.embed_positions\n",
        "bart",
        ":5: probes[0].modules: model.decoder.embed_positions/output is [1, position, 32], the "
        "same for every example: it has no token axis",
    ),
    "tokens sorted by expert": (
        "  - modules: model.layers.0.mlp.experts.act_fn\n",
        "mixtral",
        ":5: probes[0].modules: model.layers.0.mlp.experts.act_fn",
    ),
    "an element that is not there": (
        "  - {modules: model.rotary_emb, record: output.5}\n",
        "llama",
        ":5: probes[0].modules: model.rotary_emb (LlamaRotaryEmbedding) has no tensor output.5; "
        "tensors there: output.0, output.1",
    ),
    "a parameter that is not there": (
        "  - {modules: model.layers.0.mlp, record: input.y}\n",
        "llama",
        ":5: probes[0].modules: model.layers.0.mlp (LlamaMLP) has no tensor input.y; tensors "
        "there: input.x",
    ),
    "an element of a bare tensor": (
        "  - {modules: lm_head, record: output.0}\n",
        "llama",
        ":5: probes[0].modules: lm_head (Linear) has no tensor output.0; tensors there: output",
    ),
    "a call that does not come": (
        "  - {modules: model.rotary_emb, record: output@5}\n",
        "gemma3_text",
        ":5: probes[0].modules: model.rotary_emb runs 2 times in a forward pass; there is no "
        "output@5",
    ),
    "a portable name that the family does not have": (
        "  - sites: [resid_post, resid_mid]\n",
        "gptj",
        ":5: probes[0].sites: portable name 'resid_mid' does not exist on this gptj: attention and "
        "MLP run in parallel on the same input",
    ),
    "a portable name that a family which is not in the table has not": (
        "  - sites: mlp_post\n",
        "mixtral",
        ":5: probes[0].sites: portable name 'mlp_post' does not exist on this mixtral: no",
    ),
    "one site in two ways": (
        "  - {modules: transformer.h.*, positions: last}\n  - {sites: resid_post, layers: 1}\n",
        "gpt2",
        ":6: probes[1]: transformer.h.1/output is asked for twice in different ways: by probes[0] "
        "with positions last, and here with positions all; ask for it once",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_recorded_is_refused_with_the_reason(plan, case):
    probes, model, said = REFUSALS[case]
    assert refusal(plan, probes, model).startswith(said)


def test_only_so_many_choices_are_looked_for(plan):
    probes = "".join(f"  - modules: '{{0..4000}}.{n}'\n" for n in range(3))
    last = refusal(plan, probes).splitlines()[-1]
    assert last.endswith("the patterns have more than 10,000 choices and segments; use * or **")


def test_of_many_patterns_that_match_nothing_the_first_twenty_are_told(plan):
    probes = "".join(f"  - modules: gone.{n}\n" for n in range(60))
    lines = refusal(plan, probes).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... and more; these are the first 20"


def test_eager_attention_weights_are_refused_as_an_output(plan):
    probe = "  - {modules: transformer.h.0.attn, record: output.1}\n"
    assert refusal(plan, probe, attention="eager").startswith(
        ":5: probes[0].modules: transformer.h.0.attn/output.1 is [batch, 4, position, position], "
        "with two position axes; record: [pattern] keeps those"
    )
    assert "has no tensor output.1; tensors there: output.0" in refusal(plan, probe)


def test_layers_out_of_range_read_as_the_house_style_says():
    with pytest.raises(PlanError) as caught:
        probekit.plan(
            "configs/gpt2.yaml", overrides=["model.weights=random", "probes[1].layers=14"]
        )
    assert str(caught.value) == (
        "--set probes[1].layers: layer 14 is out of range for gpt2 (12 layers: 0..11, or -12..-1)"
    )


def test_faults_of_all_probes_are_told_together_each_at_its_line(plan):
    said = refusal(
        plan,
        "  - modules: transformer.h.*.nothing\n"
        "  - modules: transformer.h.0\n"
        "  - sites: resid_post\n"
        "    layers: [1, 99]\n"
        "  - modules:\n"
        "      - transformer.wte\n"
        "      - transformer.h.0.attn.attn_dropout\n"
        "    record: [output, output@3]\n",
    )
    lines = [line.partition("a.yaml")[2] or line for line in said.splitlines()]
    assert len(lines) == 4
    assert lines[0].startswith(":5: probes[0].modules: 'transformer.h.*.nothing' matches no")
    assert lines[1].startswith(":8: probes[2].layers: layer 99 is out of range")
    assert lines[2].startswith(":9: probes[3].modules: transformer.wte runs 1 time")
    assert lines[3].startswith(":9: probes[3].modules: transformer.h.0.attn.attn_dropout (Dropout)")


def test_what_is_wrong_in_every_layer_is_said_once(plan):
    said = refusal(plan, "  - {modules: transformer.h.*.attn.attn_dropout, record: [output, q]}\n")
    assert said.count("never runs") == 1
    assert "transformer.h.{0..2}.attn.attn_dropout (Dropout) never runs" in said


def test_modules_that_are_refused_alike_are_named_together(plan):
    said = refusal(plan, "  - {modules: '**.mlp.*', record: output@1}\n")
    assert said.count("there is no output@1") == 1
    assert "transformer.h.{0..2}.mlp.{c_fc,c_proj,act,dropout} runs 1 time" in said


def test_many_refused_modules_are_counted_not_listed(plan):
    said = refusal(plan, "  - {modules: '**', record: input.y}\n", "llama")
    assert len(re.findall("has no tensor input.y|never runs as a module", said)) == 5
    assert re.search(r"; and \d more$", said)


def test_a_site_that_two_probes_keep_in_different_ways_is_one_fault_for_all_layers(plan):
    probes = "  - modules: transformer.h.*\n  - {sites: resid_post, positions: last}\n"
    (line,) = refusal(plan, probes).splitlines()
    assert "probes[1]: transformer.h.{0..2}/output is asked for twice" in line


def test_what_a_glob_leaves_out_in_every_layer_is_noted_once(plan):
    (note,) = plan("  - modules: 'transformer.h.*.attn.*'\n").notes
    assert note.count("attn_dropout") == 1
    assert "transformer.h.{0..2}.attn.attn_dropout (Dropout) never runs" in note


def test_choices_that_match_nothing_are_written_as_a_range(plan):
    said = refusal(plan, "  - modules: transformer.h.{0..7}.mlp\n")
    assert said.endswith("5 of its choices match no module: transformer.h.{3..7}.mlp")


def test_what_a_glob_cannot_record_beside_what_it_can_is_noted(plan):
    found = plan("  - modules: 'transformer.h.0.attn.*'\n")
    assert len(names(found)) == 3
    (note,) = found.notes
    assert note.endswith(
        "a.yaml:5: probes[0].modules: left out: transformer.h.0.attn.attn_dropout (Dropout) never "
        "runs as a module in a forward pass, so there is nothing to record"
    )
