"""Recipes: what is done to a site's rows before they are copied or stored.

Knows tensors, einops and the arithmetic of logits; nothing of modules or files. A recipe is decided
in the plan and is dumb afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import einops
import torch

from probekit.errors import PlanError
from probekit.planning.indexing import take

_BLOCK_BYTES = 1 << 25  # of logits whose log-softmax is computed at once; a few times that is held
_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Einops:
    """An einops pattern over rows: `rearrange` without `op`, `reduce` with it."""

    pattern: str  # both sides begin with the row axis: "token (head d) -> token head d"
    op: str | None  # mean, max, sum or norm (L2)
    sizes: tuple[tuple[str, int], ...]

    def apply(self, rows: torch.Tensor) -> torch.Tensor:
        """Carry the pattern out on `[row, ...]`."""
        sizes = dict(self.sizes)
        if self.op is None:
            return einops.rearrange(rows, self.pattern, **sizes)
        if self.op == "max":
            return einops.reduce(rows, self.pattern, "max", **sizes)
        how: Any = _norm if self.op == "norm" else self.op
        return einops.reduce(wide(rows), self.pattern, how, **sizes)


def _norm(rows: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(rows, dim=tuple(axes))
    return norm


def wide(rows: torch.Tensor) -> torch.Tensor:
    """Give rows in float32 at least: sums of 16-bit numbers need more than 16 bits."""
    return rows.float() if rows.dtype in _HALVES else rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Steps over rows `[row, ...]`, in the order of the fields; None leaves a step out."""

    heads: tuple[int, ...] | None = None  # of axis 1
    neurons: tuple[int, ...] | None = None  # of the last axis
    einops: Einops | None = None
    ending: str | None = None  # "top_k", "token_logprob" or "entropy", over the last axis
    k: int = 0  # of top_k
    logits: bool = False  # the last axis is the vocabulary: top_k gives log-probabilities
    pool: str | None = None  # "mean", "max" or "last", over the rows of each example

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the tensors the recipe gives; ("",) when it is one."""
        if self.ending != "top_k":
            return ("",)
        return ("id", "logprob") if self.logits else ("index", "value")

    def apply(
        self, rows: torch.Tensor, next_ids: torch.Tensor, counts: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        """Carry the steps out.

        Args:
            rows: `[row, ...]`; heads already chosen where the source chose them.
            next_ids: for each row the token that came next, -1 where none did, int64 `[row]`.
            counts: rows of each example, in order.

        Returns:
            One tensor a part: `[row, ...]`, or `[example, ...]` when pooled.
        """
        if self.heads is not None:
            rows = take(rows, 1, self.heads)
        if self.neurons is not None:
            rows = take(rows, rows.ndim - 1, self.neurons)
        if self.einops is not None:
            rows = self.einops.apply(rows)
        parts = self._end(rows, next_ids)
        if self.pool is None:
            return parts
        return tuple(_pool(part, counts, self.pool) for part in parts)

    def _end(self, rows: torch.Tensor, next_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.ending is None:
            return (rows,)
        if self.ending == "top_k" and not self.logits:
            values, places = rows.topk(self.k, dim=-1)
            return places.to(torch.int32), values
        n_rows = max(1, _BLOCK_BYTES // (4 * rows.shape[-1]))
        pieces = [
            self._over_vocabulary(torch.log_softmax(part.float(), dim=-1), ids)
            for part, ids in zip(rows.split(n_rows), next_ids.split(n_rows), strict=True)
        ]
        return tuple(torch.cat(part) for part in zip(*pieces, strict=True))

    def _over_vocabulary(
        self, logprobs: torch.Tensor, next_ids: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        if self.ending == "top_k":
            values, ids = logprobs.topk(self.k, dim=-1)
            return ids.to(torch.int32), values
        if self.ending == "entropy":  # in nats; a token of probability 0 adds nothing
            return (torch.special.entr(logprobs.exp()).sum(-1),)
        found = logprobs.gather(-1, next_ids.clamp(min=0)[:, None])[:, 0]
        return (torch.where(next_ids >= 0, found, torch.nan),)


def _pool(rows: torch.Tensor, counts: Sequence[int], how: str) -> torch.Tensor:
    groups = rows.split(list(counts))
    if how == "last":
        return torch.stack([group[-1] for group in groups])
    if how == "max":
        return torch.stack([group.amax(0) for group in groups])
    return torch.stack([wide(group).mean(0) for group in groups])


def einops_step(
    pattern: str, op: str | None, given: Mapping[str, int], known: Mapping[str, int]
) -> Einops:
    """Build an einops step, taking sizes that the pattern names and the config leaves to the model.

    Args:
        pattern: an einops pattern; both sides begin with the same row axis.
        op: the reduction, None for a rearrangement.
        given: sizes from the config.
        known: sizes of the model: `head`, `d_head`, `d_model`, ...

    Raises:
        PlanError: if the row axis is touched.
    """
    if (wrong := _unbalanced(pattern)) is not None:
        raise PlanError(f"einops pattern {pattern!r}: {wrong}")
    left, arrow, right = (part.strip() for part in pattern.partition("->"))
    first = left.split()[0] if left.split() else ""
    if (
        not arrow
        or "->" in right
        or not first.isidentifier()
        or (right.split() or [""])[0] != first
    ):
        raise PlanError(
            f"einops pattern {pattern!r}: expected `token ... -> token ...`: the first axis is the "
            "rows' and stays where it is (pool reduces over an example's tokens)"
        )
    # A size helps only to take axes apart; elsewhere the tensor itself says it.
    composed = set(re.findall(r"[A-Za-z_]\w*", " ".join(re.findall(r"\(([^)]*)\)", left))))
    sizes = {name: size for name, size in known.items() if name in composed} | dict(given)
    return Einops(pattern=pattern, op=op, sizes=tuple(sorted(sizes.items())))


def _unbalanced(pattern: str) -> str | None:
    """Say what is wrong with the brackets of a pattern; einops takes one level of them."""
    for side in pattern.split("->"):
        depth = 0
        for character in side:
            depth += (character == "(") - (character == ")")
            if depth < 0:
                return "a ) closes nothing; remove it, or open it with ("
            if depth > 1:
                return "a ( stands inside of another; close the first, or leave one out"
        if depth:
            return f"a ( is never closed in {side.strip()!r}; add the missing )"
    return None


def right_axes(pattern: str) -> tuple[str, ...]:
    """Name the axes of an einops pattern's result, rows first; a composed axis joins its names."""
    right = pattern.partition("->")[2]
    found = re.findall(r"\(([^)]*)\)|(\w+|\.\.\.)", right)
    return tuple("_".join(composed.split()) if composed else plain for composed, plain in found)
