"""Stopping: what the command line does when it is told to end, by Ctrl-C or by the system.

Knows signals; nothing of runs. A signal that Python's own handling turns into an exception can come
at any line, and is lost where it comes inside a destructor or a callback. While batches run, a
signal is therefore noted and acted on between two of them; a second one ends the program at once.
Behind the last batch nearly everything is done, and the run is finished. Before the first batch an
exception that was lost so is raised again a moment later.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MOMENT_S = 0.05


class Stopped(KeyboardInterrupt):
    """The program was told to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.exit_code = 128 + number  # as a shell counts it: 130 for Ctrl-C, 143 for SIGTERM


@contextmanager
def last_words(exit_code: int) -> Iterator[None]:
    """Let a block say why the program ends; a signal that comes later ends it by the same code.

    Python's own handling would end it by the signal itself, with a traceback from wherever it is.
    """
    _ignore_signals()
    yield
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: os._exit(exit_code))
    atexit.register(_ignore_signals)  # Python gives its own handlers up before it has ended


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Stopping:
    """Turn signals into `Stopped` inside a block, at a good moment.

    Args:
        say: told once, in a sentence, that the program will end soon.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._asked: int | None = None
        self._raised: int | None = None
        self._in_batches = False
        self._last = False
        self._earlier: dict[int, Any] = {}
        self._earlier_hook: Callable[[Any], object] = sys.unraisablehook
        self._again: Timer | None = None

    def __enter__(self) -> Self:
        self._earlier_hook = sys.unraisablehook
        sys.unraisablehook = self._take_lost
        self._earlier = {number: signal.signal(number, self._take) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._again is not None:
            self._again.cancel()
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._earlier_hook
        if self._raised is not None and isinstance(error, Exception):
            # Code that was cut short stumbled while it cleaned up: not what the user should read.
            raise Stopped(self._raised) from error

    @property
    def in_batches(self) -> bool:
        """Whether a batch has been done, so that there may be something to go on from."""
        return self._in_batches

    def between_batches(self, *, last: bool = False) -> None:
        """End here if a signal has come; from now on one waits until this is called again.

        Args:
            last: no batch comes any more; a signal that comes later lets the run finish.
        """
        self._in_batches, self._last = True, last
        if (number := self._asked or self._raised) is not None:  # raised, and swallowed by others
            raise Stopped(number)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if not self._in_batches or self._asked is not None:
            self._raised = number
            raise Stopped(number)
        self._asked = number
        what = "the last batch is done: finishing" if self._last else "stopping after this batch"
        self._say(f"{what}; once more to stop at once")

    def _take_lost(self, lost: sys.UnraisableHookArgs) -> None:
        """Take what Python could not raise where it came: ours comes again, at another line."""
        if not isinstance(lost.exc_value, Stopped):
            self._earlier_hook(lost)
            return
        self._again = Timer(_MOMENT_S, os.kill, (os.getpid(), lost.exc_value.number))
        self._again.start()
