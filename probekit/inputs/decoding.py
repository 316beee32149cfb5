"""Decoding: token ids to the text that they read as, and which of its characters are whose.

Knows a tokenizer's spelling of tokens. Ids are what the model reads, whatever they decode to: a
text need not give the same ids again.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from probekit.inputs.contents import Decode, Decoded, Spans
from probekit.inputs.tokenizing import bytes_of, is_fast

_UNREADABLE = "\ufffd"
_MARK = 0xDC00  # a lone surrogate, which no UTF-8 gives: bytes that are no character, so many


def _as_mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return chr(_MARK + error.end - error.start), error.end


codecs.register_error("probekit.marks", _as_mark)


def decoder(tokenizer: Any) -> Decode:
    """Give the function from token ids to texts, and the characters that each token covers.

    Where the text gives the same ids again, the tokenizer says which characters a token covers;
    elsewhere the bytes of the tokens do, as far as they are the text. An id that is no token's
    covers none. What HDF5 cannot hold in a text, a NUL, reads as U+FFFD.
    """
    known = set(tokenizer.get_vocab().values())
    spelled: dict[int, bytes] = {}

    def encoded_again(texts: list[str]) -> tuple[list[list[int]], list[Spans]] | None:
        if not is_fast(tokenizer):  # which says no characters
            return None
        more = {"return_offsets_mapping": True, "return_attention_mask": False, "verbose": False}
        found = tokenizer(texts, add_special_tokens=False, **more)
        return found["input_ids"], found["offset_mapping"]

    def spans_of(ids: Sequence[int], text: str) -> Spans | None:
        if lacking := [*({*ids} & known) - spelled.keys()]:
            spelled.update(zip(lacking, bytes_of(tokenizer, lacking), strict=True))
        return spans_by_bytes([spelled.get(id, b"") for id in ids], text)

    def decode(lists: Sequence[Sequence[int]]) -> Decoded:
        texts = tokenizer.batch_decode(
            [[id for id in ids if id in known] for ids in lists],
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        again = encoded_again(texts)
        spans = [
            again[1][n] if again is not None and again[0][n] == [*ids] else spans_of(ids, texts[n])
            for n, ids in enumerate(lists)
        ]
        return Decoded(texts=[text.replace("\0", _UNREADABLE) for text in texts], spans=spans)

    return decode


def spans_by_bytes(pieces: Sequence[bytes], text: str) -> Spans | None:
    """Say which characters of a text each token covers, by the bytes that tokens stand for.

    A token that is a part of a character covers it. The space before a first word, which some
    tokenizers leave out of a text, is no character of it.

    Args:
        pieces: the bytes of each token.
        text: that they read as.

    Returns:
        Of each token the first character, and the one behind the last; None where the bytes are
        not the text.
    """
    whole = b"".join(pieces)
    for n_left_out in (0, 1) if whole[:1] == b" " else (0,):
        marked = whole[n_left_out:].decode("utf-8", "probekit.marks")
        codes = np.array([ord(character) for character in marked], dtype=np.int64)
        is_mark = (codes > _MARK) & (codes <= _MARK + 4)
        if (
            "".join(
                _UNREADABLE if mark else character
                for mark, character in zip(is_mark.tolist(), marked, strict=True)
            )
            != text
        ):
            continue
        n_bytes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
        firsts = np.cumsum(
            np.concatenate([[n_left_out], np.where(is_mark, codes - _MARK, n_bytes)])
        )
        ends = np.array([0, *accumulate(map(len, pieces))])
        begin, end = np.maximum(ends[:-1], n_left_out), np.maximum(ends[1:], n_left_out)
        last = np.searchsorted(firsts[:-1], end, side="left")
        first = np.searchsorted(firsts[:-1], begin, side="right") - 1
        first = np.where(begin == end, last, first)
        return [*zip(first.tolist(), last.tolist(), strict=True)]
    return None
