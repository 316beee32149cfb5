"""The process that carries templates out: bounded, and whole again after one that was ended."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from chat_templates import DATE
from jinja2 import TemplateSyntaxError

from probekit.errors import ConfigError
from probekit.inputs.chats import (
    Bounds,
    Conversation,
    Refused,
    Rendered,
    Renderer,
    Setting,
    read_conversation,
)
from probekit.inputs.chats.conversation import Message
from probekit.inputs.chats.rendering import refusal_of
from probekit.inputs.chats.templating import Templating

# What it does is said in a chat, so that one process shows many templates.
HOSTILE = """\
{% if messages[0].content == 'ends' %}
{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}
{% elif messages[0].content == 'grows' %}
{% set ns = namespace(s='a' * 1000) %}{% for i in range(60) %}
{% set ns.s = ns.s + ns.s %}{% endfor %}
{% elif messages[0].content == 'is large' %}{{ 'a' * 10**11 }}
{% elif 'writes' in messages[0].content %}
{% for i in range(3000) %}{{ 'abcdefghij' }}{% endfor %}
{% elif 'date' in messages[0].content %}{{ strftime_now('%d %b %Y') }}
{% endif %}{{ messages[0].content }}"""


def said(content: str) -> Conversation:
    found = read_conversation([{"role": "user", "content": content}])
    assert isinstance(found, Conversation)
    return found


def test_a_template_that_never_ends_or_grows_is_refused_and_the_others_go_on() -> None:
    bounds = Bounds(seconds=1.5, bytes=1 << 26, characters=20_000)
    with Renderer(Setting(source=HOSTILE, date=DATE), "my.jinja", bounds) as renderer:
        found = [
            *renderer.render([said(s) for s in ("hi", "ends", "grows", "is large", "writes", "hi")])
        ]
        assert not renderer.asks_for_date
        many = [*renderer.render([said(f"text {n}") for n in range(300)])]
        (dated,) = renderer.render([said("date")])
        assert renderer.asks_for_date
    texts = [one.text for one in many if isinstance(one, Rendered)]
    assert texts == [f"text {n}" for n in range(300)]
    assert [isinstance(one, Rendered) for one in found] == [True, False, False, False, False, True]
    ends, grows, large, writes = (one for one in found if isinstance(one, Refused))
    assert (ends.reason, ends.line) == ("the template takes more than 1.5 s", 2)
    assert (grows.reason, grows.line) == ("it takes more memory than a template may", 5)
    assert (large.reason, large.line) == (grows.reason, 6)
    assert writes.reason == "the template writes more than 20,000 characters"
    assert isinstance(dated, Rendered) and dated.text.startswith("26 Jul 2024")


def test_modules_in_the_current_folder_are_not_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("resource", "jinja2", "queue"):
        (tmp_path / f"{name}.py").write_text("open('carried_out', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    with Renderer(Setting(source=HOSTILE, date=DATE), "my.jinja") as renderer:
        (found,) = renderer.render([said("hi")])
    assert isinstance(found, Rendered) and found.text == "hi"
    assert not (tmp_path / "carried_out").exists()


def test_a_constant_that_is_too_large_to_compile_names_the_template() -> None:
    setting = Setting(source="{{ 'a' * 10**8 }}", date=DATE)
    told = r"^my\.jinja: the template (takes more than|ends the process .* more than) 0\.1 s"
    bounds = Bounds(seconds=0.1)
    with (
        Renderer(setting, "my.jinja", bounds) as renderer,
        pytest.raises(ConfigError, match=told),
    ):
        [*renderer.render([said("hi")])]


def test_a_fault_of_the_process_itself_is_told_as_one() -> None:
    unread = Conversation(messages=(Message(role="user", given={"role": "user", "content": [{}]}),))
    with Renderer(Setting(source="{{ messages }}", date=DATE), "my.jinja") as renderer:
        (found,) = renderer.render([unread])
    assert isinstance(found, Refused)
    assert found.reason == "the process that renders chats failed: KeyError: 'text'"


def test_a_template_that_is_none_names_its_line() -> None:
    with pytest.raises(TemplateSyntaxError) as error:
        Templating(Setting(source="a\n{% for %}", date=DATE))
    assert refusal_of(error.value).line == 2


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ([], "is empty"),
        ("hi", "expected a list of messages"),
        ([[]], "message 0: given"),
        ([{"role": "user"}], "message 0: has no content"),
        ([{"content": "a"}], "message 0: has no role"),
        ([{"role": 3, "content": "a"}], "role: given 3"),
        (
            [{"from": "human", "value": "hi"}],
            "rename `from` into `role` and `value` into `content`",
        ),
        ([{"role": "user", "content": 3}], "expected a text, or a list of text parts"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "x"}]}],
            r"content\[0\]: is of type 'image'; only texts",
        ),
        ([{"role": "user", "content": "a\0"}], "content has a NUL"),
        ({"messages": []}, "expected the list of messages itself"),
        ([{"role": "u", "content": "a"}] * 5001, "5,001 messages; at most 5,000"),
    ],
)
def test_what_is_no_conversation_says_why(given: object, wrong: str) -> None:
    found = read_conversation(given)
    assert isinstance(found, str)
    assert re.search(wrong, found), found


def test_tool_calls_need_no_content_and_other_keys_go_on() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    found = read_conversation([{"role": "user", "content": "a", "name": "Ann"}, call])
    assert isinstance(found, Conversation)
    assert found.plain[0]["name"] == "Ann" and "content" not in found.plain[1]
