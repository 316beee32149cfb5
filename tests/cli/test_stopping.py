"""Stopping: signals, between batches and otherwise."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

import probekit
from probekit.cli import commands, stopping as stopping_module
from probekit.cli.stopping import Stopped, Stopping, last_words


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_before_any_batch_a_signal_ends_at_once(number: signal.Signals, code: int) -> None:
    said: list[str] = []
    with pytest.raises(Stopped) as stopped, Stopping(say=said.append):
        send(number)
        pytest.fail("went on")
    assert stopped.value.exit_code == code
    assert said == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_while_batches_run_a_signal_waits_for_the_end_of_one(
    number: signal.Signals, code: int
) -> None:
    said: list[str] = []
    with Stopping(say=said.append) as stopping:
        stopping.between_batches()
        send(number)
        assert said == ["stopping after this batch; once more to stop at once"]
        with pytest.raises(Stopped) as stopped:
            stopping.between_batches()
    assert stopped.value.exit_code == code


def test_a_second_signal_does_not_wait() -> None:
    with Stopping(say=lambda sentence: None) as stopping:
        stopping.between_batches()
        send(signal.SIGTERM)
        with pytest.raises(Stopped) as stopped:
            send(signal.SIGINT)
            pytest.fail("went on")
    assert stopped.value.exit_code == 130


def test_behind_the_last_batch_a_signal_lets_the_run_finish() -> None:
    said: list[str] = []
    with Stopping(say=said.append) as stopping:
        stopping.between_batches()
        stopping.between_batches(last=True)
        send(signal.SIGINT)
    assert said == ["the last batch is done: finishing; once more to stop at once"]
    with pytest.raises(Stopped), Stopping(say=said.append) as stopping:
        stopping.between_batches(last=True)
        send(signal.SIGINT)
        send(signal.SIGINT)
        pytest.fail("went on")


def test_a_signal_in_the_last_batch_ends_behind_it() -> None:
    with pytest.raises(Stopped), Stopping(say=print) as stopping:
        stopping.between_batches()
        send(signal.SIGINT)
        stopping.between_batches(last=True)
        pytest.fail("went on")


def test_an_error_that_the_signal_caused_is_not_what_is_raised() -> None:
    # Seen in transformers: a `finally` that needs what the interrupted lines would have set.
    with pytest.raises(Stopped), Stopping(say=print):
        try:
            send(signal.SIGTERM)
            never = 1
        finally:
            print(never)


def test_a_signal_that_others_swallowed_counts_at_the_first_batch() -> None:
    with pytest.raises(Stopped), Stopping(say=print) as stopping:
        with suppress(BaseException):
            send(signal.SIGINT)
        stopping.between_batches()
        pytest.fail("went on")


class Sends:
    """Gets a signal while it is destroyed, where Python can raise nothing."""

    def __del__(self) -> None:
        send(signal.SIGTERM)


def test_a_signal_that_comes_in_a_destructor_ends_the_program_a_moment_later(
    capsys: pytest.CaptureFixture[str],
) -> None:
    begin = time.monotonic()
    with pytest.raises(Stopped) as stopped, Stopping(say=print):
        Sends()
        while time.monotonic() < begin + 60:
            time.sleep(0.001)
    assert stopped.value.exit_code == 143
    assert capsys.readouterr() == ("", "")


class Fails:
    def __del__(self) -> None:
        raise ZeroDivisionError


def test_other_errors_of_destructors_are_shown_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: seen.append(lost.exc_type))
    before = sys.unraisablehook
    with Stopping(say=print):
        Fails()
    assert seen == [ZeroDivisionError]
    assert sys.unraisablehook is before


def test_an_error_of_the_batch_in_which_a_signal_waits_is_raised() -> None:
    with pytest.raises(ZeroDivisionError), Stopping(say=print) as stopping:
        stopping.between_batches()
        send(signal.SIGTERM)
        raise ZeroDivisionError


def test_stopped_is_what_ctrl_c_raises() -> None:
    # So that what cleans up after Ctrl-C does after SIGTERM too.
    assert issubclass(Stopped, KeyboardInterrupt)


def test_afterwards_signals_are_handled_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Stopping(say=print):
        assert signal.getsignal(signal.SIGTERM) not in before
    with pytest.raises(ZeroDivisionError), Stopping(say=print):
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture
def as_before() -> Iterator[None]:
    """Give signals back to those who had them; a program that ends does not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    atexit.unregister(stopping_module._ignore_signals)


def test_what_is_said_last_is_said_and_then_a_signal_ends_by_the_same_code(
    as_before: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[object] = []
    monkeypatch.setattr(os, "_exit", said.append)
    with last_words(143):
        send(signal.SIGINT)
        said.append("stopped")
    send(signal.SIGINT)
    assert said == ["stopped", 143]


@pytest.mark.parametrize(
    ("n_batches", "said"),
    [
        (0, "stopped"),
        (1, "stopped; what is sealed stays, and the same command goes on from there"),
    ],
)
def test_a_run_speaks_of_what_stays_once_there_is_something(
    n_batches: int,
    said: str,
    as_before: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(config: object, *, on_progress: Any, **options: object) -> None:
        done = SimpleNamespace(before=0, examples=1, n_examples=2, tokens=1, seconds=1, n_bytes=1)
        for _ in range(n_batches):
            on_progress(done)
        send(signal.SIGINT)
        on_progress(done)

    monkeypatch.setattr(probekit, "run", run)
    monkeypatch.setattr(sys, "argv", ["probekit", "run", "a.yaml"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == said


TWICE = """
import os, sys, time
from probekit.cli import commands
import probekit.store

def wait():
    for n in range(600):  # a signal that comes before a long sleep begins would wait for its end
        time.sleep(0.1)

def slow(*given, on_progress=None):
    os.write(1, b"1")
    wait()

probekit.store.verify = slow
sys.argv = ["probekit", "verify", "a"]
try:
    commands.main()
finally:
    os.write(1, b"2")
    wait()
"""


def test_ctrl_c_twice_ends_by_an_exit_code() -> None:
    command = [sys.executable, "-c", TWICE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ran:
        assert ran.stdout is not None and ran.stderr is not None
        for place in (b"1", b"2"):
            assert ran.stdout.read(1) == place
            ran.send_signal(signal.SIGINT)
        assert ran.stderr.read() == b"stopped\n"
    assert ran.returncode == 130
