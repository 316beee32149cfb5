"""What `probekit info` says, as plain data.

Knows traces; draws nothing.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from probekit.store import INDEX_FILE, item_bytes, sessions_of
from probekit.trace.trace import Trace

_SAID = ("began", "host", "command")  # of each session


def summarize_trace(trace: Trace) -> dict[str, Any]:
    """Say what is in a trace and how it was made, as plain JSON values."""
    sites = [_site(trace, name) for name in trace.site_names]
    passes = trace.passes
    return {
        "path": str(trace.path),
        **{f"n_{table.axis.table}": len(table) for table in trace.tables},
        "n_sites": len(sites),
        "n_bytes": sum(site["bytes"] for site in sites),
        "columns": {name: type.dtype for name, type in trace.columns.types.items()},
        "sites": sites,
        "execution": None
        if passes is None
        else {
            "n_forwards": passes.n,
            "n_orders": passes.n_orders,
            "seconds": passes.seconds,
            "n_modules_run": len(set(trace.execution_order)),
        },
        "provenance": trace.provenance,
        "sessions": _sessions(trace.path),
        **_partial(trace),
    }


def _partial(trace: Trace) -> dict[str, Any]:
    """Say which shards of a run can be read that is not finished."""
    if not trace.is_partial:
        return {}
    sealed = trace.shards_sealed
    return {"partial": {"n_shards": trace.provenance["n_shards"], "shards_sealed": [*sealed]}}


def _sessions(path: Path) -> list[dict[str, str | None]]:
    """Say of each process that worked on a run when it began, where, and by which command."""
    sessions = sessions_of(path.parent) if path.name == INDEX_FILE else []
    return [{key: _text(session.get(key)) for key in _SAID} for session in sessions]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None  # a run of before says less, a stranger's more


def _site(trace: Trace, name: str) -> dict[str, Any]:
    site = trace[name]
    return {
        "name": name,
        "shape": list(site.shape),
        "axes": list(site.axes),
        "dtype": site.dtype,
        "bytes": prod(site.shape) * item_bytes(site.dtype),
        "rows": site.rows,
        "layer": site.layer,
        "portable": site.portable,
    }
