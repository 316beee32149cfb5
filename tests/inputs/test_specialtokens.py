"""Special tokens beside a text, against what transformers gives by itself."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers as pre, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from probekit.config import load_config
from probekit.errors import ConfigError
from probekit.inputs.specialtokens import SpecialTokens
from probekit.inputs.tokenizing import encoder
from probekit.models import locate

CORPUS = ["the cat's cats sat on a mat, tests estate asset set tea eat"]
TEXTS = ["the cat sat", "<s>the cat", "<s><s>tea", " <s> a", "</s>", "<s>", "cat<s>s"]


@cache
def tokenizer(template: str, *, bos: bool = True) -> Any:
    """Make one that puts `<s>` and `</s>` where a template says."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    words = [AddedToken(word, special=True) for word in ("<unk>", "<s>", "</s>")]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=words,
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    if template != "$A":
        made.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    words = {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", **words)


TEMPLATES = ["$A", "<s> $A", "<s> $A </s>", "$A </s>"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_auto_is_the_tokenizer_but_for_a_second_bos(template: str) -> None:
    made = tokenizer(template)
    found = encoder(made)(TEXTS)
    own = made(TEXTS, return_offsets_mapping=True)
    plain = made(TEXTS, add_special_tokens=False)["input_ids"]
    for n, text in enumerate(TEXTS):
        begins = plain[n][:1] == [1] and template.startswith("<s>")
        begin = 1 if begins else 0
        assert [*found.ids[n]] == own["input_ids"][n][begin:], text
        assert found.spans is not None
        assert [*found.spans[n]] == own["offset_mapping"][n][begin:]
        assert found.has_bos is not None and found.has_bos[n] == begins
    assert [n for n, own_bos in enumerate(found.has_bos or ()) if own_bos] == (
        [1, 2, 5] if template.startswith("<s>") else []
    )


@pytest.mark.parametrize("template", TEMPLATES)
def test_none_adds_nothing_and_takes_nothing_away(template: str) -> None:
    made = tokenizer(template)
    found = encoder(made, special=SpecialTokens(made, "none"))(TEXTS)
    assert [[*ids] for ids in found.ids] == made(TEXTS, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_bos_is_one_and_nothing_else(template: str) -> None:
    made = tokenizer(template)
    found = encoder(made, special=SpecialTokens(made, "bos"))(TEXTS)
    plain = made(TEXTS, add_special_tokens=False, return_offsets_mapping=True)
    for n in range(len(TEXTS)):
        begins = plain["input_ids"][n][:1] == [1]
        assert [*found.ids[n]] == ([] if begins else [1]) + plain["input_ids"][n]
        before = [] if begins else [(0, 0)]
        assert found.spans is not None
        assert [*found.spans[n]] == before + plain["offset_mapping"][n]
    assert found.has_bos == [False, True, True, False, False, True, False]


@pytest.mark.parametrize("word", ["auto", "none", "bos"])
@pytest.mark.parametrize("start", ["", "<s>"])
def test_of_a_long_text_the_first_tokens_are_those_of_the_whole(word: str, start: str) -> None:
    made = tokenizer("<s> $A </s>")
    text = start + "the cat sat on a mat " * 3000
    found = encoder(made, 50, SpecialTokens(made, word))([text, "cat"])
    whole = encoder(made, None, SpecialTokens(made, word))([text, "cat"])
    assert [*found.ids[0][:50]] == [*whole.ids[0][:50]]
    assert len(found.ids[0]) < len(whole.ids[0])
    assert [*found.ids[1]] == [*whole.ids[1]]
    assert found.has_bos == whole.has_bos == [bool(start) and word != "none", False]


def test_gpt2_puts_nothing_by_itself_and_bos_where_it_is_asked() -> None:
    gpt2 = AutoTokenizer.from_pretrained(locate("sample:tiny-gpt2", "model.name").place)
    found = encoder(gpt2, special=SpecialTokens(gpt2, "bos"))(["Cats", "<|endoftext|>Cats"])
    cats = gpt2("Cats")["input_ids"]
    assert [[*ids] for ids in found.ids] == [[gpt2.bos_token_id, *cats]] * 2
    twice = "<|endoftext|><|endoftext|>Cats"
    assert [*encoder(gpt2)([twice]).ids[0]] == gpt2(twice)["input_ids"]


def test_a_tokenizer_without_bos_is_refused_where_one_is_asked_for() -> None:
    config = load_config(
        {
            "model": {"name": "any/model"},
            "inputs": {"texts": ["a"], "special_tokens": "bos"},
            "probes": [{"modules": "**"}],
            "store": {"path": "runs/any"},
        }
    )
    without = tokenizer("$A </s>", bos=False)
    with pytest.raises(ConfigError, match=r"special_tokens: the tokenizer of any/model has no BOS"):
        SpecialTokens(without, "bos").check(config)
    SpecialTokens(without, "none").check(config)
    SpecialTokens(tokenizer("$A"), "bos").check(config)


@pytest.mark.parametrize(
    ("template", "word", "said"),
    [
        ("<s> $A </s>", "auto", None),
        ("<s> $A </s>", "none", "no special token is added; .* adds <s> before and </s> behind"),
        ("<s> $A </s>", "bos", "<s> is put before .* adds <s> before and </s> behind"),
        ("<s> $A", "bos", None),
        ("$A", "bos", "<s> is put before each text; by itself the tokenizer adds nothing"),
        ("$A", "none", None),
    ],
)
def test_what_differs_from_the_tokenizer_is_told(
    template: str, word: str, said: str | None
) -> None:
    note = SpecialTokens(tokenizer(template), word).note()
    if said is None:
        assert note is None
    else:
        assert note is not None and re.search(said, note)
