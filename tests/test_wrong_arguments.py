"""Whatever a public function is given: an error of ours in plain words, and no one else's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import probekit
from probekit.errors import ProbekitError

ODD = [
    *(None, 10**30, -99, 1.5, float("nan"), True, "typo", "", b"x", Path("/nowhere/at/all")),
    *([], ["typo"], [1.5], ("a", "b"), {}, {"x": 1}, slice(0, 2), object(), print),
    *(np.array([1, 2]), np.array(["a"]), np.float32(2)),
]
INSIDES = re.compile(r"object at 0x|NoneType|Traceback|pydantic|dtype\('|unhashable|truth value")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        "model": {"name": "sample:tiny-gpt2"},
        "inputs": {
            "examples": [
                {"text": text, "label": n % 2}
                for n, text in enumerate(["a cat sat on a mat", "the dog ran away"] * 4)
            ]
        },
        "probes": [
            {"sites": ["resid_post", "pattern", "mlp_post", "logits"]},
            {"modules": "lm_head", "record": "top_k"},
        ],
        "execution_order": True,
        "store": {"path": str(tmp_path_factory.mktemp("runs") / "run")},
    }


@pytest.fixture(scope="module")
def trace(config: dict[str, Any]) -> Any:
    return probekit.run(config)


def readout(trace: Any, **given: Any) -> Any:
    """Fit one, quickly, of a site with a row an example."""
    usual = {"target": "label", "pool": "last", "method": "mean_difference", "shuffles": 0}
    return trace.fit_readout("transformer.h.0", **{**usual, **given})


Call = Callable[[Any, Any], Any]  # with a trace, and what is odd
NET = torch.nn.Sequential(torch.nn.Linear(2, 2))
CALLS: dict[str, Call] = {
    "open": lambda trace, odd: probekit.open(odd),
    "verify": lambda trace, odd: probekit.verify(odd),
    "compare, the first": lambda trace, odd: probekit.compare(odd, trace),
    "compare, the second": lambda trace, odd: probekit.compare(trace, odd),
    "lens": lambda trace, odd: probekit.lens(odd),
    "plan": lambda trace, odd: probekit.plan(odd),
    "run": lambda trace, odd: probekit.run(odd),
    "record, the model": lambda trace, odd: probekit.record(odd, "0"),
    "record, the patterns": lambda trace, odd: probekit.record(NET, odd),
    "recorded": lambda trace, odd: probekit.record(NET, "0")[odd],
    "calls": lambda trace, odd: probekit.record(NET, "0").calls(odd),
    "a site": lambda trace, odd: trace[odd],
    "select, the name": lambda trace, odd: trace.select(odd),
    "select, the layer": lambda trace, odd: trace.select("resid_post", layer=odd),
    "match": lambda trace, odd: trace.match(odd),
    "context": lambda trace, odd: trace.context(odd),
    "context, before": lambda trace, odd: trace.context(3, before=odd),
    "context, after": lambda trace, odd: trace.context(3, after=odd),
    "table": lambda trace, odd: trace.table(odd),
    "rows": lambda trace, odd: trace.select("resid_post", layer=0)[odd],
    "an example": lambda trace, odd: trace.examples[odd],
    "an extent": lambda trace, odd: trace.examples.extent(odd),
    "a column": lambda trace, odd: trace.examples.column(odd),
    "a token": lambda trace, odd: trace.tokens[odd],
    "the text of a token": lambda trace, odd: trace.token_text(odd),
    "rows of an example": lambda trace, odd: trace.select("pattern", layer=0).example(odd),
    "next_tokens": lambda trace, odd: trace.next_tokens(odd),
    "next_tokens, k": lambda trace, odd: trace.next_tokens(0, k=odd),
    "head_scores": lambda trace, odd: trace.head_scores(odd),
    "the best heads": lambda trace, odd: trace.head_scores().best(odd),
    "head_scores, drawn": lambda trace, odd: trace.head_scores().plot(odd),
    "axes": lambda trace, odd: trace.head_scores().plot(ax=odd),
    "fit_readout": lambda trace, odd: probekit.fit_readout(odd, "resid_post", target="label"),
    "fit_readout, sites": lambda trace, odd: trace.fit_readout(odd, target="label"),
    "fit_readout, target": lambda trace, odd: readout(trace, target=odd),
    "fit_readout, split": lambda trace, odd: readout(trace, split=odd),
    "fit_readout, group": lambda trace, odd: readout(trace, group=odd),
    "fit_readout, method": lambda trace, odd: readout(trace, method=odd),
    "fit_readout, pool": lambda trace, odd: readout(trace, pool=odd),
    "fit_readout, strength": lambda trace, odd: readout(trace, strength=odd),
    "fit_readout, measure": lambda trace, odd: readout(trace, measure=odd),
    "fit_readout, shuffles": lambda trace, odd: readout(trace, shuffles=odd),
    "fit_readout, confidence": lambda trace, odd: readout(trace, confidence=odd),
    "fit_readout, seed": lambda trace, odd: readout(trace, seed=odd),
    "fit_readout, memory_bytes": lambda trace, odd: readout(trace, memory_bytes=odd),
    "a readout's layer": lambda trace, odd: readout(trace).layer(odd),
    "a readout, applied": lambda trace, odd: readout(trace).apply(odd),
    "a readout, saved": lambda trace, odd: readout(trace).save(odd),
    "load_readout": lambda trace, odd: probekit.load_readout(odd),
    "statistics": lambda trace, odd: trace.statistics(odd),
    "statistics, magnitude": lambda trace, odd: trace.statistics("resid_post", magnitude=odd),
    "statistics of a site": lambda trace, odd: trace.statistics("**.mlp.act")[odd],
    "top_examples": lambda trace, odd: trace.top_examples(odd, 0),
    "top_examples, k": lambda trace, odd: trace.top_examples("transformer.h.0.mlp.act", 0, k=odd),
    "top_examples, around": lambda trace, odd: trace.top_examples(
        "transformer.h.0.mlp.act", 0, around=odd
    ),
    "report": lambda trace, odd: trace.report(odd),
    "report, examples": lambda trace, odd: trace.report("/nowhere/r.html", examples=odd),
    "report, neurons": lambda trace, odd: trace.report("/nowhere/r.html", neurons=odd),
    "report, bytes": lambda trace, odd: trace.report("/nowhere/r.html", max_bytes=odd),
    "merge": lambda trace, odd: trace.merge(odd),
    "merge, dtype": lambda trace, odd: trace.merge("/nowhere/m.h5", dtype=odd),
    "to_pandas": lambda trace, odd: trace.to_pandas(odd),
    "to_xarray": lambda trace, odd: trace.to_xarray(odd),
    "dataset": lambda trace, odd: trace.dataset(odd, batch_size=2),
    "dataset, a batch": lambda trace, odd: trace.dataset("resid_post", batch_size=odd),
}


@pytest.mark.parametrize("name", CALLS)
def test_whatever_is_given_the_error_is_ours_and_plain(
    trace: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    n_refused = 0
    for odd in ODD:
        try:
            CALLS[name](trace, odd)
        except (ProbekitError, IndexError) as error:  # an index that is none is Python's own error
            n_refused += 1
            assert str(error)
            assert not INSIDES.search(str(error)), str(error)
    assert n_refused > 5


def test_a_typo_in_a_trace_names_what_is_near(trace: Any) -> None:
    with pytest.raises(
        ProbekitError, match=r"not recorded; .*the nearest: transformer\.h\.\d\.mlp"
    ):
        trace["transformer.h.0.mlp.atc"]
    with pytest.raises(ProbekitError, match="resid_pots was not recorded; portable names recorded"):
        trace.select("resid_pots")
    with pytest.raises(IndexError, match="example 99 is out of range: there are 8"):
        trace.examples[99]


def test_what_was_not_recorded_is_told_with_what_was_said_once() -> None:
    net = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(4)))
    with pytest.raises(ProbekitError, match=r"3x was not asked for; recorded: \{0\.\.3\}/output"):
        probekit.record(net, "*")["3x"]
