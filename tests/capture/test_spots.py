"""Rows at what stands there: bit for bit those that a run of every token has for these tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import probekit
from probekit.errors import PlanError
from probekit.trace import Trace

ROWS = [
    {"text": "The capital of Japan is", "subject": " Japan"},
    {"text": "France is big. The capital of France is", "subject": " France"},
    {"text": "Cats are", "subject": "Cats"},
    {"text": "is a cat an animal", "subject": " animal"},
]
MATCHED = {"match": " is", "missing": "skip"}


def run(folder: Path, probes: list[dict[str, Any]], shard_bytes: Any = 3000, **more: Any) -> Trace:
    config = {
        "model": {"name": "sample:tiny-gpt2"},
        "inputs": {"examples": ROWS, "batch_tokens": 24},
        "probes": probes,
        "store": {"path": str(folder), "shard_bytes": shard_bytes},
        **more,
    }
    found = probekit.run(config)
    assert probekit.verify(folder).whole
    return found


@pytest.fixture(scope="module", params=["a forward pass", "generation"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give a trace of every token, and one of those that are found."""
    # In one shard both have the same batches, and so the same rounding.
    more: dict[str, Any] = {"shard_bytes": "1GiB"}
    if request.param == "generation":
        more["generate"] = {"max_new_tokens": 3}
    folder = tmp_path_factory.mktemp("spots")
    names = ["resid_post", "pattern", "z"]
    whole = run(
        folder / "all", [{"sites": names}, {"modules": "lm_head", "record": "top_k"}], **more
    )
    probes = [
        {"sites": ["resid_post", "pattern"], "positions": {"column": "subject"}},
        {"sites": "z", "positions": MATCHED},
        {
            "modules": "lm_head",
            "record": "top_k",
            "positions": {"column": "subject", "take": "last"},
        },
    ]
    return whole, run(folder / "some", probes, **more)


def test_rows_are_those_of_the_same_tokens(pair: tuple[Trace, Trace]) -> None:
    whole, some = pair
    for name in some.site_names:
        rows = some[name].token_rows()
        assert len(rows)
        mine, theirs = some[name].raw(slice(None)), whole[name].raw(rows)
        if "pattern" in name or "top_k" in name:  # computed of fewer rows at once: to rounding
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
        else:
            assert mine.tobytes() == theirs.tobytes()


def test_the_tokens_are_those_that_spell_it(pair: tuple[Trace, Trace]) -> None:
    _, some = pair
    site = some.select("resid_post", layer=0)
    for number, row in enumerate(ROWS):
        mine = [some.tokens[r] for r in site.token_rows() if some.tokens[r].example == number]
        assert {token.text.strip() for token in mine} == {row["subject"].strip()}
        assert len(mine) == row["text"].count(row["subject"])
        assert len(site.example(number)) == len(mine)


def test_an_example_that_is_skipped_has_no_rows(pair: tuple[Trace, Trace]) -> None:
    _, some = pair
    z = some.select("z", layer=0)
    assert [len(z.example(n)) for n in range(4)] == [1, 2, 0, 0]
    assert z.attributes["positions"] == "match: ' is'"


def test_a_pool_is_over_what_is_found(tmp_path: Path) -> None:
    whole = run(tmp_path / "all", [{"sites": "resid_post", "layers": 0}])
    pooled = run(
        tmp_path / "pooled",
        [{"sites": "resid_post", "layers": 0, "positions": {"column": "subject"}, "pool": "mean"}],
    )
    kept = run(
        tmp_path / "kept",
        [{"sites": "resid_post", "layers": 0, "positions": {"column": "subject"}}],
    )
    means = pooled.select("resid_post", layer=0)
    site = kept.select("resid_post", layer=0)
    for number in range(4):
        mine = [r for r in site.token_rows() if whole.tokens[r].example == number]
        wanted = np.asarray(whole.select("resid_post", layer=0)[mine]).mean(0)
        np.testing.assert_allclose(means[number], wanted, rtol=1e-5, atol=1e-6)


def test_a_pool_over_nothing_is_refused(tmp_path: Path) -> None:
    said = r"has no token at match: .* \(missing: skip\); a pool needs one of each example"
    with pytest.raises(PlanError, match=said):
        run(tmp_path / "none", [{"sites": "resid_post", "positions": MATCHED, "pool": "mean"}])


def test_a_run_that_was_cut_short_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    probes = [{"sites": "resid_post", "positions": {"column": "subject"}}]
    first = run(tmp_path / "run", probes)
    bytes_of = {p.name: p.read_bytes() for p in (tmp_path / "run" / "shards").glob("*.h5")}
    assert len(bytes_of) > 1
    lost = sorted((tmp_path / "run" / "shards").glob("*.h5"))[-1]
    for file in (lost, lost.with_suffix(".json"), first.path, first.path.with_suffix(".json")):
        file.unlink()
    run(tmp_path / "run", probes)
    again = {p.name: p.read_bytes() for p in (tmp_path / "run" / "shards").glob("*.h5")}
    assert again == bytes_of


def test_columns_of_the_users_own_are_not_the_traces_own_whatever_their_names(
    tmp_path: Path,
) -> None:
    names = ("first_token", "n_tokens", "example", "step", "position")
    rows = [{**row, **dict.fromkeys(names, 100 + n)} for n, row in enumerate(ROWS)]
    found = run(
        tmp_path / "said",
        [{"sites": "resid_post"}],
        inputs={"examples": rows},
        generate={"max_new_tokens": 3},
    )
    assert len(list((tmp_path / "said" / "shards").glob("*.h5"))) > 1
    for name in names:
        assert found.columns[name].tolist() == [100, 101, 102, 103]
