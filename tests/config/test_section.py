"""Which keys of a config decide, and that only these tell runs apart."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from pydantic import Field

from probekit.config import probeconfig
from probekit.config.format1 import digest_of_format_1
from probekit.config.loading import load_config
from probekit.config.probeconfig import ProbeConfig
from probekit.config.section import DECIDES, FREE, Deciding, Free, Part, deciding_keys

PARTS = [p for _, p in inspect.getmembers(probeconfig, inspect.isclass) if issubclass(p, Part)]
SMALL: dict[str, Any] = {
    "model": {"name": "gpt2"},
    "inputs": {"texts": ["a"]},
    "probes": [{"sites": "z"}],
    "store": {"path": "runs/a"},
}


def changed(**parts: Any) -> dict[str, Any]:
    return {**SMALL, **{k: {**SMALL.get(k, {}), **v} for k, v in parts.items()}}


@pytest.mark.parametrize("part", [p for p in PARTS if p is not Part])
def test_each_key_is_declared_deciding_or_free(part: type[Part]) -> None:
    for key, field in part.model_fields.items():
        roles = [mark for mark in field.metadata if mark in (DECIDES, FREE)]
        assert len(roles) == 1, f"{part.__name__}.{key}"


def test_a_key_at_its_default_does_not_enter_the_identity() -> None:
    written = changed(
        model={"dtype": "auto", "revision": "main"},
        inputs={"too_long": "truncate", "limit": None},
        store={"compression": None, "shard_bytes": "1GiB"},
    )
    written["probes"] = [{"sites": ["z"], "layers": "all", "positions": "all", "k": 5}]
    written["generate"] = None
    assert load_config(written).digest == load_config(SMALL).digest
    assert load_config(SMALL).decisions == {
        "model": {"name": "gpt2"},
        "inputs": {"texts": ["a"]},
        "probes": [{"sites": ["z"]}],
        "store": {},
    }


@pytest.mark.parametrize(
    "free",
    [
        {"model": {"device": "cpu"}},
        {"inputs": {"batch_tokens": 7}},
        {"store": {"path": "b", "buffer_bytes": 1, "on_overflow": "error"}},
    ],
)
def test_a_free_key_does_not_enter_the_identity(free: dict[str, Any]) -> None:
    assert load_config(changed(**free)).digest == load_config(SMALL).digest


@pytest.mark.parametrize(
    "decides",
    [
        {"model": {"dtype": "float16"}},
        {"inputs": {"max_tokens": 3}},
        {"store": {"dtype": "float16"}},
        {"generate": {"max_new_tokens": 1}},
    ],
)
def test_a_deciding_key_does(decides: dict[str, Any]) -> None:
    assert load_config(changed(**decides)).digest != load_config(SMALL).digest


def test_a_key_of_a_later_version_changes_no_digest_while_it_is_at_its_default() -> None:
    class Later(probeconfig.StoreConfig):
        colour: Deciding[str] = Field("red", description="Decides.")
        speed: Free[int] = Field(1, description="Free.")

    old = probeconfig.StoreConfig.model_validate({"path": "a", "dtype": "float16"})
    new = Later.model_validate({"path": "a", "dtype": "float16", "speed": 7})
    assert deciding_keys(new) == deciding_keys(old) == {"dtype": "float16"}
    blue = Later.model_validate({"path": "a", "colour": "blue"})
    assert deciding_keys(blue) == {"colour": "blue"}


def test_sizes_of_an_einops_pattern_decide() -> None:
    def tree(**sizes: int) -> dict[str, Any]:
        einops = {"rearrange": "token (head d) -> token head d", **sizes}
        return {**SMALL, "probes": [{"modules": "a", "einops": einops}]}

    assert load_config(tree(head=2)).digest != load_config(tree(head=4)).digest


def test_what_decides_is_a_config_but_for_where_it_goes() -> None:
    config = load_config(changed(model={"dtype": "float16"}))
    again = load_config({**config.decisions, "store": {"path": "b"}})
    assert again.digest == config.digest


# --- format 1.0


def test_the_digest_of_format_1_takes_every_key_that_there_was() -> None:
    config = load_config(changed(generate={"max_new_tokens": 3}))
    since = {"examples", "columns", "tokens", "special_tokens"}  # 1.1
    since |= {"messages", "chat_template", "template", "stride"}
    free: dict[str, Any] = {
        "model": {"device"},
        "inputs": {"batch_tokens", *since},
        "store": {"path", "buffer_bytes", "on_overflow"},
        "generate": {  # since 1.1
            *("min_p", "repetition_penalty", "no_repeat_ngram_size", "samples", "beams")
        },
        "early_stop": True,
    }
    import hashlib

    then = config.model_dump(mode="json", exclude=free)
    then["generate"] |= {"top_k": 50, "top_p": 0.9}  # what null means
    text = json.dumps(then, sort_keys=True, separators=(",", ":"))
    assert digest_of_format_1(config) == hashlib.sha256(text.encode()).hexdigest()


def test_a_config_with_a_later_key_has_no_digest_of_format_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if `limit` had come after it."""
    from probekit.config import format1

    known = {**format1._KEYS, "InputsConfig": format1._KEYS["InputsConfig"].replace("limit ", "")}
    monkeypatch.setattr(format1, "_KEYS", known)
    assert digest_of_format_1(load_config(SMALL)) is not None
    assert digest_of_format_1(load_config(changed(inputs={"limit": 3}))) is None


def test_early_stop_was_free_then() -> None:
    slow: ProbeConfig = load_config({**SMALL, "early_stop": False})
    assert digest_of_format_1(slow) == digest_of_format_1(load_config(SMALL))
