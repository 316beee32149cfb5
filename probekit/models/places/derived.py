"""A family's places: derived on a tiny model of it, proved there, and kept.

Knows how the parts of this room go together; what cannot be proved is refused with the number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from threading import Lock
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from probekit.errors import PlanError
from probekit.models.forward import Answers
from probekit.models.places.derive import derive
from probekit.models.places.found import Found, Missing
from probekit.models.places.identities import Checked, checked, refuse_unshown
from probekit.models.places.layers import Kinds
from probekit.models.places.names import PORTABLE_NAMES, Place, Unembedding
from probekit.models.places.outside import final_norm, head_call
from probekit.models.places.tiny import outline, shrunk, unlike, without_weights
from probekit.models.places.tinyrun import N_EXAMPLES, N_POSITIONS, Run, followed, one_thread, tiny

_KEPT: dict[tuple[Any, str], Derived | str] = {}  # by class and config; a text says why not
_KEEPING = Lock()
_MOST_KEPT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """What was derived and proved of one model."""

    places: Mapping[str, Mapping[int | None, Place]]  # by name, by layer
    refused: Mapping[str, str]  # names that no layer has, and why
    left_out: Mapping[str, Mapping[int, str]]  # names that some layers have not, and why
    identities: tuple[Checked, ...]
    unembedding: Unembedding | None


def derived(kind: Any, config: Any) -> Derived:
    """Derive the places of a model from its structure, and prove them on a tiny one like it.

    Args:
        kind: the class of the model.
        config: its config; a copy of few sizes is built, with as many layers.

    Raises:
        PlanError: if no tiny model can be made of it.
    """
    if config.get_text_config() is not config:
        # The sizes of what lies inside would stay as they are, and gigabytes be drawn at random.
        raise PlanError(
            f"model type {config.model_type!r} is not in the table of families, and is a model of "
            "several inside, each with a config of its own: its places are not derived"
        )
    try:
        key = (kind, config.to_json_string(use_diff=False))
    except (TypeError, ValueError) as error:
        raise PlanError(
            f"the config of model type {config.model_type!r} cannot be written as JSON, so no tiny "
            f"model is made of it: {error}"
        ) from error
    with _KEEPING:
        kept = _KEPT.get(key)
    if kept is None:
        kept = _tried(kind, config)
        with _KEEPING:
            while len(_KEPT) >= _MOST_KEPT:
                del _KEPT[next(iter(_KEPT))]
            _KEPT[key] = kept
    if isinstance(kept, str):
        raise PlanError(kept)
    return kept


def _tried(kind: Any, config: Any) -> Derived | str:
    """Derive and prove; where no tiny model can be made, say why."""
    try:
        mode = FakeTensorMode()
        small = shrunk(config)
        itself = without_weights(kind, config, mode)
        reason = unlike(outline(itself), outline(without_weights(kind, small, mode)))
        if not reason:
            with one_thread():
                run = followed(tiny(kind, small))
                return proved(run, lambda kinds: _full(itself, mode, kinds))
    except Exception as error:
        # Whatever a model's own code raises at sizes that it was not written for.
        said = (str(error).strip().splitlines() or [""])[0][:200]
        reason = f"{type(error).__name__}: {said}"
    return (
        f"model type {config.model_type!r} is not in the table of families, and no tiny model "
        f"of it shows where its places are: {reason}"
    )


def proved(run: Run, full: Callable[[Kinds], Found] | None = None) -> Derived:
    """Derive places from a forward pass, and refuse those whose identity fails.

    Args:
        run: of a tiny model.
        full: gives the places of the model itself, which says by what values are multiplied there.
    """
    found = derive(run)
    rows = checked(run, found)
    refuse_unshown(run, found, rows)
    found.reads_out = any(row.names == ("logits",) and row.holds for row in rows)
    factors = [found.before, *(place.factor for place in found.places.values())]
    is_scaled = any(factor != 1.0 for factor in factors) or _multiplies_by_one(run)
    if full is not None and is_scaled:
        try:
            _take_factors(found, full(found.kinds))
        except Exception as error:  # whatever its code raises on tensors without values
            for key in [key for key, place in found.places.items() if place.factor != 1.0]:
                del found.places[key]
                found.missing[key] = (
                    f"it is scaled, and the model itself does not show by how much: {error}"
                )
            _forget_readout(found)
    return _gathered(run, found, rows)


def _multiplies_by_one(run: Run) -> bool:
    """Say whether a number that is 1 here is a factor of tokens' values: it may be of the sizes."""
    graph = run.passed.graph
    n_tokens = N_EXAMPLES * N_POSITIONS
    config = run.model.config
    sizes = {getattr(config, "hidden_size", None), getattr(config, "vocab_size", None)}
    return graph is not None and any(
        value.shape[-1] in sizes and prod(value.shape[:-1]) == n_tokens
        for value in graph.scaled_by(1.0)
        if value.shape
    )


def _take_factors(found: Found, full: Found) -> None:
    """Take the model's own factors: some depend on its sizes."""
    if ("ln_final", None) in full.places:
        found.before = full.before
    else:
        _forget_readout(found)
    for key, place in list(found.places.items()):
        own = full.places.get(key)
        if own is not None and (own.module, own.kind) == (place.module, place.kind):
            found.places[key] = replace(place, factor=own.factor)
        elif place.factor != 1.0:
            del found.places[key]
            found.missing[key] = "it is scaled, and the model itself does not show by how much"


def _forget_readout(found: Found) -> None:
    """Leave out the final norm where what the head reads is scaled, nobody knows by how much."""
    found.reads_out &= found.before == 1.0
    if found.before != 1.0 and found.places.pop(("ln_final", None), None) is not None:
        found.missing["ln_final", None] = (
            "what the head reads is scaled, and the model itself does not show by how much"
        )


def _full(model: Any, mode: FakeTensorMode, kinds: Kinds) -> Found:
    """Derive the places of the model itself, without weights: it proves nothing."""
    with mode, Answers(), torch.no_grad():  # type: ignore[no-untyped-call]
        if getattr(model.config.get_text_config(), "_experts_implementation", None) is not None:
            model.set_experts_implementation("batched_mm")  # others refuse fake float32
        return derive(followed(model), kinds)


def _gathered(run: Run, found: Found, rows: tuple[Checked, ...]) -> Derived:
    places: dict[str, dict[int | None, Place]] = {}
    for name in PORTABLE_NAMES:
        there = {layer: place for (n, layer), place in found.places.items() if n == name}
        if there:
            places[name] = dict(sorted(there.items(), key=lambda item: item[0] or 0))
    reasons: dict[str, dict[int | None, str]] = {}
    for (name, layer), reason in found.missing.items():
        reasons.setdefault(name, {})[layer] = reason
    refused = {
        name: "; ".join(dict.fromkeys(reasons.get(name, {None: "nothing says where"}).values()))
        for name in PORTABLE_NAMES
        if name not in places
    }
    left_out = {
        name: {layer: reason for layer, reason in reasons[name].items() if layer is not None}
        for name in places
        if name in reasons
    }
    return Derived(
        places=places,
        refused=refused,
        left_out=left_out,
        identities=rows,
        unembedding=_unembedding(run, found),
    )


def _unembedding(run: Run, found: Found) -> Unembedding | None:
    if not found.reads_out:
        return None
    try:
        (norm, _), head = final_norm(run, found), head_call(run)
    except Missing:
        return None
    logits = found.places.get(("logits", None))
    if logits is None and found.cap is None:
        return None
    return Unembedding(
        norm=norm.path,
        head=head.path,
        cap=found.cap,
        before=found.before,
        after=1.0 if logits is None else logits.factor,
    )
