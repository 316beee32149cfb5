"""The tables of a trace as pandas DataFrames.

Knows which tables there are and their columns; rows of sites are no tables. It needs pandas:
`Trace.to_pandas` is the door to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from probekit.errors import StoreError
from probekit.store import Execution
from probekit.wording import one_of

if TYPE_CHECKING:
    from probekit.trace import Trace


def frame_of(trace: Trace, table: str) -> pd.DataFrame:
    """Build a DataFrame of a table; see `Trace.to_pandas`."""
    if table not in _TABLES:
        raise StoreError(f"{trace.path}: there is no table {table!r}; {one_of(table, [*_TABLES])}")
    return _TABLES[table](trace)


def _examples(trace: Trace) -> pd.DataFrame:
    n_examples, generated = len(trace.examples), np.flatnonzero(trace.tokens.step[:])
    columns = {
        "id": trace.examples.strings("id"),
        "text": trace.examples.strings("text"),
        "first_token": trace.examples.first_token,
        "n_tokens": trace.examples.n_tokens,
        "n_generated": np.bincount(trace.tokens.example[generated], minlength=n_examples),
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(n_examples, name="example"))


def _tokens(trace: Trace) -> pd.DataFrame:
    ids = trace.tokens.id[:]
    known, codes = np.unique(ids, return_inverse=True)
    texts = np.array([trace.token_text(int(i)) for i in known], dtype=object)
    columns = {
        "id": ids,
        "text": texts[codes] if len(texts) else texts,
        "position": trace.tokens.position[:],
        "example": trace.tokens.example[:],
        "step": trace.tokens.step[:],
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(ids), name="token"))


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


_TABLES: Mapping[str, Callable[[Trace], pd.DataFrame]] = {
    "examples": _examples,
    "tokens": _tokens,
    "execution": _execution,
    "forwards": _forwards,
}
