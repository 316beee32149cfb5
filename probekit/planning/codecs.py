"""Codecs: what a tokenizer does for the inputs of a config, and how long documents become pieces.

Knows tokenizers by their calls; reads no input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from probekit.config import ProbeConfig
from probekit.errors import ConfigError
from probekit.inputs import (
    Chats,
    Codec,
    Origin,
    SpecialTokens,
    Splitting,
    decoding,
    tokenizing,
)
from probekit.wording import counted


def codec_of(origin: Origin, tokenizer: Any, notes: list[str]) -> Codec:
    """Give what the tokenizer can do for these inputs."""
    inputs = origin.config.inputs
    if tokenizer is None or inputs.random is not None:
        return Codec(splitting=_splitting(origin) if inputs.too_long == "split" else None)
    is_split = inputs.too_long == "split"
    if inputs.tokens is not None:
        decode = decoding.decoder(tokenizer)
        splitting = _splitting(origin, read=lambda ids: decode([ids]).texts[0])
        return Codec(decode=decode, splitting=splitting if is_split else None)
    if inputs.messages is not None:
        return Codec(chats=_chats(origin, tokenizer))
    special = SpecialTokens(tokenizer, inputs.special_tokens)
    special.check(origin.config)
    if (note := special.note()) is not None:
        notes.append(f"{origin.config.where('inputs.special_tokens')}: {note}")
    if is_split:
        _check_spans(origin, tokenizer, "inputs.too_long", "which part of a text a piece is")
        encode = tokenizing.document_encoder(tokenizer)
        return Codec(encode=encode, bos=special.bos, splitting=_splitting(origin, special))
    return Codec(
        encode=tokenizing.encoder(tokenizer, origin.limits.n_tokens, special), bos=special.bos
    )


def _splitting(
    origin: Origin,
    special: SpecialTokens | None = None,
    read: Callable[[Sequence[int]], str] | None = None,
) -> Splitting:
    """Say how documents become pieces.

    Args:
        origin: what decides them.
        special: what goes beside each piece; None for nothing.
        read: gives the text of token ids.
    """
    before, behind = ([], []) if special is None else special.beside
    found = Splitting(
        n_tokens=origin.limits.n_tokens,
        stride=origin.config.inputs.stride or 0,
        before=tuple(before),
        behind=tuple(behind),
        once=None if special is None else special.bos_id,
        read=read,
    )
    if found.n_own is None or found.n_own > found.stride:
        return found
    raise _no_way_on(origin, found)


def _no_way_on(origin: Origin, splitting: Splitting) -> ConfigError:
    """Say why pieces would not get on through their document."""
    size, n_own = counted(splitting.n_tokens or 0, "token"), splitting.n_own or 0
    special = counted(len(splitting.before) + len(splitting.behind), "special token")
    if n_own < 1:
        return ConfigError(
            f"{origin.config.where('inputs.max_tokens')}: a piece of {size} has no room for its "
            f"document beside {special}; raise it, or write inputs.special_tokens: none"
        )
    return ConfigError(
        f"{origin.config.where('inputs.stride')}: given {splitting.stride}, expected fewer than "
        f"{n_own}: so many tokens of its document has a piece of {size} beside {special}, and "
        "stride is how many it shares with the piece before"
    )


def _check_spans(origin: Origin, tokenizer: Any, key: str, unknown: str) -> None:
    """Refuse a tokenizer that does not say which characters a token covers."""
    if not tokenizing.is_fast(tokenizer):
        raise ConfigError(
            f"{origin.config.where(key)}: the tokenizer ({type(tokenizer).__name__}) does not say "
            f"which characters a token covers, so that nobody can tell {unknown}; give another in "
            "model.tokenizer, or give texts"
        )


def _chats(origin: Origin, tokenizer: Any) -> Chats:
    _check_spans(origin, tokenizer, "inputs.messages", "whose it is")
    plain = SpecialTokens(tokenizer, "none")
    encode = tokenizing.encoder(tokenizer, origin.limits.n_tokens, plain)
    before, _ = plain.spelled
    return Chats(origin.config, tokenizer, encode, before or None)


def digest_of(config: ProbeConfig, tokenizer: Any) -> str:
    """Digest what a tokenizer does to these inputs."""
    plain = tokenizing.tokenizer_digest(tokenizer)
    return plain if config.inputs.messages is None else tokenizing.chat_digest(tokenizer, plain)
