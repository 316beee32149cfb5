"""The command line: a thin door, one library call a command."""

from __future__ import annotations

import errno
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probekit.cli.messages import say, show_warning
from probekit.cli.streams import printing
from probekit.errors import ProbekitError

if TYPE_CHECKING:
    from probekit.capture import Progress, Watcher
    from probekit.cli.stopping import Stopping

app = typer.Typer(
    name="probekit",
    help="Record what happens inside language models: YAML probe configs in, HDF5 traces out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# What any library may run into: file handles (`ulimit -n`), room, memory.
_RUN_OUT = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)

ConfigPath = Annotated[
    Path, typer.Argument(readable=False, metavar="CONFIG", help="A YAML probe config.")
]
TracePath = Annotated[
    Path, typer.Argument(readable=False, metavar="TRACE", help="A run's folder, or an HDF5 file.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, as often as you like: --set model.name=gpt2 "
        "--set 'probes[0].layers=[0, -1]'",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _byte_count(text: str) -> int:
    from pydantic import TypeAdapter, ValidationError

    from probekit.config import ByteCount

    try:
        return TypeAdapter(ByteCount).validate_python(text)
    except ValidationError as error:
        reason = "expected a number of bytes, or text such as 512MiB, 1GiB or 2GB"
        raise typer.BadParameter(reason) from error


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


@app.command()
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Capture: run the model and record what the config asks for; a cut-short run goes on.

    For example: probekit run configs/quickstart.yaml
    """
    from probekit.cli.stopping import Stopped, Stopping
    from probekit.config import load_config

    try:
        with Stopping(say=say) as stopping:
            # A typo is told before torch loads.
            read = load_config(config, overrides=settings or ())
            import probekit
            from probekit.cli import terminal

            _calm_transformers()
            with terminal.progress(quiet=quiet) as show:
                trace = probekit.run(
                    read,
                    overwrite=overwrite,
                    repair=repair,
                    force=force,
                    self_check=self_check,
                    on_plan=None if quiet else lambda plan: _notes(plan.notes),
                    on_note=None if quiet else lambda note: say(f"note: {note}"),
                    on_start=None if quiet else _going_on,
                    on_progress=_both(show, stopping),
                )
    except Stopped as stopped:
        say("stopped; what is sealed stays, and the same command goes on from there")
        raise typer.Exit(stopped.exit_code) from None
    if not quiet:
        typer.echo(f"{trace.path.parent}: {len(trace.examples)} examples, "
                   f"{len(trace.tokens)} tokens, {len(trace.site_names)} sites")  # fmt: skip


@app.command()
def plan(config: ConfigPath, settings: Settings = None, as_json: AsJson = False) -> None:
    """Say what a run would record and how large it would be; loads no weights."""
    from probekit.config import load_config

    read = load_config(config, overrides=settings or ())  # a typo is told before torch loads
    import probekit
    from probekit.cli import terminal

    _calm_transformers()
    found = probekit.plan(read)
    _print_json(found.to_json()) if as_json else terminal.show_plan(found)


@app.command()
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
    from probekit.cli.modulestable import show_modules
    from probekit.models import list_modules

    _calm_transformers()
    rows = list_modules(model, match=match, overrides=settings or ())
    _print_json(rows) if as_json else show_modules(rows, long=long)


@app.command()
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
    from probekit.planning import list_families

    _calm_transformers()
    rows = list_families(family)
    if as_json:
        _print_json(rows)
    elif markdown:
        typer.echo(page(rows))
    else:
        show_families(rows)


@app.command()
def info(trace: TracePath, as_json: AsJson = False) -> None:
    """Say what is in a trace and how it was made."""
    from probekit.cli import terminal
    from probekit.trace import open_trace, summarize_trace

    found = summarize_trace(open_trace(trace))
    _print_json(found) if as_json else terminal.show_info(found)


@app.command()
def verify(trace: TracePath, as_json: AsJson = False) -> None:
    """Read every byte of a trace again; exit code 1 and what is damaged, on any fault."""
    from probekit.cli import terminal
    from probekit.store import verify

    with terminal.reading() as watcher:
        verdict = verify(trace, on_progress=watcher)
    _print_json(verdict.to_json()) if as_json else terminal.show_verdict(verdict)
    if not verdict.whole:
        raise typer.Exit(1)


@app.command()
def report(
    trace: TracePath,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", readable=False, metavar="FILE", help="The HTML file to write."),
    ] = Path("report.html"),
    examples: Annotated[
        int, typer.Option(metavar="N", help="How many examples, from the first on.")
    ] = 8,
    example: Annotated[
        list[int] | None,
        typer.Option(metavar="NUMBER", help="These examples instead, as often as you like."),
    ] = None,
    neurons: Annotated[
        int, typer.Option(metavar="N", help="How many neurons of each site, the liveliest; or 0.")
    ] = 32,
    max_bytes: Annotated[
        int,
        typer.Option(
            parser=_byte_count,
            metavar="SIZE",
            help="What does not fit is left out, and said so.",
        ),
    ] = "128MiB",  # type: ignore[assignment]  # typer parses the default too
) -> None:
    """Write one HTML page to look at a trace; it needs no network and no server.

    For example: probekit report runs/quickstart -o report.html
    """
    from probekit.trace import open_trace
    from probekit.wording import human_bytes

    written = open_trace(trace).report(
        out, examples=example or examples, neurons=neurons, max_bytes=max_bytes
    )
    for what in written.left_out:
        typer.echo(f"left out: {what}", err=True)
    typer.echo(f"{written.path}: {len(written.examples)} examples, {human_bytes(written.n_bytes)}")


@app.command()
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
    _print_json(found.to_json()) if as_json else terminal.show_comparison(found)


@app.command()
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Write a trace as one plain HDF5 file that needs no other.

    For example: probekit merge runs/quickstart quickstart.h5
    """
    from probekit.cli import terminal
    from probekit.trace import open_trace
    from probekit.wording import human_bytes

    with terminal.copying(quiet=quiet) as watcher:
        merged = open_trace(trace).merge(
            file, sites, dtype=dtype, overwrite=overwrite, on_progress=watcher
        )
    if not quiet:
        size = human_bytes(file.stat().st_size)
        typer.echo(f"{file}: {len(merged.examples)} examples, {len(merged.tokens)} tokens, "
                   f"{len(merged.site_names)} sites, {size}")  # fmt: skip


@app.command()
def schema() -> None:
    """Print the JSON Schema of a config, for editors."""
    from probekit.config import json_schema

    _print_json(json_schema())


def _both(show: Watcher | None, stopping: Stopping) -> Watcher:
    def watch(progress: Progress) -> None:
        if show is not None:
            show(progress)
        stopping.between_batches(last=progress.examples == progress.n_examples)

    return watch


def _going_on(n_sealed: int, n_shards: int) -> None:
    if n_sealed == n_shards:
        say("this run is complete already; nothing to do")
    elif n_sealed:
        say(f"going on: {n_sealed} of {n_shards} shards are sealed")


def _print_json(value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # What does not print stands in names and texts alone, and JSON has an escape for it there.
    typer.echo("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def _notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        say(f"note: {note}")


def _calm_transformers() -> None:
    # Its bars and advice would run between our own lines; what matters we say ourselves.
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def main() -> None:
    """Run the command line; an error is one message on stderr and exit code 2."""
    warnings.showwarning = show_warning
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
        command = getattr(getattr(error, "ctx", None), "command_path", "probekit")
        say(f"error: {error.format_message()}\nsee {command} --help")
    return 2
