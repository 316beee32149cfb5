"""A first look at a config: what is wrong with it that needs no model, and no torch, to be seen.

Knows the files that it names and the folder that it writes to. Whatever is found here would be
found later too, when libraries and a model have been loaded. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from probekit import models
from probekit.config import ProbeConfig, digest_of_format_1
from probekit.errors import Fault, ProbekitError, StoreError, raise_together
from probekit.inputs import look_through
from probekit.store import (
    INPUTS_RECORD,
    RUN_FILE,
    another_run,
    closed,
    config_changes,
    explained,
    in_the_way,
    read_run,
    refuse_foreign,
    refuse_orphans,
)

Found = Fault | ProbekitError


def look_first(
    config: ProbeConfig, *, anew: bool = False, repair: bool = False, at_hand: bool = False
) -> None:
    """Refuse a run for what needs no model to be seen, all of it together.

    Args:
        config: of the run.
        anew: what lies in its folder is to be removed.
        repair: a run.json that is damaged or lost may be written again.
        at_hand: the model lies in memory already.

    Raises:
        ProbekitError: if anything is wrong; of the kind that it is, if it is of one.
    """
    place = [*_told(lambda: _look_at_place(config, anew=anew, repair=repair))]
    found = [
        *models.missing_files(config, to_run=True, at_hand=at_hand),
        *_told(lambda: _look_at_inputs(config, anew=anew)),
        *(place or _told(lambda: _look_at_rights(config))),
    ]
    if not found and not anew and not repair:
        # Not earlier: whatever is mistyped makes another run of it, too.
        _look_at_run(config)
    raise_together(found)


def look_ahead(config: ProbeConfig, *, at_hand: bool = False) -> tuple[str, ...]:
    """Refuse a plan for what needs no model to be seen, and is wrong on any day and machine.

    Returns:
        What would be in the way of the run as things stand here.
    """
    raise_together(
        [
            *models.missing_files(config, to_run=False, at_hand=at_hand),
            *_told(lambda: _look_at_inputs(config, anew=False)),
            *_told(lambda: _look_at_place(config, anew=False, repair=False)),
        ]
    )
    rights = [*_told(lambda: _look_at_rights(config))]
    return tuple(map(str, rights or _told(lambda: _look_at_run(config))))


def _told(look: Callable[[], None]) -> Iterator[Found]:
    try:
        look()
    except ProbekitError as error:
        yield error


def _look_at_inputs(config: ProbeConfig, *, anew: bool) -> None:
    try:
        is_sealed = not anew and (config.store.folder / INPUTS_RECORD).exists()
    except (OSError, StoreError):  # which is told of the folder
        is_sealed = False
    if not is_sealed:  # or the run has its texts, whatever has become of their file
        look_through(config)


def _look_at_place(config: ProbeConfig, *, anew: bool, repair: bool) -> None:
    """Refuse a place that holds what is not probekit's."""
    path, where = config.store.folder, config.where("store.path")
    with explained(f"{where}: {path}", "looked into"):
        if (reason := in_the_way(path)) is not None:
            raise StoreError(f"{where}: {path} {reason}")
        if path.exists() and (anew or (not repair and not (path / RUN_FILE).exists())):
            refuse_foreign(path, where)


def _look_at_rights(config: ProbeConfig) -> None:
    path = config.store.folder
    if (reason := closed(path)) is not None:
        raise StoreError(f"{config.where('store.path')}: {path} {reason}")


def _look_at_run(config: ProbeConfig) -> None:
    """Refuse a folder that holds another run, as far as the config tells."""
    path, where = config.store.folder, config.where("store.path")
    with explained(f"{where}: {path}", "looked into"):
        try:
            run = read_run(path)
        except StoreError as error:
            raise StoreError(f"{where}: {error}") from error
        if run is None:
            refuse_orphans(path, where)
            return
    began = run["identity"].get("config_digest")
    first = "format" not in run["identity"]
    digest = digest_of_format_1(config) if first else config.digest
    if isinstance(began, str) and began != digest:
        now = config.to_yaml() if first else config.decisions_yaml()
        changes = config_changes(run["provenance"].get("config"), now)
        raise StoreError(f"{where}: {another_run(path, changes or 'another config')}")
