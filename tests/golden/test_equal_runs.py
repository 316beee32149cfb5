"""Equal runs make equal files, whatever may differ between them."""

from __future__ import annotations

import copy
import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
from golden_configs import CONFIGS

import probekit
from probekit import StoreError
from probekit.store.format import schema

WHOLE = [name for name in CONFIGS if not name.startswith("interrupted")]


def config(name: str, path: str, **parts: dict[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(CONFIGS[name])
    found["store"]["path"] = path
    for part, more in parts.items():
        found[part] |= more
    return found


def files(run: str) -> dict[str, bytes]:
    there = [p for p in Path(run).rglob("*") if p.is_file()]
    return {str(p.relative_to(run)): p.read_bytes() for p in there}


@pytest.mark.parametrize("name", WHOLE)
def test_two_equal_runs_give_equal_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bin/probekit", "run", "one.yaml"])
    probekit.run(config(name, "one"))
    monkeypatch.setattr(sys, "argv", ["study.py"])
    monkeypatch.setattr(platform, "node", lambda: "another-host")
    free = {"on_overflow": "error", "buffer_bytes": 1_000_000}
    probekit.run(config(name, "elsewhere/other", store=free), self_check=False)
    one, other = files("one"), files("elsewhere/other")
    assert one.keys() == other.keys()
    differ = {file for file in one if one[file] != other[file]}
    may_differ = {file for file in one if file.endswith("made.json")}
    assert differ <= may_differ
    assert "made.json" in differ, "dates and folders stand there"
    commands = [json.loads(found["made.json"])["sessions"][0]["command"] for found in (one, other)]
    assert commands == ["probekit run one.yaml", "python study.py"]


@pytest.mark.parametrize("name", ["order", "generate"])
def test_how_examples_share_a_batch_changes_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    probekit.run(config(name, "one"))
    probekit.run(config(name, "other", inputs={"batch_tokens": 8}))
    for file in ("tokens/id", "examples/first_token", "execution/orders/0"):
        import h5py

        with h5py.File("one/trace.h5") as one, h5py.File("other/trace.h5") as other:
            if file in one:
                assert one[file][:].tolist() == other[file][:].tolist()


def test_a_shard_of_generated_tokens_counts_from_its_own_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that shards can be made in any order; the index adds what lies before."""
    monkeypatch.chdir(tmp_path)
    trace = probekit.run(config("generate", "one"))
    firsts = trace.examples.first_token.tolist()
    assert firsts[1:] == [sum(e.n_tokens for e in trace.examples[: n + 1]) for n in range(4)]
    alone = probekit.open("one/shards/00003.h5")
    assert alone.examples.first_token.tolist() == [0]
    assert alone.examples[0].token_ids.tolist() == trace.examples[3].token_ids.tolist()


@pytest.mark.rehearsed
def test_what_is_said_apart_is_part_of_the_provenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trace = probekit.run(config("generate", "one"))
    assert trace.provenance["self_check"] == "passed"
    assert "path: one" in trace.provenance["config"]
    assert trace.provenance["generate_cached_s"] > 0
    (Path("one") / "made.json").unlink()
    bare = probekit.open("one")
    assert "self_check" not in bare.provenance
    assert "path" not in bare.provenance["config"]
    assert [d.file for d in probekit.verify("one").damages] == ["made.json"]
    probekit.run(config("generate", "one"), repair=True)
    assert probekit.verify("one").whole


def test_a_kind_that_means_something_else_now_is_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    probekit.run(config("plain", "one"))
    monkeypatch.setattr(schema, "MEANINGS", {"pattern": 2, "never_recorded": 7})
    with pytest.raises(StoreError, match="means something else now: finish it with the version"):
        probekit.run(config("plain", "one"))
    probekit.run(config("bfloat16", "other"))  # records no pattern
    assert json.loads(Path("other/run.json").read_text())["identity"]["meanings"] == {}
    probekit.run(config("plain", "one"), overwrite=True)
    probekit.run(config("plain", "one"))


def test_a_run_in_a_format_of_tomorrow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    probekit.run(config("plain", "one"))
    monkeypatch.setattr("probekit.store.folder.NEWEST", schema.FIRST)
    with pytest.raises(StoreError, match=r"a run in format 1\.1.*finish it with the version"):
        probekit.run(config("plain", "one"))


def test_times_of_another_shard_or_run_are_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    probekit.run(config("order", "one"))
    probekit.run(config("order", "other", model={"dtype": "float16"}))
    shards = Path("one/shards")
    own = (shards / "00001.made.json").read_bytes()
    for wrong, says in (
        (shards / "00002.made.json", "is of shard 2"),
        (Path("other/shards/00001.made.json"), "is of another run"),
    ):
        (shards / "00001.made.json").write_bytes(wrong.read_bytes())
        (damage,) = probekit.verify("one").damages
        assert (damage.file, damage.shard, damage.what) == ("shards/00001.made.json", 1, says)
    (shards / "00001.made.json").unlink()
    assert probekit.verify("one").damaged_shards == (1,)
    with pytest.raises(StoreError, match=r"00001\.made\.json: cannot be read"):
        probekit.open("one").execution  # noqa: B018
    (shards / "00001.made.json").write_bytes(own)
    assert probekit.verify("one").whole
