"""Generated tokens: let the model go on from each text, and record every token that went through.

Knows transformers' `generate`. Only prompts of the same length share a batch, so there is no
padding that could touch a value; each example draws from its own random numbers, so it gets in a
batch what it gets alone. A new token is recorded when the model reads it: one forward pass more
than `generate` would need, so that every token of the trace has a row at every site.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from probekit.capture.packing import KNOWN_NEXT, Batch, Rows, rows_at
from probekit.capture.shardwalk import Walk, finish
from probekit.capture.spool import Spool
from probekit.capture.transfer import RowSink
from probekit.config import GenerateConfig
from probekit.errors import CaptureError, ProbekitError
from probekit.inputs import ALONE, ONE_LENGTH, Budget, Choice, Examples
from probekit.models import out_of_memory
from probekit.store import FIRST, SHARDS_FOLDER, Named, ShardSpec, ShardTables, sealed_specs

Array = np.ndarray[Any, Any]


def shard_generator(path: Path) -> Callable[[Walk, ShardSpec], None]:
    """Give what generates the shards of a run one after another, in a folder that may hold some."""
    n_tokens = {spec.number: spec.n_tokens for spec in sealed_specs(path)}
    return partial(_generate_shard, n_tokens=n_tokens)


def _generate_shard(walk: Walk, shard: ShardSpec, *, n_tokens: dict[int, int]) -> None:
    """Go on from the texts of a shard and seal what the probes saw.

    Args:
        walk: what every shard shares.
        shard: as it was planned.
        n_tokens: of each sealed shard, by its number; this one's comes in.
    """
    plan, settings = walk.plan, walk.plan.config.generate
    assert plan.examples is not None and settings is not None
    begin, end = shard.first_example, shard.first_example + shard.n_examples
    n_prompt = plan.examples.n_tokens[begin:end]
    prompts = np.split(plan.examples.token_ids(begin, end), np.cumsum(n_prompt)[:-1])
    sequences: list[Array] = [np.empty(0)] * shard.n_examples
    times = _Times()
    specs = [site.spec for site in plan.sites]
    with Spool(walk.path / SHARDS_FOLDER, specs) as spool, walk.transfer.filling():
        for numbers in equal_lengths(
            n_prompt + settings.max_new_tokens, n_prompt, walk.budget, walk.company
        ):
            found = _generate(walk, shard, numbers, prompts, spool, times)
            for number, tokens in zip(numbers, found, strict=True):
                sequences[number] = tokens
        walk.transfer.drain()
        # Since 1.1 a shard counts its own tokens, so that shards can be made in any order.
        n_before = sum(n for number, n in n_tokens.items() if number < shard.number)
        first_token = n_before if walk.layout == FIRST else 0
        actual, tables = _tables(walk, shard, sequences, n_prompt, first_token)
        with walk.writer(actual, tables) as out:
            spool.copy_into(out)
            walk.seal(out, times.attributes())
    n_tokens[shard.number] = actual.n_tokens


def equal_lengths(
    n_tokens: Array, n_prompt: Array, budget: Budget, company: str = ONE_LENGTH
) -> Iterator[Array]:
    """Group examples whose prompts have the same length, under a budget of tokens."""
    for length in np.unique(n_prompt)[::-1]:
        alike = np.flatnonzero(n_prompt == length)
        while len(alike):
            size = 1 if company == ALONE else budget.examples(int(n_tokens[alike[0]]))
            yield alike[:size]
            alike = alike[size:]


class _Times:
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
        self._n_compared += len(first)
        self._n_same += sum(np.array_equal(a, b) for a, b in zip(first, second, strict=True))

    def attributes(self) -> dict[str, Any]:
        compared = {"generate_compared": self._n_compared, "generate_same": self._n_same}
        return {**self._seconds, **(compared if self._n_compared else {})}


def _generate(
    walk: Walk,
    shard: ShardSpec,
    numbers: Array,
    prompts: Sequence[Array],
    out: RowSink,
    times: _Times,
) -> list[Array]:
    """Generate from a batch of equal-length prompts; give each example's tokens, prompt first."""
    settings = walk.plan.config.generate
    assert settings is not None
    batch = np.stack([prompts[n] for n in numbers]).astype(np.int64)
    recorded = _Pass(walk, shard, numbers, batch, out)
    passes = [(recorded, settings.use_cache is not False)]
    if settings.use_cache == "both":  # timed without recording, or the cache would pay for the disk
        passes += [(_Pass(walk, shard, numbers, batch, None), cached) for cached in (True, False)]
    seconds: dict[bool, float] = {}
    for one, cached in passes:
        took = one.run(use_cache=cached)
        if took is None:
            width = batch.shape[1] + settings.max_new_tokens
            parts = walk.split(numbers, width, out)
            found = [_generate(walk, shard, part, prompts, out, times) for part in parts]
            return [tokens for part in found for tokens in part]
        seconds[cached] = took
    walk.keep_batch()
    tokens = recorded.tokens()
    times.add(seconds)
    if settings.use_cache == "both":
        times.compare(tokens, passes[-1][0].tokens())
    walk.meter.advance(len(numbers), sum(len(t) for t in tokens), walk.receiver.n_bytes)
    return tokens


class _Pass:
    """One run of `generate` over a batch: watches its forward passes and tells when to stop."""

    def __init__(
        self, walk: Walk, shard: ShardSpec, numbers: Array, prompts: Array, out: RowSink | None
    ) -> None:
        self._walk, self._out = walk, out  # without `out` nothing is recorded
        self._settings = walk.plan.config.generate
        self._numbers = tuple(int(n) for n in numbers)
        self._examples = [shard.first_example + n for n in self._numbers]
        self._prompts = prompts
        self._fed: list[list[int]] = [[] for _ in numbers]  # new tokens the model has read
        self._done = np.zeros(len(numbers), dtype=bool)
        self._n_forwards = 0
        self._logprobs: torch.Tensor | None = None  # of the token to come, [batch, d_vocab]
        self._eos = _eos_ids(walk.model)
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
        assert settings is not None
        ids = torch.from_numpy(self._prompts).to(self._walk.device)
        begin = time.perf_counter()
        with ExitStack() as stack:
            stack.enter_context(_own_defaults(model))
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
                    logits_processor=LogitsProcessorList([self._see, *_choosers(self)]),
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

    @property
    def settings(self) -> GenerateConfig:
        """How tokens are chosen."""
        assert self._settings is not None
        return self._settings

    def generators(self) -> list[torch.Generator]:
        """Give each example its own source of random numbers, on the CPU on every device."""
        made = []
        for example in self._examples:
            generator = torch.Generator()
            # torch takes only 32 bits of a seed on the CPU, so the two numbers are mixed first.
            mixed = np.random.SeedSequence((self.settings.seed, example)).generate_state(1)
            generator.manual_seed(int(mixed[0]))
            made.append(generator)
        return made

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
        if self.settings.stop_at_eos and self._eos:
            for place, fed in enumerate(self._fed):
                self._done[place] |= bool(fed) and fed[-1] in self._eos
        return torch.from_numpy(self._done.copy()).to(ids.device)


def _choosers(generating: _Pass) -> list[Any]:
    """Give the logits processors after which the largest logit is the token of the strategy."""
    settings = generating.settings
    noise = [] if settings.strategy == "greedy" else [_gumbel(generating.generators())]
    return [*processors(settings), *noise]


def processors(settings: GenerateConfig) -> list[Any]:
    """Give what changes the logits before a token is chosen, in the order of transformers."""
    found: list[Any] = []
    if settings.repetition_penalty is not None:
        found.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.no_repeat_ngram_size is not None:
        found.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
    if settings.strategy == "greedy":
        return found
    found.append(TemperatureLogitsWarper(settings.temperature))
    top_k = 50 if settings.strategy == "top_k" and settings.top_k is None else settings.top_k
    if top_k is not None:
        found.append(TopKLogitsWarper(top_k))
    top_p = 0.9 if settings.strategy == "top_p" and settings.top_p is None else settings.top_p
    if top_p is not None:
        found.append(TopPLogitsWarper(top_p))
    if settings.min_p is not None:
        found.append(MinPLogitsWarper(settings.min_p))
    return found


def _gumbel(generators: list[torch.Generator]) -> Any:
    """Add Gumbel noise: the largest of logits + noise is a draw from their softmax.

    https://arxiv.org/abs/1411.0030
    """

    def add(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        uniform = torch.stack([torch.rand(logits.shape[1], generator=g) for g in generators])
        noise = -torch.log(-torch.log(uniform.clamp(min=torch.finfo(torch.float32).tiny)))
        return logits + noise.to(logits.device)

    return add


def _eos_ids(model: Any) -> frozenset[int]:
    found = model.generation_config.eos_token_id
    if found is None:
        found = model.config.get_text_config().eos_token_id
    return frozenset([found] if isinstance(found, int) else found or ())


@contextmanager
def _own_defaults(model: Any) -> Iterator[None]:
    """Keep a checkpoint's own generation settings (sampling, end tokens, penalties) out of it."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _tables(
    walk: Walk,
    shard: ShardSpec,
    sequences: Sequence[Array],
    n_prompt: Array,
    first_token: int,
) -> tuple[ShardSpec, ShardTables]:
    """Say what the shard really holds, now that it is known."""
    examples = walk.plan.examples
    assert examples is not None  # a plan that runs has its inputs
    n_tokens = np.array([len(s) for s in sequences], dtype=np.int64)
    begin, end = shard.first_example, shard.first_example + shard.n_examples
    numbers = range(begin, end)
    steps = [np.maximum(np.arange(n) - p + 1, 0) for n, p in zip(n_tokens, n_prompt, strict=True)]
    choices = walk.plan.choices
    counts = choices.of_shard(shard, n_tokens, n_prompt)
    actual = replace(
        shard,
        first_token=first_token,
        n_tokens=int(n_tokens.sum()),
        n_rows={rows: int(n.sum()) for rows, n in counts.items()},
    )
    return actual, ShardTables.of_texts(
        ids=tuple(examples.id(n) for n in numbers),
        texts=tuple(examples.text(n) for n in numbers),
        n_tokens=n_tokens,
        token_ids=np.concatenate(sequences),
        choices=choices.tokens(actual, n_tokens, n_prompt),
        counts=counts,
        users=examples.columns(begin, end),
        of_examples=examples.pieces(begin, end),
        step=np.concatenate(steps),
        **_spans(examples.spans(begin, end), n_prompt, n_tokens),
        **_chats(examples, begin, n_prompt, n_tokens),
    )


def _chats(
    examples: Examples, begin: int, n_prompt: Array, n_tokens: Array
) -> dict[str, Array | Named]:
    """Say whose tokens are; what is generated is of the turn that a chat leaves open."""
    of_prompts = examples.chat_columns(begin, begin + len(n_tokens))
    if not of_prompts:
        return {}
    is_prompt = np.concatenate([np.arange(n) < p for n, p in zip(n_tokens, n_prompt, strict=True)])
    ends = [examples.goes_on(begin + n) for n in range(len(n_tokens))]
    found: dict[str, Array | Named] = {}
    for at, (name, values) in enumerate(of_prompts.items()):
        codes = values.codes if isinstance(values, Named) else values
        every = np.repeat(np.array([end[at] for end in ends], dtype=codes.dtype), n_tokens)
        every[is_prompt] = codes
        found[name] = replace(values, codes=every) if isinstance(values, Named) else every
    return found


def _spans(of_prompts: Mapping[str, Array], n_prompt: Array, n_tokens: Array) -> dict[str, Array]:
    """Give the characters that tokens cover; what is generated covers none of the text, -1."""
    is_prompt = np.concatenate([np.arange(n) < p for n, p in zip(n_tokens, n_prompt, strict=True)])
    found = {}
    for name, values in of_prompts.items():
        found[name] = np.full(len(is_prompt), -1, dtype=np.int32)
        found[name][is_prompt] = values
    return found
