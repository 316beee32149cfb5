"""The execution order as the page shows it.

Knows orders and forward passes; the page makes trees of them.
"""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

from probekit.report.streams import rounded
from probekit.store import Execution
from probekit.trace import Trace, visible_token

_ORDERS = 8  # the most frequent; a model with routing can have as many as passes
_PASSES = 500  # the first


def describe(trace: Trace, execution: Execution) -> dict[str, Any]:
    """Give orders and forward passes as plain JSON values.

    Returns:
        `modules`, paths; `recorded`, the kinds recorded of each; `orders`, each with its `phases`
        (passes by phase) and its `events` [module, entered, depth]; `phases` of all passes; the
        first `passes` one by one, where an order that is not shown is -1.
    """
    counts = Counter(f.order for f in execution.forwards)
    shown = [order for order, _ in counts.most_common(_ORDERS)]
    recorded: dict[str, list[str]] = {}
    for name in trace.site_names:
        module, _, kind = name.partition("/")
        recorded.setdefault(module, []).append(kind)
    return {
        "modules": [visible_token(path) for path in execution.modules],
        "recorded": [recorded.get(path, []) for path in execution.modules],
        "n_orders": len(execution.orders),
        "n_passes": len(execution.forwards),
        "seconds": rounded(sum(f.seconds for f in execution.forwards)),
        "orders": [
            {
                "phases": Counter(f.phase for f in execution.forwards if f.order == order),
                "events": execution.orders[order].tolist(),
            }
            for order in shown
        ],
        "phases": _phases(execution),
        "passes": [
            {
                "order": shown.index(f.order) if f.order in shown else -1,
                "phase": f.phase,
                "n_examples": len(f.examples),
                "n_tokens": f.n_tokens,
                "seconds": rounded(f.seconds),
            }
            for f in execution.forwards[:_PASSES]
        ],
    }


def _phases(execution: Execution) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = {}
    for forward in execution.forwards:
        seconds.setdefault(forward.phase, []).append(forward.seconds)
    return [
        {"phase": phase, "n": len(times), "median_s": rounded(median(times))}
        for phase, times in seconds.items()
    ]
