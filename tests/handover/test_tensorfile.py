"""Sites as a safetensors file, read by the safetensors library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import by_hand
import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file
from tiny_traces import Made, site, write_trace

import probekit
from probekit.errors import StoreError
from probekit.trace.trace import Trace

SITES = (
    site("h.0", row_shape=(4,), axes=("token", "d_model"), dtype="bfloat16"),
    site("h.1", row_shape=(4,), axes=("token", "d_model"), portable="resid_post", layer=1),
    site("h.2", row_shape=(), dtype="float16"),
    site("h.3", dtype="float64"),
    site("h.0.attn", "pattern", row_shape=(2, 6), axes=("token", "head", "key")),
    site("h.4", rows="0,-1", dtype="int64"),
    site("h.5", rows="example", dtype="bool"),
    *(site(f"i.{n}", dtype=n, row_shape=(3,)) for n in ("int32", "int16", "int8", "uint8")),
    site("h.6", rows="90:"),  # no rows
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return write_trace(tmp_path_factory.mktemp("trace"), SITES)


@pytest.fixture(scope="module")
def trace(made: Made) -> Trace:
    return probekit.open(made.folder)


def test_safetensors_reads_every_bit_in_its_dtype(made: Made, trace: Trace, tmp_path: Path) -> None:
    assert trace.to_safetensors(tmp_path / "a.safetensors") == tmp_path / "a.safetensors"
    tensors = load_file(tmp_path / "a.safetensors")
    for spec in SITES:
        found = tensors[spec.name]
        assert str(found.dtype) == f"torch.{spec.dtype}"
        wanted = made.bits[spec.name]
        assert tuple(found.shape) == wanted.shape
        bits = found.view(torch.uint8).numpy().tobytes() if found.numel() else b""
        assert bits == wanted.tobytes()


def test_tables_say_what_a_row_is(made: Made, trace: Trace, tmp_path: Path) -> None:
    trace.to_safetensors(tmp_path / "a.safetensors", "h.4")
    tensors = load_numpy(tmp_path / "a.safetensors")
    assert sorted(tensors) == [
        *("examples/first_token", "examples/n_tokens", "h.4/output", "rows/0,-1"),
        *("tokens/example", "tokens/id", "tokens/position"),
    ]
    assert tensors["rows/0,-1"].tolist() == made.token_rows["0,-1"]
    assert tensors["tokens/id"].tolist() == made.token_ids
    assert tensors["examples/n_tokens"].tolist() == made.n_tokens
    owners = [n for n, length in enumerate(made.n_tokens) for _ in range(length)]
    assert tensors["tokens/example"].tolist() == owners


def test_metadata_hold_names_axes_and_provenance(trace: Trace, tmp_path: Path) -> None:
    trace.to_safetensors(tmp_path / "a.safetensors", ["h.1", "h.0.attn/pattern"])
    with safe_open(tmp_path / "a.safetensors", "numpy") as file:
        about = file.metadata()
    assert about["format"] == "pt"
    assert about["model_name"] == "by-hand"
    sites = json.loads(about["sites"])
    assert list(sites) == ["h.1/output", "h.0.attn/pattern"]
    assert sites["h.1/output"] == trace["h.1"].attributes
    assert sites["h.0.attn/pattern"]["axes"] == ["token", "head", "key"]


def test_tensors_begin_where_their_dtype_may(trace: Trace, tmp_path: Path) -> None:
    trace.to_safetensors(tmp_path / "a.safetensors")
    raw = (tmp_path / "a.safetensors").read_bytes()
    head = int.from_bytes(raw[:8], "little")
    assert (8 + head) % 64 == 0
    sizes = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2}
    entries = json.loads(raw[8 : 8 + head])
    entries.pop("__metadata__")
    for entry in entries.values():
        assert (8 + head + entry["data_offsets"][0]) % sizes.get(entry["dtype"], 1) == 0


def test_a_shard_alone_counts_from_its_own_start(made: Made, tmp_path: Path) -> None:
    alone = probekit.open(made.shards[2].file)
    tensors = load_numpy(alone.to_safetensors(tmp_path / "a.safetensors", "h.4"))
    assert tensors["tokens/example"].tolist() == [0] * 4 + [1] * 6
    assert tensors["rows/0,-1"].tolist() == [0, 3, 4, 9]


def test_generated_tokens_keep_their_steps(tmp_path: Path) -> None:
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    probes = [{"modules": "transformer.h.*.mlp.act"}]
    more = {"max_new_tokens": 3, "stop_at_eos": False}
    trace = probekit.run(by_hand.config(model, tmp_path / "t", probes=probes, generate=more))
    tensors = load_numpy(trace.to_safetensors(tmp_path / "a.safetensors"))
    with h5py.File(tmp_path / "t" / "trace.h5") as file:
        assert tensors["tokens/step"].tolist() == file["tokens/step"][:].tolist()
        for name in trace.site_names:
            assert np.array_equal(tensors[name], file[f"sites/{name}"][:])


def test_what_is_refused(trace: Trace, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(StoreError, match="a: exists; give another name"):
        trace.to_safetensors(tmp_path / "a")
    trace.to_safetensors(tmp_path / "a", "h.1", overwrite=True)
    with pytest.raises(StoreError, match=r"h.9 was not recorded; the nearest: h.{0..6}"):
        trace.to_safetensors(tmp_path / "b", "h.9")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_progress_is_told(trace: Trace, tmp_path: Path) -> None:
    seen: list[Any] = []
    trace.to_safetensors(tmp_path / "a", "h.1", on_progress=seen.append)
    tables = 21 * (4 + 4 + 8) + 6 * (8 + 8)
    assert seen[-1].n_bytes == seen[-1].total_bytes == 21 * 4 * 4 + tables
