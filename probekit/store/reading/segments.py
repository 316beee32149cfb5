"""Segments: which files the rows of a dataset lie in.

Knows virtual datasets, which it follows below the trace's own folder only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import h5py
import numpy as np

from probekit.errors import StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive rows of a dataset that lie in one file."""

    file: Path
    dataset: str  # the path inside the file
    first_row: int
    n_rows: int


def segments_of(dataset: h5py.Dataset, path: Path) -> tuple[Segment, ...]:
    """Give the segments of a dataset that was found in the file at `path`.

    Raises:
        StoreError: if a virtual dataset points outside the trace's folder, has gaps, or has rows of
            another dataset or twice the same.
    """
    if not dataset.is_virtual:
        return (Segment(file=path, dataset=dataset.name, first_row=0, n_rows=len(dataset)),)
    folder = path.parent.resolve()
    found = []
    for source in dataset.virtual_sources():
        file = (folder / source.file_name).resolve()
        if folder not in file.parents:
            raise StoreError(f"{path}: {dataset.name} points outside the trace: {source.file_name}")
        # What is said of a table holds for its rows.
        if source.dset_name.strip("/") != dataset.name.strip("/"):
            raise StoreError(f"{path}: {dataset.name} has the rows of {source.dset_name}")
        begin, end = source.vspace.get_select_bounds()
        if prod(np.subtract(end, begin) + 1) != source.vspace.get_select_npoints():
            raise StoreError(f"{path}: {dataset.name} is patched together of parts of rows")
        found.append(
            Segment(
                file=file,
                dataset=source.dset_name,
                first_row=int(begin[0]),
                n_rows=int(end[0] - begin[0] + 1),
            )
        )
    if len({segment.file for segment in found}) != len(found):
        raise StoreError(f"{path}: {dataset.name} has the rows of one file more than once")
    found.sort(key=lambda s: s.first_row)
    ends = [0, *(s.first_row + s.n_rows for s in found)]
    if [s.first_row for s in found] + [len(dataset)] != ends:
        raise StoreError(f"{path}: {dataset.name} has rows that lie in no shard, or in two")
    return tuple(found)
