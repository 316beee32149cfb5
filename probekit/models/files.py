"""The files of a config's model and tokenizer: which they are, and which are missing.

Knows files by name, of folders and of the hub's cache; loads nothing, and no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from probekit.config import ModelConfig, ProbeConfig
from probekit.errors import ConfigError, Fault
from probekit.models import trust
from probekit.models.families import family_of
from probekit.models.sources import BUNDLED, Source, check_folder, locate

_CONFIG = "config.json"
_FROM_FILES = ("mistral", "olmo2", "qwen3")  # read their words from files, as all of FAMILIES do
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_MAGIC = b"GGUF"
_BESIDE_GGUF = ("*.json", "*.jinja", "*.model", "*.txt")  # what a tokenizer may be made from
# Parts of the names of files that tokenizers are saved in.
_OF_TOKENIZERS = ("token", "vocab", "merges", "spiece", "tekken", "bpe", ".model", ".spm", ".vec")


def files_of(config: ProbeConfig) -> tuple[Path, ...] | None:
    """Give every file that a config's model and tokenizer may be made from, as they lie now.

    One that is not there stands for a model that the hub's cache may hold one day. Nobody is asked
    but this machine: of a branch on the hub these are the files that the cache holds.

    Returns:
        The files; None where it is not clear which they are, such as where a model's own code runs,
        which may read anything, or where the model is in memory.

    Raises:
        ConfigError: if a name names nothing.
    """
    model = config.model
    if model.trust_remote_code or model.is_in_memory:
        return None
    source = locate(model.name, config.where("model.name"))
    found = _local(source) if not source.on_hub else _of_hub_model(model, source)
    if model.tokenizer is None and not source.on_hub:
        return found
    own = model.tokenizer is None
    source = locate(model.tokenizer or model.name, config.where("model.tokenizer"))
    revision = model.revision if own else None
    names = ("tokenizer_config.json", "tokenizer.json", _CONFIG)
    tokens = _local(source) if not source.on_hub else _cached(source, revision, names)
    if tokens is None and not config.inputs.needs_tokenizer:
        tokens = (_nothing(source, revision),)
    return None if found is None or tokens is None else (*found, *tokens)


def _local(source: Source) -> tuple[Path, ...]:
    """Give all files of a folder: one that is added can change what is loaded."""
    folder = Path(source.place)
    if source.gguf_file is not None:
        beside = {file for pattern in _BESIDE_GGUF for file in folder.glob(pattern)}
        return (folder / source.gguf_file, *sorted(beside))
    return tuple(sorted(file for file in folder.iterdir() if not file.is_dir()))


def _of_hub_model(model: ModelConfig, source: Source) -> tuple[Path, ...] | None:
    found = _cached(source, model.revision, (_CONFIG,))
    if found is None and model.weights == "random" and model.name.lower() in BUNDLED:
        return (_nothing(source, model.revision),)
    return found


def _cached(
    source: Source, revision: str | None, names: tuple[str, ...]
) -> tuple[Path, ...] | None:
    """Give the files of a snapshot in the hub's cache that holds one of some files."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        try:
            file = try_to_load_from_cache(source.place, name, revision=revision)
        except ValueError:  # no name that the hub could have
            return None
        if isinstance(file, str):
            return _local(Source(place=str(Path(file).parent)))
    return None


def _nothing(source: Source, revision: str | None) -> Path:
    return Path(f"{source.place}@{revision}")


def missing_files(
    config: ProbeConfig, *, to_run: bool, at_hand: bool = False
) -> Iterator[Fault | ConfigError]:
    """Find what is wrong with the files of a config's model and tokenizer, before any is loaded.

    Not all is found so; what is found would be refused later too.

    Args:
        config: that names them.
        to_run: weights are needed, and the tokenizer for texts; without, the architecture alone.
        at_hand: the model lies in memory already, and has no files.
    """
    model, key = config.model, config.where("model.name")
    source: Source | None = None
    is_model = not at_hand
    try:
        source = None if at_hand else locate(model.name, key)
        if source is not None and not source.on_hub:
            yield from _missing(model, source, key, to_run=to_run)
            is_model = source.gguf_file is not None or (Path(source.place) / _CONFIG).is_file()
    except ConfigError as error:
        yield error
    if not to_run or not config.inputs.needs_tokenizer:
        return
    if model.tokenizer is not None:
        key = config.where("model.tokenizer")
        try:
            source = locate(model.tokenizer, key)
        except ConfigError as error:
            yield error
            return
    elif not is_model:
        return  # what is no folder of a model needs no tokenizer to be told of, too
    if source is not None and _has_no_tokenizer(source):
        yield Fault(key, no_tokenizer(source))


def _missing(
    model: ModelConfig, source: Source, where: str, *, to_run: bool
) -> Iterator[Fault | ConfigError]:
    folder = Path(source.place)
    said = f"cannot be loaded from {source.gguf_file or folder}"
    if source.gguf_file is not None:
        if not _is_gguf(folder / source.gguf_file):
            yield Fault(where, f"{said} (it is no GGUF file: it lacks the magic first bytes)")
        return
    try:
        check_folder(source, where)
    except ConfigError as error:
        yield error
        return
    if model.weights == "random":
        return
    try:
        trust.check_weights(folder, where)
    except ConfigError as error:
        yield error
        return
    if to_run and not any((folder / name).exists() for name in _WEIGHTS):
        yield Fault(
            where,
            f"{said} (there is no file named {_WEIGHTS[0]} in it); give a folder with weights, or "
            "set model.weights: random",
        )


def _is_gguf(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return True  # what the system says of it comes later


def _has_no_tokenizer(source: Source) -> bool:
    """Say whether a folder surely has none: models of a known family read words from files."""
    if source.on_hub or source.gguf_file is not None:
        return False
    files = _local(source)
    if any(part in file.name for file in files for part in _OF_TOKENIZERS):
        return False
    config = Path(source.place) / _CONFIG
    if config not in files:
        return True
    try:
        said = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    kind = str(said.get("model_type")) if isinstance(said, dict) else ""
    return kind in _FROM_FILES or family_of(kind) is not None


def no_tokenizer(source: Source) -> str:
    """Say that a folder has no tokenizer, and what to do."""
    return (
        f"there is no tokenizer in {source.place}: set model.tokenizer to another folder or to "
        "sample:tiny-gpt2, or use inputs.tokens or inputs.random, which need none"
    )
