"""Padded batches to token rows, on the device.

Knows tensors and axes; nothing of modules or files. Which rows are kept is decided on the host
before the forward pass, so packing never waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probekit.errors import CaptureError
from probekit.schema import ALL_TOKENS, PER_EXAMPLE
from probekit.shards import Choice
from probekit.skeleton import BATCH, POSITION, TOKEN

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Which of a padded batch's `batch * position` places one kind of site keeps."""

    places: torch.Tensor  # int64 [row], on the device
    starts: tuple[int, ...]  # where each example's rows begin among the kept rows
    padded_starts: tuple[int, ...] | None  # where they begin in the padded batch, if in one run


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some examples of a shard, padded on the right to the longest."""

    numbers: tuple[int, ...]  # of the examples, in the shard
    n_tokens: int  # real tokens
    shape: tuple[int, int]  # batch, position
    arguments: Mapping[str, Any]  # for the model's forward
    rows: Mapping[str, Rows]  # by a site's `rows`


def make_batch(
    numbers: Array,
    n_tokens: Array,
    token_ids: Array,
    *,
    kept: Iterable[str],
    accepted: frozenset[str],
    device: torch.device,
) -> Batch:
    """Pad some examples of a shard into a batch.

    Right padding and explicit positions: a real token sees the same positions and, on a causal
    model, the same past as when its example runs alone.

    Args:
        numbers: which examples of the shard, int64 `[batch]`.
        n_tokens: tokens of every example of the shard, int64 `[example]`.
        token_ids: tokens of the whole shard, int32 `[token]`.
        kept: the `rows` of the sites that will be packed.
        accepted: which arguments the model's forward takes.
        device: where the model runs.
    """
    lengths = n_tokens[numbers]
    ends = np.cumsum(n_tokens)
    ids = np.zeros((len(numbers), int(lengths.max())), dtype=np.int64)
    for place, (number, length) in enumerate(zip(numbers, lengths, strict=True)):
        ids[place, :length] = token_ids[ends[number] - length : ends[number]]
    positions = np.arange(ids.shape[1])
    mask = positions < lengths[:, None]
    arguments = {
        "input_ids": ids,
        "attention_mask": mask.astype(np.int64),
        "position_ids": np.where(mask, positions, 0),
    }
    tensors: dict[str, Any] = {
        k: torch.from_numpy(v).to(device) for k, v in arguments.items() if k in accepted
    }
    if "use_cache" in accepted:
        tensors["use_cache"] = False
    return Batch(
        numbers=tuple(int(n) for n in numbers),
        n_tokens=int(lengths.sum()),
        shape=(ids.shape[0], ids.shape[1]),
        arguments=tensors,
        rows={rows: _rows(rows, lengths, ids.shape[1], device) for rows in kept},
    )


def _rows(rows: str, lengths: Array, width: int, device: torch.device) -> Rows:
    if rows == PER_EXAMPLE:
        places = [np.array([n]) for n in range(len(lengths))]
        padded: tuple[int, ...] | None = tuple(range(len(lengths)))
    else:
        choice = Choice(rows)
        places = [n * width + choice.positions(int(size)) for n, size in enumerate(lengths)]
        padded = tuple(n * width for n in range(len(lengths))) if rows == ALL_TOKENS else None
    counts = np.array([len(p) for p in places])
    return Rows(
        places=torch.from_numpy(np.concatenate(places)).to(device),
        starts=tuple(int(s) for s in np.cumsum(counts) - counts),
        padded_starts=padded,
    )


def pack(
    tensor: torch.Tensor,
    axes: tuple[int | str, ...],
    batch: Batch,
    rows: Rows,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Keep the rows of real tokens.

    On the CPU, where every row is kept as it is, the padded tensor itself is given: its rows are
    read in place, without a copy, before the forward pass goes on.

    Args:
        tensor: what a module gave, with `axes`.
        axes: the plan's word for each axis: a size, BATCH, POSITION, or TOKEN.
        batch: the batch that ran.
        rows: which places to keep.
        dtype: the stored dtype.

    Returns:
        Rows `[row, ...]`, contiguous, in the stored dtype, and where each example's begin.

    Raises:
        CaptureError: if the tensor's shape is not the planned one.
    """
    expected = _shape(axes, batch)
    if tuple(tensor.shape) != expected:
        raise CaptureError(f"the plan says {list(expected)}, the module gave {list(tensor.shape)}")
    flat = _places_first(tensor.detach(), axes)
    in_place = flat.device.type == "cpu" and flat.dtype == dtype and flat.is_contiguous()
    if in_place and rows.padded_starts is not None:
        return flat, rows.padded_starts
    return flat.index_select(0, rows.places).to(dtype), rows.starts


def _shape(axes: tuple[int | str, ...], batch: Batch) -> tuple[int, ...]:
    moving = {
        BATCH: batch.shape[0],
        POSITION: batch.shape[1],
        TOKEN: batch.shape[0] * batch.shape[1],
    }
    return tuple(moving[a] if isinstance(a, str) else a for a in axes)


def _places_first(tensor: torch.Tensor, axes: tuple[int | str, ...]) -> torch.Tensor:
    """`[..., batch, ..., position, ...]` to `[batch * position, ...]`; or `[batch, ...]`."""
    if TOKEN in axes:
        return tensor.movedim(axes.index(TOKEN), 0)
    if POSITION not in axes:
        return tensor.movedim(axes.index(BATCH), 0)
    return tensor.movedim((axes.index(BATCH), axes.index(POSITION)), (0, 1)).flatten(0, 1)


def to_storage(rows: torch.Tensor) -> Array:
    """Give a CPU tensor's memory as numpy sees stored bytes: bfloat16 as uint16."""
    if rows.dtype == torch.bfloat16:
        return rows.view(torch.int16).numpy().view(np.uint16)
    return rows.numpy()
