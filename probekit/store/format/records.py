"""Records: the JSON files of a trace, each written whole and carrying its own checksum.

Knows bytes and JSON; nothing of what a record says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from probekit.errors import StoreError
from probekit.store.format.disk import check_plain, explained, fsync, publish
from probekit.store.format.owner import part_of

_OWN = "this_file"  # the checksum of the file, in which it stands as zeros itself
_BLANK = b"0" * 16


def write_record(path: Path, value: Mapping[str, Any], *, only_first: bool = False) -> bool:
    """Write a record so that the file is either whole, on the disk and new, or as it was before.

    Args:
        path: of the file.
        value: what it says.
        only_first: leave a file alone that is there already.

    Returns:
        Whether it was written.

    Raises:
        StoreError: if it cannot be written.
    """
    said = {key: one for key, one in value.items() if key != _OWN}  # it comes last
    blank = json.dumps({**said, _OWN: _BLANK.decode()}, indent=2, ensure_ascii=False) + "\n"
    head, _, tail = blank.encode().rpartition(_BLANK)
    own = xxhash.xxh3_64_hexdigest(blank.encode()).encode()
    part = part_of(path)
    with explained(path):
        try:
            part.write_bytes(head + own + tail)
            fsync(part)
            if only_first:
                is_ours = publish(part, path)
            else:
                part.replace(path)
                is_ours = True
        finally:
            part.unlink(missing_ok=True)
        fsync(path.parent)
    return is_ours


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        StoreError: if it cannot be read, or a byte of it is not what was written.
    """
    with explained(path, "read"):
        check_plain(path)
        data = path.read_bytes()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: is damaged ({error})") from error
    own = value.get(_OWN) if isinstance(value, dict) else None
    if not isinstance(own, str) or not re.fullmatch("[0-9a-f]{16}", own):
        raise StoreError(f"{path}: is damaged or not probekit's: it has no checksum of its own")
    head, _, tail = data.rpartition(own.encode())
    if xxhash.xxh3_64_hexdigest(head + _BLANK + tail) != own:
        raise StoreError(f"{path}: is damaged: it does not have its own checksum")
    record: dict[str, Any] = value
    return record
