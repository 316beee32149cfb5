"""Which sites patterns name."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_traces import site, write_trace

import probekit
from probekit.errors import PlanError, StoreError
from probekit.trace.sitechoice import choose_sites
from probekit.trace.trace import Trace

SITES = (
    *(site(f"h.{n}", portable="resid_post", layer=n) for n in (0, 2, 10)),
    site("h.0.attn", "pattern", portable="pattern", layer=0),
    site("h.2.attn", "pattern", portable="pattern", layer=2),
    site("h.0.attn", "z"),
    site("norm", "output@1"),
)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return probekit.open(write_trace(tmp_path_factory.mktemp("trace"), SITES).folder)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("h.2", ["h.2/output"]),
        ("h.*", ["h.0/output", "h.2/output", "h.10/output"]),
        ("h.{2,0}/output", ["h.0/output", "h.2/output"]),
        ("**/pattern", ["h.0.attn/pattern", "h.2.attn/pattern"]),
        ("resid_post", ["h.0/output", "h.2/output", "h.10/output"]),
        ("norm/output@1", ["norm/output@1"]),
        (["h.10", "pattern", "h.*"], ["h.10/output", "h.0.attn/pattern", "h.2.attn/pattern",
                                      "h.0/output", "h.2/output"]),
        (("h.0", "h.0"), ["h.0/output"]),
    ],
)  # fmt: skip
def test_patterns_name_sites_each_once(
    trace: Trace, patterns: str | list[str], names: list[str]
) -> None:
    assert [site.name for site in choose_sites(trace, patterns)] == names


def test_nothing_said_means_every_site(trace: Trace) -> None:
    assert tuple(site.name for site in choose_sites(trace, None)) == trace.site_names


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        (
            "h.1",
            r"h.1 was not recorded; the nearest: h.{0,2,10}; recorded: h.\{0,2\}.attn/pattern, "
            r".*h.{0,2,10}/output, norm/output@1 \(portable names: .*resid_post.*\)",
        ),
        ("h.{0..2}", r"h.1 was not recorded"),
        ("h.*.attn", r"of h.\*.attn there is: h.\*.attn/pattern, h.\*.attn/z"),
        ("h.*.attn/scores", r"h.\*.attn/scores was not recorded; of h.\*.attn there is"),
        ("mlp_out", "mlp_out was not recorded"),
    ],
)
def test_what_was_not_recorded_is_said_with_what_was(trace: Trace, pattern: str, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        choose_sites(trace, ["h.0", pattern])


def test_a_pattern_that_is_none_is_said(trace: Trace) -> None:
    with pytest.raises(PlanError, match="never closed"):
        choose_sites(trace, "h.{0")


def test_an_empty_trace_says_that_nothing_was_recorded(tmp_path: Path) -> None:
    write_trace(tmp_path, [])
    with pytest.raises(StoreError, match=r"h.0 was not recorded; recorded: nothing"):
        choose_sites(probekit.open(tmp_path), "h.0")
