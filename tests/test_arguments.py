"""A wrong type or an empty argument is an error of ours, wherever a public function takes one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_traces import site, write_trace

import probekit
from probekit import ProbekitError

WRONG: list[Any] = [None, 3, [], {}, b"x", 1.5, object()]
PATHS = ["open", "verify", "lens", "merge", "to_safetensors", "report", "compare", "compared"]
TEXTS = ["site", "match", "select", "table", "to_pandas", "numbers", "top_examples"]
LISTS = ["to_xarray", "map_dataset", "compare sites", "lens sites", "record"]
NUMBERS = ["example", "examples", "tokens", "context", "k", "neuron", "position", "layer"]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> probekit.Trace:
    spec = site("h.0", portable="resid_post", layer=0, axes=("token", "d_model"))
    return probekit.open(write_trace(tmp_path_factory.mktemp("t"), [spec]).folder)


def call(name: str, trace: probekit.Trace, given: Any) -> Any:
    folder = trace.path.parent
    doors: dict[str, Callable[[], Any]] = {
        "open": lambda: probekit.open(given),
        "verify": lambda: probekit.verify(given),
        "lens": lambda: probekit.lens(given),
        "merge": lambda: trace.merge(given),
        "to_safetensors": lambda: trace.to_safetensors(given),
        "report": lambda: trace.report(given),
        "compare": lambda: probekit.compare(given, folder),
        "compared": lambda: probekit.compare(folder, given),
        "site": lambda: trace[given],
        "match": lambda: trace.match(given),
        "select": lambda: trace.select(given),
        "table": lambda: trace.table(given),
        "to_pandas": lambda: trace.to_pandas(given),
        "numbers": lambda: trace["h.0"].numbers(given),
        "top_examples": lambda: trace.top_examples(given, 1),
        "to_xarray": lambda: trace.to_xarray(given),
        "map_dataset": lambda: trace.map_dataset(given),
        "compare sites": lambda: probekit.compare(folder, folder, sites=given),
        "lens sites": lambda: probekit.lens(trace, sites=given),
        "record": lambda: probekit.record(torch.nn.Linear(4, 4), given),
        "example": lambda: trace["h.0"].example(given),
        "examples": lambda: trace.examples[given],
        "tokens": lambda: trace.tokens[given],
        "context": lambda: trace.context(given),
        "k": lambda: trace.top_examples("h.0", 1, k=given),
        "neuron": lambda: trace.top_examples("h.0", given),
        "position": lambda: trace.next_tokens(0, given),
        "layer": lambda: trace.select("resid_post", layer=given),
        "model": lambda: probekit.record(given, "*"),
        "config": lambda: probekit.plan(given),
        "run": lambda: probekit.run(given),
        "overrides": lambda: probekit.plan({}, overrides=given),
    }
    return doors[name]()


@pytest.mark.parametrize("name", [*PATHS, *TEXTS, *LISTS, *NUMBERS, "model", "config", "run"])
def test_a_wrong_type_is_an_error_of_ours(trace: probekit.Trace, name: str) -> None:
    fits = {**dict.fromkeys(NUMBERS, (3,)), "layer": (None, 3)}.get(name, ())
    every = {"to_xarray": (None,), "map_dataset": (None,), "compare sites": (None,)}
    for given in WRONG:
        if given in (*fits, *every.get(name, ())):
            continue
        with pytest.raises(ProbekitError):
            call(name, trace, given)


@pytest.mark.parametrize("given", [None, 3, b"x", 1.5, [1]])
def test_overrides_are_texts(trace: probekit.Trace, given: Any) -> None:
    with pytest.raises(ProbekitError, match="expected a list of key=value texts"):
        call("overrides", trace, given)


@pytest.mark.parametrize("given", [0, -1, None, "x", True])
def test_magnitudes_are_above_zero(trace: probekit.Trace, given: Any) -> None:
    with pytest.raises(ProbekitError, match="expected a number above 0"):
        trace["h.0"].statistics(magnitude=given)


def test_numpys_numbers_are_numbers(trace: probekit.Trace, tmp_path: Path) -> None:
    import numpy as np

    assert trace.examples[np.int64(1)].number == 1
    assert trace.tokens[np.int32(2)].row == 2
    assert len(trace.top_examples("h.0", np.int64(1), k=np.int64(2))) == 2
