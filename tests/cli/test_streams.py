"""stdout and stderr that are full, closed or read by nobody: what was asked for is done."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import probekit
from probekit.cli.streams import Printed

PROBEKIT = f"{sys.executable} -m probekit"
CONFIG = """
model: {name: sample:tiny-gpt2}
inputs: {texts: ["Cats are"]}
probes: [{sites: resid_post}]
store: {path: run}
"""
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text(CONFIG)
    return tmp_path


def shell(line: str, folder: Path) -> tuple[int, str]:
    """Run a line of bash; give the exit code of its first command, and all that was said."""
    script = f"{line.replace('probekit', PROBEKIT)}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "streams",
    [
        pytest.param("2>/dev/full", marks=[FULL, pytest.mark.slow]),
        pytest.param(">/dev/full 2>&1", marks=[FULL, pytest.mark.slow]),
        "2>&1 | head -0",
        pytest.param(">&- 2>&-", marks=pytest.mark.slow),
    ],
)
def test_a_run_does_not_depend_on_who_reads_of_it(folder: Path, streams: str) -> None:
    status, said = shell(f"probekit run a.yaml {streams}", folder)
    assert status == 0, said
    assert probekit.verify(folder / "run").whole


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "a.yaml").write_text(CONFIG)
    probekit.run(folder / "a.yaml", overrides=[f"store.path={folder / 'run'}"])
    return folder


@pytest.mark.few(1)
@pytest.mark.parametrize("streams", [">&-", "| head -0", pytest.param(">/dev/full", marks=FULL)])
def test_verify_says_by_its_exit_code_whether_a_trace_is_whole(made: Path, streams: str) -> None:
    assert shell(f"probekit verify run {streams}", made)[0] == 0
    (made / "broken").mkdir(exist_ok=True)
    for file in (made / "run").rglob("*"):
        if file.is_file():
            copy = made / "broken" / file.relative_to(made / "run")
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes()[:-9] if file.suffix == ".h5" else file.read_bytes())
    assert shell(f"probekit verify broken {streams}", made)[0] == 1


def test_who_stops_reading_is_no_mistake_and_a_full_disk_is_one(made: Path) -> None:
    assert shell("probekit info run | head -1", made)[0] == 0
    assert shell("probekit info run >&-", made)[0] == 0
    if Path("/dev/full").exists():
        status, said = shell("probekit info --json run >/dev/full", made)
        assert status == 2
        assert "cannot be printed" in said


def test_usage_errors_look_like_all_others(made: Path) -> None:
    for line in ("plan", "info --nope run", "info run more", "nope", "merge run x.h5 --dtype"):
        status, said = shell(f"probekit {line}", made)
        assert status == 2, said
        assert said.startswith("error: "), said
        assert "--help" in said
        assert "─" not in said


def test_a_stream_remembers_why_it_went_silent(tmp_path: Path) -> None:
    class Failing(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, "broken")

        def fileno(self) -> int:
            return number

    number = os.open(tmp_path / "x", os.O_CREAT | os.O_WRONLY)
    stream = Printed(Failing())
    assert stream.write("abc") == 3
    stream.flush()
    assert stream.failed is not None
    assert stream.failed.errno == errno.EIO
    os.close(number)


def test_a_locale_without_signs_gets_plain_ones() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    printed = Printed(stream)
    assert printed.write("a – «b» é\n") == 10
    printed.flush()
    assert stream.buffer.getvalue() == b"a - <<b>> \\xe9\n"
