"""Ctrl-C: it waits while hooks are put on or taken off, and then it comes.

Knows signals of the process; nothing of what must not be half done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a Ctrl-C that comes inside the block wait for its end.

    Outside the main thread no Ctrl-C arrives, and there is nothing to do.
    """
    own = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(own):
        yield
        return
    came: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, own)
        if came:
            own(*came[0])
