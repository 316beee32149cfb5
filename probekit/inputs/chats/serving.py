"""Serving: the process that carries chat templates out, bounded in time and size.

Knows JSON lines, signals and the limits of a process; nothing of examples. Standard input brings a
setting, then batches of conversations; standard output gives a line for each. A template that does
not end is stopped by an alarm, or where one call takes for ever, by its limit of processor time;
one that grows, by its limit of memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probekit.inputs.chats.rendering import refusal_of, render
from probekit.inputs.chats.segments import Refused, Rendered
from probekit.inputs.chats.setting import Setting
from probekit.inputs.chats.templating import Templating, load_libraries
from probekit.wording import counted

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def serve() -> None:
    """Answer until the input ends."""
    lines = sys.stdin.buffer
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", newline="\n")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing else may stand between answers
    first = json.loads(lines.readline())
    limits = first.pop("limits")
    made = _made(Setting(**first), limits)
    _answer(out, made.to_json() if isinstance(made, Refused) else {"ready": True})
    if isinstance(made, Refused):
        return
    for line in lines:
        for messages in json.loads(line):
            _answer(out, _rendered(made, messages, limits))


def _made(setting: Setting, limits: dict[str, float]) -> Templating | Refused:
    """Make a template ready, in bounds too: what is constant in it is computed now."""
    signal.signal(signal.SIGALRM, _too_long(limits["seconds"]))
    libraries = load_libraries()
    _bound_memory(int(limits["bytes"]))
    try:
        with _bounded(limits["seconds"]):
            return Templating(setting, libraries)
    except Exception as error:
        # What is no template fails in the parser, in the compiler, or by its depth. An alarm may be
        # heard while another failure is on its way.
        return refusal_of(error)


def _rendered(templating: Templating, messages: Any, limits: dict[str, float]) -> dict[str, Any]:
    templating.n_dates = 0
    found: Rendered | Refused
    try:
        with _bounded(limits["seconds"]):
            found = render(templating, messages)
    except (TimeoutError, MemoryError, RecursionError) as error:
        found = refusal_of(error)
    if not isinstance(found, Refused) and len(found.text) > limits["characters"]:
        most = counted(int(limits["characters"]), "character")
        found = Refused(reason=f"the template writes more than {most}", is_bound=True)
    return {**found.to_json(), "asks_for_date": templating.n_dates > 0}


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    used = sum(os.times()[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    most = int(used + 2 * seconds) + 2  # an alarm is heard between two steps; this is not asked
    with contextlib.suppress(ValueError):  # the machine's own limit is lower, and holds
        resource.setrlimit(resource.RLIMIT_CPU, (most, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _too_long(seconds: float) -> Any:
    def stop(*_: object) -> None:
        raise TimeoutError(f"the template takes more than {seconds:g} s")

    return stop


def _bound_memory(n_bytes: int) -> None:
    """Let the process grow by so much and no more, where the system says how large it is."""
    try:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE_BYTES
    except OSError:  # not Linux: time alone is bounded there
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with contextlib.suppress(ValueError):  # the machine's own limit is lower, and holds
        resource.setrlimit(resource.RLIMIT_AS, (size + n_bytes, hard))


def _answer(out: Any, answer: dict[str, Any]) -> None:
    out.write(json.dumps(answer, ensure_ascii=True) + "\n")
    out.flush()
