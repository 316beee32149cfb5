"""Following: one progress over all workers of a run, until it is done.

Knows a run's folder as an `Observer` sees it, and that a crew of workers can be asked how it is.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from probekit.capture import Progress, Watcher
from probekit.workers.status import Observer

SECONDS_TO_SEE = 10.0  # that the run is done, when one worker has seen it
_LOOK_S = 0.25


class Crew(Protocol):
    """Workers that an engine has started."""

    def are_done(self) -> bool:
        """Say whether all have come to the end of the run; raise what one of them raised."""

    def has_progress(self) -> None:
        """Hear that a shard was sealed."""

    def stop(self) -> None:
        """End all."""


def follow(folder: Path, crew: Crew, on_progress: Watcher | None) -> None:
    """Tell how far a run is until its workers have done it.

    Args:
        folder: of the run.
        crew: its workers.
        on_progress: told a few times a second; what it raises ends the run.
    """
    observer = Observer(folder)
    before = observer.look()
    begin, n_sealed = time.perf_counter(), len(before.sealed)
    counted: dict[tuple[str, int], tuple[int, int]] = {}  # tokens and bytes, of those that left too
    begun = False
    while True:
        done = crew.are_done()
        looked = time.perf_counter()
        now = observer.look()
        if len(now.sealed) > n_sealed:
            n_sealed = len(now.sealed)
            crew.has_progress()
        counted |= {(one.host, one.process): (one.tokens, one.n_bytes) for one in now.workers}
        # Until the first batch is done somewhere there is nothing to show.
        begun = begun or done or now.n_done > before.n_done
        if on_progress is not None and begun:
            on_progress(
                Progress(
                    examples=now.n_done,
                    n_examples=now.n_examples,
                    before=before.n_sealed_examples,
                    tokens=sum(tokens for tokens, _ in counted.values()),
                    n_bytes=sum(n_bytes for _, n_bytes in counted.values()),
                    seconds=time.perf_counter() - begin,
                )
            )
        if done:
            return
        # Many shards take a while to list: less often then.
        time.sleep(max(_LOOK_S, 10 * (time.perf_counter() - looked)))
