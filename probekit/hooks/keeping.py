"""Keeping: what a recording holds of one call, as the module made it or as rows of real tokens.

Knows tensors, and torch's count of changes in place; nothing of globs or of recordings. A tensor is
kept as it came and packed when it is read, so that `live` gives what the model went on with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from probekit.errors import CaptureError
from probekit.hooks import attention
from probekit.hooks.realtokens import TokenRows
from probekit.models.forward import POSITION, TOKEN, AttentionCall, Axes, places_first
from probekit.planning import KEY_KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Which rows of a tensor are tokens."""

    rows: TokenRows
    axes: Axes  # of the tensor; () where it is packed already
    kind: str

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each text; one where the tensor has no token axis."""
        of_tokens = not self.axes or TOKEN in self.axes or POSITION in self.axes
        return self.rows.counts if of_tokens else (1,) * len(self.rows.counts)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Keep the rows of tokens, `[row, ...]`."""
        if not self.axes:
            return tensor
        first = places_first(tensor, self.axes)
        if TOKEN not in self.axes and POSITION not in self.axes:
            return first
        return first.index_select(0, self.rows.places(tensor.device))

    def example(self, packed: torch.Tensor, number: int) -> torch.Tensor:
        """Take one text's rows; of attention `[head, query, key]`, its own keys."""
        rows: torch.Tensor = torch.split(packed, [*self.counts])[number]
        if self.kind in KEY_KINDS:
            return rows[:, :, : len(self.rows.keys[number])].transpose(0, 1)
        return rows


@dataclass(frozen=True, slots=True)
class Kept:
    """One tensor of one call."""

    tensor: torch.Tensor
    version: int | None  # torch's count of in-place changes when the module gave it
    copy: torch.Tensor | None = None  # where the model is known to change it afterwards
    packing: Packing | None = None  # None: it is read as it is

    @property
    def is_changed(self) -> bool:
        """Say whether the model has changed it since."""
        return self.version is not None and self.tensor._version != self.version

    @property
    def is_lost(self) -> bool:
        """Say whether it was changed and there is no copy of what it was."""
        return self.is_changed and self.copy is None

    def read(self) -> torch.Tensor:
        """Give what the module gave, or its rows of tokens."""
        given = self.copy if self.is_changed and self.copy is not None else self.tensor
        return given if self.packing is None else self.packing.pack(given)


Keeps = Callable[[list[Kept], torch.Tensor, Packing | None], None]


def keep(kept: list[Kept], tensor: torch.Tensor, packing: Packing | None = None) -> None:
    """Keep a tensor of one more call."""
    if tensor.is_inference():  # has no count of changes, so only a copy is sure
        kept.append(Kept(tensor.clone(), None, packing=packing))
    else:
        kept.append(Kept(tensor, tensor._version, packing=packing))


def keep_twice(kept: list[Kept], tensor: torch.Tensor, packing: Packing | None = None) -> None:
    """Keep a copy beside the live tensor: twice its bytes."""
    if tensor.is_inference():
        keep(kept, tensor, packing)
    else:
        kept.append(Kept(tensor, tensor._version, tensor.detach().clone(), packing))


def packed_blocks(call: AttentionCall, site: str, rows: TokenRows) -> torch.Tensor:
    """Give pattern, scores or sink of real tokens as a trace holds them.

    Returns:
        `[token, head, key]`, where a key is a position among its text's own tokens, and beyond
        them zero (scores: -inf); of `sink` `[token, head]`.

    Raises:
        CaptureError: if a token looks at padding.
    """
    kind = site.rpartition("/")[2]
    width = max(len(keys) for keys in rows.keys)
    packed = []
    for text, (queries, keys) in enumerate(zip(rows.queries, rows.keys, strict=True)):
        if not len(queries):
            continue
        at = partial(torch.as_tensor, device=call.query.device)
        padding = torch.ones(rows.n_keys, dtype=torch.bool)
        padding[torch.as_tensor(keys)] = False
        asked = at(queries)
        if bool(padding.any()) and not attention.hides(
            call, example=text, queries=asked, keys=at(padding.nonzero()[:, 0]), n_keys=rows.n_keys
        ):
            raise CaptureError(
                f"record: mask: {site}: tokens of text {text} look at padding; give the model the "
                "mask, too (attention_mask)"
            )
        is_whole = rows.n_keys <= call.key.shape[2]  # not in a cache that forgets the first
        blocks = attention.blocks(
            call,
            kind,
            example=text,
            heads=range(call.query.shape[1]),
            queries=asked,
            n_keys=int(keys[-1]) + 1 if is_whole else rows.n_keys,
        )
        whole = torch.cat(tuple(blocks))
        if kind in KEY_KINDS:
            if len(keys) < whole.shape[-1]:
                whole = whole.index_select(-1, at(keys))
            fill = 0.0 if kind == "pattern" else -torch.inf
            whole = torch.nn.functional.pad(whole, (0, width - whole.shape[-1]), value=fill)
        packed.append(whole)
    shape = (0, call.query.shape[1], *([width] if kind in KEY_KINDS else []))
    return torch.cat(packed) if packed else call.query.new_zeros(shape)
