from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings, strategies as st

from probekit.config.patterns.globs import compile_glob
from probekit.config.patterns.saidonce import faults_once, said_once
from probekit.errors import Fault


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([f"h.{n}.mlp never runs" for n in range(30)], ["h.{0..29}.mlp never runs"]),
        ([f"h.{n}.mlp" for n in (*range(6), 9)], ["h.{0..5,9}.mlp"]),
        (["h.3.mlp never runs"], ["h.3.mlp never runs"]),
        (["h.3.mlp (A) no", "h.4.mlp (B) no"], ["h.3.mlp (A) no", "h.4.mlp (B) no"]),
        (["a.b.c no", "a.b.d no", "a.e.c no"], ["a.b.{c,d} no", "a.e.c no"]),
        (
            [f"h.{n}.{part} no" for n in range(3) for part in ("act", "c_fc")],
            ["h.{0..2}.{act,c_fc} no"],
        ),
        (
            [f"h.{n}.mlp is none; ask for h.{n}.mlp.in" for n in range(3)],
            ["h.{0..2}.mlp is none; ask for h.{0..2}.mlp.in"],
        ),
        (
            [f"h.{n}.experts.{m}/output" for n, m in product(range(2), range(4))],
            ["h.{0..1}.experts.{0..3}/output"],
        ),
        (
            ["h.0.e.0", "h.0.e.1", "h.1.e.1"],  # a square would say h.1.e.0 too
            ["h.0.e.{0..1}", "h.1.e.1"],
        ),
        (["h.0.attn/output.1 no", "h.1.attn/output.1 no"], ["h.{0..1}.attn/output.1 no"]),
        (
            ["given 0..5 and 3.5", "given 0..6 and 3.5"],
            ["given 0..5 and 3.5", "given 0..6 and 3.5"],
        ),
        (["h.0.0 no", "h.1.1 no"], ["h.0.0 no", "h.1.1 no"]),
        (["the same", "the same"], ["the same"]),
        (["pattern 'x': no", "pattern 'y': no"], ["pattern 'x': no", "pattern 'y': no"]),
        ([], []),
        (["", "."], ["", "."]),
    ],
)
def test_what_differs_in_a_path_alone_is_said_once(messages: list[str], said: list[str]) -> None:
    assert said_once(messages) == said


NAMES = ("mlp", "act", "0", "1", "12")
EVERY = [".".join(("h", *names)) for n in range(4) for names in product(NAMES, repeat=n)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(EVERY), max_size=12, unique=True))
def test_a_joined_path_means_the_paths_that_were_joined_and_no_others(paths: list[str]) -> None:
    said = said_once(f"{path} never runs" for path in paths)
    globs = [compile_glob(one.removesuffix(" never runs")) for one in said]
    meant = [path for path in EVERY for glob in globs if glob.matches(path)]
    assert sorted(meant) == sorted(paths)
    assert len(said) <= len(paths)


def test_faults_of_two_places_are_two() -> None:
    faults = [Fault(f"probes[{p}]", f"h.{n}.mlp no") for p in (0, 1) for n in (0, 1)]
    assert [str(fault) for fault in faults_once(faults)] == [
        "probes[0]: h.{0..1}.mlp no",
        "probes[1]: h.{0..1}.mlp no",
    ]
