"""Receiver: takes what the taps hand over, makes rows of it, and sends them to the open shard.

Knows taps, packing, recipes and the transfer, and takes no decisions: each site's source, rows and
recipe come from the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from probekit.capture.rows.oddvalues import Tally, all_finite
from probekit.capture.rows.packing import KNOWN_NEXT, Batch, Rows, pack, padded
from probekit.capture.rows.pooling import Pooling
from probekit.capture.rows.transfer import Label, RowSink, Transfer
from probekit.config import said_once
from probekit.errors import CaptureError
from probekit.hooks import ForwardStopped, HookManager, Sink, Tap, attention, computed
from probekit.inputs import NO_SPOTS, Choice, Choices
from probekit.interrupts import Attachment
from probekit.models.forward import OTHER_KEYS, AttentionCall, AttentionTap, shown_weights
from probekit.planning import (
    ATTENTION,
    BLOCK_KINDS,
    KEY_KINDS,
    Recipe,
    SitePlan,
    Source,
    in_heads,
)

Array = np.ndarray[Any, Any]


class Receiver(Attachment):
    """Attach a plan's sites to a model for the time of a block.

    Sites that come from the same tensor with the same rows and recipe (the ids and the
    log-probabilities of `top_k`) are computed once.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        sites: Sequence[SitePlan],
        transfer: Transfer,
        tally: Tally,
        stop: Source | None = None,
        choices: Choices = NO_SPOTS,
    ) -> None:
        super().__init__()
        self._model = model
        self._transfer = transfer
        self._tally = tally
        self._stop = stop  # the forward pass ends after it
        self._choices = choices
        self._muted = False
        self._sites = tuple(sites)
        self._dtypes = [getattr(torch, site.spec.dtype) for site in sites]
        self._groups: dict[tuple[Any, ...], list[int]] = {}
        for number, site in enumerate(sites):
            key = (site.source, site.choice, site.recipe)
            self._groups.setdefault(key, []).append(number)
        self._came = [False] * len(sites)
        self._pools: dict[int, list[Pooling]] = {}  # by the first site of a group
        self.n_bytes = 0  # handed on so far

    def _attach(self) -> None:
        taps: list[Tap] = []
        calls: dict[str, list[Callable[[AttentionCall], None]]] = {}
        for numbers in self._groups.values():
            source = self._sites[numbers[0]].source
            if source.side == ATTENTION:
                calls.setdefault(source.module, []).append(partial(self._take_call, numbers))
            else:
                sink = self._take_weights if source.n_keys else self._take
                taps.append(_tap(source, partial(sink, numbers)))
        if self._stop is not None:
            taps.append(_tap(self._stop, _end_forward))
        self._stack.enter_context(HookManager(self._model, taps))
        self._stack.enter_context(AttentionTap(self._model, _each(calls)))

    def expect(self, batch: Batch, out: RowSink) -> None:
        """Say which batch runs next, and where its rows go."""
        self._batch, self._out = batch, out
        self._came = [False] * len(self._sites)

    def check(self) -> None:
        """Refuse to go on when a site stayed silent in a forward pass."""
        silent = [s.spec.name for s, came in zip(self._sites, self._came, strict=True) if not came]
        if silent:
            shown = ", ".join(said_once(silent)[:5])
            raise CaptureError(
                f"{shown}: did not run in this forward pass, although the plan "
                "said so; the model's code takes another path than on plain tokens"
            )

    @contextmanager
    def muted(self, silent: bool) -> Iterator[None]:
        """Record nothing inside the block, if `silent`."""
        self._muted = silent
        try:
            yield
        finally:
            self._muted = False

    def wants(self, ending: str) -> bool:
        """Say whether a site's recipe ends so."""
        return any(site.recipe.ending == ending for site in self._sites)

    def begin_pools(self, n_examples: int) -> None:
        """Begin to pool what comes of a batch over several forward passes."""
        self._pools = {
            numbers[0]: [Pooling(site.recipe.pool, n_examples) for _ in site.recipe.parts]
            for numbers in self._groups.values()
            if (site := self._sites[numbers[0]]).recipe.pool is not None
            and Choice(site.choice).spans_passes
        }

    def end_pools(self) -> None:
        """Hand on what was pooled since `begin_pools`."""
        ones = (1,) * len(self._batch.numbers)
        for numbers in self._groups.values():
            for number in numbers if numbers[0] in self._pools else ():
                pooled = self._pools[numbers[0]][self._sites[number].part].rows()
                self._hand_on(number, pooled, tuple(range(len(ones))), ones)
        self.drop_pools()

    def drop_pools(self) -> None:
        """Let go of what was pooled so far."""
        self._pools = {}

    def append(
        self,
        ending: str,
        values: Array,
        examples: Sequence[int],
        *,
        position: int,
        n_prompt: int,
    ) -> None:
        """Hand on one number an example to the sites whose recipe ends so, if they keep its place.

        Args:
            ending: of the recipe.
            values: `[example]`.
            examples: in the shard.
            position: whose numbers these are.
            n_prompt: positions before the first generated one.
        """
        for number, site in enumerate(self._sites):
            if site.recipe.ending != ending or site.recipe.pool is not None:
                continue
            kept = self._keeping(site.choice, examples, position, n_prompt)
            if kept:
                label = Label(
                    site=number,
                    examples=tuple(examples[place] for place in kept),
                    starts=tuple(range(len(kept))),
                    counts=(1,) * len(kept),
                )
                rows = torch.from_numpy(values[kept]).to(self._dtypes[number])
                self._transfer.send(self._out, label, rows)
                self.n_bytes += len(kept) * site.spec.row_bytes

    def _keeping(
        self, choice: str, examples: Sequence[int], position: int, n_prompt: int
    ) -> Sequence[int]:
        """Say which of some examples a choice keeps a position of, by their place among them."""
        n_tokens, first = max(position, n_prompt) + 1, self._batch.first_example
        if choice not in self._choices.found:  # the same for all of them
            is_kept = position in Choice(choice).positions(n_tokens, n_prompt)
            return range(len(examples) if is_kept else 0)
        return [
            place
            for place, example in enumerate(examples)
            if position in self._choices.positions(choice, first + example, n_tokens, n_prompt)
        ]

    def _take(self, numbers: list[int], tensor: torch.Tensor) -> None:
        if self._muted:
            return
        site = self._sites[numbers[0]]
        rows = self._batch.rows[site.choice]
        if site.recipe.ending == "token_logprob":
            rows = self._batch.rows.get(KNOWN_NEXT + site.choice, rows)
        if not any(rows.counts):  # of a prompt, while its tokens are gone on from
            for number in numbers:
                self._came[number] = True
            return
        try:
            if self._written_in_place(numbers, tensor, rows):
                return
            kept = pack(tensor, site.source.axes, self._batch, rows)
            kept = in_heads(kept, 1, site.source.split, site.source.channels)
            kept = computed(kept, site.source, self._model)
        except CaptureError as error:
            raise CaptureError(f"{site.spec.name}: {error}") from error
        if (pools := self._pools.get(numbers[0])) is not None:
            unpooled = replace(site.recipe, pool=None)
            for pool, part in zip(pools, unpooled.apply(kept, rows.next_ids, ()), strict=True):
                pool.add(part, rows.counts)
            for number in numbers:
                self._came[number] = True
            return
        parts = site.recipe.apply(kept, rows.next_ids, rows.counts)
        pooled = site.recipe.pool is not None
        starts = tuple(range(len(self._batch.numbers))) if pooled else rows.starts
        counts = (1,) * len(self._batch.numbers) if pooled else rows.counts
        expected = rows.next_ids < 0 if site.recipe.ending == "token_logprob" else None
        for number in numbers:
            self._hand_on(
                number, parts[self._sites[number].part], starts, counts, expected=expected
            )

    def _written_in_place(self, numbers: list[int], tensor: torch.Tensor, rows: Rows) -> bool:
        site = self._sites[numbers[0]]
        if site.recipe != Recipe() or site.source.is_computed or rows.padded_starts is None:
            return False
        flat = padded(tensor, site.source.axes, self._batch)
        if flat is None or any(flat.dtype != self._dtypes[number] for number in numbers):
            return False
        if flat.is_floating_point() and not all_finite(flat):
            return False  # real tokens are told from padding before they are counted
        flat = in_heads(flat, 1, site.source.split, site.source.channels)
        for number in numbers:
            self._send(number, flat, rows.padded_starts, rows.counts, self._batch.numbers)
        return True

    def _take_call(self, numbers: list[int], call: AttentionCall) -> None:
        element = self._sites[numbers[0]].source.element
        assert element is not None  # resolve names one for every attention site
        # A cache that slides may hold fewer keys than there are tokens; none holds more.
        n_more = call.key.shape[2] - max(self._batch.n_keys)
        is_whole = bool(self._batch.arguments)  # no cache: `generate` makes its own arguments
        if (n_more > 0 or (n_more and is_whole)) and element not in ("q", "z_kernel"):
            raise CaptureError(
                f"{self._sites[numbers[0]].spec.name}: {OTHER_KEYS.format(n_more=n_more)}"
            )
        if element in BLOCK_KINDS:
            self._take_blocks(numbers, element, call)
        else:
            self._take(numbers, call.tensor(element))

    def _take_weights(self, numbers: list[int], weights: torch.Tensor) -> None:
        """Take the pattern of a model that shows its attention weights `[batch, head, q, k]`."""
        self._take_blocks(numbers, "pattern", shown_weights(weights))

    def _take_blocks(self, numbers: list[int], kind: str, call: AttentionCall) -> None:
        """Compute pattern or scores of one example after another, some queries at a time."""
        if self._muted:
            return
        site = self._sites[numbers[0]]
        source, rows = site.source, self._batch.rows[site.choice]
        for place, (start, count) in enumerate(zip(rows.starts, rows.counts, strict=True)):
            if not count:
                continue
            queries = rows.positions[start : start + count]
            blocks = attention.blocks(
                call,
                kind,
                example=place,
                heads=source.heads,
                queries=queries,
                n_keys=self._batch.n_keys[place],
            )
            for block in blocks:
                whole = block
                if kind in KEY_KINDS:
                    # Behind an example's own keys: nothing is attended to, and nothing may be.
                    fill = 0.0 if kind == "pattern" else -torch.inf
                    short = source.n_keys - block.shape[-1]
                    whole = torch.nn.functional.pad(block, (0, short), value=fill)
                parts = site.recipe.apply(whole, rows.next_ids[:0], ())
                for number in numbers:
                    part = parts[self._sites[number].part]
                    hidden = part == -torch.inf if kind == "scores" else None
                    self._hand_on(number, part, (0,), (len(part),), only=place, expected=hidden)
        for number in numbers:
            self._came[number] = True

    def _hand_on(
        self,
        number: int,
        rows: torch.Tensor,
        starts: Sequence[int],
        counts: Sequence[int],
        *,
        only: int | None = None,
        expected: torch.Tensor | None = None,
    ) -> None:
        """Cast rows to the stored dtype, look for what is not finite, and send them."""
        examples = self._batch.numbers if only is None else (self._batch.numbers[only],)
        stored = rows.to(self._dtypes[number])
        self._tally.see(number, rows, stored, expected)
        self._send(number, stored, starts, counts, examples)

    def _send(
        self,
        number: int,
        rows: torch.Tensor,
        starts: Sequence[int],
        counts: Sequence[int],
        examples: Sequence[int],
    ) -> None:
        label = Label(
            site=number, examples=tuple(examples), starts=tuple(starts), counts=tuple(counts)
        )
        self._transfer.send(self._out, label, rows.detach())
        self._came[number] = True
        self.n_bytes += sum(counts) * self._sites[number].spec.row_bytes


def _tap(source: Source, sink: Sink) -> Tap:
    return Tap(
        module=source.module,
        side=source.side if source.side != ATTENTION else "output",
        element=source.element if source.side != ATTENTION else None,
        call=source.call,
        sink=sink,
    )


def _end_forward(tensor: torch.Tensor) -> None:
    raise ForwardStopped


def _each(
    calls: Mapping[str, list[Callable[[AttentionCall], None]]],
) -> dict[str, Callable[[AttentionCall], None]]:
    def tell(listeners: list[Callable[[AttentionCall], None]], call: AttentionCall) -> None:
        for listener in listeners:
            listener(call)

    return {path: partial(tell, listeners) for path, listeners in calls.items()}
