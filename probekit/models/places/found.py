"""What was found of a model's places so far: places, and why some names have none.

Knows layers and places; finds and proves nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from probekit.models.places.layers import Kinds, Layer
from probekit.models.places.names import Place

Key = tuple[str, int | None]  # a name, and a layer


class Missing(Exception):  # noqa: N818 (it is no fault)
    """Why a name has no place."""


@dataclass(slots=True)
class Found:
    """What was found: places, and why some names have none."""

    layers: list[Layer]
    kinds: Kinds = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)
    missing: dict[Key, str] = field(default_factory=dict)
    cap: float | None = None  # of logits
    reads_out: bool = True  # it is known how logits are made of the final norm's output
    before: float = 1.0  # what the final norm gives is multiplied with it before the head

    def refuse(self, name: str, reason: str) -> None:
        """Take all places of a name away."""
        for key in [key for key in self.places if key[0] == name]:
            del self.places[key]
            self.missing[key] = reason
        self.missing.setdefault((name, None), reason)
