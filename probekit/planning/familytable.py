"""What `probekit families` says: which families have which portable names, and what proves them.

Knows tiny models of every family, their places and what a plan makes of them; draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import transformers

from probekit.config import RecordKind, nearest
from probekit.errors import PlanError
from probekit.models import Skeleton, build_skeleton, families
from probekit.models.forward import EXPERT_KINDS, expert_blocks
from probekit.models.places import PORTABLE_NAMES, TAPPED_NAMES, Derived, Place, tinymodels
from probekit.planning.expertkinds import find
from probekit.version import __version__

VERSIONS = {
    "probekit": __version__,
    "transformers": transformers.__version__,
    "torch": torch.__version__.partition("+")[0],
}
_IN_TABLE = {True: "table", False: "derived"}


def list_families(family: str | None = None) -> list[dict[str, Any]]:
    """Say of every family, or of one, which portable names it has, as plain JSON values.

    Each is derived and proved on a tiny model, whether or not it stands in the table of families
    as well: a second each, some ten seconds.

    Args:
        family: a Hugging Face model type; None for all.

    Raises:
        PlanError: there is no such family.
    """
    every = (*tinymodels.FAMILIES, *tinymodels.OTHERS)
    if family is not None and family not in every:
        near = ", ".join(nearest(family, every))
        raise PlanError(
            f"transformers {transformers.__version__} has no family of causal language models "
            f"called {family!r}; the nearest: {near or 'none'}"
        )
    return [_row(name) for name in sorted(every if family is None else [family])]


def _row(family: str) -> dict[str, Any]:
    in_table = families.family_of(family) is not None
    row: dict[str, Any] = {
        "family": family,
        "how": _IN_TABLE[in_table],
        "names": {},
        "refused": {},
        "identities": [],
        "versions": VERSIONS,
    }
    if family in tinymodels.OTHERS:
        return row | {"how": "not built", "why": tinymodels.OTHERS[family]}
    config = tinymodels.tiny_config(family)
    try:
        found = families.derived_of(config)
    except PlanError as error:
        return row | {"how": "not built", "why": str(error)}
    try:
        skeleton = build_skeleton(config, torch.float32)
    except PlanError as error:
        return row | {"how": "not planned", "why": str(error)}
    names, refused = _names(config, found, skeleton)
    return row | {
        "model_class": skeleton.model_class,
        "names": names,
        "refused": refused,
        "identities": [
            {"says": r.says, "difference": r.difference, "holds": r.holds} for r in found.identities
        ],
    }


def _names(
    config: Any, found: Derived, skeleton: Skeleton
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Give what a plan makes of every name: where it is, or why not."""
    names: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    for name in PORTABLE_NAMES:
        try:
            places = families.places(config, name)
        except PlanError as error:
            refused[name] = str(error).partition(": ")[2]
            continue
        layer, place = next(iter(places.items()))
        if name in TAPPED_NAMES:
            try:
                next(find(skeleton, place.module, RecordKind.parse(place.kind), 1, place.factor))
            except PlanError as error:
                refused[name] = _layerless(str(error), layer)
                continue
        names[name] = _said(layer, place, places, found.left_out.get(name, {}))
    if skeleton.mixtures:
        _add_experts(skeleton, names, refused)
    return names, refused


def _add_experts(
    skeleton: Skeleton, names: dict[str, dict[str, Any]], refused: dict[str, str]
) -> None:
    """Add the names of a mixture's router and experts."""
    for name in EXPERT_KINDS:
        try:
            blocks = expert_blocks(skeleton.mixtures, name, skeleton.model_class)
            layer, block = next(iter(blocks.items()))
            found = next(find(skeleton, block, RecordKind(name=name), 1))
        except PlanError as error:
            refused[name] = str(error).partition(": ")[2]
            continue
        places = {at: Place(module=path, kind=name) for at, path in blocks.items()}
        said = _said(layer, places[layer], places, {})
        # A router that gives its logits beside its choices has chosen by then.
        source = found.source
        is_read = source.side == "input" or (source.side, source.element) == ("output", None)
        names[name] = said | {"can_be_changed": is_read}


def _said(
    layer: int | None,
    place: Place,
    places: Mapping[int | None, Place],
    left_out: Mapping[int, str],
) -> dict[str, Any]:
    said: dict[str, Any] = {
        "place": _layerless(f"{place.module}/{place.kind}", layer),
        "layers": None if layer is None else sorted(n for n in places if n is not None),
        "can_be_changed": place.can_be_changed,
    }
    if place.factor != 1.0:
        said["factor"] = place.factor
    if left_out:
        said["left_out"] = sorted(set(left_out.values()))
    return said


def _layerless(text: str, layer: int | None) -> str:
    return (
        text
        if layer is None
        else text.replace(f".{layer}.", ".{layer}.").replace(f".{layer}/", ".{layer}/")
    )


# --- as a page


_COLUMNS = (
    *("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mixer_out", "pattern", "z"),
    *("mlp_pre", "mlp_post", "mlp_out", "ln_final", "logits"),
)


def to_markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """Write the table as Markdown: what there is, what is refused, which are not built."""
    rows = list(rows)
    built = [row for row in rows if "why" not in row]
    lines = [
        f"| family | how | identities | {' | '.join(_COLUMNS)} | others |",
        "|---" * (len(_COLUMNS) + 4) + "|",
        *(_line(row) for row in built),
    ]
    lines += ["", "## What is refused, and why", "", "| family | names | why |", "|---|---|---|"]
    for row in built:
        lines += _reasons(row)
    lines += ["", "## Values that no module holds", "", "| family | name | is |", "|---|---|---|"]
    for row in built:
        lines += [
            f"| {row['family']} | {name} | {said['factor']:g} x {said['place']} |"
            for name, said in row["names"].items()
            if "factor" in said
        ]
    lines += ["", "## Families without a tiny model", "", "| family | why |", "|---|---|"]
    lines += [f"| {row['family']} | {_cell(row['why'])} |" for row in rows if "why" in row]
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    names = row["names"]
    n_holding = sum(one["holds"] for one in row["identities"])
    others = [name for name in names if name not in _COLUMNS]
    cells = [_mark(names.get(name)) for name in _COLUMNS]
    counts = f"{n_holding} of {len(row['identities'])}"
    return (
        f"| {row['family']} | {row['how']} | {counts} | {' | '.join(cells)} | {', '.join(others)} |"
    )


def _mark(said: Mapping[str, Any] | None) -> str:
    if said is None:
        return ""
    return "some" if said.get("left_out") else "yes"


def _reasons(row: Mapping[str, Any]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in row["refused"].items():
        if name not in ("mixer_in", "mixer_out") or "mixer_out" in row["names"]:
            by_reason.setdefault(reason, []).append(name)
    for name, said in row["names"].items():
        for reason in said.get("left_out", ()):
            by_reason.setdefault(f"in some layers: {reason}", []).append(name)
    return [
        f"| {row['family']} | {', '.join(names)} | {_cell(reason)} |"
        for reason, names in by_reason.items()
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
