"""What a model's name names: a hub id, a local folder, a .gguf file, the embedded sample.

Knows names and whether the hub answers; loads nothing, and no torch.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from probekit.arguments import at_home, no_path, unreachable
from probekit.config import IN_MEMORY
from probekit.errors import ConfigError
from probekit.wording import shorten

SAMPLES = ("tiny-gpt2",)
IN_PYTHON = (
    "A config takes models that read token ids alone; in Python "
    "`with probekit.record(model, [...])` records the modules of any torch model, on any inputs"
)
BUNDLED = {  # architectures that build with no network, by the model's name in lower case
    "distilgpt2": "distilgpt2",
    "distilbert/distilgpt2": "distilgpt2",
    "gpt2": "gpt2",
    "openai-community/gpt2": "gpt2",
    "microsoft/phi-3-mini-4k-instruct": "phi-3-mini-4k-instruct",
}
_CONNECT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where `from_pretrained` is pointed at."""

    place: str  # a hub id or a folder
    gguf_file: str | None = None
    on_hub: bool = False

    def arguments(self, revision: str | None) -> dict[str, Any]:
        """Give the keyword arguments every `from_pretrained` of this source takes."""
        if self.on_hub:
            return {"revision": revision, "local_files_only": not hub_in_reach()}
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}


def locate(name: str, where: str) -> Source:
    """Find out what a model's or tokenizer's name names.

    Raises:
        ConfigError: if it names a sample, a folder or a file that does not exist, or a model that
            is in memory.
    """
    if name.startswith(IN_MEMORY):
        raise ConfigError(
            f"{where}: {shorten(name)} is a model in memory, which only Python can give: "
            "probekit.run(config, model=model, tokenizer=tokenizer)"
        )
    if name.startswith("sample:"):
        sample = name.removeprefix("sample:")
        if sample not in SAMPLES:
            raise ConfigError(
                f"{where}: there is no sample {sample!r}; "
                f"expected {', '.join(f'sample:{s}' for s in SAMPLES)}"
            )
        return Source(place=str(resources.files("probekit.samples") / sample))
    if (wrong := no_path(name)) is not None:
        raise ConfigError(f"{where}: given {shorten(name)}, {wrong}")
    path = at_home(name)
    if (reason := unreachable(path)) is not None:
        raise ConfigError(f"{where}: {shorten(name)} {reason}")
    is_file, is_dir = path.is_file(), path.is_dir()
    if path.suffix == ".gguf":
        if not is_file:
            raise ConfigError(f"{where}: there is no file {path.absolute()}")
        return Source(place=str(path.parent), gguf_file=path.name)
    if is_file:
        raise ConfigError(
            f"{where}: {shorten(name)} is a file; expected a folder, a .gguf file or a hub id"
        )
    if is_dir:
        return Source(place=str(path))
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(f"{where}: there is no folder {path.absolute()}")
    return Source(place=name, on_hub=True)


@cache
def hub_in_reach() -> bool:
    """Say whether the model hub answers, once and quickly.

    The hub client retries for 23 s before it gives up, at every file.
    """
    from huggingface_hub import constants  # not earlier: most models are no hub's

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True  # only the proxy can tell
    hub = urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((hub.hostname or "", hub.port or 443), timeout=_CONNECT_S):
            return True
    except OSError:
        return False


def _check_json(file: Path, where: str) -> None:
    try:
        json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise ConfigError(
            f"{where}: {file} is not JSON: {error.msg}, {at}; copy it again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {file} is not JSON: {error}; copy it again") from error
    except OSError:
        return  # what the system says of it comes later


def check_folder(source: Source, where: str) -> None:
    """Refuse a folder of something else than a model of transformers, by what it is.

    Raises:
        ConfigError: which says what there is, and what to do.
    """
    place = Path(source.place)
    if source.on_hub or source.gguf_file:
        return
    if (place / "config.json").is_file():
        _check_json(place / "config.json", where)
        return
    what, todo = "no config.json", "give a folder that `save_pretrained` of transformers wrote"
    if (place / "model_index.json").is_file():
        raise ConfigError(f"{where}: in {place} there is a pipeline of diffusers. {IN_PYTHON}")
    if (place / "adapter_config.json").is_file():
        what = "an adapter (adapter_config.json), which is a part of a model"
        todo = "join it to its model with peft's merge_and_unload(), and save that"
    elif found := sorted(place.glob("*.gguf")):
        what = f"no config.json, and {found[0].name}"
        todo = f"give that file: {found[0]}"
    raise ConfigError(f"{where}: cannot be loaded from {place}: there is {what}; {todo}")
