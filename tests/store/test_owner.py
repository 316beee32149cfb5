"""Whose temporary files are, and when they may go."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from probekit.store.format.owner import is_forsaken, part_of, this_process

SAY = (
    "from probekit.store.format.owner import this_process\n"
    "print(this_process(), flush=True); input()"
)


def test_a_name_of_ours_is_forsaken_and_says_whose_it_is() -> None:
    part = part_of(Path("shards/00003.h5"))
    assert part.name == f".00003.h5.{this_process()}.part"
    assert this_process().split("-")[1] == str(os.getpid())
    assert is_forsaken(part.name)


def test_a_living_process_keeps_its_files_and_a_dead_one_does_not() -> None:
    command = [sys.executable, "-c", SAY]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        name = f".00000.h5.{other.stdout.readline().strip()}.part"
        assert not is_forsaken(name)
        other.communicate("\n")
    assert is_forsaken(name)


def test_a_number_that_came_again_is_another_process() -> None:
    host, process, started = this_process().split("-")
    assert is_forsaken(f".x.{host}-{process}-{int(started) + 1}.part")


def test_what_is_of_another_host_is_not_provably_dead() -> None:
    assert not is_forsaken(f".00000.h5.{'other' + platform.node().replace('-', '')}-1-1.part")


@pytest.mark.parametrize("name", [".00000.h5.part", ".00000.json.part", ".scratch-a8s7d"])
def test_names_of_format_1_have_no_owner(name: str) -> None:
    assert is_forsaken(name)
