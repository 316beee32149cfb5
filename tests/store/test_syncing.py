"""Syncing beside the model: it happens, and what it meets is told."""

from __future__ import annotations

import errno
import os
from threading import Event

import pytest

from probekit.store.writing import syncing as flushing
from probekit.store.writing.syncing import Flusher


def test_a_file_is_synced_while_it_is_written(tmp_path, monkeypatch):
    synced, asked = Event(), []
    monkeypatch.setattr(flushing, "_sync", lambda fd: (asked.append(fd), synced.set()))
    with (tmp_path / "a").open("wb") as file:
        flusher = Flusher(file.fileno(), every_bytes=100)
        flusher.wrote(99)
        assert not synced.wait(0.1)
        flusher.wrote(1)
        assert synced.wait(30)
        flusher.stop()
        flusher.check()
        assert asked == [file.fileno()]


def test_what_a_sync_meets_is_told_afterwards(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(flushing, "_sync", full)
    with (tmp_path / "a").open("wb") as file:
        flusher = Flusher(file.fileno(), every_bytes=1)
        flusher.wrote(1)
        flusher.wrote(1)
        for _ in range(300):
            if flusher._error:
                break
            Event().wait(0.1)
        flusher.stop()
        with pytest.raises(OSError, match="No space left"):
            flusher.check()


def test_little_needs_no_thread():
    flusher = Flusher(-1)
    flusher.wrote(1000)
    assert flusher._thread is None
    flusher.stop()
    flusher.check()
