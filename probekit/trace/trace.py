"""Trace: reading what a run left behind.

Knows the tree of a trace and opens it lazily; imports neither torch nor transformers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from probekit import arguments
from probekit.config import match_paths, nearest
from probekit.errors import StoreError, printable
from probekit.methods import handover, trace as methods
from probekit.store import (
    dataset_in,
    names_in,
    node_in,
    number_of,
    open_file,
    plain,
)
from probekit.trace.documents import Documents
from probekit.trace.site import Site
from probekit.trace.tables import Tables
from probekit.wording import by_count, counted

Array = np.ndarray[Any, Any]


class Trace(Tables):
    """A trace, opened for reading. Everything is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._sites: dict[str, Site] = {}
        with open_file(self._file) as file:
            self.site_names: tuple[str, ...] = _site_names(file)

    def __repr__(self) -> str:
        model = printable(str(self.provenance.get("model_name")))
        said = "".join(
            f", {counted(len(table), table.axis.name, table.axis.table)}" for table in self.tables
        )
        return f"<Trace {self.path}: {model}{said}, {counted(len(self.site_names), 'site')}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Trace, (self._file,)

    @property
    def is_partial(self) -> bool:
        """Whether the run was not finished when it was opened: `open(path, partial=True)`."""
        return False

    @property
    def shards_sealed(self) -> tuple[int, ...]:
        """The numbers of the shards that can be read: all, but of a run that is not finished."""
        return tuple(range(number_of(self.provenance, "n_shards", str(self.path)) or 0))

    def __getitem__(self, name: str) -> Site:
        """Give a site by `module/kind`; the module path alone means its `output`."""
        name = arguments.text("a site's name", name)
        name = name if "/" in name else f"{name}/output"
        if name not in self._sites:
            if name not in self.site_names:
                raise StoreError(self._no_such_site(name))
            self._sites[name] = Site(self, name)
        return self._sites[name]

    def __contains__(self, name: object) -> bool:
        return name in self.site_names or f"{name}/output" in self.site_names

    def __iter__(self) -> Iterator[str]:
        return iter(self.site_names)

    @cached_property
    def documents(self) -> Documents:
        """The documents that `inputs.too_long: split` made pieces of, each put together again.

        Raises:
            StoreError: if the examples of the run are whole.
        """
        return Documents(self)

    def match(self, pattern: str) -> tuple[Site, ...]:
        """Give the sites whose module path matches a glob; `pattern/kind` picks the record kind.

        Without a kind it is `output`; `**` alone means every site.

        Raises:
            StoreError: if none does; the message says what is near.
        """
        if arguments.text("a pattern", pattern) == "**":
            return tuple(self[name] for name in self.site_names)
        modules, _, kind = pattern.partition("/")
        kind = kind or "output"
        paths = [n.partition("/")[0] for n in self.site_names if n.partition("/")[2] == kind]
        found = match_paths(modules, paths)
        if not found:
            raise StoreError(self._no_match(pattern, modules, paths))
        return tuple(self[f"{path}/{kind}"] for path in found)

    def select(self, name: str, *, layer: int | None = None) -> Site:
        """Give the site with a portable name, the same on every model.

        Args:
            name: `resid_post`, `mlp_out`, `logits`, ...
            layer: 0 is the first, -1 the model's last; not needed for a name outside the layers.

        Raises:
            StoreError: if it was not recorded; the message says what was.
        """
        sites = self._portable.get(arguments.text("a portable name", name), {})
        layer = None if layer is None else arguments.whole("layer", layer)
        n_layers = self.provenance.get("n_layers")
        wanted = layer
        if layer is not None and layer < 0 and isinstance(n_layers, int):
            wanted = layer + n_layers
        if layer is None and len(sites) == 1:
            wanted = next(iter(sites))
        if wanted not in sites:
            raise StoreError(self._no_such_portable(name, layer))
        return self[sites[wanted]]

    next_tokens = methods.next_tokens
    top_examples = methods.top_examples
    head_scores = methods.head_scores
    statistics = methods.statistics
    fit_readout = methods.fit_readout
    report = methods.report
    dataset = handover.dataset
    map_dataset = handover.map_dataset
    to_pandas = handover.to_pandas
    to_xarray = handover.to_xarray
    to_safetensors = handover.to_safetensors
    merge = handover.merge
    _repr_html_ = methods._repr_html_

    @cached_property
    def _portable(self) -> dict[str, dict[int | None, str]]:
        table: dict[str, dict[int | None, str]] = {}
        with open_file(self._file) as file:
            for name in self.site_names:
                dataset = dataset_in(file, f"sites/{name}", virtual=True)
                attributes = dataset.attrs
                known = {k: plain(attributes[k]) for k in ("portable", "layer") if k in attributes}
                if "portable" in known:
                    layer = number_of(known, "layer", f"{self.path}: {name}")
                    table.setdefault(str(known["portable"]), {})[layer] = name
        return table

    def _no_such_site(self, name: str) -> str:
        module = name.removesuffix("/output")
        if module in self._portable:
            return f"{self.path}: {module} is a portable name; trace.select({module!r}, layer=...)"
        if "*" in module or "{" in module:
            return f"{self.path}: {module} is a glob; trace.match({module!r}) gives its sites"
        near = difflib.get_close_matches(name, self.site_names, n=5, cutoff=0.3)
        return (
            f"{self.path}: {name} was not recorded; {counted(len(self.site_names), 'site')} "
            f"{by_count(len(self.site_names), 'was', 'were')}"
            f"{', the nearest: ' + ', '.join(near) if near else ''}"
        )

    def _no_match(self, pattern: str, modules: str, paths: list[str]) -> str:
        if pattern in self._portable:
            return self._no_such_site(pattern)
        of_kinds: dict[str, None] = {}
        for name in self.site_names:
            path, _, kind = name.partition("/")
            if match_paths(modules, (path,)):
                of_kinds[f"{modules}/{kind}"] = None
        near = (*of_kinds,) or nearest(modules, paths)
        return (
            f"{self.path}: {pattern} matches none of the {counted(len(self.site_names), 'site')}"
            f"{'; the nearest: ' + ', '.join(near) if near else ''}"
        )

    def _no_such_portable(self, name: str, layer: int | None) -> str:
        if name not in self._portable:
            there = ", ".join(sorted(self._portable)) or "none"
            return f"{self.path}: {name} was not recorded; portable names recorded: {there}"
        layers = sorted(k for k in self._portable[name] if k is not None)
        if not layers:
            return f"{self.path}: {name} lies outside the layers; leave layer={layer} out"
        if layer is None:
            return f"{self.path}: {name} was recorded at layers {layers}; say which with layer="
        return (
            f"{self.path}: {name} was recorded at layers {layers}; layer={layer} picks none of them"
        )


def _site_names(file: h5py.File) -> tuple[str, ...]:
    sites = node_in(file, "sites")
    if sites is None:
        return ()
    names = [
        f"{module}/{kind}"
        for module in names_in(sites, file)
        for kind in names_in(node_in(file, f"sites/{module}"), file)
    ]
    return tuple(sorted(names, key=_natural))


def _natural(name: str) -> list[tuple[int, str]]:
    # Layer 2 comes before layer 10.
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
