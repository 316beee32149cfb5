"""Which sites are shown as what."""

import numpy as np
import report_traces
from tiny_traces import site

from probekit.report.parts import map_labels, roles_of

LENGTHS = (2, 3)


def roles(tmp_path, *specs):
    rows = []
    for spec in specs:
        n_rows = {"example": 2, "last": 2, "0,-1": 4}.get(spec.rows, 5)
        rows.append((spec, np.zeros((n_rows, *spec.row_shape))))
    return roles_of(report_traces.write(tmp_path / "t", rows, LENGTHS))


def names(sites):
    return [s.name for s in sites]


def test_every_kind_finds_its_place(tmp_path):
    found = roles(
        tmp_path,
        report_traces.attention_site(0, 2, 3),
        site("h.0.mlp", axes=("token", "d_mlp"), layer=0),
        site("h.1.mlp", axes=("token", "neuron"), layer=1, details={"neurons": [1, 2, 3]}),
        site("h.0", axes=("token", "d_model"), layer=0, portable="resid_post"),
        site("lm_head", "top_k.id", axes=("token", "k"), dtype="int32"),
        site("lm_head", "top_k.logprob", axes=("token", "k")),
        site("lm_head", axes=("token", "d_vocab"), portable="logits"),
        site("lm_head", "token_logprob", axes=("token",), row_shape=()),
        site("lm_head", "entropy", axes=("token",), row_shape=()),
    )
    assert names(found.attention) == ["h.0.attn/pattern"]
    assert names(found.neurons) == ["h.0.mlp/output", "h.1.mlp/output"]
    assert [s.name for s in found.streams] == ["resid_post", "h.*.mlp/output"]
    assert names(found.top_k) == ["lm_head/top_k.id", "lm_head/top_k.logprob"]
    assert found.logits.name == "lm_head/output"
    assert found.token_logprob.name == "lm_head/token_logprob"
    assert found.entropy.name == "lm_head/entropy"


def test_what_is_pooled_over_an_example_has_no_tokens_to_show(tmp_path):
    found = roles(
        tmp_path,
        site("h.0", rows="example", axes=("example", "d_model"), layer=0, portable="resid_post"),
        site("h.0.mlp", rows="example", axes=("example", "d_mlp"), layer=0),
    )
    assert not found.streams
    assert not found.neurons


def test_what_has_one_row_an_example_is_shown_by_example(tmp_path):
    axes = ("token", "d_model")
    found = roles(
        tmp_path,
        site("h.0", rows="last", axes=axes, layer=0, portable="resid_post"),
        site("h.0.x", rows="example", axes=("example", "d_model"), layer=0),
        site("h.0.y", rows="0,-1", axes=axes, layer=0),
        site("h.0.z", axes=axes, layer=0),
    )
    assert [s.name for s in found.columns] == ["resid_post", "h.*.x/output"]
    assert [s.name for s in found.streams] == ["h.*.y/output", "h.*.z/output"]


def test_chosen_neurons_and_other_reductions_are_no_norms(tmp_path):
    reduced = {"einops": "token (h d) -> token h"}
    found = roles(
        tmp_path,
        site("h.0.mlp", axes=("token", "neuron"), layer=0, details={"neurons": [1, 2, 3]}),
        site("h.0.attn", axes=("token", "h"), layer=0, details={**reduced, "einops_op": "mean"}),
        site("h.0.ln", axes=("token", "h"), layer=0, details={**reduced, "einops_op": "norm"}),
        site("embed", axes=("token", "d_model")),  # outside the layers
        site("h.0.x", "top_k.value", axes=("token", "k"), layer=0),
    )
    assert [s.name for s in found.streams] == ["h.*.ln/output"]


def test_the_residual_stream_comes_first_and_layers_are_sorted(tmp_path):
    axes = ("token", "d_model")
    found = roles(
        tmp_path,
        *(site(f"h.{n}.x", axes=axes, layer=n) for n in (11, 2)),
        site("h.2", axes=axes, layer=2, portable="resid_post"),
        site("h.11", axes=axes, layer=11, portable="resid_post"),
    )
    assert [s.name for s in found.streams] == ["resid_post", "h.*.x/output"]
    assert [names(s.sites) for s in found.streams] == [
        ["h.2/output", "h.11/output"],
        ["h.2.x/output", "h.11.x/output"],
    ]


def test_maps_are_named_by_layer_where_that_says_which(tmp_path):
    one = roles(tmp_path / "one", *(report_traces.attention_site(n, 1, 3) for n in (0, 3)))
    assert map_labels(one.attention) == ("layer 0", "layer 3")
    two = roles(
        tmp_path / "two",
        report_traces.attention_site(0, 1, 3),
        site("h.0.cross", "pattern", row_shape=(1, 3), axes=("token", "head", "key"), layer=0),
    )
    assert map_labels(two.attention) == ("h.0.attn", "h.0.cross")
