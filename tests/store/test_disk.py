"""What reaches the disk: HDF5 files on a full disk, small files, the system's errors."""

from __future__ import annotations

import errno
import gc
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from probekit.errors import StoreError
from probekit.store.format.disk import HDF5Out, explained, fsync, read_pieces, write_all


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Let the system refuse every byte of a file beyond so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def n_open_files() -> int:
    gc.collect()  # what earlier tests left to it
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def fill(file: h5py.File) -> None:
    file.attrs["config"] = "x" * 100_000
    for number in range(20):
        file[f"group/{number}"] = np.arange(number * 100)
        file[f"group/{number}"].attrs["axes"] = ["token", "d_mlp"]


def assert_filled(path: Path) -> None:
    with h5py.File(path) as file:
        assert file.attrs["config"] == "x" * 100_000
        for number in range(20):
            assert file[f"group/{number}"][:].tolist() == list(range(number * 100))
            assert list(file[f"group/{number}"].attrs["axes"]) == ["token", "d_mlp"]


def test_an_hdf5_file_is_what_h5py_writes(tmp_path: Path) -> None:
    with HDF5Out(tmp_path / "a.h5") as out:
        fill(out.file)
    assert_filled(tmp_path / "a.h5")


def test_a_file_that_is_there_can_be_changed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        fill(file)
    with HDF5Out(tmp_path / "a.h5", "r+") as out:
        out.file.attrs["more"] = 3
        out.file["group/3"][:5] = 7
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["more"] == 3
        assert file["group/3"][:6].tolist() == [7, 7, 7, 7, 7, 5]
        assert file["group/19"][:].tolist() == list(range(1900))


def test_making_a_file_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"x" * 1_000_000)
    with HDF5Out(tmp_path / "a.h5") as out:
        out.file["a"] = 1
    assert (tmp_path / "a.h5").stat().st_size < 10_000


@pytest.mark.few(4)
@pytest.mark.parametrize("mode", ["w", "r+"])
@pytest.mark.parametrize("n_bytes", [0, 100, 3000, 20_000, 110_000])
def test_a_full_disk_is_an_error_at_the_end_of_the_block(
    tmp_path: Path, mode: str, n_bytes: int
) -> None:
    with h5py.File(tmp_path / "a.h5", "w"):
        pass
    n_open = n_open_files()
    with (
        pytest.raises(OSError) as raised,
        files_of_at_most(n_bytes),
        HDF5Out(tmp_path / "a.h5", mode) as out,
    ):
        fill(out.file)
    assert raised.value.errno == errno.EFBIG
    assert n_open_files() == n_open


def test_a_full_disk_can_be_seen_before_the_block_ends(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="File too large"),
        files_of_at_most(50_000),
        HDF5Out(tmp_path / "a.h5") as out,
    ):
        for number in range(1000):
            out.file[str(number)] = np.zeros(1000)
            out.check()
    assert number < 20


def test_an_error_in_the_block_is_the_one_that_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), HDF5Out(tmp_path / "a.h5"):
        raise ZeroDivisionError


def test_what_could_not_be_written_can_still_be_read_in_the_block(tmp_path: Path) -> None:
    with pytest.raises(OSError), files_of_at_most(3000), HDF5Out(tmp_path / "a.h5") as out:
        fill(out.file)
        out.file.flush()
        assert out.file["group/7"][:].tolist() == list(range(700))
        assert out.file.attrs["config"] == "x" * 100_000


PLAIN = """
import resource, sys, h5py
file = h5py.File(sys.argv[1], "w", libver=("v108", "v110"))
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
try:
    for number in range(300):
        file[f"group/{number}"] = 1
    file.close()
except Exception as error:
    print(type(error).__name__)
"""
OURS = """
import resource, sys
from pathlib import Path
from probekit.store.format.disk import HDF5Out
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
try:
    with HDF5Out(Path(sys.argv[1]), libver=("v108", "v110")) as out:
        for number in range(300):
            out.file[f"group/{number}"] = 1
except Exception as error:
    print(type(error).__name__)
"""


def test_a_full_disk_does_not_take_the_interpreter_down_at_its_exit(tmp_path: Path) -> None:
    ended = [
        subprocess.run([sys.executable, "-c", code, tmp_path / "a.h5"], capture_output=True)
        for code in (OURS, PLAIN)
    ]
    assert (ended[0].returncode, ended[0].stdout, ended[0].stderr) == (0, b"OSError\n", b"")
    # The reason for all this: HDF5 by itself ends in tracebacks, or in a segmentation fault.
    assert ended[1].returncode != 0 or ended[1].stderr


# --- bytes


def test_pieces_of_a_file_are_its_bytes(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(20_000_000)
    (tmp_path / "a").write_bytes(data)
    with (tmp_path / "a").open("rb") as raw:
        raw.seek(7)
        assert b"".join(bytes(p) for p in read_pieces(raw, 19_000_000)) == data[7:19_000_007]
        assert raw.tell() == 19_000_007
        rest = [bytes(p) for p in read_pieces(raw, 5_000_000)]
        assert b"".join(rest) == data[19_000_007:], "no more than there is"
        assert list(read_pieces(raw, 0)) == []


def test_all_of_it_is_written_however_little_goes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.pwrite
    monkeypatch.setattr("os.pwrite", lambda fd, data, at: plain(fd, data[:3], at))
    fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    write_all(fd, memoryview(b"0123456789"), 4)
    os.close(fd)
    assert (tmp_path / "a").read_bytes() == b"\0\0\0\x000123456789"


def test_fsync_takes_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", os.fsync.real)  # type: ignore[attr-defined]
    (tmp_path / "a").write_text("a")
    fsync(tmp_path / "a")
    fsync(tmp_path)
    with pytest.raises(FileNotFoundError):
        fsync(tmp_path / "b")


def test_an_error_of_the_system_names_the_path_and_the_reason(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match=r"^here: cannot be read: No such file or directory$"),
        explained("here", "read"),
    ):
        (tmp_path / "gone").read_bytes()
    with pytest.raises(StoreError, match=r"^here: cannot be written: odd$"), explained("here"):
        raise OSError("odd")
    with pytest.raises(KeyError), explained("here"):
        raise KeyError
