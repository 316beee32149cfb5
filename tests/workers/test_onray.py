"""Workers on Ray: a real cluster of several nodes on this machine, of which one is taken away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

import probekit
from probekit.capture import Asked
from probekit.errors import ProbekitError
from probekit.stages import WORKERS
from probekit.workers import run_on_ray, status

SAMPLE = Path(probekit.__file__).parent / "samples" / "tiny-gpt2"
N_EXAMPLES = 800  # of which some are left when a node has come
CONFIG = {
    "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
    "inputs": {"random": {"examples": N_EXAMPLES, "min_tokens": 20, "max_tokens": 60}},
    "probes": [{"sites": "resid_post"}],
    "store": {"path": "run", "shard_bytes": "30KiB"},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give a cluster of a head without work and two nodes of one core."""
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'probekit[ray]'")
    utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PROBEKIT_LEASE_S", "3")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    made = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def rows(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("shards/*.h5"), folder / "trace.h5", folder / "inputs.h5"]
    return {path.name: path.read_bytes() for path in files}


def sealed() -> list[Path]:
    return list(Path("run/shards").glob("[0-9]*.h5"))


def wait_for_sealed(n: int) -> None:
    while len(sealed()) < n:
        time.sleep(0.05)


def processes() -> list[int]:
    """Give the processes of the actors."""
    told = subprocess.run(
        ["pgrep", "-f", "ray::Worker"], capture_output=True, text=True, check=False
    )
    return [int(line) for line in told.stdout.split()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_the_same_bytes_come_of_nodes_that_go_and_workers_that_are_killed(
    here: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    probekit.run("config.yaml")
    wanted = rows(Path("run"))
    Path("run").rename("alone")
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    with ThreadPoolExecutor(1) as pool:  # nodes are added and removed in the main thread alone
        running = pool.submit(
            run_on_ray, "config.yaml", Asked(), address=cluster.address, n_workers=2
        )
        wait_for_sealed(2)
        cluster.remove_node(nodes[0], allow_graceful=False)
        wait_for_sealed(len(sealed()) + 2)
        cluster.add_node(num_cpus=1)
        there = processes()
        for process in there:
            os.kill(process, signal.SIGKILL)
        assert there
        assert len(sealed()) < N_EXAMPLES, "all was done by then"
        trace = running.result()
    assert rows(Path("run")) == wanted
    assert len(trace.examples) == N_EXAMPLES
    assert status("run").is_finished


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_a_worker_raises_is_told(here: Path, cluster: Any) -> None:
    cluster.add_node(num_cpus=1)
    shutil.copytree(SAMPLE, "model")
    config = CONFIG | {"model": {"name": "./model", "device": "cpu"}}
    Path("config.yaml").write_text(yaml.safe_dump(config))

    def lose_the_model(stage: str) -> None:
        if stage == WORKERS:
            shutil.rmtree("model")

    with pytest.raises(ProbekitError, match=r"a worker on Ray failed: .*model"):
        run_on_ray(
            "config.yaml", Asked(on_stage=lose_the_model), address=cluster.address, n_workers=1
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_not_there_is_told(here: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'probekit[ray]'")
    with pytest.raises(ProbekitError, match=r"--address: there is no Ray cluster at"):
        run_on_ray("config.yaml", Asked(), address="127.0.0.1:1", n_workers=1)


def test_without_ray_it_says_how_to_install_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ProbekitError, match=r"--on ray needs ray.*pip install 'probekit\[ray\]'"):
        run_on_ray("config.yaml", Asked())
