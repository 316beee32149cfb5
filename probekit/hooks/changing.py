"""Changing: values that no module holds, computed of what one gives, in a notebook.

Knows factors, norms' scales and what each head writes; nothing of what is kept for how long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import torch

from probekit.hooks.keeping import Kept, Packing
from probekit.hooks.patterns import Site
from probekit.hooks.projections import projections
from probekit.models.forward import SCALE_KINDS, head_writes, scale

Change = Callable[[torch.Tensor], torch.Tensor]


def heads_of(kind: str) -> str:
    """Name what is read for a kind: each head's write is computed of its `z`."""
    return "z" if kind == "head_out" else kind


def changes_of(model: torch.nn.Module, sites: Iterable[Site]) -> dict[str, Change]:
    """Give what is computed of what is read, by the names of sites whose values no module holds."""
    sites = tuple(sites)
    maps = projections(model, {site.path for site in sites if site.kind.name == "head_out"})
    found: dict[str, Change] = {}
    for site in sites:
        kind = site.kind.name
        if kind == "head_out":
            found[site.name] = partial(_write, model.get_submodule(maps[site.path]), site.factor)
        elif kind in SCALE_KINDS:
            found[site.name] = partial(scale, model.get_submodule(site.path), kind=kind)
        elif site.factor != 1.0:
            found[site.name] = partial(torch.mul, other=site.factor)
    return found


def keep_changed(
    change: Change, kept: list[Kept], tensor: torch.Tensor, packing: Packing | None = None
) -> None:
    """Keep what is computed of a tensor, over its last axis: nobody else has it."""
    made = change(tensor)
    if packing is not None and packing.axes:
        packing = replace(packing, axes=(*packing.axes[:-1], made.shape[-1]))
    kept.append(Kept(made, None, packing=packing))


def _write(projection: torch.nn.Module, factor: float, heads: torch.Tensor) -> torch.Tensor:
    writes = head_writes(heads, projection)
    return writes if factor == 1.0 else writes * factor
