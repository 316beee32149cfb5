"""What the terminal shows of a model's modules: one a line, or one a block.

Knows rich; takes the rows of `probekit modules --json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from probekit.cli.tables import show_labelled, show_table
from probekit.cli.terminal import console
from probekit.errors import printable
from probekit.trace import collapse, layerless
from probekit.wording import counted

Row = Mapping[str, Any]
_NUMBERS = ("layer_idx", "layer_id", "layer_number")  # settings that repeat the layer's number


def show_modules(rows: Sequence[Row], *, long: bool) -> None:
    """Print modules in execution order, and how many parameters they have.

    Args:
        rows: the modules.
        long: say what each is made of; layers that are alike stand together then.
    """
    out = console()
    if long:
        for path, alike in _alike(rows).items():
            _show_block(out, path, alike)
    else:
        _show_table(out, rows)
    out.print(_total(rows))


def _show_table(out: Console, rows: Iterable[Row]) -> None:
    lines = [
        (
            row["path"],
            row["class"],
            f"{row['calls']:,}" if row["calls"] else "never",
            " ".join(_slots(row["inputs"])),
            " ".join(_slots(row["outputs"])),
            ", ".join(row["portable"]),
        )
        for row in rows
    ]
    show_table(out, ("module", "class", "calls", "inputs", "outputs", "portable"), lines)


def _alike(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Group modules that differ in the number of their layer alone: `h.{0..5}.mlp` -> six rows."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(json.dumps(_unnumbered(row)), []).append(row)
    return {_path(group): group for group in groups.values()}


def _path(rows: Iterable[Row]) -> str:
    (path,) = collapse(f"{row['path']}/" for row in rows)  # something must follow a layer's number
    return path.removesuffix("/")


def _unnumbered(row: Row) -> Row:
    """Take the number of a module's layer out of its path and its settings."""
    numbers = row["path"].split(".")
    return {
        **row,
        "path": layerless(f"{row['path']}/"),
        "settings": {
            name: value
            for name, value in row["settings"].items()
            if name not in _NUMBERS or str(value) not in numbers
        },
    }


def _show_block(out: Console, path: str, alike: Sequence[Row]) -> None:
    n_calls, n_alike = alike[0]["calls"], len(alike)
    row = _unnumbered(alike[0]) if n_alike > 1 else alike[0]  # the path of many says their numbers
    calls = f"{counted(n_calls, 'call')}" if n_calls else "never called"
    more = f"; {n_alike} alike" if n_alike > 1 else ""
    out.print(Text.assemble((path, "bold"), f"  {row['class']}, {calls}{more}"))
    for label, lines in {
        "inputs": _slots(row["inputs"]),
        "outputs": _slots(row["outputs"]),
        "portable": [", ".join(row["portable"])],
        "parameters": _tensors(row["parameters"]),
        "buffers": _tensors(row["buffers"]),
        "settings": [_settings(row["settings"])],
    }.items():
        if text := "\n".join(lines):
            show_labelled(out, label, text, label_width=len("parameters"))


def _slots(slots: Iterable[Row]) -> list[str]:
    return [
        f"{'' if s['key'] is None else s['key'] + '='}[{', '.join(map(str, s['axes']))}]"
        for s in slots
    ]


def _tensors(tensors: Sequence[Row]) -> list[str]:
    """Write a sum, `49,536 float32 = weight [128, 384] + bias [384]`, then what is shared."""
    if not tensors:
        return []
    mixed = len({t["dtype"] for t in tensors}) > 1
    terms = [f"{t['name']} {t['shape']}{' ' + t['dtype'] if mixed else ''}" for t in tensors]
    total = f"{sum(t['n_values'] for t in tensors):,}{'' if mixed else ' ' + tensors[0]['dtype']}"
    shared = [
        f"{t['name']} is also {', '.join(t['shared_with'])}" for t in tensors if t["shared_with"]
    ]
    return [f"{total} = {' + '.join(terms)}", *shared]


def _settings(settings: Row) -> str:
    # As JSON, never shortened; some come from a stranger's config.
    said = (f"{k}={json.dumps(value, ensure_ascii=False)}" for k, value in settings.items())
    return printable(", ".join(said))


def _total(rows: Sequence[Row]) -> str:
    """Count modules and parameters, each parameter once."""
    sizes: dict[str, int] = {}
    for row in rows:
        for t in row["parameters"]:
            places = [f"{row['path']}.{t['name']}", *t["shared_with"]]
            sizes[min(places)] = t["n_values"]
    n_having = sum(bool(row["parameters"]) for row in rows)
    once = " (shared ones once)" if sum(len(row["parameters"]) for row in rows) > len(sizes) else ""
    parameters = counted(sum(sizes.values()), "parameter")
    return f"{parameters}{once} in {counted(n_having, 'module', of=len(rows))}"
