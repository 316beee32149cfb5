"""Reading the inputs of a run: from its folder where they are sealed, else from where they come.

Knows what decides the examples of a run, and whether it has changed; nothing of the model but its
limits.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from probekit.arguments import at_home, no_path
from probekit.config import ProbeConfig, deciding_keys
from probekit.errors import StoreError
from probekit.inputs.contents import Codec
from probekit.inputs.datasets import local_files
from probekit.inputs.examples import Examples, Limits
from probekit.inputs.making import make_examples
from probekit.store import BusyError, SealedInputs, file_digest, read_run

_PAUSE_S = 0.2  # between two looks whether another worker has sealed the inputs
_SETTINGS, _FILE, _TOKENIZER, _TEMPLATE = "settings", "file", "tokenizer", "template"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What decides the examples of a run."""

    config: ProbeConfig
    limits: Limits
    tokenizer: str | None  # a digest that tells it from others

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digests, by what they are of; of a file, and of a dataset that is a local folder."""
        return dict(self._digests())

    def _digests(self) -> Iterator[tuple[str, str]]:
        settings = json.dumps([deciding_keys(self.config.inputs), asdict(self.limits)])
        yield _SETTINGS, hashlib.sha256(settings.encode()).hexdigest()
        if self.tokenizer is not None:
            yield _TOKENIZER, self.tokenizer
        template = self.config.inputs.template_place
        if template is not None and template.is_file():
            yield _TEMPLATE, file_digest(template)
        place = place_of(self.config)
        if place is not None and place.is_file():
            yield _FILE, file_digest(place)
        elif files := [path for path in files_of(self.config) if path.is_file()]:
            names = [path.relative_to(place) if place else path.name for path in files]
            said = [f"{name} {file_digest(path)}" for name, path in zip(names, files, strict=True)]
            yield _FILE, hashlib.sha256("\n".join(said).encode()).hexdigest()


def place_of(config: ProbeConfig) -> Path | None:
    """Give the file or the local folder that the texts come from; None where there is none."""
    inputs = config.inputs
    if inputs.file is not None:
        return inputs.place
    dataset = inputs.dataset
    if dataset is None or dataset.is_builder or no_path(dataset.name) is not None:
        return None
    return at_home(dataset.name)


def files_of(config: ProbeConfig) -> tuple[Path, ...]:
    """Give the files of this machine that the texts come from, also one that is not there."""
    place, dataset = place_of(config), config.inputs.dataset
    if dataset is not None and dataset.is_builder:
        return local_files(dataset)
    if place is not None and place.is_dir():
        return tuple(sorted(path for path in place.rglob("*") if path.is_file()))
    return () if place is None else (place,)


def read_inputs(
    origin: Origin, codec: Codec, *, sealed_in: Path | None
) -> tuple[Examples, list[str]]:
    """Take the examples that a run has sealed, or read and tokenize them.

    Args:
        origin: what decides them.
        codec: what the tokenizer does; texts need one, token ids and random inputs do not.
        sealed_in: the run's folder; None to read anew in any case.

    Returns:
        The examples, and what the user should know.

    Raises:
        ConfigError: naming every text (up to twenty) that cannot be used, and why.
    """
    while True:
        found, notes = sealed_inputs(origin, sealed_in)
        if found is not None:
            return found, notes
        try:
            made = make_examples(origin.config, codec, origin.limits)
        except BusyError:
            if sealed_in is None or not _is_read_by_another(origin.config, sealed_in):
                raise
            time.sleep(_PAUSE_S)
        else:
            return made, [*notes, *made.notes]


def _is_read_by_another(config: ProbeConfig, folder: Path) -> bool:
    """Say whether another worker may be reading the source of this very run, to seal it."""
    run = read_run(folder)
    return run is None or run["identity"].get("config_digest") == config.digest


def sealed_inputs(origin: Origin, sealed_in: Path | None) -> tuple[Examples | None, list[str]]:
    """Take the examples that a run has sealed; None where it has none that are these.

    Args:
        origin: what decides them.
        sealed_in: the run's folder; None for none.

    Returns:
        The examples, and what the user should know.
    """
    config = origin.config
    notes: list[str] = []
    try:
        sealed = None if sealed_in is None else SealedInputs.read(sealed_in)
    except StoreError as error:
        sealed = None
        notes.append(f"{error}; the inputs are read again")
    if sealed is not None:
        before, now = sealed.made_from, origin.digests
        changed = {key for key in {*before, *now} if before.get(key) != now.get(key)}
        where = config.where("inputs.file" if config.inputs.file is not None else "inputs.dataset")
        if changed == {_FILE} and _FILE not in now:
            notes.append(f"{where}: is gone; the run goes on with the texts that it has sealed")
            changed.clear()
        if not changed and int(sealed.tokens.values.max()) < origin.limits.d_vocab:
            return Examples.of(sealed), notes
        if changed == {_FILE}:
            notes.append(f"{where}: has changed since the run in {sealed_in} began")
    return None, notes
