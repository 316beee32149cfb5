"""Publishing: a finished file gets its name, and then its record, which decides.

Knows two names and who came first; nothing of what is in the file.
"""

from __future__ import annotations

from filecmp import cmp
from pathlib import Path

from probekit.store.format import FileRecord, link, part_of, publish


def publish_sealed(part: Path, path: Path, record: FileRecord) -> None:
    """Give a file its name and then its record; who comes second goes.

    Files and records are linked, never renamed, so that of two processes one is first. A file
    without a record is a dead process's, or that of one that is just here: equal bytes serve
    both, and other bytes are put aside until it is known whose record is there.
    """
    record_path = path.with_suffix(".json")
    aside = part_of(path.with_suffix(".aside"))
    if record_path.is_file():
        return  # sealed by another: ours is removed like any file that was not sealed
    ours = part.stat().st_ino
    try:
        if not publish(part, path) and not cmp(part, path, shallow=False):
            aside.unlink(missing_ok=True)
            link(path, aside)
            part.replace(path)
        is_first = record.write(record_path, only_first=True)
        # Unless a third has put its file in the place of ours, or ours is what the record says.
        if (
            not is_first
            and aside.exists()
            and path.stat().st_ino == ours
            and FileRecord.read(record_path) != record
        ):
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
