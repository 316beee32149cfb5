"""Opening a trace: a run's folder, or one file of it.

Knows what lies in the folder of a run, and what to say where there is no trace.
"""

from __future__ import annotations

from pathlib import Path

from probekit import arguments
from probekit.errors import ProbekitError, StoreError
from probekit.store import (
    INDEX_FILE,
    Unfinished,
    check_plain,
    read_run,
    schema,
    sealed_shards,
    writer_of,
)
from probekit.trace.partialtrace import PartialTrace
from probekit.trace.trace import Trace
from probekit.wording import by_count, counted


def open_trace(path: str | Path, *, partial: bool = False) -> Trace:
    """Open a trace for reading.

    Args:
        path: a run's folder, or one HDF5 file: a shard, an index, or a merged trace.
        partial: open a run that is not finished too, as far as it is sealed now: every example has
            its number, its text and its tokens, and those in a sealed shard their rows. What is not
            sealed is an error when it is read. `trace.is_partial` says whether it was needed.

    Raises:
        StoreError: if there is no whole trace at `path`; with `partial`, if no shard is sealed.
    """
    path = arguments.path("path", path)
    if path.is_dir():
        index = path / INDEX_FILE
        if not index.exists():
            if partial and read_run(path) is not None:
                return PartialTrace(Unfinished.read(path))
            raise StoreError(_why_no_index(path))
        check_plain(index)
        path = index
    elif path.suffix in (".yaml", ".yml") and path.is_file():
        raise StoreError(_why_no_trace(path))
    return Trace(path)


def _why_no_index(folder: Path) -> str:
    run = read_run(folder)
    if run is None:
        return f"{folder}: holds no trace (there is no {schema.RUN_FILE})"
    shards = run["identity"].get("shards")
    planned = len(shards) if isinstance(shards, list) else 0
    sealed = len(sealed_shards(folder))
    said = f"{counted(sealed, 'shard', of=planned)} {by_count(sealed, 'is', 'are')} sealed"
    if (process := writer_of(folder)) is not None:
        what, then = "is not finished", f"process {process} is writing it; wait for it"
    elif planned and sealed == planned:
        what, then = "has no index", "run the same `probekit run` again and it writes it"
    else:
        what, then = "is not finished", "run the same `probekit run` again and it goes on"
    now = "probekit.open(path, partial=True) reads what is sealed"
    return f"{folder}: the run {what}: {said}; {then}. {now}; each sealed shard opens alone too."


def _why_no_trace(config: Path) -> str:
    from probekit.config import load_config  # which imports pydantic

    try:
        where = f"its trace is at {load_config(config).store.path}"
    except ProbekitError:
        where = "a trace lies at the store.path of its config"
    return f"{config}: is a config, no trace; {where}"
