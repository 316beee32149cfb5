"""Leaves no mark: a model, torch and the process are afterwards what they were before."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import timeit
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import by_hand
import numpy as np
import pytest
import tiny_models as tiny
import torch
from by_hand import EXAMPLES
from campaigns.attempts import Limits, attempt
from transformers.modeling_utils import AttentionInterface

import probekit
from probekit import models
from probekit.capture import running as capture
from probekit.config.loading import load_config
from probekit.planning.making import make_plan
from probekit.planning.planned import Plan

CPU = torch.device("cpu")
PATTERNS = ["transformer.h.*.mlp.act", "transformer.h.*.attn/pattern", "transformer.h.0/input"]
PROBES = [
    {"modules": "transformer.h.*.mlp.act"},
    {"modules": "**.attn", "record": ["pattern", "z"]},
    {"modules": "transformer.h.0", "record": "input", "pool": "mean"},
]


def marks(model: torch.nn.Module) -> dict[str, Any]:
    """Look at everything that a capture could leave changed."""
    hooks = {
        f"{path}.{name}": list(kept.items())
        for path, module in model.named_modules()
        for name, kept in vars(module).items()
        if name.endswith(("_hooks", "_hooks_with_kwargs"))
        if isinstance(kept, dict)
    }
    return {
        "hooks": hooks,
        "global hooks": list(torch.nn.modules.module._global_forward_hooks.items()),
        "kernels": dict(AttentionInterface._global_mapping),
        "attention": model.config._attn_implementation,
        "generation": model.generation_config.to_dict(),
        "modes": [module.training for module in model.modules()],
        "forward": [vars(module).get("forward") for module in model.modules()],
        "gradients": [p.requires_grad for p in model.parameters()],
        "torch": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
        ),
        "random": torch.get_rng_state().tolist(),
        "threads": sorted(t.name for t in threading.enumerate() if t.name.startswith("probekit")),
    }


def values(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@dataclass
class Job:
    """A loaded model and what is to be captured of it."""

    model: Any
    plan: Plan
    folder: Path

    def capture(self) -> None:
        """Capture to disk, over what is there."""
        capture.capture(self.model, self.plan, self.plan.shards, self.folder, CPU)

    def record(self) -> None:
        """Record in memory."""
        with probekit.record(self.model, PATTERNS) as rec:
            self.forward()
        assert len(rec) == 7

    def forward(self) -> None:
        # Not under torch.no_grad(), which a Ctrl-C in its own exit leaves on.
        self.model(**by_hand.pad(EXAMPLES), use_cache=False)

    def bits(self) -> dict[str, bytes]:
        names = by_hand.site_names(by_hand.shard_files(self.folder)[0])
        return {name: by_hand.bits_of(self.folder, name) for name in names}


def job(folder: Path, model_type: str = "gpt2", **more: Any) -> Job:
    source = by_hand.save_tiny(folder / "model", model_type)
    probes = PROBES if model_type == "gpt2" else [{"modules": "**", "record": ["output"]}]
    config = load_config(by_hand.config(source, folder / "t", probes=probes, **more))
    plan = make_plan(config)
    model = models.load_model(config, plan.skeleton.hf_config, CPU, plan.attention)
    return Job(model, plan, folder / "t")


@pytest.fixture
def gpt2(tmp_path: Path) -> Job:
    return job(tmp_path)


# --- many captures


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("how", ["record", "capture"])
def test_many_captures_leave_everything_as_it_was(gpt2, how, training):
    gpt2.model.train(training)
    gpt2.model.transformer.h[1].train(not training)
    before, weights = marks(gpt2.model), values(gpt2.model)
    for _ in range(5):
        getattr(gpt2, how)()
        torch.manual_seed(0)  # dropout draws
    before["random"] = torch.get_rng_state().tolist()
    assert marks(gpt2.model) == before
    assert all(map(torch.equal, values(gpt2.model), weights))


def rss_bytes() -> int:
    gc.collect()
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def grown(action: Callable[[], None], warm: int, n: int) -> str:
    """Carry an action out many times; give how much memory and how many files it cost."""
    for _ in range(warm):
        action()
    before, files = rss_bytes(), open_files()
    for _ in range(n):
        action()
    return f"{rss_bytes() / before - 1} {open_files() - files}"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", ["record", "capture"])
@pytest.mark.parametrize("n", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_memory_stays_flat_and_no_file_stays_open(gpt2, how, n):
    # In a process of its own, so that nothing but the captures moves its memory.
    limits = Limits(cpu_s=600, n_bytes=4 << 30, wall_s=600)
    outcome = attempt(lambda: grown(getattr(gpt2, how), 30, n), (), limits)
    assert outcome.kind == "done", outcome.said
    share, n_files = outcome.said.split()
    assert float(share) < 0.01
    assert int(n_files) == 0


def test_what_was_recorded_goes_with_its_last_name(gpt2):
    gc.collect()
    gc.disable()  # a device's memory cannot wait until Python looks for circles of references
    try:
        with probekit.record(gpt2.model, PATTERNS) as rec:
            gpt2.forward()
        tensors = [weakref.ref(rec[name]) for name in rec]
        assert all(tensor() is not None for tensor in tensors)
        del rec
        assert [tensor() for tensor in tensors] == [None] * 7
    finally:
        gc.enable()


# --- hooks of others


def test_hooks_of_others_stay_in_their_order_and_run(gpt2):
    ran: list[str] = []
    block = gpt2.model.transformer.h[0].mlp.act
    for name in ("first", "second"):
        block.register_forward_hook(lambda *_, name=name: ran.append(name))
        block.register_forward_pre_hook(lambda *_, name=name: ran.append(f"before {name}"))
    gpt2.model.register_forward_hook(lambda *_: ran.append("whole"))
    before = marks(gpt2.model)
    with probekit.record(gpt2.model, PATTERNS):
        added = block.register_forward_hook(lambda *_: ran.append("third"))
        gpt2.forward()
    assert ran == ["before first", "before second", "first", "second", "third", "whole"]
    added.remove()
    ran.clear()
    gpt2.capture()
    n_batches = len(by_hand.batches())
    assert ran == ["before first", "before second", "first", "second"] * n_batches  # ended early
    assert marks(gpt2.model) == before


def test_a_hook_that_the_user_removes_inside_stays_removed(gpt2):
    mine = gpt2.model.transformer.h[0].register_forward_hook(lambda *_: None)
    with probekit.record(gpt2.model, PATTERNS):
        mine.remove()
        gpt2.forward()
    assert by_hand.n_hooks(gpt2.model) == 0


# --- errors


class MineError(Exception):
    pass


def in_the_block(job: Job) -> None:
    with probekit.record(job.model, PATTERNS):
        job.forward()
        raise MineError


def in_a_hook(job: Job) -> None:
    def fail(*_: Any) -> None:
        raise MineError

    handle = job.model.transformer.h[2].register_forward_hook(fail)
    try:
        job.record()
    finally:
        handle.remove()


def in_the_model(job: Job) -> None:
    right = job.model.transformer.h[1].mlp.forward

    def fail(*_: Any) -> None:
        raise MineError

    job.model.transformer.h[1].mlp.forward = fail
    try:
        job.capture()
    finally:
        job.model.transformer.h[1].mlp.forward = right
        del job.model.transformer.h[1].mlp.forward


def before_the_block(job: Job) -> None:
    probekit.record(job.model, ["transformer.h.9.attn/pattern"])


@pytest.mark.parametrize("fail", [in_the_block, in_a_hook, in_the_model, before_the_block])
def test_nothing_is_left_after_an_error(gpt2, fail):
    before = marks(gpt2.model)
    with pytest.raises((MineError, probekit.ProbekitError)):
        fail(gpt2)
    assert marks(gpt2.model) == before
    gpt2.record()  # and it works again
    assert marks(gpt2.model) == before


PACKAGE = Path(probekit.__file__).parent
FILES = (
    *(
        "hooks/taps",
        "hooks/attention",
        "hooks/recording",
        "hooks/executionorder",
        "models/forward/attention",
    ),
    *("capture/rows/receiver", "capture/running"),
)
WATCHED = {str(PACKAGE / f"{name}.py") for name in FILES}
assert all(Path(file).is_file() for file in WATCHED)


def interrupted(action: Callable[[], None], at: int) -> int:
    """Press Ctrl-C before the nth line of our own that runs; give how many lines there were."""
    n_lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal n_lines
        if frame.f_code.co_filename not in WATCHED:
            return None
        if frame.f_code.co_name == "__exit__":
            return None  # before its first line has run nothing can hold a Ctrl-C back
        if event == "line":
            n_lines += 1
            if n_lines == at:
                sys.settrace(None)
                os.kill(os.getpid(), signal.SIGINT)
        return trace

    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return n_lines


@pytest.mark.parametrize("how", ["record", "capture"])
def test_nothing_is_left_by_an_interrupt_at_any_line(gpt2, how):
    action = getattr(gpt2, how)
    before = marks(gpt2.model)
    n_lines = interrupted(action, -1)
    assert n_lines > 100
    step = max(1, n_lines // 150)  # of lines that run many times, some
    for at in range(1, n_lines, step):
        interrupted(action, at)
        assert marks(gpt2.model) == before, f"line {at} of {n_lines}"


def struck(action: Callable[[], None], after_s: float) -> bool:
    """Press Ctrl-C after so many seconds; say whether that ended the action."""
    old = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, after_s)
            action()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
        return True
    finally:
        signal.signal(signal.SIGALRM, old)
    return False


@pytest.mark.parametrize("n", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_nothing_is_left_by_an_interrupt_at_any_time(gpt2, n):
    before, chance = marks(gpt2.model), random.Random(0)
    # Up to shortly before the block is left: what comes while `__exit__` is being called is raised
    # there before its first line, and nothing in Python can hold it back.
    shortest = 0.8 * min(timeit.repeat(gpt2.record, number=1, repeat=20))
    n_struck = 0
    for number in range(n):
        n_struck += struck(gpt2.record, chance.uniform(1e-5, shortest))
        assert marks(gpt2.model) == before, number
    assert n_struck > n / 4


# --- several at once


def test_two_recordings_of_one_model_do_not_mix(gpt2):
    with probekit.record(gpt2.model, PATTERNS) as alone:
        gpt2.forward()
    before = marks(gpt2.model)
    with probekit.record(gpt2.model, PATTERNS) as outer:
        gpt2.forward()
        with probekit.record(gpt2.model, PATTERNS[1]) as inner:
            gpt2.forward()
        gpt2.forward()
    for name in alone:
        assert len(outer.calls(name)) == 3
        assert all(torch.equal(call, alone[name]) for call in outer.calls(name))
    for name in inner:
        (call,) = inner.calls(name)
        assert torch.equal(call, alone[name])
    assert marks(gpt2.model) == before


def test_recordings_that_end_in_another_order_leave_nothing(gpt2):
    before = marks(gpt2.model)
    first, second = (probekit.record(gpt2.model, PATTERNS) for _ in range(2))
    with ExitStack() as stack:
        stack.enter_context(first)
        second.__enter__()
        gpt2.forward()
    gpt2.forward()
    second.__exit__(None, None, None)
    assert len(first.calls("transformer.h.0.mlp.act")) == 1
    assert len(second.calls("transformer.h.0.mlp.act")) == 2
    assert marks(gpt2.model) == before


def test_a_capture_inside_of_a_recording_does_not_mix(gpt2):
    gpt2.capture()
    alone = gpt2.bits()
    before = marks(gpt2.model)
    with probekit.record(gpt2.model, PATTERNS) as rec:
        gpt2.capture()
    assert gpt2.bits() == alone
    # What ended the passes early was the capture; all before that was seen by both.
    rows = torch.cat([call.flatten(0, 1) for call in rec.calls("transformer.h.0.mlp.act")])
    assert rows.shape == (sum(len(g) * len(EXAMPLES[g[0]]) for g in by_hand.batches()), tiny.D_MLP)
    assert marks(gpt2.model) == before


def test_two_captures_nested_do_not_mix(tmp_path):
    outer, inner = job(tmp_path / "a"), job(tmp_path / "b", "llama")
    wanted = []
    for one in (outer, inner):
        one.capture()
        wanted.append(one.bits())
    handle = outer.model.transformer.h[1].register_forward_pre_hook(lambda *_: inner.capture())
    outer.capture()
    handle.remove()
    assert [outer.bits(), inner.bits()] == wanted


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Carry actions out in threads that begin together; raise what any of them raised."""
    start = threading.Barrier(len(actions))
    found: list[Any] = [None] * len(actions)

    def work(place: int, action: Callable[[], Any]) -> None:
        start.wait()
        try:
            found[place] = action()
        except BaseException as error:
            found[place] = error

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return found


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_captures_in_threads_on_two_models_do_not_mix(tmp_path, kernel):
    jobs = [job(tmp_path / str(n), model__attention=kernel) for n in range(2)]
    tiny.randomize(jobs[1].model, seed=1)
    wanted = []
    for one in jobs:
        one.capture()
        wanted.append(one.bits())
    assert wanted[0] != wanted[1]
    before = [marks(one.model) for one in jobs]
    for _ in range(5):
        at_once(*(one.capture for one in jobs))
        assert [one.bits() for one in jobs] == wanted
        at_once(*(one.record for one in jobs))
    assert [marks(one.model) for one in jobs] == before


def test_whole_runs_in_threads_do_not_mix(tmp_path):
    sources = [by_hand.save_tiny(tmp_path / t, t) for t in ("gpt2", "llama")]
    configs = [
        by_hand.config(
            source,
            tmp_path / f"{n}",
            probes=[{"modules": "lm_head"}],
            model__weights="random",
            seed=n,
        )
        for n, source in enumerate(sources)
    ]
    alone = [probekit.run(config)["lm_head"][:].copy() for config in configs]
    state = torch.get_rng_state()
    for _ in range(3):
        again = at_once(*(lambda c=c: probekit.run(c, overwrite=True) for c in configs))
        for trace, rows in zip(again, alone, strict=True):
            assert np.array_equal(trace["lm_head"][:], rows)
    assert torch.equal(torch.get_rng_state(), state)
