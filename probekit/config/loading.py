"""YAML text, a mapping, and ``--set key=value`` -> ProbeConfig, or all that is wrong with them.

Knows where each key stood in the text, so that every later stage can name the place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ValidationError,
)

from probekit.arguments import plain
from probekit.config.keyplaces import (
    MAX_DEPTH,
    KeyPath,
    Mistake,
    Places,
    assign,
    count_known,
    parse_path,
    path_text,
)
from probekit.config.probeconfig import IN_MEMORY, ProbeConfig
from probekit.config.pydanticwords import default_at, mistakes_of
from probekit.config.yamltext import read_file, read_value
from probekit.errors import ConfigError, Fault
from probekit.wording import shorten, show_typed


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a config, for editors."""
    schema = ProbeConfig.model_json_schema() | {"title": "probekit config"}
    for part in (schema, *schema["$defs"].values()):
        for key, described in part["properties"].items():
            described.setdefault("title", key.capitalize())  # pydantic leaves it out beside $ref
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def load_config(
    source: str | Path | Mapping[str, Any] | ProbeConfig,
    *,
    overrides: Sequence[str] = (),
    in_memory: str | None = None,
) -> ProbeConfig:
    """Load a config, or say everything that is wrong with it.

    Args:
        source: The path of a YAML file, a mapping, or a config.
        overrides: ``key=value`` each, as given to ``--set``: ``model.name=gpt2``,
            ``probes[0].layers=[0, 1]``. An index one past the end appends.
        in_memory: What a model is called that is at hand, where the source does not name it. Any
            name gets ``memory:`` before it then, and the section ``model`` may be missing.

    Returns:
        The config.

    Raises:
        ConfigError: With one line for every fault, in the order of the text.
    """
    if isinstance(source, ProbeConfig) and not overrides and in_memory is None:
        return source
    mistakes: list[Mistake] = []
    if isinstance(source, str | Path):
        tree, places, mistakes = read_file(source)
    else:
        tree = _copied(source, ())
        places = source._places if isinstance(source, ProbeConfig) else Places()
    if not isinstance(tree, dict):
        keys = ", ".join(ProbeConfig.model_fields)
        given = f"given {show_typed(tree)}"
        if tree is None and isinstance(source, str | Path):
            given = "nothing is written in it"
        message = f"{given}, expected a mapping with the keys {keys}"
        raise ConfigError.of([Fault(places.where(()), message)])
    places, unusable = _with_overrides(tree, places, overrides)
    if in_memory is not None:
        _name_in_memory(tree, in_memory)
    return _validated(tree, places, mistakes, unusable)


def default_of(key: str) -> Any:
    """Give what a key means where it is left out of its section; None for nothing."""
    try:
        return default_at(parse_path(key), ProbeConfig)
    except ConfigError:  # an odd name, which no key of ours has
        return None


def _name_in_memory(tree: dict[str, Any], name: str) -> None:
    """Name the model as one in memory, where there is none or another name."""
    section = tree.get("model")
    model = {} if section is None else section
    named = model.get("name", name) if isinstance(model, dict) else None
    if isinstance(named, str) and named and not named.startswith(IN_MEMORY):
        # A path's first slash would make a URL of it.
        tree["model"] = {**model, "name": IN_MEMORY + named.lstrip("/")}


def _validated(
    tree: dict[str, Any], places: Places, mistakes: Iterable[Mistake], unusable: Iterable[Fault]
) -> ProbeConfig:
    try:
        config = ProbeConfig.model_validate(tree)
    except ValidationError as error:
        mistakes = [*mistakes, *mistakes_of(error, tree, ProbeConfig)]
    if faults := [*_in_order(mistakes, places), *unusable]:
        raise ConfigError.of(faults)
    config._places = places
    return config


def _in_order(mistakes: Iterable[Mistake], places: Places) -> Iterator[Fault]:
    """Make faults in the order of the text; what came from --set follows."""

    def line(mistake: Mistake) -> float:
        at = mistake.line or places.find(mistake.path)[1]
        return at if isinstance(at, int) else float("inf") if at else 0

    for mistake in sorted(mistakes, key=line):
        where = places.where(mistake.path, with_value=True)
        if mistake.line:
            where = f"{places.source}:{mistake.line}: {path_text(mistake.path)}"
        yield Fault(where, mistake.message)


def _copied(value: Any, path: KeyPath) -> Any:
    """Copy a mapping of Python's into what a YAML file could have said."""
    if len(path) > MAX_DEPTH:
        message = f"nested deeper than {MAX_DEPTH} levels"
        raise ConfigError.of([Fault(Places().where(path[:3]), message)])
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_unset=True)
    value = plain(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                message = f"given the key {show_typed(key)}, expected text"
                raise ConfigError.of([Fault(Places().where(path), message)])
        return {key: _copied(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item, (*path, i)) for i, item in enumerate(value)]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _assignments(overrides: Any) -> list[str]:
    found = list(overrides) if isinstance(overrides, list | tuple) else [overrides]
    if not isinstance(overrides, Iterable) or not all(isinstance(one, str) for one in found):
        message = f"given {show_typed(overrides)}, expected a list of key=value texts"
        raise ConfigError.of([Fault("overrides", message)])
    return found


def _with_overrides(
    tree: dict[str, Any], places: Places, overrides: Iterable[str]
) -> tuple[Places, list[Fault]]:
    """Carry out each ``key=value`` on the tree; returns the new places and what was wrong."""
    faults: list[Fault] = []
    for assignment in _assignments(overrides):
        key, equals, text = assignment.partition("=")
        try:
            if not equals:
                raise ConfigError("expected key=value, e.g. model.name=gpt2")
            path = parse_path(key.strip())
            n_known = count_known(tree, path)
            assign(tree, path, read_value(text))
            places = places.with_set(path, assignment, n_known)
        except ConfigError as error:
            faults.append(Fault(f"--set {shorten(assignment)}", str(error)))
    return places, faults
