"""What `probekit status` shows: how far a run is, and who works on what of it.

Knows rich; looks at nothing itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from probekit.cli.terminal import console
from probekit.wording import counted, human_seconds

if TYPE_CHECKING:
    from probekit.workers import RunStatus, WorkerStatus

_EVERY_S = 2.0


def show_status(found: RunStatus) -> None:
    """Print it once."""
    console().print(_shown(found))


def watch_status(path: Path) -> None:
    """Show it until the run is finished: on a terminal in place, elsewhere whenever it changes."""
    looks = _looks(path)
    if not sys.stdout.isatty():
        before = None
        for found in looks:
            if (said := (found.sealed, len(found.workers))) != before:
                show_status(found)
            before = said
        return
    with Live(console=console(), auto_refresh=False) as live:
        for found in looks:
            live.update(_shown(found), refresh=True)


def _looks(path: Path) -> Iterator[RunStatus]:
    from probekit.workers import Observer

    observer = Observer(path)
    while True:
        found = observer.look()
        yield found
        if found.is_finished:
            return
        time.sleep(_EVERY_S)


def _shown(found: RunStatus) -> Group:
    lines = [
        Text(
            f"{found.path}: {counted(len(found.sealed), 'shard', of=found.n_shards)} sealed, "
            f"{found.n_done:,} of {counted(found.n_examples, 'example')}"
        ),
        Text(_how_long(found)),
    ]
    if not found.workers:
        return Group(*lines)
    table = Table(box=None, pad_edge=False)
    for name in ("worker", "shard", "examples of it", "since", "tokens/s", "began"):
        table.add_column(name, overflow="fold")
    for worker in found.workers:
        table.add_row(*_row(worker))
    return Group(*lines, table)


def _how_long(found: RunStatus) -> str:
    if found.is_finished:
        return "finished"
    n_at_work = sum(not worker.is_gone for worker in found.workers)
    if not n_at_work:
        return "nobody is at work; the same `probekit run` goes on"
    left = found.seconds_left
    said = "" if left is None else f", {human_seconds(left)} left"
    return f"{counted(n_at_work, 'worker')} at work, {found.examples_per_s:.3g} examples/s{said}"


def _row(worker: WorkerStatus) -> tuple[str, ...]:
    name = f"{worker.host} {worker.process}"
    if worker.is_gone:
        return (name, "gone", "", "", "", worker.began)
    shard = "-" if worker.shard is None else str(worker.shard)
    done = "" if worker.shard is None else f"{worker.examples:,}"
    return (name, shard, done, worker.since or "", f"{worker.tokens_per_s:,.0f}", worker.began)
