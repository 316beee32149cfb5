"""Renderer: conversations to renderings, by a process of its own that carries out the template.

Knows that process, and how long it may be silent; nothing of Jinja. A template is a stranger's
code: it runs in transformers' sandbox, in a process with little memory and time, and what comes
back is read as text and numbers.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

from probekit.errors import ConfigError
from probekit.inputs.chats.conversation import Conversation
from probekit.inputs.chats.segments import Refused, Rendered
from probekit.inputs.chats.setting import Setting
from probekit.wording import human_bytes, shorten

_PROCESS = "probekit.inputs.chats.serving"
_STARTS_S = 120.0  # on a busy machine importing transformers can take long


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a template may take for one conversation."""

    seconds: float = 10.0
    bytes: int = 1 << 30
    characters: int = 1 << 26


class Renderer:
    """A template that renders conversations.

    Args:
        setting: the template, and what it is given.
        name: of the template, for messages: its file, or whose it is.
        bounds: what it may take.
    """

    def __init__(self, setting: Setting, name: str, bounds: Bounds | None = None) -> None:
        self.setting, self.name = setting, name
        self.asks_for_date = False  # it has written today's date: the setting's
        self._bounds = bounds or Bounds()
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._errors: IO[bytes] | None = None  # what the process says of its end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; another begins where more is to be rendered."""
        self._stop()

    def render(self, conversations: Sequence[Conversation]) -> Iterator[Rendered | Refused]:
        """Render conversations, in their order.

        Raises:
            ConfigError: if the template is none.
        """
        waiting = [conversation.plain for conversation in conversations]
        while waiting:
            process = self._started()
            self._send(process, waiting)
            while waiting:
                answer = self._next(self._bounds.seconds * 4 + 5)
                waiting.pop(0)
                if answer is None:  # it was killed, or was silent; the others go to a new one
                    yield Refused(reason=self._why_silent(), is_bound=True)
                    break
                yield self._read(answer)

    def _read(self, answer: Mapping[str, Any]) -> Rendered | Refused:
        self.asks_for_date |= bool(answer.get("asks_for_date"))
        if "reason" in answer:
            return Refused.from_json(answer)
        try:
            return Rendered.from_json(answer)
        except (ValueError, KeyError, TypeError) as error:
            return Refused(reason=f"what the template's process says is no rendering: {error}")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        self._lines = queue.Queue()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in _stop)
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {_PROCESS} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_module_paths())},
        )
        self._process = process
        threading.Thread(target=_listen, args=(process, self._lines), daemon=True).start()
        self._send(process, {**asdict(self.setting), "limits": asdict(self._bounds)})
        answer = self._next(_STARTS_S)
        if answer is None:
            raise ConfigError(f"{self.name}: {self._why_silent(is_start=True)}")
        if "reason" in answer:
            self._stop()
            refused = Refused.from_json(answer)
            raise ConfigError(f"{self.place(refused.line)}: {refused.reason}")
        return process

    def place(self, line: int | None) -> str:
        """Name a line of the template, as far as it is known."""
        return self.name if line is None else f"{self.name}:{line}"

    def _send(self, process: subprocess.Popen[bytes], value: Any) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(value, ensure_ascii=True).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return  # it has ended, which `_next` sees

    def _next(self, seconds: float) -> dict[str, Any] | None:
        """Wait for an answer; None where there is none, and the process is ended."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            line = b""
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        return answer if isinstance(answer, dict) else None

    def _why_silent(self, *, is_start: bool = False) -> str:
        ended = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):  # one that ends has said its last before
                ended = self._process.wait(timeout=1)
        last = self._last_error()
        self._stop()
        bounds = self._bounds
        failed = f"the process that renders chats {'did not start' if is_start else 'failed'}{last}"
        if ended is None and not is_start:
            return f"the template takes more than {bounds.seconds:g} s"
        if ended is None or ended > 0:  # by no signal: Python says why
            return failed
        return (
            "the template ends the process that carries it out: it takes more than "
            f"{bounds.seconds:g} s or {human_bytes(bounds.bytes)}"
        )

    def _last_error(self) -> str:
        """Give the last line that a process has said of its end; empty for none."""
        if self._errors is None:
            return ""
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        return f": {shorten(last, 200)}" if last else ""

    def _stop(self) -> None:
        if self._errors is not None:
            self._errors.close()
            self._errors = None
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what a process that is gone has not read
                    pipe.close()


def _module_paths() -> list[str]:
    """Give where the process finds modules: where this one does, but for the current folder.

    What lies there belongs to the user's work, and a `queue.py` of it is not the language's own,
    which goes first for that reason. It stays where probekit itself lies in it.
    """
    ours = Path(__file__).parents[3]
    standard = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    standard |= {path / "lib-dynload" for path in standard}
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was removed: nothing lies in it
        here = None
    there = [path if here is None else here / path for path in map(Path, sys.path)]
    found = [path for path in there if path.is_absolute() and (path == ours or path != here)]
    return [str(path) for path in sorted(found, key=lambda path: path not in standard)]


def _listen(process: subprocess.Popen[bytes], lines: queue.Queue[bytes]) -> None:
    assert process.stdout is not None
    with suppress(ValueError):  # closed while it was read
        for line in process.stdout:
            lines.put(line)
    lines.put(b"")
