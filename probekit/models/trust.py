"""What a model's folder may not make this machine do.

Knows the files of a checkpoint by name and by their JSON, before anything of them is built: weights
that run code when they are read, code of the folder's own, code of yet another repository,
adapters, and sizes that no model has. Loads nothing; what needs no transformers imports none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from probekit.errors import ConfigError
from probekit.wording import shorten, show

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
_KERNEL = "_implementation"  # of attention, of experts; in keys of configs
_MOST = {  # counts of objects that are made one by one; the largest models have some 130 layers
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 1000),
    "num_labels": 10_000,
}


def check_sizes(values: Mapping[str, Any], where: str) -> None:
    """Refuse counts that would take all time and memory to build.

    Raises:
        ConfigError: naming the setting.
    """
    for key, most in _MOST.items():
        value = values.get(key)
        if isinstance(value, int) and value > most:
            raise ConfigError(f"{where}: {key} is {show(value)}; expected at most {most}")


def check_code(
    values: Mapping[str, Any], keys: Sequence[str], *, place: str, where: str, trusted: bool
) -> str | None:
    """Find the code of its own that a checkpoint runs; only `trust_remote_code` allows any.

    Args:
        values: its config.json, or its tokenizer_config.json.
        keys: the classes asked for; the last one's reference is given back.
        place: its folder, or its id on the hub.
        where: the place in the user's config that names it.
        trusted: what the user's config says.

    Returns:
        Where the class lies, `modeling_file.Class`; None where transformers' own class is used.

    Raises:
        ConfigError: if it cannot do without code that the user has not allowed, or takes it from
            another repository.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    references = [reference for key in keys for reference in _references(values, key)]
    if not references or (not trusted and str(values.get("model_type")) in CONFIG_MAPPING):
        return None
    if not trusted:
        raise ConfigError(
            f"{where}: it carries code of its own ({shorten(', '.join(references))}), and "
            f"transformers has no class for it. Read that code in {place}; if you trust it, set "
            "model.trust_remote_code: true, and it runs on this machine with your rights"
        )
    foreign = [r for r in references if "--" in r and r.partition("--")[0] != place]
    if foreign:
        raise ConfigError(
            f"{where}: the model takes its code from another repository "
            f"({shorten(', '.join(foreign))}), which model.trust_remote_code does not cover; "
            "put that code beside the weights, and its plain name into auto_map"
        )
    return next(_references(values, keys[-1]), None)


def _references(values: Mapping[str, Any], key: str) -> Iterator[str]:
    """Give the classes that an auto_map names: `modeling.Model`, `other/repo--modeling.Model`."""
    named = values.get("auto_map")
    found = named.get(key) if isinstance(named, Mapping) else named  # a list, in the form of old
    for reference in found if isinstance(found, list | tuple) else (found,):
        if reference is not None:
            yield str(reference)


def check_kernel(values: Mapping[str, Any] | PreTrainedConfig, where: str) -> None:
    """Refuse an architecture that asks for a kernel off the hub, in any part of it: native code.

    Args:
        values: a config.json, or what was built of it: transformers takes a kernel by several
            names, for all parts or for each, and a config can give its settings yet other names.
        where: the place in the user's config that names it.

    Raises:
        ConfigError: naming it.
    """
    for key, asked in _settings(values):
        if _KERNEL in key and "/" in asked:
            raise ConfigError(
                f"{where}: the model's config asks for the kernel {show(asked)} off the hub, "
                f"which is code; remove {shorten(key)} from it, and set model.attention"
            )


def _settings(values: Mapping[str, Any] | PreTrainedConfig) -> Iterator[tuple[str, str]]:
    """Give every text in a config, and the keys that it lies under, however deep."""
    from transformers import PreTrainedConfig

    left: list[tuple[str, Any]] = [("", values)]
    seen: set[int] = set()  # an object that code built can hold itself
    while left:
        path, value = left.pop()
        if isinstance(value, str):
            yield path, value
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, PreTrainedConfig):
            left.append((path, vars(value)))
        elif isinstance(value, Mapping):
            left += [(f"{path}.{key}".strip("."), item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            left += [(path, item) for item in value]


def check_weights(folder: Path, where: str) -> None:
    """Refuse a folder whose weights can be had only by running what they say.

    A pickle runs code when it is read. An adapter would be read beside the weights, or not,
    depending on what else is installed.

    Raises:
        ConfigError: saying what to do.
    """
    if any(folder.glob("adapter_config.json")):
        raise ConfigError(
            f"{where}: {folder} holds an adapter, which probekit does not apply; merge it into its "
            "base model first (peft's merge_and_unload) and save that"
        )
    for index in folder.glob("*.safetensors.index.json"):
        if outside := sorted(name for name in _weight_files(index) if not _is_inside(name)):
            raise ConfigError(
                f"{where}: {index} takes weights from outside its folder "
                f"({shorten(', '.join(outside))}); put the files beside it"
            )
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles and not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{where}: the weights in {folder} are pickled ({shorten(', '.join(pickles))}), and a "
            "pickle can run code when it is read, so probekit never reads one; convert them to "
            "safetensors where you trust them: load the model with transformers there, and call "
            "its save_pretrained"
        )


def _weight_files(index: Path) -> set[str]:
    """Give the files an index of weights names; none where it is not one, which loading tells."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()
    return {str(name) for name in named}


def _is_inside(name: str) -> bool:
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts
