"""Faults: kill it, starve it, damage it, lie to it, and count what is lost.

    python benchmarks/faults.py [--quick] [--only NAME]... [--seed N]

Each campaign does what its name says to real runs of the sample model, in processes of their own,
and compares with an undisturbed run. The exit code is 1 if anything got through.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from campaigns import crews, damage, disks, kills, lies, stops
from campaigns.runs import CONFIGS, undisturbed
from campaigns.tally import Campaign, Tally
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

CAMPAIGNS = {
    "kills survived": Campaign(carry_out=kills.survive, full=100, quick=10),
    "workers disturbed": Campaign(carry_out=crews.disturb, full=300, quick=30),
    "stopped by a signal": Campaign(carry_out=stops.stop, full=40, quick=4),
    "starved": Campaign(carry_out=disks.starve, full=90, quick=9),
    "bytes changed and found": Campaign(carry_out=damage.find_bytes, full=1000, quick=100),
    "files damaged and found": Campaign(carry_out=damage.find_files, full=600, quick=60),
    "damaged and repaired": Campaign(carry_out=damage.mend, full=100, quick=10),
    "damaged and opened": Campaign(carry_out=damage.read, full=400, quick=40),
    "configs tried": Campaign(carry_out=lies.configs, full=10_000, quick=1000),
    "hostile files tried": Campaign(carry_out=lies.traces, full=1500, quick=150),
}
_SHOWN = 20  # descriptions of what was lost
_PAUSE_S = 60.0  # between two lines of progress


def main() -> None:
    """Carry campaigns out and print their counts."""
    given = _options()
    n_lost = 0
    print(f"{'campaign':<24} {'tried':>6} {'lost':>5} {'seconds':>8}")
    with tempfile.TemporaryDirectory(prefix="probekit-faults-") as scratch:
        runs = {name: undisturbed(name, Path(scratch)) for name in CONFIGS}
        for name in given.only or CAMPAIGNS:
            begin, campaign, folder = time.perf_counter(), CAMPAIGNS[name], Path(scratch) / name
            folder.mkdir()
            n = campaign.quick if given.quick else campaign.full
            with _progress(name, n) as tell:
                tally = Tally(tell=tell)
                campaign.carry_out(n, Random(given.seed), folder, runs, tally)
            n_lost += len(tally.lost)
            _show(name, tally, time.perf_counter() - begin)
    sys.exit(1 if n_lost else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    parser.add_argument("--only", action="append", choices=CAMPAIGNS, help="this campaign")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when")
    return parser.parse_args()


@contextmanager
def _progress(name: str, n: int) -> Iterator[Callable[[int], None]]:
    """Show how much was tried: a bar on a terminal, a line a minute elsewhere.

    No thread draws the bar: none may be there when children are forked.
    """
    if sys.stderr.isatty():
        columns = (*Progress.get_default_columns(), MofNCompleteColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
            task = bar.add_task(name, total=n)
            yield lambda tried: bar.update(task, completed=tried, refresh=True)
        return
    last = time.monotonic()

    def tell(tried: int) -> None:
        nonlocal last
        if time.monotonic() - last > _PAUSE_S:
            last = time.monotonic()
            print(f"{name}: {tried} of {n}", file=sys.stderr, flush=True)

    yield tell


def _show(name: str, tally: Tally, seconds: float) -> None:
    kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(tally.counts.items()))
    print(f"{name:<24} {tally.tried:>6} {len(tally.lost):>5} {seconds:>8.1f}  {kinds}")
    for description in tally.lost[:_SHOWN]:
        print(f"  LOST {description}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
