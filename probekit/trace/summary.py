"""What `probekit info` and `probekit modules` say, as plain data.

Knows traces and skeletons; draws nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.store import schema

if TYPE_CHECKING:
    from probekit.models import Skeleton, Slot
    from probekit.trace.trace import Trace


def summarize_trace(trace: Trace) -> dict[str, Any]:
    """Say what is in a trace and how it was made, as plain JSON values."""
    sites = [_site(trace, name) for name in trace.site_names]
    execution = trace.execution
    return {
        "path": str(trace.path),
        "n_examples": len(trace.examples),
        "n_tokens": len(trace.tokens),
        "n_sites": len(sites),
        "n_bytes": sum(site["bytes"] for site in sites),
        "sites": sites,
        "execution": None
        if execution is None
        else {
            "n_forwards": len(execution.forwards),
            "n_orders": len(execution.orders),
            "seconds": sum(f.seconds for f in execution.forwards),
            "n_modules_run": len(set(trace.execution_order)),
        },
        "provenance": trace.provenance,
    }


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


def item_bytes(dtype: str) -> int:
    """Give the size of one stored value."""
    known = schema.DTYPES.get(dtype)
    return known.storage.itemsize if known else np.dtype(dtype).itemsize


def collapse(names: Iterable[str]) -> dict[str, list[str]]:
    """Group names that differ in their layer alone: `h.{0..5}.mlp/output` -> the six names."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(layerless(name), []).append(name)
    return {
        shape.replace("{}", _numbers(members)) if "{}" in shape else shape: members
        for shape, members in groups.items()
    }


def layerless(name: str) -> str:
    """Give a name without the number of its layer: `h.{}.mlp/output`."""
    return re.sub(r"(?<=\.)\d+(?=[./])", "{}", name, count=1)


def _numbers(names: list[str]) -> str:
    found = sorted(int(m[0]) for n in names if (m := re.search(r"(?<=\.)\d+(?=[./])", n)))
    if len(found) == 1:
        return str(found[0])
    if found == list(range(found[0], found[-1] + 1)):
        return f"{{{found[0]}..{found[-1]}}}"
    return "{" + ",".join(map(str, found)) + "}"


def summarize_modules(skeleton: Skeleton, paths: Iterable[str]) -> list[dict[str, Any]]:
    """List modules in execution order, those that never run last, as plain JSON values."""
    from probekit.models import portable_names

    portable: dict[str, list[str]] = {}
    for place, (name, _) in portable_names(skeleton.hf_config).items():
        module, _, kind = place.partition("/")
        portable.setdefault(module, []).append(f"{name} ({kind})")
    wanted = dict.fromkeys(paths)
    ran = [p for p in dict.fromkeys(c.module for c in skeleton.calls) if p in wanted]
    never = [p for p in wanted if p not in set(ran)]
    return [
        {
            "path": path,
            "class": skeleton.modules[path],
            "calls": len(skeleton.calls_of(path)),
            "inputs": _tensors(skeleton, path, "inputs"),
            "outputs": _tensors(skeleton, path, "outputs"),
            "portable": portable.get(path, []),
        }
        for path in (*ran, *never)
    ]


def _tensors(skeleton: Skeleton, path: str, side: str) -> list[dict[str, Any]]:
    calls = skeleton.calls_of(path)
    slots: tuple[Slot, ...] = getattr(calls[0], side) if calls else ()
    return [{"index": s.index, "key": s.key, "axes": list(s.axes), "dtype": s.dtype} for s in slots]
