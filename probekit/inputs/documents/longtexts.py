"""Long texts: how few of their characters give their first tokens, exactly, and the next ones.

Knows the parts that a fast tokenizer says it is made of; calls nothing of it but its own splitting
of three characters. A text may be cut between a letter and a space that a letter follows, in ASCII,
where what stands behind the cut can change no token before it, nor what stands before it one behind
it (but that the first word of all is spelled otherwise):

- every normalizer looks at single characters, or at marks that combine with the one before;
- every pre-tokenizer looks at runs of one kind of character, of which none holds such a place, and
  at one character more;
- either words end at that place, or the model has no token over it, so that BPE's merges and
  Unigram's best path go through it.

What is not known to be so is no such tokenizer: its texts are encoded whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

_LONG = 20_000  # characters; a shorter text is encoded whole, in no time
_WINDOW = 1 << 18  # characters of a long text that are encoded at a time
_TRIED = 1000  # places, before a text is taken for one that may not be cut
_PER_TOKEN = 16  # characters of a token, more than most have
_PLACE = re.compile("[A-Za-z] (?=[A-Za-z])")
_OVER = re.compile("[A-Za-z][ \u2581\u0120]")  # a space is spelled in three ways
_WORD = re.compile("[ \u2581\u0120]*[A-Za-z]")

_NORMALIZERS = {
    *("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Lowercase", "StripAccents", "Strip"),
    *("BertNormalizer", "Prepend", "ByteLevel"),
}
_PRE_TOKENIZERS = {
    *("ByteLevel", "Metaspace", "Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Digits"),
    *("Punctuation", "CharDelimiterSplit"),
}
_POST_PROCESSORS = {"TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel"}
_MODELS = {"BPE", "Unigram", "WordPiece", "WordLevel"}
_ENGLISH = "'s|'t|'re|'ve|'m|'ll|'d"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = {  # of Split and Replace
    rf"{_ENGLISH}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+",  # GPT-2
    rf"(?i:{_ENGLISH})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_OTHERS}",  # Llama 3, GPT-4
    rf"(?i:{_ENGLISH})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_OTHERS}",  # Qwen 2
    r"\p{N}{1,3}",
    "[0-9][0-9][0-9]",
    r"\p{N}",
    r"\d",
    r"\s+",
    " {2,}",
}


def head_ends(text: str, n_tokens: int) -> Iterator[int]:
    """Give places to cut a long text at, each about twice as far as the one before.

    Args:
        text: which may be short: then there is none.
        n_tokens: that are wanted of it.
    """
    end = max(_LONG // 4, _PER_TOKEN * n_tokens)
    while end < len(text) // 2 and len(text) > _LONG:
        place = _PLACE.search(text, end)
        if place is None:
            return
        yield place.start() + 1
        end = 2 * place.start()


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of a long text that is encoded by itself, and which of its tokens are the text's."""

    begin: int  # the first character that is encoded
    end: int  # the one behind the last
    first: int  # tokens that begin at this character, or later, are those of the whole text,
    last: int  # and that begin before this one


def windows(text: str, may_cut: Callable[[str, int], bool]) -> Iterator[Window]:
    """Give the parts to encode one after another; together they give each token once.

    A part begins a word early, since a first word can be spelled otherwise than in the middle, and
    ends a word late, since the last token may say that it covers the space behind it.

    Args:
        text: of any length; a short one is one window.
        may_cut: says of a place whether the tokens on either side know nothing of the other.
    """
    begin = first = 0
    while len(text) - first > _WINDOW + _LONG:
        found = _PLACE.finditer(text, first + _WINDOW)
        tried = (place.start() + 1 for place in islice(found, _TRIED))
        places = [*islice((place for place in tried if may_cut(text, place)), 3)]
        if len(places) < 3:
            break
        next_begin, next_first, end = places
        yield Window(begin=begin, end=end, first=first, last=next_first)
        begin, first = next_begin, next_first
    yield Window(begin=begin, end=len(text), first=first, last=len(text) + 1)


class Cutting:
    """What a fast tokenizer says of itself, as to cutting texts.

    Args:
        backend: the tokenizer, of the package `tokenizers`.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._parts: Mapping[str, Any] = json.loads(backend.to_str())
        self._is_local = all(self._conditions())
        self._symbols: dict[str, bool] = {}  # of a space: whether the model joins nothing over it

    def may_cut(self, text: str, end: int) -> bool:
        """Say whether what stands from a place on can change no token before it."""
        if not self._is_local:
            return False
        sample = text[end - 1 : end + 2]
        if self._backend.normalizer is not None:
            sample = self._backend.normalizer.normalize_str(sample)
        words = [sample]
        if self._backend.pre_tokenizer is not None:
            words = [word for word, _ in self._backend.pre_tokenizer.pre_tokenize_str(sample)]
        if self._is_split(words):
            return True
        joined = re.fullmatch("[ \u2581\u0120]*[A-Za-z](.)[A-Za-z]", "".join(words))
        return joined is not None and self._joins_nothing(joined[1])

    def _is_split(self, words: list[str]) -> bool:
        """Say whether one word ends with the first letter, and another has the second."""
        lettered = [word for word in words if word.strip(" \u2581\u0120")]
        return len(lettered) == 2 and all(_WORD.fullmatch(word) for word in lettered)

    def _joins_nothing(self, symbol: str) -> bool:
        if symbol not in self._symbols:
            model = self._parts["model"]
            is_merging = model["type"] == "Unigram" or (
                model["type"] == "BPE" and not model.get("end_of_word_suffix")
            )
            tokens = set(_tokens(model))
            over = re.compile(f"[A-Za-z]{re.escape(symbol)}")
            is_there = is_merging and symbol in tokens  # what is unknown may be joined
            self._symbols[symbol] = is_there and not any(map(over.search, tokens))
        return self._symbols[symbol]

    def _conditions(self) -> Iterator[bool]:
        parts, model = self._parts, self._parts["model"]
        yield all(map(_is_local_normalizer, _flat(parts["normalizer"], "normalizers")))
        yield all(map(_is_local_splitter, _flat(parts["pre_tokenizer"], "pretokenizers")))
        processors = _flat(parts["post_processor"], "processors")
        yield all(one["type"] in _POST_PROCESSORS for one in processors)
        yield model["type"] in _MODELS and not model.get("dropout")
        yield not any(_OVER.search(text) for text in self._added())

    def _added(self) -> Iterator[str]:
        """Give what the tokenizer looks for before all else, as it is written and normalized."""
        for token in self._parts["added_tokens"]:
            yield token["content"]
            if self._backend.normalizer is not None:
                yield self._backend.normalizer.normalize_str(token["content"])


def _flat(part: Mapping[str, Any] | None, key: str) -> Iterator[Mapping[str, Any]]:
    if part is not None and part["type"] == "Sequence":
        for inner in part[key]:
            yield from _flat(inner, key)
    elif part is not None:
        yield part


def _tokens(model: Mapping[str, Any]) -> Iterable[str]:
    vocab = model["vocab"]
    return vocab if isinstance(vocab, Mapping) else (token for token, _ in vocab)


def _is_local_normalizer(part: Mapping[str, Any]) -> bool:
    return part["type"] in _NORMALIZERS or (part["type"] == "Replace" and _is_local_pattern(part))


def _is_local_splitter(part: Mapping[str, Any]) -> bool:
    return part["type"] in _PRE_TOKENIZERS or (part["type"] == "Split" and _is_local_pattern(part))


def _is_local_pattern(part: Mapping[str, Any]) -> bool:
    pattern = part["pattern"]
    if "String" in pattern:
        return not _OVER.search(pattern["String"])
    return pattern.get("Regex") in _PATTERNS
