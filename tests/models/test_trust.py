"""A model from a stranger: what its folder asks for, and what is never done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import by_hand
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

import probekit
from probekit.config.loading import load_config
from probekit.errors import CaptureError, ConfigError, StoreError
from probekit.inputs import tokenizing
from probekit.models import checkpoints as models

MODELING = """
import pathlib
pathlib.Path({marker!r}).touch()

import torch
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class OwnConfig(PreTrainedConfig):
    model_type = "own"

    def __init__(self, hidden_size=16, num_hidden_layers=2, **more):
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        self.vocab_size, self.max_position_embeddings = 101, 64
        super().__init__(**more)


class OwnModel(PreTrainedModel, GenerationMixin):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.embed = torch.nn.Embedding(config.vocab_size, width)
        layers = (torch.nn.Linear(width, width) for _ in range(config.num_hidden_layers))
        self.layers = torch.nn.ModuleList(layers)
        self.head = torch.nn.Linear(width, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None, **more):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        return CausalLMOutput(logits=self.head(hidden))
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with code of its own, which leaves a mark when it runs, and real weights."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "modeling_own.py").write_text(MODELING.format(marker=str(tmp_path / "it ran")))
    config = {
        "model_type": "own",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "architectures": ["OwnModel"],
        "auto_map": {
            "AutoConfig": "modeling_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnModel",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    sizes = {"embed.weight": (101, 16), "head.weight": (101, 16), "head.bias": (101,)}
    for layer in range(2):
        sizes |= {f"layers.{layer}.weight": (16, 16), f"layers.{layer}.bias": (16,)}
    draw = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(size, generator=draw) for name, size in sizes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    by_hand.save_words(folder / "words")
    return folder


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it ran"


def config(folder: Path, store: Path, **model: Any) -> dict[str, Any]:
    made = by_hand.config(folder, store, probes=[{"modules": "layers.*"}])
    made["model"] |= model
    return made


def edit(folder: Path, name: str = "config.json", **changes: Any) -> None:
    path = folder / name
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **changes}))


# --- code of a model's own


def test_a_models_own_code_is_not_run_and_what_to_do_is_said(own, marker, tmp_path):
    for look in (probekit.plan, probekit.run):
        with pytest.raises(ConfigError) as refused:
            look(config(own, tmp_path / "t"))
        said = str(refused.value)
        assert "config: model.name: it carries code of its own (modeling_own.OwnConfig" in said
        assert (
            f"Read that code in {own}; if you trust it, set model.trust_remote_code: true" in said
        )
    assert not marker.exists()
    assert not (tmp_path / "t").exists()


def test_a_models_own_code_runs_when_the_config_says_so(own, marker, tmp_path):
    trusted = config(own, tmp_path / "t", trust_remote_code=True)
    (note, *_) = probekit.plan(trusted).notes
    assert note.startswith(f"config: model.trust_remote_code: CODE THAT {own} CARRIES RUNS ON")
    assert marker.exists()
    trace = probekit.run(trusted)
    assert trace.provenance["trust_remote_code"] is True
    run = json.loads((tmp_path / "t" / "run.json").read_text())
    assert run["provenance"]["trust_remote_code"] is True
    assert any("CARRIES RUNS" in note for note in trace.provenance["notes"])
    # What was recorded is what this very network computes.
    tensors = load_file(own / "model.safetensors")
    ids = torch.tensor([t for example in by_hand.EXAMPLES for t in example])
    hidden = tensors["embed.weight"][ids]
    expected = torch.nn.functional.linear(
        hidden, tensors["layers.0.weight"], tensors["layers.0.bias"]
    )
    assert torch.allclose(trace["layers.0"].torch(), expected, atol=1e-5)


def test_a_run_does_not_go_on_with_changed_code(own, tmp_path):
    trusted = config(own, tmp_path / "t", trust_remote_code=True)
    probekit.run(trusted)
    path = own / "modeling_own.py"
    path.write_text(path.read_text() + "\n# other code\n")
    with pytest.raises(StoreError, match="holds another run"):
        probekit.run(trusted)


def test_the_command_line_can_say_so_too(own, marker, tmp_path):
    asked = load_config(config(own, tmp_path / "t"), overrides=["model.trust_remote_code=true"])
    assert probekit.plan(asked).skeleton.model_class == "OwnModel"
    assert marker.exists()


@pytest.mark.parametrize("value", ["yes", 1, "true", None])
def test_only_true_says_so(own, tmp_path, value):
    with pytest.raises(ConfigError, match=r"trust_remote_code: given .*expected true or false"):
        load_config(config(own, tmp_path / "t", trust_remote_code=value))


def test_no_file_of_the_models_can_say_so(own, marker, tmp_path):
    edit(own, trust_remote_code=True, _own_code=["x", "modeling_own.OwnModel"])
    with pytest.raises(ConfigError, match="it carries code of its own"):
        probekit.plan(config(own, tmp_path / "t"))
    edit(own, model_type="gpt2", n_layer=1, n_embd=32, n_head=4, architectures=["OwnModel"])
    found = models.load_hf_config(load_config(config(own, tmp_path / "t")))
    assert models.model_class(found).__module__.startswith("transformers.")
    assert not marker.exists()


def test_code_of_another_repository_is_not_run(own, marker, tmp_path):
    edit(own, auto_map={"AutoConfig": "evil/code--modeling_own.OwnConfig"})
    with pytest.raises(ConfigError, match=r"from another repository \(evil/code--modeling_own"):
        probekit.plan(config(own, tmp_path / "t", trust_remote_code=True))
    assert not marker.exists()


def test_trust_in_a_model_is_none_in_another_tokenizer(own, marker, tmp_path):
    edit(
        own / "words",
        "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["modeling_own.OwnConfig", "modeling_own.OwnConfig"]},
        tokenizer_class="Own",
    )
    (own / "words" / "modeling_own.py").write_text((own / "modeling_own.py").read_text())
    asked = load_config(config(own, tmp_path / "t", trust_remote_code=True))
    with pytest.raises(ConfigError, match="contains custom code"):
        tokenizing.load_tokenizer(asked)
    assert not marker.exists()


def test_a_tokenizers_code_of_another_repository_is_not_run(own, tmp_path):
    edit(own, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil/x--a.B", None]})
    asked = config(own, tmp_path / "t", trust_remote_code=True, tokenizer=None)
    with pytest.raises(ConfigError, match=r"from another repository \(evil/x--a.B"):
        tokenizing.load_tokenizer(load_config(asked))


KERNELS: tuple[dict[str, Any], ...] = (
    {"attn_implementation": "evil/kernel"},
    {"_attn_implementation": "evil/kernel"},
    {"experts_implementation": "evil/kernel"},
    {"attn_implementation": {"": "evil/kernel"}},
    {"_attn_implementation": {"text_config": "evil/kernel"}},
    {"text_config": {"attn_implementation": "evil/kernel"}},
    {"text_config": {"deep": [{"_attn_implementation": {"": "evil/kernel"}}]}},
    {"attribute_map": {"harmless": "_attn_implementation"}, "harmless": "evil/kernel"},
)


@pytest.mark.parametrize("asked", KERNELS)
def test_a_kernel_off_the_hub_is_not_fetched(tmp_path, monkeypatch, asked):
    gpt2 = by_hand.save_tiny(tmp_path / "gpt2", "gpt2")
    edit(gpt2, **asked)
    monkeypatch.setattr("probekit.models.skeleton.model_class", None)  # nothing of it is built
    with pytest.raises(ConfigError, match="asks for the kernel 'evil/kernel' off the hub"):
        probekit.plan(config(gpt2, tmp_path / "t"))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "harmless"])
def test_a_kernel_off_the_hub_is_not_fetched_by_an_override(tmp_path, key):
    gpt2 = by_hand.save_tiny(tmp_path / "gpt2", "gpt2")
    edit(gpt2, attn_implementation="eager", attribute_map={"harmless": "_attn_implementation"})
    asked = config(gpt2, tmp_path / "t", overrides={key: "evil/kernel"})
    with pytest.raises(ConfigError, match=r"^config: model\.overrides"):
        models.load_hf_config(load_config(asked))


def test_a_kernel_of_transformers_own_is_no_kernel_off_the_hub(tmp_path):
    gpt2 = by_hand.save_tiny(tmp_path / "gpt2", "gpt2")
    edit(gpt2, attn_implementation={"": "eager"})
    found = models.load_hf_config(load_config(config(gpt2, tmp_path / "t")))
    assert found._attn_implementation == "eager"


# --- weights


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self._marker,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "x.ckpt"])
def test_a_folder_of_pickles_is_refused_before_any_is_read(tmp_path, marker, name):
    folder = by_hand.save_tiny(tmp_path / "gpt2", "gpt2")
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Bomb(marker)}, folder / name)
    for look in (probekit.plan, probekit.run):
        with pytest.raises(ConfigError, match=rf"are pickled \({name}\).*convert them to safet"):
            look(config(folder, tmp_path / "t", trust_remote_code=True))
    assert not marker.exists()
    torch.load(folder / name, weights_only=False)  # the bomb is a bomb
    assert marker.exists()


def test_pickles_beside_safetensors_are_left_alone(tmp_path, marker):
    folder = by_hand.save_tiny(tmp_path / "gpt2", "gpt2")
    torch.save({"transformer.wte.weight": Bomb(marker)}, folder / "pytorch_model.bin")
    asked = config(folder, tmp_path / "t") | {"probes": [{"modules": "lm_head"}]}
    assert probekit.run(asked).site_names == ("lm_head/output",)
    assert not marker.exists()


def test_weights_outside_of_the_folder_are_not_read(tmp_path):
    folder = by_hand.save_tiny(tmp_path / "gpt2", "gpt2")
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../elsewhere.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"from outside its folder \(\.\./elsewhere"):
        probekit.plan(config(folder, tmp_path / "t"))


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 5}', "[" * 100_000, "\x00"])
def test_an_index_of_weights_that_is_none_is_an_error_of_ours(tmp_path, text):
    folder = by_hand.save_tiny(tmp_path / "gpt2", "gpt2")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises((ConfigError, CaptureError)):
        probekit.run(config(folder, tmp_path / "t") | {"probes": [{"modules": "lm_head"}]})


def test_an_adapter_is_not_left_out_in_silence(tmp_path):
    folder = by_hand.save_tiny(tmp_path / "gpt2", "gpt2")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')
    with pytest.raises(ConfigError, match="holds an adapter, which probekit does not apply"):
        probekit.plan(config(folder, tmp_path / "t"))


# --- sizes


@pytest.mark.parametrize(
    ("key", "said"), [("n_layer", "at most 1000"), ("num_labels", "at most 10000")]
)
def test_sizes_that_no_model_has_are_refused_before_they_are_built(tmp_path, key, said):
    folder = by_hand.save_tiny(tmp_path / "gpt2", "gpt2")
    if key == "n_layer":
        asked = config(folder, tmp_path / "t", weights="random", overrides={key: 10**9})
        with pytest.raises(ConfigError, match=rf"model.overrides: {key} is 1000000000; .*{said}"):
            probekit.plan(asked)
    edit(folder, **{key: 10**9})
    with pytest.raises(ConfigError, match=rf"config: model.name: {key} is 1000000000; .*{said}"):
        probekit.plan(config(folder, tmp_path / "t"))


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": 5},
        {"architectures": [5, None]},
        {"auto_map": 5},
        {"auto_map": {"AutoConfig": [1, {}]}},
        {"model_type": ["gpt2"]},
        {"n_layer": "many"},
        {"n_head": 0},
        {"vocab_size": -1},
        {"_own_code": ["a", "b"]},
        {"quantization_config": {"quant_method": "evil"}},
        {"dtype": "evil"},
    ],
)
def test_an_odd_config_json_is_planned_or_refused(tmp_path, changes):
    folder = by_hand.save_tiny(tmp_path / "gpt2", "gpt2")
    edit(folder, **changes)
    try:
        plan = probekit.plan(config(folder, tmp_path / "t") | {"probes": [{"modules": "lm_head"}]})
    except probekit.ProbekitError as error:
        assert str(error).startswith(("config: model", "model."))
    else:
        assert plan.skeleton.model_class == "GPT2LMHeadModel"


def test_the_types_of_transformers_still_load(tmp_path):
    folder = by_hand.save_tiny(tmp_path / "gpt2", "gpt2")
    assert AutoConfig.from_pretrained(folder).model_type == "gpt2"
    assert (
        probekit.plan(
            config(folder, tmp_path / "t", trust_remote_code=True)
            | {"probes": [{"modules": "lm_head"}]}
        )
        .notes[0]
        .endswith("probekit cannot tell")
    )
