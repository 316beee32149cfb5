"""Compression: a finished shard written again, chunked.

Knows HDF5 filters. It comes after the capture, in one pass in row order, since rows arrive out of
order and a chunk that is touched twice is compressed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from probekit.errors import StoreError
from probekit.store.format import LIBVER, HDF5Out, SiteSpec, schema

_CHUNK_BYTES = 1 << 20  # small enough to read one example, large enough to compress


def compress(path: Path, sites: Sequence[SiteSpec], method: str) -> None:
    """Write a finished shard again with chunked, compressed sites, in place."""
    packed = path.with_name(f"{path.name}.packed")
    try:
        with h5py.File(path, "r") as old, HDF5Out(packed, libver=LIBVER) as out:
            out.file.attrs.update(old.attrs)
            for name in old:
                if name != "sites":
                    old.copy(name, out.file)
            for spec in sites:
                _compress_site(old, out, spec, method)
        packed.replace(path)
    finally:
        packed.unlink(missing_ok=True)


def _compress_site(old: h5py.File, out: HDF5Out, spec: SiteSpec, method: str) -> None:
    source, new = old[schema.site_path(spec)], out.file
    if not source.size:
        old.copy(source, new, schema.site_path(spec))  # HDF5 has no chunks of nothing
        return
    step = max(1, min(len(source), _CHUNK_BYTES // max(1, spec.row_bytes)))
    kind = schema.h5_type(spec.dtype)
    target = new.create_dataset(
        schema.site_path(spec),
        shape=source.shape,
        dtype=h5py.Datatype(kind) if spec.dtype == "bfloat16" else source.dtype,
        chunks=(step, *spec.row_shape),
        shuffle=True,
        **_filter(method),
    )
    target.attrs.update(source.attrs)
    for begin in range(0, len(source), step):
        rows = min(step, len(source) - begin)
        buffer = np.empty((rows, *spec.row_shape), dtype=schema.DTYPES[spec.dtype].storage)
        here = h5py.h5s.create_simple(buffer.shape)
        there = source.id.get_space()
        there.select_hyperslab((begin, *(0 for _ in spec.row_shape)), buffer.shape)
        source.id.read(here, there, buffer, mtype=kind)
        target.id.write(here, there, buffer, mtype=kind)
        out.check()


def _filter(method: str) -> dict[str, Any]:
    if method != "zstd":
        return {"compression": method}
    try:
        import hdf5plugin
    except ModuleNotFoundError as error:
        raise StoreError(
            "store.compression: zstd needs the hdf5plugin package; "
            "install probekit[compression], or choose gzip or lzf"
        ) from error
    return dict(hdf5plugin.Zstd())
