"""Rows on their way off a device: late copies, a full ring, and what goes wrong behind them.

The link here copies as late as it may: only when somebody waits for the arrival. Until then its
arena holds bytes that are no row of ours, so a buffer that is read early shows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread, Timer
from typing import Any

import numpy as np
import pytest
import torch
from far_rows import GPU, far, record_stream
from hypothesis import given, settings, strategies as st
from torch import Tensor

from probekit.capture.rows.transfer import CudaLink, Label, Transfer, _Ring, cut
from probekit.errors import CaptureError, StoreError

CPU = torch.device("cpu")


class LateLink:
    """Copies only when its arrival is waited for, and, if told so, not before a gate opens."""

    def __init__(self, n_bytes: int) -> None:
        self.arena = torch.full((n_bytes,), 0xFE, dtype=torch.uint8)
        self.gate = Event()
        self.gate.set()
        self.n_started = 0

    def start(self, rows: Tensor, place: Tensor) -> Any:
        self.n_started += 1
        link = self

        class Late:
            def synchronize(self) -> None:
                assert link.gate.wait(timeout=30)
                place.copy_(rows)

        return Late()

    def close(self) -> None:
        pass


class GpuLink(LateLink):
    """Takes rows of a GPU only."""

    def start(self, rows: Tensor, place: Tensor) -> Any:
        record_stream(rows)
        return super().start(rows, place)


class Kept:
    """A sink that keeps what it is given, by site and example."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], list[np.ndarray[Any, Any]]] = {}

    def write(
        self,
        site: int,
        block: Any,
        examples: Sequence[int],
        starts: Sequence[int],
        n_rows: Sequence[int] | None = None,
    ) -> None:
        assert n_rows is not None
        for example, start, n in zip(examples, starts, n_rows, strict=True):
            self.rows.setdefault((site, example), []).append(block[start : start + n].copy())

    def forget(self, examples: Sequence[int]) -> None:
        raise AssertionError

    def of(self, site: int, example: int) -> Any:
        return np.concatenate(self.rows[site, example])


def label(site: int, counts: Sequence[int], first: int = 0) -> Label:
    starts = np.cumsum([0, *counts[:-1]])
    return Label(
        site=site,
        examples=tuple(range(first, first + len(counts))),
        starts=tuple(int(s) for s in starts),
        counts=tuple(counts),
    )


@contextmanager
def late(n_bytes: int) -> Iterator[tuple[Transfer, LateLink]]:
    link = LateLink(n_bytes)
    with Transfer(CPU, buffer_bytes=n_bytes, row_bytes=1, link=link) as transfer:
        yield transfer, link


# --- rows


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=8),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.bool]),
    st.integers(1, 5),
)
def test_every_row_arrives_once_and_in_order(
    loads: list[list[int]], dtype: torch.dtype, width: int
) -> None:
    sink, sent = Kept(), {}
    with late(4 * 64) as (transfer, _):  # far less than all rows together
        for number, counts in enumerate(loads):
            rows = torch.randn(sum(counts), width).to(dtype)
            transfer.send(sink, label(number % 3, counts, first=10 * number), rows)
            for example, part in enumerate(rows.split(counts), 10 * number):
                sent[number % 3, example] = part
        transfer.drain()
        for (site, example), rows in sent.items():
            if len(rows):
                found = torch.from_numpy(sink.of(site, example).view(np.uint8))
                assert torch.equal(found.flatten(), rows.contiguous().view(torch.uint8).flatten())


def test_rows_larger_than_the_ring_come_in_parts():
    rows = torch.arange(1000.0).reshape(500, 2)
    sink = Kept()
    with late(256) as (transfer, link):
        transfer.send(sink, label(0, [499, 1]), rows)
        transfer.drain()
        assert link.n_started > 50
    assert np.array_equal(sink.of(0, 0), rows[:499].numpy())
    assert np.array_equal(sink.of(0, 1), rows[499:].numpy())
    assert max(len(part) for part in sink.rows[0, 0]) == 256 // 4 // 8


def test_without_a_link_rows_are_there_when_send_returns():
    sink = Kept()
    with Transfer(CPU, buffer_bytes=1, row_bytes=1) as transfer:
        transfer.send(sink, label(0, [2]), torch.ones(2, 3))
        assert sink.of(0, 0).shape == (2, 3)


def test_rows_of_the_host_come_in_order_behind_those_of_the_gpu():
    link, sink = GpuLink(256), Kept()
    with Transfer(GPU, buffer_bytes=256, row_bytes=1, link=link) as transfer:
        link.gate.clear()
        for number, row in enumerate(torch.arange(6.0).split(1)):  # 6 x 64 bytes into 256
            if number == 3:
                link.gate.set()
            if number % 2:
                transfer.send(sink, label(0, [1]), row)
                row += 100  # it was copied, and is its owner's again
            else:
                transfer.send(sink, label(0, [1]), far(row))
        transfer.drain()
    assert sink.of(0, 0).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_cut_label_says_whose_rows_are_left():
    whole = label(7, [3, 0, 4, 2])
    assert cut(whole, 2, 8) == Label(site=7, examples=(0, 2, 3), starts=(0, 1, 5), counts=(1, 4, 1))


# --- the ring


def test_a_full_ring_makes_the_sender_wait():
    with late(256) as (transfer, link):
        link.gate.clear()
        sink, passed = Kept(), Event()

        def send_all() -> None:
            for number in range(8):  # 8 x 64 bytes into 256
                transfer.send(sink, label(0, [1], first=number), torch.full((1, 16), float(number)))
            passed.set()

        sender = Thread(target=send_all)
        sender.start()
        assert not passed.wait(timeout=0.3)
        assert link.n_started == 4
        link.gate.set()
        sender.join(timeout=30)
        transfer.drain()
    assert [sink.of(0, n)[0, 0] for n in range(8)] == list(range(8))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 400)), max_size=60))
def test_parts_of_the_ring_never_overlap(steps: list[tuple[bool, int]]) -> None:
    ring, out = _Ring(1024), {}
    for takes, size in steps:
        if takes:
            begin = ring.take(size)
            if begin is None:
                assert out  # an empty ring has room for anything up to its size
                continue
            end = begin + size
            assert begin >= 0 and end <= 1024 and begin % 64 == 0
            assert all(end <= b or e <= begin for b, e in out.items())
            out[begin] = end
        elif out:
            begin = sorted(out)[size % len(out)]
            del out[begin]
            ring.give_back(begin)
    for begin in list(out):
        ring.give_back(begin)
    assert ring.take(1024) == 0


# --- what goes wrong


class Broken(Kept):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, *_: Any, **__: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "raised", "match"),
    [
        (StoreError("the disk is full"), StoreError, "^the disk is full$"),
        (TypeError("odd"), CaptureError, "the thread that hands rows on died: TypeError: odd"),
    ],
)
def test_what_a_writing_thread_meets_is_raised_by_the_next_call(error, raised, match):
    with late(256) as (transfer, _):
        transfer.send(Broken(error), label(0, [1]), torch.ones(1, 4))
        with pytest.raises(raised, match=match):
            transfer.drain()
        with pytest.raises(raised, match=match):
            transfer.send(Kept(), label(0, [1]), torch.ones(1, 4))


def test_a_sender_that_waits_for_room_hears_of_it():
    with late(256) as (transfer, link):
        link.gate.clear()
        Thread(target=lambda: (Event().wait(0.2), link.gate.set()), daemon=True).start()
        with pytest.raises(StoreError, match="full"):
            for _ in range(100):
                transfer.send(Broken(StoreError("full")), label(0, [1]), torch.ones(1, 16))


def test_an_error_in_the_block_drops_what_is_on_the_way():
    sink = Kept()
    with pytest.raises(KeyboardInterrupt), late(256) as (transfer, link):
        link.gate.clear()
        for number in range(3):
            transfer.send(sink, label(0, [1], first=number), torch.ones(1, 4))
        Thread(target=lambda: (Event().wait(0.2), link.gate.set()), daemon=True).start()
        raise KeyboardInterrupt
    assert len(sink.rows) <= 1  # at most the one that was being waited for


def test_a_ring_that_does_not_fit_the_memory_names_its_setting(monkeypatch):
    def empty(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(torch, "empty", empty)
    message = r"^store.buffer_bytes: 1024.0 TiB .* from cuda .*out of memory.*; set a smaller one$"
    with pytest.raises(CaptureError, match=message):
        Transfer(GPU, buffer_bytes=1 << 50, row_bytes=1)


class Closes(Kept):
    """A sink that is slow, and knows whether it was written to when it closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written_to, self.may_end = Event(), Event()
        self.seen: list[str] = []

    def __enter__(self) -> Closes:
        return self

    def __exit__(self, *_: object) -> None:
        self.seen.append("closed")

    def write(self, *_: Any, **__: Any) -> None:
        self.seen.append("begins")
        self.written_to.set()
        assert self.may_end.wait(timeout=30)
        self.seen.append("ends")


def test_no_sink_closes_while_it_is_written_to():
    sink = Closes()
    with pytest.raises(KeyboardInterrupt), late(256) as (transfer, _), sink, transfer.filling():
        transfer.send(sink, label(0, [1, 1]), torch.ones(2, 4))
        transfer.send(sink, label(0, [1, 1]), torch.ones(2, 4))
        assert sink.written_to.wait(timeout=30)
        Timer(0.2, sink.may_end.set).start()
        raise KeyboardInterrupt
    assert sink.seen == ["begins", "ends", "closed"]


def test_a_block_ends_when_every_row_is_there():
    sink = Kept()
    with late(256) as (transfer, link):
        with transfer.filling():
            link.gate.clear()
            transfer.send(sink, label(0, [1]), torch.ones(1, 4))
            Timer(0.2, link.gate.set).start()
        assert len(sink.rows) == 1
        transfer.send(sink, label(1, [1]), torch.ones(1, 4))  # there is a next block
        transfer.drain()
    assert len(sink.rows) == 2


# --- the real thing


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_leave_a_gpu_whole_while_it_goes_on():
    device, sink = torch.device("cuda"), Kept()
    sent = []
    with Transfer(device, buffer_bytes=8 << 20, row_bytes=4096) as transfer:
        for number in range(64):
            rows = torch.randn(1024, 1024, device=device)
            sent.append(rows.cpu())
            transfer.send(sink, label(number % 5, [1000, 24], first=2 * number), rows)
            del rows
            torch.randn(1024, 1024, device=device).matmul(torch.randn(1024, 1024, device=device))
        transfer.drain()
    for number, rows in enumerate(sent):
        found = [sink.of(number % 5, 2 * number + part) for part in (0, 1)]
        assert np.array_equal(np.concatenate(found), rows.numpy())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_between_a_hook_and_the_ring_waits_for_the_gpu():
    from probekit.capture.rows.oddvalues import Tally
    from probekit.capture.rows.packing import make_batch, pack
    from probekit.inputs import NO_SPOTS
    from probekit.planning.recipe import Recipe

    device, sink = torch.device("cuda"), Kept()
    n_tokens = np.array([3, 5])
    ids = np.arange(8, dtype=np.int32)
    batch = make_batch(
        np.array([0, 1]),
        n_tokens,
        ids,
        choices=NO_SPOTS,
        kept=("all",),
        accepted=frozenset(),
        device=device,
    )
    rows, recipe, tally = batch.rows["all"], Recipe(neurons=(1, 3)), Tally(1, device)
    output = torch.randn(2, 5, 8, device=device)
    with Transfer(device, buffer_bytes=1 << 20, row_bytes=64) as transfer:
        for _ in range(2):  # the first time index tensors are made, which waits
            kept = pack(output, ("batch", "position", 8), batch, rows)
            (computed,) = recipe.apply(kept, rows.next_ids, rows.counts)
            stored = computed.to(torch.bfloat16)
            tally.see(0, computed, stored)
            transfer.send(sink, label(0, [3, 5]), stored)
            torch.cuda.set_sync_debug_mode("error")
        torch.cuda.set_sync_debug_mode("default")
        transfer.drain()
    assert sink.of(0, 1).shape == (10, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_waiting_for_a_copy_keeps_no_core_busy():
    link = CudaLink(torch.device("cuda"), 64)
    rows = torch.ones(4, device="cuda")
    torch.cuda._sleep(10**9)  # clock cycles: about half a second
    arrival = link.start(rows, link.arena[:16].view(torch.float32))
    begin, begin_busy = time.perf_counter(), time.thread_time()
    arrival.synchronize()
    assert time.perf_counter() - begin > 0.2
    assert time.thread_time() - begin_busy < 0.1
