"""Attempts: an action carried out in a process of its own, with a limit on what it may take.

A forked child costs milliseconds and can do what it likes: hang, eat memory, crash the interpreter.
Its parent says how it ended. Nothing here imports probekit.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import pickle
import resource
import select
import signal
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an action may take."""

    cpu_s: float = 1.0  # of processor time: what a busy machine does not change
    n_bytes: int = 1 << 30  # of memory, beyond what the process had before
    wall_s: float = 60.0  # after which it is killed: it waits for something


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended."""

    kind: str  # "done", "refused", or what must not be: "traceback", "killed", "slow", "large"
    said: str  # the result, the message, the traceback
    cpu_s: float
    n_bytes: int

    @property
    def is_fault(self) -> bool:
        """Say whether it ended as nothing may end."""
        return self.kind not in ("done", "refused")


def attempt(
    action: Callable[[], Any],
    refusals: type[Exception] | tuple[type[Exception], ...] = (),
    limits: Limits = Limits(),
) -> Outcome:
    """Carry an action out in a forked child.

    Args:
        action: what to do; `str` of what it returns comes back.
        refusals: exceptions that are an answer.
        limits: what it may take.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # our other threads do nothing
        child = os.fork()
    if not child:
        os.close(reader)
        _carry_out(action, refusals, limits, writer)
    os.close(writer)
    try:
        answer = _read(reader, limits.wall_s)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # it has nothing more to do, or never ends
        _, status, usage = os.wait4(child, 0)
    cpu_s = usage.ru_utime + usage.ru_stime
    if answer is None:
        how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exit"
        return Outcome(kind="killed", said=how, cpu_s=cpu_s, n_bytes=0)
    kind, said, n_bytes = answer
    if kind in ("done", "refused") and cpu_s > limits.cpu_s:
        kind = "slow"
    if kind in ("done", "refused") and n_bytes > limits.n_bytes:
        kind = "large"
    return Outcome(kind=kind, said=said, cpu_s=cpu_s, n_bytes=n_bytes)


def _carry_out(action: Callable[[], Any], refusals: Any, limits: Limits, writer: int) -> None:
    """Be the child: never returns."""
    try:
        faulthandler.disable()  # a crash is told by how the child ends
        gc.freeze()  # looking through all that the parent has is no cost of the action's
        torch.set_num_threads(1)  # a pool lost in forking is made anew, before threads want it
        _forget_peak()
        before = _peak_bytes()
        room = _virtual_bytes() + limits.n_bytes + (256 << 20)  # stacks and arenas are no use of it
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        seconds = max(1, int(10 * limits.cpu_s))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        try:
            kind, said = "done", str(action())
        except refusals as error:
            kind, said = "refused", str(error)
        except BaseException:
            kind, said = "traceback", traceback.format_exc()
        with os.fdopen(writer, "wb") as out:
            pickle.dump((kind, said[:1_000_000], _peak_bytes() - before), out)
    finally:
        os._exit(0)


def _read(reader: int, wall_s: float) -> Any:
    """Read what a child says; None where it says nothing."""
    data = b""
    while select.select([reader], [], [], wall_s)[0]:
        piece = os.read(reader, 1 << 16)
        if not piece:
            return pickle.loads(data) if data else None
        data += piece
    return None


def _forget_peak() -> None:
    """Let the peak of memory be what is used now.

    What the parent has freed and its allocator keeps would hide as much of what the action takes.
    """
    with contextlib.suppress(AttributeError):  # a libc without it
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # a kernel without it
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _virtual_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize()
