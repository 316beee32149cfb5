"""How runs of format 1.0 were told apart, so that one that was begun then can go on.

Its digest took every key of a config, defaults included. The keys are those that there were.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probekit.config.probeconfig import ProbeConfig
from probekit.config.section import Part, deciding_keys, sha256_of

_MODEL = "name revision dtype weights tokenizer attention trust_remote_code overrides"
_RULE = "modules sites record layers positions heads neurons einops pool k"
_KEYS: Mapping[str, str] = {
    "ProbeConfig": "model inputs probes execution_order generate store seed",
    "ModelConfig": _MODEL,
    "InputsConfig": "texts file dataset random field limit max_tokens too_long",
    "DatasetInputs": "name subset split revision",
    "RandomInputs": "examples min_tokens max_tokens seed",
    "ProbeRule": _RULE,
    "EinopsConfig": "rearrange reduce op",
    "GenerateConfig": "max_new_tokens strategy temperature top_k top_p seed stop_at_eos use_cache",
    "StoreConfig": "dtype shard_bytes compression",
}
_FREE_THEN = ("early_stop",)
_DEFAULTS_THEN = {"top_k": 50, "top_p": 0.9}


def digest_of_format_1(config: ProbeConfig) -> str | None:
    """Give the digest that format 1.0 had of a config; None where it knew not all of its keys."""
    keys = _as_then(config)
    return None if keys is None else sha256_of(keys)


def _as_then(part: Part) -> dict[str, Any] | None:
    known = _KEYS.get(type(part).__name__, "").split()
    if deciding_keys(part).keys() - {*known, *_FREE_THEN, *(part.model_extra or {})}:
        return None  # a key that there was not is set
    plain = part.model_dump(mode="json")
    found = {key: plain[key] for key in part.model_extra or {}}
    for key in known:
        value = getattr(part, key)
        found[key] = (
            _DEFAULTS_THEN[key]
            if key in _DEFAULTS_THEN and value is None
            else _value(value, plain[key])
        )
        if found[key] is _NOT_THEN:
            return None
    return found


_NOT_THEN = object()


def _value(value: Any, dumped: Any) -> Any:
    if isinstance(value, Part):
        found = _as_then(value)
        return _NOT_THEN if found is None else found
    if isinstance(value, tuple):
        items = [_value(item, plain) for item, plain in zip(value, dumped, strict=True)]
        return _NOT_THEN if _NOT_THEN in items else items
    return dumped
