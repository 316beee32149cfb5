"""Choices of positions: which tokens of an example a probe keeps.

Knows words, numbers and slices, which look at how long an example is, and holds what was found of
spots, which look at what it says; how they are found is in spots.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from probekit.config import Where, deciding_keys
from probekit.store import ALL_TOKENS, PER_EXAMPLE, Pieces, ShardSpec, is_choice
from probekit.wording import counted

Array = np.ndarray[Any, Any]

PROMPT, GENERATED = "prompt", "generated"  # tokens of an example that was gone on from


@dataclass(frozen=True, slots=True)
class Choice:
    """Which positions of an example a probe keeps; `name` is the config's word for it."""

    name: str  # "all", "prompt", "generated", "first", "last", "0,-1", "2:10"; of a spot _name's

    @classmethod
    def of(cls, given: str | int | Sequence[int] | Where) -> Choice:
        """Build from a config's `positions`."""
        if isinstance(given, Where):
            return cls(_name(given))
        if isinstance(given, str):
            return cls(given)
        numbers = [given] if isinstance(given, int) else given
        return cls(",".join(str(n) for n in numbers))

    @property
    def spans_passes(self) -> bool:
        """Whether it keeps tokens that are generated: their rows come pass by pass."""
        return self.name in (ALL_TOKENS, GENERATED)

    def positions(self, n_tokens: int, n_prompt: int | None = None) -> Array:
        """Give the positions kept of an example of so many tokens, ascending, int64.

        Args:
            n_tokens: of the example.
            n_prompt: those before the first that was generated; None for all. Numbers, slices,
                `first` and `last` are counted in them.

        Raises:
            IndexError: if a position that was asked for by its number does not exist.
        """
        if self.name == ALL_TOKENS:
            return np.arange(n_tokens)
        n_prompt = n_tokens if n_prompt is None else n_prompt
        if self.name == GENERATED:
            return np.arange(n_prompt, n_tokens)
        if self.name == PROMPT:
            return np.arange(n_prompt)
        if ":" in self.name:
            parts = [int(p) if p else None for p in self.name.split(":")]
            return np.arange(n_prompt)[slice(*parts)]
        named = {"first": "0", "last": "-1"}.get(self.name, self.name)
        numbers = [int(p) for p in named.split(",")]
        for number in numbers:
            if not -n_prompt <= number < n_prompt:
                raise IndexError(
                    f"position {number} does not exist: it has {counted(n_prompt, 'token')}"
                )
        return np.unique([number % n_prompt for number in numbers])


def count_rows(n_tokens: Array, rows: str, n_prompt: Array | None = None) -> Array:
    """Count the rows each example gives to a site, by the site's `rows`, int64 `[example]`.

    Args:
        n_tokens: of each example, int64 `[example]`.
        rows: of the site.
        n_prompt: of each example, the tokens before the first generated one; None for all.
    """
    if rows == PER_EXAMPLE:
        return np.ones_like(n_tokens)
    if rows == ALL_TOKENS:
        return n_tokens
    n_prompt = n_tokens if n_prompt is None else n_prompt
    if rows == GENERATED:
        return n_tokens - n_prompt
    lengths, back = np.unique(n_prompt, return_inverse=True)
    counts = np.array([len(Choice(rows).positions(int(n))) for n in lengths])
    return counts[back]


def _name(spot: Where) -> str:
    """Name a spot as HDF5 and people can read it, equal ones alike: `match_Japan_0f3a9c`."""
    plain = json.dumps(deciding_keys(spot), sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(plain.encode()).hexdigest()[:6]
    words = re.sub(r"[^A-Za-z0-9]+", "_", str(spot)).strip("_")[:40]
    return f"{words}_{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What every choice of a run keeps of its examples."""

    found: Mapping[str, Pieces] = field(default_factory=dict)
    # by the name of a spot: positions of its tokens in each prompt of the run, ascending, int32
    n_each: int = 1  # examples of a prompt

    def each(self, n_completions: int) -> Choices:
        """Choose in so many examples of each prompt, one after another."""
        return replace(self, n_each=n_completions)

    def positions(
        self, choice: str, example: int, n_tokens: int, n_prompt: int | None = None
    ) -> Array:
        """Give the positions kept of an example, ascending, int64; see `Choice.positions`."""
        if choice in self.found:
            prompt = example // self.n_each
            return self.found[choice].piece(prompt, prompt + 1).astype(np.int64)
        return Choice(choice).positions(n_tokens, n_prompt)

    def counts(
        self, rows: str, n_tokens: Array, n_prompt: Array | None = None, first: int = 0
    ) -> Array:
        """Count the rows of some examples, from number `first` on; see `count_rows`."""
        if rows in self.found:
            prompts = np.arange(first, first + len(n_tokens)) // self.n_each
            ends = self.found[rows].ends
            return ends[prompts + 1] - ends[prompts]
        return count_rows(n_tokens, rows, n_prompt)

    def of_shard(
        self, shard: ShardSpec, n_tokens: Array, n_prompt: Array | None = None
    ) -> dict[str, Array]:
        """Count the rows of a shard's examples, by the sites' `rows`."""
        first = shard.first_example
        return {rows: self.counts(rows, n_tokens, n_prompt, first) for rows in shard.n_rows}

    def tokens(
        self, shard: ShardSpec, n_tokens: Array, n_prompt: Array | None = None
    ) -> Mapping[str, Array]:
        """Say which tokens of the trace a shard's sites keep, by their `rows`, int64 `[row]`."""
        firsts = shard.first_token + np.cumsum(n_tokens) - n_tokens
        prompts = n_tokens if n_prompt is None else n_prompt
        lengths = list(zip(firsts, n_tokens.tolist(), prompts.tolist(), strict=True))
        return {
            rows: np.concatenate(
                [
                    first + self.positions(rows, shard.first_example + number, n, prompt)
                    for number, (first, n, prompt) in enumerate(lengths)
                ]
            )
            for rows in shard.n_rows
            if is_choice(rows)
        }


NO_SPOTS = Choices()
