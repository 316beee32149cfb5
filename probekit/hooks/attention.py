"""Attention scores and patterns, computed beside the kernel that hides them.

For the asked heads and queries only: `pattern = softmax(scores)`,
`scores = softcap(q k^T * scaling) + bias`, -inf where masked (https://arxiv.org/abs/1706.03762,
softcap: https://arxiv.org/abs/2408.00118).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from probekit.models.forward import AttentionCall
from probekit.planning import BLOCK_KINDS, take

_BLOCK_BYTES = 16 << 20  # float32 scores computed at once


def blocks(
    call: AttentionCall,
    kind: str,
    *,
    example: int,
    heads: Sequence[int],
    queries: torch.Tensor,
    n_keys: int,
) -> Iterator[torch.Tensor]:
    """Give `pattern`, `scores` or `sink` of one example, some queries at a time.

    Where a learned sink takes a share of attention, a pattern sums to what reaches tokens, and
    `sink` is the rest.

    Args:
        kind: "pattern", "scores" or "sink".
        example: its place in the batch.
        heads: which heads.
        queries: which of this call's positions, int64 `[query]`, on its device.
        n_keys: tokens of the example so far; keys behind them are padding. A sliding-window
            cache may hold only the last of them: the forgotten ones are masked.

    Yields:
        `[query, head, key]`, of `sink` `[query, head]`, in the dtype of the queries.
    """
    size = max(1, _BLOCK_BYTES // (4 * len(heads) * n_keys))
    for block in queries.split(size):
        if kind == "pattern" and call.weights is not None and call.options.get("s_aux") is None:
            rows = take(call.weights[example], 0, heads)[:, block, :n_keys]
        else:
            rows = _scores(call, example, heads, block, n_keys)
            if kind != "scores":
                rows, sink = _softmax(call, rows, heads)
            if kind == "sink":
                yield sink.transpose(0, 1).to(call.query.dtype)
                continue
        forgotten = n_keys - rows.shape[-1]
        if forgotten:
            fill = 0.0 if kind == "pattern" else -torch.inf
            rows = torch.nn.functional.pad(rows, (forgotten, 0), value=fill)
        yield rows.transpose(0, 1).to(call.query.dtype)


def whole(call: AttentionCall, kind: str) -> torch.Tensor:
    """Give any kind for the whole call: `[batch, head, query, key]` for pattern and scores."""
    if kind not in BLOCK_KINDS:
        return call.tensor(kind)
    n_batch, n_heads, n_queries, _ = call.query.shape
    everything = torch.arange(n_queries, device=call.query.device)
    rows = [
        torch.cat(
            tuple(
                blocks(
                    call,
                    kind,
                    example=example,
                    heads=range(n_heads),
                    queries=everything,
                    n_keys=call.key.shape[2],
                )
            )
        )
        for example in range(n_batch)
    ]
    return torch.stack(rows).transpose(1, 2)  # [batch, head, query, key], or without keys


def hides(
    call: AttentionCall, *, example: int, queries: torch.Tensor, keys: torch.Tensor, n_keys: int
) -> bool:
    """Say whether a call hides some keys of one example from all of the given queries.

    Args:
        call: of a kernel.
        example: its place in the batch.
        queries: which of this call's positions, int64 `[query]`, on its device.
        keys: which positions of the example so far, int64 `[key]`, on its device.
        n_keys: positions so far. A sliding-window cache may hold only the last of them.
    """
    n_heads, n_held = call.query.shape[1], min(n_keys, call.key.shape[2])
    keys = keys[keys >= n_keys - n_held] - (n_keys - n_held)
    if call.weights is not None:
        return not bool(call.weights[example][:, queries][..., keys].any())
    if call.mask is not None and call.mask.ndim == 2:
        return not bool(call.mask[example, keys].any())
    nothing = call.query.new_zeros((n_heads, len(queries), n_held), dtype=torch.float32)
    masked = _masked(call, nothing, example, range(n_heads), queries, n_held)
    return bool((masked[..., keys] == -torch.inf).all())


def _scores(
    call: AttentionCall, example: int, heads: Sequence[int], queries: torch.Tensor, n_keys: int
) -> torch.Tensor:
    """Compute `[head, query, key]` in float32; -inf where masked."""
    groups = call.query.shape[1] // call.key.shape[1]
    query = take(call.query[example], 0, heads)[:, queries].float()
    key = take(call.key[example], 0, [h // groups for h in heads])[:, :n_keys].float()
    scores = query @ key.transpose(1, 2) * call.scaling
    cap = call.options.get("softcap")
    # Older sdpa functions of transformers leave it away; newer ones refuse it before this.
    if cap is not None and call.kernel != "sdpa":
        scores = torch.tanh(scores / cap) * cap
    if (bias := call.options.get("position_bias")) is not None:
        scores += _part(bias, example, heads, queries, n_keys).float()
    return _masked(call, scores, example, heads, queries, n_keys)


def _masked(
    call: AttentionCall,
    scores: torch.Tensor,
    example: int,
    heads: Sequence[int],
    queries: torch.Tensor,
    n_keys: int,
) -> torch.Tensor:
    if call.mask is not None and call.mask.ndim == 4:
        mask = _part(call.mask, example, heads, queries, n_keys)
        if mask.dtype == torch.bool:
            return scores.masked_fill(~mask, -torch.inf)
        # Additive masks hide a key with their dtype's lowest number; a bias is far above it.
        hidden = mask <= torch.finfo(mask.dtype).min / 2
        return (scores + mask.float()).masked_fill(hidden, -torch.inf)
    return scores.masked_fill(_hidden(call, queries, n_keys), -torch.inf)


def _hidden(call: AttentionCall, queries: torch.Tensor, n_keys: int) -> torch.Tensor:
    """Say what a kernel hides on its own when it is given no mask, `[query, key]`."""
    n_queries, all_keys = call.query.shape[2], call.key.shape[2]
    keys = torch.arange(n_keys, device=queries.device)
    last = queries[:, None].expand(-1, n_keys)
    if "flash" in call.kernel:  # aligns the newest query with the newest key
        last = last + (all_keys - n_queries)
        hidden = (keys > last) & call.causal
        window = call.options.get("sliding_window")
        return hidden if window is None else hidden | (keys <= last - window)
    # sdpa aligns the first with the first, and hides nothing from a lone query; eager
    # attention hides nothing without a mask.
    by_itself = call.kernel == "sdpa" and call.causal and n_queries > 1
    return (keys > last) & by_itself


def _softmax(
    call: AttentionCall, scores: torch.Tensor, heads: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give what each key gets, `[head, query, key]`, and what a sink gets, `[head, query]`."""
    sinks = call.options.get("s_aux")
    if sinks is None:
        # A query that may look nowhere (padding on the left) has no pattern, rather than NaN.
        nowhere = (scores == -torch.inf).all(dim=-1, keepdim=True)
        pattern = torch.softmax(scores, dim=-1).masked_fill(nowhere, 0.0)
        return pattern, torch.zeros_like(pattern[..., 0])
    # A sink is a learned score per head that takes its share and belongs to no key.
    column = take(sinks, 0, heads).float()[:, None, None].expand(-1, scores.shape[1], 1)
    whole = torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)
    return whole[..., :-1], whole[..., -1]


def _part(
    tensor: torch.Tensor, example: int, heads: Sequence[int], queries: torch.Tensor, n_keys: int
) -> torch.Tensor:
    """Take one example's heads, queries and keys of a mask that may be shared over any of them."""
    one = tensor[example if tensor.shape[0] > 1 else 0]
    one = take(one, 0, heads) if one.shape[0] > 1 else one
    one = one[:, queries] if one.shape[1] > 1 else one
    return one[..., :n_keys]
