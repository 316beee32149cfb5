"""Special tokens: which a tokenizer puts beside a text, and that none stands there twice.

Knows tokenizers by their calls; imports none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from probekit.config import ProbeConfig
from probekit.errors import ConfigError
from probekit.inputs.contents import Spans

_AUTO, _BOS = "auto", "bos"


@dataclass(frozen=True)
class SpecialTokens:
    """What goes beside a text.

    Args:
        tokenizer: of transformers.
        word: `auto` for what the tokenizer adds, `none`, or `bos` for that token alone.
    """

    tokenizer: Any
    word: str = _AUTO

    @property
    def arguments(self) -> dict[str, Any]:
        """What the tokenizer is called with."""
        return {} if self.word == _AUTO else {"add_special_tokens": False}

    @property
    def n_most(self) -> int:
        """Tokens that are added to a text, at most."""
        if self.word == _AUTO:
            n: int = self.tokenizer.num_special_tokens_to_add()
            return n
        return int(self.word == _BOS)

    @cached_property
    def bos_id(self) -> int | None:
        """The id of the token for the beginning of a text."""
        found = getattr(self.tokenizer, "bos_token_id", None)  # mistral-common's may have no such
        return found if isinstance(found, int) else None

    @property
    def bos(self) -> str | None:
        """That token, as it is spelled."""
        return None if self.bos_id is None else str(self.tokenizer.bos_token)

    @cached_property
    def added(self) -> tuple[list[int], list[int]]:
        """What the tokenizer adds to a text by itself: before it, and behind it."""
        with_all = self.tokenizer("a")["input_ids"]
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        for begin in range(len(with_all) - len(plain) + 1):
            if with_all[begin : begin + len(plain)] == plain:
                return with_all[:begin], with_all[begin + len(plain) :]
        return [], []

    @property
    def beside(self) -> tuple[list[int], list[int]]:
        """What goes beside a text: before it, and behind it."""
        if self.word == _AUTO:
            return self.added
        return [self.bos_id] if self.word == _BOS and self.bos_id is not None else [], []

    @property
    def spelled(self) -> tuple[str, str]:
        """The same as text; empty for nothing."""
        before, behind = (self.tokenizer.convert_ids_to_tokens(ids) for ids in self.added)
        return " ".join(map(str, before)), " ".join(map(str, behind))

    def settled(self, ids: list[int], spans: Spans | None) -> tuple[list[int], Spans | None, bool]:
        """Give a text's tokens with one BOS token where there shall be one.

        Args:
            ids: as the tokenizer, called with `arguments`, gave them.
            spans: likewise.

        Returns:
            The tokens, their characters, and whether the text has its BOS token itself, so that
            none is added.
        """
        bos = self.bos_id
        if bos is None:
            return ids, spans, False
        if self.word == _AUTO:
            # A text that begins with two says so itself, unless one of them was added.
            if ids[:2] != [bos, bos] or self.added[0][-1:] != [bos]:
                return ids, spans, False
            return ids[1:], None if spans is None else spans[1:], True
        if self.word != _BOS or ids[:1] == [bos]:
            return ids, spans, self.word == _BOS
        return [bos, *ids], None if spans is None else [(0, 0), *spans], False

    def check(self, config: ProbeConfig) -> None:
        """Refuse `bos` where there is no such token.

        Raises:
            ConfigError: naming the tokenizer.
        """
        if self.word == _BOS and self.bos_id is None:
            raise ConfigError(
                f"{config.where('inputs.special_tokens')}: the tokenizer of "
                f"{config.model.tokenizer or config.model.name} has no BOS token to put before a "
                "text; write auto or none"
            )

    def note(self) -> str | None:
        """Say what is added other than the tokenizer adds; None where it is the same."""
        if self.word == _AUTO:
            return None
        before, behind = self.spelled
        told = [f"{before} before" if before else "", f"{behind} behind" if behind else ""]
        own = " and ".join(filter(None, told)) or "nothing"
        if self.word == _BOS and (before, behind) != (self.bos, ""):
            return f"{self.bos} is put before each text; by itself the tokenizer adds {own}"
        if self.word != _BOS and (before or behind):
            return f"no special token is added; by itself the tokenizer adds {own}"
        return None
