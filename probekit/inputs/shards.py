"""Examples to shards, and a shard's examples to token batches.

Knows counts and lengths; nothing of files or models. Which examples lie in which shard follows
from the config alone; how they are batched is free, since every row has its place beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from probekit.inputs.examples import Examples
from probekit.store import ALL_TOKENS, PER_EXAMPLE, ShardSpec, ShardTables, SiteSpec, is_choice

Array = np.ndarray[Any, Any]

# How many tokens of padding cost as much as one more batch, by measure on a CPU (RESULTS.md); the
# other is an estimate from the launches of a dozen layers.
_A_BATCH_COSTS: Mapping[str, int] = {"cpu": 128}
_A_LAUNCH_COSTS = 2048

PROMPT, GENERATED = "prompt", "generated"  # tokens of an example that was gone on from

# Which texts may share a batch, where a model gives a row other values in other company.
ANY_LENGTHS, ONE_LENGTH, ALONE = "any lengths", "one length", "alone"

# What an open shard holds in memory besides rows: in all, of a token, of an example and its two
# strings' headers, and of its checksum at a site.
_SAID_BYTES = 64 << 20
_TOKEN_BYTES, _EXAMPLE_BYTES, _SUM_BYTES = 24, 256, 16


@dataclass(frozen=True, slots=True)
class Choice:
    """Which positions of an example a probe keeps; `name` is the config's word for it."""

    name: str  # "all", "prompt", "generated", "first", "last", "0,-1", "2:10"

    @classmethod
    def of(cls, given: str | int | Sequence[int]) -> Choice:
        """Build from a config's `positions`."""
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
                raise IndexError(f"position {number} does not exist: it has {n_prompt} tokens")
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


def split(
    n_tokens: Array,
    sites: Sequence[SiteSpec],
    shard_bytes: int,
    string_bytes: Array | int = 0,
    n_prompt: Array | None = None,
) -> tuple[ShardSpec, ...]:
    """Cut examples into shards.

    Args:
        n_tokens: of each example, int64 `[example]`.
        sites: that rows are kept of.
        shard_bytes: of rows in a shard. What is said of its examples and tokens lies in memory
            while a shard is open, so small rows make no shard of more than 64 MiB of that.
        string_bytes: of each example's text and id.
        n_prompt: of each example, the tokens before the first generated one; None for all.
    """
    bytes_by_rows: dict[str, int] = {}
    for spec in sites:
        bytes_by_rows[spec.rows] = bytes_by_rows.get(spec.rows, 0) + spec.row_bytes
    counts = {rows: count_rows(n_tokens, rows, n_prompt) for rows in bytes_by_rows}
    example_bytes = sum(
        (counts[rows] * size for rows, size in bytes_by_rows.items()), np.zeros_like(n_tokens)
    )
    said_bytes = n_tokens * _TOKEN_BYTES + len(sites) * _SUM_BYTES + _EXAMPLE_BYTES + string_bytes
    limits = ((np.cumsum(example_bytes), shard_bytes), (np.cumsum(said_bytes), _SAID_BYTES))
    last_token = np.cumsum(n_tokens)
    shards: list[ShardSpec] = []
    begin = 0
    while begin < len(n_tokens):
        end = max(begin + 1, min(_fitting(ends, begin, most) for ends, most in limits))
        shards.append(
            ShardSpec(
                number=len(shards),
                first_example=begin,
                n_examples=end - begin,
                first_token=int(last_token[begin] - n_tokens[begin]),
                n_tokens=int(n_tokens[begin:end].sum()),
                n_rows={rows: int(c[begin:end].sum()) for rows, c in counts.items()},
            )
        )
        begin = end
    return tuple(shards)


def _fitting(ends: Array, begin: int, most: int) -> int:
    """Say where a piece from `begin` on of at most `most` ends, by the sums up to each element."""
    before = int(ends[begin - 1]) if begin else 0
    return int(np.searchsorted(ends, before + most, side="right"))


def tables(examples: Examples, shard: ShardSpec) -> ShardTables:
    """Collect what a shard says of its examples and tokens."""
    begin, end = shard.first_example, shard.first_example + shard.n_examples
    n_tokens = examples.n_tokens[begin:end]
    return ShardTables.of_texts(
        ids=tuple(examples.id(e) for e in range(begin, end)),
        texts=tuple(examples.text(e) for e in range(begin, end)),
        n_tokens=n_tokens,
        token_ids=examples.token_ids(begin, end),
        choices=choices(shard, n_tokens),
        counts={rows: count_rows(n_tokens, rows) for rows in shard.n_rows},
        users=examples.columns(begin, end),
        **examples.spans(begin, end),
    )


def choices(
    shard: ShardSpec, n_tokens: Array, n_prompt: Array | None = None
) -> Mapping[str, Array]:
    """Say which tokens of the trace a shard's sites keep, by the sites' `rows`, int64 `[row]`."""
    firsts = shard.first_token + np.cumsum(n_tokens) - n_tokens
    prompts = n_tokens if n_prompt is None else n_prompt
    lengths = list(zip(firsts, n_tokens.tolist(), prompts.tolist(), strict=True))
    return {
        rows: np.concatenate([first + Choice(rows).positions(n, p) for first, n, p in lengths])
        for rows in shard.n_rows
        if is_choice(rows)
    }


@dataclass(slots=True)
class Budget:
    """How many padded tokens a batch may have; it shrinks when the device's memory is too small.

    Examples of other lengths fill a batch only while the padding costs no more than a batch of
    their own would: reading the weights once more, and on a GPU the launch of every kernel.
    """

    tokens: int
    padding: int | None = None  # most tokens of padding; None for whatever fits

    @classmethod
    def on(cls, device: str, tokens: int) -> Self:
        """Give the budget for a type of device, such as "cpu"."""
        return cls(tokens, _A_BATCH_COSTS.get(device, _A_LAUNCH_COSTS))

    def examples(self, n_tokens: int) -> int:
        """Say how many examples of so many tokens fit; one always does."""
        return max(1, self.tokens // n_tokens)


def batches(
    n_tokens: Array, budget: Budget, border: int | None = None, company: str = ANY_LENGTHS
) -> Iterator[Array]:
    """Group a shard's examples by length, longest first, under a budget of padded tokens.

    Longest first, so that a batch that does not fit the device shows itself at once.

    Args:
        n_tokens: of each example of the shard, int64 `[example]`.
        budget: of a batch.
        border: examples of more tokens share no batch with others.
        company: which texts may share a batch: `ANY_LENGTHS`, `ONE_LENGTH` or `ALONE`.

    Yields:
        Numbers within the shard, int64; one example longer than the budget makes a batch alone.
    """
    order = np.argsort(-n_tokens, kind="stable")
    begin = 0
    while begin < len(order):
        size = budget.examples(int(n_tokens[order[begin]]))
        if border is not None and n_tokens[order[begin]] > border:
            size = min(size, int((n_tokens[order[begin:]] > border).sum()))
        if company != ANY_LENGTHS:
            n_alike = int((n_tokens[order[begin:]] == n_tokens[order[begin]]).sum())
            size = 1 if company == ALONE else min(size, n_alike)
        if budget.padding is not None:
            lengths = n_tokens[order[begin : begin + size]]
            size = int(np.searchsorted(np.cumsum(lengths[0] - lengths), budget.padding, "right"))
        yield order[begin : begin + size]
        begin += size
