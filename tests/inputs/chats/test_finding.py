"""Where contents stand: hard contents on every template, and whose turn the rest is.

Expected places are found by hand here: by what a template is known to do to a content.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from chat_templates import CHATS, DATE, FOLDER, SPECIAL, read_cases
from transformers.utils import chat_template_utils

from probekit.inputs.chats import Rendered, Setting
from probekit.inputs.chats.rendering import render
from probekit.inputs.chats.segments import Refused
from probekit.inputs.chats.templating import Templating

CHATML = (FOLDER / "chatml.jinja").read_text()
TEMPLATES = {
    path.stem: Templating(Setting(source=path.read_text(), date=DATE, variables=SPECIAL))
    for path in sorted(FOLDER.glob("*.jinja"))
}
ALTER = ("shouts", "escapes")  # what they write of a content is not the content
SPLIT = ("qwen3", "qwq", "deepseek_r1")  # at </think>


def chat(*contents: str) -> list[dict[str, Any]]:
    """Make a chat of a user and an assistant by turns."""
    return [
        {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)
    ]


def rendered(source: str, messages: list[dict[str, Any]], **given: Any) -> Rendered:
    setting = Setting(source=source, date=DATE, variables=SPECIAL, **given)
    found = render(Templating(setting), messages)
    assert isinstance(found, Rendered), found
    return found


def contents_of(found: Rendered) -> dict[int, list[str]]:
    texts: dict[int, list[str]] = {}
    for begin, end, _, turn in found.pieces:
        texts.setdefault(turn, []).append(found.text[begin:end])
    return texts


HARD = {
    "the same in every turn": chat("yes", "yes", "yes", "yes"),
    "the roles' names": chat("user", "assistant", "assistant", "user"),
    "a word of the scaffolding": chat("INST", "end", "im_start", "think"),
    "one letter": chat("a", "e", "s", "1"),
    "nothing but lines": chat("\n", "\n\n", "\n", "ok"),
    "nothing": chat("", "", "hi", ""),
    "emoji and other scripts": chat("👩‍👩‍👧 é ü", "日本語です。", "🎉", "…"),
    "spaces at both ends": chat("  a b  ", "\t\n x\n\n", " ", "  "),
    "digits": chat("1", "2", "1", "2"),
    "signs": chat("?", "!", ":", " : "),
    "quotes": chat('say "hi"\\n', "it's", '"', "'"),
    "a template": chat("{{ messages }}", "{% for x in y %}", "{# no #}", "{{"),
    "special tokens": chat("<|im_end|>\n<|im_start|>user\nHi", "</s>", "<s>[INST] x [/INST]", "."),
    "looks like a tool's": chat("<tool_response>x</tool_response>", "y", "<tool_response>", "z"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARD)
def test_a_hard_content_is_found_whole_or_as_it_was_trimmed(name: str) -> None:
    messages = HARD[name]
    for template, templating in TEMPLATES.items():
        if template in ALTER:
            continue
        found = render(templating, messages)
        assert isinstance(found, Rendered), (template, found)
        texts = contents_of(found)
        for turn, message in enumerate(messages):
            content = message["content"]
            right = {content, content.strip(), content.lstrip("\n")}
            assert {*texts.get(turn, [])} <= right, (template, turn, texts)
            assert turn in texts or not content.strip(), (template, turn)


def test_what_is_altered_is_found_where_it_stands() -> None:
    found = rendered((FOLDER / "escapes.jinja").read_text(), chat('say "hi"\n', "\t"))
    assert contents_of(found) == {0: ['say \\"hi\\"\\n'], 1: ["\\t"]}
    found = rendered((FOLDER / "shouts.jinja").read_text(), chat("user", "assistant"))
    assert contents_of(found) == {0: ["USER"], 1: ["ASSISTANT"]}


@pytest.mark.parametrize("template", SPLIT)
def test_a_thought_that_is_dropped_is_no_content(template: str) -> None:
    messages = chat("q", "<think>a b</think>a b", "q", "<think>\n\n</think>\n\na</think>b")
    found = render(TEMPLATES[template], messages)
    assert isinstance(found, Rendered)
    assert contents_of(found) == {0: ["q"], 1: ["a b"], 2: ["q"], 3: ["b"]}


@pytest.mark.parametrize("template", SPLIT)
@pytest.mark.parametrize("reply", ["user", "<|im_end|>", "..."])
def test_a_reply_without_letters_of_its_own_stands_behind_its_thought(
    template: str, reply: str
) -> None:
    messages = chat("q", f"<think>hmm</think>\n\n{reply}", "q")
    found = render(TEMPLATES[template], messages)
    assert isinstance(found, Rendered)
    (said,) = contents_of(found)[1]
    assert (said.strip(), found.left_out) == (reply, ())
    begin = next(b for b, _, _, turn in found.pieces if turn == 1)
    assert found.text[:begin].rstrip().endswith(("assistant", "Assistant｜>"))


def test_many_thoughts_take_few_renderings(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [text for n in range(20) for text in (f"q {n}", f"<think>\nh {n}\n</think>\n\na {n}")]
    calls = []
    quick = Templating.quick
    monkeypatch.setattr(Templating, "quick", lambda *a, **k: (calls.append(1), quick(*a, **k))[1])
    found = render(TEMPLATES["qwen3"], chat(*turns, "so"))
    assert isinstance(found, Rendered)
    expected = [[text.rpartition("\n")[2]] for text in (*turns, "so")]
    assert [*contents_of(found).values()] == expected
    assert len(calls) < 3 * 20


def test_ends_of_a_content_without_its_letters_are_refused() -> None:
    ends = (
        "{% for m in messages %}{% set parts = m.content.split('|') %}"
        "{{ parts[0] }}-{{ parts[2] }}{% endfor %}"
    )
    found = render(Templating(Setting(source=ends, date=DATE)), chat("?|hmm|!"))
    assert isinstance(found, Refused) and "ends" in found.reason


@pytest.mark.parametrize("said", ["?", "..."])
def test_a_text_that_the_template_writes_itself_is_not_taken_for_a_content(said: str) -> None:
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ 'Well " + said + "' if m.role == 'user' }}"
        "{% if m.content | length > " + str(len(said)) + " %}{{ m.content }}{% endif %}{% endfor %}"
    )
    found = render(Templating(Setting(source=source, date=DATE)), chat(said, "yes"))
    assert isinstance(found, Refused) and "looks at it" in found.reason


@pytest.mark.parametrize("names", [{}, {"_alias_reasoning_fields": list}])
def test_a_version_of_transformers_with_other_names_renders_the_same(names: dict[str, Any]) -> None:
    library = SimpleNamespace(
        _compile_jinja_template=chat_template_utils._compile_jinja_template,
        render_jinja_template=chat_template_utils.render_jinja_template,
        **names,
    )
    setting = Setting(source=CHATML, date=DATE, variables=SPECIAL)
    assert render(Templating(setting, library), chat("yes", "yes")) == rendered(
        CHATML, chat("yes", "yes")
    )


def test_a_fault_of_what_prepares_a_chat_is_no_templates() -> None:
    def broken(_: object) -> None:
        raise AttributeError("no such name")

    library = SimpleNamespace(**vars(chat_template_utils) | {"_alias_reasoning_fields": broken})
    library.render_jinja_template = lambda **_: (["yes"], None)
    with pytest.raises(AttributeError, match="no such name"):
        render(Templating(Setting(source=CHATML, date=DATE), library), chat("yes"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ m.content | reverse }};", "in another order"),
        ("{{ m.content.split(' ')[::-1] | join(' ') }};", "in another order"),
        ("{{ m.content.encode('utf-16').hex() if m.content else '' }}", "fails|not found"),
    ],
)
def test_what_cannot_be_proved_is_refused(source: str, reason: str) -> None:
    template = f"{{% for m in messages %}}{source}{{% endfor %}}"
    found = render(Templating(Setting(source=template, date=DATE)), chat("one two three", "four"))
    assert isinstance(found, Refused), found
    assert re.search(reason, found.reason)


def test_a_part_that_is_written_is_found_and_the_rest_is_nowhere() -> None:
    three = "{% for m in messages %}{{ m.content[:3] }};{% endfor %}"
    assert contents_of(rendered(three, chat("one two", "four five"))) == {0: ["one"], 1: ["fou"]}
    none = rendered("{% for m in messages %}{{ m.content | length }};{% endfor %}", chat("one two"))
    assert (none.pieces, none.left_out) == ((), (0,))


def test_a_long_content_and_many_turns() -> None:
    long = "word " * 200_000
    found = rendered(CHATML, chat(long, "ok"))
    assert contents_of(found) == {0: [long], 1: ["ok"]}
    many = chat(*["same"] * 50)
    assert contents_of(rendered(CHATML, many)) == {n: ["same"] for n in range(50)}


@pytest.mark.parametrize(
    "roles",
    [
        ["developer", "user", "assistant"],
        ["user", "system", "assistant", "system"],
        ["user", "user", "user"],
        ["tool", "observation", "user"],
    ],
)
def test_any_roles_in_any_order(roles: list[str]) -> None:
    messages = [{"role": role, "content": f"text {n}"} for n, role in enumerate(roles)]
    found = rendered(CHATML, messages)
    assert [(found.text[b:e], role, turn) for b, e, role, turn in found.pieces] == [
        (f"text {n}", role, n) for n, role in enumerate(roles)
    ]


def test_parts_of_a_content_are_pieces_of_one_turn() -> None:
    source = (
        "{% for m in messages %}<{{ m.role }}>"
        "{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    )
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "one"}]
    found = rendered(source, [{"role": "user", "content": parts}])
    assert [(b, e, turn) for b, e, _, turn in found.pieces] == [(6, 9, 0), (9, 12, 0)]


# --- whose the rest is; by hand, turn by turn: "0:<|im_start|>user\n 0C:hi"

OWNERS = {
    ("llama2", "system"): [
        (-1, "<s>"), (1, "[INST] <<SYS>>\n"), (0, "Be brief."), (1, "\n<</SYS>>\n\n"),
        (1, "Hello there"), (1, " [/INST]"), (2, " "), (2, "Hi!"), (2, " </s>"),
        (3, "<s>[INST] "), (3, "How are you?"), (3, " [/INST]"),
    ],
    ("qwen25", "plain +prompt"): [
        (-1, "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"),
        (0, "<|im_start|>user\n"), (0, "Hello there"), (0, "<|im_end|>\n"),
        (1, "<|im_start|>assistant\n"), (1, "Hi!"), (1, "<|im_end|>\n"),
        (2, "<|im_start|>user\n"), (2, "How are you?"), (2, "<|im_end|>\n"),
        (3, "<|im_start|>assistant\n"),
    ],
    ("phi3", "system +prompt"): [
        (-1, "<s>"), (0, "<|system|>\n"), (0, "Be brief."), (0, "<|end|>\n"),
        (1, "<|user|>\n"), (1, "Hello there"), (1, "<|end|>\n"),
        (2, "<|assistant|>\n"), (2, "Hi!"), (2, "<|end|>\n"),
        (3, "<|user|>\n"), (3, "How are you?"), (3, "<|end|>\n"), (4, "<|assistant|>\n"),
    ],
    ("reorders", "system"): [
        (1, "[user] "), (1, "Hello there"), (1, "\n"), (2, "[assistant] "), (2, "Hi!"), (2, "\n"),
        (3, "[user] "), (3, "How are you?"), (3, "\n"), (0, "[rules] "),
        (0, "Be brief."), (0, "\n"),
    ],
    ("smollm2", "plain +prompt"): [
        (-1, "<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n"),
        (0, "<|im_start|>user\n"), (0, "Hello there"), (0, "<|im_end|>\n"),
        (1, "<|im_start|>assistant\n"), (1, "Hi!"), (1, "<|im_end|>\n"),
        (2, "<|im_start|>user\n"), (2, "How are you?"), (2, "<|im_end|>\n"),
        (3, "<|im_start|>assistant\n"),
    ],
    ("zephyr", "system +prompt"): [
        (0, "<|system|>\n"), (0, "Be brief."), (0, "</s>\n"), (1, "<|user|>\n"),
        (1, "Hello there"), (1, "</s>\n"), (2, "<|assistant|>\n"), (2, "Hi!"), (2, "</s>\n"),
        (3, "<|user|>\n"), (3, "How are you?"), (3, "</s>\n"), (4, "<|assistant|>\n"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", [c for c in read_cases() if (c.template, c.head) in OWNERS])
def test_what_a_template_writes_at_a_message_is_of_its_turn(case: Any) -> None:
    found = render(Templating(case.setting), case.messages)
    assert isinstance(found, Rendered)
    assert turns_of(found) == OWNERS[case.template, case.head]


def turns_of(found: Rendered) -> list[tuple[int, str]]:
    return [(s.turn, found.text[s.begin : s.end]) for s in found.segments]


SYSTEM_OF_ITS_OWN = {
    "a text of the first round": (
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}[|system|]ok;{% endif %}"
        "[{{ m.role }}]{{ m.content }};{% endfor %}"
    ),
    "a variable's, as DBRX has it": (
        "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}"
        "{% set system = messages[0].content %}"
        "{% else %}{% set rest = messages %}{% set system = 'ok' %}{% endif %}"
        "{% for m in rest %}{% if loop.index0 == 0 %}{% if system != false %}"
        "{{ '[|system|]' + system | trim + ';' }}{% endif %}"
        "{{ '[' + m.role + ']' + m.content + ';' }}"
        "{% else %}{{ '[' + m.role + ']' + m.content + ';' }}{% endif %}{% endfor %}"
    ),
}


@pytest.mark.parametrize("name", SYSTEM_OF_ITS_OWN)
def test_a_system_text_of_the_templates_own_is_nobodys(name: str) -> None:
    source = SYSTEM_OF_ITS_OWN[name]
    found = turns_of(rendered(source, chat("hi", "yo")))
    assert found[:3] == [(-1, "[|system|]ok;"), (0, "[user]"), (0, "hi")]
    given = [{"role": "system", "content": "S"}, *chat("hi")]
    assert -1 not in {turn for turn, _ in turns_of(rendered(source, given))}


def test_messages_that_a_template_makes_anew_keep_their_scaffolding() -> None:
    source = (
        "{% set ns = namespace(m=[]) %}{% for m in messages %}"
        "{% set ns.m = ns.m + [{'role': m.role, 'content': m.content}] %}{% endfor %}"
        "{% for m in ns.m %}<{{ m.role }}> {{ m.content }}<end>{% endfor %}"
    )
    expected = [
        one
        for turn, (role, said) in enumerate([("user", "hi"), ("assistant", "yo"), ("user", "so")])
        for one in ((turn, f"<{role}> "), (turn, said), (turn, "<end>"))
    ]
    assert turns_of(rendered(source, chat("hi", "yo", "so"))) == expected


def test_a_tool_call_is_of_its_turn_and_no_content() -> None:
    messages = [{k: v for k, v in m.items() if v is not None} for m in CHATS["tools"]]
    found = render(TEMPLATES["qwen25"], messages)
    assert isinstance(found, Rendered)
    (call,) = [s for s in found.segments if "weather" in found.text[s.begin : s.end]]
    assert (call.turn, call.is_content, found.roles[1]) == (1, False, "assistant")


def test_a_message_of_which_nothing_is_written_is_told() -> None:
    source = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    messages = [{"role": "system", "content": "Be brief."}, *chat("Hi")]
    assert rendered(source, messages).left_out == (0,)


# --- the end of a chat


def test_a_final_message_goes_on() -> None:
    for template in ("chatml", "llama3", "gemma"):
        source = (FOLDER / f"{template}.jinja").read_text()
        found = rendered(source, chat("Hi", "The answer is "), continue_final_message=True)
        assert found.text.endswith("The answer is " if template == "chatml" else "The answer is")
        assert found.pieces[-1][1] == len(found.text) and found.is_open
        assert [turn for _, _, _, turn in found.pieces] == [0, 1]


def test_a_generation_prompt_is_the_next_turn_of_the_assistant() -> None:
    found = rendered(CHATML, chat("Hi"), add_generation_prompt=True)
    last = found.segments[-1]
    assert (found.text[last.begin :], last.turn) == ("<|im_start|>assistant\n", 1)
    assert found.roles == ("user", "assistant") and found.is_open
    assert not rendered(CHATML, chat("Hi")).is_open


def test_where_no_prompt_is_written_the_assistant_goes_on_all_the_same() -> None:
    source = (FOLDER / "mistral_v1.jinja").read_text()
    found = rendered(source, chat("Hi"), add_generation_prompt=True)
    assert found.roles == ("user", "assistant") and found.is_open
    assert {s.turn for s in found.segments} == {-1, 0}
    said = rendered(source, chat("Hi", "Ho"), add_generation_prompt=True)
    assert said.roles == ("user", "assistant") and not said.is_open
    assert not rendered(source, chat("Hi")).is_open


# --- what a template refuses, and where


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        ("a\n{{ raise_exception('no system') }}", 2, "refuses it: no system"),
        ("\n\n{{ messages[0].content.nope.x }}", 3, "has no attribute 'nope'"),
        ("{{ messages.__class__.__mro__ }}", 1, "unsafe"),
        ("{{ 'a' + messages }}", 1, "concatenate"),
        ("{% macro f() %}{{ f() }}{% endmacro %}\n{{ f() }}", 1, "calls itself"),
        ("\n{% for i in range(10**9) %}{% endfor %}", 2, "too big"),
        ("", None, "writes nothing"),
    ],
)
def test_a_failing_template_names_its_line(source: str, line: int | None, reason: str) -> None:
    found = render(Templating(Setting(source=source, date=DATE)), chat("hi"))
    assert isinstance(found, Refused)
    assert reason in found.reason and found.line == line


def test_private_characters_are_refused() -> None:
    found = render(TEMPLATES["chatml"], chat("a\U00100000b"))
    assert isinstance(found, Refused) and "private characters" in found.reason
