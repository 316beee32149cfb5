"""Tokenizers of every kind, each tiny, and texts that are hard for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
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
from transformers import PreTrainedTokenizerFast

from probekit.inputs.documents import longtexts

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


SAMPLE = Path(longtexts.__file__).parents[2] / "samples" / "tiny-gpt2"
