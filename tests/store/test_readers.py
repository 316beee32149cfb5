"""The tools people have: each really reads a trace and gives the numbers that were written.

h5dump, h5grove (what JupyterLab's h5web reads through) and h5wasm (what the browser-only h5web
reads through), over an index of several shards and over a merged file.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_traces import Made, site, write_trace

import probekit

Array = np.ndarray[Any, Any]

SITES = (
    site("h.0.mlp", row_shape=(4,), axes=("token", "d_mlp"), dtype="bfloat16", layer=0),
    site("h.1.mlp", row_shape=(4,), axes=("token", "d_mlp"), dtype="float16"),
    site("h.2.mlp", row_shape=(4,), axes=("token", "d_mlp")),
    site("h.0.attn", "pattern", row_shape=(2, 6), axes=("token", "head", "key")),
    site("h.1.attn", "pattern", row_shape=(2, 6), axes=("token", "head", "key"), dtype="bfloat16"),
    site("h.3", dtype="int64", rows="last"),
    site("h.4", axes=("example", "d_mlp"), row_shape=(4,), rows="example", dtype="float64"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return write_trace(tmp_path_factory.mktemp("trace"), SITES)


@pytest.fixture(scope="module")
def files(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, trace = tmp_path_factory.mktemp("merged"), probekit.open(made.folder)
    trace.merge(folder / "merged.h5")
    trace.merge(folder / "wide.h5", dtype="float32")
    return {
        "index": made.folder / "trace.h5",
        "merged": folder / "merged.h5",
        "wide": folder / "wide.h5",
    }


def assert_same(found: Array, wanted: Array) -> None:
    assert found.shape == wanted.shape
    if wanted.dtype.kind == "f":
        assert np.array_equal(found.astype(wanted.dtype), wanted, equal_nan=True)
    else:
        assert np.array_equal(found, wanted)


# --- h5dump


def dump(*arguments: object) -> str:
    if shutil.which("h5dump") is None:
        pytest.skip("h5dump is not installed (Debian: hdf5-tools)")
    command = ["h5dump", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["index", "merged", "wide"])
def test_h5dump_shows_true_numbers(made: Made, files: dict[str, Path], name: str) -> None:
    for spec in SITES:
        text = dump("-y", "-w", 0, "-m", "%.17g", "-d", f"/sites/{spec.name}", files[name])
        data = text.split("DATA {")[1].split("}")[0]
        found = np.array([float(v) if spec.dtype != "int64" else int(v) for v in data.split(",")])
        assert_same(found.reshape(made.wanted(spec.name).shape), made.wanted(spec.name))


def test_h5dump_calls_bfloat16_a_float_and_shows_named_axes(files: dict[str, Path]) -> None:
    text = dump("-A", "-d", "/sites/h.0.mlp/output", files["index"])
    assert "16-bit little-endian floating-point" in text
    axes = re.search(r'ATTRIBUTE "axes".*?DATA \{(.*?)\}', text, re.DOTALL)
    assert axes is not None and re.findall(r'"(\w+)"', axes[1]) == ["token", "d_mlp"]
    # A dimension list points at datasets that have the axes' names.
    assert re.search(r'"DIMENSION_LIST".*"?/token"?.*"?/d_mlp"?', text, re.DOTALL)


# --- h5grove


def grove(file: Path, path: str, *, encoding: str = "bin") -> dict[str, Any]:
    content = pytest.importorskip("h5grove.content")
    encoders = pytest.importorskip("h5grove.encoders")

    def fails(code: int, message: str) -> Exception:
        return AssertionError(f"{code}: {message}")

    with content.get_content_from_file(file, path, fails) as found:
        return {
            "values": np.asarray(found.data()),
            "sent": encoders.encode(
                # What the viewer asks for: flat bytes of a type that JavaScript has; texts as JSON.
                found.data(flatten=True, dtype="safe" if encoding == "bin" else "origin"),
                encoding,
            ).content,
            "attributes": json.loads(encoders.encode(found.attributes(), "json").content),
            "metadata": json.loads(encoders.encode(found.metadata(), "json").content),
        }


@pytest.mark.parametrize("name", ["index", "merged", "wide"])
def test_h5grove_gives_true_numbers(made: Made, files: dict[str, Path], name: str) -> None:
    for spec in SITES:
        found, wanted = grove(files[name], f"/sites/{spec.name}"), made.wanted(spec.name)
        assert_same(found["values"], wanted)
        safe = {"float16": "float32"}.get(str(wanted.dtype), str(wanted.dtype))
        assert_same(np.frombuffer(found["sent"], safe).reshape(wanted.shape), wanted)
        assert found["attributes"]["axes"] == list(spec.axes)
        assert found["metadata"]["shape"] == list(wanted.shape)
    texts = grove(files[name], "/examples/text", encoding="json")["sent"]
    assert json.loads(texts) == made.texts


# --- h5wasm

READ = """
import h5wasm from "h5wasm/node";
await h5wasm.ready;
const file = new h5wasm.File(process.argv[2], "r");
const found = {};
for (const path of process.argv.slice(3)) {
  try {
    const dataset = file.get(path);
    const values = Array.from(dataset.value, v => typeof v === "bigint" ? v.toString() : String(v));
    found[path] = {shape: dataset.shape, values: values, axes: dataset.attrs.axes.value};
  } catch (error) {
    found[path] = {error: String(error)};
  }
}
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="module")
def h5wasm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give a function that reads datasets through h5wasm in node."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text("{}")
    (folder / "read.mjs").write_text(READ)
    command = ["npm", "install", "--no-audit", "--no-fund", "h5wasm@0.10.3"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install h5wasm: {done.stderr.strip().splitlines()[-1:]}")

    def read(file: Path, *paths: str) -> dict[str, Any]:
        ran = subprocess.run(
            ["node", "read.mjs", str(file), *paths],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(ran.stdout)
        return found

    return read


@pytest.mark.slow
def test_h5wasm_shows_a_file_that_was_widened(
    made: Made, files: dict[str, Path], h5wasm: Any
) -> None:
    paths = {f"/sites/{spec.name}": spec for spec in SITES}
    found = h5wasm(files["wide"], *paths, "/examples/text")
    for path, spec in paths.items():
        wanted = made.wanted(spec.name)
        kind = int if wanted.dtype.kind == "i" else float
        values = [kind(v.replace("Infinity", "inf")) for v in found[path]["values"]]
        assert_same(np.array(values).reshape(found[path]["shape"]), wanted)
        assert found[path]["axes"] == list(spec.axes)
    assert found["/examples/text"]["values"] == made.texts


@pytest.mark.slow
def test_h5wasm_knows_no_16_bit_float(files: dict[str, Path], h5wasm: Any) -> None:
    """If this fails, `--dtype float32` is needed no longer, and the README can say so."""
    found = h5wasm(files["merged"], "/sites/h.0.mlp/output", "/sites/h.1.mlp/output")
    for entry in found.values():
        assert entry["error"] == "Error: Float16 not supported"
