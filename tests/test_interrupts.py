"""Signals to end wait for what must not be half done, and are not forgotten."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from probekit.interrupts import uninterrupted


@pytest.fixture(autouse=True)
def own_handler() -> Iterator[None]:
    """Python's own, which pytest may have replaced."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def press(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def test_an_interrupt_comes_when_the_block_is_done():
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        press()
        done.append("all of it")
    assert done == ["all of it"]


def test_nested_blocks_hold_it_back_until_the_outermost_ends():
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        with uninterrupted():
            press()
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]


def test_an_error_of_the_block_is_not_hidden():
    with pytest.raises(ZeroDivisionError), uninterrupted():
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt) as raised, uninterrupted():
        press()
        raise ZeroDivisionError
    assert isinstance(raised.value.__context__, ZeroDivisionError)


def test_a_handler_of_the_users_is_the_one_that_is_called():
    came = []
    own = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    with uninterrupted():
        press()
        assert came == []
    assert came == [signal.SIGINT]
    signal.signal(signal.SIGINT, own)


def test_sigterm_waits_too_where_python_handles_it():
    came = []
    own = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with uninterrupted():
            press(signal.SIGTERM)
            assert came == []
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, own)


@pytest.fixture
def terminations() -> Iterator[list[int]]:
    """Handle SIGTERM in Python, without raising."""
    came: list[int] = []
    own = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    yield came
    signal.signal(signal.SIGTERM, own)


def test_every_signal_is_told_also_where_one_raises(terminations):
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        press()
        press(signal.SIGTERM)
        press(signal.SIGTERM)
    assert terminations == [signal.SIGTERM] * 2


@pytest.mark.parametrize("strike_at", range(4))
def test_a_signal_amid_the_exchange_of_handlers_leaves_the_users(
    terminations, monkeypatch, strike_at
):
    calls = iter(range(6))
    exchange = signal.signal

    def exchange_and_strike(number: int, handler: object) -> None:
        exchange(number, handler)
        if next(calls) == strike_at:
            press()

    monkeypatch.setattr("probekit.interrupts.signal.signal", exchange_and_strike)
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        pass
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    press(signal.SIGTERM)
    assert terminations == [signal.SIGTERM]


def test_in_another_thread_it_does_nothing():
    seen = []

    def work() -> None:
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_without_a_handler_in_python_it_does_nothing():
    own = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with uninterrupted():
        press()
    signal.signal(signal.SIGINT, own)
