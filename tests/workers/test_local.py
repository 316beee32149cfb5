"""Workers on this machine: started, started again when they die, stopped; and the real thing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import h5py
import pytest
import yaml

import probekit
from probekit.capture import Asked
from probekit.config import load_config
from probekit.errors import CaptureError, StoreError
from probekit.workers import local, run_with_workers, status

CONFIG = {
    "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
    "inputs": {"random": {"examples": 12, "min_tokens": 4, "max_tokens": 9}},
    "probes": [{"sites": "resid_post"}, {"sites": "pattern", "layers": 0}],
    "store": {"path": "run", "shard_bytes": "12KiB"},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


# --- processes, whatever they do

SCRIPT = """
import os, signal, sys, time
lives = open("lives-" + os.environ["PROBEKIT_WORKER"], "a")
lives.write("x"); lives.flush()
n = lives.tell()
"""


@pytest.fixture
def notes() -> list[str]:
    return []


def crew(script: str, n: int, notes: list[str]) -> local._Processes:
    command = [sys.executable, "-c", SCRIPT + script]
    shares = [{"PROBEKIT_WORKER": str(number)} for number in range(n)]
    return local._Processes(command, shares, notes.append)


@pytest.fixture
def started(request: pytest.FixtureRequest) -> Iterator[list[local._Processes]]:
    there: list[local._Processes] = []
    yield there
    for one in there:
        one.stop()


def until_done(one: local._Processes) -> None:
    one.start()
    while not one.are_done():
        time.sleep(0.01)


def test_one_that_is_killed_is_started_again(
    here: Path, notes: list[str], started: list[local._Processes]
) -> None:
    script = "if n == 1 and os.environ['PROBEKIT_WORKER'] == '1': os.kill(os.getpid(), 9)"
    started.append(crew(script, 3, notes))
    until_done(started[0])
    assert [Path(f"lives-{n}").read_text() for n in range(3)] == ["x", "xx", "x"]
    assert notes == ["worker 1 was ended by SIGKILL: started again"]


def test_one_that_is_preempted_is_started_again(
    here: Path, notes: list[str], started: list[local._Processes]
) -> None:
    started.append(crew("sys.exit(75 if n == 1 else 0)", 1, notes))
    until_done(started[0])
    assert notes == ["worker 0 was told to stop: started again"]


def test_one_that_dies_again_and_again_ends_the_run_and_says_what_to_do(
    here: Path, notes: list[str], started: list[local._Processes]
) -> None:
    started.append(crew("os.kill(os.getpid(), 9)", 1, notes))
    with pytest.raises(CaptureError, match=r"worker 0 was ended by SIGKILL 4 times, and no shard"):
        until_done(started[0])
    assert len(notes) == 3


def test_what_a_worker_says_when_it_fails_is_told_and_the_others_are_stopped(
    here: Path, notes: list[str], started: list[local._Processes]
) -> None:
    script = (
        "if os.environ['PROBEKIT_WORKER'] == '0':\n"
        "    print('error: the model failed', file=sys.stderr); sys.exit(2)\n"
        "time.sleep(600)"
    )
    started.append(crew(script, 2, notes))
    with pytest.raises(CaptureError, match=r"^worker 0: the model failed$"):
        until_done(started[0])
    begin = time.monotonic()
    started[0].stop()
    assert time.monotonic() - begin < 30
    assert all(one.process.poll() is not None for one in started[0]._workers)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("error: the model failed: CUDA error: device-side assert", "the model failed: CUDA error: "
         "device-side assert"),
        ("warning: odd\nerror: two\nlines", "two\nlines"),
        ("Traceback\n  of no error of ours", "Traceback\n  of no error of ours"),
        ("", "ended with exit code 2"),
    ],
)  # fmt: skip
def test_the_last_words_of_a_worker_are_told_whole(
    here: Path, notes: list[str], started: list[local._Processes], said: str, told: str
) -> None:
    started.append(crew(f"sys.stderr.write({said!r}); sys.exit(2)", 1, notes))
    with (
        warnings.catch_warnings(),
        pytest.raises(CaptureError, match=f"^{re.escape(f'worker 0: {told}')}$"),
    ):
        warnings.simplefilter("ignore")
        until_done(started[0])


def test_notes_and_warnings_of_workers_are_passed_on_once(
    here: Path, notes: list[str], started: list[local._Processes]
) -> None:
    said = "note: one length\nwarning: 3 values are NaN\n"
    started.append(crew(f"sys.stderr.write({said!r})", 2, notes))
    with pytest.warns(probekit.ProbekitWarning, match="3 values are NaN") as warned:
        until_done(started[0])
    assert (notes, len(warned)) == (["one length"], 1)


def test_one_that_hangs_is_not_waited_for_when_the_run_is_done(
    here: Path,
    notes: list[str],
    started: list[local._Processes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "SECONDS_TO_SEE", 0.2)
    script = (
        "signal.signal(15, signal.SIG_IGN); time.sleep(600 * int(os.environ['PROBEKIT_WORKER']))"
    )
    started.append(crew(script, 2, notes))
    until_done(started[0])
    started[0].stop()
    assert [one.process.poll() for one in started[0]._workers] == [0, -signal.SIGKILL]


def test_what_the_run_was_asked_for_reaches_its_workers(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []

    @contextmanager
    def started(command: list[str], *more: object) -> Iterator[None]:
        given.append(command)
        yield

    monkeypatch.setattr(local, "_started", started)
    monkeypatch.setattr(local, "follow", lambda *given: None)
    monkeypatch.setattr(local, "open_trace", lambda path: path)
    monkeypatch.setattr(local, "prepare", lambda config, asked: Path("run").mkdir() or 5)
    asked = Asked(force=True, self_check=False)
    run_with_workers("config.yaml", 2, asked, overrides=["inputs.batch_tokens=64"])
    assert given[0][given[0].index("probekit") :] == [
        *("probekit", "run", "config.yaml", "--quiet", "--set", "inputs.batch_tokens=64"),
        *("--no-self-check", "--force"),
    ]


def test_without_hard_links_there_is_one_worker(
    here: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "prepare", lambda config, asked: 5)
    monkeypatch.setattr(local, "has_links", lambda folder: False)
    monkeypatch.setattr(local, "follow", lambda *given: None)
    monkeypatch.setattr(local, "open_trace", lambda path: path)
    shares: list[object] = []
    monkeypatch.setattr(
        local, "_started", lambda command, given, note: nullcontext(shares.append(given))
    )
    run_with_workers("config.yaml", 4, Asked(on_note=notes.append))
    assert len(shares[0]) == 1
    assert notes == [
        "the file system of store.path has no hard links, by which workers share a run: 1 worker "
        "is started"
    ]


def test_each_worker_has_its_share_of_the_cores(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in local._THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(local, "_gpus", list)
    config = load_config("config.yaml")
    assert local._share(config, 1, 3)["OMP_NUM_THREADS"] == "2"
    assert local._share(config, 0, 16)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert "OMP_NUM_THREADS" not in local._share(config, 0, 16), "it is the user's"


def test_each_worker_has_a_gpu_in_turn(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_gpus", lambda: ["4", "6"])
    auto = load_config("config.yaml", overrides=["model.device=auto"])
    seen = [local._share(auto, number, 3)["CUDA_VISIBLE_DEVICES"] for number in range(3)]
    assert seen == ["4", "6", "4"]
    assert "CUDA_VISIBLE_DEVICES" not in local._share(load_config("config.yaml"), 0, 3)


# --- a run


def test_a_mistake_is_told_before_a_worker_is_started(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_started", None)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG | {"probes": [{"modules": "nothing"}]}))
    with pytest.raises(probekit.PlanError, match="nothing"):
        run_with_workers("config.yaml", 2, Asked())


def test_a_run_of_format_1_0_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from probekit.capture import begun
    from probekit.store import FIRST

    monkeypatch.setattr(begun, "format_of", lambda path, repair: FIRST)
    with pytest.raises(StoreError, match=r"was begun in format 1\.0, whose shards are made one"):
        run_with_workers("config.yaml", 2, Asked())


def rows(folder: Path) -> dict[str, bytes]:
    """Give the bytes of every shard and of the index, which are equal however a run was made."""
    files = [*folder.glob("shards/*.h5"), folder / "trace.h5", folder / "inputs.h5"]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.slow
def test_workers_make_what_one_process_makes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = subprocess.run(
        [sys.executable, "-m", "probekit", "run", "config.yaml", "-q"], check=False
    )
    assert alone.returncode == 0
    wanted = rows(Path("run"))
    Path("run").rename("alone")
    seen, notes = [], []
    asked = Asked(on_progress=seen.append, on_note=notes.append)
    trace = run_with_workers("config.yaml", 2, asked)
    assert rows(Path("run")) == wanted
    assert len(trace.examples) == 12
    last = seen[-1]
    assert (last.examples, last.n_examples, last.before) == (12, 12, 0)
    assert max(one.tokens for one in seen) > 0
    assert not Path("run/claims").exists()
    found = status("run")
    assert (found.is_finished, found.n_done, found.workers) == (True, 12, ())
    with h5py.File("run/trace.h5") as file:
        assert len(file["examples/id"]) == 12
    made = probekit.store.sessions_of(Path("run"))
    checked = [one for one in made if one.get("self_check") == "passed"]
    assert 1 <= len(checked) <= 2, "one looked, or the other had ended by then"
    again = run_with_workers("config.yaml", 2, asked)
    assert again.path == trace.path
    # What is missing alone is made.
    for name in ("trace.h5", "trace.json", "shards/00001.json", "shards/00001.h5"):
        Path("run", name).unlink()
    run_with_workers("config.yaml", 2, asked)
    assert "1 shard is missing: 1 worker is started" in notes
    assert rows(Path("run")) == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "environment", "number", "code"),
    [
        ([], {}, signal.SIGTERM, 143),
        ([], {"RANK": "0"}, signal.SIGTERM, 75),
        ([], {"SLURM_PROCID": "3"}, signal.SIGTERM, 75),
        (["--workers", "2"], {}, signal.SIGTERM, 75),
        (["--workers", "2"], {}, signal.SIGINT, 130),
    ],
)
def test_a_run_that_is_told_to_end_gives_up_its_claims(
    here: Path, more: list[str], environment: dict[str, str], number: int, code: int
) -> None:
    Path("config.yaml").write_text(
        yaml.safe_dump(CONFIG | {"inputs": {"random": {"examples": 3000, "max_tokens": 90}}})
    )
    command = [sys.executable, "-m", "probekit", "run", "config.yaml", *more]
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while process.poll() is None and len(list(Path("run/shards").glob("0*.json"))) < 2:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(number)
    _, err = process.communicate(timeout=100)
    assert process.returncode == code, err
    assert "what is sealed stays" in err
    assert not list(Path("run/claims").glob("*")) if Path("run/claims").exists() else True
