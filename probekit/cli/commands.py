"""The command line: a thin door, one library call a command."""

from __future__ import annotations

import errno
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probekit.cli.messages import (
    calm_datasets,
    hush,
    print_json,
    say,
    say_next,
    show_warning,
)
from probekit.cli.parameters import (
    AsJson,
    Command,
    ConfigPath,
    Group,
    HowManyExamples,
    Quiet,
    Settings,
    TheseExamples,
    TracePath,
    byte_count,
    whole_number,
)
from probekit.cli.streams import printing
from probekit.cli.usage import said_of_usage
from probekit.errors import PlanError, ProbekitError, StoreError
from probekit.wording import counted

if TYPE_CHECKING:
    from probekit.trace import Trace

app = typer.Typer(
    name="probekit",
    help="Record what happens inside language models: YAML probe configs in, HDF5 traces out.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    cls=Group,
    pretty_exceptions_enable=False,
)

# What any library may run into: file handles (`ulimit -n`), room, memory.
_RUN_OUT = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)


def _version(wanted: bool) -> None:
    if wanted:
        from probekit.version import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Record what happens inside language models: YAML probe configs in, HDF5 traces out."""


@app.command(cls=Command)
def run(
    config: ConfigPath,
    settings: Settings = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Begin anew, and remove what an earlier run left there."),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Check what is there already, and compute what is damaged again."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Begin although the disk has not enough room.")
    ] = False,
    self_check: Annotated[
        bool,
        typer.Option(
            help="Record two short texts first; compare with bare hooks and with one of them alone."
        ),
    ] = True,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            parser=whole_number,
            metavar="N",
            help="So many processes of this machine, each with a GPU or its share of the cores.",
        ),
    ] = None,
    on: Annotated[
        str | None, typer.Option("--on", metavar="ENGINE", help="Workers on a cluster: ray.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="ADDRESS", help="Of the cluster.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Capture: run the model and record what the config asks for; a cut-short run goes on.

    For example: probekit run configs/quickstart.yaml
    """
    from probekit.cli.carrying import Workers, carry_out

    trace = carry_out(
        config,
        list(settings or ()),
        Workers(n=workers, engine=on, address=address),
        overwrite=overwrite,
        repair=repair,
        force=force,
        self_check=self_check,
        quiet=quiet,
    )
    if not quiet:
        typer.echo(f"{trace.path.parent}: {_contents(trace)}")
        say_next(trace.path.parent)


@app.command(cls=Command)
def plan(config: ConfigPath, settings: Settings = None, as_json: AsJson = False) -> None:
    """Say what a run would record and how large it would be; loads no weights."""
    import probekit
    from probekit.cli.starting import Starting

    with Starting() as starting:
        found = probekit.plan(config, overrides=settings or (), on_stage=starting.stage)
    from probekit.cli import terminal

    print_json(found.to_json()) if as_json else terminal.show_plan(found)


@app.command(cls=Command)
def tokens(
    config: ConfigPath,
    settings: Settings = None,
    examples: HowManyExamples = 8,
    example: TheseExamples = None,
    as_json: AsJson = False,
) -> None:
    """Show the tokens that a run would read, and which of them each probe keeps.

    Loads no weights. For example: probekit tokens configs/quickstart.yaml --example 0
    """
    import probekit
    from probekit.cli.starting import Starting

    with Starting() as starting:
        found = probekit.plan(config, overrides=settings or (), on_stage=starting.stage)
    from probekit.cli.tokenstable import show_tokens
    from probekit.planning import view_example

    there = 0 if found.examples is None else len(found.examples)
    numbers = example or range(min(_at_least_1("examples", examples), there) or 1)
    if there and (beyond := [number for number in numbers if not 0 <= number < there]):
        all_ = "there is one, 0" if there == 1 else f"there are {there:,}, 0 to {there - 1}"
        raise PlanError(f"example: there is no example {beyond[0]}: {all_}")
    views = [view_example(found, number) for number in numbers]
    if as_json:
        print_json([view.to_json() for view in views])
    else:
        show_tokens(views, found.config.probes, there)


@app.command(cls=Command)
def modules(
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_CONFIG", help="A model or a config.")],
    match: Annotated[str, typer.Option(metavar="GLOB", help="Only these module paths.")] = "**",
    settings: Settings = None,
    long: Annotated[
        bool,
        typer.Option("--long", help="Show each module's own parameters, buffers and settings too."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List a model's modules in execution order, with shapes and portable names.

    Loads no weights. --json says of every module what --long shows.
    """
    from probekit.cli.starting import Starting
    from probekit.models import list_modules

    with Starting() as starting:
        rows = list_modules(model, match=match, overrides=settings or (), on_stage=starting.stage)
    from probekit.cli.modulestable import show_modules

    print_json(rows) if as_json else show_modules(rows, long=long)


@app.command(cls=Command)
def families(
    family: Annotated[
        str | None, typer.Argument(metavar="FAMILY", help="A model type of transformers.")
    ] = None,
    as_json: AsJson = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/models.md.")
    ] = False,
) -> None:
    """Say which portable names a family of models has, what proves them, what is refused and why.

    Derives each family on a tiny model of it: a second each, some minutes for all.
    """
    from probekit.cli.familiestable import page, show_families
    from probekit.cli.starting import calm_transformers
    from probekit.planning import list_families

    calm_transformers()
    rows = list_families(family)
    if as_json:
        print_json(rows)
    elif markdown:
        typer.echo(page(rows))
    else:
        show_families(rows)


@app.command(cls=Command)
def info(trace: TracePath, as_json: AsJson = False) -> None:
    """Say what is in a trace and how it was made."""
    from probekit.cli import terminal
    from probekit.cli.advice import last_session
    from probekit.trace import open_trace, summarize_trace

    try:
        found = summarize_trace(open_trace(trace))
    except StoreError as error:
        raise StoreError(f"{error}{last_session(trace)}") from error
    print_json(found) if as_json else terminal.show_info(found)


@app.command(cls=Command)
def status(
    trace: TracePath,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again until the run is finished.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say how far a run is, and who works on what of it, from any machine that sees its folder."""
    from probekit.workers import status as status_of

    if watch and as_json:
        raise PlanError("as_json: goes with one look, and not with --watch")
    if as_json:
        print_json(status_of(trace).to_json())
        return
    from probekit.cli.statustable import show_status, watch_status

    watch_status(trace) if watch else show_status(status_of(trace))


@app.command(cls=Command)
def verify(
    trace: TracePath,
    as_json: AsJson = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but what is damaged.")
    ] = False,
) -> None:
    """Read every byte of a trace again, and name what is damaged.

    Exit code 0: whole. 1: damaged. 3: not finished, and whole so far. 2: no trace, or an error.
    """
    from probekit.cli import terminal
    from probekit.store import verify

    if quiet:
        hush()
    with terminal.reading(quiet=quiet) as watcher:
        verdict = verify(trace, on_progress=watcher)
    if as_json:
        print_json(verdict.to_json())
    elif not (quiet and verdict.whole):
        terminal.show_verdict(verdict)
    if not verdict.whole:
        raise typer.Exit(3 if verdict.only_unfinished else 1)


@app.command(cls=Command)
def report(
    trace: TracePath,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", readable=False, metavar="FILE", help="The HTML file to write."),
    ] = Path("report.html"),
    examples: HowManyExamples = 8,
    example: TheseExamples = None,
    neurons: Annotated[
        int,
        typer.Option(
            parser=whole_number,
            metavar="N",
            help="How many neurons of each site, the liveliest; or 0.",
        ),
    ] = 32,
    lens: Annotated[
        bool,
        typer.Option("--lens/--no-lens", help="Look through the logit lens, which needs torch."),
    ] = True,
    max_bytes: Annotated[
        int,
        typer.Option(
            parser=byte_count,
            metavar="SIZE",
            help="What does not fit is left out, and said so.",
        ),
    ] = "128MiB",  # type: ignore[assignment]  # typer parses the default too
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file of this name that is no report.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page to look at a trace; it needs no network and no server.

    For example: probekit report runs/quickstart -o report.html
    """
    from probekit.trace import open_trace
    from probekit.wording import human_bytes

    if quiet:
        hush()
    written = open_trace(trace).report(
        out,
        examples=example or examples,
        neurons=neurons,
        lens=lens,
        max_bytes=max_bytes,
        overwrite=overwrite,
    )
    if quiet:
        return
    for what in written.left_out:
        typer.echo(f"left out: {what}", err=True)
    examples_ = counted(len(written.examples), "example")
    typer.echo(f"{written.path}: {examples_}, {human_bytes(written.n_bytes)}")


@app.command(cls=Command)
def compare(
    a: Annotated[
        Path, typer.Argument(readable=False, metavar="A", help="A run's folder, or an HDF5 file.")
    ],
    b: Annotated[
        Path, typer.Argument(readable=False, metavar="B", help="Another, over the same texts.")
    ],
    sites: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Only these: a glob, or a portable name. May be given more than once.",
        ),
    ] = None,
    matrix: Annotated[
        bool | None,
        typer.Option(
            "--matrix/--no-matrix",
            help="Every layer with every layer. By default, if the models are two.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two traces over the same texts, layer by layer: CKA, cosine, difference.

    For example: probekit compare runs/base runs/tuned --sites resid_post
    """
    from probekit.analysis import compare as compare_traces
    from probekit.cli import terminal

    found = compare_traces(a, b, sites=sites, matrix=matrix)
    print_json(found.to_json()) if as_json else terminal.show_comparison(found)


@app.command(cls=Command)
def merge(
    trace: TracePath,
    file: Annotated[
        Path, typer.Argument(readable=False, metavar="FILE.h5", help="The file to write.")
    ],
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 widens floats of 16 bits, for readers that know none."),
    ] = None,
    sites: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Only these sites; as often as you like."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file of this name.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write a trace as one plain HDF5 file that needs no other.

    For example: probekit merge runs/quickstart quickstart.h5
    """
    from probekit.cli import terminal
    from probekit.trace import open_trace
    from probekit.wording import human_bytes

    if quiet:
        hush()
    with terminal.copying(quiet=quiet) as watcher:
        merged = open_trace(trace).merge(
            file, sites, dtype=dtype, overwrite=overwrite, on_progress=watcher
        )
    if not quiet:
        size = human_bytes(file.stat().st_size)
        typer.echo(f"{file}: {_contents(merged)}, {size}")


@app.command(cls=Command)
def schema() -> None:
    """Print the JSON Schema of a config, for editors."""
    from probekit.config import json_schema

    print_json(json_schema())


def _at_least_1(name: str, given: int) -> int:
    if given < 1:
        raise PlanError(f"{name}: given {given}, expected at least 1")
    return given


def main() -> None:
    """Run the command line; an error is one message on stderr and exit code 2."""
    warnings.showwarning = show_warning
    calm_datasets()
    with printing() as out:
        status = _status()
        out.flush()
        lost = out.failed is not None and out.failed.errno != errno.EPIPE  # else: nobody reads on
        if lost and not status and not _works(sys.argv[1:]):
            say(f"error: what was asked for cannot be printed: {out.failed}")
            status = 2
    sys.exit(status)


def _works(arguments: list[str]) -> bool:
    """Say whether a command does something: what it prints beside that is for people."""
    return arguments[:1] in (["run"], ["verify"], ["report"], ["merge"])


def _status() -> int:
    """Run a command and give its exit code."""
    try:
        return app(prog_name="probekit", standalone_mode=False) or 0
    except ProbekitError as error:
        say(f"error: {error}")
    except OSError as error:
        if error.errno not in _RUN_OUT:
            raise
        say(f"error: this machine has run out of something: {error}")
    except Exception as error:
        # What typer raises for a wrong option has a class that it does not export.
        if not hasattr(error, "format_message"):
            raise
        if not error.format_message():  # without a command: the help has been shown
            return 2
        say(f"error: {said_of_usage(error)}")
    return 2


def _contents(trace: Trace) -> str:
    return ", ".join(
        (
            counted(len(trace.examples), "example"),
            counted(len(trace.tokens), "token"),
            counted(len(trace.site_names), "site"),
        )
    )
