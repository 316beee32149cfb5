"""What a notebook shows of a trace and of a site.

Knows what is in them; the tables' looks are in notebooktable.py.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

from probekit.store import EXAMPLE, INDEX_FILE, item_bytes
from probekit.trace.names import collapse
from probekit.trace.shown import Table
from probekit.trace.site import Site
from probekit.trace.trace import Trace
from probekit.wording import counted, human_bytes

_SAID_OF_SITES = ("heads", "neurons", "einops", "einops_op", "pool", "source_dtype")


def trace_table(trace: Trace) -> Table:
    """List the sites of a trace, those that differ in their layer alone on one line."""
    made, path = trace.provenance, trace.path
    rows = []
    for shape, names in collapse(trace.site_names).items():
        site = trace[names[0]]
        rows.append((shape, len(names), _axes(site), site.dtype, _size(site), site.portable or ""))
    versions = (f"{n} {made[f'{n}_version']}" for n in ("probekit", "torch", "transformers")
                if f"{n}_version" in made)  # fmt: skip
    return Table(
        title=f"Trace {Path(path).parent if path.name == INDEX_FILE else path}: "
        f"{model_of(trace)} ({made.get('model_class')})"
        + "".join(
            f", {counted(len(table), table.axis.name, table.axis.table)}" for table in trace.tables
        ),
        columns=("site", "sites", "axes of one", "dtype", "bytes of one", "portable name"),
        rows=rows,
        note=f"{made.get('dtype')}, attention {made.get('attention')}, on {made.get('device')}; "
        f"made by {', '.join(versions)}",
    )


def model_of(trace: Trace) -> str:
    """Say which model a trace is of; of a local folder or file, its name alone."""
    name = str(trace.provenance.get("model_name"))
    short = Path(name).name if Path(name).is_absolute() else name
    random = trace.provenance.get("model_weights") == "random"
    return f"{short}, random weights" if random else short


def site_table(site: Site) -> Table:
    """Say what a site is."""
    said = {
        "axes": _axes(site),
        "axes of example(i)": "head, query, key: its own keys alone" if site._has_maps else None,
        "stored as": f"{site.dtype}, {_size(site)}",
        "rows": f"one an example ({site.attributes.get('pool', 'no token axis')})"
        if site.axis == EXAMPLE
        else f"{site.trace.table(site.axis).axis.table}, positions: {site.rows}",
        "layer": site.layer,
        "portable name": site.portable,
        "module": site.attributes.get("module_class"),
        **{key.replace("_", " "): site.attributes.get(key) for key in _SAID_OF_SITES},
    }
    return Table(
        title=f"Site {site.name}",
        columns=("", ""),
        rows=[(key, str(value)) for key, value in said.items() if value is not None],
    )


def _axes(site: Site) -> str:
    return ", ".join(f"{axis}={n:,}" for axis, n in zip(site.axes, site.shape, strict=True))


def _size(site: Site) -> str:
    return human_bytes(prod(site.shape) * item_bytes(site.dtype))
