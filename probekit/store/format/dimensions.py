"""Dimensions: a name for every axis of a whole trace, and how a file says them.

Within one site an axis is called what it is, `token` or `d_model`. Where many sites lie side by
side, in an HDF5 file or an xarray Dataset, a name must also mean one size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count

import h5py

from probekit.store.format.axes import EXAMPLE, axis_of, is_choice, known_axes
from probekit.store.format.shardrows import SHARD_TABLE
from probekit.store.format.usercolumns import user_datasets
from probekit.store.format.vocabulary import VOCABULARY_NAMES

# netCDF's name for a dimension that has a size but no values.
_SIZE_ONLY = "This is a netCDF dimension but not a netCDF variable."
_TAKEN = (
    "sites",
    "rows",
    "execution",
    SHARD_TABLE,
    *VOCABULARY_NAMES,
)  # in the root, beside the tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The axes of one dataset."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]


def row_axis(rows: str) -> str:
    """Name axis 0 of a site by its `rows`: `token`, `example`, or `token_last` for a choice."""
    axis = axis_of(rows).name
    return f"{axis}_{rows}" if is_choice(rows) else axis


def dimension_names(datasets: Sequence[Axes]) -> list[tuple[str, ...]]:
    """Give each dataset's axes names that mean one size each, and occur once in a dataset.

    A name that has several sizes gets them behind it, `head_2` and `head_12`; an axis that occurs
    again in the same dataset is counted, `d_4` and `d_4_2`.
    """
    sizes: dict[str, set[int]] = {}
    for axes in datasets:
        for name, size in zip(axes.names, axes.sizes, strict=True):
            sizes.setdefault(name, set()).add(size)
    used: dict[str, tuple[str, int, int]] = {}
    taken = (*_TAKEN, *(axis.table for axis in known_axes()))

    def label(name: str, size: int, nth: int) -> str:
        counted = name if nth == 1 else f"{name}_{nth}"
        with_size = (f"{counted}_{size}{'_' * more}" for more in count())
        plain = len(sizes[name]) == 1 and counted not in taken
        labels = chain([counted], with_size) if plain else with_size
        this = (name, size, nth)
        return next(label for label in labels if used.setdefault(label, this) == this)

    return [
        tuple(
            label(name, size, axes.names[: place + 1].count(name))
            for place, (name, size) in enumerate(zip(axes.names, axes.sizes, strict=True))
        )
        for axes in datasets
    ]


def write_dimensions(file: h5py.File, anew: Callable[[], h5py.File] | None = None) -> None:
    """Name every axis of a trace's file by a dimension scale, as netCDF does.

    The scales stand in the root under the dimension's name. They have a size and no values, and
    take no space.

    Args:
        file: of the trace.
        anew: gives the file again, where it must not be kept open from one dataset to the next.
    """
    datasets = list(_datasets(file))
    named = dimension_names([axes for _, axes in datasets])
    for (path, axes), names in zip(datasets, named, strict=True):
        file = file if anew is None else anew()
        for place, (name, size) in enumerate(zip(names, axes.sizes, strict=True)):
            if name not in file:
                scale = file.create_dataset(name, shape=(size,), dtype=">f4")
                scale.make_scale(f"{_SIZE_ONLY}{size:10d}")
            file[path].dims[place].attach_scale(file[name])


def _datasets(file: h5py.File) -> Iterator[tuple[str, Axes]]:
    """Give the datasets by name: an open virtual one takes 8 KiB for each of its sources."""
    for module in file.get("sites", {}).values():
        for dataset in module.values():
            first = row_axis(dataset.attrs["rows"])
            yield dataset.name, Axes(names=(first, *dataset.attrs["axes"][1:]), sizes=dataset.shape)
    for axis in known_axes():
        for dataset in file.get(axis.table, {}).values():
            if isinstance(dataset, h5py.Dataset):
                yield dataset.name, Axes(names=(axis.name,), sizes=dataset.shape)
    for name in user_datasets(file):
        yield name, Axes(names=(EXAMPLE,), sizes=file[name].shape)
    for choice, dataset in file.get("rows", {}).items():
        yield dataset.name, Axes(names=(row_axis(choice),), sizes=dataset.shape)
    for dataset in file.get(SHARD_TABLE, {}).values():
        yield dataset.name, Axes(names=("shard",), sizes=dataset.shape)
    for name, along in zip(VOCABULARY_NAMES, ("d_vocab", "byte", "d_vocab"), strict=True):
        if name in file:
            yield name, Axes(names=(along,), sizes=file[name].shape)
    if "execution" in file:
        yield from _execution(file["execution"])


def _execution(group: h5py.Group) -> Iterator[tuple[str, Axes]]:
    for dataset in group["orders"].values():
        yield dataset.name, Axes(names=("event", "column"), sizes=dataset.shape)
    for name, axes in (
        ("modules", ("module",)),
        ("forwards", ("forward",)),
        ("forward_examples", ("forward_example", "column")),
    ):
        if name in group:  # since 1.1 the forward passes lie apart, but in a merged file
            yield group[name].name, Axes(names=axes, sizes=group[name].shape)
