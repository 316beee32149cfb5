"""A run on the command line: what is shown while it goes on, and how it ends when told to.

Knows the terminal and exit codes; the run itself is one call of the library.
"""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from probekit.capture import Asked
from probekit.cli.messages import hush, say, say_stopped
from probekit.cli.starting import Following, Starting
from probekit.cli.stopping import Stopped, Stopping, last_words
from probekit.errors import PlanError
from probekit.ranks import WORKER, rank
from probekit.stages import unseen
from probekit.wording import by_count, counted

if TYPE_CHECKING:
    from probekit.capture import Progress, Watcher
    from probekit.planning import Plan
    from probekit.trace import Trace

RAY = "ray"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Who carries a run out besides this process."""

    n: int | None  # how many; None where it is not said
    engine: str | None  # RAY; None for this machine's processes
    address: str | None  # of the engine's cluster

    @property
    def are_there(self) -> bool:
        """Whether anything but this process alone is asked for."""
        return self.n is not None or self.engine is not None

    def check(self) -> None:
        """Refuse options that say nothing together.

        Raises:
            PlanError: saying which.
        """
        if self.n is not None and self.n < 1:
            raise PlanError(f"workers: given {self.n}, expected at least 1")
        if self.engine not in (None, RAY):
            raise PlanError(f"on: given {self.engine!r}, expected {RAY}")
        if self.address is not None and self.engine is None:
            raise PlanError(f"address: is of a cluster, and goes with --on {RAY}")


def carry_out(
    config: Path,
    settings: list[str],
    workers: Workers,
    *,
    overwrite: bool,
    repair: bool,
    force: bool,
    self_check: bool,
    quiet: bool,
) -> Trace:
    """Carry a config out; show how far it is, and end well when told to end.

    Raises:
        Exit: when it was told to end: 130 after Ctrl-C, 143 after SIGTERM, and of a worker 75,
            EX_TEMPFAIL, with which schedulers start a job again.
    """
    workers.check()
    is_one_of_ours = WORKER in os.environ  # whose notes and warnings another process passes on
    if quiet and not is_one_of_ours:
        hush()

    def progress() -> AbstractContextManager[Watcher | None]:
        from probekit.cli import terminal

        return terminal.progress(quiet=quiet)

    try:
        with (
            Stopping(say=unseen if quiet else say) as stopping,
            Starting(quiet=quiet) as starting,
            Following(starting, progress) as show,
        ):
            asked = Asked(
                overwrite=overwrite,
                repair=repair,
                force=force,
                self_check=self_check,
                on_plan=unseen if quiet else _notes,
                on_note=unseen if quiet and not is_one_of_ours else _note,
                on_start=unseen if quiet else _going_on,
                on_stage=starting.stage,
                on_progress=_both(show, stopping),
            )
            return _carried_out(config, settings, workers, asked)
    except Stopped as stopped:
        is_one_of_many = workers.are_there or rank() is not None
        code = stopped.exit_code
        if is_one_of_many and stopped.number == signal.SIGTERM:
            code = os.EX_TEMPFAIL
        with last_words(code):
            if not quiet:
                more = "; what is sealed stays, and the same command goes on from there"
                say_stopped(f"stopped{more if stopping.in_batches or workers.are_there else ''}")
        raise typer.Exit(code) from None


def _carried_out(config: Path, settings: list[str], workers: Workers, asked: Asked) -> Trace:
    if not workers.are_there:
        if WORKER in os.environ:  # for the others it is a hundredth of a second of imports
            from probekit.workers import follow_parent

            follow_parent()
        import probekit

        return probekit.run(
            config,
            overrides=settings,
            overwrite=asked.overwrite,
            repair=asked.repair,
            force=asked.force,
            self_check=asked.self_check,
            on_plan=asked.on_plan,
            on_note=asked.on_note,
            on_start=asked.on_start,
            on_stage=asked.on_stage,
            on_progress=asked.on_progress,
        )
    from probekit.workers import run_on_ray, run_with_workers

    if workers.engine == RAY:
        return run_on_ray(
            config, asked, address=workers.address, n_workers=workers.n, overrides=settings
        )
    assert workers.n is not None  # or nothing but this process was asked for
    return run_with_workers(config, workers.n, asked, overrides=settings)


def _both(show: Watcher, stopping: Stopping) -> Watcher:
    def watch(progress: Progress) -> None:
        show(progress)
        stopping.between_batches(last=progress.examples == progress.n_examples)

    return watch


def _note(note: str) -> None:
    say(f"note: {note}")


def _notes(plan: Plan) -> None:
    for note in plan.notes:
        _note(note)


def _going_on(n_sealed: int, n_shards: int) -> None:
    if n_sealed == n_shards:
        say("this run is complete already; nothing to do")
    elif n_sealed:
        be = by_count(n_sealed, "is", "are")
        say(f"going on: {counted(n_sealed, 'shard', of=n_shards)} {be} sealed")
