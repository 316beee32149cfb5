"""What the terminal shows of families of models, and the page of the docs.

Knows rich; takes the rows of `probekit families --json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from probekit.cli.tables import show_table
from probekit.cli.terminal import console
from probekit.errors import printable
from probekit.wording import counted

Row = Mapping[str, Any]
_HEAD = """# Which models have which portable names

Written by `make models` from what `probekit families` finds, with {versions}. Do not edit it by
hand.

A portable name means the same tensor on every model. Where it lies is derived from the structure
of a model: what is added to the residual stream, and by which module. Each place is then proved on
a tiny model of the family with random weights: the identities below hold to within 1e-4 of the
largest value, or the name is refused, with the number. What no identity that would fail, were it
another tensor, could be compared with is refused too, and so is every name of a model whose tiny
one would be made of other modules. Some families stand in a table as well
(`table`), which costs no proof when a run is planned; the others are derived then (`derived`).

| identity | proves |
|---|---|
{identities}

`head_out` is computed of `z` and the output projection's weight: summed over heads, with the
projection's bias, it is what attention gives (before a norm of that, where there is one). `rms`
and `std` are computed of what a norm reads and its epsilon, which shows on small inputs. These, and
scores, cannot be changed where they are read; a value that no module holds is changed by way of
what it is a multiple of.
Scales are `[token, 1]`, `head_out` is `[token, head, d_model]`.

Patterns and the other names of heads need transformers' attention interface; models with attention
code of their own say so. Two families that once looked wrong are not: hrm_text and the softmax
layers of minimax show, within one forward pass, exactly the weights that eager attention computes.
hrm_text runs its layers several times in a pass, so a plan refuses its kinds; minimax's linear
layers have no pattern.

Here `yes` is a name on all layers, `some` on some of them.

"""


def show_families(rows: Sequence[Row]) -> None:
    """Print a table of families; of one alone, all that is known."""
    out = console()
    if len(rows) == 1:
        _show_one(rows[0])
        return
    lines = []
    for row in rows:
        holding = [one["holds"] for one in row["identities"]]
        lines.append(
            (
                row["family"],
                row["how"],
                f"{sum(holding)} of {len(holding)}" if holding else "",
                printable(row["why"]) if "why" in row else " ".join(row["names"]),
                " ".join(row["refused"]),
            )
        )
    show_table(out, ("family", "how", "identities", "names", "refused"), lines)
    named = counted(sum(bool(row["names"]) for row in rows), "family", "families", of=len(rows))
    out.print(f"with portable names: {named}; {_versions()}")


def _show_one(row: Row) -> None:
    out = console()
    if "why" in row:
        out.print(f"{row['family']}: {printable(row['why'])}", markup=False)
        return
    names = []
    for name, said in row["names"].items():
        factor = f"{said['factor']:g} x " if "factor" in said else ""
        layers = "" if said["layers"] is None else f"{len(said['layers'])}"
        changed = "yes" if said["can_be_changed"] else "no"
        names.append((name, factor + said["place"], layers, changed))
    out.print(f"{row['family']} ({row['model_class']}), {row['how']}; {_versions()}", markup=False)
    show_table(out, ("name", "is", "layers", "can be changed"), names)
    identities = [
        (one["says"], f"{one['difference']:.1e}", "yes" if one["holds"] else "no")
        for one in row["identities"]
    ]
    out.print()
    show_table(out, ("identity", "difference", "holds"), identities)
    refused = [(name, printable(why)) for name, why in row["refused"].items()]
    out.print()
    show_table(out, ("refused", "why"), refused)


def page(rows: Sequence[Row]) -> str:
    """Write the page of the docs."""
    from probekit.models.places import IDENTITIES
    from probekit.planning import to_markdown

    identities = "\n".join(f"| {one.says} | {', '.join(one.shows)} |" for one in IDENTITIES)
    head = _HEAD.format(versions=_versions(), identities=identities)
    return head + to_markdown(rows)


def _versions() -> str:
    from probekit.planning import VERSIONS

    return ", ".join(f"{name} {version}" for name, version in VERSIONS.items())
