"""What the terminal shows: tables and progress.

Knows rich; computes nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from probekit.errors import printable
from probekit.store import INDEX_FILE, INDEX_RECORD, RUN_FILE
from probekit.trace import collapse
from probekit.wording import human_bytes

if TYPE_CHECKING:
    from probekit.analysis import Comparison
    from probekit.capture import Progress, Watcher
    from probekit.handover import Copied
    from probekit.planning import Plan
    from probekit.store import SiteSpec, Verdict

_PLAIN_EVERY_S = 5.0
_SHOWN = 20  # damages listed
_LONGEST = 1000  # characters of a text that a trace says of itself
_WIDE = 200  # columns where there is no terminal to ask


def console(*, stderr: bool = False) -> Console:
    """Give a console that never cuts text when its output goes into a file.

    It prints text as it is: names and messages hold brackets that are no markup of rich's.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def table_of(*columns: str) -> Table:
    """Give an empty table; columns of numbers stand to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = column in ("sites", "bytes", "bytes/row", "rows", "calls", "bytes each")
        table.add_column(column, overflow="fold", justify="right" if numeric else "left")
    return table


def show_plan(plan: Plan) -> None:
    """Print a plan."""
    out, known = console(), plan.examples is not None
    dtype = str(plan.dtype).removeprefix("torch.")
    about = f": {plan.skeleton.model_class}, {plan.skeleton.n_parameters:,} parameters, {dtype}"
    out.print(Text.assemble((plan.config.model.name, "bold"), about))
    if plan.examples is not None:
        out.print(
            f"{len(plan.examples):,} examples, {plan.examples.total_tokens:,} tokens, "
            f"{len(plan.shards)} shard{'s' if len(plan.shards) != 1 else ''}"
        )
    table = table_of("site", "sites", "axes of one", "dtype", "bytes/row", "bytes")
    specs = {s.spec.name: s.spec for s in plan.sites}
    for shape, names in collapse(specs).items():
        alike: dict[object, list[SiteSpec]] = {}
        for spec in (specs[n] for n in names):
            alike.setdefault((spec.rows, spec.row_shape, spec.dtype), []).append(spec)
        for same in alike.values():
            spec = same[0]
            sizes = (plan.site_rows(spec) if known else "?", *spec.row_shape)
            axes = ", ".join(f"{a}={n}" for a, n in zip(spec.axes, sizes, strict=True))
            total = sum(plan.site_bytes(s) for s in same)
            table.add_row(
                shape,
                str(len(same)),
                axes,
                spec.dtype,
                human_bytes(spec.row_bytes),
                human_bytes(total) if known else "?",
            )
    out.print(table)
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
        out.print(
            f"{verdict.path}: not finished: {verdict.n_unsealed} of {verdict.n_shards} shards are "
            "still to be written, the others are whole; the same `probekit run` goes on",
            soft_wrap=True,
        )
        return
    for damage in verdict.damages[:_SHOWN]:
        out.print(str(damage), soft_wrap=True)
    if len(verdict.damages) > _SHOWN:
        out.print(f"and {len(verdict.damages) - _SHOWN} more; --json lists all")
    n_shards = f"{verdict.n_shards} shard{'s' if verdict.n_shards != 1 else ''}"
    if verdict.whole:
        read = f"{n_shards}, {human_bytes(verdict.n_bytes)}"
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
        more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
        parts.append(f"shard{'s' if len(numbers) > 1 else ''} {shown}{more}")
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
        f"{_number(made.get('n_parameters', 0), ',')} "
        f"parameters, {made.get('model_weights')} weights) in {made.get('dtype')}, "
        f"attention {made.get('attention')}, on {made.get('device')}, seed {made.get('seed')}"
    )
    versions = [
        f"{name} {made[f'{name}_version']}"
        for name in ("probekit", "torch", "transformers", "h5py")
        if f"{name}_version" in made
    ]
    out.print(f"made by {', '.join(versions)}")
    out.print(
        f"{info['n_examples']:,} examples, {info['n_tokens']:,} tokens, "
        f"{info['n_sites']} sites, {human_bytes(info['n_bytes'])}"
    )
    if info["columns"]:
        said = ", ".join(f"{name} ({dtype})" for name, dtype in info["columns"].items())
        out.print(f"columns: {said}", soft_wrap=True)
    table = table_of("site", "sites", "axes", "dtype", "bytes each")
    sites = {site["name"]: site for site in info["sites"]}
    for shape, names in collapse(sites).items():
        site = sites[names[0]]
        axes = ", ".join(f"{a}={n}" for a, n in zip(site["axes"], site["shape"], strict=True))
        table.add_row(shape, str(len(names)), axes, site["dtype"], human_bytes(site["bytes"]))
    out.print(table)
    if (execution := info["execution"]) is not None:
        out.print(
            f"execution order: {execution['n_modules_run']} modules, {execution['n_orders']} "
            f"distinct order(s) in {execution['n_forwards']} forward passes, "
            f"{execution['seconds']:.2f} s"
        )
    if "self_check" in made:
        out.print(f"self-check: {_self_check(made)}")
    if "stopped_after" in made:
        out.print(
            f"each forward pass ended at {made['stopped_after']}: nothing later was asked for"
        )
    for how, key in (("with the cache", "generate_cached_s"), ("without", "generate_naive_s")):
        if key in made:
            out.print(f"generated {how} in {_number(made[key], '.2f')} s")
    if "generate_compared" in made:
        same, all_ = made.get("generate_same"), made["generate_compared"]
        out.print(f"both ways gave the same tokens for {same} of {all_} examples")


def _self_check(made: Mapping[str, Any]) -> str:
    said = str(made["self_check"])
    if "self_check_sites" in made:
        said += f", {made['self_check_sites']} sites equal a bare hook bit for bit"
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


def _number(value: Any, how: str) -> str:
    return format(value, how) if isinstance(value, int | float) else str(value)


def show_comparison(found: Comparison) -> None:
    """Print what two traces have in common."""
    out = console()
    out.print(repr(found), soft_wrap=True)
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
def reading() -> Iterator[Callable[[int, int], None] | None]:
    """Show how far a trace has been read: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
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

    def __call__(self, c: Copied) -> None:
        if c.seconds - self._last >= _PLAIN_EVERY_S:
            self._last = c.seconds
            done, total = human_bytes(c.n_bytes), human_bytes(c.total_bytes)
            print(f"{done} of {total}, {human_bytes(c.n_bytes / c.seconds)}/s", file=sys.stderr)


class _Lines:
    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, p: Progress) -> None:
        now = time.monotonic()
        if p.examples < p.n_examples and now - self._last < _PLAIN_EVERY_S:
            return
        self._last = now
        per_example = p.seconds / max(1, p.examples - p.before)
        left = per_example * (p.n_examples - p.examples)
        print(
            f"{p.examples}/{p.n_examples} examples, {_rate(p)}, {left:.0f} s left", file=sys.stderr
        )


def _rate(p: Progress) -> str:
    return f"{p.tokens / max(p.seconds, 1e-9):,.0f} tokens/s, {human_bytes(p.n_bytes)}"
