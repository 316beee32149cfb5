"""Where a new file may be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from probekit.errors import StoreError
from probekit.store import new_name


def starts_with_ours(path: Path) -> bool:
    return path.read_bytes().startswith(b"ours")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("-", "standard output; give the name of a file"),
        ("/dev/full", "/dev/full: is a device, no file that can be replaced; give another name"),
        ("pipe", "pipe: is a pipe, no file that can be replaced"),
        ("to_a_device", "to_a_device .a link to /dev/null.: is a device"),
        ("folder", "folder: is a folder; give the name of a file, such as folder/NAME"),
        ("run", "run: is the folder of a run; give the name of a file outside of it"),
        ("to_a_folder", "to_a_folder .a link to .*folder.: is a folder"),
        ("nowhere/a", "a: there is no folder nowhere; make it first"),
        ("to_nowhere", "to_nowhere .a link to .*: there is no folder .*nowhere; make it first"),
        ("run/a", "run/a: lies in the folder of a run, .*run, which holds that run's files"),
        ("run/shards/0.h5", "lies in the folder of a run"),
        ("into_a_run", "into_a_run .a link to .*run.json.: lies in the folder of a run"),
    ],
)
def test_what_must_stay_is_never_replaced(tmp_path, monkeypatch, name, says):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("run/shards").mkdir(parents=True)
    Path("run/run.json").touch()
    Path("folder").mkdir()
    Path("to_a_device").symlink_to("/dev/null")
    Path("to_a_folder").symlink_to("folder")
    Path("to_nowhere").symlink_to("nowhere/a")
    Path("into_a_run").symlink_to("run/run.json")
    with pytest.raises(StoreError, match=says):
        new_name(Path(name), overwrite=True)


def test_a_file_is_replaced_when_it_is_said_or_when_it_is_ours(tmp_path):
    path = tmp_path / "a"
    assert new_name(path, overwrite=False) == path
    path.write_text("theirs")
    ours = ("list", starts_with_ours)
    for is_ours, but in ((None, "exists"), (ours, "exists and is no list")):
        says = rf"a: {but}; give another name, or overwrite it \(--overwrite; in Python overwrite"
        with pytest.raises(StoreError, match=says):
            new_name(path, overwrite=False, is_ours=is_ours)
        assert new_name(path, overwrite=True, is_ours=is_ours) == path
    path.write_text("ours")
    assert new_name(path, overwrite=False, is_ours=ours) == path


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to("target")
    assert new_name(tmp_path / "link", overwrite=False) == tmp_path / "target"
    (tmp_path / "target").touch()
    with pytest.raises(StoreError, match=r"link .a link to .*target.: exists"):
        new_name(tmp_path / "link", overwrite=False)
    assert new_name(tmp_path / "link", overwrite=True) == tmp_path / "target"
