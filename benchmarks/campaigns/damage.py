"""Damaged: bytes that change, files that are cut, lost or swapped.

`find_bytes`, `find_files`: verify must name what was hit, and be content again when it is undone.
`mend`: a repair must give an undisturbed run's bytes again and compute no shard that was whole.
`read`: whatever is read of a damaged trace, the interpreter lives, and errors are probekit's.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from campaigns.children import log, run_probekit
from campaigns.damages import BYTES, FILES, KINDS, damaged
from campaigns.kills import COMMAND, Watched
from campaigns.runs import FOLDER, N_PASSES, n_examples_in, sealed
from campaigns.tally import Runs, Tally
from probekit.store.verification import verify

_REPAIR = (*COMMAND, "--repair")
_MEMORY_BYTES = 2 << 30  # that reading may take beyond what is loaded already


def find_bytes(n: int, chance: Random, scratch: Path, runs: Runs, tally: Tally) -> None:
    """Change one byte of a trace n times and verify each."""
    _find(BYTES, n, chance, runs, tally)


def find_files(n: int, chance: Random, scratch: Path, runs: Runs, tally: Tally) -> None:
    """Cut, lose, swap, rename or grow files of a trace n times and verify each."""
    _find(FILES, n, chance, runs, tally)


def _find(kinds: tuple[str, ...], n: int, chance: Random, runs: Runs, tally: Tally) -> None:
    while tally.tried < n:
        run = runs[chance.choice(list(runs))]
        kind = kinds[tally.tried % len(kinds)]
        with damaged(run, run.trace, kind, chance) as damage:
            verdict = verify(run.trace)
        problems = []
        if not damage.shards <= set(verdict.damaged_shards):
            problems.append(f"shards {verdict.damaged_shards} named")
        named = {d.file for d in verdict.damages}
        if not damage.shards and not set(damage.files) & named and "trace.h5" not in named:
            problems.append(f"files {named} named")
        if damage.site not in (None, *(d.site for d in verdict.damages)):
            problems.append(f"sites {[d.site for d in verdict.damages]} named")
        if verdict.whole:
            problems.append("not found")
        if verify(run.trace).damages:
            problems.append("found where there is none")
        tally.count(kind, [f"{run.name}, {damage.where}: {p}" for p in problems])


def mend(n: int, chance: Random, scratch: Path, runs: Runs, tally: Tally) -> None:
    """Damage traces n times, and repair each."""
    while tally.tried < n:
        run = runs[chance.choice(list(runs))]
        place = run.copy(scratch / "damaged")
        kind = KINDS[tally.tried % len(KINDS)]
        before = sealed(place)
        with damaged(run, place / FOLDER, kind, chance) as damage:
            verified = run_probekit(place, "verify", FOLDER)
            repaired = run_probekit(place, *_REPAIR, before=Watched())
            problems = run.differences(place)
            n_computed = sum(int(line.split()[1]) for line in repaired.log if "examples" in line)
            touched = _hit(before, sealed(place))
            again = run_probekit(place, "verify", FOLDER)
        if verified.code != 1:
            problems.append(f"verify before: {verified}")
        if repaired.code != 0 or again.code != 0:
            problems.append(f"repair: {repaired}, verify after: {again}")
        if not touched <= damage.shards:
            problems.append(f"shards {touched - damage.shards} were whole and not left alone")
        wanted = sum(n_examples_in(run.trace, number) for number in damage.shards)
        wanted *= N_PASSES.get(run.name, 1)
        if n_computed != wanted:
            problems.append(f"{n_computed} examples computed for {wanted}")
        tally.count(kind, [f"{run.name}, {damage.where}: {p}" for p in problems])


def _hit(before: dict[str, Any], after: dict[str, Any]) -> set[int]:
    return {int(Path(name).stem) for name in before if after.get(name) != before[name]}


def read(n: int, chance: Random, scratch: Path, runs: Runs, tally: Tally) -> None:
    """Damage traces n times and read all of each, in a process of its own."""
    while tally.tried < n:
        run = runs[chance.choice(list(runs))]
        # Most of what HDF5 can stumble over is structure: two thirds of the tries hit that.
        kind = chance.choice(("byte of the structure", "byte of the structure", *KINDS))
        with damaged(run, run.trace, kind, chance) as damage:
            ended = run_probekit(run.place, "--version", before=Read())
        outcome = ended.log[-1] if ended.log else ""
        problems = []
        if ended.code != 0 or outcome not in ("read", "refused"):
            problems.append(f"{run.name}, {damage.where}: {ended}, {ended.log[-1:]}")
        tally.count(outcome or "died", problems)


@dataclass(frozen=True, slots=True)
class Read:
    """Called in a child: read everything that can be read of the trace, and log how it went."""

    def __call__(self) -> None:
        """Read the trace below the directory."""
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES,) * 2)
        from probekit import ProbekitError

        n_refused = 0
        for path in (Path(FOLDER), *sorted(Path(FOLDER).rglob("*.h5"))):
            try:
                _read_all(path)
            except ProbekitError as error:
                n_refused += 1
                print(error, file=sys.stderr)
        log("refused" if n_refused else "read")


def _read_all(path: Path) -> None:
    import probekit
    from probekit.trace.summary import summarize_trace

    trace = probekit.open(path)
    repr(trace)
    summarize_trace(trace)
    for name in trace:
        site = trace[name]
        site[:].sum()
        site.torch().sum()
        site[[-1, 0]]
        site.example(0)
    for example in trace.examples:
        example.completion  # noqa: B018
    trace.tokens[-1]
    trace.vocabulary  # noqa: B018
    if trace.execution is not None:
        trace.execution_order  # noqa: B018
