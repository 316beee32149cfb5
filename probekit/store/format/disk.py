"""What goes onto the disk for good, and what to say when the disk refuses.

Knows the operating system's calls and errors, and HDF5's need to never see a write fail; nothing of
what is written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import h5py

from probekit.errors import StoreError

_PIECE_BYTES = 8 << 20


_WRITTEN_BYTES = 256 << 10  # of one write: small beside a cache, large beside a call
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


@contextmanager
def explained(path: Path | str, what: str = "written") -> Iterator[None]:
    """Turn the system's errors of a block into a StoreError that names the path."""
    try:
        yield
    except OSError as error:  # a full disk above all
        raise StoreError(f"{path}: cannot be {what}: {error.strerror or error}") from error


def check_plain(path: Path) -> None:
    """Refuse what is no plain file of its folder: a pipe, which never ends, or a link elsewhere.

    Raises:
        StoreError: saying which.
    """
    if path.exists() and not path.is_file():
        raise StoreError(f"{path}: cannot be read: it is no plain file")
    if path.resolve().parent != path.parent.resolve():
        raise StoreError(f"{path}: is a link that points outside the trace")


def write_in_pieces(fd: int, data: memoryview, offset: int) -> None:
    """Write bytes a piece at a time: calls of megabytes wait for memory in one piece."""
    for begin in range(0, len(data), _WRITTEN_BYTES):
        write_all(fd, data[begin : begin + _WRITTEN_BYTES], offset + begin)


def publish(part: Path, path: Path) -> bool:
    """Give a whole file its name, unless there is one of that name already.

    A hard link is made or refused at once, also on network file systems, where `rename` would
    replace and locks may not reach other hosts. `part` goes where it was published.

    Returns:
        Whether it was.
    """
    try:
        linked = link(part, path)
    except FileExistsError:
        if not path.is_file():  # a folder in the way is nobody's work
            raise
        return False
    if not linked:
        if path.exists():
            return False
        part.replace(path)
        return True
    part.unlink()
    return True


def link(path: Path, name: Path) -> bool:
    """Give a file another name; False on a file system without hard links.

    There the lock on the folder keeps a second process of this host away.
    """
    try:
        name.hardlink_to(path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def fsync(path: Path) -> None:
    """Force a file or a folder onto the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write bytes at an offset; one `pwrite` moves at most 2 GiB, and may move less."""
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def read_pieces(raw: BinaryIO, n_bytes: int) -> Iterator[memoryview]:
    """Read so many bytes from where a file stands, a few MiB at a time, less where it ends before.

    Yields:
        Views of one buffer: each is good until the next is asked for.
    """
    buffer = memoryview(bytearray(max(0, min(n_bytes, _PIECE_BYTES))))
    while n_bytes > 0 and (found := raw.readinto(buffer[:n_bytes])):  # type: ignore[attr-defined]
        yield buffer[:found]
        n_bytes -= found


class HDF5Out:
    """Write an HDF5 file; a full disk is an OSError when the block ends, as of any other file.

    HDF5 cannot let go of a file whose last writes failed: it keeps it open, prints tracebacks and
    takes the interpreter down at its exit (seen with HDF5 2.0). So it writes through an object of
    ours that keeps the first error to itself, and what could not be written in memory.

    Args:
        path: of the file.
        mode: "w" makes it anew, "r+" changes it.
        options: of `h5py.File`.
    """

    def __init__(self, path: Path, mode: str = "w", **options: Any) -> None:
        self._path, self._mode, self._options = path, mode, options

    def __enter__(self) -> Self:
        flags = os.O_RDWR | (os.O_CREAT | os.O_TRUNC if self._mode == "w" else 0)
        self._raw = _NeverFails(os.open(self._path, flags | os.O_CLOEXEC, 0o666))
        try:
            self.file = h5py.File(self._raw, self._mode, **self._options)
        except BaseException:
            os.close(self._raw.fd)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.file.close()
        finally:
            os.close(self._raw.fd)
        if error is None or isinstance(error, Exception):
            self.check()

    def let_go(self) -> None:
        """Close the file and open it again: until then HDF5 keeps what it has seen of it."""
        self.file.close()
        self.check()
        self.file = h5py.File(self._raw, "r+", **self._options)

    def check(self) -> None:
        """Raise the first error, if there was one; after a large write, to go no further."""
        if self._raw.error is not None:
            raise self._raw.error


class _NeverFails(RawIOBase):
    """The file that HDF5 sees, through h5py's driver for Python files."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd
        self.error: OSError | None = None
        self._at = 0
        self._end = os.fstat(fd).st_size
        self._kept: list[tuple[int, bytes]] = []  # what came after the error, by offset

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def write(self, data: Any) -> int:
        piece = memoryview(data).cast("B")
        if self.error is None:
            try:
                write_all(self.fd, piece, self._at)
            except OSError as error:
                self.error = error
        if self.error is not None:
            self._kept.append((self._at, bytes(piece)))
        self._at += len(piece)
        self._end = max(self._end, self._at)
        return len(piece)

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer).cast("B")
        found = os.preadv(self.fd, [into], self._at)
        into[found:] = bytes(len(into) - found)
        for offset, piece in self._kept:
            begin, end = max(offset, self._at), min(offset + len(piece), self._at + len(into))
            if begin < end:
                into[begin - self._at : end - self._at] = piece[begin - offset : end - offset]
        self._at += len(into)
        return len(into)

    def truncate(self, size: int | None = None) -> int:
        size = self._at if size is None else size
        if self.error is None:
            try:
                os.ftruncate(self.fd, size)
            except OSError as error:
                self.error = error
        self._end = size
        return size
