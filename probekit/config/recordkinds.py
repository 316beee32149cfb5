"""What may be recorded: portable names of places, and record kinds of a module."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Self

from probekit.errors import ConfigError
from probekit.wording import one_of, show

# TransformerLens's names of the places that every decoder has.
PORTABLE_NAMES = (
    *("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post"),
    *("q", "q_pre_rot", "k", "k_pre_rot", "v", "z", "pattern", "scores", "ln_final", "logits"),
    *("router_logits", "expert_ids", "expert_weights", "expert_out"),  # of mixtures of experts
    *("attn_in", "mlp_in", "mixer_in", "mixer_out", "mlp_pre", "head_out"),
    *("ln1_scale", "ln2_scale", "ln_final_scale"),
)
_MODULE_KINDS = ("output", "input")  # the only ones that take `.element` and `@call`
_DERIVED_KINDS = (
    *("pattern", "scores", "sink", "q", "q_pre_rot", "k", "k_pre_rot", "v", "z", "z_kernel"),
    *("router_logits", "expert_ids", "expert_weights", "expert_out"),
    *("top_k", "token_logprob", "entropy", "head_out", "rms", "std"),
)
RECORD_KINDS = (*_MODULE_KINDS, *_DERIVED_KINDS)

_ELEMENT = r"[A-Za-z_][A-Za-z0-9_]{0,99}|0|[1-9][0-9]{0,5}"
_CALL = r"0|[1-9][0-9]{0,5}"
RECORD_PATTERN = rf"^((output|input)(\.({_ELEMENT}))?(@({_CALL}))?|{'|'.join(_DERIVED_KINDS)})$"
_RECORD = re.compile(rf"([A-Za-z_]{{1,99}})(?:\.({_ELEMENT}))?(?:@({_CALL}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordKind:
    """What to record of a module: ``output``, ``output.1``, ``input.hidden_states@2``, ``z``."""

    name: str  # one of RECORD_KINDS
    element: str | None = None  # of a tuple, a dict or keyword arguments; an index is text too
    call: int | None = None  # which call of the module within one forward pass, from 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``name[.element][@call]``; ``str()`` gives the text back.

        Raises:
            ConfigError: The name is unknown, or takes no element and no call.
        """
        parts = _RECORD.fullmatch(text)
        if not parts:
            raise ConfigError(
                f"{show(text)} is not a record kind; expected name, name.element or name@call,"
                " e.g. output, output.1, input.hidden_states@0"
            )
        name, element, call = parts.groups()
        if name not in RECORD_KINDS:
            raise ConfigError(f"unknown record kind {show(name)}; {one_of(name, RECORD_KINDS)}")
        if name in _DERIVED_KINDS and (element or call):
            raise ConfigError(
                f"{show(text)}: {name} takes no .element and no @call; only output and input do"
            )
        return cls(name=name, element=element, call=None if call is None else int(call))

    def __str__(self) -> str:
        element = "" if self.element is None else f".{self.element}"
        call = "" if self.call is None else f"@{self.call}"
        return f"{self.name}{element}{call}"


def portable_like(glob: str) -> list[str]:
    """Give the portable names that a glob means, which is no way to write them."""
    return [name for name in PORTABLE_NAMES if fnmatchcase(name, glob)]
