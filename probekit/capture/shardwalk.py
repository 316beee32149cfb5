"""One shard of a run: its batches through the model, their rows into a sealed file.

Knows how the pieces hand on to each other, and what to do when a batch is too large for the device.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probekit.capture.progress import Progress, Watcher
from probekit.capture.rows import Batch, Receiver, RowSink, Tally, Transfer, make_batch
from probekit.errors import CaptureError, ProbekitError, ProbekitWarning
from probekit.hooks import ForwardStopped, OrderRecorder
from probekit.inputs import Budget, shards
from probekit.models import FreshState, forward_arguments, out_of_memory
from probekit.planning import Plan
from probekit.store import (
    FLOATS,
    NONFINITE,
    OVERFLOW,
    Claims,
    Format,
    ShardSpec,
    ShardTables,
    ShardWriter,
)
from probekit.wording import counted

Array = np.ndarray[Any, Any]


class Meter:
    """Keeps count and tells the watcher, and other workers where there are any."""

    def __init__(
        self,
        shards: Sequence[ShardSpec],
        todo: Sequence[ShardSpec],
        watcher: Watcher | None,
        claims: Claims | None = None,
    ) -> None:
        self._watcher = watcher
        self._claims = claims
        self._n_examples = sum(s.n_examples for s in shards)
        self._before = self._n_examples - sum(s.n_examples for s in todo)
        self._examples = self._before
        self._own = self._of_shard = self._tokens = self._n_bytes = 0
        self._begin = time.perf_counter()

    def advance(self, n_examples: int, n_tokens: int, n_bytes: int) -> None:
        """Count a batch; `n_bytes` is the total of the run so far."""
        self._examples += n_examples
        self._own += n_examples
        self._of_shard += n_examples
        self._tokens += n_tokens
        self._n_bytes = n_bytes
        if self._claims is not None:
            self._claims.say(
                examples=self._of_shard,
                all_examples=self._own,
                tokens=self._tokens,
                n_bytes=n_bytes,
                seconds=time.perf_counter() - self._begin,
            )
        self.wait()

    def begin(self, shard: ShardSpec) -> None:
        """Say which shard comes now."""
        self._of_shard = 0
        if self._claims is not None:
            self._claims.say(at_once=True, shard=shard.number, examples=0)

    def elsewhere(self, shard: ShardSpec) -> None:
        """Count a shard that another worker has sealed."""
        self._examples += shard.n_examples
        self.wait()

    def wait(self) -> None:
        """Tell how far it is, also where nothing has changed: who is told may want to stop."""
        if self._watcher is not None:
            self._watcher(
                Progress(
                    examples=self._examples,
                    n_examples=self._n_examples,
                    before=self._before,
                    tokens=self._tokens,
                    n_bytes=self._n_bytes,
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
    layout: Format
    transfer: Transfer
    tally: Tally
    receiver: Receiver  # attached to the model
    order: OrderRecorder | None  # attached to the model
    meter: Meter
    budget: Budget
    company: str  # which texts may share a batch
    fresh: FreshState  # of the model, given back before each pass

    def writer(self, shard: ShardSpec, tables: Any) -> ShardWriter:
        """Open a shard for writing."""
        return ShardWriter(
            self.path,
            shard,
            [site.spec for site in self.plan.sites],
            tables,
            self.attributes,
            compression=self.plan.config.store.compression,
            layout=self.layout,
        )

    def seal(self, out: ShardWriter, times: Mapping[str, Any] | None = None) -> None:
        """Seal a shard once every row has come."""
        self.transfer.drain()
        counts = self._counts()
        self._refuse_overflow(counts)
        out.seal(self.order.take() if self.order is not None else None, times, counts)

    def _counts(self) -> dict[str, dict[str, int]]:
        counted = zip(self.plan.sites, self.tally.take(), strict=True)
        return {
            site.spec.name: {NONFINITE: int(odd), OVERFLOW: int(over)}
            for site, (odd, over) in counted
            if site.spec.dtype in FLOATS
        }

    def _refuse_overflow(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        if self.plan.config.store.on_overflow != "error":
            return
        over = [f"{name} ({found[OVERFLOW]})" for name, found in counts.items() if found[OVERFLOW]]
        if over:
            raise CaptureError(
                f"values are too large for store.dtype {self.plan.config.store.dtype}: "
                f"{', '.join(over[:5])}{', ...' if len(over) > 5 else ''}; store bfloat16 or "
                "float32, or set store.on_overflow: warn"
            )

    def keep_batch(self) -> None:
        """Count what was seen of a batch, now that it is whole."""
        self.tally.keep_batch()
        if self.order is not None:
            self.order.keep_batch()

    def split(self, numbers: Array, width: int, out: RowSink | None) -> list[Array]:
        """Take back a batch that was too large for the device; give what to run instead.

        Args:
            numbers: of the batch's examples, in the shard.
            width: tokens of the longest.
            out: where its rows went; None where none were recorded.

        Raises:
            CaptureError: if it was a single example.
        """
        n_examples = len(numbers)
        if n_examples == 1:
            raise CaptureError(
                f"an example of {counted(width, 'token')} is too large for the memory of "
                f"{self.device}; set inputs.max_tokens, or a 16-bit model.dtype"
            )
        self.transfer.drain()
        if out is not None:
            out.forget([int(n) for n in numbers])
        self.tally.drop_batch()
        if self.order is not None:
            self.order.drop_batch()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.budget.tokens == self.plan.config.inputs.batch_tokens:
            warnings.warn(
                f"a batch of {counted(n_examples, 'example')} of up to {counted(width, 'token')} "
                f"was too large for the memory of {self.device}: it is split, and so are others. A "
                "smaller inputs.batch_tokens avoids that",
                ProbekitWarning,
                stacklevel=2,
            )
        self.budget.tokens = max(1, min(self.budget.tokens, n_examples * width) // 2)
        return np.array_split(numbers, 2)


def forward_shard(walk: Walk, shard: ShardSpec) -> None:
    """Run the texts of a shard through the model once and seal what the probes saw."""
    plan = walk.plan
    assert plan.examples is not None  # a plan that runs has its inputs
    forward_texts(walk, shard, shards.tables(plan.examples, shard, plan.choices))


def forward_texts(
    walk: Walk,
    shard: ShardSpec,
    tables: ShardTables,
    *,
    n_prompt: Array | None = None,
    times: Mapping[str, Any] | None = None,
) -> None:
    """Run what a shard's tables say through the model once and seal what the probes saw.

    Args:
        walk: what every shard shares.
        shard: with the rows that there will be.
        tables: what it says of its examples and tokens.
        n_prompt: of each example, the tokens that were given; None for all.
        times: what is measured of what came before.
    """
    with walk.writer(shard, tables) as out, walk.transfer.filling():
        for numbers in _batches(walk, tables.n_tokens):
            _forward_batch(walk, shard, tables, numbers, out, n_prompt)
        walk.seal(out, times)


def _batches(walk: Walk, n_tokens: Array) -> Iterator[Array]:
    return shards.batches(n_tokens, walk.budget, walk.plan.length_border, walk.company)


def _forward_batch(
    walk: Walk,
    shard: ShardSpec,
    tables: ShardTables,
    numbers: Array,
    out: RowSink,
    n_prompt: Array | None,
) -> None:
    batch = make_batch(
        numbers,
        tables.n_tokens,
        tables.token_ids,
        choices=walk.plan.choices,
        kept={site.choice for site in walk.plan.sites},
        first_example=shard.first_example,
        accepted=forward_arguments(walk.plan.skeleton.arguments),
        device=walk.device,
        logits_to_keep=walk.plan.logits_to_keep,
        n_prompt=n_prompt,
    )
    walk.receiver.expect(batch, out)
    walk.fresh.put_back()
    seconds = forward(walk.model, batch, wait_for=walk.device if walk.order is not None else None)
    if seconds is None:
        for part in walk.split(numbers, batch.shape[1], out):
            _forward_batch(walk, shard, tables, part, out, n_prompt)
        return
    walk.receiver.check()
    if walk.order is not None:
        walk.order.end_forward(
            phase="forward",
            examples=[shard.first_example + n for n in batch.numbers],
            n_tokens=batch.n_tokens,
            seconds=seconds,
        )
    walk.keep_batch()
    walk.meter.advance(len(batch.numbers), batch.n_tokens, walk.receiver.n_bytes)


def forward(
    model: torch.nn.Module, batch: Batch, *, wait_for: torch.device | None = None
) -> float | None:
    """Run one batch.

    Args:
        model: with its hooks.
        batch: what it reads.
        wait_for: a device to wait for, where the seconds are to be the pass's and not those of
            queueing it on a GPU.

    Returns:
        The seconds it took; None where the device's memory was too small.
    """
    begin = time.perf_counter()
    try:
        model(**batch.arguments)
    except ForwardStopped:
        pass  # nothing after this point was asked for
    except ProbekitError:
        raise
    except Exception as error:
        if out_of_memory(error):
            return None  # with the error goes its hold on every tensor of the pass
        # Whatever the model's own code raises: said once, with the batch it happened on.
        raise CaptureError(
            f"the model failed on a batch of {list(batch.shape)} [example, token]: "
            f"{type(error).__name__}: {error}"
        ) from error
    if wait_for is not None:
        finish(wait_for)
    return time.perf_counter() - begin


def finish(device: torch.device) -> None:
    """Wait until a device has computed what was queued; copies go on, on a stream of their own."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
