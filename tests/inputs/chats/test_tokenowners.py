"""Whose tokens are, by characters: made by hand, token by token."""

from __future__ import annotations

import numpy as np
import pytest

from probekit.inputs.chats import NOBODY, Parts, Rendered, Segment

#        0    5    10
TEXT = "<s>U:hi there;A:"
CHAT = Rendered(
    text=TEXT,
    segments=(
        Segment(begin=0, end=3, turn=NOBODY, is_content=False),
        Segment(begin=3, end=5, turn=0, is_content=False),
        Segment(begin=5, end=13, turn=0, is_content=True),
        Segment(begin=13, end=14, turn=0, is_content=False),
        Segment(begin=14, end=16, turn=1, is_content=False),
    ),
    roles=("user", "assistant"),
    is_open=True,
)
TOKENS = [(0, 3), (3, 4), (4, 7), (7, 13), (13, 14), (13, 13), (14, 16), (16, 16)]


def test_a_token_is_contents_where_it_shares_a_character_with_it() -> None:
    numbers = {"": 0}
    parts = Parts.of(CHAT, numbers)
    found = parts.owners(*np.array(TOKENS).T)
    assert numbers == {"": 0, "user": 1, "assistant": 2}
    assert found.turn.tolist() == [-1, 0, 0, 0, 0, 0, 1, 1]
    assert found.role.tolist() == [0, 1, 1, 1, 1, 1, 2, 2]
    assert found.is_content.tolist() == [False, False, True, True, False, False, False, False]
    assert parts.contents == [(5, 13, 0, 1)]


def test_a_token_of_trimmed_offsets_is_whose_its_space_is() -> None:
    """ByteLevel with trim_offsets gives the spaces of `U:hi  ;` so."""
    text = Rendered(
        text="U:hi  ;",
        segments=(
            Segment(begin=0, end=2, turn=0, is_content=False),
            Segment(begin=2, end=6, turn=0, is_content=True),
            Segment(begin=6, end=7, turn=0, is_content=False),
        ),
        roles=("user",),
    )
    tokens = np.array([(0, 2), (2, 4), (5, 5), (6, 6), (6, 7), (7, 7)])
    parts = Parts.of(text, {"": 0})
    expected = [False, True, True, True, False, False]
    assert parts.owners(*tokens.T).is_content.tolist() == expected
    assert not len(parts.owners(*tokens[:0].T).turn)


def test_what_comes_behind_an_open_turn_is_content_of_it() -> None:
    numbers = {"": 0}
    assert Parts.of(CHAT, numbers).goes_on == (2, 1, True)
    closed = Rendered(text=TEXT, segments=CHAT.segments, roles=CHAT.roles)
    assert Parts.of(closed, numbers).goes_on == (0, NOBODY, False)


def test_a_rendering_is_read_back_and_what_is_none_is_refused() -> None:
    assert Rendered.from_json(CHAT.to_json()) == CHAT
    for key, value in (
        ("segments", [[0, 3, 0, True]]),  # does not cover the text
        ("segments", [[0, 16, 2, True]]),  # of a turn that there is not
        ("segments", [[0, 0, 0, True], [0, 16, 0, True]]),
        ("text", 7),
    ):
        with pytest.raises((ValueError, TypeError)):
            Rendered.from_json({**CHAT.to_json(), key: value})
