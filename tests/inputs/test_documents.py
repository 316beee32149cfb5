"""Long documents: the tokens of their pieces are those that transformers' own overflow has."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from many_tokenizers import (
    CUT,
    NEVER_CUT,
    SAMPLE,
    TEXTS,
    fast,
    llama_2,
    long_text,
    made,
    own_bos,
)
from transformers import AutoTokenizer

from probekit.config import ProbeConfig, load_config
from probekit.errors import ConfigError
from probekit.inputs import tokenizing
from probekit.inputs.contents import Codec
from probekit.inputs.documents import Cutting, Splitting, longtexts, windows
from probekit.inputs.examples import Examples, Limits
from probekit.inputs.making import make_examples
from probekit.inputs.specialtokens import SpecialTokens
from probekit.inputs.spots import find_spots
from probekit.store.inputsfile import SealedDocuments, SealedInputs


def config_of(probes: Any = ({"modules": "**"},), **inputs: Any) -> ProbeConfig:
    return load_config(
        {
            "model": {"name": "any"},
            "inputs": inputs,
            "probes": [*probes],
            "store": {"path": "runs/any"},
        }
    )


DOCUMENTS = [long_text(12), "a cat", long_text(5), "the cats eat tea"]


@cache
def tokenizer(name: str) -> Any:
    if name == "the sample":
        return AutoTokenizer.from_pretrained(SAMPLE)
    return fast(own_bos(llama_2()), bos_token="<s>", eos_token="</s>")


def read(
    name: str, n_tokens: int, stride: int, word: str = "auto", /, probes: Any = None, **inputs: Any
) -> tuple[Examples, ProbeConfig]:
    special = SpecialTokens(tokenizer(name), word)
    before, behind = special.beside
    given = inputs or {"texts": DOCUMENTS}
    probes = probes or [{"modules": "**"}]
    config = config_of(probes, **given, too_long="split", stride=stride or None)
    codec = Codec(
        encode=tokenizing.document_encoder(tokenizer(name)),
        splitting=Splitting(
            n_tokens=n_tokens,
            stride=stride,
            before=tuple(before),
            behind=tuple(behind),
            once=special.bos_id,
        ),
    )
    limits = Limits(n_tokens=n_tokens, d_vocab=2**21, too_long="split")
    return make_examples(config, codec, limits), config


def overflowing(name: str, n_tokens: int, stride: int, **more: Any) -> Any:
    return tokenizer(name)(
        DOCUMENTS,
        truncation=True,
        max_length=n_tokens,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        **more,
    )


@pytest.mark.parametrize("name", ["the sample", "with a first and a last token"])
@pytest.mark.parametrize(("n_tokens", "stride"), [(16, 0), (16, 5), (5, 1), (9, 6), (1000, 3)])
def test_pieces_are_what_the_tokenizer_overflows_to(name: str, n_tokens: int, stride: int) -> None:
    examples, _ = read(name, n_tokens, stride)
    wanted = overflowing(name, n_tokens, stride)
    pieces = examples.pieces(0, len(examples))
    assert len(examples) == len(wanted["input_ids"])
    assert pieces["document"].tolist() == wanted["overflow_to_sample_mapping"]
    for n, ids in enumerate(wanted["input_ids"]):
        assert examples.token_ids(n, n + 1).tolist() == ids
        spans, own = examples.spans(n, n + 1), np.array(wanted["offset_mapping"][n])
        covers = own[:, 1] > own[:, 0]
        at = pieces["document_char_start"][n]
        assert (spans["char_start"][covers] + at).tolist() == own[covers, 0].tolist()
        assert (spans["char_end"][covers] + at).tolist() == own[covers, 1].tolist()


@pytest.mark.parametrize("word", ["none", "bos"])
def test_special_tokens_hold_for_each_piece(word: str) -> None:
    examples, _ = read("with a first and a last token", 12, 4, word)
    bos = [tokenizer("with a first and a last token").bos_token_id] if word == "bos" else []
    more = {"add_special_tokens": False}
    wanted = overflowing("with a first and a last token", 12 - len(bos), 4, **more)
    for n, ids in enumerate(wanted["input_ids"]):
        assert examples.token_ids(n, n + 1).tolist() == bos + ids


def test_a_document_that_begins_with_bos_gets_no_second_one_there() -> None:
    texts = [f"<s>{DOCUMENTS[0]}"]
    examples, _ = read("with a first and a last token", 10, 2, texts=texts)
    bos = tokenizer("with a first and a last token").bos_token_id
    for n in range(len(examples)):
        ids = examples.token_ids(n, n + 1).tolist()
        assert ids[0] == bos != ids[1]


def test_bos_within_a_document_is_as_any_other_token_of_it() -> None:
    name = "with a first and a last token"
    bos, text = tokenizer(name).bos_token_id, "a cat<s> the cats<s> eat<s><s> tea"
    own = tokenizer(name)(text, add_special_tokens=False)["input_ids"]
    assert own.count(bos) == 4
    for n_tokens in range(2, 8):
        examples, _ = read(name, n_tokens, 0, "bos", texts=[text])
        wanted = [own[n : n + n_tokens - 1] for n in range(0, len(own), n_tokens - 1)]
        found = [examples.token_ids(n, n + 1).tolist() for n in range(len(examples))]
        assert found == [[bos, *ids] for ids in wanted]


def test_a_document_is_put_together_again_and_no_character_is_lost() -> None:
    for name in ("the sample", "with a first and a last token"):
        examples, _ = read(name, 11, 3)
        pieces = examples.pieces(0, len(examples))
        for number, text in enumerate(DOCUMENTS):
            (own,) = np.nonzero(pieces["document"] == number)
            said = ""
            for n in own:
                at = int(pieces["document_char_start"][n])
                assert at <= len(said)
                assert text[at:].startswith(examples.text(n))
                said = said[:at] + examples.text(n)
            assert said == text


def test_each_token_knows_its_place_in_its_document() -> None:
    name = "with a first and a last token"
    examples, _ = read(name, 11, 3)
    plain = tokenizer(name)(DOCUMENTS, add_special_tokens=False)["input_ids"]
    pieces = examples.pieces(0, len(examples))
    for n in range(len(examples)):
        places = examples.document_positions(n, n + 1)["document_position"]
        ids = examples.token_ids(n, n + 1)
        assert [int(p) for p in places if p < 0] == [-1, -1]
        assert places[1] == pieces["document_start"][n]
        whole = plain[pieces["document"][n]]
        assert [whole[p] for p in places[1:-1]] == ids[1:-1].tolist()


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 60), size=st.integers(1, 20), data=st.data())
def test_every_token_is_in_a_piece_and_neighbours_share_the_stride(
    n: int, size: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(0, size - 1))
    splitting = Splitting(n_tokens=size, stride=stride)
    pieces = [*splitting.pieces("", range(n), None)]
    assert pieces[0].start == 0
    assert {int(id) for piece in pieces for id in piece.ids} == {*range(n)}
    for one, other in pairwise(pieces):
        assert one.n_own == size
        assert len({*one.ids.tolist()} & {*other.ids.tolist()}) == stride
    assert pieces[-1].start + pieces[-1].n_own == n


def test_ids_name_the_document_and_the_piece() -> None:
    rows = [{"id": "a", "text": DOCUMENTS[0]}, {"id": "a:0", "text": "a cat"}]
    examples, _ = read("the sample", 100, 0, examples=rows)
    ids = [examples.id(n) for n in range(len(examples))]
    n = len(ids) - 1
    assert ids == [*(f"a:{k}" for k in range(n)), "a:0:0"]
    assert len({*ids}) == len(ids)


def test_columns_stand_beside_each_piece_and_the_limit_counts_documents() -> None:
    rows = [{"text": text, "label": n} for n, text in enumerate(DOCUMENTS)]
    examples, _ = read("the sample", 20, 0, examples=rows, limit=2)
    (label,) = examples.columns(0, len(examples))
    assert label.values.tolist() == examples.pieces(0, len(examples))["document"].tolist()
    assert {*label.values.tolist()} == {0, 1}


# --- spots


def spots(texts: list[str], **more: Any) -> tuple[list[int], list[str]]:
    """Give how many tokens of " cat" each piece has."""
    probes = [{"sites": "resid_post", "positions": {"match": " cat", **more}}]
    examples, config = read("the sample", 8, 0, probes=probes, texts=texts)
    choices, notes = find_spots(config, examples)
    (found,) = choices.found.values()
    return found.sizes.tolist(), notes


def test_a_spot_of_one_piece_is_enough_for_its_document() -> None:
    counts, notes = spots(["a mat sat on " * 5 + "the cat is here", "the cat"])
    assert counts.count(0) == len(counts) - 2
    (note,) = notes
    assert "another piece of the document has one" in note


def test_a_document_without_a_spot_is_told() -> None:
    said = (
        r"is not there, in example 1 .*, nor in another piece of document 1: .*inputs\.stride.*; "
        r".*1 more document\."
    )
    with pytest.raises(ConfigError, match=said):
        spots(["the cat", "a mat sat on " * 5, "a mat"])
    counts, notes = spots(["the cat", "a mat sat on " * 5], missing="skip")
    assert counts[0] and not any(counts[1:])
    assert "(missing: skip)" in notes[0]


# --- very long ones


@pytest.mark.few(8)
@pytest.mark.parametrize("name", CUT)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(TEXTS, min_size=5, max_size=12))
def test_windows_give_the_tokens_of_the_whole(name: str, texts: list[str]) -> None:
    text, found = "".join(texts), made(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(longtexts, "_WINDOW", 30)
        patch.setattr(longtexts, "_LONG", 10)
        parts = [*windows(text, Cutting(found).may_cut)]
    whole = found.encode(text, add_special_tokens=False)
    ids, offsets = [], []
    for part in parts:
        encoded = found.encode(text[part.begin : part.end], add_special_tokens=False)
        for id, (begin, end) in zip(encoded.ids, encoded.offsets, strict=True):
            if part.first <= begin + part.begin < part.last:
                ids.append(id)
                offsets.append((begin + part.begin, end + part.begin))
    assert ids == whole.ids
    assert offsets == whole.offsets


@pytest.mark.parametrize("name", NEVER_CUT)
def test_what_may_not_be_cut_is_one_window(name: str) -> None:
    text = long_text(40_000)
    assert len([*windows(text, Cutting(made(name)).may_cut)]) == 1


def test_a_long_document_is_encoded_a_part_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, text = tokenizer("the sample"), long_text(25_000)
    assert len(text) > 600_000
    longest = []
    encode = tokenizing.encoder

    def watched(*args: Any, **more: Any) -> Any:
        inner = encode(*args, **more)

        def called(texts: list[str]) -> Any:
            longest.append(max(map(len, texts)))
            return inner(texts)

        return called

    monkeypatch.setattr(tokenizing, "encoder", watched)
    found = tokenizing.document_encoder(one)([text, "a cat"])
    assert max(longest) < 300_000
    wanted = one([text, "a cat"], return_offsets_mapping=True, verbose=False)
    for n in range(2):
        assert np.array_equal(found.ids[n], wanted["input_ids"][n])
        assert found.spans is not None
        assert np.array_equal(found.spans[n], wanted["offset_mapping"][n])


# --- what is sealed


def rows(*pieces: tuple[int, ...]) -> SealedDocuments:
    return SealedDocuments(rows=np.array(pieces, dtype=np.int64).reshape(-1, 5))


def test_sealed_documents_are_checked() -> None:
    whole = [(0, 0, 1, 4, 0), (0, 3, 1, 4, 9), (1, 0, 1, 2, 0)]
    n_tokens = np.array([6, 6, 3])
    assert rows(*whole).wrong(n_tokens) is None
    for number, place, value, said in [
        (0, 0, 1, "not numbered"),
        (2, 0, 2, "not numbered"),
        (2, 1, 1, "do not begin"),
        (1, 1, 0, "do not follow"),
        (1, 1, 5, "do not follow"),
        (1, 3, 9, "other tokens"),
        (2, 3, 0, "other tokens"),
    ]:
        odd = [[*one] for one in whole]
        odd[number][place] = value
        assert re.search(said, str(rows(*map(tuple, odd)).wrong(n_tokens)))  # type: ignore[arg-type]
    assert rows(*whole[:2]).wrong(n_tokens) == "its documents are not those of its texts"


def test_documents_are_sealed_and_decide_the_digest(tmp_path: Any) -> None:
    one, _ = read("the sample", 8, 2)
    one.sealed({}).seal(tmp_path)
    found = SealedInputs.read(tmp_path)
    assert found is not None
    again = Examples.of(found)
    for name, values in one.pieces(0, len(one)).items():
        assert np.array_equal(again.pieces(0, len(one))[name], values)
    assert again.digest == one.digest
    one._documents = None
    del one.digest
    assert one.digest != again.digest
