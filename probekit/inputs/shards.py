"""Examples to shards, and a shard's examples to token batches.

Knows counts and lengths, also of what a model has gone on from; nothing of files or models. Which
examples lie in which shard follows from the config alone; how they are batched is free, since every
row has its place beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from probekit.inputs.choosing import NO_SPOTS, Choices
from probekit.inputs.examples import Examples
from probekit.store import Named, ShardSpec, ShardTables, SiteSpec

Array = np.ndarray[Any, Any]

# How many tokens of padding cost as much as one more batch, by measure on a CPU (RESULTS.md); the
# other is an estimate from the launches of a dozen layers.
_A_BATCH_COSTS: Mapping[str, int] = {"cpu": 128}
_A_LAUNCH_COSTS = 2048

# Which texts may share a batch, where a model gives a row other values in other company.
ANY_LENGTHS, ONE_LENGTH, ALONE = "any lengths", "one length", "alone"

# What an open shard holds in memory besides rows: in all, of a token, of an example and its two
# strings' headers, and of its checksum at a site.
_SAID_BYTES = 64 << 20
_TOKEN_BYTES, _EXAMPLE_BYTES, _SUM_BYTES = 24, 256, 16


def split(
    n_tokens: Array,
    sites: Sequence[SiteSpec],
    shard_bytes: int,
    string_bytes: Array | int = 0,
    n_prompt: Array | None = None,
    choices: Choices = NO_SPOTS,
    together: int = 1,
) -> tuple[ShardSpec, ...]:
    """Cut examples into shards.

    Args:
        n_tokens: of each example, int64 `[example]`.
        sites: that rows are kept of.
        shard_bytes: of rows in a shard. What is said of its examples and tokens lies in memory
            while a shard is open, so small rows make no shard of more than 64 MiB of that.
        string_bytes: of each example's text and id.
        n_prompt: of each example, the tokens before the first generated one; None for all.
        choices: of positions.
        together: so many examples after another lie in one shard.
    """
    bytes_by_rows: dict[str, int] = {}
    for spec in sites:
        bytes_by_rows[spec.rows] = bytes_by_rows.get(spec.rows, 0) + spec.row_bytes
    counts = {rows: choices.counts(rows, n_tokens, n_prompt) for rows in bytes_by_rows}
    example_bytes = sum(
        (counts[rows] * size for rows, size in bytes_by_rows.items()), np.zeros_like(n_tokens)
    )
    said_bytes = n_tokens * _TOKEN_BYTES + len(sites) * _SUM_BYTES + _EXAMPLE_BYTES + string_bytes
    limits = ((np.cumsum(example_bytes), shard_bytes), (np.cumsum(said_bytes), _SAID_BYTES))
    last_token = np.cumsum(n_tokens)
    shards: list[ShardSpec] = []
    begin = 0
    while begin < len(n_tokens):
        end = min(_fitting(ends, begin, most) for ends, most in limits)
        end = max(begin + together, end - end % together)
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


def tables(examples: Examples, shard: ShardSpec, choices: Choices = NO_SPOTS) -> ShardTables:
    """Collect what a shard says of its examples and tokens."""
    begin, end = shard.first_example, shard.first_example + shard.n_examples
    n_tokens = examples.n_tokens[begin:end]
    return ShardTables.of_texts(
        ids=tuple(examples.id(e) for e in range(begin, end)),
        texts=tuple(examples.text(e) for e in range(begin, end)),
        n_tokens=n_tokens,
        token_ids=examples.token_ids(begin, end),
        choices=choices.tokens(shard, n_tokens),
        counts=choices.of_shard(shard, n_tokens),
        users=examples.columns(begin, end),
        of_examples=examples.places(begin, end) | examples.pieces(begin, end),
        **examples.spans(begin, end),
        **examples.chat_columns(begin, end),
        **examples.document_positions(begin, end),
    )


def grown(
    examples: Examples,
    shard: ShardSpec,
    sequences: Sequence[Array],
    choices: Choices,
    *,
    first_token: int = 0,
    scores: Array | None = None,
) -> tuple[ShardSpec, ShardTables]:
    """Say what a shard holds whose examples a model has gone on from, now that it is known.

    Args:
        examples: of the run, as far as they were given.
        shard: as it was planned.
        sequences: of each example its tokens, what was given first, int32 `[token]`.
        choices: of positions.
        first_token: tokens of all earlier shards, or 0.
        scores: of each example, where a search has ranked them, `[example]`.

    Returns:
        The shard with the rows that there are, and what it says of them.
    """
    begin, end = shard.first_example, shard.first_example + shard.n_examples
    n_prompt = examples.n_tokens[begin:end]
    n_tokens = np.array([len(s) for s in sequences], dtype=np.int64)
    firsts = np.cumsum(n_tokens) - n_tokens
    step = np.arange(n_tokens.sum()) - np.repeat(firsts + n_prompt - 1, n_tokens)
    counts = choices.of_shard(shard, n_tokens, n_prompt)
    actual = replace(
        shard,
        first_token=first_token,
        n_tokens=int(n_tokens.sum()),
        n_rows={rows: int(n.sum()) for rows, n in counts.items()},
    )
    more = {} if scores is None else {"score": scores}
    return actual, ShardTables.of_texts(
        ids=tuple(examples.id(n) for n in range(begin, end)),
        texts=tuple(examples.text(n) for n in range(begin, end)),
        n_tokens=n_tokens,
        token_ids=np.concatenate(sequences),
        choices=choices.tokens(actual, n_tokens, n_prompt),
        counts=counts,
        users=examples.columns(begin, end),
        of_examples=examples.places(begin, end) | more,
        step=np.maximum(step, 0),
        **_grown_spans(examples.spans(begin, end), step < 1),
        **_grown_chats(examples, shard, n_tokens, step < 1),
    )


def _grown_spans(of_prompts: Mapping[str, Array], is_prompt: Array) -> dict[str, Array]:
    """Give the characters that tokens cover; what is generated covers none of the text, -1."""
    found = {}
    for name, values in of_prompts.items():
        found[name] = np.full(len(is_prompt), -1, dtype=np.int32)
        found[name][is_prompt] = values
    return found


def _grown_chats(
    examples: Examples, shard: ShardSpec, n_tokens: Array, is_prompt: Array
) -> dict[str, Array | Named]:
    """Say whose tokens are; what is generated is of the turn that a chat leaves open."""
    begin, end = shard.first_example, shard.first_example + shard.n_examples
    of_prompts = examples.chat_columns(begin, end)
    if not of_prompts:
        return {}
    go_on = [examples.goes_on(n) for n in range(begin, end)]
    found: dict[str, Array | Named] = {}
    for at, (name, values) in enumerate(of_prompts.items()):
        codes = values.codes if isinstance(values, Named) else values
        every = np.repeat(np.array([one[at] for one in go_on], dtype=codes.dtype), n_tokens)
        every[is_prompt] = codes
        found[name] = replace(values, codes=every) if isinstance(values, Named) else every
    return found


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
