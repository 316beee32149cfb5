"""Lie to it: configs, traces and `--set` strings that nobody means well with, and count faults.

    python benchmarks/hostile.py [--quick] [--only NAME]... [--seed N]

A config must be planned (every tenth of those is run too) or refused with a clear message; a trace
must be read or refused, and nothing outside of it opened. Each is tried in a process of its own,
with a limit on time and memory. The exit code is 1 if anything got through.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.append(str(Path(__file__).parent.parent / "tests"))  # where the lies are

import torch
from attempts import Tried
from hostile_configs import try_configs
from hostile_traces import catalogue, try_traces

torch.set_num_threads(1)  # one thread: nothing is lost by a fork

_SHOWN = 20  # faults


def configs(seed: int, folder: Path, *, quick: bool = False) -> Tried:
    """Try 10 000 configs, or a tenth."""
    return try_configs(1000 if quick else 10_000, seed, folder)


def traces(seed: int, folder: Path, *, quick: bool = False) -> Tried:
    """Try every way to lie in a trace three times, or once."""
    return try_traces(catalogue() * (1 if quick else 3), seed, folder)


CAMPAIGNS = {"configs": configs, "traces": traces}


def main() -> None:
    """Carry the campaigns out and print their counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of it")
    parser.add_argument("--only", action="append", choices=CAMPAIGNS, help="this campaign")
    parser.add_argument("--seed", type=int, default=0, help="of what is left to chance")
    given = parser.parse_args()
    n_faults = 0
    print(f"{'campaign':<10} {'tried':>6} {'faults':>6} {'seconds':>8}")
    for name in given.only or CAMPAIGNS:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="probekit-hostile-") as scratch:
            tried = CAMPAIGNS[name](given.seed, Path(scratch), quick=given.quick)
        seconds = time.perf_counter() - begin
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(tried.counts.items()))
        n_faults += len(tried.faults)
        n_tried = tried.counts.total() - tried.counts["not to be made"]
        print(f"{name:<10} {n_tried:>6} {len(tried.faults):>6} {seconds:>8.1f}  {kinds}")
        for fault in tried.faults[:_SHOWN]:
            print(f"  FAULT {fault}")
    sys.exit(1 if n_faults else 0)


if __name__ == "__main__":
    main()
