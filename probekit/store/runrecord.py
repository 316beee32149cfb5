"""run.json: which run a folder holds, what tells it from others, and how it was made.

Knows identity and provenance; nothing of shards.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from probekit.config import read_value
from probekit.errors import ConfigError, StoreError
from probekit.store.format import RUN_FILE, read_record
from probekit.wording import shorten, show

NOT_DIGESTED = "not digested"  # in a run's identity, of weights: equal to no others
_SHOWN = 5  # changed settings named in a message
_LONG = 63  # characters of one
_ALWAYS = ("model", "inputs", "store")  # sections of every config, written or all at default


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What run.json says. `identity` must be equal for a run to go on; the rest is provenance."""

    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Tell this run from others; every shard of it carries the same."""
        return identity_digest(self.identity)

    def to_json(self) -> dict[str, Any]:
        """Give the whole record as plain JSON values."""
        return {"identity": dict(self.identity), "provenance": dict(self.provenance)}


def identity_digest(identity: Mapping[str, Any]) -> str:
    """Digest what tells runs apart; JSON's own values and Python's give the same."""
    plain = json.loads(json.dumps(identity))
    return xxhash.xxh3_128_hexdigest(json.dumps(plain, sort_keys=True).encode())


def read_run(folder: Path) -> dict[str, Any] | None:
    """Read run.json; None when there is none."""
    path = folder / RUN_FILE
    if not path.exists():
        return None
    try:
        value = read_record(path)
    except StoreError as error:
        raise StoreError(
            f"{error}; --repair writes it again where the shards are of this run, "
            "--overwrite begins the run anew (in Python repair=True, overwrite=True)"
        ) from error
    identity, provenance = value.get("identity"), value.get("provenance", {})
    is_run = isinstance(identity, dict) and isinstance(provenance, dict)
    if not is_run or not isinstance(provenance.get("config", ""), str):
        raise StoreError(f"{path}: is not a run of probekit's; give another store.path")
    return value


def free_changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name what may differ between two parts of a run: free settings, the device, versions."""
    found = [config_changes(earlier.get("config"), now.get("config"))]
    found += [
        f"{key}: was {_shown(earlier.get(key, 'not set'))}, now {value}"
        for key, value in made_on(now).items()
        if earlier.get(key) != value
    ]
    return ", ".join(filter(None, found))


def made_on(session: Mapping[str, Any]) -> dict[str, Any]:
    """Give on which device and with which versions a session made its part of a run."""
    return {k: v for k, v in session.items() if k == "device" or k.endswith("_version")}


def config_changes(earlier: str | None, now: str | None) -> str:
    """Name the settings that differ between two configs, each as YAML."""
    if earlier == now:
        return ""
    try:
        old, new = (_flat(read_value(text or "{}")) for text in (earlier, now))
    except ConfigError as error:
        return f"config: cannot be compared, {error}"
    there = _sections(old), _sections(new)
    changed = [
        f"{key}: was {was}, now {now_is}"
        for key in dict.fromkeys([*old, *new])
        if (was := _meant(key, old, there[0])) != (now_is := _meant(key, new, there[1]))
        and not key.startswith("store.path")
    ]
    more = f", and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return ", ".join(changed[:_SHOWN]) + more


def _sections(flat: Mapping[str, str]) -> set[str]:
    """Name the sections that something is written in, the config itself as an empty text."""
    found = {"", *_ALWAYS}
    for key in flat:
        while key := key.rpartition(".")[0]:
            found.add(key)
    return found


def _meant(key: str, flat: Mapping[str, str], sections: Container[str]) -> str:
    """Say what a key means, also where it is left out of a section that is there."""
    if key in flat:
        return flat[key]
    from probekit.config import default_of  # not earlier: it imports pydantic; reading needs none

    default = default_of(key) if key.rpartition(".")[0] in sections else None
    return "not set" if default is None else _shown(default)


def _flat(value: Any, key: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        names = {_shown(name): item for name, item in value.items()}
        parts = ((f"{key}.{name}" if key else name, item) for name, item in names.items())
    elif isinstance(value, list):
        parts = ((f"{key}[{number}]", item) for number, item in enumerate(value))
    else:
        return {key: _shown(value)}
    return {name: text for part, item in parts for name, text in _flat(item, part).items()}


def _shown(value: Any) -> str:
    is_plain = isinstance(value, str) and value == value.strip() != ""
    return shorten(value if is_plain else show(value), _LONG)
