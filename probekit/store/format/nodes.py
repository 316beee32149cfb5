"""What may be read of an HDF5 file that a stranger made: what lies in that very file, and is there.

HDF5 files can name other files (external links, external storage, virtual datasets), claim rows
that were never written, and hold types that are no numbers. Here objects are reached link by link,
so that nothing outside is even opened, and are checked before a byte of theirs is read. Knows h5py;
nothing of traces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import h5py
import numpy as np

from probekit.errors import StoreError, printable
from probekit.wording import counted

# What HDF5 keeps about dimensions in attributes of its own.
BOOKKEEPING = ("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS")
_LONGEST_ATTRIBUTE = 64 << 20  # bytes; the longest of ours is a config of 4 MB
_LARGEST_CHUNK = 256 << 20  # bytes, unpacked; ours have 1 MiB, or one row
_LARGE_TABLE = 64 << 20  # bytes, unpacked; ours are not compressed at all
_MOST_PACKED = 100  # times that a large table may be compressed


def node_in(file: h5py.File, path: str) -> h5py.Group | h5py.Dataset | None:
    """Give a group or dataset of an open file; None where there is none.

    Raises:
        StoreError: if a link on the way leads anywhere but to an object of this file.
    """
    here: Any = file["/"]
    for name in filter(None, path.split("/")):
        if not _is_linked(here, name, f"{file.filename}: {path}"):
            return None
        here = here[_link(name)]
    return here if isinstance(here, h5py.Group | h5py.Dataset) else None


def is_in(file: h5py.File, path: str) -> bool:
    """Say whether an open file has something of a name, without opening it.

    To open a virtual dataset takes time and memory for each of its sources.

    Raises:
        StoreError: if a link on the way leads anywhere but to an object of this file.
    """
    *above, last = path.strip("/").split("/")
    return _is_linked(node_in(file, "/".join(above)), last, f"{file.filename}: {path}")


def _is_linked(group: Any, name: str, place: str) -> bool:
    if not isinstance(group, h5py.Group) or not group.id.links.exists(_link(name)):
        return False
    if group.id.links.get_info(_link(name)).type != h5py.h5l.TYPE_HARD:
        # Ours has no soft links either: they could hide an external one, or lead in circles.
        raise StoreError(f"{place} points outside the trace, by the link {name}")
    return True


def _link(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def names_in(group: h5py.Group | h5py.Dataset | None, file: h5py.File) -> Iterator[str]:
    """Give the names in a group, without following any.

    Raises:
        StoreError: if it is no group, or a name is no text that prints.
    """
    if not isinstance(group, h5py.Group):
        raise StoreError(f"{file.filename}: {group} is no group; it is not a trace")
    for name in group:
        if not isinstance(name, str) or not name.isprintable():
            raise StoreError(f"{file.filename}: {group.name} has the odd name {name!r}")
        yield name


def dataset_in(file: h5py.File, name: str, *, virtual: bool = False) -> h5py.Dataset:
    """Give a dataset of an open file.

    Args:
        file: an open file.
        name: the dataset's path in it.
        virtual: take also one that is virtual; the caller looks at where its rows come from
            before it asks for its shape, which can open those files.

    Raises:
        StoreError: if there is none, if its bytes lie in another file, or if it claims rows that
            were never written.
    """
    dataset = node_in(file, name)
    if not isinstance(dataset, h5py.Dataset):
        raise StoreError(f"{file.filename}: there is no dataset {name} in it")
    layout = dataset.id.get_create_plist()
    if layout.get_external_count():
        raise StoreError(f"{file.filename}: {name} points outside the trace")
    if layout.get_layout() != h5py.h5d.VIRTUAL:
        _check_stored(dataset, layout, f"{file.filename}: {name}")
    elif not virtual:
        raise StoreError(f"{file.filename}: {name} is itself virtual; expected rows")
    return dataset


def _check_stored(dataset: h5py.Dataset, layout: Any, place: str) -> None:
    """Refuse rows that are claimed and not there: reading them would make them, of fill values."""
    if dataset.shape is None:
        raise StoreError(f"{place} has no shape")
    kind, n_bytes = layout.get_layout(), prod(dataset.shape) * dataset.id.get_type().get_size()
    if kind == h5py.h5d.CHUNKED:
        n_chunks = prod(
            -(-n // step) for n, step in zip(dataset.shape, dataset.chunks, strict=True)
        )
        if n_chunks != dataset.id.get_num_chunks():
            raise StoreError(f"{place} claims rows that were never written")
        if layout.get_nfilters():
            _check_unpacked(dataset, n_bytes, place)
    elif kind == h5py.h5d.CONTIGUOUS and n_bytes:
        offset = dataset.id.get_offset()
        if offset is None or dataset.id.get_storage_size() < n_bytes:
            raise StoreError(f"{place} claims rows that were never written")
        if offset + n_bytes > dataset.file.id.get_filesize():
            raise StoreError(f"{place} reaches past the end of the file")


def _check_unpacked(dataset: h5py.Dataset, n_bytes: int, place: str) -> None:
    """Refuse compressed rows of which a few bytes in the file would fill the memory.

    A site's rows are read when they are asked for, and can be nothing but zeros. A table is read as
    soon as a trace is used, and whole.
    """
    item_bytes = dataset.id.get_type().get_size()
    row_bytes = prod(dataset.shape[1:]) * item_bytes
    chunk_bytes = prod(dataset.chunks) * item_bytes
    if chunk_bytes > max(_LARGEST_CHUNK, row_bytes):  # all of it is unpacked for one row
        raise StoreError(f"{place} is compressed in pieces of {counted(chunk_bytes, 'byte')}")
    stored = dataset.id.get_storage_size()
    is_site = dataset.name.startswith("/sites/")
    if not is_site and n_bytes > max(_LARGE_TABLE, _MOST_PACKED * stored):
        raise StoreError(
            f"{place} has {counted(n_bytes, 'byte')}, compressed into no more than {stored:,}"
        )


def is_number(dataset: h5py.Dataset) -> bool:
    """Say whether numpy has the very numbers that a dataset stores, bit for bit."""
    dtype = dataset.dtype
    if dtype.hasobject or dtype.kind not in "biufc":
        return False
    # h5py rounds an odd type (a 24-bit float, a 12-bit integer) up to one that numpy has.
    return bool(h5py.h5t.py_create(dtype, logical=True) == dataset.id.get_type())


def texts_in(file: h5py.File, name: str, rows: slice = slice(None)) -> tuple[str, ...]:
    """Read some of a list of texts, or all.

    Raises:
        StoreError: if it is something else.
    """
    dataset = dataset_in(file, name)
    if h5py.check_string_dtype(dataset.dtype) is None or dataset.ndim != 1:
        raise StoreError(f"{file.filename}: {name} is no list of texts")
    return tuple(dataset.asstr()[rows])


def numbers_in(file: h5py.File, name: str, n_columns: int | None = None) -> np.ndarray[Any, Any]:
    """Read a whole table of whole numbers, `[row]` or `[row, column]`.

    Raises:
        StoreError: if it is something else.
    """
    dataset = dataset_in(file, name)
    shape = (len(dataset),) if n_columns is None else (len(dataset), n_columns)
    if not is_number(dataset) or dataset.dtype.kind not in "iu" or dataset.shape != shape:
        raise StoreError(
            f"{file.filename}: {name} is {list(dataset.shape)} {dataset.dtype}; expected whole "
            f"numbers, {list(shape)}"
        )
    table: np.ndarray[Any, Any] = dataset[:]
    return table


def attributes_of(node: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """Read all attributes but HDF5's own as Python values: texts, numbers, and lists of those.

    Raises:
        StoreError: if one is larger than any of ours.
    """
    found: dict[str, Any] = {}
    for name in node.attrs:
        if name in BOOKKEEPING:
            continue
        stored = h5py.h5a.get_info(node.id, name.encode("utf-8", "surrogateescape"))
        if stored.data_size > _LONGEST_ATTRIBUTE:
            raise StoreError(f"{node.file.filename}: attribute {name} of {node.name} is too long")
        found[name] = plain(node.attrs[name])
    return found


def number_of(attributes: Mapping[str, Any], name: str, place: str) -> int | None:
    """Give one of the attributes that were read as a whole number; None where it is not set.

    Raises:
        StoreError: if it is something else, or does not fit into 64 bits.
    """
    value = attributes.get(name)
    if value is None or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    raise StoreError(f"{place}: {name} is {value!r}; expected a whole number")


def plain(value: Any) -> Any:
    """Give an HDF5 attribute as Python values; what is neither text nor number, by its name."""
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):  # h5py lets bytes that are no UTF-8 pass as lone surrogates
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value if isinstance(value, bool | int | float) else printable(repr(value))
