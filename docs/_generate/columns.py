"""The columns of a trace's tables, from where the code declares them."""

from __future__ import annotations

from probekit.store.format import AXES


def columns_page() -> str:
    """Write one table: a line for each column of each axis."""
    lines = [
        f"| `/{axis.table}/{column.name}` | {column.means} | {column.unit} | {column.source} |"
        for axis in AXES.values()
        for column in axis.columns
    ]
    return "\n".join(["| column | means | unit | from |", "|---|---|---|---|", *lines, ""])
