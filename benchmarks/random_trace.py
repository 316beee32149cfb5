"""A trace of random rows, as large as wanted, without a model: for benchmarks of reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from probekit.store.format.schema import NEWEST, ShardSpec, SiteSpec
from probekit.store.writing.index import build_index
from probekit.store.writing.layout import ShardTables
from probekit.store.writing.writer import ShardWriter

Array = np.ndarray[Any, Any]

ATTRIBUTES = {"probekit_format": NEWEST.attribute}


def write_trace(
    folder: Path, dtypes: tuple[str, ...], lengths: Array, d_model: int, n_shards: int
) -> None:
    """Write one site a dtype, named by it.

    Args:
        folder: where to.
        dtypes: of "float32" and "bfloat16".
        lengths: tokens of every example, int64 `[example]`.
        d_model: values in a row.
        n_shards: how many files the examples are spread over.
    """
    sites = [_site(dtype, d_model) for dtype in dtypes]
    draw = np.random.default_rng(0)
    shards: list[ShardSpec] = []
    for number, n_tokens in enumerate(np.array_split(lengths, n_shards)):
        last = shards[-1] if shards else None
        shard = ShardSpec(
            number=number,
            first_example=last.first_example + last.n_examples if last else 0,
            n_examples=len(n_tokens),
            first_token=last.first_token + last.n_tokens if last else 0,
            n_tokens=int(n_tokens.sum()),
            n_rows={"all": int(n_tokens.sum())},
        )
        with ShardWriter(folder, shard, sites, _tables(n_tokens), ATTRIBUTES) as out:
            starts = (np.cumsum(n_tokens) - n_tokens).tolist()
            for site, spec in enumerate(sites):
                rows = draw.standard_normal((shard.n_tokens, d_model), np.float32)
                if spec.dtype == "bfloat16":
                    rows = (rows.view(np.uint32) >> 16).astype(np.uint16)
                out.write(site, rows, range(len(n_tokens)), starts)
            out.seal()
        shards.append(shard)
    build_index(folder, shards, sites, ATTRIBUTES, None)


def _site(dtype: str, d_model: int) -> SiteSpec:
    return SiteSpec(
        module=dtype,
        kind="output",
        rows="all",
        axes=("token", "d_model"),
        row_shape=(d_model,),
        dtype=dtype,
        source_dtype=dtype,
        layer=None,
        portable=None,
        module_class="Linear",
        probe=None,
    )


def _tables(n_tokens: Array) -> ShardTables:
    return ShardTables.of_texts(
        ids=("",) * len(n_tokens),
        texts=("",) * len(n_tokens),
        n_tokens=n_tokens,
        token_ids=np.zeros(int(n_tokens.sum()), np.int32),
        choices={},
        counts={"all": n_tokens},
    )
