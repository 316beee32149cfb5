"""Rows of a dataset that lies in chunks, read through h5py.

Knows filters of compressed data; converts nothing (HDF5's own conversion of bfloat16 runs at
14 MB/s).
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from probekit.errors import StoreError
from probekit.store.format import dataset_in
from probekit.store.reading.files import open_file
from probekit.store.reading.segments import Segment

Array = np.ndarray[Any, Any]


def load_filters(dataset: h5py.Dataset) -> None:
    """Make HDF5 know the filters of a compressed dataset."""
    layout = dataset.id.get_create_plist()
    numbers = [layout.get_filter(n)[0] for n in range(layout.get_nfilters())]
    if all(h5py.h5z.filter_avail(number) for number in numbers):
        return
    try:
        import hdf5plugin  # noqa: F401 (knows the filters once it is loaded)
    except ModuleNotFoundError as error:
        raise StoreError(
            f"{dataset.file.filename}: is compressed with a filter that needs the hdf5plugin "
            "package; install probekit[compression]"
        ) from error


class ChunkedRows:
    """Rows of a chunked dataset, read through h5py as stored bits."""

    def __init__(self, segment: Segment, storage: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._segment = segment
        self._storage = storage
        self._shape = shape

    def __getitem__(self, rows: slice | Array) -> Array:
        with open_file(self._segment.file) as file:
            dataset = dataset_in(file, self._segment.dataset)
            if isinstance(rows, slice):
                return self._read(dataset, rows.start, rows.stop)
            step = dataset.chunks[0] if dataset.chunks else len(dataset)
            taken: Array = np.empty((len(rows), *self._shape[1:]), dtype=self._storage)
            chunk_of = rows // step
            for begin in np.unique(chunk_of) * step:  # each chunk is unpacked once
                here = chunk_of == begin // step
                chunk = self._read(dataset, int(begin), min(int(begin) + step, len(dataset)))
                taken[here] = chunk[rows[here] - begin]
            return taken

    def _read(self, dataset: h5py.Dataset, begin: int, end: int) -> Array:
        rows: Array = np.empty((end - begin, *self._shape[1:]), dtype=self._storage)
        here, there = h5py.h5s.create_simple(rows.shape), dataset.id.get_space()
        there.select_hyperslab((begin, *(0 for _ in self._shape[1:])), rows.shape)
        dataset.id.read(here, there, rows, mtype=dataset.id.get_type())
        return rows
