"""A new axis and a new column are a declaration: everything that reads a trace follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_traces import ATTRIBUTES, random_rows, site, spec_of, tables_of, write_trace

import probekit
from probekit import StoreError
from probekit.store.format import axes
from probekit.store.format.axes import AXES, TEXT, Axis, Column, declare, example, position
from probekit.store.writing.index import build_index
from probekit.store.writing.writer import ShardWriter

LENGTHS = ((3, 1), (2,), (4, 6))  # tokens of each example of each shard
PATCHES = ((2, 4), (0,), (1, 3))  # patches
FLAT = [n for shard in PATCHES for n in shard]

PATCH = Axis(
    name="patch",
    table="patches",
    columns=(
        Column(name="left", dtype="<i2", unit="patch", means="place from the left", source="me"),
        Column(name="name", dtype=TEXT, means="a word for it", source="me"),
        position("patch"),
        example("patch"),
        Column(name="scale", dtype="<i4", default=7, means="which scale", source="me"),
    ),
)


@dataclass(frozen=True)
class Made:
    folder: Path
    tokens: np.ndarray[Any, Any]  # rows of the site of tokens
    patches: np.ndarray[Any, Any]  # rows of the site of patches
    columns: list[int]
    names: list[str]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Write a trace whose images have patches, of an axis that no file of probekit knows."""
    own = replace(AXES["example"], columns=AXES["example"].columns[:2])
    monkeypatch.setattr(axes, "AXES", declare(own, AXES["token"], PATCH))
    return written(tmp_path / "run")


def written(folder: Path) -> Made:
    draw = np.random.default_rng(0)
    of_tokens = site("h.0", portable="resid_post", layer=0, row_shape=(5,), axes=("token", "d"))
    of_patches = site("eye.0", rows="patch", row_shape=(5,), axes=("patch", "d"))
    sites, specs = (of_tokens, of_patches), []
    rows: dict[str, list[Any]] = {spec.name: [] for spec in sites}
    columns: list[int] = []
    names: list[str] = []
    first_example = first_token = 0
    for number, (lengths, n_patches) in enumerate(zip(LENGTHS, PATCHES, strict=True)):
        plain = spec_of(
            lengths,
            [of_tokens],
            number=number,
            first_example=first_example,
            first_token=first_token,
        )
        spec = replace(plain, n_rows={**plain.n_rows, "patch": sum(n_patches)})
        counts = np.array(n_patches, dtype=np.int64)
        place = draw.integers(0, 9, sum(n_patches))
        words = [f"patch {n} é" for n in range(len(names), len(names) + sum(n_patches))]
        tables = tables_of(lengths, [of_tokens], range(sum(lengths)), first_token=first_token)
        tables = replace(
            tables,
            n_rows={**tables.n_rows, "patch": counts},
            columns={**tables.columns, "patch": {"left": place, "name": words}},
            counts={**tables.counts, "patch": counts},
        )
        attributes = {**ATTRIBUTES, "probekit_format": "1.1"}
        with ShardWriter(folder, spec, sites, tables, attributes) as out:
            for at, of_site in enumerate(sites):
                block = random_rows(spec.n_rows[of_site.rows], of_site, draw)
                starts = np.cumsum(tables.counts[of_site.rows]) - tables.counts[of_site.rows]
                out.write(at, block, range(len(lengths)), starts.tolist())
                rows[of_site.name].append(block)
            out.seal()
        specs.append(spec)
        columns += place.tolist()
        names += words
        first_example, first_token = first_example + len(lengths), first_token + sum(lengths)
    build_index(folder, specs, sites, {**ATTRIBUTES, "probekit_format": "1.1"}, None)
    whole = {name: np.concatenate(parts) for name, parts in rows.items()}
    return Made(folder, whole["h.0/output"], whole["eye.0/output"], columns, names)


def owners() -> list[int]:
    return [number for number, n in enumerate(FLAT) for _ in range(n)]


def places() -> list[int]:
    return [place for n in FLAT for place in range(n)]


def test_the_trace_reads_its_table_and_its_rows(made: Made) -> None:
    trace = probekit.open(made.folder)
    acts = trace["eye.0"]
    assert (acts.axis, acts.shape) == ("patch", (10, 5))
    assert acts[:].tobytes() == made.patches.tobytes()
    patches = trace.table("patch")
    assert patches.left[:].tolist() == made.columns
    assert list(patches.name) == made.names
    assert patches.name[[3, 0]].tolist() == [made.names[3], made.names[0]]
    assert patches.position[:].tolist() == places()
    assert patches.example[:].tolist() == owners()
    assert patches.scale[:].tolist() == [7] * 10
    assert trace.examples.n_patches.tolist() == FLAT
    assert trace.examples.first_patch.tolist() == [0, 2, 6, 6, 7]
    for number, n in enumerate(FLAT):
        first = sum(FLAT[:number])
        assert acts.example(number).tobytes() == made.patches[first : first + n].tobytes()
    assert "10 patches" in repr(trace)
    with pytest.raises(StoreError, match="one row for each patch, not for each token"):
        acts.token_rows()


def test_a_lone_shard_counts_from_its_own_start(made: Made) -> None:
    alone = probekit.open(made.folder / "shards" / "00002.h5")
    assert alone.examples.first_patch.tolist() == [0, 1]
    assert alone.table("patch").example[:].tolist() == [0, 1, 1, 1]
    assert alone["eye.0"].example(1).tobytes() == made.patches[7:].tobytes()


def test_bare_h5py_reads_the_same(made: Made) -> None:
    with h5py.File(made.folder / "trace.h5") as file:
        assert file["patches/left"][:].tolist() == made.columns
        assert file["patches/name"].asstr()[:].tolist() == made.names
        assert file["patches/example"][:].tolist() == owners()
        assert file["examples/first_patch"][:].tolist() == [0, 2, 6, 6, 7]
        assert dict(file["patches/left"].attrs)["units"] == "patch"
        assert file["patches/left"].dtype == np.int16
        assert file["patches/left"].dims[0][0].name == "/patch"


def test_verify_reads_it_and_finds_what_was_changed(made: Made) -> None:
    verdict = probekit.verify(made.folder)
    assert {d.file for d in verdict.damages} <= {"run.json"}  # these shards are of no run
    shard = made.folder / "shards" / "00000.h5"
    with h5py.File(shard) as file:
        offset = file["sites/eye.0/output"].id.get_offset()
    data = bytearray(shard.read_bytes())
    data[offset + 30] ^= 1
    shard.write_bytes(data)
    found = {(d.file, d.site) for d in probekit.verify(made.folder).damages}
    assert ("shards/00000.h5", "eye.0/output") in found


def test_it_is_handed_over(made: Made, tmp_path: Path) -> None:
    trace = probekit.open(made.folder)
    frame = trace.to_pandas("patches")
    assert frame.index.name == "patch"
    assert list(frame) == ["left", "name", "position", "example", "scale"]
    assert frame.name.tolist() == made.names
    assert trace.to_pandas("examples").n_patches.tolist() == FLAT

    data = trace.to_xarray()
    assert data["eye.0/output"].dims == ("patch", "d")
    assert data.patch_left.values.tolist() == made.columns
    assert data.patch_name.values.tolist() == made.names
    chosen = data["eye.0/output"].where(data.patch_example == 1, drop=True)
    assert chosen.values.tobytes() == made.patches[2:6].tobytes()

    merged = trace.merge(tmp_path / "one.h5")
    assert merged["eye.0"][:].tobytes() == made.patches.tobytes()
    assert merged.table("patch").position[:].tolist() == places()
    assert merged.examples.first_patch.tolist() == trace.examples.first_patch.tolist()
    assert list(merged.table("patch").name) == made.names

    tensors = load_file(trace.to_safetensors(tmp_path / "a.safetensors"))
    assert tensors["patches/example"].tolist() == owners()
    assert tensors["patches/left"].tolist() == made.columns


def test_analysis_and_training_take_it(made: Made) -> None:
    trace = probekit.open(made.folder)
    wanted = np.sort(made.patches.astype(np.float64)[np.isfinite(made.patches[:, 2]), 2])[::-1]
    best = trace.top_examples("eye.0", 2, k=3)
    assert [f.value for f in best] == wanted[:3].tolist()
    assert [owners()[f.row] for f in best] == [f.example for f in best]
    assert [f.context.token for f in best] == [f"patch {places()[f.row]}" for f in best]
    assert trace["eye.0"].statistics().n_rows == 10
    items = trace.map_dataset("eye.0", origin=True)
    assert [int(items[n]["patch"]) for n in range(10)] == list(range(10))
    assert [int(items[n]["example"]) for n in range(10)] == owners()
    assert probekit.compare(made.folder, made.folder).n_tokens == 16


def test_what_a_trace_was_made_without_is_said(made: Made) -> None:
    trace = probekit.open(made.folder)
    with pytest.raises(StoreError, match=r"made without tokens/char_start .*tokenizer's offsets"):
        trace.tokens.char_start  # noqa: B018
    with pytest.raises(AttributeError, match="no 'chars'"):
        trace.tokens.chars  # noqa: B018
    with pytest.raises(StoreError, match="tokens have no chars; id, position, example"):
        trace.tokens.column("chars")
    with pytest.raises(StoreError, match=r"no axis of a table is called 'tokens'.*did you mean"):
        trace.table("tokens")
    assert "id" in dir(trace.tokens) and "char_start" not in dir(trace.tokens)
    assert not hasattr(trace.tokens, "char_start")


def test_the_declaration_is_what_lies_on_disk(tmp_path: Path) -> None:
    """Written by hand once more, so that nobody changes the format in passing."""
    said = {
        f"{axis.table}/{column.name}": (column.dtype, column.since)
        for axis in AXES.values()
        for column in axis.columns
    }
    assert said == {
        "examples/id": ("text", 0),
        "examples/text": ("text", 0),
        "examples/prompt": ("<i8", 1),
        "examples/sample": ("<i4", 1),
        "examples/score": ("<f4", 1),
        "examples/document": ("<i8", 1),
        "examples/document_start": ("<i4", 1),
        "examples/document_char_start": ("<i4", 1),
        "examples/first_token": ("<i8", 0),
        "examples/n_tokens": ("<i8", 0),
        "tokens/id": ("<i4", 0),
        "tokens/position": ("<i4", 0),
        "tokens/example": ("<i8", 0),
        "tokens/step": ("<i4", 0),
        "tokens/char_start": ("<i4", 1),
        "tokens/char_end": ("<i4", 1),
        "tokens/document_position": ("<i4", 1),
        "tokens/role": ("<i2", 1),
        "tokens/turn": ("<i4", 1),
        "tokens/is_content": ("bool", 1),
    }


@pytest.mark.parametrize("column", ["examples/id", "examples/text", "tokens/position"])
def test_columns_of_unequal_length_are_refused(tmp_path: Path, column: str) -> None:
    made = write_trace(tmp_path)
    merged = probekit.open(made.folder).merge(tmp_path / "one.h5").path
    with h5py.File(merged, "r+") as file:
        values, attributes = file[column][:-1], dict(file[column].attrs)
        del file[column]
        file[column] = values
        file[column].attrs["axes"] = attributes["axes"]
    trace = probekit.open(merged)
    with pytest.raises(StoreError, match=r"has \d+ rows, others have|do not fit together"):
        [(e.text, e.tokens) for e in trace.examples]
        list(trace.tokens)


def test_what_a_later_version_adds_is_merged_along(tmp_path: Path) -> None:
    made = write_trace(tmp_path)
    one = probekit.open(made.folder).merge(tmp_path / "one.h5").path
    with h5py.File(one, "r+") as file:
        file["tokens/role"] = np.arange(21, dtype=np.int8)
        file["examples/label"] = [f"label {n}" for n in range(6)]
    merged = probekit.open(one).merge(tmp_path / "two.h5").path
    with h5py.File(merged) as file:
        assert file["tokens/role"][:].tolist() == list(range(21))
        assert file["examples/label"].asstr()[3] == "label 3"
