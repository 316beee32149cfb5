"""Small traces from hand-made arrays: the writer's input, and what must be read back.

The tables of a shard are worked out here with plain loops, so that nothing of probekit's own
arithmetic stands on both sides of a test. Bits are drawn at random: subnormals, infinities and NaN
are among them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import xxhash

from probekit.store.format.execution import Execution
from probekit.store.format.schema import ShardSpec, SiteSpec
from probekit.store.writing.index import build_index
from probekit.store.writing.layout import ShardTables
from probekit.store.writing.writer import ShardWriter

Array = np.ndarray[Any, Any]

ATTRIBUTES = {"probekit_format": 1, "model_name": "by-hand", "n_layers": 4}
VOCABULARY = tuple(f"<{n}|" for n in range(50))  # not what a trace without vocabulary says
LENGTHS = ((3, 1, 5), (2,), (4, 6))  # tokens of each example of each shard

# Choices of positions, spelled out: what of an example of n tokens is kept.
CHOICES = {
    "last": lambda n: [n - 1],
    "first": lambda n: [0],
    "0,-1": lambda n: sorted({0, n - 1}),
    "3:": lambda n: list(range(3, n)),
    "90:": lambda n: list(range(90, n)),
}
_STORAGE = {"bfloat16": "<u2", "bool": "bool"}


def site(module: str = "block.0.mlp", kind: str = "output", **given: Any) -> SiteSpec:
    row_shape = tuple(given.pop("row_shape", (3,)))
    rows = given.pop("rows", "all")
    first = "example" if rows == "example" else "token"
    known = {
        "dtype": "float32",
        "axes": (first, *(f"d_{n}" for n in range(len(row_shape)))),
        "source_dtype": "float32",
        "layer": None,
        "portable": None,
        "module_class": "Linear",
        "probe": 0,
    }
    return SiteSpec(module=module, kind=kind, rows=rows, row_shape=row_shape, **{**known, **given})


def storage(dtype: str) -> np.dtype[Any]:
    return np.dtype(_STORAGE.get(dtype, dtype)).newbyteorder("<")


def random_rows(n_rows: int, spec: SiteSpec, draw: np.random.Generator) -> Array:
    """Draw stored bits, any of them: [row, *row_shape]."""
    shape, dtype = (n_rows, *spec.row_shape), storage(spec.dtype)
    if spec.dtype == "bool":
        return draw.integers(0, 2, shape).astype(bool)
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(draw.bytes(n_bytes), dtype=dtype).reshape(shape).copy()


def numbers(bits: Array, dtype: str) -> Array:
    """Give stored bits as numpy numbers; torch says what a bfloat16 is."""
    if dtype != "bfloat16":
        return bits
    found: Array = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    return found


def same_bits(found: Any, wanted: Array) -> bool:
    """Compare shape, dtype and every bit: NaN equals itself, 0.0 is not -0.0."""
    found = np.asarray(found)
    return (
        found.shape == wanted.shape
        and found.dtype == wanted.dtype
        and found.tobytes() == wanted.tobytes()
    )


def kept(rows: str, n_tokens: int) -> list[int]:
    """Give the positions of an example that a site keeps."""
    if rows == "example":
        return [0]
    return list(range(n_tokens)) if rows == "all" else CHOICES[rows](n_tokens)


def spec_of(
    lengths: Sequence[int],
    sites: Sequence[SiteSpec],
    *,
    number: int = 0,
    first_example: int = 0,
    first_token: int = 0,
) -> ShardSpec:
    return ShardSpec(
        number=number,
        first_example=first_example,
        n_examples=len(lengths),
        first_token=first_token,
        n_tokens=sum(lengths),
        n_rows={s.rows: sum(len(kept(s.rows, n)) for n in lengths) for s in sites},
    )


def tables_of(
    lengths: Sequence[int],
    sites: Sequence[SiteSpec],
    token_ids: Sequence[int],
    *,
    ids: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    first_token: int = 0,
) -> ShardTables:
    chosen: dict[str, list[int]] = {s.rows: [] for s in sites}
    begin = first_token
    for n in lengths:
        for rows, places in chosen.items():
            places += [begin + position for position in kept(rows, n)]
        begin += n
    return ShardTables.of_texts(
        ids=tuple(ids or (f"id-{n}" for n in range(len(lengths)))),
        texts=tuple(texts or (f"text {n}" for n in range(len(lengths)))),
        n_tokens=np.array(lengths, dtype=np.int64),
        token_ids=np.array(token_ids, dtype=np.int32),
        choices={
            rows: np.array(places, dtype=np.int64)
            for rows, places in chosen.items()
            if rows not in ("all", "example")
        },
        counts={r: np.array([len(kept(r, n)) for n in lengths], dtype=np.int64) for r in chosen},
    )


@dataclass
class Shard:
    """One shard that is to be written, and its rows."""

    folder: Path
    spec: ShardSpec
    sites: tuple[SiteSpec, ...]
    tables: ShardTables
    bits: dict[str, Array]  # by site name, all rows

    @property
    def file(self) -> Path:
        return self.folder / "shards" / f"{self.spec.number:05d}.h5"

    @property
    def record(self) -> Path:
        return self.file.with_suffix(".json")

    def rows_of(self, number: int, example: int) -> Array:
        """Give the rows of one example of the shard, [row, *row_shape]."""
        spec = self.sites[number]
        before = sum(len(kept(spec.rows, int(n))) for n in self.tables.n_tokens[:example])
        n_rows = len(kept(spec.rows, int(self.tables.n_tokens[example])))
        return self.bits[spec.name][before : before + n_rows]

    def writer(self, attributes: Mapping[str, Any] = ATTRIBUTES, **options: Any) -> ShardWriter:
        return ShardWriter(self.folder, self.spec, self.sites, self.tables, attributes, **options)

    def fill(self, out: ShardWriter, without: Sequence[tuple[int, int]] = ()) -> None:
        """Write one example of one site after another, last example first, but for some."""
        for number in range(len(self.sites)):
            for example in reversed(range(self.spec.n_examples)):
                if (number, example) not in without:
                    out.write(number, self.rows_of(number, example), [example], [0])

    def write(self, execution: Execution | None = None, **options: Any) -> Shard:
        with self.writer(**options) as out:
            self.fill(out)
            out.seal(execution)
        return self

    def checksum(self, name: str) -> str:
        """Work the checksum of a site out: XXH3 over the examples' XXH3s, little-endian."""
        number = [s.name for s in self.sites].index(name)
        parts = [
            xxhash.xxh3_64(self.rows_of(number, example).tobytes()).intdigest()
            for example in range(self.spec.n_examples)
        ]
        return xxhash.xxh3_64(b"".join(p.to_bytes(8, "little") for p in parts)).hexdigest()


def a_shard(
    folder: Path,
    sites: Sequence[SiteSpec] | None = None,
    lengths: Sequence[int] = (3, 1, 5),
    **tables: Any,
) -> Shard:
    sites = tuple([site()] if sites is None else sites)
    spec = spec_of(lengths, sites)
    draw = np.random.default_rng(0)
    return Shard(
        folder=folder,
        spec=spec,
        sites=sites,
        tables=tables_of(lengths, sites, range(sum(lengths)), **tables),
        bits={s.name: random_rows(spec.n_rows[s.rows], s, draw) for s in sites},
    )


@dataclass
class Made:
    """A trace that was written, and what it must say."""

    folder: Path
    shards: tuple[Shard, ...]
    sites: tuple[SiteSpec, ...]
    lengths: tuple[tuple[int, ...], ...]
    bits: dict[str, Array]  # of the whole trace
    ids: list[str]
    texts: list[str]
    token_ids: list[int]
    token_rows: dict[str, list[int]]  # by `rows`: the token each row is

    @property
    def n_tokens(self) -> list[int]:
        return [n for lengths in self.lengths for n in lengths]

    def wanted(self, name: str) -> Array:
        """Give a site's rows as numpy numbers."""
        dtype = next(s.dtype for s in self.sites if s.name == name)
        return numbers(self.bits[name], dtype)

    def tokens_of(self, example: int) -> range:
        """Give the token rows of an example."""
        first = sum(self.n_tokens[:example])
        return range(first, first + self.n_tokens[example])

    def copied(self, folder: Path) -> Made:
        """Copy it into a new folder, for a test that changes its files."""
        shutil.copytree(self.folder, folder)
        shards = tuple(replace(shard, folder=folder) for shard in self.shards)
        return replace(self, folder=folder, shards=shards)


def write_trace(
    folder: Path,
    sites: Sequence[SiteSpec] | None = None,
    lengths: Sequence[Sequence[int]] = LENGTHS,
    *,
    seed: int = 0,
    vocabulary: Sequence[str] | None = VOCABULARY,
    attributes: Mapping[str, Any] = ATTRIBUTES,
    executions: Sequence[Execution | None] | None = None,
    texts: Sequence[str] | None = None,
    token_ids: Sequence[int] | None = None,
    values: Mapping[str, Array] | None = None,
    **options: Any,
) -> Made:
    """Write shards and their index.

    `values` are stored bits of sites by name, over all shards; the bits of others are drawn.
    """
    sites = tuple([site()] if sites is None else sites)
    draw = np.random.default_rng(seed)
    all_lengths = [n for of_shard in lengths for n in of_shard]
    ids = [f"id-{n}" for n in range(len(all_lengths))]
    texts = list(texts or (f"text {n}: é" for n in range(len(all_lengths))))
    token_ids = list(token_ids or map(int, draw.integers(0, len(VOCABULARY), sum(all_lengths))))
    given, taken = values or {}, {s.name: 0 for s in sites}
    shards: list[Shard] = []
    example = token = 0
    for number, of_shard in enumerate(lengths):
        spec = spec_of(of_shard, sites, number=number, first_example=example, first_token=token)
        ends = (example + spec.n_examples, token + spec.n_tokens)
        tables = tables_of(
            of_shard,
            sites,
            token_ids[token : ends[1]],
            ids=ids[example : ends[0]],
            texts=texts[example : ends[0]],
            first_token=token,
        )
        bits = {}
        for s in sites:
            begin, taken[s.name] = taken[s.name], taken[s.name] + spec.n_rows[s.rows]
            drawn = random_rows(spec.n_rows[s.rows], s, draw)
            bits[s.name] = given[s.name][begin : taken[s.name]] if s.name in given else drawn
        shards.append(Shard(folder=folder, spec=spec, sites=sites, tables=tables, bits=bits))
        execution = executions[number] if executions else None
        shards[-1].write(execution, attributes=attributes, **options)
        example, token = ends
    build_index(folder, [s.spec for s in shards], sites, attributes, vocabulary)
    whole = tables_of(all_lengths, sites, token_ids)
    return Made(
        folder=folder,
        shards=tuple(shards),
        sites=sites,
        lengths=tuple(tuple(n) for n in lengths),
        bits={s.name: np.concatenate([shard.bits[s.name] for shard in shards]) for s in sites},
        ids=ids,
        texts=texts,
        token_ids=token_ids,
        token_rows={rows: list(map(int, places)) for rows, places in whole.choices.items()},
    )


def forget_checksums(folder: Path) -> None:
    """Remove the records, as if the files were another program's."""
    for record in (folder / "trace.json", *folder.glob("shards/*.json")):
        record.unlink()


def extent(file: Path, name: str) -> tuple[int, int]:
    """Ask bare h5py where a site's bytes lie: offset and size."""
    with h5py.File(file, "r") as opened:
        dataset = opened[f"sites/{name}"]
        return dataset.id.get_offset() or 0, dataset.id.get_storage_size()
