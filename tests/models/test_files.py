"""Which files a model and its tokenizer are made from, and which of them are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import by_hand
import pytest
import tiny_models as tiny

from probekit.config.loading import load_config
from probekit.errors import ConfigError
from probekit.models.files import files_of, missing_files
from probekit.models.sources import BUNDLED


def config(folder: Path, **more: Any) -> dict[str, Any]:
    return by_hand.config(folder, "t", probes=[{"sites": "resid_post"}], **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return by_hand.save_tiny(tmp_path_factory.mktemp("files"), "gpt2")


def test_every_file_of_a_folder_counts(folder: Path) -> None:
    found = files_of(load_config(config(folder))) or ()
    expected = {f for place in (folder, folder / "words") for f in place.iterdir() if f.is_file()}
    assert set(found) == expected
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in found}


def test_nothing_is_missing_of_what_is_whole(folder: Path) -> None:
    assert not [*missing_files(load_config(config(folder)), to_run=True)]
    hub = config(folder, model__name="gpt2", model__tokenizer=None)
    assert not [*missing_files(load_config(hub), to_run=True)], "only the hub can tell"
    assert "gpt2" in BUNDLED


@pytest.mark.parametrize("model_type", tiny.FAMILIES)
def test_a_model_of_a_known_family_without_words_has_no_tokenizer(
    tmp_path: Path, model_type: str
) -> None:
    said = {"model_type": model_type}
    (tmp_path / "config.json").write_text(json.dumps(said))
    (tmp_path / "model.safetensors").write_bytes(b"")
    told = config(tmp_path, model__tokenizer=None)
    (fault,) = missing_files(load_config(told), to_run=True)
    assert "config: model.name: there is no tokenizer in" in str(fault)
    assert not [*missing_files(load_config(told), to_run=False)]
    (tmp_path / "spiece.model").write_bytes(b"")
    assert not [*missing_files(load_config(told), to_run=True)]


def test_a_model_of_a_family_that_needs_no_words_is_let_through(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "canine"}')  # reads characters
    (tmp_path / "model.safetensors").write_bytes(b"")
    told = config(tmp_path, model__tokenizer=None)
    assert not [*missing_files(load_config(told), to_run=True)]


def test_random_inputs_need_no_tokenizer(folder: Path) -> None:
    made = config(folder, inputs={"random": {"examples": 1, "max_tokens": 8}})
    made["model"]["tokenizer"] = "./gone"
    assert not [*missing_files(load_config(made), to_run=True)]


def test_faults_of_model_and_tokenizer_are_told_together(folder: Path) -> None:
    made = config(folder, model__name="./gone", model__tokenizer="./nowhere")
    first, second = missing_files(load_config(made), to_run=True)
    assert isinstance(first, ConfigError)
    assert "model.name: there is no folder" in str(first)
    assert "model.tokenizer: there is no folder" in str(second)


@pytest.mark.parametrize(
    "model",
    [
        {"trust_remote_code": True},  # it may read anything
        {"name": "lab/nowhere"},
        {"name": "--not-a-name--"},
        {"tokenizer": "lab/nowhere"},
    ],
)
def test_what_is_not_clear_has_no_files(folder: Path, model: dict[str, Any]) -> None:
    unclear = config(folder)
    unclear["model"] |= model
    assert files_of(load_config(unclear)) is None


def test_an_architecture_of_ours_waits_for_its_place_in_the_cache(folder: Path) -> None:
    random = config(folder, model__weights="random", model__name="gpt2")
    (place, *_) = files_of(load_config(random)) or ()
    assert place == Path("gpt2@main")


def test_what_is_beside_a_gguf_file_may_change_its_tokenizer(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf", "tokenizer_config.json", "photo.png"):
        (tmp_path / name).write_bytes(b"")
    gguf = config(tmp_path, model__name=str(tmp_path / "a.gguf"), model__tokenizer=None)
    found = files_of(load_config(gguf)) or ()
    assert [file.name for file in found] == ["a.gguf", "tokenizer_config.json"]
