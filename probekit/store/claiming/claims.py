"""Claims: what one worker does of a run that any number of workers share.

Knows pieces by name and in which order they are tried; nothing of what is done with one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from probekit.store.claiming.beats import Beat, Heartbeat, beat_path, beats_of, workers_of
from probekit.store.claiming.claimfiles import claims_of, is_claiming, release, take
from probekit.store.claiming.watch import Watch, lease_s
from probekit.store.format import (
    CLAIMS_FOLDER,
    ShardSpec,
    explained,
    is_dead,
    is_forsaken,
    is_of_this_host,
)

_BEATS = 10  # of a lease
_SLOWEST_S = 2.0  # between two beats: people look at them too
_SOON_S, _LATER_S = 0.01, 0.5  # between two looks at what another has


class Claims:
    """Work beside others in a run's folder.

    Entering says that this worker lives, and leaving gives up all that it claimed.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        lease = lease_s()
        self._folder = folder
        self._heart = Heartbeat(folder, min(_SLOWEST_S, lease / _BEATS))
        self._watch = Watch(folder, lease)
        self._held: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(_remove_empty, self._folder)
            stack.enter_context(self._heart)
            stack.callback(self._give_up)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def say(self, **what: Any) -> None:
        """Say of this worker what a `Beat` holds."""
        self._heart.say(**what)

    def others(self) -> tuple[Beat, ...]:
        """Give the other workers that live, as far as is known."""
        own = self._heart.worker
        there = (beat for beat in beats_of(self._folder) if beat.worker != own)
        return tuple(beat for beat in there if not self._watch.is_gone(beat.worker))

    @contextmanager
    def held(self, what: str) -> Iterator[bool]:
        """Claim a piece for the time of a block; say whether this worker has it."""
        self._held.add(what)  # first, so that an interrupt leaves none behind
        mine = True
        try:
            mine = take(self._folder, what, self._heart.worker, self._watch.is_gone)
            yield mine
        finally:
            if mine:
                release(self._folder, what, self._heart.worker)
            self._held.discard(what)

    @contextmanager
    def turn(self, what: str) -> Iterator[None]:
        """Do a step that one worker at a time does, when it is this one's turn.

        Seldom two are at it: one that hangs for a lease is taken for gone.
        """
        waits = _Waiting()
        while True:
            with self.held(what) as mine:
                if mine:
                    yield
                    return
            waits.a_moment()

    def shards(
        self,
        todo: Sequence[ShardSpec],
        is_sealed: Callable[[ShardSpec], bool],
        on_elsewhere: Callable[[ShardSpec], None],
        on_wait: Callable[[], None],
    ) -> Generator[ShardSpec, None, None]:
        """Give shards to seal, each claimed as long as it is worked on, until all are sealed.

        Args:
            todo: the shards, in the order in which they are tried.
            is_sealed: says whether one is.
            on_elsewhere: told each that another worker has sealed.
            on_wait: told while others have all that is left.
        """
        left, waits = list(todo), _Waiting()
        while left:
            still = []
            for shard in left:
                if not is_sealed(shard):
                    with self.held(f"{shard.number:05d}") as mine:
                        # Again: it may have been sealed before it was claimed.
                        if mine and not is_sealed(shard):
                            yield shard
                            waits = _Waiting()
                            continue
                if is_sealed(shard):
                    on_elsewhere(shard)
                else:
                    still.append(shard)
            if len(still) == len(left):
                on_wait()
                # Many pieces take many looks: a crew does not ask a file server all day.
                waits.a_moment(len(still))
            left = still

    def _give_up(self) -> None:
        """Release what is held still, and take away what workers that are gone have left."""
        own = self._heart.worker
        for what in self._held:
            release(self._folder, what, own)
        there = workers_of(self._folder) | {claim.worker for claim in claims_of(self._folder)}
        for worker in there - {own}:
            if self._watch.is_gone(worker):
                _remove_worker(self._folder, worker)
        for path in (self._folder / CLAIMS_FOLDER).glob(".*"):
            if is_claiming(path.name) and is_forsaken(path.name):
                path.unlink(missing_ok=True)


class _Waiting:
    """Look again soon, and then less and less often."""

    def __init__(self) -> None:
        self._seconds = _SOON_S

    def a_moment(self, n: int = 1) -> None:
        time.sleep(self._seconds * max(1, n // 16))
        self._seconds = min(2 * self._seconds, _LATER_S)


def living_elsewhere(folder: Path, what: str | None, on_note: Callable[[str], None]) -> Beat | None:
    """Give a worker of another host that is seen counting; None when none is, for a lease.

    What those have left that were seen not to count is removed then.

    Args:
        folder: of the run.
        what: that it has claimed; None for any worker.
        on_note: told for whom this waits.
    """
    lease = lease_s()
    watch = Watch(folder, lease)
    counts: dict[str, int] = {}
    while there := [
        beat
        for beat in beats_of(folder)
        if not is_of_this_host(beat.worker)
        and (what is None or (what, beat.worker) in _held_by(folder))
        and not watch.is_gone(beat.worker)
    ]:
        if not counts:
            first = there[0]
            on_note(
                f"process {first.process} on {first.host} has worked here: up to {lease:g} s to "
                "see whether it still does"
            )
        for beat in there:
            if counts.setdefault(beat.worker, beat.count) != beat.count:
                return beat
        time.sleep(_LATER_S / 5)
    for worker in counts:
        _remove_worker(folder, worker)
    return None


def _remove_worker(folder: Path, worker: str) -> None:
    """Remove what a worker that is gone has left."""
    beat_path(folder, worker).unlink(missing_ok=True)
    for claim in claims_of(folder):
        if claim.worker == worker:
            release(folder, claim.what, worker)


def living_here(folder: Path) -> Beat | None:
    """Give a worker of this host whose process lives."""
    here = (beat for beat in beats_of(folder) if is_of_this_host(beat.worker))
    return next((beat for beat in here if not is_dead(beat.worker)), None)


def _held_by(folder: Path) -> set[tuple[str, str]]:
    return {(claim.what, claim.worker) for claim in claims_of(folder)}


def clear_claims(folder: Path) -> None:
    """Remove what workers left of themselves, when none of them lives."""
    with explained(folder / CLAIMS_FOLDER, "removed"):
        for path in (folder / CLAIMS_FOLDER).glob("*"):
            if is_claiming(path.name):
                path.unlink(missing_ok=True)
    _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # others are at work, or it is not there
        (folder / CLAIMS_FOLDER).rmdir()
