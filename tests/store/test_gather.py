"""Gathering rows out of several arrays, against a loop over single rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from tiny_traces import same_bits

from probekit.store.reading import gather as gather_file
from probekit.store.reading.gather import gather

Array = np.ndarray[Any, Any]


class Reader:
    """Gives rows of an array as a reader of compressed data does."""

    def __init__(self, rows: Array) -> None:
        self._rows = rows

    def __getitem__(self, rows: Array, /) -> Array:
        return self._rows[rows]


def one_by_one(sources: dict[int, Array], owner: Array, local: Array, like: Array) -> Array:
    rows = [sources[o][n] for o, n in zip(owner.tolist(), local.tolist(), strict=True)]
    return np.array(rows, dtype=like.dtype).reshape(len(owner), *like.shape[1:])


def some_sources(
    draw: np.random.Generator, dtype: str, row_shape: tuple[int, ...], lengths: list[int]
) -> dict[int, Array]:
    """Make read-only arrays that begin at odd addresses, as datasets in a file may."""
    made = {}
    for number, n_rows in enumerate(lengths):
        shape = (n_rows, *row_shape)
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer = draw.bytes(n_bytes + number + 1)
        made[3 * number + 1] = np.ndarray(shape, dtype, buffer, offset=number + 1)
    return made


@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["<u2", "<f4", "<i8", "u1", "<f8"]),
    row_shape=st.lists(st.integers(0, 3), max_size=2).map(tuple),
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    n_rows=st.integers(0, 12),
    read=st.booleans(),
)
def test_every_row_comes_from_its_source(
    seed: int,
    dtype: str,
    row_shape: tuple[int, ...],
    lengths: list[int],
    n_rows: int,
    read: bool,
) -> None:
    draw = np.random.default_rng(seed)
    sources = some_sources(draw, dtype, row_shape, lengths)
    owner = draw.choice(list(sources), n_rows).astype(np.intp)
    local = np.array([draw.integers(len(sources[o])) for o in owner.tolist()], dtype=np.intp)
    shown = {n: Reader(s) if read and n == 1 else s for n, s in sources.items()}
    found = gather(shown, owner, local, row_shape=row_shape, dtype=np.dtype(dtype))
    assert same_bits(found, one_by_one(sources, owner, local, np.empty((0, *row_shape), dtype)))


@pytest.fixture
def two() -> tuple[dict[int, Array], Array, Array]:
    sources = {0: np.arange(12.0).reshape(4, 3), 1: -np.arange(6.0).reshape(2, 3)}
    return sources, np.array([1, 0, 0, 1]), np.array([1, 3, 0, 0])


def test_what_is_gathered_is_ones_own(two: Any) -> None:
    sources, owner, local = two
    found = gather(sources, owner, local, row_shape=(3,), dtype=np.dtype("f8"))
    assert found.tolist() == [[-3, -4, -5], [9, 10, 11], [0, 1, 2], [0, -1, -2]]
    found[:] = 7
    assert sources[0].max() == 11 and sources[1].min() == -5


def test_rows_too_far_apart_for_one_array_are_gathered_too(
    two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather_file, "_LARGEST", 10)
    monkeypatch.delattr(gather_file, "as_strided")
    sources, owner, local = two
    found = gather(sources, owner, local, row_shape=(3,), dtype=np.dtype("f8"))
    assert found.tolist() == [[-3, -4, -5], [9, 10, 11], [0, 1, 2], [0, -1, -2]]
