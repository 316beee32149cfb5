"""Ray: workers that are actors of a Ray cluster, which places them and starts them again.

Knows Ray; what each worker does, claims decide, in a folder that every node sees.
"""

from __future__ import annotations

import os
import re
import socket
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from probekit.capture import Asked, finished, prepare
from probekit.config import load_config
from probekit.errors import CaptureError, ProbekitError, ProbekitWarning
from probekit.extras import load_extra
from probekit.ranks import WORKER
from probekit.stages import WORKERS, unseen
from probekit.trace import Trace, open_trace
from probekit.workers.following import SECONDS_TO_SEE, follow

_HOST_AND_PORT = re.compile(r"(ray://)?(?P<host>[^:/]+):(?P<port>\d{1,5})")
_FOR_EVER = -1  # of Ray's restarts and retries


def run_on_ray(
    config: str | Path,
    asked: Asked,
    *,
    address: str | None = None,
    n_workers: int | None = None,
    overrides: Sequence[str] = (),
) -> Trace:
    """Carry out a config with workers on a Ray cluster, and open its trace.

    The config, what it reads and its store.path must lie where every node sees them by the same
    path. An actor whose process or node dies is started again where there is room; the run does not
    wait for one that finds none, as long as others are at work.

    Args:
        config: a YAML file's path.
        asked: the options of the run.
        address: of the cluster; None for the one that is named in RAY_ADDRESS, or a new one here.
        n_workers: how many; None for one a GPU of the cluster, or one a core where it has none.
        overrides: `key=value` strings, as `--set` takes them.

    Raises:
        ConfigError, PlanError, StoreError: as `run`, before a worker is started.
        CaptureError: a worker failed; what it said.
        ProbekitError: ray is not installed, or there is no such cluster.
    """
    ray = load_extra("ray", extra="ray", purpose="--on ray")
    loaded = load_config(config, overrides=overrides)
    if (trace := finished(loaded, asked)) is not None:
        return trace
    n_missing = prepare(loaded, asked)
    if not n_missing:
        return open_trace(loaded.store.folder)
    asked.on_stage(WORKERS)
    begun = not ray.is_initialized()
    if begun:
        _connect(ray, address)
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if loaded.model.device != "auto" and not loaded.model.device.startswith("cuda"):
            gpus = 0
        n = n_workers or gpus or int(ray.cluster_resources().get("CPU", 1))
        crew = _Actors(ray, max(1, min(n, n_missing)), uses_gpu=gpus > 0)
        try:
            crew.start(Path(config).absolute(), overrides, asked)
            follow(loaded.store.folder, crew, asked.on_progress)
        finally:
            crew.stop()
    finally:
        if begun:
            ray.shutdown()
    return open_trace(loaded.store.folder)


def _connect(ray: Any, address: str | None) -> None:
    found = _HOST_AND_PORT.fullmatch(address or "")
    if found is not None:  # Ray itself tries for minutes
        try:
            socket.create_connection((found["host"], int(found["port"])), SECONDS_TO_SEE).close()
        except OSError as error:
            why = f"--address: there is no Ray cluster at {address}: {error.strerror or error}"
            raise ProbekitError(why) from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError) as error:
        raise ProbekitError(f"--address: there is no Ray cluster at {address}: {error}") from error


class _Actors:
    """Actors, each of which works until the run is done."""

    def __init__(self, ray: Any, n: int, *, uses_gpu: bool) -> None:
        self._ray = ray
        self._n = n
        self._uses_gpu = uses_gpu
        self._actors: list[Any] = []
        self._ends: list[Any] = []
        self._on_note: Callable[[str], None] = unseen
        self._is_done = False

    def start(self, config: Path, overrides: Sequence[str], asked: Asked) -> None:
        """Start all; Ray places them as it finds room."""
        # Not in a session of Ray's: paths in a config are relative to where the command was typed.
        place = str(Path.cwd())
        options = {"num_gpus": 1} if self._uses_gpu else {"num_cpus": 1}
        actor = self._ray.remote(
            max_restarts=_FOR_EVER,
            max_task_retries=_FOR_EVER,
            scheduling_strategy="SPREAD",
            **options,
        )(Worker)
        self._actors = [actor.remote() for _ in range(self._n)]
        self._ends = [
            one.work.remote(
                str(config),
                list(overrides),
                place,
                number,
                force=asked.force,
                self_check=asked.self_check,
            )
            for number, one in enumerate(self._actors)
        ]
        self._on_note = asked.on_note

    def are_done(self) -> bool:
        """See whether one has come to the end, which all share; raise what one raised."""
        ended, self._ends = self._ray.wait(self._ends, num_returns=len(self._ends), timeout=0)
        for one in ended:
            try:
                notes, warned = self._ray.get(one)
            except self._ray.exceptions.RayTaskError as error:
                raise CaptureError(f"a worker on Ray failed: {_said(error)}") from error
            for note in notes:
                self._on_note(note)
            for what in warned:
                warnings.warn(what, ProbekitWarning, stacklevel=2)
        self._is_done = bool(ended)
        return self._is_done

    def has_progress(self) -> None:
        """Nothing: Ray counts no restarts."""

    def stop(self) -> None:
        """End all, also those that wait for room."""
        if self._is_done and self._ends:  # those at work see it in a moment, and leave nothing
            self._ray.wait(self._ends, num_returns=len(self._ends), timeout=SECONDS_TO_SEE)
        for actor in self._actors:
            self._ray.kill(actor, no_restart=True)


class Worker:
    """What a Ray actor is: a process that works on a run."""

    def work(
        self,
        config: str,
        overrides: list[str],
        place: str,
        number: int,
        *,
        force: bool,
        self_check: bool,
    ) -> tuple[list[str], list[str]]:
        """Work on a run until it is done; give the notes and warnings of it."""
        from probekit.capture import run

        os.chdir(place)
        os.environ[WORKER] = str(number)
        notes: list[str] = []
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", ProbekitWarning)
            run(
                config,
                overrides=overrides,
                force=force,
                self_check=self_check,
                on_note=notes.append,
            )
        of_ours = [one for one in warned if issubclass(one.category, ProbekitWarning)]
        return notes, [str(one.message) for one in of_ours]


def _said(error: Any) -> str:
    """Give what a worker raised, without the traceback of its process."""
    cause = error.cause if isinstance(getattr(error, "cause", None), BaseException) else error
    return str(cause)
