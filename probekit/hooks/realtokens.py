"""Real tokens: which places of a batch an attention mask says are tokens, as checked indices.

Knows masks as tokenizers make them; nothing of modules. Padding may stand on the left, on the
right, or in between, as it does where a padded prompt was gone on from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probekit.errors import CaptureError, PlanError
from probekit.wording import by_count, counted, show_typed, values_of

Array = np.ndarray[Any, Any]
_EXPECTED = (
    "expected [batch, pos] of 0 and 1 or of booleans, as a tokenizer's attention_mask is "
    '(record(..., mask=inputs["attention_mask"]))'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRows:
    """The places of one pass that are tokens, text by text."""

    queries: tuple[Array, ...]  # of each text, among the positions that were looked at, int64
    keys: tuple[Array, ...]  # positions of each text's tokens so far, int64
    n_positions: int  # that were looked at
    n_keys: int  # positions so far

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each text."""
        return tuple(len(one) for one in self.queries)

    def places(self, device: torch.device) -> torch.Tensor:
        """Give them over the flattened `[batch * position]`, int64 `[row]`."""
        flat = [text * self.n_positions + one for text, one in enumerate(self.queries)]
        with torch.inference_mode(False):  # autograd cannot keep an inference tensor
            return torch.from_numpy(np.concatenate(flat)).to(device)


class RealTokens:
    """A mask, checked: `[batch, pos]`, true where a token is; every text has one.

    Raises:
        PlanError: if it is no such mask.
    """

    def __init__(self, mask: Any) -> None:
        self._is_token = _checked(mask)
        self.n_texts, self.n_positions = self._is_token.shape

    def at(self, *, first: int, n_positions: int, n_last: int = 0) -> TokenRows:
        """Give the tokens of one pass.

        Args:
            first: the position that the pass begins at.
            n_positions: how many it reads.
            n_last: only the last so many of them are looked at; 0 for all.

        Raises:
            CaptureError: if the mask does not say which of them are tokens.
        """
        end = first + n_positions
        begin = end - n_last if n_last else first
        is_token = self._until(end)
        return TokenRows(
            queries=tuple(np.flatnonzero(one[begin:]) for one in is_token),
            keys=tuple(np.flatnonzero(one) for one in is_token),
            n_positions=end - begin,
            n_keys=end,
        )

    def check_given(self, given: Array) -> None:
        """Refuse a pass whose model is told other tokens.

        Args:
            given: the attention mask of the pass, `[batch, pos]`.
        """
        width = min(given.shape[1], self.n_positions)
        other = np.argwhere((given[:, :width] != 0) != self._is_token[:, :width])
        if len(other):
            text, position = other[0]
            raise CaptureError(
                f"record: mask: the model is given another attention_mask: of text {text} they "
                f"differ at position {position}; give record the mask that the model gets, and "
                "choose among the rows afterwards"
            )

    def _until(self, end: int) -> Array:
        """Give the mask up to a position; behind its end a lone text has tokens alone."""
        if end <= self.n_positions:
            return self._is_token[:, :end]
        if self.n_texts > 1:
            raise CaptureError(
                f"record: mask: the model reads position {end - 1}, and the mask has "
                f"{self.n_positions}: of {counted(self.n_texts, 'text')} to go on from, those "
                "that end early are padded, and nobody knows which; record a pass over the "
                "finished texts with their whole mask, or, where every text goes on to the end, "
                "give a mask as long as they may get: torch.nn.functional.pad(mask, (0, "
                "max_new_tokens), value=1)"
            )
        return np.pad(self._is_token, ((0, 0), (0, end - self.n_positions)), constant_values=True)


def _checked(mask: Any) -> Array:
    values = _array(mask)
    if values.ndim != 2 or 0 in values.shape:
        more = {1: "; of one text, give mask[None]", 4: "; this one is made of it, for the kernel"}
        raise PlanError(
            f"record: mask is {list(values.shape)}; {_EXPECTED}{more.get(values.ndim, '')}"
        )
    if values.dtype.kind == "f":
        raise PlanError(
            f"record: mask is {values.dtype} numbers; {_EXPECTED}; of one that is added to scores "
            "(0 for tokens, far below for padding) give mask == 0, of one of 0.0 and 1.0 "
            "mask.bool()"
        )
    if values.dtype.kind not in "biu":
        raise PlanError(f"record: mask is {values_of(values.dtype.kind)}; {_EXPECTED}")
    odd = values[(values != 0) & (values != 1)]
    if odd.size:
        said = f"{counted(odd.size, 'value')} such as {odd[0]}"
        raise PlanError(f"record: mask has {said}; {_EXPECTED}")
    is_token = values.astype(bool)
    empty = np.flatnonzero(~is_token.any(axis=1))
    if empty.size:
        raise PlanError(
            f"record: mask: text {empty[0]} has no token ({_of(empty, len(is_token))}); leave such "
            "texts out of the batch"
        )
    return is_token


def _of(empty: Array, n_texts: int) -> str:
    has = by_count(len(empty), "has", "have")
    return f"{counted(len(empty), 'text', of=n_texts)} {has} none"


def _array(mask: Any) -> Array:
    if isinstance(mask, torch.Tensor):
        if mask.device.type == "meta":
            raise PlanError(f"record: mask is on the device 'meta', without values; {_EXPECTED}")
        plain = mask.detach().cpu()
        return np.asarray(plain.float() if plain.is_floating_point() else plain)
    is_list = isinstance(mask, Sequence) and not isinstance(mask, str | bytes)
    try:
        values = np.asarray(mask) if is_list or isinstance(mask, np.ndarray) else None
    except ValueError as error:  # rows of different lengths
        raise PlanError(f"record: mask is a list of rows of different lengths; {_EXPECTED}") from (
            error
        )
    if values is None or values.dtype == object:
        raise PlanError(f"record: mask is {show_typed(mask)}; {_EXPECTED}")
    return values
