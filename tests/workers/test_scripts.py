"""The example scripts of examples/large-runs, run as written, where what they call is at hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import probekit

SCRIPTS = Path(__file__).parents[2] / "examples" / "large-runs"
CONFIG = {
    "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
    "inputs": {"random": {"examples": 12, "min_tokens": 4, "max_tokens": 9}},
    "probes": [{"sites": "resid_post"}],
    "store": {"path": "run", "shard_bytes": "6KiB"},
}
# What SLURM would do: start the command for this element, and take note of a job to requeue.
SRUN = '#!/usr/bin/env bash\nexport SLURM_PROCID=0\nexec "$@"\n'
SCONTROL = '#!/usr/bin/env bash\necho "$@" >> scontrol.log\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        Path(name).write_text(text)
        Path(name).chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchrun.sh", "ray.sh"])
def test_a_script_makes_the_trace(here: Path, name: str) -> None:
    if name == "ray.sh":
        pytest.importorskip("ray", reason="ray is not installed: pip install 'probekit[ray]'")
    done = subprocess.run(
        ["bash", str(SCRIPTS / name), "config.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(probekit.open("run").examples) == 12
    assert not Path("run/claims").exists()


@pytest.mark.slow
def test_elements_of_an_array_share_a_run(here: Path) -> None:
    elements = [
        subprocess.Popen(
            ["bash", str(SCRIPTS / "slurm.sbatch"), "config.yaml"],
            env={**os.environ, "SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_JOB_ID": "7"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    errors = [element.communicate()[1] for element in elements]
    assert [element.returncode for element in elements] == [0, 0], errors
    assert len(probekit.open("run").examples) == 12
    assert not Path("scontrol.log").exists()


def test_an_element_that_is_told_to_stop_comes_again(here: Path) -> None:
    Path("srun").write_text("#!/usr/bin/env bash\nexit 75\n")
    done = subprocess.run(
        ["bash", str(SCRIPTS / "slurm.sbatch"), "config.yaml"],
        env={**os.environ, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "7"},
        check=False,
    )
    assert done.returncode == 75
    assert Path("scontrol.log").read_text() == "requeue 7_3\n"
