"""Padded batches to token rows, on the device.

Knows tensors and axes; nothing of modules or files. Which rows are kept is decided on the host
before the forward pass, so packing never waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probekit.errors import CaptureError
from probekit.inputs import Choices
from probekit.models.forward import places_first, sizes_of
from probekit.planning import to_device
from probekit.store import ALL_TOKENS, PER_EXAMPLE

Array = np.ndarray[Any, Any]
KNOWN_NEXT = "known next"  # rows of a generating batch whose next token is known already


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Which of a padded batch's `batch * position` places one kind of site keeps."""

    positions: (
        torch.Tensor
    )  # in the batch, of one example after another, int64 [row], on the device
    places: torch.Tensor  # the same over the flattened batch, int64 [row], on the device
    next_ids: torch.Tensor  # the token that came next, -1 where none did, int64 [row]
    starts: tuple[int, ...]  # where each example's rows begin among the kept rows
    counts: tuple[int, ...]  # rows of each example
    padded_starts: tuple[int, ...] | None  # where they begin in the padded batch, if in one run


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some examples of a shard, padded on the right to the longest."""

    numbers: tuple[int, ...]  # of the examples, in the shard
    n_tokens: int  # real tokens
    n_keys: tuple[int, ...]  # tokens of each example that attention may look at
    shape: tuple[int, int]  # batch, position
    arguments: Mapping[str, Any]  # for the model's forward; empty where `generate` makes them
    rows: Mapping[str, Rows]  # by a choice of positions, and PER_EXAMPLE
    first_example: int = 0  # of the shard


def make_batch(
    numbers: Array,
    n_tokens: Array,
    token_ids: Array,
    *,
    choices: Choices,
    kept: Iterable[str],
    first_example: int = 0,
    accepted: frozenset[str],
    device: torch.device,
    logits_to_keep: int = 0,
    n_prompt: Array | None = None,
) -> Batch:
    """Pad some examples of a shard into a batch.

    Right padding and explicit positions: a real token sees the same positions and, on a causal
    model, the same past as when its example runs alone.

    Args:
        numbers: which examples of the shard, int64 `[batch]`.
        n_tokens: tokens of every example of the shard, int64 `[example]`.
        token_ids: tokens of the whole shard, int32 `[token]`.
        choices: of positions.
        kept: those that the sites keep.
        first_example: of the shard.
        accepted: which arguments the model's forward takes.
        device: where the model runs.
        logits_to_keep: positions whose logits are computed, from the last on; 0 for all.
        n_prompt: tokens of every example of the shard that were given, int64 `[example]`; None
            for all of them.
    """
    lengths = n_tokens[numbers]
    given = lengths if n_prompt is None else n_prompt[numbers]
    ends = np.cumsum(n_tokens)
    ids = np.full((len(numbers), int(lengths.max())), -1, dtype=np.int64)
    for place, (number, length) in enumerate(zip(numbers, lengths, strict=True)):
        ids[place, :length] = token_ids[ends[number] - length : ends[number]]
    positions = np.arange(ids.shape[1])
    mask = positions < lengths[:, None]
    arguments = {
        "input_ids": np.where(mask, ids, 0),
        "attention_mask": mask.astype(np.int64),
        "position_ids": np.where(mask, positions, 0),
    }
    tensors: dict[str, Any] = {
        k: to_device(v, device) for k, v in arguments.items() if k in accepted
    }
    if "use_cache" in accepted:
        tensors["use_cache"] = False
    if logits_to_keep:
        tensors["logits_to_keep"] = logits_to_keep
    next_ids = np.concatenate([ids[:, 1:], np.full((len(ids), 1), -1)], axis=1)
    return Batch(
        numbers=tuple(int(n) for n in numbers),
        first_example=first_example,
        n_tokens=int(lengths.sum()),
        n_keys=tuple(int(n) for n in lengths),
        shape=(ids.shape[0], ids.shape[1]),
        arguments=tensors,
        rows={
            name: _rows(name, choices, first_example + numbers, lengths, given, next_ids, device)
            for name in kept
        },
    )


def _rows(
    name: str,
    choices: Choices,
    examples: Array,
    lengths: Array,
    given: Array,
    next_ids: Array,
    device: torch.device,
) -> Rows:
    n_batch, width = next_ids.shape
    if name == PER_EXAMPLE:
        numbers = tuple(range(n_batch))
        return Rows(
            positions=torch.zeros(n_batch, dtype=torch.int64, device=device),
            places=torch.arange(n_batch, device=device),
            next_ids=torch.full((n_batch,), -1, device=device),
            starts=numbers,
            counts=(1,) * n_batch,
            padded_starts=numbers,
        )
    queries = tuple(
        choices.positions(name, int(number), int(length), int(n_given))
        for number, length, n_given in zip(examples, lengths, given, strict=True)
    )
    padded = tuple(n * width for n in range(n_batch)) if name == ALL_TOKENS else None
    return rows_at(queries, next_ids, device, padded_starts=padded)


def rows_at(
    queries: Sequence[Array],
    next_ids: Array,
    device: torch.device,
    *,
    padded_starts: tuple[int, ...] | None = None,
) -> Rows:
    """Keep the given positions of each example of a batch.

    Args:
        queries: for each example of the batch, int64 `[row]`.
        next_ids: the token that comes after each place, -1 where none does, `[batch, position]`.
        device: where the model runs.
        padded_starts: where each example's rows begin in the padded batch, if they lie in a run.
    """
    counts = tuple(len(q) for q in queries)
    places = np.concatenate([n * next_ids.shape[1] + q for n, q in enumerate(queries)])
    return Rows(
        positions=to_device(np.concatenate(queries), device),
        places=to_device(places, device),
        next_ids=to_device(next_ids.reshape(-1)[places], device),
        starts=tuple(int(s) for s in np.cumsum(counts) - counts),
        counts=counts,
        padded_starts=padded_starts,
    )


def pack(
    tensor: torch.Tensor, axes: tuple[int | str, ...], batch: Batch, rows: Rows
) -> torch.Tensor:
    """Keep the rows of real tokens: `[..., batch, ..., position, ...]` to `[row, ...]`.

    Args:
        tensor: what a module gave, with `axes`.
        axes: the plan's word for each axis: a size, BATCH, POSITION, or TOKEN.
        batch: the batch that ran.
        rows: which places to keep.

    Raises:
        CaptureError: if the tensor's shape is not the planned one.
    """
    _check_shape(tensor, axes, batch)
    return places_first(tensor.detach(), axes).index_select(0, rows.places)


def padded(tensor: torch.Tensor, axes: tuple[int | str, ...], batch: Batch) -> torch.Tensor | None:
    """Give all `[batch * position, ...]` places, padding included, where that needs no copy.

    On the CPU rows that are kept as they are can be written straight from the module's tensor,
    before the forward pass goes on.
    """
    _check_shape(tensor, axes, batch)
    flat = places_first(tensor.detach(), axes)
    shares = flat.data_ptr() == tensor.data_ptr()
    return flat if flat.device.type == "cpu" and shares and flat.is_contiguous() else None


def _check_shape(tensor: torch.Tensor, axes: tuple[int | str, ...], batch: Batch) -> None:
    expected = sizes_of(axes, *batch.shape)
    if tuple(tensor.shape) != expected:
        raise CaptureError(f"the plan says {list(expected)}, the module gave {list(tensor.shape)}")
