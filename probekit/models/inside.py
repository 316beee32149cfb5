"""The model inside: where portable names lie in a model that is wrapped, or has no head.

Knows module paths; nothing of what wraps a model (PEFT, DataParallel, torch.compile).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from probekit.errors import PlanError
from probekit.models import families
from probekit.models.families import Place
from probekit.models.forward import block_of


def _block(config: object) -> str | None:
    """Give the path of the first block; None where no name lies in one."""
    for place, (name, layer) in families.portable_names(config).items():
        if name == "resid_pre":
            return place.rpartition("/")[0]
        if layer is not None:  # a part of it
            return block_of(place)
    return None


@dataclass(frozen=True, slots=True)
class Inside:
    """What the paths of a family's table have before them here, or lack."""

    before: str = ""  # "base_model.model."
    lacks: str = ""  # "transformer.": of a model without its head

    @classmethod
    def of(cls, config: object, paths: Iterable[str]) -> Inside:
        """Find out by where the first block lies; as the table says where it lies nowhere."""
        block = _block(config)
        if block is None:
            return cls()
        there = frozenset(paths)
        if block in there:
            return cls()
        wrapped = sorted((p for p in there if p.endswith(f".{block}")), key=len)
        if wrapped:
            return cls(before=wrapped[0].removesuffix(block))
        segments = block.split(".")
        for n in range(1, len(segments)):
            if ".".join(segments[n:]) in there:
                return cls(lacks=".".join(segments[:n]) + ".")
        return cls()

    def place(self, place: Place) -> Place | None:
        """Give a place as it is called here; None where the model has no such part."""
        if not place.module.startswith(self.lacks):
            return None
        module = self.before + place.module.removeprefix(self.lacks)
        return replace(place, module=module)


def places_inside(
    config: object, name: str, paths: Iterable[str], model_class: str
) -> dict[int | None, Place]:
    """Say where a portable name is read on a model with these module paths; see `places`.

    Raises:
        PlanError: as `places` does, and where the model is without the head that the name needs.
    """
    places = families.places(config, name)
    inside = Inside.of(config, paths)
    found = {layer: inside.place(place) for layer, place in places.items()}
    there = {layer: place for layer, place in found.items() if place is not None}
    if not there:
        raise PlanError(
            f"portable name {name!r} does not exist on this {model_class}: it is the model without "
            "its head"
        )
    return there


def names_inside(config: object, paths: Iterable[str]) -> dict[str, tuple[str, int | None]]:
    """Map every place of a model with these module paths to its portable name; see `places`."""
    names = families.portable_names(config)
    if not names:
        return {}
    inside = Inside.of(config, paths)
    if inside == Inside():
        return names
    moved = {
        inside.place(Place(module=module, kind=kind)): named
        for (module, _, kind), named in ((text.rpartition("/"), n) for text, n in names.items())
    }
    return {str(place): named for place, named in moved.items() if place is not None}
