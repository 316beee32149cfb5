"""Pairing: which sites of two traces are the same place, and can be compared.

Knows names, portable names, rows and what was chosen of them; reads no values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from probekit.analysis.alignment import Alignment
from probekit.errors import StoreError
from probekit.store import EXAMPLE, FLOATS
from probekit.trace import Patterns, choose_sites, layerless, recorded

if TYPE_CHECKING:
    from probekit.trace import Site, Trace

_CHOICES = ("heads", "neurons", "einops", "einops_op", "pool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The same place in several layers: all its sites have the same rows."""

    place: str  # "resid_post", or a name without its layer
    xs: tuple[Site, ...]  # of the first trace
    ys: tuple[Site, ...]  # of the second
    pairs: tuple[tuple[int, int], ...]  # which of them are the same layer

    @property
    def has_features(self) -> bool:
        """Say whether a row's places mean the same in every row: keys of attention do not."""
        return "key" not in self.xs[0].axes


def width(site: Site) -> int:
    """Give how many values a row has."""
    return prod(site.shape[1:])


def pair_up(
    a: Trace, b: Trace, sites: Patterns | None, alignment: Alignment
) -> tuple[list[Group], list[str]]:
    """Find the places that two traces share.

    Args:
        a: a trace.
        b: another over the same texts.
        sites: of `a`, as `choose_sites` takes them.
        alignment: of their rows.

    Returns:
        The groups, and notes on what was left out.

    Raises:
        StoreError: if there is nothing to compare.
    """
    notes: list[str] = []
    ours = _by_place(choose_sites(a, sites), alignment, notes)
    theirs = _by_place([b[name] for name in b], alignment, [])
    groups = []
    for place in [place for place in ours if place in theirs]:
        shared = [how for how in ours[place] if how in theirs[place]]
        groups += [_group(place, ours[place][how], theirs[place][how]) for how in shared]
        if not shared:
            said = (" and ".join(map(str, t[place])) for t in (ours, theirs))
            notes.append(f"{place} is left out: recorded with {next(said)}, and with {next(said)}")
    if not groups:
        raise StoreError(_nothing(a, b, notes))
    return groups, notes


@dataclass(frozen=True, slots=True)
class _How:
    """How a site was recorded: two sites recorded otherwise do not hold the same."""

    rows: str
    choices: str  # heads, neurons, einops, pool

    def __str__(self) -> str:
        return f"positions: {self.rows}" + (f", {self.choices}" if self.choices else "")


def _by_place(
    sites: Sequence[Site], alignment: Alignment, notes: list[str]
) -> dict[str, dict[_How, list[Site]]]:
    """Sort sites by place and by how they were recorded; say which cannot be compared."""
    found: dict[str, dict[_How, list[Site]]] = {}
    for site in sites:
        is_measure = site.dtype in FLOATS and "k" not in site.axes
        if not is_measure or site.kind.startswith("scores"):
            continue
        if not alignment.by_token and site.axis != EXAMPLE and site.rows != "last":
            notes.append(
                f"{site.name} is left out: its rows are tokens, and the two tokenizers cut the "
                f"texts differently ({alignment.difference})"
            )
            continue
        chosen = [f"{key}: {site.attributes[key]}" for key in _CHOICES if key in site.attributes]
        how = _How(site.rows, ", ".join(chosen))
        found.setdefault(site.portable or layerless(site.name), {}).setdefault(how, []).append(site)
    return found


def _group(place: str, xs: Sequence[Site], ys: Sequence[Site]) -> Group:
    layers = {site.layer: number for number, site in enumerate(ys)}
    return Group(
        place=place,
        xs=tuple(xs),
        ys=tuple(ys),
        pairs=tuple((i, layers[x.layer]) for i, x in enumerate(xs) if x.layer in layers),
    )


def _nothing(a: Trace, b: Trace, notes: Sequence[str]) -> str:
    said = "".join(f"\n{note}" for note in notes[:5])
    hint = "" if not said else "\nrecord with `positions: last`, or with `pool`, to compare texts"
    return (
        f"{a.path} and {b.path} have nothing that can be compared (ids, top_k and scores never "
        f"are). Recorded in the first: "
        f"{recorded(a)}; in the second: {recorded(b)}{said}{hint if 'tokenizers' in said else ''}"
    )
