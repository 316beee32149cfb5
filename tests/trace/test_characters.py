"""What cannot be seen is named, in texts and in tokens."""

import unicodedata

import pytest
from hypothesis import given, strategies as st

from probekit.trace.shown.characters import visible, visible_token


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain text.", "plain text."),
        ("Tōkyō 東京 🗼", "Tōkyō 東京 🗼"),
        ("a\0b\x1bc\x7fd", "a␀b␛c␡d"),
        ("evil\u202egnp.exe", "evil‹U+202E›gnp.exe"),
        ("zero\u200bwidth\ufeff", "zero‹U+200B›width‹U+FEFF›"),
        ("half \ud800", "half ‹U+D800›"),
        ("lines\u2028of\u2029kinds", "lines‹U+2028›of‹U+2029›kinds"),
        ("\x85", "‹U+0085›"),
        ("👩\u200d🔬", "👩\u200d🔬"),
        ("</script><!--", "</script><!--"),  # escaping is the template's, and JSON's
        ("", ""),
    ],
)
def test_texts(text, seen):
    assert visible(text) == seen
    assert visible_token(text) == seen


def test_lines_and_tabs_stay_in_texts_and_are_named_in_tokens():
    assert visible("a\n\tb") == "a\n\tb"
    assert visible_token("a\n\tb\r") == "a⏎⇥b␍"


def test_a_token_of_nothing_but_joiners_is_named():
    assert visible_token("\u200d") == "‹U+200D›"


@given(st.text(st.characters(), max_size=50))
def test_whatever_is_seen_can_be_written_and_hides_nothing(text):
    for seen in (visible(text), visible_token(text)):
        seen.encode("utf-8")
        hidden = {c for c in seen if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
        assert hidden <= set("\n\t\u200c\u200d")
