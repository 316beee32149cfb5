"""One plain HDF5 file of a trace, against what was written, by bare h5py and by probekit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import by_hand
import h5py
import numpy as np
import pytest
from tiny_traces import ATTRIBUTES, VOCABULARY, Made, same_bits, site, write_trace

import probekit
from probekit.errors import StoreError
from probekit.store.format.execution import Execution, Forward
from probekit.trace.trace import Trace

SITES = (
    site("h.0", row_shape=(4,), dtype="bfloat16", portable="resid_post", layer=0),
    site("h.1", row_shape=(4,), portable="resid_post", layer=1),
    site("h.2", row_shape=(), dtype="float16"),
    site("h.3", dtype="float64"),
    site("h.0.attn", "pattern", row_shape=(2, 6), axes=("token", "head", "key"), dtype="bfloat16"),
    site("h.4", rows="0,-1", dtype="int64"),
    site("h.5", rows="example", dtype="bool"),
    site("h.6", rows="90:"),  # no rows
)
EVENTS = np.array([[0, 1, 0], [0, 0, 0]], dtype="<i4")


def ran(*examples: int) -> Execution:
    passed = Forward(order=0, phase="forward", examples=examples, n_tokens=9, seconds=0.5)
    return Execution(modules=("a",), orders=(EVENTS,), forwards=(passed,))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    executions = (ran(1, 0, 2), ran(3), ran(4, 5))
    return write_trace(tmp_path_factory.mktemp("trace"), SITES, executions=executions)


@pytest.fixture(scope="module")
def trace(made: Made) -> Trace:
    return probekit.open(made.folder)


def assert_bare_h5py_reads(file: Path, made: Made, dtypes: dict[str, str] | None = None) -> None:
    with h5py.File(file) as opened:
        for spec in made.sites:
            found, wanted = opened[f"sites/{spec.name}"], made.wanted(spec.name)
            if (dtypes or {}).get(spec.name):
                wanted = wanted.astype(dtypes[spec.name])
            assert not found.is_virtual and found.chunks is None
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
            assert np.array_equal(found[()], wanted, equal_nan=wanted.dtype.kind == "f")
            assert list(found.attrs["axes"]) == list(spec.axes)
        assert list(opened["examples/id"].asstr()) == made.ids
        assert list(opened["examples/text"].asstr()) == made.texts
        assert opened["examples/n_tokens"][:].tolist() == made.n_tokens
        assert opened["tokens/id"][:].tolist() == made.token_ids
        assert opened["rows/0,-1"][:].tolist() == made.token_rows["0,-1"]
        assert tuple(opened["vocabulary"].asstr()) == VOCABULARY
        assert opened["execution/forward_examples"][:].tolist() == [
            *([0, 1], [0, 0], [0, 2], [1, 3], [2, 4], [2, 5])
        ]
        assert opened.attrs["model_name"] == ATTRIBUTES["model_name"]


def test_it_holds_everything_and_needs_no_other_file(made: Made, tmp_path: Path) -> None:
    copy = shutil.copytree(made.folder, tmp_path / "copy")
    probekit.open(copy).merge(tmp_path / "one.h5")
    shutil.rmtree(copy)
    assert_bare_h5py_reads(tmp_path / "one.h5", made)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.h5"]


def test_probekit_reads_it_as_it_reads_the_trace(made: Made, trace: Trace, tmp_path: Path) -> None:
    merged = trace.merge(tmp_path / "one.h5")
    assert merged.path == tmp_path / "one.h5"
    assert merged.site_names == trace.site_names
    for spec in SITES:
        ours, theirs = merged[spec.name], trace[spec.name]
        assert same_bits(ours.raw(slice(None)), made.bits[spec.name])
        assert (ours.dtype, ours.attributes) == (theirs.dtype, theirs.attributes)
    assert merged.select("resid_post", layer=1).name == "h.1/output"
    assert [e.text for e in merged.examples] == made.texts
    assert [e.tokens for e in merged.examples] == [e.tokens for e in trace.examples]
    assert merged["h.0.attn/pattern"].example(4).tolist() == (
        trace["h.0.attn/pattern"].example(4).tolist()
    )
    assert merged["h.4"].token_rows().tolist() == made.token_rows["0,-1"]
    assert merged.execution_order == trace.execution_order
    assert merged.execution is not None and trace.execution is not None
    assert merged.execution.forwards == trace.execution.forwards
    assert {**merged.provenance, "n_shards": 3} == trace.provenance


def test_rows_lie_in_one_piece_where_maps_can_begin(trace: Trace, tmp_path: Path) -> None:
    trace.merge(tmp_path / "one.h5")
    with h5py.File(tmp_path / "one.h5") as file:
        for name in trace.site_names:
            if file[f"sites/{name}"].size:
                assert file[f"sites/{name}"].id.get_offset() % 64 == 0
    assert probekit.open(tmp_path / "one.h5")["h.0"].torch().shape == (21, 4)


@pytest.mark.parametrize("method", ["gzip", "zstd"])
def test_a_compressed_trace_is_unpacked(tmp_path: Path, method: str) -> None:
    made = write_trace(tmp_path / "t", SITES, executions=(ran(1, 0, 2), ran(3), ran(4, 5)),
                       compression=method)  # fmt: skip
    probekit.open(made.folder).merge(tmp_path / "one.h5")
    assert_bare_h5py_reads(tmp_path / "one.h5", made)


def test_float32_widens_floats_of_16_bits_and_nothing_else(
    made: Made, trace: Trace, tmp_path: Path
) -> None:
    merged = trace.merge(tmp_path / "one.h5", dtype="float32")
    assert_bare_h5py_reads(tmp_path / "one.h5", made, {"h.2/output": "float32"})
    assert {name: merged[name].dtype for name in merged.site_names} == {
        "h.0/output": "float32",
        "h.1/output": "float32",
        "h.2/output": "float32",
        "h.3/output": "float64",
        "h.0.attn/pattern": "float32",
        "h.4/output": "int64",
        "h.5/output": "bool",
        "h.6/output": "float32",
    }
    assert merged["h.0"].attributes["dtype"] == "float32"
    with h5py.File(tmp_path / "one.h5") as file:
        kind = file["sites/h.0/output"].id.get_type()
        assert (kind.get_class(), kind.get_size()) == (h5py.h5t.FLOAT, 4)


def test_bfloat16_stays_a_16_bit_float(trace: Trace, tmp_path: Path) -> None:
    trace.merge(tmp_path / "one.h5")
    with h5py.File(tmp_path / "one.h5") as file:
        kind = file["sites/h.0/output"].id.get_type()
        assert (kind.get_class(), kind.get_size()) == (h5py.h5t.FLOAT, 2)


def test_some_sites_with_all_tables(made: Made, trace: Trace, tmp_path: Path) -> None:
    merged = trace.merge(tmp_path / "one.h5", ["resid_post", "h.5"])
    assert merged.site_names == ("h.0/output", "h.1/output", "h.5/output")
    assert [e.text for e in merged.examples] == made.texts
    assert merged.has("rows/0,-1")


def test_a_shard_alone_counts_from_its_own_start(made: Made, tmp_path: Path) -> None:
    merged = probekit.open(made.shards[2].file).merge(tmp_path / "one.h5")
    assert [e.text for e in merged.examples] == made.texts[4:]
    assert [e.first_token for e in merged.examples] == [0, 4]
    assert merged.tokens.example[:].tolist() == [0] * 4 + [1] * 6
    assert merged["h.4"].token_rows().tolist() == [0, 3, 4, 9]
    assert same_bits(merged["h.1"].example(1), made.wanted("h.1/output")[15:])
    assert merged.execution is not None
    assert merged.execution.forwards[0].examples == (0, 1)


def test_a_merged_file_can_be_merged_again(made: Made, trace: Trace, tmp_path: Path) -> None:
    trace.merge(tmp_path / "one.h5").merge(tmp_path / "two.h5")
    assert_bare_h5py_reads(tmp_path / "two.h5", made)
    assert by_hand.everything(tmp_path / "one.h5") == by_hand.everything(tmp_path / "two.h5")


def test_generated_tokens_keep_their_steps(tmp_path: Path) -> None:
    model = by_hand.save_tiny(tmp_path / "model", "gpt2")
    probes = [{"modules": "transformer.h.*.mlp.act"}, {"sites": "pattern"}]
    config = by_hand.config(
        model,
        tmp_path / "t",
        probes=probes,
        generate={"max_new_tokens": 3, "stop_at_eos": False},
        execution_order=True,
        model__dtype="bfloat16",
    )
    config["store"]["shard_bytes"] = 10_000
    trace = probekit.run(config)
    assert len(by_hand.shard_files(tmp_path / "t")) > 1
    merged = trace.merge(tmp_path / "one.h5")
    with h5py.File(tmp_path / "t" / "trace.h5") as old, h5py.File(tmp_path / "one.h5") as new:
        for name in ("tokens/step", *(f"sites/{name}" for name in trace.site_names)):
            assert np.array_equal(old[name][:], new[name][:])
    assert merged.examples[0].completion == trace.examples[0].completion != ""
    assert merged.provenance["generate_cached_s"] > 0


# --- what is refused


def test_an_unknown_dtype_is_refused(trace: Trace, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"dtype: given 'float16', .*expected one of float32, or"):
        trace.merge(tmp_path / "one.h5", dtype="float16")


def test_a_file_of_that_name_is_kept(trace: Trace, tmp_path: Path) -> None:
    (tmp_path / "one.h5").write_text("mine")
    with pytest.raises(StoreError, match=r"one.h5: exists; give another name"):
        trace.merge(tmp_path / "one.h5")
    assert (tmp_path / "one.h5").read_text() == "mine"
    trace.merge(tmp_path / "one.h5", overwrite=True)
    assert probekit.open(tmp_path / "one.h5").site_names == trace.site_names


def test_a_file_is_not_merged_into_itself(trace: Trace, tmp_path: Path) -> None:
    merged = trace.merge(tmp_path / "one.h5")
    with pytest.raises(StoreError, match="is the trace itself; give another name"):
        merged.merge(tmp_path / "one.h5", overwrite=True)


def test_a_failure_leaves_nothing(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from probekit.handover import merging

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merging, "write_parts", fails)
    with pytest.raises(StoreError, match=r"one.h5: cannot be written: No space left on device"):
        trace.merge(tmp_path / "one.h5")
    assert list(tmp_path.iterdir()) == []


STARVED = """
import resource, sys
import probekit
trace = probekit.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    trace.merge(sys.argv[2])
except probekit.StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [3000, 40_000])  # in the tables, in the rows
def test_a_disk_that_refuses_is_said_and_nothing_stays(tmp_path: Path, limit: int) -> None:
    write_trace(tmp_path / "t", [site(row_shape=(1000,))])
    command = [sys.executable, "-c", STARVED, tmp_path / "t", tmp_path / "one.h5", limit]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert ran.stdout == f"{tmp_path}/one.h5: cannot be written: File too large\n"
    assert ran.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_progress_is_told(trace: Trace, tmp_path: Path) -> None:
    seen: list[Any] = []
    trace.merge(tmp_path / "one.h5", on_progress=seen.append)
    n_bytes = sum(trace[name].raw(slice(None)).nbytes for name in trace.site_names)
    assert seen[-1].n_bytes == seen[-1].total_bytes == n_bytes
