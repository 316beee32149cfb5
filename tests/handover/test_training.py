"""What is asked of a training dataset: defaults, and clear words about what makes no sense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_traces import Made, site, write_trace

import probekit
from probekit.errors import StoreError
from probekit.trace.trace import Trace

SITES = (
    site("h.0.mlp.act", row_shape=(4,), dtype="bfloat16"),
    site("h.1.mlp.act", row_shape=(4,), dtype="bfloat16"),
    site("h.0.attn", "pattern", row_shape=(2, 9), axes=("token", "head", "key")),
    site("h.0", rows="last", portable="resid_post", layer=0),
    site("h.1", rows="example"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return write_trace(tmp_path_factory.mktemp("trace"), SITES)


@pytest.fixture(scope="module")
def trace(made: Made) -> Trace:
    return probekit.open(made.folder)


@pytest.mark.parametrize(
    ("sites", "given", "says"),
    [
        ("h.*.mlp.atc", {}, r"h.\*.mlp.atc was not recorded; the nearest: h.\*.mlp.act, "),
        ("h.{0,7}.mlp.act", {}, r"h.7.mlp.act was not recorded; the nearest: h.{0..1}.mlp.act"),
        ("h.0.attn", {}, "h.0.attn was not recorded; of h.0.attn there is: h.0.attn/pattern"),
        ([], {}, "no sites were asked for; recorded: h.0.attn/pattern, "),
        (
            ["h.0.mlp.act", "h.0"],
            {},
            r"must have the same rows: h.0.mlp.act/output has 21 rows \(one for each token\), "
            r"h.0/output has 6 rows \(positions last\)",
        ),
        (["h.0", "h.1"], {}, r"h.1/output has 6 rows \(one for each example\)"),
        ("h.0.mlp.act", {"batch_size": 0}, "batch_size: given 0, expected a whole number of at"),
        ("h.0.mlp.act", {"batch_size": 2.5}, "batch_size: given 2.5, expected a whole number"),
        ("h.0.mlp.act", {"batch_size": True}, "batch_size: given True"),
        ("h.0.mlp.act", {"seed": -1}, "seed: given -1, expected a whole number of at least 0"),
        ("h.0.mlp.act", {"buffer_rows": 3}, "buffer_rows: given 3, .* of at least 4"),
        ("h.0.mlp.act", {"rank": 2, "world_size": 2}, "rank: given 2, expected 0 to 1"),
        ("h.0.mlp.act", {"rank": 1}, "rank: 1, world_size: None; give both"),
        ("h.0.mlp.act", {"rank": 0, "world_size": 0}, "world_size: given 0"),
        (
            "h.0.mlp.act",
            {"batch_size": 22, "drop_last": True},
            "batch_size: 22 with drop_last=True leaves nothing: there are 21 rows for 1 process",
        ),
        ("h.1", {"rank": 0, "world_size": 7}, r"there are 6 rows for 7 processes"),
        (
            "h.0.mlp.act",
            {"batch_size": 1, "rank": 0, "world_size": 2},
            "batch_size: 1 for 21 rows and 2 processes would give some processes a batch more",
        ),
        ("h.0.mlp.act", {"rows": np.ones(20, bool)}, r"given bools \[20\], expected a mask of 21"),
        ("h.0.mlp.act", {"rows": np.array([0.5])}, r"rows: given floats \[1\]"),
        (
            "h.0.mlp.act",
            {"rows": np.array([3, 21])},
            "rows: 3 to 21 are out of range: there are 21",
        ),
        ("h.0.mlp.act", {"rows": np.array([-1, 2])}, "rows: -1 to 2 are out of range"),
        ("h.0.mlp.act", {"rows": np.array([4, 2, 4])}, "rows: 4 is given twice"),
        ("h.0.mlp.act", {"rows": np.zeros(21, bool)}, "there are 0 rows for 1 process"),
    ],
)
def test_what_makes_no_sense_is_said(
    trace: Trace, sites: Any, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(StoreError, match=says):
        trace.dataset(sites, **{"batch_size": 4, **given})


def test_numpys_whole_numbers_are_whole_numbers(trace: Trace) -> None:
    given = trace.dataset("h.0", batch_size=np.int64(4), seed=np.uint8(3)).settings
    assert (type(given.batch_size), type(given.seed)) == (int, int)


def test_a_map_refuses_the_same(trace: Trace) -> None:
    with pytest.raises(StoreError, match="must have the same rows"):
        trace.map_dataset(["h.0", "h.1"])
    with pytest.raises(StoreError, match="rows: 4 is given twice"):
        trace.map_dataset("h.0.mlp.act", rows=np.array([4, 4]))


def test_sites_with_the_same_choice_of_rows_go_together(tmp_path: Any) -> None:
    write_trace(tmp_path, [site("h.0", rows="last"), site("h.1", rows="last")])
    (batch,) = probekit.open(tmp_path).dataset("h.*", batch_size=100)
    assert [len(rows) for rows in batch.values()] == [6, 6]


def test_a_portable_name_means_all_its_layers(trace: Trace) -> None:
    (batch,) = trace.dataset("resid_post", batch_size=100)
    assert list(batch) == ["h.0/output"]


def test_by_default_a_gibibyte_is_shuffled_and_sixteen_batches_at_least(trace: Trace) -> None:
    small = trace.dataset("h.0.mlp.act", batch_size=4, shuffle=True).settings
    assert small.window_rows == 2**30 // 8
    assert small.block_rows == 2**17 // 8
    large = trace.dataset("h.0.mlp.act", batch_size=2**27, shuffle=True).settings
    assert large.window_rows == 2**31
    both = trace.dataset("h.*.mlp.act", batch_size=4, shuffle=True).settings
    assert both.window_rows == 2**30 // 16


def test_a_small_buffer_still_has_many_blocks(trace: Trace) -> None:
    given = trace.dataset("h.0.mlp.act", batch_size=4, shuffle=True, buffer_rows=2560).settings
    assert given.block_rows == 10
