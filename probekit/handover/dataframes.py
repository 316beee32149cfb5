"""The tables of a trace as pandas DataFrames.

Knows which tables there are and their columns; rows of sites are no tables. It needs pandas:
`Trace.to_pandas` is the door to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probekit import arguments
from probekit.errors import StoreError
from probekit.handover.columnnames import beside_ours
from probekit.store import EXAMPLE, Execution
from probekit.wording import one_of

if TYPE_CHECKING:
    from probekit.trace import AxisTable, Trace

Array = np.ndarray[Any, Any]


def frame_of(trace: Trace, table: str) -> pd.DataFrame:
    """Build a DataFrame of a table; see `Trace.to_pandas`."""
    if not isinstance(table, str):
        arguments.text("table", table)
    of_axes = {found.axis.table: found for found in trace.tables}
    if table in of_axes:
        return _of_axis(trace, of_axes[table])
    known = [*of_axes, *_OF_EXECUTION]
    if table not in known:
        raise StoreError(f"{trace.path}: there is no table {table!r}; {one_of(table, known)}")
    return _OF_EXECUTION[table](trace)


def _of_axis(trace: Trace, table: AxisTable) -> pd.DataFrame:
    columns = {}
    for column in table.columns:
        columns[column.name] = values = table.column(column.name)[:]
        if column.spelled is not None:
            columns[column.spelled] = _spelled(trace, values)
    if table.axis.name == EXAMPLE:
        columns["n_generated"] = trace.examples.n_generated
        ours = {*columns, EXAMPLE}  # which the index becomes by reset_index
        for name, values in trace.columns.items():
            columns[beside_ours(name, "columns.", ours)] = _nullable(values)
    return pd.DataFrame(columns, index=pd.RangeIndex(len(table), name=table.axis.name))


def _nullable(values: Array) -> Any:
    """Give a column as pandas has it; one that lacks values as pandas' own type with gaps."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    dtype = {"i": "Int64", "f": "Float64", "b": "boolean"}.get(values.dtype.kind, "string")
    return pd.array(values.tolist(), dtype=dtype)


def _spelled(trace: Trace, ids: Array) -> Array:
    """Give the strings of token ids, each looked up once."""
    known, codes = np.unique(ids, return_inverse=True)
    texts = np.array([trace.token_text(int(i)) for i in known], dtype=object)
    return texts[codes] if len(texts) else texts


def _execution(trace: Trace) -> pd.DataFrame:
    execution = _recorded(trace)
    n_events = [len(events) for events in execution.orders]
    events = np.concatenate(execution.orders)
    modules = np.array(execution.modules, dtype=object)
    return pd.DataFrame(
        {
            "order": np.repeat(np.arange(len(n_events)), n_events),
            "event": np.concatenate([np.arange(n) for n in n_events]),
            "module": modules[events[:, 0]],
            "entered": events[:, 1].astype(bool),
            "depth": events[:, 2],
        }
    )


def _forwards(trace: Trace) -> pd.DataFrame:
    forwards = _recorded(trace).forwards
    return pd.DataFrame(
        {
            "order": [f.order for f in forwards],
            "phase": [f.phase for f in forwards],
            "n_examples": [len(f.examples) for f in forwards],
            "n_tokens": [f.n_tokens for f in forwards],
            "seconds": [f.seconds for f in forwards],
        },
        index=pd.RangeIndex(len(forwards), name="forward"),
    )


def _recorded(trace: Trace) -> Execution:
    if trace.execution is None:
        raise StoreError(
            f"{trace.path}: the execution order was not recorded; "
            "set execution_order: true in the config"
        )
    return trace.execution


_OF_EXECUTION: Mapping[str, Callable[[Trace], pd.DataFrame]] = {
    "execution": _execution,
    "forwards": _forwards,
}
