"""Paired timing: two ways of doing the same, interleaved in one run, compared by the median ratio.

A machine that is busy with other things slows both of a pair alike, so ratios hold where seconds do
not.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a pair of ways took."""

    measure: str
    ratio: float  # median over the pairs of ours / theirs
    low: float  # smallest and largest ratio
    high: float
    ours_s: float  # medians
    theirs_s: float
    n_pairs: int
    target: str


def compare(
    measure: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    n_pairs: int,
    target: str,
    before: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time two ways in turn, after one round to warm up; who goes first alternates.

    `before` comes before each of them and is not timed: it removes what the last one left.

    `time.thread_time` is a steadier clock where others use the machine; it is fair only where
    neither way waits or has a second thread work for it.
    """
    before()
    ours()
    before()
    theirs()
    times: list[tuple[float, float]] = []
    for number in range(n_pairs):
        if number % 2:
            their_s, our_s = _seconds(theirs, before, clock), _seconds(ours, before, clock)
        else:
            our_s, their_s = _seconds(ours, before, clock), _seconds(theirs, before, clock)
        times.append((our_s, their_s))
    ratios = [a / b for a, b in times]
    return Comparison(
        measure=measure,
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        ours_s=statistics.median(a for a, _ in times),
        theirs_s=statistics.median(b for _, b in times),
        n_pairs=n_pairs,
        target=target,
    )


def _seconds(
    way: Callable[[], object], before: Callable[[], object], clock: Callable[[], float]
) -> float:
    before()
    begin = clock()
    way()
    return clock() - begin


def options(description: str | None, *more: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line every benchmark shares, and what one adds."""
    parser = argparse.ArgumentParser(description=description, parents=more)
    parser.add_argument("--quick", action="store_true", help="a smaller job, and fewer pairs")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


def report(results: list[Comparison], path: Path | None) -> None:
    """Print a table, and write JSON if asked."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
    width = max(len(r.measure) for r in results)
    print(f"{'measure':<{width}} {'ratio':>6} {'spread':>13} {'ours':>9} {'theirs':>9}  target")
    for r in results:
        print(
            f"{r.measure:<{width}} {r.ratio:>6.2f} {r.low:>6.2f}-{r.high:<6.2f} "
            f"{r.ours_s:>8.3f}s {r.theirs_s:>8.3f}s  {r.target}"
        )
    if path is not None:
        path.write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")
