"""Tokenizers by name: texts to token ids, and the strings of the tokens.

Knows transformers' tokenizers; nothing of models but where they come from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import transformers
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from probekit.config import ProbeConfig
from probekit.errors import ConfigError
from probekit.inputs.contents import Encode, Encoded, Spans
from probekit.inputs.documents import Cutting, head_ends, windows
from probekit.inputs.specialtokens import SpecialTokens
from probekit.models import (
    Source,
    explained,
    hub_in_reach,
    locate,
    no_tokenizer,
    parsed_once,
    trust,
)

Array = np.ndarray[Any, Any]

_AT_ONCE = 100_000  # characters of a document that is encoded whole, with others
_PAIR_BATCH = 8192
# GPT-2's characters for bytes: those that print are themselves, the others follow from U+0100 on.
_PRINT = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINT]
_BYTE_OF = {chr(b): b for b in _PRINT} | {chr(256 + n): b for n, b in enumerate(_OTHERS)}
_OF_LOADING = ("is_local", "local_files_only", "name_or_path")  # said of how it was loaded


def load_tokenizer(config: ProbeConfig) -> Any:
    """Load the tokenizer that `model.tokenizer` names, or the model's own.

    Raises:
        ConfigError: if it cannot be had.
    """
    key = "model.name" if config.model.tokenizer is None else "model.tokenizer"
    if config.model.tokenizer is None and config.model.is_in_memory:
        raise ConfigError(
            f"{config.where('model.tokenizer')}: the model is in memory, and no tokenizer came "
            "with it; give it (tokenizer=tokenizer, beside model=model), or name one here"
        )
    name = config.model.tokenizer or config.model.name
    source = locate(name, config.where(key))
    revision = config.model.revision if config.model.tokenizer is None else None
    hint, arguments = _no_tokenizer(name, source), source.arguments(revision)
    trusted = config.model.trust_remote_code and config.model.tokenizer is None
    with parsed_once(source), explained(config.where(key), hint):
        if trusted:
            values = get_tokenizer_config(source.place, **arguments)
            trust.check_code(
                values, ("AutoTokenizer",), place=source.place, where=hint, trusted=True
            )
        found = transformers.AutoTokenizer.from_pretrained(
            source.place, trust_remote_code=trusted, **arguments
        )
    # Where a folder has no tokenizer, some classes make one that knows nothing but special tokens.
    if not set(found.get_vocab()) - set(found.all_special_tokens):
        raise ConfigError(f"{config.where(key)}: {_no_tokenizer(name, source)}")
    return found


def encoder(
    tokenizer: Any, n_tokens: int | None = None, special: SpecialTokens | None = None
) -> Encode:
    """Give the function from texts to token ids.

    Which characters a token covers comes along where the tokenizer says it.

    Args:
        tokenizer: of transformers.
        n_tokens: how many of a text are wanted; of one that is much longer no more is encoded than
            gives these exactly, where the tokenizer is known to allow it.
        special: what goes beside a text; None for what the tokenizer adds.
    """
    says_spans = is_fast(tokenizer)
    beside = special or SpecialTokens(tokenizer)
    may_cut = _may_cut(tokenizer)

    def encode_whole(texts: list[str]) -> list[_Whole]:
        more = {"return_offsets_mapping": True} if says_spans else {}  # others refuse the word
        more |= beside.arguments
        found = tokenizer(texts, return_attention_mask=False, verbose=False, **more)
        spans = found.get("offset_mapping") or [None] * len(texts)
        return [
            _Whole(*beside.settled(*one)) for one in zip(found["input_ids"], spans, strict=True)
        ]

    def encode_head(text: str) -> _Whole | None:
        """Encode the first of a long text, where these are sure to be its first tokens."""
        if n_tokens is None:
            return None
        for end in head_ends(text, n_tokens):
            if not may_cut(text, end):
                return None
            (head,) = encode_whole([text[:end]])
            n_own = len(head.ids) - beside.n_most
            if n_own > n_tokens:  # none that is kept is one that the tokenizer puts behind a text
                return replace(head, n_more=round((len(text) - end) * n_own / end))
        return None

    def encode(texts: list[str]) -> Encoded:
        heads = {n: head for n, text in enumerate(texts) if (head := encode_head(text))}
        rest = [text for n, text in enumerate(texts) if n not in heads]
        found = iter(encode_whole(rest) if rest else ())
        every = [heads.get(n) or next(found) for n in range(len(texts))]
        return Encoded(
            ids=[one.ids for one in every],
            spans=[one.spans or () for one in every] if says_spans else None,
            n_more=[one.n_more for one in every] if heads else None,
            has_bos=[one.has_bos for one in every],
        )

    return encode


def document_encoder(tokenizer: Any) -> Encode:
    """Give the function from documents to all tokens of their own; nothing is put beside them.

    A long one is encoded a part at a time where the tokenizer is known to allow it.

    Args:
        tokenizer: of transformers, that says which characters a token covers.
    """
    encode_whole = encoder(tokenizer, special=SpecialTokens(tokenizer, "none"))
    may_cut = _may_cut(tokenizer)

    def encode_parts(text: str) -> tuple[Array, Array]:
        ids, spans = [], []
        for window in windows(text, may_cut):
            found = encode_whole([text[window.begin : window.end]])
            assert found.spans is not None  # it is a tokenizer that says them
            covered = np.array(found.spans[0], dtype=np.int32).reshape(-1, 2) + window.begin
            own = (covered[:, 0] >= window.first) & (covered[:, 0] < window.last)
            ids.append(np.array(found.ids[0], dtype=np.int32)[own])
            spans.append(covered[own])
        return np.concatenate(ids), np.concatenate(spans)

    def encode(texts: list[str]) -> Encoded:
        short = [text for text in texts if len(text) <= _AT_ONCE]
        found = encode_whole(short) if short else Encoded(ids=(), spans=())
        assert found.spans is not None
        wholes = iter(zip(found.ids, found.spans, strict=True))
        every = [next(wholes) if len(text) <= _AT_ONCE else encode_parts(text) for text in texts]
        return Encoded(ids=[ids for ids, _ in every], spans=[spans for _, spans in every])

    return encode


def _may_cut(tokenizer: Any) -> Callable[[str, int], bool]:
    """Give what says whether a text may be cut at a place, as far as the tokenizer is known."""

    @cache  # for the first long text: it reads the whole vocabulary
    def cutting() -> Cutting:
        return Cutting(tokenizer.backend_tokenizer)

    return lambda text, end: _is_plain(tokenizer) and cutting().may_cut(text, end)


@dataclass(frozen=True, slots=True)
class _Whole:
    ids: list[int]
    spans: Spans | None
    has_bos: bool  # of its own
    n_more: int = 0  # about so many tokens of the text were not encoded


def _is_plain(tokenizer: Any) -> bool:
    """Say whether texts go to the package `tokenizers` as they are."""
    kind, plain = type(tokenizer), transformers.PreTrainedTokenizerFast
    return is_fast(tokenizer) and all(
        getattr(kind, name, None) is getattr(plain, name)
        for name in ("__call__", "_encode_plus", "num_special_tokens_to_add")
    )


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest what a tokenizer is saved as, whichever files it was loaded from, and from where."""
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    digest.update(str(getattr(tokenizer, "split_special_tokens", None)).encode())
    if is_fast(tokenizer):
        digest.update(tokenizer.backend_tokenizer.to_str().encode())
        return digest.hexdigest()
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            data = file.read_bytes()
            if file.name == "tokenizer_config.json":
                said = {k: v for k, v in json.loads(data).items() if k not in _OF_LOADING}
                data = json.dumps(said, sort_keys=True).encode()
            digest.update(file.name.encode() + data)
    return digest.hexdigest()


def chat_digest(tokenizer: Any, plain: str) -> str:
    """Digest what a tokenizer says of chats, too: templates, and how special tokens are spelled.

    Args:
        tokenizer: of transformers.
        plain: its digest without that.
    """
    templates = getattr(tokenizer, "chat_template", None)
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    said = json.dumps([plain, templates, special], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()


def is_fast(tokenizer: Any) -> bool:
    """Say whether a tokenizer is of the package `tokenizers`, and knows characters."""
    return bool(getattr(tokenizer, "is_fast", False))  # mistral-common's has no such word


def token_bytes(tokenizer: Any) -> tuple[bytes, ...]:
    """Give the bytes of every token, by its id; see `bytes_of`."""
    return bytes_of(tokenizer, range(max(tokenizer.get_vocab().values()) + 1))


def bytes_of(tokenizer: Any, ids: Sequence[int]) -> tuple[bytes, ...]:
    """Give the bytes of tokens as they read inside a text: " Tokyo", with its space.

    Some tokenizers drop the space of a first token, so each is decoded behind another token and
    that one's text is taken off again. A part of a character does not decode: its bytes stand in
    the tokenizer's own spelling of it. An id that is no token's reads `<50>`.
    """
    known = {number: token for token, number in tokenizer.get_vocab().items()}
    lead = tokenizer.encode("a", add_special_tokens=False)[-1:]
    plain = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    prefix = tokenizer.decode(lead, **plain)
    found: list[bytes] = []
    for begin in range(0, len(ids), _PAIR_BATCH):
        numbers = ids[begin : begin + _PAIR_BATCH]
        pairs = [[*lead, number if number in known else lead[0]] for number in numbers]
        texts = tokenizer.batch_decode(pairs, **plain)
        for number, text in zip(numbers, texts, strict=True):
            token = known.get(number)
            if token is None:
                found.append(f"<{number}>".encode())
                continue
            spelled = _spelled(token) if "\ufffd" in text else None
            found.append(text.removeprefix(prefix).encode() if spelled is None else spelled)
    return tuple(found)


def _spelled(token: str) -> bytes | None:
    """Give the bytes that a tokenizer's own spelling stands for; None where it is no such spelling.

    SentencePiece spells a byte `<0xF0>`; byte-level tokenizers give every byte a character.
    """
    if byte := re.fullmatch("<0x([0-9A-Fa-f]{2})>", token):
        return bytes([int(byte[1], 16)])
    if all(character in _BYTE_OF for character in token):
        return bytes(_BYTE_OF[character] for character in token)
    return None


def _no_tokenizer(name: str, source: Source) -> str:
    if not source.on_hub:
        return no_tokenizer(source)
    reach = "" if hub_in_reach() else "; the hub is out of reach and it is not in the local cache"
    return (
        f"the tokenizer of {name} cannot be had{reach}: set model.tokenizer to a local folder "
        "or to sample:tiny-gpt2, or use inputs.tokens or inputs.random, which need none"
    )
