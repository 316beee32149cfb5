"""Transfer: rows from the device to whoever writes them, overlapped with the forward pass.

Knows streams, pinned memory and threads; nothing of sites' meaning or of files. On a GPU rows are
copied on a stream of their own into a ring of pinned memory, and threads hand them on once their
copy has arrived; the ring's size bounds what is on the way, and a full ring makes the forward pass
wait. On the CPU rows are handed on at once: there is no second processor to win time from, and a
copy would cost more than the write (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Condition, Thread
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch

from probekit.errors import CaptureError, ProbekitError
from probekit.interrupts import uninterrupted
from probekit.planning import to_storage
from probekit.wording import human_bytes, shorten

Array = np.ndarray[Any, Any]

_ALIGNED = 64  # bytes; every dtype can be viewed at such an offset
_REASON = 200  # characters of what torch says
_SLICES = 4  # of the ring, at least: one is copied while another is written


class RowSink(Protocol):
    """Where rows go: a shard's writer, or what stands before it."""

    def write(
        self,
        site: int,
        block: Array,
        examples: Sequence[int],
        starts: Sequence[int],
        n_rows: Sequence[int] | None = None,
    ) -> None:
        """Write rows of one site; see `ShardWriter.write`."""

    def forget(self, examples: Sequence[int]) -> None:
        """Take back every row of some examples; they will come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Whose rows a block `[row, ...]` holds."""

    site: int
    examples: tuple[int, ...]  # numbers in the shard
    starts: tuple[int, ...]  # where each example's rows begin in the block
    counts: tuple[int, ...]  # rows of each example


class Arrival(Protocol):
    """A copy on its way; `torch.cuda.Event` is one."""

    def synchronize(self) -> None:
        """Wait until every byte is there."""


class _Arrived:
    """Of rows that never were on a device."""

    def synchronize(self) -> None:
        """Wait for nothing."""


class Link(Protocol):
    """How rows leave a device."""

    arena: torch.Tensor  # uint8, on the host

    def start(self, rows: torch.Tensor, place: torch.Tensor) -> Arrival:
        """Begin to copy `rows`, which lie on the device, to `place`, a part of the arena."""

    def close(self) -> None:
        """Wait for every copy that was begun: the arena goes away."""


class CudaLink:
    """Copies on a stream of its own, into pinned memory.

    Raises:
        CaptureError: if this machine has not so much memory to pin.
    """

    def __init__(self, device: torch.device, n_bytes: int) -> None:
        try:
            self.arena = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)
        except (RuntimeError, MemoryError) as error:
            raise CaptureError(
                f"store.buffer_bytes: {human_bytes(n_bytes)} of memory for rows on their way from "
                f"{device} cannot be had ({shorten(str(error), _REASON)}); set a smaller one"
            ) from error
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, rows: torch.Tensor, place: torch.Tensor) -> Arrival:
        """Begin to copy behind what the forward pass has queued so far."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            place.copy_(rows, non_blocking=True)
            # One that sleeps while it waits: the other kind keeps a core busy in every thread.
            arrival = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            arrival.record(self._stream)
        # The allocator must not give the memory away while this stream reads it.
        rows.record_stream(self._stream)
        return arrival

    def close(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()


class Transfer:
    """Hand rows on to their sinks, in order for each site, for the time of a block.

    Args:
        device: where rows come from.
        buffer_bytes: of rows on the way at most, on a GPU.
        row_bytes: of the widest row there will be; the ring holds a few of them in any case.
        link: how rows leave the device, where it is not the device's own way.

    Raises:
        StoreError, CaptureError: from `send` and `drain`, whatever went wrong behind them.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        buffer_bytes: int,
        row_bytes: int,
        link: Link | None = None,
    ) -> None:
        if link is None and device.type == "cuda":
            link = CudaLink(device, max(buffer_bytes, _SLICES * _up(row_bytes)))
        self._device = device
        self._link = link
        self._ring = _Ring(link.arena.numel() if link else 0)
        self._changed = Condition()
        self._on_the_way = 0
        self._error: BaseException | None = None
        self._lanes: list[tuple[Thread, SimpleQueue[_Job | None]]] = []

    def __enter__(self) -> Self:
        if self._link is not None:
            # Two where there are cores for it: one checksums while the other writes.
            for _ in range(2 if (os.cpu_count() or 1) > 2 else 1):
                jobs: SimpleQueue[_Job | None] = SimpleQueue()
                lane = Thread(target=self._work, args=(jobs,), name="probekit-rows", daemon=True)
                lane.start()
                self._lanes.append((lane, jobs))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with uninterrupted():
            self._end_lanes(error)
            if self._link is not None:
                self._link.close()

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Hand rows on for the time of a block; no sink is written to after it.

        Enter it inside the blocks of the sinks that are filled: a file that closes while a thread
        writes to it gives its number away, and the thread would go on in another file.
        """
        try:
            yield
            self.drain()
        except BaseException as error:
            self._end_lanes(error)
            raise

    def _end_lanes(self, error: BaseException | None) -> None:
        """Wait for the threads to end; after an error what is still on the way is dropped."""
        self._error = self._error or error
        with uninterrupted():
            for _, jobs in self._lanes:
                jobs.put(None)
            for lane, _ in self._lanes:
                lane.join()

    def send(self, sink: RowSink, label: Label, rows: torch.Tensor) -> None:
        """Begin to bring rows, in the stored dtype, to a sink.

        From a GPU this returns before they are there, and nothing may write to them any more. Rows
        that lie on the host go the same way, behind those of their site that are still coming.
        """
        if self._link is None:
            _hand_on(sink, label, rows.cpu().contiguous())
            return
        rows = rows.contiguous()
        row_bytes = rows.element_size() * (rows.numel() // max(1, len(rows)))
        at_once = max(1, self._ring.size // _SLICES // max(1, row_bytes))
        for begin in range(0, len(rows), at_once):
            end = min(len(rows), begin + at_once)
            part = label if end - begin == len(rows) else cut(label, begin, end)
            self._send(self._link, sink, part, rows[begin:end])

    def _send(self, link: Link, sink: RowSink, label: Label, rows: torch.Tensor) -> None:
        n_bytes = rows.numel() * rows.element_size()
        offset = self._room_for(n_bytes)
        place = link.arena[offset : offset + n_bytes].view(rows.dtype).view(rows.shape)
        if rows.device.type == self._device.type:
            arrival = link.start(rows, place)
        else:
            place.copy_(rows)
            arrival = _Arrived()
        job = _Job(sink=sink, label=label, rows=place, offset=offset, arrival=arrival)
        self._lanes[label.site % len(self._lanes)][1].put(job)

    def drain(self) -> None:
        """Wait until every row that was sent has reached its sink."""
        with self._changed:
            while self._on_the_way and self._error is None:
                self._changed.wait()
            self._refuse_errors()

    def _room_for(self, n_bytes: int) -> int:
        with self._changed:
            while True:
                self._refuse_errors()
                offset = self._ring.take(n_bytes)
                if offset is not None:
                    self._on_the_way += 1
                    return offset
                self._changed.wait()

    def _refuse_errors(self) -> None:
        if isinstance(self._error, ProbekitError):
            raise self._error
        if self._error is not None:
            raise CaptureError(
                f"the thread that hands rows on died: {type(self._error).__name__}: {self._error}"
            ) from self._error

    def _work(self, jobs: SimpleQueue[_Job | None]) -> None:
        while (job := jobs.get()) is not None:
            try:
                if self._error is None:
                    job.arrival.synchronize()
                    _hand_on(job.sink, job.label, job.rows)
            except BaseException as error:  # raised again where the forward pass runs
                self._error = error
            with self._changed:
                self._ring.give_back(job.offset)
                self._on_the_way -= 1
                self._changed.notify_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    sink: RowSink
    label: Label
    rows: torch.Tensor  # in the arena
    offset: int
    arrival: Arrival


class _Ring:
    """Parts of an arena of `size` bytes, given out in order; given back in any order."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._head = 0  # where the next part begins
        self._out: deque[int] = deque()  # where parts begin, oldest first
        self._back: set[int] = set()  # begins of parts that are back, behind an older one

    def take(self, n_bytes: int) -> int | None:
        """Give the offset of a free part, or None where there is none now."""
        n_bytes = _up(n_bytes)
        if not self._out:
            begin, limit = 0, self.size
        elif self._head <= (tail := self._out[0]):  # free: from the head to the tail
            begin, limit = self._head, tail
        elif self._head + n_bytes <= self.size:  # free: behind the head, and before the tail
            begin, limit = self._head, self.size
        else:
            begin, limit = 0, tail
        if begin + n_bytes > limit:
            return None
        self._head = begin + n_bytes
        self._out.append(begin)
        return begin

    def give_back(self, begin: int) -> None:
        """Take a part back."""
        self._back.add(begin)
        while self._out and self._out[0] in self._back:
            self._back.remove(self._out.popleft())


def _up(n_bytes: int) -> int:
    return max(1, -(-n_bytes // _ALIGNED)) * _ALIGNED


def _hand_on(sink: RowSink, label: Label, rows: torch.Tensor) -> None:
    sink.write(label.site, to_storage(rows), label.examples, label.starts, label.counts)


def cut(label: Label, begin: int, end: int) -> Label:
    """Give the label of the rows `begin` to `end` of a block."""
    inside = [
        (example, max(start, begin), min(start + count, end))
        for example, start, count in zip(label.examples, label.starts, label.counts, strict=True)
        if max(start, begin) < min(start + count, end)
    ]
    return Label(
        site=label.site,
        examples=tuple(example for example, _, _ in inside),
        starts=tuple(first - begin for _, first, _ in inside),
        counts=tuple(last - first for _, first, last in inside),
    )
