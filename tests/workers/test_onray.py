"""Workers on Ray: a real cluster of several nodes on this machine, of which one is taken away."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import probekit
from probekit.capture import Asked
from probekit.errors import ProbekitError
from probekit.workers import run_on_ray, status

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


def wait_for_sealed(n: int) -> None:
    while len(list(Path("run/shards").glob("[0-9]*.h5"))) < n:
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_the_same_bytes_come_of_nodes_that_go_and_workers_that_are_killed(
    here: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    probekit.run("config.yaml")
    wanted = rows(Path("run"))
    Path("run").rename("alone")
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    done: list[str] = []

    def disturb() -> None:
        wait_for_sealed(2)
        cluster.remove_node(nodes[0], allow_graceful=False)
        done.append("removed")
        wait_for_sealed(8)
        cluster.add_node(num_cpus=1)
        done.append("added")
        for pid in subprocess.run(
            ["pgrep", "-f", "ray::Worker"], capture_output=True, text=True, check=False
        ).stdout.split():
            os.kill(int(pid), signal.SIGKILL)
            done.append("killed")

    disturbing = threading.Thread(target=disturb, daemon=True)
    disturbing.start()
    trace = run_on_ray("config.yaml", Asked(), address=cluster.address, n_workers=2)
    disturbing.join(60)
    assert done[:2] == ["removed", "added"]
    assert "killed" in done
    assert rows(Path("run")) == wanted
    assert len(trace.examples) == N_EXAMPLES
    assert status("run").is_finished


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_a_worker_raises_is_told(here: Path, cluster: Any) -> None:
    cluster.add_node(num_cpus=1)
    config = CONFIG | {
        "inputs": {"random": {"examples": 2, "max_tokens": 8}},
        "store": {"path": "run", "dtype": "float16", "on_overflow": "error"},
        "probes": [{"sites": "resid_post"}],
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    assert probekit.plan("config.yaml").shards
    # The folder is in order when it is planned, and a file lies in the way of a worker's.
    stop = threading.Event()

    def break_it() -> None:
        while not Path("run/inputs.json").exists():
            time.sleep(0.005)
        Path("run/run.json").write_text("{}")
        stop.set()

    threading.Thread(target=break_it, daemon=True).start()
    with pytest.raises(ProbekitError, match=r"a worker on Ray failed: .*run\.json"):
        run_on_ray("config.yaml", Asked(), address=cluster.address, n_workers=1)
    assert stop.is_set()


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
