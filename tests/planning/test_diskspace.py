"""Room: what a run is said to need on disk, against the files it really leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import by_hand
import pytest

import probekit
from probekit import models
from probekit.config.loading import load_config
from probekit.errors import PlanError
from probekit.planning import diskspace as room
from probekit.planning.making import make_plan
from probekit.planning.planned import Plan

MLP = [{"modules": "transformer.h.*.mlp.act"}]
GIB = 1 << 30
CONFIGS: dict[str, dict[str, Any]] = {
    "every site": {"probes": [{"modules": "**", "record": ["output", "input"]}]},
    "many shards": {"probes": MLP, "store__shard_bytes": "4KiB"},
    "positions": {"probes": [{"modules": "transformer.h.*", "positions": [0, -1]}]},
    "neurons": {"probes": [{"modules": "transformer.h.*.mlp.act", "neurons": list(range(70))}]},
    "the order": {"probes": MLP, "execution_order": True, "store__shard_bytes": "20KiB"},
    "long texts": {
        "probes": [{"modules": "transformer.h.0", "positions": "last"}],
        "inputs__texts": ["1 2 3 " * 1000, "4 5 " * 5000],
        "inputs__max_tokens": 20,
    },
    "generating": {"probes": MLP, "generate": {"max_new_tokens": 5}, "execution_order": True},
}

go = partial(probekit.run, self_check=False)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return by_hand.save_tiny(tmp_path_factory.mktemp("gpt2"), "gpt2")


def plan_of(gpt2: Path, folder: Path, **more: Any) -> Plan:
    return make_plan(load_config(by_hand.config(gpt2, folder, **{"probes": MLP, **more})))


def bytes_in(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give a function that makes the disk have so many bytes free."""
    return lambda n: monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2 * n, n, n))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_needs_what_is_said_and_not_much_less(gpt2: Path, tmp_path: Path, name: str) -> None:
    plan = plan_of(gpt2, tmp_path / "t", **CONFIGS[name])
    said = room.needed_bytes(plan.contents)
    go(plan.config)
    needed = bytes_in(tmp_path / "t")
    assert needed <= said, name
    assert said <= 2.5 * needed + 60_000, name  # small runs are mostly structure


def test_of_a_large_run_almost_all_is_rows(gpt2: Path, tmp_path: Path) -> None:
    plan = plan_of(
        gpt2, tmp_path / "t", inputs__texts=["1 2 3 4 5 6 7 8"] * 1500, store__shard_bytes="1MiB"
    )
    assert plan.total_bytes < room.needed_bytes(plan.contents) < 1.2 * plan.total_bytes


def test_sealed_shards_need_nothing_more(gpt2: Path, tmp_path: Path) -> None:
    plan = plan_of(gpt2, tmp_path / "t", store__shard_bytes="20KiB")
    assert len(plan.shards) > 2
    rows = [s.n_tokens * plan.token_bytes for s in plan.shards]
    whole = room.needed_bytes(plan.contents)
    assert whole - room.needed_bytes(plan.contents, [0]) > rows[0]
    numbers = [s.number for s in plan.shards]
    assert room.needed_bytes(plan.contents, numbers) < whole - sum(rows), "the index alone"
    go(plan.config)
    (tmp_path / "t/shards/00001.json").unlink()
    assert plan.needed_bytes == room.needed_bytes(plan.contents, [n for n in numbers if n != 1])


def test_compression_and_generation_hold_a_shard_twice(gpt2: Path, tmp_path: Path) -> None:
    plain = room.needed_bytes(plan_of(gpt2, tmp_path / "t").contents)
    packed = room.needed_bytes(plan_of(gpt2, tmp_path / "t", store__compression="gzip").contents)
    assert packed > plain + plan_of(gpt2, tmp_path / "t").total_bytes


# --- what a user is told


def test_a_disk_with_room_is_not_mentioned(gpt2: Path, tmp_path: Path, free: Any) -> None:
    plan = plan_of(gpt2, tmp_path / "t")
    free(room.needed_bytes(plan.contents))
    assert room.shortage(plan.contents) is None
    assert plan.warnings == ()
    assert plan.to_json()["warnings"] == []
    free(room.needed_bytes(plan.contents) - 1)
    assert room.shortage(plan.contents) is not None


def test_the_plan_warns_of_a_disk_that_is_too_small(gpt2: Path, tmp_path: Path, free: Any) -> None:
    plan = plan_of(gpt2, tmp_path / "t")
    free(5 << 10)
    (warning,) = plan.warnings
    assert warning.startswith(f"config: store.path: {tmp_path / 't'} needs ")
    assert warning.endswith("and the disk has 5.0 KiB free")
    assert plan.to_json()["warnings"] == [warning]
    assert plan.to_json()["needed_bytes"] == room.needed_bytes(plan.contents)


def test_a_run_is_refused_before_weights_load_and_leaves_nothing(
    gpt2: Path, tmp_path: Path, free: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load_model", None)
    free(5 << 10)
    with pytest.raises(PlanError, match=r"needs .* more, and the disk has 5\.0 KiB free.*--force"):
        go(by_hand.config(gpt2, tmp_path / "t", probes=MLP))
    assert not (tmp_path / "t").exists()


def test_force_begins_anyway(gpt2: Path, tmp_path: Path, free: Any) -> None:
    free(5 << 10)
    trace = go(by_hand.config(gpt2, tmp_path / "t", probes=MLP), force=True)
    assert len(trace.examples) == len(by_hand.EXAMPLES)


def test_a_finished_run_is_opened_on_a_full_disk(gpt2: Path, tmp_path: Path, free: Any) -> None:
    config = by_hand.config(gpt2, tmp_path / "t", probes=MLP)
    go(config)
    free(100)
    assert probekit.plan(config).needed_bytes == 0
    assert len(go(config).examples) == len(by_hand.EXAMPLES)


def test_what_is_overwritten_makes_room(gpt2: Path, tmp_path: Path, free: Any) -> None:
    config = by_hand.config(gpt2, tmp_path / "t", probes=MLP)
    go(config)
    there = (tmp_path / "t/shards/00000.h5").stat().st_blocks * 512
    plan = make_plan(load_config(config))
    free(room.needed_bytes(plan.contents) - there)
    go(config, overwrite=True)
    free(room.needed_bytes(plan.contents) - there - 1)
    before = by_hand.fingerprint(tmp_path / "t/trace.h5")
    with pytest.raises(PlanError, match="the disk has"):
        go(config, overwrite=True)
    assert by_hand.fingerprint(tmp_path / "t/trace.h5") == before, "nothing was removed"


def test_a_plan_without_tokenizer_knows_no_needs(gpt2: Path, tmp_path: Path, free: Any) -> None:
    free(1)
    config = by_hand.config(gpt2, tmp_path / "t", probes=MLP, model__tokenizer=str(tmp_path / "no"))
    (tmp_path / "no").mkdir()
    plan = probekit.plan(config)
    assert plan.needed_bytes is None and plan.warnings == ()


def test_free_bytes_are_those_of_the_disk_the_folder_will_lie_on(tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    assert abs(room.free_bytes(tmp_path / "not" / "yet" / "there") - usage.free) < GIB
