"""Under which names columns of the user's own stand beside those of the trace.

One rule for every tool: a column that is called as one that the trace has itself gets a prefix, and
so does one whose name begins with that prefix. So no two columns ever have one name, and a trace
that lies there already has the names that it had when probekit learns of more columns.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probekit.trace import AxisTable


def beside_ours(name: str, prefix: str, ours: Container[str]) -> str:
    """Give the name under which a column of the user's own is handed over."""
    return f"{prefix}{name}" if name in ours or name.startswith(prefix) else name


def names_of_ours(table: AxisTable) -> frozenset[str]:
    """Give the names of the columns that a table of a trace has."""
    return frozenset(n for c in table.columns for n in (c.name, c.spelled) if n is not None)
