"""GenerateConfig: what may be written of how the model goes on from a text.

Knows each key's type, default and meaning, and which of them a strategy uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import (
    Field,
)

from probekit.config.fields import (
    Both,
    Count,
    Positive,
    Seed,
    Share,
    Temperature,
)
from probekit.config.keyplaces import KeyPath
from probekit.config.section import (
    Deciding,
    Part,
)

_PENALTIES = ("repetition_penalty", "no_repeat_ngram_size")
_SETTINGS = ("temperature", "top_k", "top_p", "min_p", *_PENALTIES, "seed")
_USED: Mapping[str, tuple[str, ...]] = {  # by strategy
    "greedy": _PENALTIES,
    "sample": _SETTINGS,
    "top_k": ("temperature", "top_k", "seed"),
    "top_p": ("temperature", "top_p", "seed"),
}


class GenerateConfig(Part):
    """Let the model go on from each text, and record that too."""

    max_new_tokens: Deciding[Count] = Field(description="Most new tokens of an example.")
    strategy: Deciding[Literal["greedy", "sample", "top_k", "top_p"]] = Field(
        "greedy", description="How the next token is chosen."
    )
    temperature: Deciding[Temperature] = Field(
        1.0, description="Divides the logits, unless greedy."
    )
    top_k: Deciding[Count | None] = Field(
        None, description="Draw among so many tokens; null: 50 for strategy: top_k, else all."
    )
    top_p: Deciding[Share | None] = Field(
        None,
        description="Draw among the likeliest tokens of this probability together; null: 0.9 for "
        "strategy: top_p, else all.",
    )
    min_p: Deciding[Share | None] = Field(
        None, description="Draw among tokens at least so likely, times the likeliest one."
    )
    repetition_penalty: Deciding[Positive | None] = Field(
        None, description="Over 1: makes tokens of the text so far less likely."
    )
    no_repeat_ngram_size: Deciding[Count | None] = Field(
        None, description="No sequence of so many tokens occurs twice."
    )
    samples: Deciding[Count] = Field(
        1,
        description="Completions of each prompt, each an example with random numbers of its own.",
    )
    beams: Deciding[Count] = Field(
        1,
        description="Search with so many beams and keep all sequences that it returns, each an "
        "example; what is recorded is a second reading of each.",
    )
    seed: Deciding[Seed] = Field(0, description="Seed of the draws; each example draws for itself.")
    stop_at_eos: Deciding[bool] = Field(
        True, description="End an example at its end-of-text token."
    )
    use_cache: Deciding[Both] = Field(
        True,
        description="false: run the whole text again for every token; both: record with the "
        "cache, then time the other way too and check that it gives the same tokens.",
    )

    @property
    def n_each(self) -> int:
        """Examples of each prompt."""
        return self.samples * self.beams

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str | KeyPath, str]]:
        strategy = given.get("strategy", "greedy")
        samples, beams = (_several(given.get(key)) for key in ("samples", "beams"))
        if samples and beams:
            yield (
                "samples",
                f"given {samples} beside beams: {beams}; a beam search draws nothing: leave out "
                "one of them",
            )
        elif samples and strategy == "greedy":
            yield (
                "samples",
                f"given {samples} with strategy: greedy, where all {samples} would be the same; "
                "leave it out, or write strategy: sample",
            )
        elif beams and strategy != "greedy":
            yield (
                "beams",
                f"given {beams} with strategy: {strategy}, and a beam search draws nothing; leave "
                "out one of them, or write samples instead of beams",
            )

    @property
    def combines(self) -> bool:
        """Whether settings join that once each had a strategy of its own (since 1.1)."""
        return self.strategy == "sample" and (self.top_k is not None or self.top_p is not None)

    @property
    def unused(self) -> dict[str, str]:
        """Settings that are written and that the strategy does not use, with what to do."""
        found = {}
        for key in set(_SETTINGS) - set(_USED[self.strategy]):
            if getattr(self, key) != type(self).model_fields[key].get_default():
                user = next(name for name in ("sample", *_USED) if key in _USED[name])
                found[key] = (
                    "a beam search draws nothing, and does not use it; leave it out"
                    if self.beams > 1
                    else f"the strategy {self.strategy} does not use it; leave it out, or write "
                    f"strategy: {user}"
                )
        return found

    def _is_default(self, key: str) -> bool:
        # What stood here before null did, so that a run begun then can go on.
        before = {"top_k": 50, "top_p": 0.9} if self.strategy != "sample" else {}
        return super()._is_default(key) or before.get(key) == getattr(self, key)


def _several(given: Any) -> int | None:
    """Give a count that is more than one; None for what is not, or is no count."""
    is_count = isinstance(given, int) and not isinstance(given, bool)
    return given if is_count and given > 1 else None
