"""What the terminal shows: tables and progress.

Knows rich; computes nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from probekit.cli.tables import show_table
from probekit.errors import printable
from probekit.store import INDEX_FILE, INDEX_RECORD, RUN_FILE
from probekit.trace import collapse, table_of
from probekit.wording import by_count, counted, human_bytes

if TYPE_CHECKING:
    from probekit.analysis import Comparison
    from probekit.capture import Progress, Watcher
    from probekit.handover import Copied
    from probekit.planning import Plan
    from probekit.store import SiteSpec, Verdict

_PLAIN_EVERY_S = 5.0
_SHOWN = 20  # damages listed
_LONGEST = 1000  # characters of a text that a trace says of itself
_WIDE = 1_000_000  # columns where there is no terminal: what reads lines wants whole ones


def console(*, stderr: bool = False) -> Console:
    """Give a console that never cuts text when its output goes into a file.

    It prints text as it is: names and messages hold brackets that are no markup of rich's.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def show_plan(plan: Plan) -> None:
    """Print a plan."""
    out, known = console(), plan.examples is not None
    dtype = str(plan.dtype).removeprefix("torch.")
    n_parameters = counted(plan.skeleton.n_parameters, "parameter")
    about = f": {plan.skeleton.model_class}, {n_parameters}, {dtype}"
    out.print(Text.assemble((plan.config.model.name, "bold"), about))
    if plan.examples is not None:
        n_prompts = len(plan.examples.prompts)
        of = f" of {counted(n_prompts, 'prompt')}" if n_prompts < len(plan.examples) else ""
        out.print(
            f"{counted(len(plan.examples), 'example')}{of}, "
            f"{counted(plan.examples.total_tokens, 'token')}, {counted(len(plan.shards), 'shard')}"
        )
    rows = []
    specs = {s.spec.name: s.spec for s in plan.sites}
    for shape, names in collapse(specs).items():
        alike: dict[object, list[SiteSpec]] = {}
        for spec in (specs[n] for n in names):
            alike.setdefault((spec.rows, spec.row_shape, spec.dtype), []).append(spec)
        for same in alike.values():
            spec = same[0]
            n_rows = plan.site_rows(spec) if known else None
            axes = _axes(spec.axes, (n_rows, *spec.row_shape))
            total = sum(plan.site_bytes(s) for s in same)
            size = human_bytes(total) if known else "?"
            rows.append(
                (shape, f"{len(same):,}", axes, spec.dtype, human_bytes(spec.row_bytes), size)
            )
    show_table(out, ("site", "sites", "axes of one", "dtype", "bytes/row", "bytes"), rows)
    total_text = human_bytes(plan.total_bytes) if known else "unknown"
    out.print(
        f"total {total_text} ({human_bytes(plan.token_bytes)} a token), "
        f"{human_bytes(plan.free_bytes)} free at {plan.config.store.path}"
    )
    if plan.stop is not None:
        out.print(f"each forward pass ends at {plan.stop.module}: nothing later is asked for")
    for note in plan.notes:
        out.print(Text.assemble(("note:", "yellow"), f" {note}"), soft_wrap=True)
    for warning in plan.warnings:
        out.print(Text.assemble(("warning:", "bold red"), f" {warning}"), soft_wrap=True)


def show_verdict(verdict: Verdict) -> None:
    """Print what `probekit verify` found."""
    out = console()
    if verdict.only_unfinished:
        unsealed = counted(verdict.n_unsealed, "shard", of=verdict.n_shards)
        out.print(
            f"{verdict.path}: not finished: {unsealed} {by_count(verdict.n_unsealed, 'is', 'are')} "
            "still to be written, the others are whole; the same `probekit run` goes on",
            soft_wrap=True,
        )
        return
    for damage in verdict.damages[:_SHOWN]:
        out.print(str(damage), soft_wrap=True)
    if len(verdict.damages) > _SHOWN:
        out.print(f"and {len(verdict.damages) - _SHOWN:,} more; --json lists all")
    if verdict.whole:
        read = f"{counted(verdict.n_shards, 'shard')}, {human_bytes(verdict.n_bytes)}"
        out.print(f"{verdict.path}: whole: {read}, every byte as it was written", soft_wrap=True)
        return
    out.print(
        f"{verdict.path}: DAMAGED: {_damaged_parts(verdict)}. `probekit run CONFIG --repair` makes "
        "that anew, and leaves whole shards as they are",
        soft_wrap=True,
    )


def _damaged_parts(verdict: Verdict) -> str:
    parts, numbers = [], verdict.damaged_shards
    if numbers:
        shown = ", ".join(map(str, numbers[:_SHOWN]))
        more = f" and {len(numbers) - _SHOWN:,} more" if len(numbers) > _SHOWN else ""
        parts.append(f"{by_count(len(numbers), 'shard', 'shards')} {shown}{more}")
    files = {damage.file for damage in verdict.damages if damage.shard is None}
    parts += ["the index"] if files & {INDEX_FILE, INDEX_RECORD} else []
    parts += [RUN_FILE] if RUN_FILE in files else []
    return " and ".join(parts)


def show_info(info: dict[str, Any]) -> None:
    """Print what is in a trace."""
    info = _escaped(info)  # a stranger's trace could write to the terminal otherwise
    out, made = console(), info["provenance"]
    out.print(info["path"], style="bold")
    out.print(
        f"{made.get('model_name')} ({made.get('model_class')}, "
        f"{_counted(made.get('n_parameters', 0), 'parameter')}, "
        f"{made.get('model_weights')} weights) in {made.get('dtype')}, "
        f"attention {made.get('attention')}, on {made.get('device')}, seed {made.get('seed')}"
    )
    versions = [
        f"{name} {made[f'{name}_version']}"
        for name in ("probekit", "torch", "transformers", "h5py")
        if f"{name}_version" in made
    ]
    out.print(f"made by {', '.join(versions)}")
    for session in info["sessions"]:
        out.print(_session(session), soft_wrap=True)
    out.print(
        f"{counted(info['n_examples'], 'example')}, {counted(info['n_tokens'], 'token')}, "
        f"{counted(info['n_sites'], 'site')}, {human_bytes(info['n_bytes'])}"
    )
    if info["columns"]:
        said = ", ".join(f"{name} ({dtype})" for name, dtype in info["columns"].items())
        out.print(f"columns: {said}", soft_wrap=True)
    rows = []
    sites = {site["name"]: site for site in info["sites"]}
    for shape, names in collapse(sites).items():
        site = sites[names[0]]
        axes = _axes(site["axes"], site["shape"])
        size = human_bytes(site["bytes"])
        rows.append((shape, f"{len(names):,}", axes, site["dtype"], size))
    show_table(out, ("site", "sites", "axes", "dtype", "bytes each"), rows)
    if (execution := info["execution"]) is not None:
        out.print(
            f"execution order: {counted(execution['n_modules_run'], 'module')}, "
            f"{counted(execution['n_orders'], 'distinct order')} in "
            f"{counted(execution['n_forwards'], 'forward pass', 'forward passes')}, "
            f"{execution['seconds']:.2f} s"
        )
    if "self_check" in made:
        out.print(f"self-check: {_self_check(made)}")
    if "stopped_after" in made:
        out.print(
            f"each forward pass ended at {made['stopped_after']}: nothing later was asked for"
        )
    if (n_samples := made.get("n_samples")) is not None:
        out.print(f"{_counted(n_samples, 'completion')} of each prompt")
    if (n_beams := made.get("n_beams")) is not None:
        out.print(f"{_counted(n_beams, 'beam')} of each prompt; recorded is {made.get('recorded')}")
    for how, key in (("with the cache", "generate_cached_s"), ("without", "generate_naive_s")):
        if key in made:
            out.print(f"generated {how} in {_number(made[key], '.2f')} s")
    if "generate_compared" in made:
        same, all_ = made.get("generate_same"), made["generate_compared"]
        out.print(f"both ways gave the same tokens for {same} of {_counted(all_, 'example')}")


def _session(session: Mapping[str, str | None]) -> str:
    """Write `made on ada at 2026-11-29T12:10:48+00:00: probekit run a.yaml`, as far as known."""
    where, when, how = session["host"], session["began"], session["command"]
    place = f"{f' on {where}' if where else ''}{f' at {when}' if when else ''}"
    return f"made{place}{f': {how}' if how else ''}"


def _self_check(made: Mapping[str, Any]) -> str:
    said = str(made["self_check"])
    if "self_check_sites" in made:
        said += f", {_counted(made['self_check_sites'], 'site')} equal a bare hook bit for bit"
    if "self_check_difference" in made:
        differs, most = (made.get(f"self_check_{key}", "?") for key in ("difference", "tolerance"))
        said += (
            f"; alone and in a batch a text differs by {_number(differs, '.1g')} at most "
            f"(rounding explains {_number(most, 'g')})"
        )
    return said


def _escaped(value: Any) -> Any:
    """Write out what does not print, in every text of some JSON values."""
    if isinstance(value, Mapping):
        return {printable(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return printable(value[:_LONGEST]) if isinstance(value, str) else value


def _axes(names: Iterable[str], sizes: Iterable[int | None]) -> str:
    pairs = zip(names, sizes, strict=True)
    return ", ".join(f"{name}={'?' if size is None else f'{size:,}'}" for name, size in pairs)


def _counted(value: Any, noun: str) -> str:
    return counted(value, noun) if type(value) is int else f"{value} {noun}s"  # a stranger's


def _number(value: Any, how: str) -> str:
    return format(value, how) if isinstance(value, int | float) else str(value)


def show_comparison(found: Comparison) -> None:
    """Print what two traces have in common."""
    out = console()
    table = table_of(found)
    out.print(table.title, soft_wrap=True)
    show_table(out, table.columns, table.texts(), right=table.numeric())
    for line in table.below():
        out.print(line)
    for matrix in found.matrices:
        out.print(f"\n{matrix!r}", soft_wrap=True)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Watcher | None]:
    """Show a run's progress: a bar on a terminal, a line now and then elsewhere."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as watcher:
            yield watcher
    else:
        yield _Lines()


@contextmanager
def _bar() -> Iterator[Watcher]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress as RichProgress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("examples"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console(stderr=True)) as bar:
        task = bar.add_task("examples", total=None, rate="")

        def watch(p: Progress) -> None:
            if not bar.tasks[task].completed and p.before:
                bar.reset(task, total=p.n_examples, completed=p.before, rate="")
            bar.update(task, total=p.n_examples, completed=p.examples, rate=_rate(p))

        yield watch


@contextmanager
def reading(*, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show how far a trace has been read: a bar on a terminal, nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress as RichProgress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (DownloadColumn(True), BarColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("bytes", total=None)
        yield lambda done, total: bar.update(task, total=total, completed=done)


@contextmanager
def copying(*, quiet: bool) -> Iterator[Callable[[Copied], object] | None]:
    """Show a copy's progress: a bar on a terminal, a line now and then elsewhere."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress as RichProgress,
            TimeRemainingColumn,
        )

        columns = (DownloadColumn(binary_units=True), BarColumn(), TimeRemainingColumn())
        with RichProgress(*columns, console=console(stderr=True), transient=True) as bar:
            task = bar.add_task("bytes", total=None)
            yield lambda c: bar.update(task, total=c.total_bytes, completed=c.n_bytes)
    else:
        yield _CopyLines()


class _CopyLines:
    def __init__(self) -> None:
        self._last = 0.0
        self._was_last = False

    def __call__(self, c: Copied) -> None:
        if c.seconds - self._last >= _PLAIN_EVERY_S:
            self._last = c.seconds
            done, total = human_bytes(c.n_bytes), human_bytes(c.total_bytes)
            print(f"{done} of {total}, {human_bytes(c.n_bytes / c.seconds)}/s", file=sys.stderr)


class _Lines:
    def __init__(self) -> None:
        self._last = 0.0
        self._was_last = False

    def __call__(self, p: Progress) -> None:
        now, is_last = time.monotonic(), p.examples == p.n_examples
        if self._was_last if is_last else now - self._last < _PLAIN_EVERY_S:
            return
        self._was_last = is_last
        self._last = now
        n_done = p.examples - p.before
        per_example = p.seconds / max(1, n_done)
        left = f"{per_example * (p.n_examples - p.examples):.0f} s" if n_done else "some time"
        print(
            f"{p.examples:,}/{counted(p.n_examples, 'example')}, {_rate(p)}, {left} left",
            file=sys.stderr,
        )


def _rate(p: Progress) -> str:
    return f"{p.tokens / max(p.seconds, 1e-9):,.0f} tokens/s, {human_bytes(p.n_bytes)}"
