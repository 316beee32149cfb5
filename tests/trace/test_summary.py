"""What `info` and `modules` say, against what was written and what plain hooks see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tiny_models as tiny
import torch
from hypothesis import given, strategies as st
from tiny_traces import forget_checksums, site, write_trace

import probekit
from probekit.models.modulerows import summarize_modules
from probekit.models.skeleton import build_skeleton
from probekit.store.format.execution import Execution, Forward
from probekit.trace.names import collapse
from probekit.trace.summary import summarize_trace

# --- traces


def test_a_summary_counts_what_was_written(tmp_path: Path) -> None:
    sites = [
        site("h.0", dtype="bfloat16", row_shape=(4,), layer=0, portable="mlp_out"),
        site("h.10", "pattern", row_shape=(2, 6), axes=("token", "head", "key")),
        site("h.2", rows="last", dtype="int64", row_shape=()),
    ]
    made = write_trace(tmp_path, sites)
    found = summarize_trace(probekit.open(tmp_path))
    assert found["path"] == str(tmp_path / "trace.h5")
    assert (found["n_examples"], found["n_tokens"], found["n_sites"]) == (6, 21, 3)
    assert found["n_bytes"] == sum(bits.nbytes for bits in made.bits.values())
    common = {"layer": None, "portable": None, "rows": "all", "dtype": "float32"}
    assert found["sites"] == [
        common
        | {
            "name": "h.0/output",
            "shape": [21, 4],
            "axes": ["token", "d_0"],
            "dtype": "bfloat16",
            "bytes": 21 * 4 * 2,
            "layer": 0,
            "portable": "mlp_out",
        },
        common
        | {
            "name": "h.2/output",
            "shape": [6],
            "axes": ["token"],
            "dtype": "int64",
            "bytes": 6 * 8,
            "rows": "last",
        },
        common
        | {
            "name": "h.10/pattern",
            "shape": [21, 2, 6],
            "axes": ["token", "head", "key"],
            "bytes": 21 * 2 * 6 * 4,
        },
    ]
    assert found["execution"] is None
    assert found["provenance"]["model_name"] == "by-hand"


def test_a_summary_is_plain_json(tmp_path: Path) -> None:
    attributes = {"probekit_format": 1, "sizes": np.arange(3), "rate": np.float32(0.5)}
    write_trace(tmp_path, attributes=attributes)
    found = summarize_trace(probekit.open(tmp_path))
    assert json.loads(json.dumps(found)) == found


def test_a_summary_counts_forward_passes_and_the_modules_that_ran(tmp_path: Path) -> None:
    def run(order: int, seconds: float) -> Forward:
        return Forward(order=order, phase="forward", examples=(0,), n_tokens=1, seconds=seconds)

    twice = np.array([[0, 1, 0], [0, 0, 0], [2, 1, 0], [2, 0, 0], [0, 1, 0], [0, 0, 0]], "<i4")
    execution = Execution(
        modules=("a", "never", "b"),
        orders=(twice[:2], twice),
        forwards=(run(1, 0.25), run(1, 0.5), run(0, 0.125)),
    )
    write_trace(tmp_path, lengths=[[2]], executions=[execution])
    found = summarize_trace(probekit.open(tmp_path))["execution"]
    assert found == {"n_forwards": 3, "n_orders": 2, "seconds": 0.875, "n_modules_run": 2}


def test_a_lone_shard_has_a_summary_of_its_own(tmp_path: Path) -> None:
    made = write_trace(tmp_path)
    found = summarize_trace(probekit.open(made.shards[2].file))
    assert (found["n_examples"], found["n_tokens"], found["n_bytes"]) == (2, 10, 10 * 3 * 4)


def test_bytes_of_a_dtype_that_is_not_ours_are_counted(tmp_path: Path) -> None:
    made = write_trace(tmp_path, lengths=[[2]])
    forget_checksums(made.folder)
    with h5py.File(made.shards[0].file, "r+") as file:
        axes = file["sites/block.0.mlp/output"].attrs["axes"]
        del file["sites/block.0.mlp/output"]
        file["sites/block.0.mlp/output"] = np.zeros((2, 3), dtype=">f8")
        file["sites/block.0.mlp/output"].attrs["axes"] = axes
    assert summarize_trace(probekit.open(made.shards[0].file))["n_bytes"] == 48


# --- names that differ in their layer alone


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["h.0.mlp/output", "h.1.mlp/output", "h.2.mlp/output"], "h.{0..2}.mlp/output"),
        (["h.0.mlp/output", "h.5.mlp/output", "h.2.mlp/output"], "h.{0,2,5}.mlp/output"),
        (["h.7.mlp/output"], "h.7.mlp/output"),
        (["h.9/output", "h.10/output"], "h.{9..10}/output"),
        (["lm_head/output"], "lm_head/output"),
        (["h.0.experts.3/output", "h.1.experts.3/output"], "h.{0..1}.experts.3/output"),
    ],
)
def test_layers_are_written_as_a_choice(names: list[str], wanted: str) -> None:
    assert collapse(names) == {wanted: names}


def test_names_that_differ_elsewhere_stay_apart() -> None:
    names = ["h.0.mlp/output", "h.0.mlp/input", "h.0.attn/output", "h.1.mlp/output", "l1.x/output"]
    assert collapse(names) == {
        "h.{0..1}.mlp/output": ["h.0.mlp/output", "h.1.mlp/output"],
        "h.0.mlp/input": ["h.0.mlp/input"],
        "h.0.attn/output": ["h.0.attn/output"],
        "l1.x/output": ["l1.x/output"],
    }


NAMES = st.builds(
    "{}{}/{}".format,
    st.sampled_from(["h", "model.layers.12", "a.3.b.4"]),
    st.sampled_from(["", ".0", ".1.mlp", ".2.mlp", ".11.mlp"]),
    st.sampled_from(["output", "input.0", "output@1"]),
)


@given(st.lists(NAMES, unique=True))
def test_every_name_is_in_one_group(names: list[str]) -> None:
    found = collapse(names)
    assert sorted(name for members in found.values() for name in members) == sorted(names)


# --- modules


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    skeleton = build_skeleton(tiny.build("gpt2").config, torch.float32)
    return {row["path"]: row for row in summarize_modules(skeleton, skeleton.modules)}


def test_modules_are_listed_in_the_order_plain_hooks_see(rows: dict[str, Any]) -> None:
    model = tiny.build("gpt2")
    ran: dict[str, str] = {}

    def watch(path: str, module: torch.nn.Module) -> None:
        def note(*_: Any) -> None:
            ran[path] = type(module).__name__

        module.register_forward_pre_hook(note)

    for path, module in model.named_modules():
        if path:
            watch(path, module)
    with torch.no_grad():
        model(**tiny.batch())
    never = [path for path, _ in model.named_modules() if path and path not in ran]
    assert "transformer.h.0.attn.attn_dropout" in never
    assert list(rows) == [*ran, *never]
    assert {path: rows[path]["class"] for path in ran} == ran
    assert {rows[path]["calls"] for path in ran} == {1}
    assert {rows[path]["calls"] for path in never} == {0}


def test_a_module_says_the_shapes_of_what_goes_in_and_out(rows: dict[str, Any]) -> None:
    row = rows["transformer.h.0.mlp.c_fc"]
    assert [(s["axes"], s["dtype"]) for s in row["outputs"]] == [
        (["batch", "position", tiny.D_MLP], "float32"),
    ]
    assert [s["axes"] for s in row["inputs"]] == [["batch", "position", tiny.D_MODEL]]
    assert rows["transformer.h.0.attn.attn_dropout"]["outputs"] == []


def test_a_module_says_its_portable_names(rows: dict[str, Any]) -> None:
    assert "resid_post (output)" in rows["transformer.h.0"]["portable"]
    assert rows["lm_head"]["portable"] == ["logits (output)"]
    assert rows["transformer.drop"]["portable"] == []


def test_only_the_modules_asked_for_are_listed() -> None:
    skeleton = build_skeleton(tiny.build("gpt2").config, torch.float32)
    paths = ["transformer.ln_f", "transformer.wte"]
    assert [row["path"] for row in summarize_modules(skeleton, paths)] == paths[::-1]


def test_modules_are_plain_json(rows: dict[str, Any]) -> None:
    assert json.loads(json.dumps(rows)) == rows
