"""Capture on one GPU against the bare forward pass and against what the hardware allows.

Shapes of distilgpt2, gpt2 and Phi-3-mini with random bfloat16 weights, batches of 32 x 512 tokens,
traces on memory-backed storage (/dev/shm), so that PCIe and our own work show, not the disk. One
module is captured over 20 batches, every module over two: their bytes must fit there, twice. The
floors of a capture are its bare forward passes, a bare copy of its bytes into pinned memory, and a
bare write of them; a capture of everything is compared with the largest of the three.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jobs import Job, load, plan_of
from pairs import Comparison, compare, options, report

from probekit.capture.rows.transfer import Label, Transfer
from probekit.hooks.executionorder import OrderRecorder


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model and its MLP activations."""

    name: str
    glob: str  # of every layer
    one: str  # of one layer in the middle


SHAPES = (
    Shape(name="distilgpt2", glob="transformer.h.*.mlp.act", one="transformer.h.3.mlp.act"),
    Shape(name="gpt2", glob="transformer.h.*.mlp.act", one="transformer.h.6.mlp.act"),
    Shape(
        name="microsoft/Phi-3-mini-4k-instruct",
        glob="model.layers.*.mlp.activation_fn",
        one="model.layers.16.mlp.activation_fn",
    ),
)


_BATCHES_OF_ONE, _BATCHES_OF_EVERY = 20, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and how much."""

    device: torch.device
    n_examples: int
    n_tokens: int
    n_pairs: int
    dtype: str

    def job(
        self,
        folder: Path,
        shape: Shape,
        modules: str,
        n_batches: int,
        model: torch.nn.Module | None = None,
    ) -> Job:
        """Plan a capture of some batches; build the model if there is none yet."""
        plan = plan_of(
            folder,
            [modules],
            model=shape.name,
            examples=n_batches * self.n_examples,
            tokens=(self.n_tokens, self.n_tokens),
            batch_tokens=self.n_examples * self.n_tokens,
            device=str(self.device),
            dtype=self.dtype,
            early_stop=False,
            store={"path": str(folder), "shard_bytes": "64GiB"},
        )
        return Job(model=model or load(plan), plan=plan, folder=folder, device=self.device)

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def pinned(self, n_bytes: int) -> torch.Tensor:
        """Give host memory that the device copies into at full speed."""
        return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=self.device.type == "cuda")


def bare_copy(setting: Setting, n_bytes: int) -> Callable[[], None]:
    """Copy as many bytes into pinned memory, 64 MiB at a time."""
    piece = min(n_bytes, 64 << 20)
    source = torch.zeros(piece, dtype=torch.uint8, device=setting.device)
    target = setting.pinned(piece)

    def copy() -> None:
        for _ in range(-(-n_bytes // piece)):
            target.copy_(source, non_blocking=True)
        setting.wait()

    return copy


def bare_write(path: Path, n_bytes: int) -> Callable[[], None]:
    """Write as many bytes into one file, 16 MiB at a time."""
    data = np.ones(min(n_bytes, 16 << 20), dtype=np.uint8)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(-(-n_bytes // len(data))):
                file.write(data)

    return write


class _Nowhere:
    """A sink that keeps nothing."""

    def write(self, *_: object) -> None:
        """Take rows."""

    def forget(self, *_: object) -> None:
        """Take rows back."""


def our_copy(setting: Setting, n_bytes: int) -> Callable[[], None]:
    """Send as many bytes through the transfer, 64 MiB at a time, to nobody."""
    n_rows = min(n_bytes, 64 << 20) // 8192
    rows = torch.zeros(n_rows, 4096, dtype=torch.bfloat16, device=setting.device)
    label = Label(site=0, examples=(0,), starts=(0,), counts=(n_rows,))

    def send() -> None:
        for number in range(-(-n_bytes // (n_rows * 8192))):
            transfer.send(_Nowhere(), label, rows + number)
        transfer.drain()

    transfer = Transfer(setting.device, buffer_bytes=1 << 28, row_bytes=8192)
    transfer.__enter__()  # for as long as the process lives: pinning memory is not what is timed
    return send


def against_largest(
    measure: str,
    ours: Callable[[], None],
    floors: dict[str, Callable[[], None]],
    clear: Callable[[], None],
    n_pairs: int,
) -> Comparison:
    """Compare with the slowest of some floors."""
    seconds = {}
    for name, floor in floors.items():
        clear()
        floor()
        times = []
        for _ in range(3):
            clear()
            begin = time.perf_counter()
            floor()
            times.append(time.perf_counter() - begin)
        seconds[name] = statistics.median(times)
    largest = max(seconds, key=lambda name: seconds[name])
    shown = ", ".join(f"{name} {took:.3f} s" for name, took in seconds.items())
    print(f"{measure}: floors {shown}")
    measure = f"{measure} / {largest}"
    return compare(measure, ours, floors[largest], n_pairs=n_pairs, target="<= 1.15", before=clear)


def of_shape(shape: Shape, setting: Setting, folder: Path) -> list[Comparison]:
    """Measure one model."""
    one = setting.job(folder / "run", shape, shape.one, _BATCHES_OF_ONE)
    every = setting.job(folder / "run", shape, shape.glob, _BATCHES_OF_EVERY, one.model)
    plain = folder / "plain"
    n_bytes = every.plan.total_bytes
    name = f"{shape.name.split('/')[-1]}, {setting.n_examples} x {setting.n_tokens}"
    pairs = setting.n_pairs

    def clear() -> None:
        every.clear()
        plain.unlink(missing_ok=True)

    def ordered() -> None:
        with OrderRecorder(one.model):
            one.bare()

    return [
        compare(
            f"{name}, one mlp.act",
            one.record,
            one.bare,
            n_pairs=pairs,
            target="<= 1.03",
            before=one.clear,
        ),
        against_largest(
            f"{name}, every mlp.act",
            every.record,
            {
                "forward": every.bare,
                "copy": bare_copy(setting, n_bytes),
                "write": bare_write(plain, n_bytes),
            },
            clear,
            pairs,
        ),
        compare(f"{name}, execution order", ordered, one.bare, n_pairs=pairs, target=""),
    ]


def main() -> None:
    """Measure, print, and write JSON if asked."""
    extra = argparse.ArgumentParser(add_help=False)
    extra.add_argument("--dry-run", action="store_true", help="on the CPU, to see that it runs")
    given = options(__doc__, extra)
    if not given.dry_run and not torch.cuda.is_available():
        print("gpu.py: there is no CUDA device here, so nothing was measured")
        return
    if given.dry_run:
        setting = Setting(
            device=torch.device("cpu"), n_examples=2, n_tokens=16, n_pairs=1, dtype="float32"
        )
        shapes = SHAPES[:1]
    else:
        print(torch.cuda.get_device_name())
        setting = Setting(
            device=torch.device("cuda"),
            n_examples=32,
            n_tokens=512,
            n_pairs=3 if given.quick else 9,
            dtype="bfloat16",
        )
        shapes = SHAPES
    results = []
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as scratch,
        torch.inference_mode(),
    ):
        for shape in shapes:
            results += of_shape(shape, setting, Path(scratch))
    n_bytes = (1 << 20) if given.dry_run else (4 << 30)
    results.append(
        compare(
            f"copy of {n_bytes >> 20} MiB, ours / bare pinned",
            our_copy(setting, n_bytes),
            bare_copy(setting, n_bytes),
            n_pairs=setting.n_pairs,
            target="<= 1.25 (0.8 of its rate)",
        )
    )
    report(results, given.json)


if __name__ == "__main__":
    main()
