"""Traces of hand-made rows with columns beside them, written without running a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tiny_traces import forget_checksums, site, write_trace

import probekit
from probekit.trace import Trace

Array = np.ndarray[Any, Any]


def labelled_trace(
    folder: Path,
    layers: Sequence[Array],
    columns: Mapping[str, Sequence[Any]],
    *,
    rows: str = "example",
    lengths: Sequence[int] | None = None,
    portable: str | Sequence[str] | None = "resid_post",
    axes: Sequence[str] = ("d_model",),
    dtype: str = "float32",
) -> Trace:
    """Write `resid_post` of some layers, float32 `[row, ...]` each, and columns; None is no value.

    The examples lie in two shards. Columns are put into the index with bare h5py.
    """
    n_examples = len(next(iter(columns.values())))
    lengths = list(lengths or [2] * n_examples)
    named = [portable] * len(layers) if portable is None or isinstance(portable, str) else portable
    first = "example" if rows == "example" else "token"
    sites = [
        site(
            f"block.{n}", rows=rows, row_shape=values.shape[1:], layer=n, portable=named[n],
            axes=(first, *axes), dtype=dtype,
        )
        for n, values in enumerate(layers)
    ]  # fmt: skip
    half = n_examples // 2
    write_trace(
        folder,
        sites,
        (lengths[:half], lengths[half:]),
        values={s.name: np.asarray(v, dtype) for s, v in zip(sites, layers, strict=True)},
    )
    forget_checksums(folder)
    with h5py.File(folder / "trace.h5", "a") as file:
        for name, given in columns.items():
            write_column(file, name, given)
    return probekit.open(folder)


def write_column(file: h5py.File, name: str, given: Sequence[Any]) -> None:
    known = [v for v in given if v is not None]
    is_text = isinstance(known[0], str)
    filled = [(type(known[0])() if v is None else v) for v in given]
    made = file.create_dataset(
        f"examples/columns/{name}",
        data=filled if is_text else np.array(filled),
        dtype=h5py.string_dtype() if is_text else None,
    )
    made.attrs["axes"] = ["example"]
    if len(known) < len(given):
        file[f"examples/missing/{name}"] = np.array([v is None for v in given])


def planted(n: int, d: int, *, seed: int = 0, strength: float = 2.0) -> tuple[Array, Array, Array]:
    """Give rows `[n, d]` with labels that lie along a direction, and the direction, of length 1.

    Features have very unlike sizes, as those of residual streams have.
    """
    draw = np.random.default_rng(seed)
    direction = draw.normal(size=d)
    direction /= np.linalg.norm(direction)
    labels = draw.integers(0, 2, n)
    rows = draw.normal(size=(n, d)) + strength * np.outer(2 * labels - 1, direction)
    return rows.astype(np.float32), labels, direction
