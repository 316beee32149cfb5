"""Steps: one run of transformers' `generate` over a batch, watched forward pass by forward pass.

Knows what `generate` hands to a model, and which rows each pass gives. A new token is recorded when
the model reads it: one forward pass more than `generate` would need, so that every token of the
trace has a row at every site.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from probekit.capture.rows import KNOWN_NEXT, Batch, Rows, RowSink, rows_at
from probekit.capture.shardwalk import Walk, finish
from probekit.capture.strategies import choosers, end_ids, own_defaults
from probekit.errors import CaptureError, ProbekitError
from probekit.inputs import Choice
from probekit.models import out_of_memory
from probekit.store import ShardSpec

Array = np.ndarray[Any, Any]


class Times:
    """Seconds of generating with the cache and without, and whether both gave the same tokens."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._n_same = self._n_compared = 0

    def add(self, seconds: Mapping[bool, float]) -> None:
        """Add seconds, by whether the cache was used."""
        for cached, more in seconds.items():
            key = "generate_cached_s" if cached else "generate_naive_s"
            self._seconds[key] = self._seconds.get(key, 0.0) + more

    def compare(self, first: Sequence[Array], second: Sequence[Array]) -> None:
        """Count in how many examples two ways gave the same tokens."""
        self._n_compared += len(first)
        self._n_same += sum(np.array_equal(a, b) for a, b in zip(first, second, strict=True))

    def attributes(self) -> dict[str, Any]:
        """Give all of it, as a shard says it."""
        compared = {"generate_compared": self._n_compared, "generate_same": self._n_same}
        return {**self._seconds, **(compared if self._n_compared else {})}


class Steps:
    """One run of `generate` over a batch: watches its forward passes and tells when to stop."""

    def __init__(
        self, walk: Walk, shard: ShardSpec, numbers: Array, prompts: Array, out: RowSink | None
    ) -> None:
        self._walk, self._out = walk, out  # without `out` nothing is recorded
        settings, examples = walk.plan.config.generate, walk.plan.examples
        assert settings is not None and examples is not None
        self._settings = settings
        self._numbers = tuple(int(n) for n in numbers)
        self._examples = [shard.first_example + n for n in self._numbers]
        self._places = [examples.place(example) for example in self._examples]
        self._prompts = prompts
        self._fed: list[list[int]] = [[] for _ in numbers]  # new tokens the model has read
        self._done = np.zeros(len(numbers), dtype=bool)
        self._n_forwards = 0
        self._logprobs: torch.Tensor | None = None  # of the token to come, [batch, d_vocab]
        self._eos = end_ids(walk.model)
        head = walk.plan.skeleton.head
        self._needs_logits = any(s.source.module in ("", head) for s in walk.plan.sites)

    def tokens(self) -> list[Array]:
        """Give each example's tokens, prompt first, int32."""
        return [
            np.concatenate([prompt, np.array(fed, dtype=np.int64)]).astype("<i4")
            for prompt, fed in zip(self._prompts, self._fed, strict=True)
        ]

    def run(self, *, use_cache: bool) -> float | None:
        """Generate; give the seconds it took, None where the device's memory was too small."""
        settings, model = self._settings, self._walk.model
        ids = torch.from_numpy(self._prompts).to(self._walk.device)
        begin = time.perf_counter()
        with ExitStack() as stack:
            stack.enter_context(own_defaults(model))
            stack.enter_context(self._walk.receiver.muted(self._out is None))
            for handle in (
                model.register_forward_pre_hook(self._begin, with_kwargs=True, prepend=True),
                model.register_forward_hook(self._end),
            ):
                stack.callback(handle.remove)
            self._walk.fresh.put_back()
            if self._out is not None:
                self._walk.receiver.begin_pools(len(self._numbers))
            try:
                model.generate(  # type: ignore[operator]
                    ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=GenerationConfig(
                        max_new_tokens=settings.max_new_tokens + 1,
                        do_sample=False,  # sampling is done by the processors, example by example
                        use_cache=use_cache,
                        pad_token_id=0,
                    ),
                    logits_processor=LogitsProcessorList(
                        [self._see, *choosers(settings, self._places)]
                    ),
                    stopping_criteria=StoppingCriteriaList([self._stop]),
                )
            except ProbekitError:
                raise
            except Exception as error:
                if out_of_memory(error):
                    self._walk.receiver.drop_pools()
                    return None
                # Whatever the model's own code raises: said once, with the batch it happened on.
                raise CaptureError(
                    f"the model failed while generating from {list(self._prompts.shape)} "
                    f"[example, token]: {type(error).__name__}: {error}"
                ) from error
        if self._out is not None:
            self._walk.receiver.end_pools()
            nothing = np.full(len(self._numbers), np.nan)
            self._append("token_logprob", nothing, self._numbers, self._prompts.shape[1])
        return time.perf_counter() - begin

    def _begin(self, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """Before a forward pass: say which rows it gives."""
        ids = kwargs["input_ids"].cpu().numpy()
        prefill = self._n_forwards == 0
        alive = np.flatnonzero(~self._done)
        if not prefill:
            for place in alive:
                self._fed[place].append(int(ids[place, -1]))
            self._write_logprobs(alive)
        self._n_forwards += 1
        n_keys = self._prompts.shape[1] + self._n_forwards - 1
        self._n_new_rows = ids.size if prefill else len(alive)
        if self._out is not None:
            self._walk.receiver.expect(self._batch(ids, alive, n_keys, prefill), self._out)
        self._clock = time.perf_counter()
        # generate asks for the last position's logits alone; a probe on them wants every row.
        keep = {"logits_to_keep": 0} if self._needs_logits and "logits_to_keep" in kwargs else {}
        accepted = self._walk.plan.skeleton.arguments
        given = {k: v for k, v in kwargs.items() if k != "position_ids" or k in accepted}
        return args, {**given, **keep}

    def _batch(self, ids: Array, alive: Array, n_keys: int, prefill: bool) -> Batch:
        n_batch, width = ids.shape
        next_ids = np.full_like(ids, -1)
        none = np.empty(0, dtype=np.int64)
        if prefill:
            next_ids[:, :-1] = ids[:, 1:]
        rows_of = partial(rows_at, next_ids=next_ids, device=self._walk.device)
        nothing = rows_of([none] * n_batch)
        rows: dict[str, Rows] = {}
        for name in {site.choice for site in self._walk.plan.sites}:
            rows[name] = rows[KNOWN_NEXT + name] = nothing
            if prefill:
                choices = self._walk.plan.choices
                kept = [choices.positions(name, example, width) for example in self._examples]
                rows[name] = rows_of(kept)
                rows[KNOWN_NEXT + name] = rows_of([k[k < width - 1] for k in kept])
            elif Choice(name).spans_passes:
                last = np.array([width - 1])
                rows[name] = rows_of([none if done else last for done in self._done])
        return Batch(
            numbers=self._numbers,
            first_example=self._examples[0] - self._numbers[0],
            n_tokens=self._n_new_rows,
            n_keys=(n_keys,) * n_batch,
            shape=(n_batch, width),
            arguments={},
            rows=rows,
        )

    def _end(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        """After a forward pass: see that every site spoke, and file the order."""
        order = self._walk.order
        if self._out is None:
            if order is not None:
                order.forget_forward()
            return
        self._walk.receiver.check()
        if order is not None:
            finish(self._walk.device)  # or the seconds would be those of queueing the pass
            order.end_forward(
                phase="prefill" if self._n_forwards == 1 else "decode",
                examples=[
                    e for e, done in zip(self._examples, self._done, strict=True) if not done
                ],
                n_tokens=self._n_new_rows,
                seconds=time.perf_counter() - self._clock,
            )

    def _see(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Keep the model's own log-probabilities of the token to come."""
        if self._out is not None and self._walk.receiver.wants("token_logprob"):
            self._logprobs = torch.log_softmax(logits.float(), dim=-1)
        return logits

    def _write_logprobs(self, alive: Array) -> None:
        if self._logprobs is not None and self._out is not None:
            fed = torch.tensor([self._fed[p][-1] for p in alive], device=self._logprobs.device)
            rows = torch.from_numpy(alive).to(self._logprobs.device)
            values = self._logprobs[rows, fed].cpu().numpy()
            numbers = [self._numbers[p] for p in alive]
            before = self._prompts.shape[1] + len(self._fed[alive[0]]) - 2
            self._append("token_logprob", values, numbers, before)

    def _append(self, ending: str, values: Array, numbers: Sequence[int], position: int) -> None:
        n_prompt = self._prompts.shape[1]
        self._walk.receiver.append(ending, values, numbers, position=position, n_prompt=n_prompt)

    def _stop(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Say which examples are done: those whose end-of-text token the model has read."""
        if self._settings.stop_at_eos and self._eos:
            for place, fed in enumerate(self._fed):
                self._done[place] |= bool(fed) and fed[-1] in self._eos
        return torch.from_numpy(self._done.copy()).to(ids.device)
