"""Trace and Site: reading what a run left behind.

Knows the tree of a trace and opens it lazily; imports neither torch nor transformers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from probekit import schema
from probekit.errors import StoreError
from probekit.folder import read_run, sealed_shards
from probekit.globs import match_paths
from probekit.mapped import MappedRows, dataset_in, file_maps, open_file
from probekit.predictions import NextTokens, next_tokens
from probekit.schema import ALL_TOKENS, INDEX_FILE, PER_EXAMPLE, Execution

if TYPE_CHECKING:
    import torch

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
        path = index
    return Trace(path)


def _why_no_index(folder: Path) -> str:
    run = read_run(folder)
    if run is None:
        return f"{folder}: holds no trace (there is no {schema.RUN_FILE})"
    planned = len(run["identity"].get("shards", ()))
    return (
        f"{folder}: the run is not finished: {len(sealed_shards(folder))} of {planned} shards are "
        "sealed; run the same `probekit run` again and it goes on. "
        "Each sealed shard under shards/ opens alone."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One input text."""

    number: int  # in the trace; a lone shard counts its examples and tokens from 0
    id: str
    text: str
    first_token: int  # its first row among all tokens of the trace
    n_tokens: int
    token_ids: Array  # int32 [token]
    tokens: tuple[str, ...]  # the tokens as strings
    n_generated: int  # of them, how many the model said itself: the last ones

    @property
    def completion(self) -> str:
        """What the model said itself; empty where it was not asked to generate."""
        return "".join(self.tokens[self.n_tokens - self.n_generated :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One real token of an example."""

    row: int
    id: int
    text: str
    position: int  # in its example, from 0
    example: int
    step: int  # 0 for a text's own token, 1, 2, ... for generated ones


class Trace:
    """A trace, opened for reading. Everything is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.absolute()  # read lazily, maybe after a change of the working directory
        self._maps = file_maps()
        self._sites: dict[str, Site] = {}
        self._choices: dict[str, MappedRows] = {}
        with open_file(self._file) as file:
            if "probekit_format" not in file.attrs:
                raise StoreError(f"{path}: is not a probekit trace (no probekit_format attribute)")
            found = int(file.attrs["probekit_format"])
            if found > schema.FORMAT:
                raise StoreError(
                    f"{path}: has format {found}; this probekit reads up to {schema.FORMAT}. "
                    "Upgrade probekit"
                )
            self.provenance: dict[str, Any] = {k: _plain(v) for k, v in file.attrs.items()}
            self.site_names: tuple[str, ...] = _site_names(file)
        # Shards hold the run's numbers; a shard that is opened alone has them from 0 on.
        self._first_example = int(self.provenance.get("first_example", 0))
        self._first_token = int(self.provenance.get("first_token", 0))
        self.examples = Examples(self)
        self.tokens = Tokens(self)

    def __repr__(self) -> str:
        return (
            f"<Trace {self.path}: {self.provenance.get('model_name')}, {len(self.examples)} "
            f"examples, {len(self.tokens)} tokens, {len(self.site_names)} sites>"
        )

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
        if layer is not None and layer < 0 and n_layers is not None:
            wanted = layer + int(n_layers)
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
        counts = np.bincount([f.order for f in self.execution.forwards])
        events = self.execution.orders[int(counts.argmax())]
        return [self.execution.modules[m] for m, entered, _ in events if entered]

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The string of every token id; empty where the trace has none (a lone shard)."""
        with open_file(self._file) as file:
            there = "vocabulary" in file
            return tuple(dataset_in(file, "vocabulary").asstr()[:]) if there else ()

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

    def rows_of_choice(self, choice: str) -> MappedRows:
        """Give, for every row of a choice of positions, its token row."""
        if choice not in self._choices:
            self._choices[choice] = self._table(f"rows/{choice}", less=self._first_token)
        return self._choices[choice]

    def _has(self, name: str) -> bool:
        with open_file(self._file) as file:
            return name in file

    def _table(self, name: str, *, less: int = 0) -> MappedRows:
        with open_file(self._file) as file:
            return MappedRows(dataset_in(file, name), self._file, self._maps, less=less)

    @cached_property
    def _portable(self) -> dict[str, dict[int | None, str]]:
        table: dict[str, dict[int | None, str]] = {}
        with open_file(self._file) as file:
            for name in self.site_names:
                attributes = file[f"sites/{name}"].attrs
                if "portable" in attributes:
                    layer = int(attributes["layer"]) if "layer" in attributes else None
                    table.setdefault(attributes["portable"], {})[layer] = name
        return table

    def _no_such_site(self, name: str) -> str:
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
        return (
            f"{self.path}: {name} was recorded at layers {layers}; layer={layer} picks none of them"
        )


class Site:
    """One recorded place, lazily read: `site[100:200]` reads those rows and gives numpy."""

    def __init__(self, trace: Trace, name: str) -> None:
        self._trace = trace
        self.name = name
        self.module, _, self.kind = name.partition("/")
        with open_file(trace._file) as file:
            dataset = dataset_in(file, f"sites/{name}")
            self.attributes: dict[str, Any] = {k: _plain(v) for k, v in dataset.attrs.items()}
            self._data = MappedRows(dataset, trace._file, trace._maps)
        self.axes: tuple[str, ...] = tuple(self.attributes["axes"])
        self.rows: str = self.attributes.get("rows", ALL_TOKENS)
        self.layer: int | None = self.attributes.get("layer")
        self.portable: str | None = self.attributes.get("portable")

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first: `(tokens, d_mlp)`."""
        return self._data.shape

    @property
    def dtype(self) -> str:
        """The stored dtype, "bfloat16" among them; numpy gets that one as float32."""
        return self._data.dtype

    def __repr__(self) -> str:
        axes = ", ".join(f"{a}={n}" for a, n in zip(self.axes, self.shape, strict=True))
        return f"<Site {self.name} [{axes}] {self.dtype}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Site, (self._trace, self.name)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, key: Any) -> Any:
        return self._data[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self._data.__array__(dtype, copy)

    def raw(self, key: Any) -> Any:
        """Index like `[]`, giving the stored bits: uint16 for bfloat16."""
        return self._data.raw(key)

    def example(self, number: int) -> Array:
        """Give the rows of one example.

        Returns:
            `[token, ...]`; `[head, query, key]` for attention, keys as many as the example has
            tokens; the one row where the site has one row an example.
        """
        number = self._trace.examples.number(number)
        if self.rows == PER_EXAMPLE:
            row: Array = self[number]
            return row
        rows: Array = self[self._rows_of(number)]
        if self.axes == ("token", "head", "key"):
            _, n_tokens = self._trace.examples.extent(number)
            rows = rows[:, :, :n_tokens].swapaxes(0, 1)
        return rows

    def token_rows(self) -> Array:
        """Give, for every row of the site, the row of its token in the trace, int64 `[row]`."""
        if self.rows == ALL_TOKENS:
            return np.arange(len(self))
        if self.rows == PER_EXAMPLE:
            raise StoreError(f"{self.name} has one row an example, not one a token")
        rows: Array = self._trace.rows_of_choice(self.rows)[:]
        return rows

    def torch(self) -> torch.Tensor:
        """Give all rows as a tensor in the stored dtype.

        A site that lies in one shard is mapped, not copied: writing to the tensor changes neither
        the file nor what others read. Over several shards, or compressed, it is a copy.

        Raises:
            StoreError: if torch has no such dtype; a trace of probekit's has none of that kind.
        """
        import torch

        if self.dtype not in schema.DTYPES:
            raise StoreError(f"{self.name}: torch has no dtype {self.dtype}")
        dtype: torch.dtype = getattr(torch, self.dtype)
        place = self._data.place()
        if place is None or place[1] % dtype.itemsize:
            rows = np.require(self._data.raw(slice(None)), requirements="W")
            return torch.from_numpy(rows.view(f"i{dtype.itemsize}")).view(dtype)
        # Private pages (copy on write), and unlike numpy's map no file descriptor that stays open.
        file, offset = place
        whole = torch.from_file(
            str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8
        )
        n_bytes = prod(self.shape) * dtype.itemsize
        return whole[offset : offset + n_bytes].view(dtype).view(self.shape)

    def _rows_of(self, number: int) -> slice:
        first, n_tokens = self._trace.examples.extent(number)
        if self.rows == ALL_TOKENS:
            return slice(first, first + n_tokens)
        rows = self._trace.rows_of_choice(self.rows)[:]
        begin, end = np.searchsorted(rows, (first, first + n_tokens))
        return slice(int(begin), int(end))


class Examples(Sequence[Example]):
    """The examples of a trace, read one at a time."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __len__(self) -> int:
        return len(self._n_tokens)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        number = self.number(number)
        first, n_tokens = self.extent(number)
        ids = self._trace.tokens.id[first : first + n_tokens]
        return Example(
            number=number,
            id=self._string("id", number),
            text=self._string("text", number),
            first_token=first,
            n_tokens=n_tokens,
            token_ids=ids,
            tokens=tuple(self._trace.token_text(int(i)) for i in ids),
            n_generated=int(np.count_nonzero(self._trace.tokens.step[first : first + n_tokens])),
        )

    def number(self, number: int) -> int:
        """Check an example's number; -1 is the last."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"example {number} is out of range: there are {len(self)}")
        return number % len(self)

    def extent(self, number: int) -> tuple[int, int]:
        """Give an example's first row among all tokens, and its number of tokens."""
        return int(self._first_token[number]), int(self._n_tokens[number])

    @cached_property
    def _first_token(self) -> Array:
        less = self._trace._first_token
        table: Array = self._trace._table("examples/first_token", less=less)[:]
        return table

    @cached_property
    def _n_tokens(self) -> Array:
        table: Array = self._trace._table("examples/n_tokens")[:]
        return table

    @cached_property
    def _segments(self) -> MappedRows:
        return self._trace._table("examples/id")

    def _string(self, column: str, number: int) -> str:
        segment, local = self._segments.segment_of(number)
        with open_file(segment.file) as file:
            value: str = dataset_in(file, f"examples/{column}").asstr()[local]
        return value


class Tokens(Sequence[Token]):
    """The tokens of a trace; `id`, `position` and `example` are lazy columns `[token]`."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[r] for r in range(*row.indices(len(self)))]
        token_id = int(self.id[row])
        return Token(
            row=int(row) % len(self),
            id=token_id,
            text=self._trace.token_text(token_id),
            position=int(self.position[row]),
            example=int(self.example[row]),
            step=int(self.step[row]),
        )

    @cached_property
    def id(self) -> MappedRows:
        """Token ids, int32 `[token]`."""
        return self._trace._table("tokens/id")

    @cached_property
    def position(self) -> MappedRows:
        """Position in the token's own example, int32 `[token]`."""
        return self._trace._table("tokens/position")

    @cached_property
    def example(self) -> MappedRows:
        """Number of the token's example, int64 `[token]`."""
        return self._trace._table("tokens/example", less=self._trace._first_example)

    @cached_property
    def step(self) -> MappedRows | Array:
        """0 for a text's own tokens, 1, 2, ... for generated ones, int32 `[token]`."""
        if self._trace._has("tokens/step"):
            return self._trace._table("tokens/step")
        return np.broadcast_to(np.int32(0), (len(self),))


def _site_names(file: h5py.File) -> tuple[str, ...]:
    names = [
        f"{module}/{kind}" for module, group in file.get("sites", {}).items() for kind in group
    ]
    return tuple(sorted(names, key=_natural))


def _natural(name: str) -> list[tuple[int, str]]:
    # Layer 2 comes before layer 10.
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
