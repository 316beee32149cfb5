"""Ctrl-C and SIGTERM: they wait while something is put on or taken off, and then they come.

Knows signals of the process; nothing of what must not be half done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from probekit.errors import CaptureError

_HELD_BACK = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a signal to end that comes inside the block wait for its end.

    Outside the main thread none arrives, and there is nothing to do; nor where the system's own
    handling, which raises nothing, was not replaced.
    """
    own: dict[int, Any] = {n: h for n in _HELD_BACK if callable(h := signal.getsignal(n))}
    if threading.current_thread() is not threading.main_thread() or not own:
        yield
        return
    came: list[tuple[int, Any]] = []
    try:
        _set(dict.fromkeys(own, lambda number, frame: came.append((number, frame))))
        yield
    finally:
        try:
            _set(own)
        finally:
            _set(own)  # again, where one that has its handler back came before the other had
            _tell(own, came)


def _tell(handlers: Mapping[int, Any], came: Sequence[tuple[int, Any]]) -> None:
    """Tell every signal that came, also where the handler of another raises."""
    if came:
        (number, frame), *more = came
        try:
            handlers[number](number, frame)
        finally:
            _tell(handlers, more)


def _set(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Attachment:
    """Something that is put on for the time of a block: all of it or nothing, and then it is gone.

    A subclass puts it on in `_attach` and says in `self._stack` how it is taken off.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._attached = False

    def _attach(self) -> None:
        raise NotImplementedError

    def _left(self, error: BaseException | None) -> None:
        """Look at what the block did, once everything is off again."""

    def __enter__(self) -> Self:
        if self._attached:
            raise CaptureError("these hooks are attached already; leave the block first")
        try:
            with uninterrupted():
                self._attach()
            self._attached = True
            return self
        except BaseException:
            with uninterrupted():
                self._stack.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with uninterrupted():
                self._stack.close()
        finally:
            self._stack.close()  # does nothing, unless Ctrl-C came before the block began
            self._attached = False
        self._left(error)
