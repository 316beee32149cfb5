"""Columns of the user's own that are called as ours: both are handed over, none in another's place.

The oracle is what was given, and the trace's own columns from bare h5py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import probekit
from probekit.errors import StoreError
from probekit.store import AXES, EXAMPLE, TOKEN
from probekit.trace import Trace

TEXTS = ["Cats are", "The capital of Japan is"]
DECLARED = {
    axis: [n for c in AXES[axis].columns for n in (c.name, c.spelled) if n is not None]
    for axis in (EXAMPLE, TOKEN)
}
ODD = (  # what is in the way of a name that was made, and so on
    *("columns.text", "columns.columns.text", "column_text", "column_column_text", "columns."),
    *("column_", "columns", "column", "last", "column_last", "n_generated", "example", "token"),
    *("example_text", "token_text", "example_column_text", "label", "index", "size", "values"),
    *("forward", "d_model", "layer", "dims", "sample_", "Text", "columns.label", "column_label"),
)
NAMES = tuple(
    name for name in dict.fromkeys((*DECLARED[EXAMPLE], *DECLARED[TOKEN], *ODD)) if name != "body"
)


def config(folder: Path, **more: Any) -> dict[str, Any]:
    """Every column holds a number of its own, by example."""
    rows = [
        {"body": text} | {name: value(name, number) for name in NAMES}
        for number, text in enumerate(TEXTS)
    ]
    for row in rows:
        row["id"] = f"id {row['id']}"  # the name of the example beside
    return {
        "model": {"name": "sample:tiny-gpt2"},
        "inputs": {
            "examples": rows,
            "field": "body",
            "columns": [*NAMES],
            **more.pop("inputs", {}),
        },
        "probes": [
            {"sites": "resid_post", "layers": 0},
            {"sites": "resid_post", "layers": 1, "positions": "last"},
            {"sites": "resid_mid", "layers": 0, "pool": "mean"},
        ],
        "store": {"path": str(folder)},
        **more,
    }


def value(name: str, number: int) -> int:
    return 1000 * (NAMES.index(name) + 1) + number


def given(name: str, numbers: Any) -> list[Any]:
    values = [value(name, n) for n in numbers]
    return [f"id {v}" for v in values] if name == "id" else values


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "samples": {"generate": {"max_new_tokens": 2, "strategy": "sample", "samples": 2}},
    "beams": {"generate": {"max_new_tokens": 2, "beams": 2}},
    "pieces": {"inputs": {"max_tokens": 3, "too_long": "split"}},
}


@pytest.fixture(scope="module", params=KINDS)
def trace(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    folder = tmp_path_factory.mktemp("names") / "run"
    return probekit.run(config(folder, **KINDS[request.param]), self_check=False)


def rows_of(trace: Trace) -> Any:
    """Give which text each example came from, and each token."""
    of_example = [
        next(n for n, text in enumerate(TEXTS) if example.columns["label"] == value("label", n))
        for example in trace.examples
    ]
    with h5py.File(trace.path) as file:
        return np.array(of_example), np.array(of_example)[file["tokens/example"][:]]


def stored(trace: Trace, table: str) -> dict[str, Any]:
    with h5py.File(trace.path) as file:
        return {
            name: d.asstr()[:] if h5py.check_string_dtype(d.dtype) else d[:]
            for name, d in file[table].items()
            if isinstance(d, h5py.Dataset)
        }


def test_pandas_has_every_column_under_the_documented_name(trace: Trace) -> None:
    of_example, _ = rows_of(trace)
    frame = trace.to_pandas("examples")
    own = stored(trace, "examples")
    for name, values in own.items():
        assert frame[name].tolist() == values.tolist(), name
    ours = {*own, "n_generated", "example"}
    labels = {
        name: f"columns.{name}" if name in ours or name.startswith("columns.") else name
        for name in NAMES
    }
    for name, label in labels.items():
        assert frame[label].tolist() == given(name, of_example), name
    assert frame.columns.is_unique
    assert {*frame.columns} == {*own, *labels.values(), "n_generated"}
    assert len(frame.reset_index().columns) == len(frame.columns) + 1
    assert len(frame.groupby("example")) == len(frame)


def test_xarray_has_every_column_under_the_documented_name(trace: Trace) -> None:
    numbers = dict(zip((EXAMPLE, TOKEN), rows_of(trace), strict=True))
    found = trace.to_xarray()
    for axis, table in ((EXAMPLE, "examples"), (TOKEN, "tokens")):
        own = stored(trace, table)
        for name, values in own.items():
            assert found[f"{axis}_{name}"].values.tolist() == values.tolist(), name
        # Every token has a text and a step; last is the positions of a site.
        ours = {*own, *({"text", "step", "last"} if axis == TOKEN else ())}
        for name in NAMES:
            prefixed = name in ours or name.startswith("column_")
            label = f"{axis}_column_{name}" if prefixed else f"{axis}_{name}"
            assert found[label].dims == (axis,), name
            assert found[label].values.tolist() == given(name, numbers[axis]), name
    assert found["token_last"].dims == ("token_last",)
    chosen = trace.select("resid_post", layer=1).token_rows()
    assert found["token_last"].values.tolist() == chosen.tolist()


def test_a_name_that_the_trace_has_not_itself_is_the_user_s(tmp_path: Path) -> None:
    trace = probekit.run(config(tmp_path / "run"), self_check=False)
    assert trace.to_pandas("examples")["prompt"].tolist() == given("prompt", [0, 1])
    assert trace.to_xarray()["example_prompt"].values.tolist() == given("prompt", [0, 1])
    few = trace.to_xarray("resid_mid")  # positions of other sites are not free either
    assert few["token_column_last"].dims == (TOKEN,)


def test_torch_has_each_column_and_refuses_what_its_origin_says_too(tmp_path: Path) -> None:
    trace = probekit.run(config(tmp_path / "run"), self_check=False)
    names = [name for name in NAMES if name != "id"]
    site = trace.select("resid_post", layer=0).name
    (batch,) = trace.dataset("resid_mid", batch_size=2, columns=names)
    for name in names:
        assert batch[name].tolist() == given(name, [0, 1]), name
    for name in ("token", "example", "position"):
        with pytest.raises(StoreError, match=f"columns: {name} is also said"):
            trace.dataset(site, batch_size=2, origin=True, columns=[name])
