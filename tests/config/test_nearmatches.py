"""What a pattern misses: near names, and choices of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings, strategies as st
from written_out import GPT2, PATH, PHI3, oracle

from probekit.config.patterns.globs import match_paths
from probekit.config.patterns.nearmatches import nearest, unmatched_choices


@pytest.mark.parametrize(
    ("pattern", "paths", "first"),
    [
        ("transformer.h.*.mlp.activation", GPT2, "transformer.h.*.mlp.act"),
        ("transformer.h.*.atn", GPT2, "transformer.h.*.attn"),
        ("h.0.attn", GPT2, "transformer.h.*.attn"),
        ("lm_haed", GPT2, "lm_head"),
        ("wte", GPT2, "transformer.wte"),
        ("**.mlp.act", PHI3, "model.layers.*.mlp.activation_fn"),
        ("transformer.h.*.mlp.act", PHI3, "model.layers.*.mlp.activation_fn"),
        ("transformer.h.{0,2}.attn", PHI3, "model.layers.*.self_attn"),
        ("transformer.h.14.mlp", GPT2, "transformer.h.{0..11}.mlp"),
        ("transformer.h.{12,13}.mlp.act", GPT2, "transformer.h.{0..11}.mlp.act"),
        ("transformer.h.{12..23}.mlp.act", GPT2, "transformer.h.{0..11}.mlp.act"),
        ("model.layers.32.mlp", PHI3, "model.layers.{0..31}.mlp"),
    ],
)
def test_the_nearest_pattern_is_the_one_that_was_meant(
    pattern: str, paths: tuple[str, ...], first: str
) -> None:
    assert match_paths(pattern, paths) == ()
    assert nearest(pattern, paths)[0] == first


def test_a_wrong_number_names_the_numbers_that_exist() -> None:
    paths = [f"h.{layer}.moe" for layer in (1, 2, 3, 7)] + ["h.0.mlp"]
    assert nearest("h.5.moe", paths) == ("h.{1..3,7}.moe",)
    assert nearest("h.5.mlp", paths) == ("h.0.mlp",)


def test_near_misses_are_distinct_and_at_most_n() -> None:
    found = nearest("transformer.h.*.mlp.gate", GPT2, n=3)
    assert len(set(found)) == 3
    assert nearest("anything", ()) == ()


@settings(max_examples=200, deadline=None)
@given(
    words=st.lists(st.sampled_from(["h", "mlp", "0", "7", "99", "act", "{1,2}"]), min_size=1),
    paths=st.lists(PATH, max_size=10),
)
def test_every_near_miss_matches_something(words: list[str], paths: list[str]) -> None:
    for near in nearest(".".join(words), paths):
        assert match_paths(near, paths)


# --- choices that match nothing


def test_a_choice_that_matches_nothing_is_found() -> None:
    paths = [f"h.{layer}.{part}" for layer in range(3) for part in ("attn", "mlp", "mlp.act")]
    assert unmatched_choices("h.{0..4}.mlp", paths) == ("h.3.mlp", "h.4.mlp")
    assert unmatched_choices("h.{0..2}.{attn,mlp.act}", paths) == ()
    assert unmatched_choices("h.*.{attn,norm}", paths) == ("h.*.norm",)
    assert unmatched_choices("h.*.mlp", paths) == ()
    assert unmatched_choices("h.{x,0.{attn,mlp.{act,fc}}}", paths) == ("h.x", "h.0.mlp.fc")
    assert unmatched_choices("x.{a,b}", paths) == ("x.a", "x.b")


CHOICE = st.sampled_from(["a", "b", "0", "1", "a.b", "*", "a*", "**", "h.0"])
GROUPS = st.lists(
    st.sampled_from(["a", "h", "*", "**", "b*"])
    | st.lists(CHOICE, min_size=1, max_size=3, unique=True),
    min_size=1,
    max_size=4,
)


def pattern_of(groups: Sequence[str | list[str]]) -> str:
    return ".".join(g if isinstance(g, str) else f"{{{','.join(g)}}}" for g in groups)


@settings(max_examples=400, deadline=None)
@given(groups=GROUPS, paths=st.lists(PATH.filter(bool), max_size=8, unique=True))
def test_a_choice_is_lost_exactly_if_no_path_matches_with_it(groups, paths) -> None:
    lost = []
    for number, choices in enumerate(groups):
        for choice in choices if isinstance(choices, list) else ():
            one = pattern_of([*groups[:number], choice, *groups[number + 1 :]])
            if not any(oracle(one, path) for path in paths):
                lost.append(one)
    assert list(unmatched_choices(pattern_of(groups), paths)) == lost


def test_the_choices_of_a_large_model_are_found_quickly() -> None:
    paths = [f"model.layers.{i}.mlp.experts.{j}.up" for i in range(61) for j in range(256)]
    start = time.perf_counter()
    assert unmatched_choices("model.layers.{0..60}.mlp.experts.{0..255}.up", paths) == ()
    found = unmatched_choices("model.layers.{0..61}.mlp.experts.{0..256}.up", paths)
    assert found == (
        "model.layers.61.mlp.experts.{0..256}.up",
        "model.layers.{0..61}.mlp.experts.256.up",
    )
    assert time.perf_counter() - start < 10  # not the minute it took one by one


@pytest.mark.parametrize("pattern", ["*{a,*}." * 90 + "b", "**.{a,b}." * 60 + "**"])
def test_hostile_patterns_take_no_time(pattern: str) -> None:
    start = time.perf_counter()
    unmatched_choices(pattern, GPT2)
    nearest(pattern, GPT2)
    assert time.perf_counter() - start < 5
