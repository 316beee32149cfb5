"""The portable names, and what a place is.

They are TransformerLens's where it has them, and mean what they mean there on a model loaded
without weight processing, with dropout off. Knows neither torch nor any family.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ATTENTION_NAMES = ("q", "q_pre_rot", "k", "k_pre_rot", "v", "z", "scores", "pattern")
TAPPED_NAMES = (*ATTENTION_NAMES, "head_out")  # read at the module that calls a kernel
PORTABLE_NAMES = (
    *("embed", "resid_pre", "ln1_scale", "attn_in", *TAPPED_NAMES, "attn_out"),
    *("mixer_in", "mixer_out", "resid_mid", "ln2_scale", "mlp_in", "mlp_pre", "mlp_post"),
    *("mlp_out", "resid_post", "ln_final_scale", "ln_final", "logits"),
)  # in the order they are computed


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor is read: a module path and a record kind."""

    module: str
    kind: str
    factor: float = 1.0  # the value is so many times what is read there; no module holds it then

    @property
    def site_kind(self) -> str:
        """The record kind under which it is stored."""
        is_computed = self.factor == 1.0 or self.kind == "head_out"
        return self.kind if is_computed else "scaled"

    @property
    def can_be_changed(self) -> bool:
        """Say whether changing what is read there changes the model by this value."""
        return self.kind not in ("rms", "std", "head_out", "scores")

    def __str__(self) -> str:
        return f"{self.module}/{self.site_kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unembedding:
    """How a model makes logits of the last residual stream."""

    norm: str  # the path of the final norm
    head: str  # of the linear map onto the vocabulary
    cap: float | None  # logits are cap * tanh(logits / cap) in the end; None where they are not
    before: float = 1.0  # what the norm gives is multiplied with it before the head
    after: float = 1.0  # and what the head gives, before any cap


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Give portable names in the order they are computed."""
    asked = frozenset(names)
    return tuple(name for name in PORTABLE_NAMES if name in asked)
