"""Every command and every snippet of the README, run as a reader would run them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from probekit.config.loading import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line]
SNIPPETS = [text for kind, text in BLOCKS if kind == "python"]
SLOW = "configs/distilgpt2.yaml"  # a full-size model; see test_a_full_size_command


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder as a fresh clone would be, with the environment's commands at hand."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


def run_command(line, folder):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        shlex.split(line), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def quick_commands():
    return [c for c in COMMANDS if c.startswith("probekit") and SLOW not in c]


def test_the_readme_has_commands_and_snippets():
    assert len(quick_commands()) >= 6
    assert len(SNIPPETS) >= 8


def test_every_command_and_snippet_runs_in_order(clone):
    """In one go, since a reader's later steps build on the earlier ones."""
    for line in quick_commands():
        done = run_command(line, clone)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    script = "\n".join(SNIPPETS)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert re.search(r"'The capital of Japan is' -> ' Tokyo' \d", printed)
    assert re.search(r"neuron \d+: the top 5 of 24 rows\n.*\n.*«.*»", printed)
    # The logit lens ends in what the model itself says.
    assert re.findall(r"after layer \d+: (.*) [\d.]+%", printed)[-1] == "' Tokyo'"
    assert "step 1:" in printed
    best = re.search(r"layer (\d), head \d: ([\d.]+)", printed)
    assert best[1] == "1"  # the induction head is in the last layer
    assert float(best[2]) > 0.5


@pytest.mark.slow
def test_a_full_size_command(clone):
    for line in [c for c in COMMANDS if SLOW in c]:
        done = run_command(line, clone)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", [c.split()[1] for c in COMMANDS if c.startswith("make ")])
def test_every_make_target_is_there(target):
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_configs_shown_are_right(tmp_path):
    whole = [text for kind, text in BLOCKS if kind == "yaml" and "store:" in text]
    assert len(whole) >= 2
    for number, text in enumerate(whole):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        load_config(path)


def test_parts_of_configs_are_right():
    import yaml

    for kind, text in BLOCKS:
        if kind == "yaml" and "store:" not in text:
            part = yaml.safe_load(text)
            load_config(
                {
                    "model": {"name": "a"},
                    "inputs": {"texts": ["a"]},
                    "probes": [{"modules": "a"}],
                    "store": {"path": "a"},
                    **part,
                }
            )


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_config_of_the_project_is_right(path):
    load_config(path)
