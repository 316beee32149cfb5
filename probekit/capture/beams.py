"""Beams: search for likely sequences, then read each of them again to record it.

Knows transformers' beam search. While it searches nothing is recorded: beams fall away and change
places, and what a pass computes is of no sequence yet. A sequence that it returns is read in one
forward pass, as a text is, and its shard is laid out when all of them are known.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from probekit.capture.shardwalk import Walk, forward_texts
from probekit.capture.stepwise import Times
from probekit.capture.strategies import end_ids, own_defaults
from probekit.config import GenerateConfig
from probekit.errors import CaptureError, ProbekitError
from probekit.inputs import shards
from probekit.models import out_of_memory
from probekit.store import ShardSpec
from probekit.wording import by_count, counted

Array = np.ndarray[Any, Any]

_NEVER = -1e8  # transformers gives -1e9 and less to what is no sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a search has returned of one prompt, the best first."""

    sequences: tuple[Array, ...]  # the prompt first, int32 [token]
    scores: Array  # float32 [sequence]


def search_shard(walk: Walk, shard: ShardSpec) -> None:
    """Search on from the prompts of a shard, read what was found, and seal what the probes saw."""
    plan = walk.plan
    assert plan.examples is not None  # a plan that runs has its inputs
    times = Times()
    found = _search_all(walk, shard, times)
    actual, tables = shards.grown(
        plan.examples,
        shard,
        [sequence for one in found for sequence in one.sequences],
        plan.choices,
        scores=np.concatenate([one.scores for one in found]),
    )
    begin, end = shard.first_example, shard.first_example + shard.n_examples
    n_prompt = plan.examples.n_tokens[begin:end]
    forward_texts(walk, actual, tables, n_prompt=n_prompt, times=times.attributes())


def _search_all(walk: Walk, shard: ShardSpec, times: Times) -> list[_Found]:
    examples, settings = walk.plan.examples, walk.plan.config.generate
    assert examples is not None and settings is not None
    first, _ = examples.place(shard.first_example)  # a shard holds whole prompts
    last = first + shard.n_examples // settings.beams
    n_prompt = examples.prompts.n_tokens[first:last]
    prompts = np.split(examples.prompts.token_ids(first, last), np.cumsum(n_prompt)[:-1])
    n_held = (n_prompt + settings.max_new_tokens) * settings.beams
    found: dict[int, _Found] = {}
    for numbers in shards.equal_lengths(n_held, n_prompt, walk.budget, walk.company):
        batch = np.stack([prompts[n] for n in numbers]).astype(np.int64)
        found |= zip(numbers.tolist(), _search(walk, batch, settings, times), strict=True)
    return [found[number] for number in range(len(prompts))]


def _search(walk: Walk, prompts: Array, settings: GenerateConfig, times: Times) -> list[_Found]:
    """Search on from prompts of one length, `[prompt, token]`: from all together if they fit."""
    ways = (True, False) if settings.use_cache == "both" else (settings.use_cache,)
    seconds: dict[bool, float] = {}
    results = []
    for cached in ways:
        begin = time.perf_counter()
        found = _returned(walk, prompts, settings, use_cache=bool(cached))
        if found is None:
            _make_smaller(walk, prompts, settings)
            halves = np.array_split(prompts, 2)
            return [one for half in halves for one in _search(walk, half, settings, times)]
        seconds[bool(cached)] = time.perf_counter() - begin
        results.append(found)
    times.add(seconds)
    if len(results) > 1:
        times.compare(*([s for one in found for s in one.sequences] for found in results))
    return results[0]


def _make_smaller(walk: Walk, prompts: Array, settings: GenerateConfig) -> None:
    """Let fewer prompts share a batch from now on.

    Raises:
        CaptureError: if it was a single one.
    """
    n_prompts, width = prompts.shape
    n_tokens = width + settings.max_new_tokens
    if n_prompts == 1:
        raise CaptureError(
            f"{counted(settings.beams, 'beam')} of {counted(n_tokens, 'token')} are too large for "
            f"the memory of {walk.device}; set generate.beams, generate.max_new_tokens or "
            "inputs.max_tokens lower, or a 16-bit model.dtype"
        )
    walk.split(np.arange(n_prompts * settings.beams), n_tokens, None)


def _returned(
    walk: Walk, prompts: Array, settings: GenerateConfig, *, use_cache: bool
) -> list[_Found] | None:
    """Give what `generate` returns; None where the device's memory was too small."""
    model: Any = walk.model
    ends = sorted(end_ids(model)) if settings.stop_at_eos else []
    ids = torch.from_numpy(prompts).to(walk.device)
    with ExitStack() as stack:
        stack.enter_context(own_defaults(model))
        stack.enter_context(walk.receiver.muted(True))
        if (order := walk.order) is not None:
            stack.callback(model.register_forward_hook(lambda *_: order.forget_forward()).remove)
        walk.fresh.put_back()
        try:
            made = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=GenerationConfig(
                    max_new_tokens=settings.max_new_tokens,
                    num_beams=settings.beams,
                    num_return_sequences=settings.beams,
                    do_sample=False,
                    repetition_penalty=settings.repetition_penalty,
                    no_repeat_ngram_size=settings.no_repeat_ngram_size,
                    eos_token_id=ends or None,
                    pad_token_id=0,
                    use_cache=use_cache,
                    return_dict_in_generate=True,
                    output_scores=True,  # or it tells no sequence's score
                ),
            )
        except ProbekitError:
            raise
        except Exception as error:
            if out_of_memory(error):
                return None
            # Whatever the model's own code raises: said once, with the batch it happened on.
            raise CaptureError(
                f"the model failed while it searched on from {list(prompts.shape)} "
                f"[prompt, token] with {counted(settings.beams, 'beam')}: "
                f"{type(error).__name__}: {error}"
            ) from error
    n_prompts, width = prompts.shape
    sequences = made.sequences.cpu().numpy().reshape(n_prompts, settings.beams, -1)
    scores = made.sequences_scores.float().cpu().numpy().reshape(n_prompts, settings.beams)
    _check_scores(scores, prompts, settings)
    return [
        _Found(sequences=tuple(_ended(s, width, ends) for s in some), scores=score)
        for some, score in zip(sequences, scores, strict=True)
    ]


def _check_scores(scores: Array, prompts: Array, settings: GenerateConfig) -> None:
    n_found = (scores > _NEVER).sum(axis=1)
    if (short := np.flatnonzero(n_found < settings.beams)).size:
        n = int(n_found[short[0]])
        begins = ", ".join(map(str, prompts[short[0]][:8]))
        raise CaptureError(
            f"the search found {counted(n, 'sequence', of=settings.beams)} behind the prompt of "
            f"tokens {begins}{', ...' if prompts.shape[1] > 8 else ''}: there "
            f"{by_count(n, 'is', 'are')} no more; set generate.beams: {max(1, n)}, or allow "
            "repetitions (generate.no_repeat_ngram_size)"
        )


def _ended(sequence: Array, n_prompt: int, ends: Sequence[int]) -> Array:
    """Cut a sequence behind its end-of-text token: what follows fills it up to the longest."""
    stops = np.flatnonzero(np.isin(sequence[n_prompt:], ends))
    end = n_prompt + int(stops[0]) + 1 if len(stops) else len(sequence)
    return sequence[:end].astype("<i4")
