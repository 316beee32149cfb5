"""Tensor files: sites of a trace in the safetensors format.

Knows the format, which is a length, a JSON header and the tensors' bytes
(https://github.com/huggingface/safetensors#format). The safetensors library writes what lies in
memory; here rows are streamed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probekit.errors import StoreError
from probekit.handover.newfile import Part, Watcher, new_file, refuse_full_disk, write_parts
from probekit.store import DTYPES, TEXT, MappedRows, is_choice
from probekit.trace import Patterns, Site, choose_sites

if TYPE_CHECKING:
    from probekit.trace import Trace

_NAMES = {
    "bfloat16": "BF16",
    "bool": "BOOL",
    **{f"float{bits}": f"F{bits}" for bits in (64, 32, 16)},
    **{f"int{bits}": f"I{bits}" for bits in (64, 32, 16, 8)},
    "uint8": "U8",
}
_ALIGNED = 64  # bytes; where a reader that maps the file wants the first tensor


def write_tensors(
    trace: Trace,
    path: Path,
    *,
    patterns: Patterns | None,
    overwrite: bool,
    watch: Watcher | None,
) -> None:
    """Write the file; see `Trace.to_safetensors`."""
    sites = choose_sites(trace, patterns)
    tensors: dict[str, Site | MappedRows] = {
        **{site.name: site for site in sites},
        **_tables(trace, sites),
    }
    for name, rows in tensors.items():
        if rows.dtype not in _NAMES:
            raise StoreError(f"{name}: safetensors has no dtype {rows.dtype}")
    # Widest first: then each begins where its dtype may, and nothing lies between them.
    order = sorted(tensors, key=lambda name: -DTYPES[tensors[name].dtype].storage.itemsize)
    header, offsets = _header(trace, {name: tensors[name] for name in order}, sites)
    parts = [
        Part(rows=tensors[name], dtype=tensors[name].dtype, offset=offsets[name]) for name in order
    ]
    with new_file(path, overwrite=overwrite) as part:
        part.write_bytes(header)
        refuse_full_disk(path, sum(p.n_bytes for p in parts))
        write_parts(part, parts, watch)


def _tables(trace: Trace, sites: tuple[Site, ...]) -> dict[str, MappedRows]:
    """Give what says which token or example a row is."""
    found = {
        f"{table.axis.table}/{column.name}": column.numbers
        for table in trace.tables
        for column in table.stored
        if column.dtype != TEXT
    }
    choices = {site.rows: site.axis for site in sites if is_choice(site.rows)}
    found |= {f"rows/{choice}": axis for choice, axis in sorted(choices.items())}
    return {name: trace.numbers(name, numbers) for name, numbers in found.items()}


def _names(trace: Trace) -> dict[str, str]:
    """Give the names that columns number: `names of tokens/role`, a JSON list."""
    return {
        f"names of {table.axis.table}/{column.name}": json.dumps(table.column(column.name).names)
        for table in trace.tables
        for column in table.stored
        if column.is_named
    }


def _header(
    trace: Trace, tensors: Mapping[str, Site | MappedRows], sites: tuple[Site, ...]
) -> tuple[bytes, dict[str, int]]:
    """Give the file up to the first tensor, and where in the file each tensor begins."""
    about = {site.name: site.attributes for site in sites}
    entries: dict[str, Any] = {
        "__metadata__": {
            "format": "pt",
            **{k: str(v) for k, v in trace.provenance.items()},
            "sites": json.dumps(about),
            **_names(trace),
        }
    }
    begins, end = {}, 0
    for name, rows in tensors.items():
        begins[name], begin = end, end
        end += prod(rows.shape) * DTYPES[rows.dtype].storage.itemsize
        entries[name] = {
            "dtype": _NAMES[rows.dtype],
            "shape": list(rows.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    head = len(text).to_bytes(8, "little") + text
    return head, {name: len(head) + begin for name, begin in begins.items()}
