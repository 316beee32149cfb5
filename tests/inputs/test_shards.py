"""Positions, shards and batches, against plain lists and numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tiny_traces import CHOICES, kept, site

from probekit.config.loading import load_config
from probekit.inputs import shards
from probekit.inputs.choosing import Choice, count_rows
from probekit.inputs.contents import Codec, Encoded
from probekit.inputs.examples import Examples, Limits
from probekit.inputs.making import make_examples
from probekit.inputs.shards import Budget
from probekit.store.format.schema import ShardSpec, SiteSpec

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=30)
ROWS = st.sampled_from(["all", "example", *CHOICES])


def int64(values: Any) -> np.ndarray[Any, Any]:
    return np.array(list(values), dtype=np.int64)


# --- choices of positions


@settings(max_examples=300)
@given(
    n_tokens=st.integers(1, 12),
    start=st.none() | st.integers(-15, 15),
    stop=st.none() | st.integers(-15, 15),
    step=st.none() | st.integers(1, 4),
)
def test_a_slice_keeps_what_a_list_slice_keeps(
    n_tokens: int, start: int | None, stop: int | None, step: int | None
) -> None:
    parts = [start, stop] + ([] if step is None else [step])
    name = ":".join("" if part is None else str(part) for part in parts)
    found = Choice(name).positions(n_tokens)
    assert found.dtype == np.int64
    assert found.tolist() == list(range(n_tokens))[slice(start, stop, step)]


@settings(max_examples=200)
@given(st.data(), st.integers(1, 12))
def test_numbers_keep_each_position_once_in_ascending_order(data: Any, n_tokens: int) -> None:
    inside = st.integers(-n_tokens, n_tokens - 1)
    numbers = data.draw(st.lists(inside, min_size=1, max_size=5))
    found = Choice.of(numbers).positions(n_tokens)
    assert found.tolist() == sorted({list(range(n_tokens))[n] for n in numbers})


@pytest.mark.parametrize(
    ("given_positions", "wanted"),
    [("all", [0, 1, 2, 3]), ("first", [0]), ("last", [3]), (2, [2]), (-4, [0]), ((3, -1), [3])],
)
def test_words_and_numbers_name_positions(given_positions: Any, wanted: list[int]) -> None:
    assert Choice.of(given_positions).positions(4).tolist() == wanted


def test_the_first_token_of_one_is_also_the_last() -> None:
    assert Choice.of((0, -1)).positions(1).tolist() == [0]


@pytest.mark.parametrize(("number", "n_tokens"), [(4, 4), (-5, 4), (1, 1)])
def test_a_position_that_is_not_there_is_refused(number: int, n_tokens: int) -> None:
    with pytest.raises(IndexError, match=f"position {number} does not exist: it has {n_tokens}"):
        Choice.of([0, number]).positions(n_tokens)


@given(LENGTHS, ROWS)
def test_rows_are_counted_one_example_at_a_time(lengths: list[int], rows: str) -> None:
    found = count_rows(int64(lengths), rows)
    assert found.tolist() == [len(kept(rows, n)) for n in lengths]


# --- shards


def sites_of(rows: list[str]) -> tuple[SiteSpec, ...]:
    """Give one site a choice, each of another size."""
    return tuple(
        site(f"m.{n}", rows=r, row_shape=(n + 1,), dtype="bfloat16") for n, r in enumerate(rows)
    )


def bytes_of(n_tokens: int, sites: tuple[SiteSpec, ...]) -> int:
    return sum(len(kept(s.rows, n_tokens)) * int(np.prod(s.row_shape)) * 2 for s in sites)


def assert_whole(lengths: list[int], sites: tuple[SiteSpec, ...], found: Any) -> None:
    """Check that shards cover every example once, in order, and count right."""
    example = token = 0
    for number, spec in enumerate(found):
        mine = lengths[example : example + spec.n_examples]
        assert spec == ShardSpec(
            number=number,
            first_example=example,
            n_examples=len(mine),
            first_token=token,
            n_tokens=sum(mine),
            n_rows={s.rows: sum(len(kept(s.rows, n)) for n in mine) for s in sites},
        )
        assert mine
        example, token = example + len(mine), token + sum(mine)
    assert example == len(lengths)


@settings(max_examples=200, deadline=None)
@given(LENGTHS, st.lists(ROWS, max_size=4), st.integers(1, 400))
def test_shards_hold_whole_examples_and_as_many_as_fit(
    lengths: list[int], rows: list[str], shard_bytes: int
) -> None:
    sites = sites_of(rows)
    found = shards.split(int64(lengths), sites, shard_bytes)
    assert_whole(lengths, sites, found)
    sizes = [bytes_of(n, sites) for n in lengths]
    for spec in found:
        begin, end = spec.first_example, spec.first_example + spec.n_examples
        assert sum(sizes[begin:end]) <= shard_bytes or spec.n_examples == 1
        if end < len(sizes):  # the next example did not fit
            assert sum(sizes[begin : end + 1]) > shard_bytes


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(1, 4), st.integers(1, 400))
def test_examples_that_stay_together_lie_in_one_shard(
    prompts: list[int], together: int, shard_bytes: int
) -> None:
    lengths = [n for n in prompts for _ in range(together)]
    sites = sites_of(["all"])
    found = shards.split(int64(lengths), sites, shard_bytes, together=together)
    assert_whole(lengths, sites, found)
    for spec in found:
        assert spec.n_examples % together == 0
        end = spec.first_example + spec.n_examples
        mine = lengths[spec.first_example : end]
        size = sum(bytes_of(n, sites) for n in mine)
        assert size <= shard_bytes or spec.n_examples == together
        more = sum(bytes_of(n, sites) for n in lengths[end : end + together])
        assert not more or size + more > shard_bytes  # the next prompt did not fit


def test_shards_are_about_as_large_as_asked_for() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 5000)
    found = shards.split(lengths, [site(row_shape=(768,), dtype="bfloat16")], 10_000_000)
    sizes = [spec.n_tokens * 768 * 2 for spec in found]
    assert len(found) == -(-int(lengths.sum()) * 768 * 2 // 10_000_000)
    assert all(9_800_000 < size <= 10_000_000 for size in sizes[:-1])


def test_the_first_examples_of_a_longer_list_make_the_same_shards() -> None:
    lengths = np.random.default_rng(1).integers(1, 50, 400)
    sites = [site(row_shape=(16,))]
    short, long = (shards.split(lengths[:n], sites, 20_000) for n in (200, 400))
    assert len(short) > 3
    assert short[:-1] == long[: len(short) - 1]


def test_small_rows_and_long_texts_make_no_shard_that_fills_the_memory() -> None:
    lengths = np.full(100_000, 200)
    found = shards.split(lengths, [site()], 1 << 40, string_bytes=1000)
    assert [spec.n_examples for spec in found[:-1]] == [(64 << 20) // (200 * 24 + 1272)] * 9
    assert sum(spec.n_examples for spec in found) == 100_000
    alone = shards.split(lengths[:3], [site()], 1 << 40, string_bytes=np.array([1, 1 << 30, 1]))
    assert [spec.n_examples for spec in alone] == [1, 1, 1]


def test_without_sites_all_examples_are_in_one_shard() -> None:
    (found,) = shards.split(int64([3, 1, 5]), [], 1)
    assert (found.n_examples, found.n_tokens, dict(found.n_rows)) == (3, 9, {})


# --- tables


def examples_of(lengths: list[int], folder: Path) -> Examples:
    """Give texts whose tokens are as many as asked for, all different."""
    texts = [" ".join(f"{n}_{i}" for i in range(length)) for n, length in enumerate(lengths)]
    config = load_config(
        {
            "model": {"name": "any"},
            "inputs": {"texts": texts},
            "probes": [{"modules": "**"}],
            "store": {"path": str(folder)},
        }
    )
    ids = {word: n for n, word in enumerate(w for text in texts for w in text.split())}
    return make_examples(
        config,
        Codec(encode=lambda group: Encoded(ids=[[ids[w] for w in text.split()] for text in group])),
        Limits(n_tokens=None, d_vocab=len(ids), too_long="error"),
    )


def test_tables_say_what_lies_in_a_shard(tmp_path: Path) -> None:
    lengths = [3, 1, 5, 2, 4, 6, 1]
    examples, sites = examples_of(lengths, tmp_path), sites_of(["all", "example", *CHOICES])
    found = shards.split(examples.n_tokens, sites, 120)
    assert len(found) > 2
    for spec in found:
        tables = shards.tables(examples, spec)
        begin, end = spec.first_example, spec.first_example + spec.n_examples
        tokens = range(spec.first_token, spec.first_token + spec.n_tokens)
        said = tables.columns["example"]
        assert said["id"] == tuple(str(n) for n in range(begin, end))
        assert said["text"] == tuple(examples.text(n) for n in range(begin, end))
        assert tables.n_tokens.tolist() == lengths[begin:end]
        assert tables.token_ids.tolist() == list(tokens)  # each word has its own number
        assert set(tables.columns["token"]) == {"id"}
        assert set(tables.choices) == set(CHOICES)
        for rows, places in tables.choices.items():
            wanted = [
                sum(lengths[:n]) + position
                for n in range(begin, end)
                for position in kept(rows, lengths[n])
            ]
            assert (places.tolist(), places.dtype) == (wanted, np.int64)
        for rows, counts in tables.counts.items():
            assert counts.tolist() == [len(kept(rows, n)) for n in lengths[begin:end]]


# --- batches


@settings(max_examples=200)
@given(LENGTHS, st.integers(1, 60), st.none() | st.integers(0, 60))
def test_batches_hold_every_example_once_within_the_budget(
    lengths: list[int], batch_tokens: int, padding: int | None
) -> None:
    budget = Budget(batch_tokens, padding)
    found = [batch.tolist() for batch in shards.batches(int64(lengths), budget)]
    assert sorted(n for batch in found for n in batch) == list(range(len(lengths)))
    for batch in found:
        padded = len(batch) * max(lengths[n] for n in batch)
        assert padded <= batch_tokens or len(batch) == 1
        assert padding is None or padded - sum(lengths[n] for n in batch) <= padding


@settings(max_examples=100)
@given(LENGTHS, st.integers(1, 60))
def test_batches_come_longest_first_and_are_filled(lengths: list[int], batch_tokens: int) -> None:
    found = [batch.tolist() for batch in shards.batches(int64(lengths), Budget(batch_tokens))]
    order = [n for batch in found for n in batch]
    assert [lengths[n] for n in order] == sorted(lengths, reverse=True)
    assert order == sorted(order, key=lambda n: (-lengths[n], n))  # equal ones stay in order
    for batch in found[:-1]:
        assert (len(batch) + 1) * lengths[batch[0]] > batch_tokens


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [2, 2]), ("cuda", [4])])
def test_a_batch_is_padded_while_that_costs_less_than_another(device, sizes) -> None:
    lengths = int64([300, 100, 40, 400])  # 400 + 300 pad 100, 100 + 40 pad 60, all of them 760
    budget = Budget.on(device, 8192)
    assert [len(batch) for batch in shards.batches(lengths, budget)] == sizes
