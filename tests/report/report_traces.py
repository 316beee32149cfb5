"""Traces for reports, from hand-made arrays: what a page must show is known beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tiny_traces import ATTRIBUTES, VOCABULARY, Array, a_shard, site, storage

from probekit.store.format.execution import Execution
from probekit.store.format.schema import SiteSpec
from probekit.store.writing.index import build_index
from probekit.trace import Trace, open_trace


def attention_site(layer: int, n_heads: int, n_keys: int, **given: Any) -> SiteSpec:
    """Specify the attention of one layer."""
    known = {"layer": layer, "portable": "pattern", "axes": ("token", "head", "key")}
    shape = (n_heads, n_keys)
    return site(f"h.{layer}.attn", "pattern", row_shape=shape, **{**known, **given})


def attention(
    draw: np.random.Generator, lengths: Sequence[int], n_heads: int, *, causal: bool = True
) -> Array:
    """Draw softmax rows, as wide as the longest example: float32 `[token, head, key]`."""
    rows = np.zeros((sum(lengths), n_heads, max(lengths)), dtype=np.float32)
    begin = 0
    for n in lengths:
        scores = draw.normal(0, 2, (n_heads, n, n))
        if causal:
            scores[:, np.triu(np.ones((n, n), dtype=bool), 1)] = -np.inf
        weights = np.exp(scores)
        weights /= weights.sum(-1, keepdims=True)
        rows[begin : begin + n, :, :n] = weights.swapaxes(0, 1)
        begin += n
    return rows


def write(
    folder: Path,
    rows: Sequence[tuple[SiteSpec, Array]],
    lengths: Sequence[int],
    *,
    texts: Sequence[str] | None = None,
    vocabulary: Sequence[str] | None = VOCABULARY,
    attributes: Mapping[str, Any] = ATTRIBUTES,
    execution: Execution | None = None,
) -> Trace:
    """Write one shard of the given rows and open it; token n of the trace has id n mod 50."""
    shard = a_shard(folder, [spec for spec, _ in rows], lengths, texts=texts)
    shard.tables.token_ids[:] %= len(vocabulary or VOCABULARY)
    for spec, values in rows:
        shard.bits[spec.name] = np.ascontiguousarray(values.astype(storage(spec.dtype)))
    shard.write(execution, attributes=attributes)
    build_index(folder, [shard.spec], shard.sites, attributes, vocabulary)
    return open_trace(folder)
