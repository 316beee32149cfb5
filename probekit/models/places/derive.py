"""Places, derived from what a forward pass of a model shows of its structure.

Knows layers, streams and calls; proves nothing. A name without a place says why.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

from probekit.models.places.found import Found, Key, Missing
from probekit.models.places.inlayers import IN_LAYERS
from probekit.models.places.layers import Kinds, Layer, layers_of
from probekit.models.places.names import PORTABLE_NAMES, Place
from probekit.models.places.outside import ELSEWHERE
from probekit.models.places.tinyrun import N_EXAMPLES, N_POSITIONS, Run
from probekit.wording import counted


def derive(run: Run, kinds: Kinds | None = None) -> Found:
    """Find every portable name's places in a followed forward pass."""
    known: Kinds = {} if kinds is None else kinds
    found = Found(layers_of(run.model, run.passed, run.kernels, known), known)
    for layer in found.layers:
        for name, finder in IN_LAYERS.items():
            _look(found, (name, layer.number), finder, layer)
    for name, whole in ELSEWHERE.items():
        _look(found, (name, None), partial(_on_whole, whole, run, found), None)
    if not found.layers:
        for name in IN_LAYERS:
            found.missing[name, None] = "it has no list of layers that run once each, in order"
    _rows_of_tokens(run, found)
    _one_name_a_place(found)
    return found


def _look(found: Found, key: Key, finder: Callable[[Any], Place], layer: Layer | None) -> None:
    try:
        found.places[key] = finder(layer)
    except Missing as missing:
        found.missing[key] = str(missing)


def _rows_of_tokens(run: Run, found: Found) -> None:
    """Refuse what has other rows than the tokens'."""
    for key, place in list(found.places.items()):
        call = run.passed.at(place.module)
        value = None if call is None else call.reads if place.kind == "input" else call.gives
        if place.kind in ("input", "output") and value is not None:
            n_rows = prod(value.shape[:-1])
            if n_rows != N_EXAMPLES * N_POSITIONS:
                del found.places[key]
                there = counted(n_rows // N_EXAMPLES, "row")
                found.missing[key] = f"it has {there} for {counted(N_POSITIONS, 'token')}"


def _on_whole(
    finder: Callable[[Run, Found], Place], run: Run, found: Found, layer: Layer | None
) -> Place:
    return finder(run, found)


def _one_name_a_place(found: Found) -> None:
    """Leave a place to the first name that says what it is, and the others' reason."""
    weaker = ("attn_in", "mixer_in", "mlp_in", "ln2_scale")
    ranked = sorted(found.places, key=lambda key: (key[0] in weaker, PORTABLE_NAMES.index(key[0])))
    taken: dict[str, Key] = {}
    for key in ranked:
        place = found.places[key]
        earlier = taken.setdefault(str(place), key)
        if earlier != key:
            del found.places[key]
            found.missing[key] = f"it is the same tensor as {earlier[0]}"
