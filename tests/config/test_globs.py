from __future__ import annotations

import re
import time
from itertools import islice

import pytest
from hypothesis import assume, given, settings, strategies as st
from written_out import GPT2, PATH, PIECE, oracle, written_out

from probekit.config.patterns.globs import MAX_ANY, MAX_CHOICES, compile_glob, match_paths
from probekit.errors import PlanError

# --- an oracle that knows nothing of automata: write every choice out, then match by recursion


def well_formed(plain: str) -> bool:
    return all(part and ("**" not in part or part == "**") for part in plain.split("."))


PATTERN = st.recursive(
    st.lists(PIECE, min_size=1, max_size=5).map("".join),
    lambda inner: st.builds(
        lambda before, choices, after: f"{before}{{{','.join(choices)}}}{after}",
        inner | st.just(""),
        st.lists(inner, min_size=1, max_size=3),
        inner | st.just(""),
    ),
    max_leaves=6,
)


@settings(max_examples=600, deadline=None)
@given(pattern=PATTERN, paths=st.lists(PATH, max_size=8))
def test_a_pattern_matches_what_its_written_out_choices_match(
    pattern: str, paths: list[str]
) -> None:
    assume(not re.search(r"\}\.\.|\.\.\{", pattern))  # a range whose bound is a choice is none
    every = list(islice(written_out(pattern), MAX_CHOICES + 1))
    assume(len(every) <= MAX_CHOICES)  # more of one group are refused, however well formed
    n_any = sum(plain.split(".").count("**") for plain in every)
    assume(n_any <= MAX_ANY)  # likewise
    if all(map(well_formed, every)):
        assert match_paths(pattern, paths) == tuple(p for p in paths if oracle(pattern, p))
    else:
        with pytest.raises(PlanError, match=r"pattern '.*': "):
            compile_glob(pattern)


@pytest.mark.parametrize(
    ("pattern", "n_matches"),
    [
        ("transformer.h.*.mlp.act", 12),
        ("transformer.h.{0,2,5}.attn", 3),
        ("transformer.h.{0..5}.attn", 6),
        ("transformer.h.{0..2,11}.attn", 4),
        ("transformer.h.*.{attn.c_proj,mlp.c_proj}", 24),
        ("**.act", 12),
        ("**.c_*", 48),
        ("transformer.*", 4),
        ("transformer.**", 5 + 12 * 9),
        ("**", len(GPT2)),
        ("*", 2),
        ("lm_head", 1),
        ("lm_head*", 1),
        ("transformer.w{t,p}e", 2),
        ("transformer.h.1", 1),
        ("transformer.h.1*", 3),
        ("act", 0),
        ("TRANSFORMER.wte", 0),
    ],
)
def test_patterns_of_gpt2(pattern: str, n_matches: int) -> None:
    assert len(match_paths(pattern, GPT2)) == n_matches


def test_matches_keep_the_order_of_the_paths() -> None:
    paths = ("b.2", "a.1", "b.1", "a.1")
    assert match_paths("{a,b}.1", paths) == ("a.1", "b.1", "a.1")


def test_characters_of_other_pattern_languages_are_literal() -> None:
    assert match_paths("a[0]?+.(b|c)", ["a[0]?+.(b|c)", "a0.b"]) == ("a[0]?+.(b|c)",)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "empty pattern: write a module path"),
        ("a..b", r"'a\.\.b': empty segment; write a name on both sides of every dot"),
        (".a", "empty segment"),
        ("a.", "empty segment"),
        ("{a,}.b", "empty segment"),
        ("{a.,b}.c", "empty segment"),
        ("h.{-1..3}", r"empty segment; a range is of whole numbers, \{0\.\.5\}"),
        ("h.{a..c}", "a range is of whole numbers"),
        ("a**", r"\*\* stands for whole segments only; write \.\*\*\. or a single \*"),
        ("***", "whole segments only"),
        ("x{**,a}", "whole segments only"),
        ("{a", "a { is never closed; add the missing }"),
        ("a}.b", "the } at character 2 closes nothing; remove it"),
        ("h.{}", r"empty choice \{\}; write \{a,b\} or \{0\.\.5\}"),
        ("h.{5..0}", r"range \{5\.\.0\} runs backwards; write \{0\.\.5\}"),
        ("h.{00..11}", r"range \{00\.\.11\} has leading zeros; write plain numbers"),
        ("h.{0..4096}", r"more than 4,096 choices between two dots; use \* instead"),
        ("h.{0..99999999999}", "more than 9 digits"),
        ("h." + "{a,b}" * 200, "more than 4,096 choices"),
        ("{0..999}." * 20 + "a", r"more than 10,000 choices and segments; use \* or \*\*"),
        ("{0..2047}" + "a" * 999, "more than 1,000,000 characters written out"),
        ("{" * 9 + "a" + "}" * 9, "braces are nested deeper than 8"),
        ("{" * 5000, "braces are nested deeper than 8"),
        ("a" * 10_001, "more than 10,000 characters"),
    ],
)
def test_a_malformed_pattern_is_refused_with_what_to_do(pattern: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        match_paths(pattern, GPT2)


@pytest.mark.parametrize("pattern", ["*a" * 30 + "*b", "**." * 100 + "b", "*a*." * 50 + "**.b"])
def test_hostile_patterns_take_no_time(pattern: str) -> None:
    paths = ["a" * 2000 + "c", ".".join(["aa"] * 500), *GPT2]
    start = time.perf_counter()
    assert match_paths(pattern, paths) == ()
    assert time.perf_counter() - start < 5


def test_a_pattern_of_every_expert_of_a_large_model_is_quick() -> None:
    paths = [f"model.layers.{i}.mlp.experts.{j}.up" for i in range(61) for j in range(256)]
    start = time.perf_counter()
    assert match_paths("model.layers.{0..60}.mlp.experts.{0..255}.up", paths) == tuple(paths)
    assert time.perf_counter() - start < 5


def test_the_oracle_can_say_no() -> None:
    assert oracle("a.{b,c}.**", "a.c")
    assert not oracle("a.{b,c}.*", "a.c")
    assert [*written_out("x{a,{b,c}}")] == ["xa", "xb", "xa", "xc"]


def test_any_number_of_segments_a_hundred_times_is_refused() -> None:
    assert match_paths(".".join(["**"] * 100), ["a.b"]) == ("a.b",)
    with pytest.raises(PlanError, match="more than 100 times"):
        match_paths(".".join(["*{a,*}"] * 101), ["a.b"])


@pytest.mark.parametrize("pattern", ["a.*.{b,c.d}", "**.x", "a", "{a,b.c}.**"])
def test_the_fewest_segments_are_those_of_the_shortest_match(pattern: str) -> None:
    fewest = {"a.*.{b,c.d}": 3, "**.x": 1, "a": 1, "{a,b.c}.**": 1}[pattern]
    assert compile_glob(pattern).fewest == fewest
