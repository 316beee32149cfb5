"""Public templates: their text is transformers', and contents stand where a person marked them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
import transformers
from chat_templates import DATE, FOLDER, SPECIAL, Case, read_cases
from transformers.utils import chat_template_utils

from probekit.inputs.chats.rendering import render
from probekit.inputs.chats.segments import Rendered
from probekit.inputs.chats.templating import Templating

CASES = [*read_cases()]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained("probekit/samples/tiny-gpt2", **SPECIAL)


@pytest.fixture
def on_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    class Day(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromisoformat(DATE)

    monkeypatch.setattr(chat_template_utils, "datetime", Day)


def rendered(case: Case) -> Rendered:
    found = render(Templating(case.setting), case.messages)
    assert isinstance(found, Rendered), found
    return found


def test_there_are_more_than_thirty_templates() -> None:
    assert len({*FOLDER.glob("*.jinja")}) > 30
    assert {p.stem for p in FOLDER.glob("*.jinja")} == {case.template for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.template}: {c.head}")
def test_contents_stand_where_a_person_sees_them(case: Case) -> None:
    found = rendered(case)
    assert found.text == case.text
    assert [(begin, end) for begin, end, _, _ in found.pieces] == case.contents


@pytest.mark.usefixtures("on_the_day")
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.template}: {c.head}")
def test_the_text_is_what_transformers_writes(case: Case, tokenizer: Any) -> None:
    theirs = tokenizer.apply_chat_template(
        case.messages,
        chat_template=case.source,
        tokenize=False,
        add_generation_prompt=case.setting.add_generation_prompt,
        **case.arguments,
    )
    assert rendered(case).text == theirs
