"""What a run will read, against the tokenizer itself."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

import probekit
from probekit.errors import PlanError
from probekit.models import locate
from probekit.planning import Plan, view_example

TEXT = "The capital of Japan is ü"


def plan(**inputs: Any) -> Plan:
    return probekit.plan(
        {
            "model": {"name": "sample:tiny-gpt2"},
            "inputs": inputs or {"examples": [{"text": TEXT, "subject": " Japan", "n": None}]},
            "probes": [
                {"sites": "resid_post", "positions": "last"},
                {"sites": "z", "positions": {"match": "apan is"}},
            ],
            "store": {"path": "runs/none"},
        }
    )


def test_an_example_is_shown_as_the_tokenizer_cuts_it() -> None:
    found = view_example(plan(), 0)
    tokenizer = AutoTokenizer.from_pretrained(locate("sample:tiny-gpt2", "model.name").place)
    encoded = tokenizer(TEXT, return_offsets_mapping=True)
    assert [token.id for token in found.tokens] == encoded["input_ids"]
    spans = [(token.char_start, token.char_end) for token in found.tokens]
    assert spans == [tuple(span) for span in encoded["offset_mapping"]]
    assert found.columns == {"subject": " Japan", "n": None}
    last, japan = found.tokens[-1], next(t for t in found.tokens if t.text == " Japan")
    assert last.probes == (0,)
    assert japan.probes == (1,)
    assert [t.text for t in found.tokens if 1 in t.probes] == [" Japan", " is"]


def test_random_tokens_have_no_characters() -> None:
    given = {"random": {"examples": 1, "min_tokens": 2, "max_tokens": 3}}
    config = {"model": {"name": "sample:tiny-gpt2"}, "inputs": given}
    more = {"probes": [{"sites": "z"}], "store": {"path": "runs/none"}}
    found = view_example(probekit.plan({**config, **more}), 0)
    assert {token.char_start for token in found.tokens} == {None}
    assert all(token.text for token in found.tokens)


def test_an_example_that_is_none_is_refused() -> None:
    with pytest.raises(PlanError, match="no example 1: there are 1, from 0 on"):
        view_example(plan(), 1)
