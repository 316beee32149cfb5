"""Opening: a dataset of the hub, a local one, or files, as the library `datasets` opens it.

Knows how it is called, and what it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from probekit.arguments import at_home, no_path
from probekit.config import DatasetInputs, ProbeConfig
from probekit.errors import ConfigError
from probekit.inputs.datasets.datafiles import check_files
from probekit.inputs.datasets.failing import reason
from probekit.inputs.datasets.streaming import Source, read_once
from probekit.models import hub_in_reach
from probekit.wording import shorten

Row = Mapping[str, Any]

_SHOWN = 300  # characters of names of files in a message


def dataset_rows(
    config: ProbeConfig, names: Sequence[str], pick: Callable[[Row], Row]
) -> Iterator[Row]:
    """Give the rows of the dataset that a config names.

    Args:
        config: that names it.
        names: of the fields that are read.
        pick: what of a row is kept while it is read as it comes.

    Raises:
        ConfigError: if it cannot be had, or fails on the way.
    """
    wanted, where = config.inputs.dataset, config.where("inputs.dataset")
    assert wanted is not None  # the config names one
    if wanted.streaming:
        source = Source.of(config, wanted, names)
        yield from read_once(source, lambda: _opened(wanted, where), pick)
    else:
        yield from _opened(wanted, where)


def _opened(wanted: DatasetInputs, where: str) -> Any:
    """Open a dataset; it is gone through from its first row on."""
    if (wrong := no_path(wanted.name)) is not None:
        raise ConfigError(f"{where}.name: given {shorten(wanted.name)}, {wrong}")
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ConfigError(f"{where}: needs datasets; install probekit[datasets]") from error
    named = shorten(", ".join(wanted.own_files) or wanted.name, _SHOWN)
    files = {wanted.split: check_files(wanted, where)} if wanted.is_builder else wanted.data_files
    try:
        rows = None if files is not None else _saved_rows(datasets, wanted, where)
        if rows is None:
            with _hub_as_it_is(datasets, wanted):
                rows = datasets.load_dataset(
                    wanted.name,
                    wanted.subset,
                    split=wanted.split,
                    revision=wanted.revision,
                    data_files=_listed(files),
                    streaming=wanted.streaming,
                )
    except ConfigError:
        raise
    except ConnectionError as error:
        if wanted.is_builder:
            raise ConfigError(f"{where}: {named} cannot be loaded: {reason(error)}") from error
        raise ConfigError(
            f"{where}: {shorten(wanted.name)} cannot be loaded: the hub is out of reach, it is not "
            "in the local cache, and there is no folder of that name here. Give a folder, or load "
            f"it once where there is a network ({shorten(str(error), 200)})"
        ) from error
    except StopIteration as error:  # of a stream: it looks at the first row
        raise ConfigError(f"{where}: there are no texts in {named}") from error
    except Exception as error:
        # The hub client raises dozens of types; each means that the data set cannot be had.
        raise ConfigError(f"{where}: {named} cannot be loaded: {reason(error)}") from error
    return rows


def _listed(files: Mapping[str, Sequence[str]] | Sequence[str] | None) -> Any:
    """Give files as lists, which is what the library tells from names."""
    if isinstance(files, Mapping):
        return {split: [*some] for split, some in files.items()}
    return None if files is None else [*files]


@contextmanager
def _hub_as_it_is(datasets: Any, wanted: DatasetInputs) -> Iterator[None]:
    """Take what the cache holds where the hub is out of reach: its client retries for 23 s."""
    from huggingface_hub import constants

    if wanted.is_builder or at_home(wanted.name).exists() or hub_in_reach():
        yield
        return
    modules: tuple[Any, ...] = (constants, datasets.config)
    before = [(module, module.HF_HUB_OFFLINE) for module in modules]
    try:
        for module, _ in before:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in before:
            module.HF_HUB_OFFLINE = value


def _saved_rows(datasets: Any, wanted: DatasetInputs, where: str) -> Any:
    """Give the rows of a folder that `save_to_disk` wrote; None for what is none."""
    folder = at_home(wanted.name)
    if (folder / "state.json").is_file():
        rows = datasets.load_from_disk(str(folder))
        splits = {wanted.split if rows.split is None else str(rows.split): rows}
    elif (folder / "dataset_dict.json").is_file():
        splits = datasets.load_from_disk(str(folder))
    else:
        return None
    if wanted.split not in splits:
        there = ", ".join(splits)
        raise ConfigError(f"{where}.split: there is no {wanted.split!r}; there is: {there}")
    return splits[wanted.split]
