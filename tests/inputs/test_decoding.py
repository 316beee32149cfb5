"""What token ids read as, against the tokenizer's own decoding and encoding."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers as norm,
    pre_tokenizers as pre,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from probekit.inputs.decoding import decoder, spans_by_bytes
from probekit.models import locate

TEXTS = ["The capital of Japan is Tokyo.", "Cats are 日本語 🙂", " spaces  kept ", "ü"]


@cache
def gpt2() -> Any:
    return AutoTokenizer.from_pretrained(locate("sample:tiny-gpt2", "model.name").place)


@cache
def word_pieces() -> Any:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = norm.BertNormalizer(), pre.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=60, special_tokens=["[UNK]"], show_progress=False
    )
    made.train_from_iterator(["the cats sat on a mat, tests estate asset"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


@cache
def sentence_pieces() -> Any:
    """As Llama 2's: bytes of what it has no token for, and a space before the first word."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "C", "a", "t", "s"]
    vocabulary = {word: n for n, word in enumerate([*words, "\u2581C", "at", "\u2581a"])}
    merges = [("\u2581", "C"), ("a", "t"), ("\u2581", "a")]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    made.normalizer = norm.Sequence([norm.Prepend("\u2581"), norm.Replace(" ", "\u2581")])
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def test_ids_of_a_text_read_as_it_with_its_own_characters() -> None:
    encoded = gpt2()(TEXTS, return_offsets_mapping=True)
    found = decoder(gpt2())(encoded["input_ids"])
    assert [*found.texts] == TEXTS
    assert [spans and [*spans] for spans in found.spans] == encoded["offset_mapping"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 1549), min_size=1, max_size=30))
def test_any_ids_cover_the_text_from_its_beginning_to_its_end(ids: list[int]) -> None:
    found = decoder(gpt2())([ids])
    (text,), (spans,) = found.texts, found.spans
    assert text == gpt2().decode(ids).replace("\0", "\ufffd")
    assert spans is not None and len(spans) == len(ids)
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    assert all(0 <= first < end <= len(text) for first, end in spans)
    assert all(b[0] <= a[1] for a, b in pairwise(spans)), "no gap"
    assert [first for first, _ in spans] == sorted(first for first, _ in spans)


def test_letters_that_would_be_one_token_cover_one_character_each() -> None:
    ids = gpt2().convert_tokens_to_ids([*"Cats"])
    found = decoder(gpt2())([ids])
    assert (found.texts, found.spans) == (["Cats"], [[(0, 1), (1, 2), (2, 3), (3, 4)]])


def test_a_part_of_a_character_covers_what_stands_for_it() -> None:
    whole = gpt2()("日本")["input_ids"]
    found = decoder(gpt2())([whole[:-1], whole])
    assert found.texts[0] == "日\ufffd"
    assert found.spans[0] == [(0, 1), (0, 1), (0, 1), (1, 2), (1, 2)]
    assert found.texts[1] == "日本"


def test_pieces_of_words_cover_their_letters() -> None:
    made = word_pieces()
    ids = made.convert_tokens_to_ids(["c", "##a", "##t", "##s", "s", "##a", "##t"])
    found = decoder(made)([ids])
    assert [*found.texts] == ["cats sat"]
    spans = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 6), (6, 7), (7, 8)]
    assert found.spans == [spans]


@pytest.mark.parametrize(
    ("tokens", "text", "spans"),
    [
        (["\u2581C", "at", "s", "\u2581a"], "Cats a", [(0, 1), (1, 3), (3, 4), (4, 6)]),
        (["\u2581C", "a", "t"], "Cat", [(0, 1), (1, 2), (2, 3)]),
        (["\u2581", "C", "a", "t"], "Cat", [(0, 0), (0, 1), (1, 2), (2, 3)]),
        (["C", "a", "t"], "Cat", [(0, 1), (1, 2), (2, 3)]),
        (["C", "<0xC3>", "<0xBC>"], "Cü", [(0, 1), (1, 2), (1, 2)]),
    ],
)
def test_a_space_that_a_decoder_takes_away_is_no_character(
    tokens: list[str], text: str, spans: list[tuple[int, int]]
) -> None:
    made = sentence_pieces()
    found = decoder(made)([made.convert_tokens_to_ids(tokens)])
    assert [*found.texts] == [text]
    assert [tuple(span) for span in found.spans[0] or ()] == spans


def test_an_id_that_is_no_tokens_covers_nothing() -> None:
    size = len(gpt2())
    ids = [*gpt2()("Cats")["input_ids"], size + 5, *gpt2()(" are")["input_ids"]]
    found = decoder(gpt2())([ids, [size + 1]])
    assert [*found.texts] == ["Cats are", ""]
    assert found.spans == [[(0, 4), (4, 4), (4, 8)], [(0, 0)]]


def test_a_nul_is_no_character_of_a_text() -> None:
    (zero,) = gpt2()("\0")["input_ids"]
    found = decoder(gpt2())([[zero, *gpt2()("Cats")["input_ids"]]])
    assert (found.texts, found.spans) == (["\ufffdCats"], [[(0, 1), (1, 5)]])


@given(st.binary(max_size=12), st.lists(st.integers(0, 12), max_size=4))
def test_characters_are_counted_as_python_decodes_them(data: bytes, cuts: list[int]) -> None:
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    pieces = [data[a:b] for a, b in pairwise(ends)]
    spans = spans_by_bytes(pieces, data.decode("utf-8", "replace"))
    if not pieces:
        return
    assert spans is not None
    for begin, (first, end) in zip(ends, spans, strict=False):
        try:
            before = data[:begin].decode()
        except UnicodeDecodeError:
            continue
        assert first == len(before) and end > first


def test_bytes_that_are_not_the_text_tell_nothing() -> None:
    assert spans_by_bytes([b"Cats", b" are"], "cats are") is None
    assert spans_by_bytes([b" Cats"], "Cats") == [(0, 4)]
