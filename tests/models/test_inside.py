"""Portable names in a config's model without its head."""

from __future__ import annotations

from pathlib import Path

import by_hand
import pytest
import tiny_models as tiny

import probekit
from probekit import PlanError


@pytest.mark.parametrize("family", ["gpt2", "phi3", "llama"])
def test_a_headless_model_is_planned_and_run(tmp_path: Path, family: str) -> None:
    whole = tiny.build(family)
    by_hand.save_model(tmp_path / "model", whole.base_model)
    by_hand.save_model(tmp_path / "whole", whole)
    probes = [{"sites": ["resid_post", "ln_final", "z"]}]
    trace = probekit.run(by_hand.config(tmp_path / "model", tmp_path / "t", probes=probes))
    full = probekit.run(by_hand.config(tmp_path / "whole", tmp_path / "u", probes=probes))
    assert len(trace.site_names) == 2 * tiny.N_LAYERS + 1
    for layer in range(tiny.N_LAYERS):
        for name in ("resid_post", "z"):
            ours, theirs = (t.select(name, layer=layer)[:] for t in (trace, full))
            assert ours.tobytes() == theirs.tobytes()
    assert {site.kind for site in trace.match("**")} == {"output", "z"}
    assert len(trace.match("**")) == len(trace.site_names)
    probes = [{"sites": "logits"}]
    with pytest.raises(PlanError, match="it is the model without its head"):
        probekit.plan(by_hand.config(tmp_path / "model", tmp_path / "v", probes=probes))
