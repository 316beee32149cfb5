"""Names of sites that differ in the number of their layer alone.

Knows names; neither traces nor models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def collapse(names: Iterable[str]) -> dict[str, list[str]]:
    """Group names that differ in their layer alone: `h.{0..5}.mlp/output` -> the six names."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(layerless(name), []).append(name)
    return {
        shape.replace("{}", _numbers(members)) if "{}" in shape else shape: members
        for shape, members in groups.items()
    }


def layerless(name: str) -> str:
    """Give a name without the number of its layer: `h.{}.mlp/output`."""
    return re.sub(r"(?<=\.)\d+(?=[./])", "{}", name, count=1)


def _numbers(names: list[str]) -> str:
    found = sorted(int(m[0]) for n in names if (m := re.search(r"(?<=\.)\d+(?=[./])", n)))
    if len(found) == 1:
        return str(found[0])
    if found == list(range(found[0], found[-1] + 1)):
        return f"{{{found[0]}..{found[-1]}}}"
    return "{" + ",".join(map(str, found)) + "}"
