"""What is there of a run that is not finished, by its plan and its records."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tiny_traces import LENGTHS, Made, site, write_trace

from probekit.errors import StoreError
from probekit.store import Unfinished
from probekit.store.format import write_record


def plan(made: Made, **changed: Any) -> None:
    """Write the plan of a trace as its run.json, shard 1 of it changed."""
    shards = [shard.spec.to_json() for shard in made.shards]
    shards[1] |= changed
    write_record(
        made.folder / "run.json", {"identity": {"shards": shards}, "provenance": {"config": ""}}
    )
    (made.folder / "inputs.h5").touch()
    for name in ("trace.h5", "trace.json"):
        (made.folder / name).unlink(missing_ok=True)


def remove(made: Made, number: int) -> None:
    made.shards[number].file.unlink()
    made.shards[number].record.unlink()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = write_trace(tmp_path, [site("m"), site("n", rows="last")])
    plan(made)
    return made


def test_sealed_shards_are_named_and_the_first_gap(made: Made) -> None:
    assert Unfinished.read(made.folder).gap is None
    remove(made, 1)
    found = Unfinished.read(made.folder)
    assert (found.sealed, found.gap, found.is_local) == ((0, 2), 1, False)
    assert found.first_file == made.shards[0].file
    counts = {rows: n.tolist() for rows, n in found.table.n_rows.items()}
    n_examples = [len(lengths) for lengths in LENGTHS]
    assert counts == {
        "all": [sum(lengths) for lengths in LENGTHS],
        "example": n_examples,
        "last": n_examples,
    }
    assert found.unsealed.keys() == {1}


def test_what_is_lacking_is_said_with_its_examples(made: Made) -> None:
    remove(made, 1)
    remove(made, 2)
    said = Unfinished.read(made.folder).unsealed
    assert "example 3 is not sealed yet: it will lie in shards/00001.h5; 1 of 3 shards" in said[1]
    assert "examples 4 to 5 are not sealed yet: they will lie in shards/00002.h5" in said[2]


def test_a_shard_without_its_record_is_not_sealed(made: Made) -> None:
    made.shards[2].record.unlink()
    assert Unfinished.read(made.folder).sealed == (0, 1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n_tokens": 7}, "00001.h5: has other rows than the run plans"),
        ({"n_rows": {"all": 2}}, "00001.h5: has other rows than the run plans"),
        ({"n_examples": 2}, "the shards in its run.json do not follow on each other"),
        ({"number": 7}, "the shards in its run.json do not follow on each other"),
        ({"n_examples": -1}, "its run.json does not say which shards it has"),
        ({"n_rows": "all"}, "its run.json does not say which shards it has"),
        ({"more": 1}, "its run.json does not say which shards it has"),
    ],
)
def test_a_plan_that_is_not_of_its_shards_is_refused(
    made: Made, changed: dict[str, Any], said: str
) -> None:
    plan(made, **changed)
    with pytest.raises(StoreError, match=re.escape(said)):
        Unfinished.read(made.folder)


def test_a_shard_of_another_run_is_refused(made: Made) -> None:
    made.shards[0].record.write_bytes(made.shards[1].record.read_bytes())
    with pytest.raises(StoreError, match=r"00000\.h5: is not a shard of this run; verify says"):
        Unfinished.read(made.folder)
