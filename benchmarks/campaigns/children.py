"""Child processes that run probekit's command line, quickly and with something done to them.

torch is imported once, in a server process that forks a child for each run; the child is a process
of its own, with its own signals, limits and death. What is done to it is an object that is called
in the child before the command line is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

_PRELOADED = [
    "torch",
    "transformers",
    "probekit.cli.commands",
    "probekit.cli.terminal",
    "probekit.capture.running",
]
_LONG_S = 120.0  # what takes longer than this hangs

Before = Callable[[], None]  # called in the child


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child ended."""

    code: int  # negative: the signal that ended it
    out: str
    err: str
    log: list[str]  # what `log` wrote

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL

    @property
    def refused(self) -> bool:
        """Whether it ended as an error of probekit's does: one message, code 2, no traceback."""
        return self.code == 2 and self.err.count("error: ") == 1 and "Traceback" not in self.err

    def __str__(self) -> str:
        return f"exit {self.code}, {self.err[-300:]!r}"


class Child:
    """A command that runs in a directory."""

    def __init__(self, place: Path, *arguments: str, before: Before | None = None) -> None:
        self._place = place
        for name in (".out", ".err", ".log"):
            (place / name).unlink(missing_ok=True)
        self._process = _server().Process(target=_work, args=(place, arguments, before))
        self._process.start()

    @property
    def process(self) -> ForkServerProcess:
        """The process itself."""
        return self._process

    def wait_for_log(self, word: str) -> bool:
        """Wait until the child has logged a word; False when it ended without it."""
        while not any(line.startswith(word) for line in read_log(self._place)):
            if not self._process.is_alive():
                return False
            time.sleep(0.002)
        return True

    def end(self) -> Ended:
        """Wait until it has ended; what hangs is ended by SIGQUIT, which nothing else sends."""
        self._process.join(_LONG_S)
        if self._process.is_alive():
            os.kill(self._process.pid or 0, signal.SIGQUIT)
            self._process.join()
        texts = [
            (self._place / name).read_text(errors="replace")
            if (self._place / name).exists()
            else ""
            for name in (".out", ".err")
        ]
        return Ended(
            code=self._process.exitcode or 0,
            out=texts[0],
            err=texts[1],
            log=read_log(self._place),
        )


def run_probekit(place: Path, *arguments: str, before: Before | None = None) -> Ended:
    """Run a command of probekit's in a directory, to its end."""
    return Child(place, *arguments, before=before).end()


def log(line: str) -> None:
    """Write a line that stays whatever happens to the process; called in the child."""
    fd = os.open(".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def read_log(place: Path) -> list[str]:
    """Give the lines that the child in a directory has logged."""
    return _text(place / ".log").splitlines()


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


@cache
def _server() -> ForkServerContext:
    os.environ["OMP_NUM_THREADS"] = "1"  # one thread: nothing is lost by a fork
    os.environ["HF_HUB_OFFLINE"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _work(place: Path, arguments: tuple[str, ...], before: Before | None) -> None:
    os.chdir(place)
    for fd, name in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    sys.argv = ["probekit", *arguments]
    from probekit.cli import commands as cli

    if before is not None:
        before()
    cli.main()
