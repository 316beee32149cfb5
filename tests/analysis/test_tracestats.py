"""Statistics of many sites at once."""

import numpy as np
import pytest
from tiny_traces import site, write_trace

import probekit
from probekit.errors import StoreError
from probekit.trace import rowblocks as blocks

LENGTHS = ((30, 1, 50), (20,), (40, 6))
N_TOKENS = 147
D_MODEL = 64


def drawn(*shape, dtype="float32"):
    return (np.random.default_rng(0).normal(size=shape) * 3 + 1).astype(dtype)


def a_trace(folder, *specs, **values):
    given = {s.name: values[s.module] for s in specs if s.module in values}
    made = write_trace(folder, specs, LENGTHS, values=given)
    return probekit.open(made.folder)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that every pass is in many."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * D_MODEL * 7)


def resid(layer=0):
    return site(f"h.{layer}", row_shape=(D_MODEL,), axes=("token", "d_model"), layer=layer)


def test_outlier_dimensions_are_in_a_quarter_of_the_layers(tmp_path):
    layers = {f"h.{n}": drawn(N_TOKENS, D_MODEL) for n in range(8)}
    for n in (0, 5):
        layers[f"h.{n}"][:, 7] = 90
    layers["h.3"][:, 8] = 90
    trace = a_trace(tmp_path, *(resid(n) for n in range(8)), **layers)
    (found,) = trace.statistics().outlier_dimensions()
    assert (found.dimension, found.share) == ((7,), 0.25)
    assert found.layers == ("h.0/output", "h.5/output")
    assert found.sites == "h.{0..7}/output"
    assert len(trace.statistics().outlier_dimensions(layers=0.1)) == 2


def test_a_trace_has_statistics_of_all_sites_of_floats(tmp_path):
    ids = site("lm_head", "top_k.id", row_shape=(5,), dtype="int32")
    sites = (resid(0), resid(1), ids)
    trace = a_trace(tmp_path, *sites, **{f"h.{n}": drawn(N_TOKENS, D_MODEL) for n in (0, 1)})
    found = trace.statistics()
    assert list(found) == ["h.0/output", "h.1/output"]
    assert found["h.1"] is found["h.1/output"]
    assert list(trace.statistics("h.1")) == ["h.1/output"]
    assert list(trace.statistics(["h.1", "h.*"])) == ["h.1/output", "h.0/output"]
    frame = found.to_pandas()
    assert frame.loc["h.1/output", "mean"] == pytest.approx(
        drawn(N_TOKENS, D_MODEL).mean(), rel=1e-5
    )
    assert "h.1/output" in repr(found)
    assert "<table" in found._repr_html_()
    with pytest.raises(StoreError, match=r"no statistics of h.7/output; of: h.0/output, h.1/out"):
        found["h.7"]
    with pytest.raises(StoreError, match=r"q.\* was not recorded; .*recorded: h.\{0..1\}"):
        trace.statistics("q.*")
    with pytest.raises(StoreError, match=r"top_k.id holds int32: numbers of things"):
        trace["lm_head/top_k.id"].statistics()
