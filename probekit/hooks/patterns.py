"""Patterns: what a recording is asked for, as module paths and record kinds.

Knows globs, portable names and record kinds; nothing of hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from probekit.config import RecordKind, match_paths, nearest
from probekit.errors import Fault, PlanError
from probekit.hooks.projections import config_of
from probekit.models import families, places_inside
from probekit.models.forward import (
    EXPERT_KINDS,
    SCALE_KINDS,
    Mixture,
    Reading,
    expert_blocks,
    mixtures_of,
)
from probekit.models.places import Place
from probekit.planning import BLOCK_KINDS, HEAD_KINDS
from probekit.wording import near as near_words, show_typed

ATTENTION_KINDS = (*HEAD_KINDS, *BLOCK_KINDS, "head_out")

Patterns = str | Iterable[str] | Mapping[str, str | Iterable[str]]


@dataclass(frozen=True, slots=True)
class Site:
    """One place that is recorded."""

    path: str  # of the module
    kind: RecordKind
    factor: float = 1.0  # of what is read there

    @property
    def name(self) -> str:
        """What a recording calls it."""
        return str(Place(module=self.path, kind=str(self.kind), factor=self.factor))


Sites = dict[str, Site]  # by name


def written_out(patterns: Any) -> list[str]:
    """Write out what is asked for as `glob/kind`."""
    found: list[Any] = []
    if _is_probe(patterns) or (
        isinstance(patterns, list | tuple) and any(map(_is_probe, patterns))
    ):
        raise PlanError(
            "record: patterns hold a probe as a config has it; here give globs and portable names "
            'alone, with a kind behind a slash: ["resid_post", "transformer.h.*.mlp.act/input"]'
        )
    if isinstance(patterns, Mapping):
        for glob, kinds in patterns.items():
            is_one = isinstance(kinds, str) or not isinstance(kinds, Iterable)
            of_glob: Iterable[Any] = [kinds] if is_one else kinds
            found += [f"{glob}/{k}" if isinstance(k, str) else k for k in of_glob]
    elif isinstance(patterns, str):
        found = [patterns]
    elif isinstance(patterns, Iterable) and not isinstance(patterns, bytes):
        found = list(patterns)
    if not found or not all(isinstance(pattern, str) and pattern for pattern in found):
        raise PlanError(
            f"record: patterns are {show_typed(patterns)}; expected globs over module paths or "
            'portable names: "transformer.h.*.mlp.act", or a list of at least one'
        )
    return found


def _is_probe(given: Any) -> bool:
    return isinstance(given, Mapping) and any(key in given for key in ("sites", "modules"))


def matched(model: torch.nn.Module, wanted: list[str]) -> dict[str, Sites]:
    """Find the sites of each pattern.

    Raises:
        PlanError: with all patterns that mean nothing.
    """
    # A module that is reachable under two names is found by either; a lone one is its own root.
    every = tuple(path for path, _ in model.named_modules(remove_duplicate=False))
    paths = every if len(every) == 1 else every[1:]
    found_by: dict[str, Sites] = {}
    faults: list[Fault] = []
    for pattern in wanted:
        try:
            found = _matches(model, pattern, paths)
            found_by[pattern] = {site.name: site for site in found}
        except PlanError as error:
            faults.append(Fault("record", str(error)))
    if faults:
        raise PlanError.of(faults)
    return found_by


def _matches(model: torch.nn.Module, pattern: str, paths: tuple[str, ...]) -> Iterator[Site]:
    glob, _, given = pattern.partition("/")
    kind = RecordKind.parse(given or "output")
    found = paths if paths == ("",) and glob in ("*", "**") else match_paths(glob, paths)
    if found:
        if kind.name not in ("output", "input", *SCALE_KINDS, *ATTENTION_KINDS, *EXPERT_KINDS):
            raise PlanError(
                f"{pattern!r}: {kind.name} is taken in runs of a config; here, take it of the "
                "recorded logits"
            )
        if kind.name in EXPERT_KINDS:  # a glob may match dense layers beside them
            mixtures = mixtures_of(model)
            found = tuple(path for path in found if path in mixtures) or found
        yield from (Site(path, kind) for path in found)
    elif not given and glob in (*EXPERT_KINDS, *families.PORTABLE_NAMES):
        yield from places_of(model, glob).values()
    elif not given and glob in ATTENTION_KINDS:  # a kind of a module, and no portable name
        raise PlanError(
            f"{pattern!r} is a record kind, not a portable name; name its module, too: "
            f"MODULE/{pattern}, where MODULE is an attention module"
        )
    else:
        names = () if given else near_words(glob, (*EXPERT_KINDS, *families.PORTABLE_NAMES))
        near = (*names, *nearest(glob, paths))
        raise PlanError(
            f"{pattern!r} matches no module of {type(model).__name__}; "
            f"the nearest: {', '.join(near) or 'none'}"
        )


def places_of(model: torch.nn.Module, name: str) -> dict[int | None, Site]:
    """Give the site that a portable name means, by layer.

    Raises:
        PlanError: if the model has no such place.
    """
    whose = type(model).__name__
    if name in EXPERT_KINDS:
        blocks = expert_blocks(mixtures_of(model), name, whose)
        return {layer: Site(path, RecordKind(name=name)) for layer, path in blocks.items()}
    config = config_of(model)
    if config is None:
        raise PlanError(
            f"{name!r} is no module of {whose}, and a portable name on models of transformers "
            "only; name a module instead, by a glob"
        )
    paths = [path for path, _ in model.named_modules(remove_duplicate=False)]
    places = places_inside(config, name, paths, whose)
    return {
        layer: Site(place.module, RecordKind.parse(place.kind), place.factor)
        for layer, place in places.items()
    }


def reading_of(mixtures: Mapping[str, Mixture], module: str, kind: str) -> Reading:
    """Say where a block's router or experts are overheard.

    Raises:
        PlanError: if the block has no such thing.
    """
    at = mixtures[module].readings[kind] if module in mixtures else "it chooses no experts"
    if isinstance(at, str):
        near = next(iter(mixtures), None)
        there = f"; {near} has one" if near not in (None, module) else ""
        raise PlanError(f"{module} has no {kind}: {at}{there}")
    return at
