"""Peak memory of a capture and of one twenty times as long, each in a process of its own.

distilgpt2's shape with random weights, texts of 8 to 64 tokens, every MLP activation, shards of
16 MiB, so that the long run has many. The peak is what the system says a process ever had.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pairs import Comparison, options, report

TIMES = 20


def capture(n_examples: int, folder: Path) -> None:
    """Run a capture and print the peak of this process, in KiB."""
    import probekit

    probekit.run(
        {
            "model": {"name": "distilgpt2", "weights": "random", "device": "cpu"},
            "inputs": {
                "random": {"examples": n_examples, "min_tokens": 8, "max_tokens": 64},
                "batch_tokens": 2048,
            },
            "probes": [{"modules": "transformer.h.*.mlp.act"}],
            "store": {"path": str(folder / str(n_examples)), "shard_bytes": "16MiB"},
        },
        overwrite=True,
    )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak(n_examples: int, folder: Path) -> tuple[int, float]:
    """Give the peak in KiB of a fresh process, and the seconds it took."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--capture", str(n_examples), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1]), time.perf_counter() - begin


def main() -> None:
    """Measure, print, and write JSON if asked."""
    if sys.argv[1:2] == ["--capture"]:
        capture(int(sys.argv[2]), Path(sys.argv[3]))
        return
    given = options(__doc__)
    n_examples, n_pairs = (4, 1) if given.quick else (64, 7)
    ratios, longs, shorts = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(n_pairs):
            short, short_s = peak(n_examples, Path(scratch))
            long, long_s = peak(TIMES * n_examples, Path(scratch))
            print(f"{n_examples}: {short >> 10} MiB, {TIMES * n_examples}: {long >> 10} MiB")
            ratios.append(long / short)
            longs.append(long_s)
            shorts.append(short_s)
    result = Comparison(
        measure=f"peak memory, {TIMES * n_examples} examples against {n_examples}",
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        ours_s=statistics.median(longs),
        theirs_s=statistics.median(shorts),
        n_pairs=n_pairs,
        target="<= 1.05",
    )
    report([result], given.json)


if __name__ == "__main__":
    main()
