"""A trace as torch datasets: whole batches in a shuffled order, or any row by its number.

Knows torch's conventions for workers, processes and going on; the order is `shuffling`'s, the
reading `rowreader`'s. `Trace.dataset` and `Trace.map_dataset` lead here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from probekit.errors import StoreError
from probekit.handover.torch.rowreader import RowReader
from probekit.handover.torch.shuffling import EpochOrder, Settings
from probekit.wording import counted, numbered

Array = np.ndarray[Any, Any]
Batch = dict[str, torch.Tensor]

# What a dataset shares with its copies in worker processes.
_EPOCH, _BEGIN, _LOADS, _RESUMED, _BY_WORKERS = range(5)


class RowBatches(IterableDataset[Batch]):
    """Batches of rows, each a dict of tensors; made by `Trace.dataset`."""

    def __init__(self, reader: RowReader, settings: Settings, *, rank: int) -> None:
        self.settings = settings
        self.rank = rank
        self._reader = reader
        self._order = EpochOrder(settings, epoch=0, rank=rank)
        self._next = 0  # the batch that comes next in this pass
        self._loads = 0  # how many calls of `load_state_dict` this copy has heeded
        self._turn: int | None = None  # in a worker: the batch at which its own next pass begins
        # In memory that processes share, so that workers that live on hear of a new epoch.
        self._shared = torch.zeros(5, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        """Batches that this process gets in an epoch."""
        return self.settings.n_batches

    def __repr__(self) -> str:
        s = self.settings
        share = f", process {self.rank} of {s.world_size}" if s.world_size > 1 else ""
        return (
            f"<RowBatches of {', '.join(self._reader.names)}: {counted(s.n_rows, 'row')}, "
            f"{counted(len(self), 'batch', 'batches')} of {s.batch_size}"
            f"{', shuffled' if s.shuffle else ''}{share}>"
        )

    @property
    def epoch(self) -> int:
        """Number of the epoch; the order follows from it."""
        return int(self._shared[_EPOCH])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch: another one has another order. Without it each pass has the same order.

        The epoch that it is already changes nothing, so that a loop over epochs which begins with
        this goes on where `load_state_dict` said.
        """
        if epoch != self.epoch:
            self._shared[_EPOCH] = epoch
            self._go_on_at(0)

    def __iter__(self) -> Iterator[Batch]:
        first, step = self._first_and_step()
        self._shared[_BY_WORKERS] = get_worker_info() is not None
        self._next = first  # here, not in the generator: `state_dict` may come before the first
        return self._batches(self._order_now(), first, step)

    def _batches(self, order: EpochOrder, first: int, step: int) -> Iterator[Batch]:
        window, held = None, None
        for number in range(first, len(self), step):
            if self.settings.shuffle and window != (now := order.window_of(number)):
                if window is None:
                    self._reader.expect(order.blocks_of(now))
                held = None  # before more is unpacked
                held = self._reader.hold(order.blocks_of(now))
                self._reader.expect(order.blocks_of(now + 1))
                window = now
            batch = self._reader(order.batch(number), held)
            self._next = number + step
            yield batch
            del batch  # so that its memory is free for the next one, if nobody else holds it

    def state_dict(self, *, batch: int | None = None) -> dict[str, Any]:
        """Say where in the epoch this is, as plain values; the same for all processes.

        Args:
            batch: how many batches of the epoch were taken. It must be said where a DataLoader's
                worker processes gave them: they read ahead, and only the caller knows.

        Raises:
            StoreError: if it must be said and is not.
        """
        worker = get_worker_info()
        if batch is None and worker is None and self._shared[_BY_WORKERS]:
            raise StoreError(
                "state_dict: worker processes gave the batches, and read ahead; say how many of "
                "this epoch you took, state_dict(batch=...), or use torchdata's StatefulDataLoader"
            )
        state = {
            "epoch": self.epoch,
            "batch": self._next if batch is None else batch,
            "order": self._order_now().digest,
            **asdict(self.settings),
        }
        if worker is not None:
            state |= {"worker": worker.id, "n_workers": worker.num_workers}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state says: the next pass begins there, later ones at the beginning.

        Raises:
            StoreError: if the state is of a dataset with another order; it says what differs.
        """
        if not {"epoch", "batch"} <= set(state):
            raise StoreError(
                "load_state_dict: expected what `state_dict` gave, given a mapping of "
                f"{', '.join(map(str, state)) or 'nothing'}"
            )
        worker = get_worker_info()
        here = None if worker is None else worker.num_workers
        if state.get("n_workers", here) != here:
            raise StoreError(
                f"load_state_dict: the state is of {counted(1, 'worker', of=state['n_workers'])}; "
                "load it through the StatefulDataLoader it is from, with as many"
            )
        now = {**asdict(self.settings), "order": self._order_at(state["epoch"]).digest}
        differs = [
            f"{key}: was {state.get(key, 'not set')}, is {value}"
            for key, value in now.items()
            if state.get(key) != value
        ]
        if differs:
            raise StoreError(
                f"load_state_dict: the state is of batches in another order ({', '.join(differs)})"
            )
        self._shared[_EPOCH] = state["epoch"]
        if "n_workers" in state:
            self._turn = self._next = int(state["batch"])
        else:
            self._go_on_at(int(state["batch"]))

    def _go_on_at(self, batch: int) -> None:
        self._next = batch
        self._shared[_BEGIN] = batch
        self._shared[_LOADS] += 1
        self._shared[_RESUMED] = self._shared[_BY_WORKERS] = 0

    def _first_and_step(self) -> tuple[int, int]:
        """Give the batch at which this pass begins here, and how many it is to the next."""
        worker = get_worker_info()
        begin, loads = 0, int(self._shared[_LOADS])
        if loads != self._loads:
            self._loads, begin = loads, int(self._shared[_BEGIN])
        # Workers of a later pass are new copies, which have heeded no load: a DataLoader draws a
        # seed for each pass, and only the first pass of all begins there.
        this_pass = -1 if worker is None else worker.seed - worker.id
        if begin and self._shared[_RESUMED] not in (0, this_pass):
            begin = 0
        elif begin:
            self._shared[_RESUMED] = this_pass
        if worker is None:
            return begin, 1
        if self._turn is not None:
            begin, self._turn = self._turn, None
            return begin, worker.num_workers
        return begin + worker.id, worker.num_workers

    def _order_now(self) -> EpochOrder:
        if self._order.epoch != self.epoch:
            self._order = self._order_at(self.epoch)
        return self._order

    def _order_at(self, epoch: int) -> EpochOrder:
        return EpochOrder(self.settings, epoch=epoch, rank=self.rank)


class RowItems(Dataset[Batch]):
    """Any row by its number, as a dict of tensors; made by `Trace.map_dataset`."""

    def __init__(self, reader: RowReader, n_rows: int) -> None:
        self._reader = reader
        self._n_rows = n_rows

    def __len__(self) -> int:
        return self._n_rows

    def __repr__(self) -> str:
        return f"<RowItems of {', '.join(self._reader.names)}: {counted(self._n_rows, 'row')}>"

    def __getitem__(self, key: Any) -> Batch:
        """Give one row, or with a slice or several numbers a batch of them."""
        numbers = np.arange(self._n_rows)[key] if isinstance(key, slice) else np.asarray(key)
        if numbers.size and not (-len(self) <= numbers.min() and numbers.max() < len(self)):
            raise IndexError(f"row {key} is out of range: {numbered(len(self))}")
        batch = self._reader(np.atleast_1d(numbers) % max(1, len(self)))
        return batch if numbers.ndim else {name: rows[0] for name, rows in batch.items()}

    def __getitems__(self, numbers: Sequence[int]) -> list[Batch]:
        """Give several rows apart, as a DataLoader with its own `batch_size` wants them."""
        batch = self[list(numbers)]
        return [{name: rows[n] for name, rows in batch.items()} for n in range(len(numbers))]
