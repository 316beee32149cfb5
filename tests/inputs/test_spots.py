"""Positions by what stands there, against a loop over characters."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from probekit.config import ProbeConfig, load_config
from probekit.errors import ConfigError
from probekit.inputs import Choice, find_spots
from probekit.inputs.contents import Codec, Encoded
from probekit.inputs.examples import Examples, Limits
from probekit.inputs.making import make_examples

Cut = list[tuple[int, int]]


def config_of(positions: Any, rows: list[dict[str, Any]], **inputs: Any) -> ProbeConfig:
    return load_config(
        {
            "model": {"name": "any"},
            "inputs": {"examples": rows, **inputs},
            "probes": [{"modules": "a", "positions": positions}],
            "store": {"path": "runs/any"},
        }
    )


def by_threes(text: str) -> Cut:
    """Cut a text into tokens of three characters, with one of none before them, as BOS is."""
    return [(0, 0), *((n, min(n + 3, len(text))) for n in range(0, len(text), 3))]


def read(config: ProbeConfig, cut: Any = by_threes, most: int | None = None) -> Examples:
    def encode(texts: list[str]) -> Encoded:
        spans = [cut(text) for text in texts]
        return Encoded(ids=[[1] * len(one) for one in spans], spans=spans)

    return make_examples(
        config, Codec(encode=encode), Limits(n_tokens=most, d_vocab=9, too_long="truncate")
    )


def found(positions: Any, *rows: dict[str, Any], most: int | None = None) -> list[list[int]]:
    """Give the positions that are found in each example."""
    config = config_of(positions, list(rows))
    examples = read(config, most=most)
    choices, _ = find_spots(config, examples)
    name = Choice.of(config.probes[0].positions).name
    n_tokens = examples.n_tokens
    return [choices.positions(name, n, int(n_tokens[n])).tolist() for n in range(len(examples))]


def touched(text: str, places: list[tuple[int, int]], cut: Cut) -> list[int]:
    """Give the tokens that share a character with a place, character by character."""
    inside = {character for begin, end in places for character in range(begin, end)}
    return [n for n, (begin, end) in enumerate(cut) if inside & set(range(begin, end))]


@settings(max_examples=300)
@given(st.text(alphabet="abc ", max_size=30), st.text(alphabet="abc ", min_size=1, max_size=4))
def test_a_match_is_every_token_that_shares_a_character_with_it(text: str, wanted: str) -> None:
    text = f"{text}{wanted}"
    places, at = [], text.find(wanted)
    while at >= 0:
        places.append((at, at + len(wanted)))
        at = text.find(wanted, at + len(wanted))
    assert found({"match": wanted}, {"text": text}) == [touched(text, places, by_threes(text))]


ROW = {"text": "abc def abc xyz", "word": "def", "none": None}  # tokens: "", abc, " de", "f a", ...
KEPT = [
    ({"match": "abc"}, [1, 3, 4]),
    ({"match": "abc", "take": "first"}, [1]),
    ({"match": "abc", "take": "last"}, [4]),
    ({"match": "abc", "take": 1}, [3]),
    ({"match": "abc", "take": -3}, [1]),
    ({"regex": "[d-f]+"}, [2, 3]),
    ({"regex": "x.z$"}, [5]),
    ({"column": "word"}, [2, 3]),
    ({"after": {"match": "abc"}}, [2, 5]),
    ({"after": {"match": "abc"}, "offset": 2}, [3]),
    ({"after": {"column": "word"}, "take": "last"}, [4]),
    ({"before": {"match": "abc"}}, [0, 2]),
    ({"before": {"regex": "xyz"}, "offset": 3}, [2]),
]


@pytest.mark.parametrize(("positions", "wanted"), KEPT)
def test_every_form_finds_its_tokens(positions: Any, wanted: list[int]) -> None:
    row = {key: ROW[key] for key in ("text", "word")}
    assert found(positions, row) == [wanted]


LOST = [
    ({"match": "nix"}, r"match: 'nix' is not there, in example 1 \('abc'\); the same in 1 more ex"),
    ({"column": "word"}, r"column: 'word' \(null\) is not there, in example 1"),
    ({"match": "f", "take": 2}, "take: 2 is 1 token there, so there is no number 2, in example 0"),
    (
        {"after": {"match": "xyz"}},
        "'xyz'} is not there: nothing comes after it, the last of",
    ),
    ({"after": {"match": "nix"}, "offset": 3}, "there: only 1 token comes after it, in example 0"),
    ({"before": {"match": "abc"}, "offset": 2}, "there: only 1 token comes before it, in example"),
    ({"regex": "q*"}, "regex: 'q\\*' matches only empty text, in example 0"),
    ({"regex": "^"}, "matches only empty text"),
    ({"after": {"regex": "(?=b)"}}, "matches only empty text"),
]


@pytest.mark.parametrize(("positions", "said"), LOST)
def test_an_example_without_it_is_refused_by_number_and_text(positions: Any, said: str) -> None:
    rows = [
        {"text": "abc def nix xyz", "word": "def"},
        {"text": "abc", "word": None},
        {"text": "f", "word": "f"},
    ]
    with pytest.raises(ConfigError, match=said):
        found(positions, *rows)


def test_skipping_leaves_an_example_without_rows_and_counts_it() -> None:
    positions = {"match": "xyz", "missing": "skip"}
    rows = [{"text": "abc"}, {"text": "xyz"}, {"text": "abcxyz"}]
    assert found(positions, *rows) == [[], [1], [2]]
    config = config_of(positions, rows)
    _, notes = find_spots(config, read(config))
    assert "1 of 3 examples has no token of {match: 'xyz'}" in notes[0]


def test_text_that_is_empty_is_no_place() -> None:
    assert found({"regex": "f*"}, {"text": "abcdef"}) == [[2]]


def test_skipping_every_example_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="no example has a token of it"):
        found({"match": "xyz", "missing": "skip"}, {"text": "abc"})


def test_what_was_cut_off_is_not_found() -> None:
    assert found({"match": "abc"}, {"text": "abc def abc"}, most=3) == [[1]]
    with pytest.raises(ConfigError, match="is there, but no such token among those that are kept"):
        found({"match": "xyz"}, {"text": "abc def xyz"}, most=3)


def test_a_tokenizer_that_tells_no_characters_finds_no_text() -> None:
    config = config_of({"match": "a"}, [{"text": "a"}])
    encode = lambda texts: Encoded(ids=[[1]] * len(texts))  # noqa: E731
    limits = Limits(n_tokens=None, d_vocab=9, too_long="truncate")
    with pytest.raises(ConfigError, match="nobody says which characters a token covers"):
        find_spots(config, make_examples(config, Codec(encode=encode), limits))


def test_a_column_that_a_probe_names_is_kept_without_asking() -> None:
    config = config_of({"column": "word"}, [{"text": "abc", "word": "b", "n": 1}], columns=["n"])
    assert [type.name for type in read(config).column_types] == ["n", "word"]


@pytest.mark.parametrize(
    ("row", "said"),
    [({"text": "abc", "n": 1}, "holds int64, expected texts"), ({"text": "abc"}, "no column 'n'")],
)
def test_a_column_that_holds_no_text_is_refused(row: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        found({"column": "n"}, row)


def test_a_pattern_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probekit.inputs.spots._MOST_SECONDS", 0.1)
    with pytest.raises(ConfigError, match=r"took more than 0.1 s on example 0"):
        found({"regex": "(a|aa)+$"}, {"text": "a" * 60 + "b"})


def test_names_tell_spots_apart_and_equal_ones_together() -> None:
    given = [{"match": "a/b"}, {"match": "a b"}, {"match": "a/b", "take": "last"}]
    names = [Choice.of(config_of(p, [ROW]).probes[0].positions).name for p in given]
    assert len(set(names)) == 3
    assert not any("/" in name for name in names)
    again = config_of({"match": "a/b", "take": "all"}, [ROW]).probes[0].positions
    assert Choice.of(again).name == names[0]
