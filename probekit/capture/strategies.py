"""Strategies: what stands between a model's logits and the token that is taken.

Knows transformers' logits processors and their order, the random numbers of each example, and which
tokens end a text; runs no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from probekit.config import GenerateConfig


def choosers(settings: GenerateConfig, places: Iterable[tuple[int, int]]) -> list[Any]:
    """Give the logits processors after which the largest logit is the token of the strategy.

    Args:
        settings: how tokens are chosen.
        places: of each example of the batch, its prompt's number in the run, and its own among the
            completions of that prompt.
    """
    noise = [] if settings.strategy == "greedy" else [gumbel(generators(settings.seed, places))]
    return [*processors(settings), *noise]


def generators(seed: int, places: Iterable[tuple[int, int]]) -> list[torch.Generator]:
    """Give each example its own source of random numbers, on the CPU on every device."""
    made = []
    for prompt, sample in places:
        generator = torch.Generator()
        # torch takes only 32 bits of a seed on the CPU, so the numbers are mixed first. numpy fills
        # up with zeros: sample 0 draws what a run without samples draws.
        mixed = np.random.SeedSequence((seed, prompt, sample)).generate_state(1)
        generator.manual_seed(int(mixed[0]))
        made.append(generator)
    return made


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


def gumbel(generators: Sequence[torch.Generator]) -> Any:
    """Add Gumbel noise: the largest of logits + noise is a draw from their softmax.

    https://arxiv.org/abs/1411.0030
    """

    def add(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        uniform = torch.stack([torch.rand(logits.shape[1], generator=g) for g in generators])
        noise = -torch.log(-torch.log(uniform.clamp(min=torch.finfo(torch.float32).tiny)))
        return logits + noise.to(logits.device)

    return add


def end_ids(model: Any) -> frozenset[int]:
    """Give the tokens that end a text, as the checkpoint says."""
    found = model.generation_config.eos_token_id
    if found is None:
        found = model.config.get_text_config().eos_token_id
    return frozenset([found] if isinstance(found, int) else found or ())


@contextmanager
def own_defaults(model: Any) -> Iterator[None]:
    """Keep a checkpoint's own generation settings (sampling, end tokens, penalties) out of it."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
