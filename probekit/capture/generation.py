"""Generated tokens: let the model go on from each text, and record every token that went through.

Knows the shard: which prompts share a batch, and what its file says in the end. Only prompts of the
same length do, so there is no padding that could touch a value; each example draws from its own
random numbers, so it gets in a batch what it gets alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from probekit.capture.rows import RowSink, Spool
from probekit.capture.shardwalk import Walk
from probekit.capture.stepwise import Steps, Times
from probekit.inputs import shards
from probekit.store import FIRST, SHARDS_FOLDER, Format, ShardSpec, sealed_specs

Array = np.ndarray[Any, Any]


def shard_generator(path: Path, layout: Format) -> Callable[[Walk, ShardSpec], None]:
    """Give what generates the shards of a run one after another, in a folder that may hold some."""
    # Since 1.1 a shard counts its own tokens, so that shards can be made in any order.
    before = sealed_specs(path) if layout == FIRST else ()
    n_tokens = {spec.number: spec.n_tokens for spec in before}
    return partial(_generate_shard, n_tokens=n_tokens)


def _generate_shard(walk: Walk, shard: ShardSpec, *, n_tokens: dict[int, int]) -> None:
    """Go on from the texts of a shard and seal what the probes saw.

    Args:
        walk: what every shard shares.
        shard: as it was planned.
        n_tokens: of each sealed shard, by its number, where those before are counted; this one's
            comes in.
    """
    plan, settings = walk.plan, walk.plan.config.generate
    assert plan.examples is not None and settings is not None
    begin, end = shard.first_example, shard.first_example + shard.n_examples
    n_prompt = plan.examples.n_tokens[begin:end]
    prompts = np.split(plan.examples.token_ids(begin, end), np.cumsum(n_prompt)[:-1])
    sequences: list[Array] = [np.empty(0)] * shard.n_examples
    times = Times()
    specs = [site.spec for site in plan.sites]
    with Spool(walk.path / SHARDS_FOLDER, specs) as spool, walk.transfer.filling():
        for numbers in shards.equal_lengths(
            n_prompt + settings.max_new_tokens, n_prompt, walk.budget, walk.company
        ):
            found = _generate(walk, shard, numbers, prompts, spool, times)
            for number, tokens in zip(numbers, found, strict=True):
                sequences[number] = tokens
        walk.transfer.drain()
        n_before = sum(n for number, n in n_tokens.items() if number < shard.number)
        first_token = n_before if walk.layout == FIRST else 0
        actual, tables = shards.grown(
            plan.examples, shard, sequences, plan.choices, first_token=first_token
        )
        with walk.writer(actual, tables) as out:
            spool.copy_into(out)
            walk.seal(out, times.attributes())
    n_tokens[shard.number] = actual.n_tokens


def _generate(
    walk: Walk,
    shard: ShardSpec,
    numbers: Array,
    prompts: Sequence[Array],
    out: RowSink,
    times: Times,
) -> list[Array]:
    """Generate from a batch of equal-length prompts; give each example's tokens, prompt first."""
    settings = walk.plan.config.generate
    assert settings is not None
    batch = np.stack([prompts[n] for n in numbers]).astype(np.int64)
    recorded = Steps(walk, shard, numbers, batch, out)
    passes = [(recorded, settings.use_cache is not False)]
    if settings.use_cache == "both":  # timed without recording, or the cache would pay for the disk
        passes += [(Steps(walk, shard, numbers, batch, None), cached) for cached in (True, False)]
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
