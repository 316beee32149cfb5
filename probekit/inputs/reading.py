"""Reading the inputs of a run: from its folder where they are sealed, else from where they come.

Knows what decides the examples of a run, and whether it has changed; nothing of the model but its
limits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from probekit.config import ProbeConfig, deciding_keys
from probekit.errors import StoreError
from probekit.inputs.examples import Encode, Examples, Limits, make_examples
from probekit.store import SealedInputs, file_digest

_SETTINGS, _FILE, _TOKENIZER = "settings", "file", "tokenizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The examples of a run, and what they were made from."""

    examples: Examples
    made_from: Mapping[str, str]  # digests, by what decided the examples
    notes: tuple[str, ...]  # what the user should know


def read_inputs(
    config: ProbeConfig,
    encode: Encode | None,
    limits: Limits,
    *,
    tokenizer_digest: str | None,
    sealed_in: Path | None,
) -> Inputs:
    """Take the examples that a run has sealed, or read and tokenize them.

    Args:
        config: where the texts are.
        encode: texts to token ids; may be None for random inputs, which need no tokenizer.
        limits: what the model can take.
        tokenizer_digest: tells the tokenizer from others.
        sealed_in: the run's folder; None to read anew in any case.

    Raises:
        ConfigError: naming every text (up to twenty) that cannot be used, and why.
    """
    now = dict(_made_from(config, limits, tokenizer_digest))
    notes = []
    try:
        sealed = None if sealed_in is None else SealedInputs.read(sealed_in)
    except StoreError as error:
        sealed = None
        notes.append(f"{error}; the inputs are read again")
    if sealed is not None:
        before = sealed.made_from
        changed = {key for key in {*before, *now} if before.get(key) != now.get(key)}
        gone = changed == {_FILE} and _FILE not in now
        if gone:
            where = config.where("inputs.file")
            notes.append(f"{where}: is gone; the run goes on with the texts that it has sealed")
        if not changed or gone:
            return Inputs(examples=Examples.of(sealed), made_from=before, notes=tuple(notes))
        if changed == {_FILE}:
            where = config.where("inputs.file")
            notes.append(f"{where}: has changed since the run in {sealed_in} began")
    examples = make_examples(config, encode, limits)
    return Inputs(examples=examples, made_from=now, notes=tuple(notes))


def _made_from(
    config: ProbeConfig, limits: Limits, tokenizer_digest: str | None
) -> Iterator[tuple[str, str]]:
    keys = {k: v for k, v in deciding_keys(config.inputs).items() if k != "file"}
    settings = json.dumps([keys, asdict(limits)], sort_keys=True)
    yield _SETTINGS, hashlib.sha256(settings.encode()).hexdigest()
    if config.inputs.file is not None and Path(config.inputs.file).is_file():
        yield _FILE, file_digest(Path(config.inputs.file))
    if tokenizer_digest is not None:
        yield _TOKENIZER, tokenizer_digest
