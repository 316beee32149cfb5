"""What sharing a run costs: two workers against two runs of half the work, and one claim.

Two workers of one thread share a run; two processes of one thread each make a run of their own with
half of the texts, all in shards of the same size. Both begin together, when models are loaded and
checked, so that start-up is left out; what counts is texts a second until the last shard is sealed,
in turns, the median of the pairs' ratios. Then what a claim takes: shards that are sealed by
nothing, claimed one after another, alone and while seven others hold claims.

    python benchmarks/workers.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from probekit.store import Claims, ShardSpec
from probekit.store.claiming.claimfiles import take

_CHILD = """
import json, sys, time
from pathlib import Path
import probekit
from probekit.stages import FIRST_BATCH
config, own, other = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
at = {}
def stage(name):
    if name == FIRST_BATCH:
        own.touch()
        while not other.exists():
            time.sleep(0.001)
        at["begin"] = time.monotonic()
def progress(p):
    at["end"] = time.monotonic()
probekit.run(config, on_stage=stage, on_progress=progress)
print(json.dumps(at))
"""


def config(folder: Path, n_texts: int, seed: int) -> dict[str, Any]:
    """Give a config of a run of some dozens of shards."""
    return {
        "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
        "inputs": {
            "random": {"examples": n_texts, "min_tokens": 60, "max_tokens": 120, "seed": seed}
        },
        "probes": [{"modules": "transformer.h.*.mlp.act"}, {"sites": "resid_post"}],
        "store": {"path": str(folder), "shard_bytes": "8MiB"},
    }


def rate(configs: list[dict[str, Any]], scratch: Path, n_texts: int) -> float:
    """Carry configs out at the same time, a process each; give texts a second of all together."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    marks = [scratch / f"ready-{number}" for number in range(len(configs))]
    for mark in marks:
        mark.unlink(missing_ok=True)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(one), str(own), str(other)],
            env={**environment, "RANK": str(number)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, (one, own, other) in enumerate(zip(configs, marks, marks[::-1], strict=True))
    ]
    times = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    return n_texts / (max(t["end"] for t in times) - min(t["begin"] for t in times))


def claim_ms(scratch: Path, n_others: int, n: int = 300) -> float:
    """Give the milliseconds that a claim takes, from asking to release, the median."""
    folder = scratch / f"claims-{n_others}"
    folder.mkdir()
    shards = [
        ShardSpec(number=k, first_example=k, n_examples=1, first_token=0, n_tokens=1, n_rows={})
        for k in range(n)
    ]
    sealed: set[int] = set()
    took = []
    with Claims(folder) as claims:
        for other in range(n_others):
            take(folder, f"{n + other:05d}", f"anotherhost-{other}-1", lambda worker: False)
        begin = time.perf_counter()
        for shard in claims.shards(
            shards, lambda one: one.number in sealed, lambda one: None, lambda: None
        ):
            sealed.add(shard.number)
            claims.say(at_once=True, shard=shard.number, examples=0)
            now = time.perf_counter()
            took.append(1e3 * (now - begin))
            begin = now
    return statistics.median(took)


def main() -> None:
    """Print what it takes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts, one pair")
    quick = parser.parse_args().quick
    n_texts, n_pairs = (2_000, 1) if quick else (12_000, 5)
    with tempfile.TemporaryDirectory(prefix="workers-") as place:
        scratch = Path(place)
        shared, apart = [], []
        for number in range(n_pairs):
            one = config(scratch / f"shared-{number}", n_texts, number)
            shared.append(rate([one, one], scratch, n_texts))
            halves = [
                config(scratch / f"half-{number}-{half}", n_texts // 2, 100 + number + half)
                for half in range(2)
            ]
            apart.append(rate(halves, scratch, n_texts))
            print(f"pair {number}: {shared[-1]:.1f} and {apart[-1]:.1f} texts/s", file=sys.stderr)
        ratio = statistics.median(a / b for a, b in zip(shared, apart, strict=True))
        print("| what | measured | target |\n|---|---|---|")
        print(
            f"| two workers against two runs of half the work, {n_pairs} pairs | {ratio:.3f} "
            f"({statistics.median(shared):.0f} and {statistics.median(apart):.0f} texts/s) "
            "| >= 0.95 |"
        )
        for n_others in (0, 7):
            print(
                f"| a claim, its beat and its release, beside {n_others} others "
                f"| {claim_ms(scratch, n_others):.2f} ms | <= 10 ms |"
            )


if __name__ == "__main__":
    main()
