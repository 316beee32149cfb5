"""What speaks against a place, found without writing to it; the system itself is the oracle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import probekit
from probekit.store.refusing import closed, in_the_way


@pytest.mark.parametrize(
    "name",
    ["new", "new/a", "folder", "file", "file/run", "folder/run", "loop", "loop/run", "gone/run"],
)
def test_what_is_in_the_way_is_what_keeps_the_system_from_making_it(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    said = in_the_way(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    try:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        refused = False
    except OSError:
        refused = True
    assert (said is not None) == refused
    if refused:
        assert sorted(tmp_path.rglob("*")) == before


def test_a_place_that_the_system_refuses_is_told_as_it_says_it(tmp_path: Path) -> None:
    assert in_the_way(tmp_path / ("x" * 300)) is None
    assert closed(tmp_path / ("x" * 300)) == "cannot be used: File name too long"
    assert closed(tmp_path / "new") is None


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user without rights")
def test_a_folder_without_rights_is_closed() -> None:
    code = (
        "from pathlib import Path\n"
        "from probekit.store.refusing import closed\n"
        "print(closed(Path('/usr')), closed(Path('/usr/new')), closed(Path('/tmp')), sep='\\n')\n"
    )
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    found = subprocess.run(
        [*user, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(probekit.__file__).parents[1])},
    )
    if "ModuleNotFoundError" in found.stderr or "can't open" in found.stderr:
        pytest.skip("another user may not read this environment")
    assert found.stdout.splitlines() == [
        "cannot be written: Permission denied (/usr)",
        "cannot be made: Permission denied (/usr)",
        "None",
    ]
