"""One shard of a run: its batches through the model, their rows into a sealed file.

Knows how the pieces hand on to each other; holds no decision and no arithmetic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from probekit import packing, shards
from probekit.errors import CaptureError, ProbekitError
from probekit.hooks import ForwardStopped
from probekit.order import OrderRecorder
from probekit.packing import Batch
from probekit.planning import Plan
from probekit.receiver import Receiver
from probekit.schema import ShardSpec
from probekit.skeleton import forward_arguments
from probekit.writer import ShardWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come."""

    examples: int
    n_examples: int
    before: int  # of the examples, how many were sealed when this process began
    tokens: int  # captured by this process
    n_bytes: int  # written by this process
    seconds: float  # since the first forward pass


Watcher = Callable[[Progress], None]


class Meter:
    """Keeps count and tells the watcher."""

    def __init__(
        self, shards: Sequence[ShardSpec], todo: Sequence[ShardSpec], watcher: Watcher | None
    ) -> None:
        self._watcher = watcher
        self._n_examples = sum(s.n_examples for s in shards)
        self._before = self._n_examples - sum(s.n_examples for s in todo)
        self._examples = self._before
        self._tokens = 0
        self._begin = time.perf_counter()

    def advance(self, n_examples: int, n_tokens: int, n_bytes: int) -> None:
        """Count a batch; `n_bytes` is the total of the run so far."""
        self._examples += n_examples
        self._tokens += n_tokens
        if self._watcher is not None:
            self._watcher(
                Progress(
                    examples=self._examples,
                    n_examples=self._n_examples,
                    before=self._before,
                    tokens=self._tokens,
                    n_bytes=n_bytes,
                    seconds=time.perf_counter() - self._begin,
                )
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What every shard of a run shares."""

    model: torch.nn.Module
    plan: Plan
    device: torch.device
    path: Path  # the run's folder
    attributes: Mapping[str, Any]  # of every shard
    receiver: Receiver  # attached to the model
    order: OrderRecorder | None  # attached to the model
    meter: Meter

    def writer(self, shard: ShardSpec, tables: Any) -> ShardWriter:
        """Open a shard for writing."""
        return ShardWriter(
            self.path,
            shard,
            [site.spec for site in self.plan.sites],
            tables,
            self.attributes,
            compression=self.plan.config.store.compression,
        )


def forward_shard(walk: Walk, shard: ShardSpec) -> None:
    """Run the texts of a shard through the model once and seal what the probes saw."""
    plan = walk.plan
    assert plan.examples is not None  # a plan that runs has its inputs
    tables = shards.tables(plan.examples, shard)
    with walk.writer(shard, tables) as out:
        room = plan.config.inputs.batch_tokens
        for numbers in shards.batches(tables.n_tokens, room, plan.length_border):
            batch = packing.make_batch(
                numbers,
                tables.n_tokens,
                tables.token_ids,
                choices={site.choice for site in plan.sites},
                accepted=forward_arguments(plan.skeleton.arguments),
                device=walk.device,
            )
            walk.receiver.expect(batch, out)
            seconds = forward(walk.model, batch)
            walk.receiver.check()
            if walk.order is not None:
                walk.order.end_forward(
                    phase="forward",
                    examples=[shard.first_example + n for n in batch.numbers],
                    n_tokens=batch.n_tokens,
                    seconds=seconds,
                )
            walk.meter.advance(len(batch.numbers), batch.n_tokens, walk.receiver.n_bytes)
        out.seal(walk.order.take() if walk.order is not None else None)


def forward(model: torch.nn.Module, batch: Batch) -> float:
    """Run one batch; give the seconds it took."""
    begin = time.perf_counter()
    try:
        model(**batch.arguments)
    except ForwardStopped:
        pass  # nothing after this point was asked for
    except ProbekitError:
        raise
    except Exception as error:
        # Whatever the model's own code raises: said once, with the batch it happened on.
        raise CaptureError(
            f"the model failed on a batch of {list(batch.shape)} [example, token]: "
            f"{type(error).__name__}: {error}"
        ) from error
    return time.perf_counter() - begin
