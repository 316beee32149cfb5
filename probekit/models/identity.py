"""Which model a local folder or file holds, to the last byte.

Knows the files of a checkpoint; what is in them it does not look at, but for the configs.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import xxhash

from probekit.config import ProbeConfig
from probekit.models.sources import locate
from probekit.store import file_digest

_CONFIGS = ("config.json", "generation_config.json")


def model_digest(config: ProbeConfig) -> str | None:
    """Tell a local model from others, so that a run does not go on with a changed one.

    Reads what its configs say, and every byte of its weights and of code that may run.

    Returns:
        A digest, or None where nothing is local (the hub has commits for that).
    """
    source = locate(config.model.name, config.where("model.name"))
    if source.on_hub:
        return None
    folder = Path(source.place)
    files: list[Path] = []
    if config.model.weights != "random":
        files += [folder / source.gguf_file] if source.gguf_file else folder.glob("*.safetensors")
    if config.model.trust_remote_code:
        files += folder.glob("*.py")
    digest = xxhash.xxh3_128()
    for name in _CONFIGS if source.gguf_file is None else ():
        if (folder / name).exists():
            digest.update(f"{name} {_said_in(folder / name)}\n".encode())
    for file in sorted(files):
        there = file.stat()
        content = _content_digest(file, there.st_size, there.st_mtime_ns, there.st_ctime_ns)
        digest.update(f"{file.name} {content}\n".encode())
    return digest.hexdigest()


def _said_in(file: Path) -> str:
    """Give what a config says, whichever version of transformers wrote it."""
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        return json.dumps({**json.loads(text), "transformers_version": None}, sort_keys=True)
    except (ValueError, TypeError, RecursionError):  # transformers goes without, or has refused it
        return text


@lru_cache(maxsize=1024)  # a run asks more than once, and a large model takes seconds
def _content_digest(file: Path, size: int, mtime_ns: int, ctime_ns: int) -> str:
    """Digest a file's bytes; size and times are what it is remembered by."""
    return file_digest(file)
