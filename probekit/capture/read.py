"""Read: all that a run is made from, as it lies on this machine now.

By it a finished run is known again. Knows versions, and files by size and time; opens none of them.
What is not clear here is checked in full, when model's config, tokenizer and texts are loaded.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from probekit import models
from probekit.config import ProbeConfig
from probekit.errors import ProbekitError, StoreError
from probekit.inputs import files_of
from probekit.store import (
    LOCK_FILE,
    Lock,
    RunFolder,
    format_of,
    index_is_whole,
    read_run,
    remembered,
    schema,
    sealed_damages,
    sealed_shards,
)
from probekit.version import __version__

# What can change which tokens, sites and values a config gives.
_LIBRARIES = (
    *("torch", "transformers", "tokenizers", "h5py", "numpy", "gguf", "datasets", "pyarrow"),
    "jinja2",  # of chat templates
)
_SETTLED_NS = 2_000_000_000  # by then a change shows in a file's time, on any file system
_SURE_DEVICES = ("auto", "cpu")  # which every machine has; only torch can tell of others

Stamp = list[int]  # of a file: bytes, when it was written and when it was changed at all, in ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run that has nothing left to do."""

    n_shards: int
    notes: tuple[str, ...]  # what its plan had to say


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a config's run is made from."""

    config: ProbeConfig
    at_ns: int  # when it was looked at
    files: dict[str, Stamp | None] | None  # by path; None: is not there, of all: is not clear

    @classmethod
    def of(cls, config: ProbeConfig) -> Self:
        """Look at the files that a config names; that something is wrong is told by others."""
        at_ns = time.time_ns()
        try:
            paths = _files(config)
            stamps = None if paths is None else {str(p.absolute()): _stamp(p) for p in paths}
        except (ProbekitError, OSError):
            stamps = None
        return cls(config=config, at_ns=at_ns, files=stamps)

    def finished(self) -> Finished | None:
        """Say that the run is whole and was made from just this; None where it may be otherwise.

        Raises:
            StoreError: if another process writes into its folder.
        """
        folder, where = self.config.store.folder, self.config.where("store.path")
        said = remembered(folder) if self.files is not None else {}
        if said.get("files") != self.files or said.get("versions") != _versions():
            return None
        with Lock(folder / LOCK_FILE, where, shared=True):
            n_shards = _n_whole_shards(self.config, folder)
        if n_shards is None:
            return None
        notes = said.get("notes")
        return Finished(
            n_shards=n_shards,
            notes=tuple(map(str, notes)) if isinstance(notes, list) else (),
        )

    def remember(self, folder: RunFolder, notes: Sequence[str]) -> None:
        """Write down that the run in a folder, whole now, was made from this.

        Nothing is written where a file has changed meanwhile, or so short a time before that
        another change would not show.
        """
        now = Read.of(self.config)
        if self.files is None or now.files != self.files:
            return
        latest = max((t for stamp in self.files.values() if stamp for t in stamp[1:]), default=0)
        if latest > self.at_ns - _SETTLED_NS:
            return
        said = {"versions": _versions(), "files": self.files, "notes": list(notes)}
        try:
            folder.remember(said)
        except StoreError:  # a full disk: the run is whole, and only checked in full next time
            return


def _files(config: ProbeConfig) -> tuple[Path, ...] | None:
    """Give every file that decides a run, also one that is not there; None if it is not clear."""
    model, texts = config.model, files_of(config)
    if model.device not in _SURE_DEVICES or model.attention == "flash_attention_2":
        return None
    template = config.inputs.template_place
    named = models.files_of(config)
    return None if named is None else (*named, *texts, *([] if template is None else [template]))


def _stamp(path: Path) -> Stamp | None:
    try:
        there = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [there.st_size, there.st_mtime_ns, there.st_ctime_ns]


def _versions() -> dict[str, str | None]:
    return {"probekit": __version__, **{name: version_of(name) for name in _LIBRARIES}}


@cache  # finding one takes a millisecond, and every run asks twice
def version_of(name: str) -> str | None:
    """Give the version of a library; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _n_whole_shards(config: ProbeConfig, folder: Path) -> int | None:
    """Count the shards of a run that is whole, and this config's; None if it is not."""
    try:
        run = read_run(folder)
        if run is None:
            return None
        format_of(folder)  # refuses one that this version cannot write
        identity = run["identity"]
        n_shards = len(identity["shards"])
        is_whole = (
            identity.get("config_digest") == config.digest
            and identity["meanings"] == meanings_of(_kinds(identity["sites"]), config)
            and sealed_shards(folder) == set(range(n_shards))
            and not sealed_damages(folder, sums=False)
            and index_is_whole(folder, sums=False)
        )
    except (StoreError, LookupError, TypeError, AttributeError):
        return None
    return n_shards if is_whole else None


def meanings_of(kinds: Iterable[str], config: ProbeConfig) -> dict[str, int]:
    """Number what record kinds and settings mean, where that has changed since format 1.0."""
    plain = {kind.partition(".")[0].partition("@")[0] for kind in kinds}
    sample = config.generate is not None and config.generate.combines
    return {
        **{kind: number for kind, number in sorted(schema.MEANINGS.items()) if kind in plain},
        **({"generate.strategy: sample": 2} if sample else {}),
    }


def _kinds(sites: list[dict[str, Any]]) -> set[str]:
    return {site["name"].rpartition("/")[2] for site in sites}
