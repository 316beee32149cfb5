"""Every command, snippet and config of the README and the docs, run as a reader would."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import reading
import yaml

from probekit.config.loading import load_config

ROOT = reading.ROOT
PAGES = {page.relative_to(ROOT).as_posix(): page for page in reading.pages()}
WITH_CODE = [
    name
    for name, page in PAGES.items()
    if reading.commands(page) or any(b.kind == "python" for b in reading.blocks(page))
]
SHELL = ("probekit ", "make ", "pip install ", "source ", "#")
TRIED = ("python examples/cache_timing.py",)  # tests/examples


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder as a fresh clone would be."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


@pytest.fixture(scope="module")
def heard(clone):
    """What every page said."""
    return reading.read_all(clone, WITH_CODE)


def test_there_is_something_to_run():
    assert len(reading.commands(PAGES["README.md"])) >= 3
    assert len(WITH_CODE) >= 15


@pytest.mark.parametrize("name", WITH_CODE)
def test_every_command_and_snippet_of_a_page_runs(name, heard):
    assert heard[name]["error"] == ""


def test_the_pages_show_what_they_promise(heard):
    first = heard["docs/tutorials/first-trace.md"]["said"]
    assert re.search(r"'The capital of Japan is' -> ' Tokyo' \d", first)
    assert re.search(r"neuron \d+: the top 5 of 24 rows\n.*\n.*«.*»", first)
    # The logit lens ends in what the model itself says.
    lens = heard["docs/tutorials/logit-lens.md"]["said"]
    assert re.findall(r"after layer \d+: (.*) [\d.]+%", lens)[-1] == "' Tokyo'"
    assert "step 1:" in heard["docs/tutorials/generation.md"]["said"]
    hunt = heard["docs/tutorials/induction-heads.md"]["said"]
    best = re.search(r"layer (\d), head \d: ([\d.]+)", hunt)
    assert best[1] == "1"  # the induction head is in the last layer
    assert float(best[2]) > 0.5


@pytest.mark.slow
def test_full_size_commands_run(clone):
    lines = [line for page in PAGES.values() for line in reading.commands(page, slow=True)]
    assert lines
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in lines:
        done = subprocess.run(
            shlex.split(line), cwd=clone, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.parametrize("name", PAGES)
def test_no_shell_line_is_left_untried(name):
    """What is no command of probekit's is of a kind that another test, or nobody, can try."""
    lines = [
        line
        for block in reading.blocks(PAGES[name])
        if block.kind == "bash"
        for line in block.text.splitlines()
    ]
    assert [line for line in lines if line and not line.startswith((*SHELL, *TRIED))] == []


def make_targets():
    texts = [page.read_text(encoding="utf-8") for page in PAGES.values()]
    texts.append((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    return sorted(set(re.findall(r"^make ([a-z-]+)", "\n".join(texts), re.MULTILINE)))


@pytest.mark.parametrize("target", make_targets())
def test_every_make_target_is_there(target):
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def configs():
    return [
        pytest.param(block.text, id=f"{name}-{number}")
        for name, page in PAGES.items()
        for number, block in enumerate(reading.blocks(page))
        if block.kind == "yaml"
    ]


@pytest.mark.parametrize("text", configs())
def test_every_config_shown_is_right(text):
    """A part of a config is right where it is so with the other parts beside it."""
    rest = {
        "model": {"name": "a"},
        "inputs": {"texts": ["a"]},
        "probes": [{"modules": "a"}],
        "store": {"path": "a"},
    }
    load_config({**rest, **yaml.safe_load(text)})


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_config_of_the_project_is_right(path):
    load_config(path)
