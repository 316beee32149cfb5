"""Asking: what a user asked of a fit, checked: sites of one place, examples on two sides, options.

Knows arguments and columns; reads no rows and fits nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from probekit import arguments
from probekit.analysis.readouts.scoring import ACCURACY, BALANCED, R2
from probekit.analysis.readouts.siterows import SiteRows, refuse_unfit_site
from probekit.analysis.readouts.splitting import Labelled, drawn_split, refuse_unfit
from probekit.analysis.readouts.targets import MEAN_DIFFERENCE, Target, known_in, units_of
from probekit.errors import StoreError
from probekit.trace import Patterns, Site, Trace, choose_sites, layerless
from probekit.wording import counted, one_of, shorten, show, show_typed

Array = np.ndarray[Any, Any]

_SIDES = ("train", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user asked for, checked."""

    pool: str | None
    strength: float | None
    measure: str
    n_shuffles: int
    confidence: float
    seed: int
    memory_bytes: int


_MOST_SHUFFLES = 1000  # each is a fit of every layer


def checked_shuffles(given: object) -> int:
    """Refuse what is no number of shuffled fits, or more than anyone waits for."""
    number = arguments.whole("shuffles", given, least=0)
    if number > _MOST_SHUFFLES:
        raise StoreError(
            f"shuffles is {shorten(str(number))}; at most {_MOST_SHUFFLES:,} are fitted"
        )
    return number


def places_of(trace: Trace, sites: Patterns) -> tuple[Site, ...]:
    """Give the sites of one place, one a layer, all with rows of the same tokens."""
    chosen = choose_sites(trace, sites)
    for site in chosen:
        refuse_unfit_site(site)
    first = chosen[0]
    for site in chosen[1:]:
        if place_of(site) != place_of(first):
            raise StoreError(
                f"{trace.path}: {first.name} and {site.name} are of two places; a readout is of "
                "one place, at one or several layers: call it for each"
            )
        if site.rows != first.rows or site.shape[1:] != first.shape[1:]:
            raise StoreError(
                f"{trace.path}: {first.name} has {_said_rows(first)}, {site.name} "
                f"{_said_rows(site)}; their scores could not be compared: choose with sites="
            )
    keys = [key_of(site) for site in chosen]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise StoreError(
            f"{trace.path}: two of the sites are {twice} of {place_of(first)}; choose one of them"
        )
    return chosen


def sides_of(
    trace: Trace,
    site: Site,
    target: Target,
    split: float | str,
    group: str | None,
    options: Options,
) -> tuple[Labelled, Array, list[str]]:
    """Give the examples that can be used, which of them are held out, and what was left out."""
    where = f"{trace.path}: {target.column}"
    units, has_unit = units_of(trace, group)
    everywhere = np.ones(len(trace.examples), dtype=bool)
    has_rows = ~everywhere
    has_rows[SiteRows(site, options.pool).examples] = True
    side, has_side = _said_sides(trace, split) if isinstance(split, str) else (None, everywhere)
    used = target.there & has_unit & has_rows & has_side
    data = Labelled(examples=np.flatnonzero(used), units=units[used], labels=target.values[used])
    if len(data.examples) < 4:
        raise StoreError(
            f"{where}: {counted(len(data.examples), 'example', of=len(used))} can be used (with a "
            "label, and rows of the site); a readout needs at least 4, and hundreds to say much"
        )
    if side is None:
        held = drawn_split(data, share_of("split", split), target, options.seed, where)
    else:
        held = side[used]
    refuse_unfit(data, held, target, where)
    notes = [
        f"{counted(int((~there).sum()), 'example')} left out: {why}"
        for there, why in (
            (target.there, f"no {target.column}"),
            (has_unit, f"no {group}"),
            (has_rows, "no row of the site"),
            (has_side, f"no {split}"),
        )
        if not there.all()
    ]
    return data, held, notes


def _said_sides(trace: Trace, column: str) -> tuple[Array, Array]:
    """Read from a column who is held out, and of whom it says so, bool `[example]` each."""
    values = trace.columns[arguments.text("split", column)]
    there, bare = known_in(values), np.ma.getdata(values)
    if bare.dtype == bool:
        return bare, there
    odd = [v for v in bare[there].tolist() if v not in _SIDES]
    if odd:
        raise StoreError(
            f"{trace.path}: the column {column!r}, which split= names, holds {show(odd[0])}; "
            'expected true and false, or "test" and "train"'
        )
    return bare == _SIDES[1], there


def key_of(site: Site) -> str:
    """Give what the readout of a site is called in a file."""
    return site.portable or site.name if site.layer is None else f"layer{site.layer}"


def place_of(site: Site) -> str:
    """Name the place that layers have in common."""
    return site.portable or layerless(site.name)


def _said_rows(site: Site) -> str:
    return f"rows of {list(site.shape[1:])}, positions: {site.rows}"


def strength_of(strength: float | None, target: Target) -> float | None:
    """Check the strength of the penalty; None where it is to be chosen, or there is none."""
    if strength is None:
        return None
    if target.method == MEAN_DIFFERENCE:
        raise StoreError("a difference of means has no penalty; leave strength= out")
    return arguments.positive("strength", strength)


def measure_of(measure: str | None, target: Target) -> str:
    """Check what is measured, the usual of classes and of numbers where it is not said."""
    there = (ACCURACY, BALANCED) if target.classes else (R2,)
    if measure is None:
        return there[0]
    if arguments.text("measure", measure) not in there:
        what = "classes" if target.classes else "numbers"
        raise StoreError(f"there is no measure {measure!r} of {what}; {one_of(measure, there)}")
    return measure


def share_of(name: str, value: Any) -> float:
    """Check a number between 0 and 1."""
    share = arguments.positive(name, value)
    if share >= 1:
        raise StoreError(f"{name} is {show_typed(value)}; expected a number between 0 and 1")
    return share
