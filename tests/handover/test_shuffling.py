"""The order of an epoch: every row once, cut as promised, and as good as a full permutation.

Full permutations are numpy's own. Seeds are fixed, so a test that passes passes again; limits are
those of a chance of one in ten thousand.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings as tries, strategies as st

from probekit.handover.torch.shuffling import EpochOrder, Settings

Array = np.ndarray[Any, Any]


def settings(n_rows: int, **given: Any) -> Settings:
    made = {
        "rows": "all",
        "batch_size": 32,
        "shuffle": True,
        "seed": 0,
        "block_rows": 8,
        "window_rows": 10**9,
        "world_size": 1,
        "drop_last": False,
    }
    return Settings(n_rows=n_rows, **{**made, **given})


def batches(chosen: Settings, *, epoch: int = 0, rank: int = 0) -> list[Array]:
    order = EpochOrder(chosen, epoch=epoch, rank=rank)
    return [order.batch(number) for number in range(chosen.n_batches)]


def rows(chosen: Settings, *, epoch: int = 0, rank: int = 0) -> Array:
    return np.concatenate(batches(chosen, epoch=epoch, rank=rank))


# --- every row once


@tries(max_examples=150, deadline=None)
@given(
    n_rows=st.integers(1, 400),
    batch_size=st.integers(2, 50),
    block_rows=st.integers(1, 60),
    window_rows=st.integers(1, 500),
    world_size=st.integers(1, 5),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_row_comes_once_over_all_processes(epoch: int, **given: Any) -> None:
    chosen = settings(**given)
    if chosen.n_rows < chosen.world_size:
        return
    shares = [batches(chosen, epoch=epoch, rank=rank) for rank in range(chosen.world_size)]
    counts = Counter(int(row) for share in shares for batch in share for row in batch)
    assert set(counts.values()) <= {1}
    assert set(counts) <= set(range(chosen.n_rows))
    n_given = len(counts)
    if chosen.drop_last:
        full = chosen.n_rows // chosen.world_size // chosen.batch_size
        assert n_given == full * chosen.batch_size * chosen.world_size
    else:
        assert n_given == chosen.n_rows


@tries(max_examples=150, deadline=None)
@given(
    n_rows=st.integers(1, 400),
    batch_size=st.integers(2, 50),
    world_size=st.integers(1, 5),
    window_rows=st.integers(1, 500),
)
def test_all_processes_get_as_many_batches_and_only_the_last_two_are_small(**given: Any) -> None:
    chosen = settings(**given)
    if chosen.n_rows < chosen.world_size:
        return
    sizes = [
        [len(batch) for batch in batches(chosen, rank=rank)] for rank in range(chosen.world_size)
    ]
    size, least = chosen.batch_size, chosen.n_rows // chosen.world_size
    for share in sizes:
        assert (
            len(share)
            == chosen.n_batches
            == math.ceil(math.ceil(chosen.n_rows / len(sizes)) / size)
        )
        assert sum(share) in (least, least + 1)
        assert min(share) >= 1
        assert all(n == size for n in share[:-2])
        assert all(n in (size, size - 1) for n in share[:-1])
    assert chosen.world_size > 1 or all(n == size for n in sizes[0][:-1])


def test_without_shuffling_rows_come_as_they_were_recorded() -> None:
    chosen = settings(100, shuffle=False, world_size=3, window_rows=10)
    shares = [rows(chosen, rank=rank) for rank in range(3)]
    assert np.concatenate(shares).tolist() == list(range(100))


def test_a_batch_can_be_asked_for_at_any_time() -> None:
    chosen = settings(1000, window_rows=100)
    wanted = batches(chosen)
    order = EpochOrder(chosen, epoch=0, rank=0)
    for number in (17, 3, 31, 0, 3):
        assert order.batch(number).tolist() == wanted[number].tolist()


def test_epochs_and_seeds_have_orders_of_their_own_that_come_again() -> None:
    chosen = settings(500)
    orders = {
        (seed, epoch): tuple(rows(replace(chosen, seed=seed), epoch=epoch))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == 9
    assert tuple(rows(replace(chosen, seed=2), epoch=1)) == orders[2, 1]


# --- what is read lies together


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_window_is_made_of_whole_blocks_but_at_its_ends(world_size: int) -> None:
    chosen = settings(1003, block_rows=10, window_rows=200, world_size=world_size)
    for rank in range(world_size):
        order = EpochOrder(chosen, epoch=0, rank=rank)
        got: dict[int, set[int]] = {}
        for number in range(chosen.n_batches):
            got.setdefault(order.window_of(number), set()).update(order.batch(number).tolist())
        assert len(got) > 1
        for window, there in got.items():
            stretches = order.blocks_of(window)
            assert there == {row for begin, end in stretches for row in range(begin, end)}
            assert len(there) <= 200
            sizes = [end - begin for begin, end in stretches]
            # 3 is the last block of the trace, wherever it comes.
            assert all(n in (10, 3) for n in sizes[1:-1])
            assert all(begin // 10 == (end - 1) // 10 for begin, end in stretches)


@pytest.mark.parametrize("batch_size", [32, 999])
def test_rows_that_fit_into_the_buffer_are_one_window(batch_size: int) -> None:
    chosen = settings(1000, batch_size=batch_size, window_rows=1000)
    order = EpochOrder(chosen, epoch=0, rank=0)
    assert {order.window_of(number) for number in range(chosen.n_batches)} == {0}


def test_there_is_nothing_behind_the_last_window() -> None:
    order = EpochOrder(settings(1003, window_rows=200), epoch=0, rank=0)
    last = order.window_of(settings(1003).n_batches - 1)
    assert len(order.blocks_of(last)) and not len(order.blocks_of(last + 1))


# --- as good as a full permutation


def chi_square(counts: Array) -> float:
    """Give the deviation from equal counts in standard deviations of a chi-square."""
    expected = counts.sum() / counts.size
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = counts.size - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


def test_with_one_window_all_permutations_are_equally_likely() -> None:
    chosen = settings(4, batch_size=2, block_rows=2)
    numbers = {order: n for n, order in enumerate(permutations(range(4)))}
    counts = np.zeros(24)
    for seed in range(6000):
        counts[numbers[tuple(rows(replace(chosen, seed=seed)).tolist())]] += 1
    assert counts.min() > 0
    assert abs(chi_square(counts)) < 4.5


def test_a_test_of_chance_can_fail() -> None:
    assert chi_square(np.array([260.0, 240, 250, 250])) < 4.5
    assert chi_square(np.array([400.0, 200, 200, 200])) > 4.5


def test_with_many_windows_a_row_comes_anywhere_equally_often() -> None:
    chosen = settings(1000, batch_size=20, block_rows=10, window_rows=100)
    orders = np.stack([rows(chosen, epoch=epoch) for epoch in range(2000)])
    for row in (0, 511, 999):
        places = (orders == row).argmax(axis=1)
        assert abs(chi_square(np.bincount(places // 50, minlength=20))) < 4.5


LARGE = settings(200_000, batch_size=500, block_rows=50, window_rows=25_000)


def test_rows_move_as_far_as_in_a_full_permutation() -> None:
    n = LARGE.n_rows
    moved = np.abs(rows(LARGE) - np.arange(n)).mean() / n
    # Of a permutation: mean 1/3, variance 2/45 a row; blocks move together, so count blocks.
    deviation = math.sqrt(2 / 45 / (n / LARGE.block_rows))
    assert abs(moved - 1 / 3) < 4 * deviation
    permuted = np.random.default_rng(0).permutation(n)
    assert abs(moved - np.abs(permuted - np.arange(n)).mean() / n) < 4 * deviation


def test_the_order_does_not_remember_where_a_row_was() -> None:
    n = LARGE.n_rows
    correlation = np.corrcoef(rows(LARGE), np.arange(n))[0, 1]
    assert abs(correlation) < 4 / math.sqrt(n / LARGE.block_rows)
    inside = np.corrcoef(rows(LARGE)[:-1], rows(LARGE)[1:])[0, 1]
    assert abs(inside) < 4 / math.sqrt(n)


def test_neighbours_are_of_one_block_as_often_as_the_window_says() -> None:
    blocks = rows(LARGE) // LARGE.block_rows
    same = float((blocks[1:] == blocks[:-1]).mean())
    expected = (LARGE.block_rows - 1) / (LARGE.window_rows - 1)
    deviation = math.sqrt(expected / LARGE.n_rows)
    assert abs(same - expected) < 4 * deviation
    # With one window it is that of a full permutation.
    whole = rows(replace(LARGE, window_rows=LARGE.n_rows)) // LARGE.block_rows
    expected = (LARGE.block_rows - 1) / (LARGE.n_rows - 1)
    assert abs((whole[1:] == whole[:-1]).mean() - expected) < 4 * math.sqrt(expected / LARGE.n_rows)


def test_batch_means_vary_as_the_sizes_of_block_batch_and_window_say() -> None:
    """The mean over a batch of something that all rows of a block share, as texts do."""
    signal = np.random.default_rng(1).standard_normal(LARGE.n_rows // LARGE.block_rows)
    means = [
        signal[batch // LARGE.block_rows].mean()
        for epoch in range(10)
        for batch in batches(LARGE, epoch=epoch)
    ]
    size, block, window = LARGE.batch_size, LARGE.block_rows, LARGE.window_rows
    of_a_batch, of_a_window = (1 - size / window) / size, block / window
    assert np.var(means) == pytest.approx((of_a_batch + of_a_window) * signal.var(), rel=0.1)
    permuted = np.random.default_rng(2).permutation(LARGE.n_rows).reshape(-1, size)
    times = np.var(means) / np.var(signal[permuted // block].mean(1))
    assert times == pytest.approx(1 + size * block / window, rel=0.2)
