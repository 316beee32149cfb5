"""Trace: reading what a run left behind.

Knows the tree of a trace and opens it lazily; imports neither torch nor transformers.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from probekit.analysis import (
    HeadScores,
    Neuron,
    NextTokens,
    TopExamples,
    TraceStatistics,
    head_scores,
    next_tokens,
    top_examples,
    trace_statistics,
)
from probekit.config import match_paths
from probekit.doors import trace as handover
from probekit.errors import StoreError, printable
from probekit.store import (
    ALL_TOKENS,
    INDEX_FILE,
    PER_EXAMPLE,
    Execution,
    MappedRows,
    attributes_of,
    check_plain,
    dataset_in,
    file_maps,
    names_in,
    node_in,
    number_of,
    open_file,
    plain,
    read_run,
    schema,
    sealed_shards,
    texts_in,
)
from probekit.trace.choosing import Patterns
from probekit.trace.overview import trace_table
from probekit.trace.site import Site
from probekit.trace.tables import Examples, Tokens

if TYPE_CHECKING:
    from probekit.report import Report

Array = np.ndarray[Any, Any]


def open_trace(path: str | Path) -> Trace:
    """Open a trace for reading.

    Args:
        path: a run's folder, or one HDF5 file: a shard, an index, or a merged trace.

    Raises:
        StoreError: if there is no whole trace at `path`.
    """
    path = Path(path)
    if path.is_dir():
        index = path / INDEX_FILE
        if not index.exists():
            raise StoreError(_why_no_index(path))
        check_plain(index)
        path = index
    return Trace(path)


def _why_no_index(folder: Path) -> str:
    run = read_run(folder)
    if run is None:
        return f"{folder}: holds no trace (there is no {schema.RUN_FILE})"
    shards = run["identity"].get("shards")
    planned = len(shards) if isinstance(shards, list) else 0
    return (
        f"{folder}: the run is not finished: {len(sealed_shards(folder))} of {planned} shards are "
        "sealed; run the same `probekit run` again and it goes on. "
        "Each sealed shard under shards/ opens alone."
    )


class Trace:
    """A trace, opened for reading. Everything is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.absolute()  # read lazily, maybe after a change of the working directory
        self._maps = file_maps()
        self._sites: dict[str, Site] = {}
        self._choices: dict[str, Array] = {}
        with open_file(self._file) as file:
            self.provenance: dict[str, Any] = attributes_of(file)
            _check_format(self.provenance, path)
            self.site_names: tuple[str, ...] = _site_names(file)
            # Shards hold the run's numbers; a shard that is opened alone has them from 0 on.
            self._first_example = number_of(self.provenance, "first_example", str(path)) or 0
            self._first_token = number_of(self.provenance, "first_token", str(path)) or 0
        self.examples = Examples(self)
        self.tokens = Tokens(self)

    def __repr__(self) -> str:
        model = printable(str(self.provenance.get("model_name")))
        return (
            f"<Trace {self.path}: {model}, {len(self.examples)} "
            f"examples, {len(self.tokens)} tokens, {len(self.site_names)} sites>"
        )

    def _repr_html_(self) -> str:
        return trace_table(self).html()

    def __reduce__(self) -> tuple[Any, ...]:
        return Trace, (self._file,)

    def __getitem__(self, name: str) -> Site:
        """Give a site by `module/kind`; the module path alone means its `output`."""
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

    def match(self, pattern: str) -> tuple[Site, ...]:
        """Give the sites whose module path matches a glob; `pattern/kind` picks the record kind."""
        modules, _, kind = pattern.partition("/")
        kind = kind or "output"
        paths = [n.partition("/")[0] for n in self.site_names if n.partition("/")[2] == kind]
        return tuple(self[f"{path}/{kind}"] for path in match_paths(modules, paths))

    def select(self, name: str, *, layer: int | None = None) -> Site:
        """Give the site with a portable name, the same on every model.

        Args:
            name: `resid_post`, `mlp_out`, `logits`, ...
            layer: 0 is the first, -1 the model's last; not needed for a name outside the layers.

        Raises:
            StoreError: if it was not recorded; the message says what was.
        """
        sites = self._portable.get(name, {})
        n_layers = self.provenance.get("n_layers")
        wanted = layer
        if layer is not None and layer < 0 and isinstance(n_layers, int):
            wanted = layer + n_layers
        if layer is None and len(sites) == 1:
            wanted = next(iter(sites))
        if wanted not in sites:
            raise StoreError(self._no_such_portable(name, layer))
        return self[sites[wanted]]

    @cached_property
    def execution(self) -> Execution | None:
        """Orders and forward passes of the run; None when they were not recorded."""
        with open_file(self._file) as file:
            found = schema.read_execution(file)
        if found is None or not self._first_example:
            return found
        forwards = (
            replace(f, examples=tuple(e - self._first_example for e in f.examples))
            for f in found.forwards
        )
        return replace(found, forwards=tuple(forwards))

    @property
    def execution_order(self) -> list[str]:
        """Module paths in the order they ran, in the run's most frequent order.

        Raises:
            StoreError: if the run did not record it.
        """
        if self.execution is None:
            raise StoreError(
                f"{self.path}: the execution order was not recorded; "
                "set execution_order: true in the config"
            )
        counts = Counter(forward.order for forward in self.execution.forwards)
        events = self.execution.orders[min(counts, key=lambda order: (-counts[order], order))]
        return [self.execution.modules[m] for m, entered, _ in events if entered]

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The string of every token id; empty where the trace has none (a lone shard)."""
        with open_file(self._file) as file:
            return texts_in(file, "vocabulary") if node_in(file, "vocabulary") else ()

    def token_text(self, token_id: int) -> str:
        """Give the string of a token id."""
        known = 0 <= token_id < len(self.vocabulary)
        return self.vocabulary[token_id] if known else f"<{token_id}>"

    def context(self, row: int, *, before: int = 8, after: int = 4) -> str:
        """Give the text around a token, the token itself in «marks»."""
        token = self.tokens[row]
        words = list(self.examples[token.example].tokens)
        words[token.position] = f"«{words[token.position]}»"
        return "".join(words[max(0, token.position - before) : token.position + after + 1])

    def next_tokens(self, example: int, position: int = -1, *, k: int = 5) -> NextTokens:
        """Give what the model would have said next.

        Args:
            example: number of the example.
            position: after which of its tokens; -1 is the last.
            k: how many candidates, at most as many as were recorded.

        Raises:
            StoreError: if neither logits nor `top_k` were recorded there.

        Example:
            >>> print(trace.next_tokens(0))
            ' Tokyo' 99.1%, ' Paris' 0.2%, others 0.7%
        """
        return next_tokens(self, example, position, k)

    def report(
        self,
        path: str | Path = "report.html",
        *,
        examples: int | Sequence[int] = 8,
        neurons: int = 32,
        max_bytes: int = 128 << 20,
    ) -> Report:
        """Write a page to look at: attention, next tokens, norms, neurons, execution order.

        The page is one HTML file; it opens in any browser, without a network or a server.

        Args:
            path: the HTML file; one that is there is replaced.
            examples: the first so many, or the numbers of those to show.
            neurons: how many of each site's neurons to include, the liveliest. To find them, every
                row of these sites is read three times; 0 leaves that out.
            max_bytes: how large the file may become; what does not fit is left out, and said so.

        Returns:
            What is in the file, and what was left out.

        Raises:
            StoreError: if an example or an option is out of range, or the file cannot be written.
        """
        from probekit.report import write_report  # it reads traces, and is loaded only when used

        return write_report(self, path, examples=examples, neurons=neurons, max_bytes=max_bytes)

    def top_examples(
        self,
        site: str | Site,
        neuron: Neuron,
        k: int = 10,
        *,
        smallest: bool = False,
        one_per_example: bool = False,
        around: int = 8,
    ) -> TopExamples:
        """Find the tokens, in context, on which a neuron fires most.

        Args:
            site: a site or its name, "transformer.h.3.mlp.act".
            neuron: its number in the model; a tuple where a row has several axes, (head, d_head).
            k: how many, at most. Of equal values the earlier comes first; NaN never comes.
            smallest: where it is most negative instead.
            one_per_example: only the strongest token of each example.
            around: tokens of context on either side.

        Raises:
            StoreError: if the site or the neuron was not recorded; the message says what was.

        Example:
            >>> trace.top_examples("transformer.h.1.mlp.act", 17, k=5)
        """
        found = self[site] if isinstance(site, str) else site
        return top_examples(
            found,
            neuron,
            k,
            smallest=smallest,
            one_per_example=one_per_example,
            around=around,
        )

    def head_scores(self, sites: Patterns | None = None) -> HeadScores:
        """Score every recorded attention head as induction, previous-token and duplicate head.

        The scores, and where they come from, are told at `HeadScores`.

        Args:
            sites: globs of sites, "transformer.h.{0..3}.attn/pattern"; all patterns where None.

        Raises:
            StoreError: if no patterns were recorded there.
        """
        return head_scores(self, sites)

    def statistics(
        self, sites: Patterns | None = None, *, magnitude: float = 6.0, tokens: float = 0.06
    ) -> TraceStatistics:
        """Give the statistics of every site of floats, one pass each; see `Site.statistics`.

        Args:
            sites: globs of sites or portable names, one or several; all of them where None.
            magnitude: of an outlier, in root mean squares of its row.
            tokens: the share of rows in which an outlier must be so large.
        """
        return trace_statistics(self, sites, magnitude=magnitude, tokens=tokens)

    dataset = handover.dataset
    map_dataset = handover.map_dataset
    to_pandas = handover.to_pandas
    to_xarray = handover.to_xarray
    to_safetensors = handover.to_safetensors
    merge = handover.merge

    def rows_of_choice(self, choice: str) -> Array:
        """Give, for every row of a choice of positions, its token row: int64 `[row]`, read-only."""
        if choice not in self._choices:
            rows: Array = self._table(f"rows/{choice}", less=self._first_token)[:]
            inside = not len(rows) or (rows[0] >= 0 and rows[-1] < len(self.tokens))
            if not inside or not (rows[1:] >= rows[:-1]).all():
                raise StoreError(f"{self.path}: rows/{choice} are not tokens of it, in their order")
            rows.flags.writeable = False
            self._choices[choice] = rows
        return self._choices[choice]

    def n_rows(self, rows: str) -> int:
        """Count the rows of the sites that keep these: every token, one an example, or a choice."""
        if rows == ALL_TOKENS:
            return len(self.tokens)
        return len(self.examples) if rows == PER_EXAMPLE else len(self.rows_of_choice(rows))

    def _has(self, name: str) -> bool:
        with open_file(self._file) as file:
            return node_in(file, name) is not None

    def _table(self, name: str, *, less: int = 0) -> MappedRows:
        with open_file(self._file) as file:
            dataset = dataset_in(file, name, virtual=True)
            table = MappedRows(dataset, self._file, self._maps, less=less)
        if table.storage.kind not in "iu" or len(table.shape) != 1:
            raise StoreError(
                f"{self.path}: {name} is {list(table.shape)} {table.dtype}; expected whole numbers"
            )
        return table

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
        near = difflib.get_close_matches(name, self.site_names, n=5, cutoff=0.3)
        return (
            f"{self.path}: {name} was not recorded; {len(self.site_names)} sites were"
            f"{', the nearest: ' + ', '.join(near) if near else ''}"
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


def _check_format(attributes: Mapping[str, Any], path: Path) -> None:
    found = number_of(attributes, "probekit_format", str(path))
    if found is None:
        raise StoreError(f"{path}: is not a probekit trace (no probekit_format attribute)")
    if found > schema.FORMAT:
        raise StoreError(
            f"{path}: has format {found}; this probekit reads up to {schema.FORMAT}. "
            "Upgrade probekit"
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
