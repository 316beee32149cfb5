"""Whether two traces are over the same texts and tokens."""

import pytest
from tiny_traces import site, write_trace

import probekit
from probekit.analysis.alignment import align
from probekit.errors import StoreError
from probekit.trace import rowblocks as blocks

LENGTHS = ((3, 1), (2,))
TEXTS = ["one two three", "four", "five six"]
WORDS = ("?", "one", " two", " three", "four", "five", " six")
IDS = [1, 2, 3, 4, 5, 6]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 16)


def a_trace(folder, **given):
    given = {
        "lengths": LENGTHS, "texts": TEXTS, "token_ids": IDS, "vocabulary": WORDS, **given
    }  # fmt: skip
    return probekit.open(write_trace(folder, [site(row_shape=(2,))], **given).folder)


def test_the_same_texts_and_tokens_lie_beside_each_other(tmp_path):
    a, b = a_trace(tmp_path / "a"), a_trace(tmp_path / "b", lengths=((3,), (1, 2)))
    assert align(a, b).by_token


def test_all_texts_are_read_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("probekit.trace.columns.axistable._TEXTS_READ", 2)
    made = write_trace(tmp_path, lengths=((1, 1, 1), (1,), (1, 1)))
    assert list(probekit.open(made.folder).examples.texts()) == made.texts


def test_other_texts_are_an_error_that_names_the_first(tmp_path):
    a = a_trace(tmp_path / "a")
    b = a_trace(tmp_path / "b", texts=[TEXTS[0], "fore", "five sicks"])
    with pytest.raises(StoreError, match=r"example 1 differs: it is 'four' in .*a.* and 'fore' in"):
        align(a, b)
    c = a_trace(tmp_path / "c", lengths=((3, 1),), token_ids=IDS[:4], texts=TEXTS[:2])
    with pytest.raises(StoreError, match=r"a/trace.h5 has 3 examples and .*c/trace.h5 has 2"):
        align(a, c)


def test_other_tokens_of_one_tokenizer_are_an_error_that_names_the_first(tmp_path):
    a = a_trace(tmp_path / "a")
    b = a_trace(tmp_path / "b", token_ids=[1, 2, 3, 4, 5, 3])
    with pytest.raises(
        StoreError, match=r"example 2 differs, .*token 1 is ' six' in .*a.*, ' three' in .*b"
    ):
        align(a, b)
    cut = a_trace(tmp_path / "c", lengths=((2, 1), (2,)), token_ids=[1, 2, 4, 5, 6])
    with pytest.raises(
        StoreError, match=r"example 0 .* 2 is ' three' in .*, nothing in .*\(3 and 2"
    ):
        align(a, cut)


def test_two_tokenizers_that_cut_alike_lie_token_by_token(tmp_path):
    other = ("four", " six", "five", " three", "?", " two", "one")
    ids = [other.index(WORDS[n]) for n in IDS]
    a, b = a_trace(tmp_path / "a"), a_trace(tmp_path / "b", vocabulary=other, token_ids=ids)
    assert align(a, b).by_token


def test_two_tokenizers_that_cut_differently_lie_example_by_example(tmp_path):
    a = a_trace(tmp_path / "a")
    b = a_trace(
        tmp_path / "b",
        lengths=((3, 2), (2,)),
        token_ids=[1, 2, 3, 4, 7, 5, 6],
        vocabulary=("?", "one", " two", " three", "fo", "five", " six", "ur"),
    )
    found = align(a, b)
    assert not found.by_token
    assert "example 1: token 0 is 'four' in" in found.difference
    assert "(1 and 2 tokens)" in found.difference


def test_ids_beyond_a_vocabulary_are_themselves(tmp_path):
    a = a_trace(tmp_path / "a", token_ids=[1, 2, 3, 4, 5, 99])
    b = a_trace(tmp_path / "b", token_ids=[1, 2, 3, 4, 5, 99], vocabulary=(*WORDS, "more"))
    c = a_trace(tmp_path / "c", token_ids=[1, 2, 3, 4, 5, 98], vocabulary=(*WORDS, "more"))
    assert align(a, b).by_token
    assert not align(a, c).by_token


def test_without_a_vocabulary_ids_are_compared(tmp_path):
    a = a_trace(tmp_path / "a")
    lone = probekit.open(tmp_path / "a" / "shards" / "00001.h5")
    b = a_trace(tmp_path / "b", lengths=((2,),), texts=TEXTS[2:], token_ids=IDS[4:])
    assert not lone.vocabulary
    assert align(lone, b).by_token
    with pytest.raises(StoreError, match=r"3 examples and .* has 1"):
        align(a, lone)
