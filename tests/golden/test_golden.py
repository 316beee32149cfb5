"""Traces that the last version of format 1 wrote: read, verified, repaired, finished, compared."""

from __future__ import annotations

import copy
import shutil
import tarfile
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from golden_configs import CONFIGS, TEXTS

import probekit
from probekit import StoreError

HERE = Path(__file__).parent
WHOLE = [name for name in CONFIGS if not name.startswith("interrupted")]
HALF = [name for name in CONFIGS if name.startswith("interrupted")]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(HERE / "golden.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def golden(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all golden runs; configs name them relative to here."""
    shutil.copytree(unpacked / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def config(name: str, **store: Any) -> dict[str, Any]:
    found = copy.deepcopy(CONFIGS[name])
    found["store"].update(store)
    return found


def rows_by_h5py(trace: Path) -> dict[str, np.ndarray]:
    with h5py.File(trace) as file:
        found: dict[str, np.ndarray] = {}
        file["sites"].visititems(
            lambda name, node: (
                found.update({name: node[:]}) if isinstance(node, h5py.Dataset) else None
            )
        )
    return found


def files(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_the_archive_is_small() -> None:
    assert (HERE / "golden.tar.xz").stat().st_size < 300_000


@pytest.mark.parametrize("name", WHOLE)
def test_a_golden_trace_opens(golden: Path, name: str) -> None:
    trace = probekit.open(golden / name)
    assert [e.text for e in trace.examples] == TEXTS
    read = rows_by_h5py(golden / name / "trace.h5")
    assert set(read) == set(trace.site_names)
    for site, rows in read.items():
        np.testing.assert_array_equal(trace[site][:], rows)
    assert trace.tokens[3].position == 3
    if name == "order":
        assert trace.execution_order[0] == "transformer"
        assert all(forward.seconds > 0 for forward in trace.execution.forwards)
    if name == "generate":
        assert [e.n_generated for e in trace.examples] == [3] * len(TEXTS)


@pytest.mark.parametrize("name", WHOLE)
def test_a_golden_run_is_whole_and_finished(golden: Path, name: str) -> None:
    before = files(golden / name)
    assert probekit.verify(golden / name).whole
    probekit.run(config(name))
    assert files(golden / name) == before


@pytest.mark.parametrize("name", WHOLE)
def test_a_golden_run_is_repaired(golden: Path, name: str) -> None:
    rows = rows_by_h5py(golden / name / "trace.h5")
    shard = golden / name / "shards" / "00001.h5"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(data)
    assert probekit.verify(golden / name).damaged_shards == (1,)
    kept = (golden / name / "shards" / "00000.h5").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probekit.ProbekitWarning)
        probekit.run(config(name), repair=True)
    assert probekit.verify(golden / name).whole
    assert (golden / name / "shards" / "00000.h5").read_bytes() == kept
    for site, now in rows_by_h5py(golden / name / "trace.h5").items():
        np.testing.assert_allclose(now, rows[site], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", HALF)
def test_a_half_done_golden_run_goes_on(golden: Path, name: str) -> None:
    before = files(golden / name / "shards")
    with pytest.raises(StoreError, match="the run is not finished: 2 of 5 shards are sealed"):
        probekit.open(golden / name)
    trace = probekit.run(config(name))
    now = files(golden / name / "shards")
    assert {file: now[file] for file in before} == before
    assert probekit.verify(golden / name).whole
    whole = probekit.open(golden / ("generate" if "generate" in name else "plain"))
    assert trace.site_names == whole.site_names
    np.testing.assert_array_equal(trace.tokens.id[:], whole.tokens.id[:])
    for site in whole.site_names:
        np.testing.assert_allclose(trace[site][:], whole[site][:], rtol=1e-4, atol=1e-5)


def test_another_config_is_refused(golden: Path) -> None:
    changed = config("interrupted")
    changed["inputs"]["texts"] = [*TEXTS[:-1], "Anna sees"]
    with pytest.raises(StoreError, match="holds another run"):
        probekit.run(changed)


def test_a_golden_trace_compares_with_a_run_of_today(golden: Path) -> None:
    today = probekit.run(config("plain", path="runs/today"))
    found = probekit.compare(golden / "plain", today)
    assert found.pairs
    assert all(pair.largest_difference < 1e-4 for pair in found.pairs)
