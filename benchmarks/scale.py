"""What a text costs when there are many of them, and what a shard costs when there are many.

Short texts through the sample model, small rows: first 100 texts in a shard, so that a million
texts are 10 000 shards, then 4 texts in a shard. Each step is a process of its own that says how
long it took beyond imports, by the clock and by the processor, how far its memory rose above that
of the imports (the peak that the system says), and how many files of shards it opened, each counted
once. "resume" goes on with a run whose last shard and index are gone, and takes all that a run
takes, loading the model too. Shards of the second table are made without fsync, which is the disk's
time and no other's.

    python benchmarks/scale.py [--quick] [--texts N ...] [--shards N ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STEPS = ("plan", "run", "open", "info", "example", "statistics", "resume")
SITE = "transformer.h.1"
TARGET = 1.10  # of what a text takes, most texts against fewest
_SOON_OVER = ("open", "info", "example")  # over soon: the median of several processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step took, of so many texts in so many shards."""

    n_texts: int
    n_shards: int
    name: str
    seconds: float  # beyond imports, the median
    processor_s: float  # of all threads, which other processes change little
    rise_bytes: int  # of the peak of memory, above what the imports took
    n_files: int  # of shards that were opened: rows and tables
    n_records: int  # .json and .made.json files of shards that were read


def config(folder: Path, n_texts: int, per_shard: int) -> dict[str, Any]:
    """Give a config whose shards hold so many texts; a row is the mean of one text's tokens."""
    return {
        "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
        "inputs": {"file": str(folder / f"{n_texts}.txt")},
        "probes": [{"modules": SITE, "positions": "last"}],
        "execution_order": True,
        "store": {"path": str(folder / f"{n_texts}-{per_shard}"), "shard_bytes": 512 * per_shard},
    }


def write_texts(path: Path, n_texts: int) -> None:
    """Write texts of three words."""
    from probekit.samples.world import WORDS

    draw = random.Random(0)
    with path.open("w") as file:
        for _ in range(n_texts):
            file.write(" ".join(draw.choices(WORDS, k=3)) + "\n")


def job(name: str, given: dict[str, Any]) -> Callable[[], Any]:
    """Import what a step needs, and give the step."""
    import probekit

    path = given["store"]["path"]
    if name == "plan":
        from probekit.config import load_config
        from probekit.planning import make_plan

        return lambda: make_plan(load_config(given))
    if name in ("run", "resume"):
        import probekit.capture.running

        return lambda: probekit.run(given, self_check=False)
    if name == "info":
        from probekit.trace import summarize_trace

        return lambda: summarize_trace(probekit.open(path))
    if name == "example":
        return lambda: _example(probekit.open(path))
    if name == "statistics":
        import probekit.analysis

        return lambda: probekit.open(path)[SITE].statistics()
    return lambda: probekit.open(path)


def _example(trace: Any) -> None:
    number = random.Random(1).randrange(len(trace.examples))
    assert trace.examples[number].number == number
    assert trace[SITE].example(number).shape == (1, 128)


def child(name: str, given: dict[str, Any], *, sync: bool) -> None:
    """Carry a step out and print what it took, as JSON."""
    import h5py

    if not sync:
        os.fsync = os.fdatasync = lambda fd: None  # type: ignore[assignment]
    step = job(name, given)
    shards = f"{Path(given['store']['path']).resolve()}/shards/"
    seen: set[str] = set()

    def note(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str | os.PathLike):
            seen.add(os.fspath(args[0]))

    own = h5py.File.__init__

    def opened(self: Any, name: Any, *more: Any, **named: Any) -> None:
        if isinstance(name, str | os.PathLike):  # HDF5 opens it without Python
            seen.add(os.fspath(name))
        own(self, name, *more, **named)

    h5py.File.__init__ = opened
    sys.addaudithook(note)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter(), time.process_time()
    step()
    seconds, processor_s = time.perf_counter() - begin[0], time.process_time() - begin[1]
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    files = [name for name in seen if str(Path(name).absolute()).startswith(shards)]
    n_files = sum(name.endswith(".h5") for name in files)
    n_records = sum(name.endswith(".json") for name in files)
    print(json.dumps([seconds, processor_s, rise * 1024, n_files, n_records]))


def take(name: str, given: dict[str, Any], *, sync: bool, times: int) -> list[float]:
    """Carry a step out in processes of its own; give the medians of what it took."""
    found = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, __file__, "--child", name, json.dumps(given), "sync" * sync],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if name in STEPS else None,
            text=True,
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return [statistics.median(values) for values in zip(*found, strict=True)]


def measure(folder: Path, n_texts: int, per_shard: int, *, sync: bool, times: int) -> list[Step]:
    """Take every step of one size."""
    given = config(folder, n_texts, per_shard)
    write_texts(folder / f"{n_texts}.txt", n_texts)
    run, n_shards = Path(given["store"]["path"]), -(-n_texts // per_shard)
    found = []
    for name in STEPS:
        if name == "resume":
            last = f"{n_shards - 1:05d}"
            for file in (*run.glob(f"shards/{last}.*"), run / "trace.h5", run / "trace.json"):
                file.unlink()
        n_times = times if name in _SOON_OVER else 1
        seconds, processor_s, rise, files, records = take(name, given, sync=sync, times=n_times)
        found.append(
            Step(
                n_texts=n_texts,
                n_shards=n_shards,
                name=name,
                seconds=seconds,
                processor_s=processor_s,
                rise_bytes=int(rise),
                n_files=int(files),
                n_records=int(records),
            )
        )
        print(found[-1], file=sys.stderr, flush=True)
    return found


def table(steps: list[Step], unit: str) -> None:
    """Print steps as Markdown, what a text or a shard takes of each beside the whole."""
    few, many = (pick(getattr(s, f"n_{unit}s") for s in steps) for pick in (min, max))
    of = {(s.name, getattr(s, f"n_{unit}s")): s for s in steps}
    print(f"\n| step | {unit}s | seconds | processor ", end="")
    print(f"| us a {unit} | memory | bytes a {unit} | files | records |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in STEPS:
        for (step, n), s in sorted(of.items(), key=lambda item: item[0][1]):
            if step == name:
                took = f"{s.seconds:,.2f} | {s.processor_s:,.2f}"
                each = f"{1e6 * s.processor_s / n:,.0f} | {s.rise_bytes / 2**20:,.0f} MiB"
                more = f"{s.rise_bytes / n:,.0f} | {s.n_files:,} | {s.n_records:,}"
                print(f"| {name} | {n:,} | {took} | {each} | {more} |")
    if few != many:
        print(f"\n| a {unit}'s share, {many:,} against {few:,} | processor | memory | target |")
        print("|---|---|---|---|")
        for name in STEPS:
            one, other = of[name, few], of[name, many]
            slower = other.processor_s / many / (one.processor_s / few)
            larger = other.rise_bytes / many / max(1, one.rise_bytes / few)
            goal = f"{TARGET:.2f}" if name in ("plan", "run", "open") else ""
            print(f"| {name} | {slower:.2f} | {larger:.2f} | {goal} |")


def main() -> None:
    """Measure, print, and write JSON if asked."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], json.loads(sys.argv[3]), sync=sys.argv[4] == "sync")
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few texts and shards, once each")
    parser.add_argument("--texts", type=int, nargs="*", help="how many, 100 in a shard")
    parser.add_argument("--shards", type=int, nargs="*", help="how many, of 4 texts")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    given = parser.parse_args()
    texts, shards = (10_000, 100_000, 1_000_000), (100, 1_000, 10_000)
    if given.quick:
        texts, shards = (1_000, 10_000), (10, 100)
    texts = texts if given.texts is None else tuple(given.texts)
    shards = shards if given.shards is None else tuple(given.shards)
    times = 1 if given.quick else 3
    found: list[Step] = []
    with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
        for unit, steps in (
            ("text", ((n, 100, True) for n in texts)),
            ("shard", ((4 * n, 4, False) for n in shards)),
        ):
            here: list[Step] = []
            for n_texts, per_shard, sync in steps:
                here += measure(Path(scratch), n_texts, per_shard, sync=sync, times=times)
            if here:
                table(here, unit)
            found += here
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n")


if __name__ == "__main__":
    main()
