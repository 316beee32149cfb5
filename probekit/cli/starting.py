"""Starting: one line says what goes on before there is progress to show.

Knows the terminal; what goes on is told by the library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from threading import Timer
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from probekit.cli.messages import say
from probekit.stages import LIBRARIES, WEIGHTS

if TYPE_CHECKING:
    from probekit.capture import Progress, Watcher

_LONG_S = 10.0  # what takes longer is said where there is no terminal to write the line on


class Starting:
    """Show what a command is doing: a passing line on a terminal, elsewhere what takes long.

    Nothing is shown before the library begins a stage, so that what is quickly done is only done.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live: Any = None
        self._later: Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def stage(self, stage: str) -> None:
        """Show what begins."""
        if not self._quiet:
            self._show(stage)
        if stage == LIBRARIES:
            calm_transformers()
        if stage == WEIGHTS:
            calm_gguf()

    def end(self) -> None:
        """Take the line away; what comes next writes in its place."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def _show(self, stage: str) -> None:
        if not sys.stderr.isatty():
            self.end()
            self._later = Timer(_LONG_S, say, [f"{stage} ..."])
            self._later.daemon = True
            self._later.start()
        elif self._live is None:
            self._live = _line(stage)
        else:
            self._live.update(stage, refresh=True)


def _line(stage: str) -> Any:
    """Begin a line that is written once a stage: a thread that draws would slow imports down."""
    from rich.live import Live

    from probekit.cli.terminal import console

    live = Live(stage, console=console(stderr=True), auto_refresh=False, transient=True)
    live.start(refresh=True)
    return live


class Following:
    """Show progress from its first call on, where the line of what is starting was.

    Args:
        starting: whose line goes then.
        progress: makes the block in which progress is shown, and its watcher.
    """

    def __init__(
        self, starting: Starting, progress: Callable[[], AbstractContextManager[Watcher | None]]
    ) -> None:
        self._starting = starting
        self._progress = progress
        self._stack = ExitStack()
        self._begun = False
        self._show: Watcher | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def __call__(self, progress: Progress) -> None:
        """Show how far it is."""
        if not self._begun:
            self._begun = True
            self._starting.end()
            self._show = self._stack.enter_context(self._progress())
        if self._show is not None:
            self._show(progress)


def calm_transformers() -> None:
    """Silence transformers: its bars and advice would run between our own lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def calm_gguf() -> None:
    """Silence what reads GGUF files: it shows its bar past transformers' own switch for bars."""
    from transformers.utils import logging

    with suppress(ImportError):  # not at this place in every version; then there is only a bar more
        from transformers import modeling_gguf_pytorch_utils as reading

        reading.tqdm = logging.tqdm  # type: ignore[attr-defined]
