"""Local: workers that are processes of this machine, started, watched and started again.

Knows processes, cores and GPUs; what each worker does, claims decide.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from threading import Thread
from typing import IO

from probekit.capture import Asked, finished, prepare
from probekit.config import ProbeConfig, load_config
from probekit.errors import CaptureError, ProbekitWarning
from probekit.ranks import WORKER
from probekit.stages import WORKERS
from probekit.store import has_links
from probekit.trace import Trace, open_trace
from probekit.wording import by_count, counted
from probekit.workers.following import SECONDS_TO_SEE, Crew, follow

_ERROR = "error: "  # how the command line begins what ended it
_PARENT = "PROBEKIT_PARENT"  # the process that started a worker
_RESTARTS = 3  # of one worker, while no shard is sealed
_SECONDS_TO_STOP = 60.0  # for the batch that runs, and what it is writing
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def run_with_workers(
    config: str | Path, n_workers: int, asked: Asked, *, overrides: Sequence[str] = ()
) -> Trace:
    """Carry out a config with several processes of this machine, and open its trace.

    Each gets a GPU of its own, in turn, or its share of the cores. One that dies is started again.

    Args:
        config: a YAML file's path.
        n_workers: how many at most; no more are started than shards are missing.
        asked: the options of the run.
        overrides: `key=value` strings, as `--set` takes them.

    Raises:
        ConfigError, PlanError, StoreError: as `run`, before a worker is started.
        CaptureError: a worker failed; what it said.
    """
    loaded = load_config(config, overrides=overrides)
    if (trace := finished(loaded, asked)) is not None:
        return trace
    n_missing = prepare(loaded, asked)
    if not n_missing:
        return open_trace(loaded.store.folder)
    n = min(n_workers, n_missing)
    why = f"{counted(n_missing, 'shard')} {by_count(n_missing, 'is', 'are')} missing"
    if not has_links(loaded.store.folder):
        n, why = 1, "the file system of store.path has no hard links, by which workers share a run"
    if n < n_workers:
        asked.on_note(f"{why}: {counted(n, 'worker')} {by_count(n, 'is', 'are')} started")
    command = [*_python(), "-m", "probekit", "run", str(config), "--quiet"]
    command += [word for one in overrides for word in ("--set", one)]
    command += [] if asked.self_check else ["--no-self-check"]
    command += ["--force"] if asked.force else []
    asked.on_stage(WORKERS)
    shares = [_share(loaded, number, n) for number in range(n)]
    with _started(command, shares, asked.on_note) as crew:
        follow(loaded.store.folder, crew, asked.on_progress)
    return open_trace(loaded.store.folder)


def _python() -> list[str]:
    """Give the interpreter, which looks for modules where this one does."""
    begins_here = sys.path[:1] in ([""], [str(Path.cwd())])
    return [sys.executable] if begins_here else [sys.executable, "-P"]


def _share(config: ProbeConfig, number: int, n_workers: int) -> dict[str, str]:
    """Say in environment variables which part of this machine a worker has."""
    share = {WORKER: str(number), _PARENT: str(os.getpid())}
    gpus = _gpus() if config.model.device in ("auto", "cuda") else []
    if gpus:
        return share | {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
    if any(name in os.environ for name in _THREADS):
        return share
    n_threads = max(1, _n_cores() // n_workers)
    return share | dict.fromkeys(_THREADS, str(n_threads))


def _n_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> list[str]:
    import torch

    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = told.split(",") if told else [str(n) for n in range(torch.cuda.device_count())]
    return names if torch.cuda.is_available() else []


@dataclass(slots=True, kw_only=True)
class _Worker:
    """A process, and what it says when it fails."""

    number: int
    process: subprocess.Popen[bytes]
    said: IO[bytes]  # its standard error
    n_restarts: int = 0
    is_heard: bool = False  # whether its notes and warnings were passed on


class _Processes(Crew):
    """Processes that are started again when they die."""

    def __init__(
        self,
        command: Sequence[str],
        shares: Sequence[Mapping[str, str]],
        on_note: Callable[[str], None],
    ) -> None:
        self._command = command
        self._shares = shares
        self._on_note = on_note
        self._workers: list[_Worker] = []
        self._told: set[str] = set()
        self._until: float | None = None  # when to wait no longer for those that hang

    def start(self) -> None:
        """Start all."""
        for number in range(len(self._shares)):
            self._workers.append(self._begun(number))

    def are_done(self) -> bool:
        """See which have ended; start the dead again."""
        for place, worker in enumerate(self._workers):
            code = worker.process.poll()
            if code is None:
                continue
            self._pass_on(worker)
            if code == 0:
                continue
            if code > 0 and code != os.EX_TEMPFAIL:
                raise CaptureError(f"worker {worker.number}: {_last_words(worker)}")
            self._workers[place] = self._again(worker, code)
        ended = [worker.process.poll() == 0 for worker in self._workers]
        if any(ended) and self._until is None:  # the run is done: the others see it in a moment
            self._until = time.monotonic() + SECONDS_TO_SEE
        return all(ended) or (self._until is not None and time.monotonic() > self._until)

    def has_progress(self) -> None:
        """A shard was sealed since the last look: who died before may die again."""
        for worker in self._workers:
            worker.n_restarts = 0

    def stop(self) -> None:
        """End all: each finishes its batch, and gives up its claim."""
        running = [worker for worker in self._workers if worker.process.poll() is None]
        try:
            for worker in running:
                worker.process.send_signal(signal.SIGTERM)
            until = time.monotonic() + (_SECONDS_TO_STOP if self._until is None else 1.0)
            for worker in running:
                worker.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass  # it is killed below, as it is where a second signal cuts the wait short
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.wait()
                worker.said.close()

    def _pass_on(self, worker: _Worker) -> None:
        """Tell what a worker has said, once whatever the number of workers that said it."""
        if worker.is_heard:
            return
        worker.is_heard = True
        for line in _said(worker):
            kind, _, what = line.partition(": ")
            if kind in ("note", "warning") and line not in self._told:
                self._told.add(line)
                if kind == "note":
                    self._on_note(what)
                else:
                    warnings.warn(what, ProbekitWarning, stacklevel=2)

    def _begun(self, number: int, n_restarts: int = 0) -> _Worker:
        said = TemporaryFile()  # noqa: SIM115  # closed when all are stopped
        process = subprocess.Popen(
            self._command,
            env={**os.environ, **self._shares[number]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # Ctrl-C reaches the one who started them, who then stops them
        )
        return _Worker(number=number, process=process, said=said, n_restarts=n_restarts)

    def _again(self, worker: _Worker, code: int) -> _Worker:
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else "told to stop"
        if worker.n_restarts >= _RESTARTS:
            raise CaptureError(
                f"worker {worker.number} was {how} {counted(worker.n_restarts + 1, 'time')}, and "
                "no shard was sealed meanwhile; SIGKILL is often the system's, where memory ran "
                "out: fewer workers, or a smaller inputs.batch_tokens, need less"
            )
        self._on_note(f"worker {worker.number} was {how}: started again")
        worker.said.close()
        return self._begun(worker.number, worker.n_restarts + 1)


@contextmanager
def _started(
    command: Sequence[str], shares: Sequence[Mapping[str, str]], on_note: Callable[[str], None]
) -> Iterator[Crew]:
    crew = _Processes(command, shares, on_note)
    try:
        crew.start()
        yield crew
    finally:
        crew.stop()


def _last_words(worker: _Worker) -> str:
    """Give what a worker said when it failed."""
    said = _said(worker)
    begins = [number for number, line in enumerate(said) if line.startswith(_ERROR)]
    if begins:
        return "\n".join(said[begins[-1] :]).removeprefix(_ERROR)
    return "\n".join(said) or f"ended with exit code {worker.process.returncode}"


def _said(worker: _Worker) -> list[str]:
    worker.said.seek(0)
    return worker.said.read().decode(errors="replace").strip().splitlines()


def follow_parent() -> None:
    """End this worker when the process that started it is gone, as if it were told to stop."""
    parent = os.environ.get(_PARENT, "")
    if not parent.isdecimal():
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=watch, name="probekit-parent", daemon=True).start()
