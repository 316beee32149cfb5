"""Which sites of two traces are the same place."""

import pytest
from tiny_traces import site, write_trace

import probekit
from probekit.analysis.alignment import Alignment
from probekit.analysis.sitepairs import pair_up
from probekit.errors import StoreError

BESIDE = Alignment(True, "")
CUT = Alignment(False, "example 1: token 0 is 'a' in x, 'b' in y (1 and 2 tokens)")


def resid(layer, module="h", **given):
    return site(
        f"{module}.{layer}", portable="resid_post", layer=layer, axes=("token", "d_model"), **given
    )


def a_trace(folder, *specs):
    return probekit.open(write_trace(folder, specs).folder)


def paired(groups):
    return {
        group.place: [(group.xs[i].name, group.ys[j].name) for i, j in group.pairs]
        for group in groups
    }


def test_sites_of_one_model_are_paired_by_name(tmp_path):
    specs = (resid(0), resid(1), site("h.0.mlp", layer=0), site("h.1.mlp", layer=1), site("out"))
    a, b = a_trace(tmp_path / "a", *specs), a_trace(tmp_path / "b", *specs)
    groups, notes = pair_up(a, b, None, BESIDE)
    assert paired(groups) == {
        "h.{}.mlp/output": [(n, n) for n in ("h.0.mlp/output", "h.1.mlp/output")],
        "resid_post": [(n, n) for n in ("h.0/output", "h.1/output")],
        "out/output": [("out/output", "out/output")],
    }
    assert not notes


def test_sites_of_two_models_are_paired_by_portable_name_and_layer(tmp_path):
    a = a_trace(tmp_path / "a", resid(0), resid(1), resid(2), site("only.here"))
    b = a_trace(tmp_path / "b", *(resid(n, "model.layers", row_shape=(7,)) for n in (0, 2, 5)))
    (group,), _ = pair_up(a, b, None, BESIDE)
    assert paired([group]) == {
        "resid_post": [("h.0/output", "model.layers.0/output"),
                       ("h.2/output", "model.layers.2/output")]
    }  # fmt: skip
    assert [s.layer for s in group.xs] == [0, 1, 2]  # all of them, for the matrix
    assert [s.layer for s in group.ys] == [0, 2, 5]


def test_sites_can_be_chosen_by_glob_and_by_portable_name(tmp_path):
    specs = (resid(0), resid(1), site("h.0.mlp", layer=0), site("out"))
    a, b = a_trace(tmp_path / "a", *specs), a_trace(tmp_path / "b", *specs)
    for asked, places in (
        (["resid_post"], ["resid_post"]),
        (["h.1"], ["resid_post"]),
        (["out", "h.*.mlp"], ["out/output", "h.{}.mlp/output"]),
    ):
        groups, _ = pair_up(a, b, asked, BESIDE)
        assert [group.place for group in groups] == places
    with pytest.raises(
        StoreError,
        match=r"q was not recorded; .*recorded: h\..* \(portable names: resid_post\)",
    ):
        pair_up(a, b, ["q"], BESIDE)


def test_ids_ranks_and_masked_scores_are_not_compared(tmp_path):
    specs = (
        site("lm_head", "top_k.id", dtype="int32", axes=("token", "k")),
        site("lm_head", "top_k.logprob", axes=("token", "k")),
        site("attn", "scores", row_shape=(2, 6), axes=("token", "head", "key")),
        site("attn", "pattern", row_shape=(2, 6), axes=("token", "head", "key")),
    )
    a, b = a_trace(tmp_path / "a", *specs), a_trace(tmp_path / "b", *specs)
    (group,), _ = pair_up(a, b, None, BESIDE)
    assert group.place == "attn/pattern"
    assert not group.has_features


def test_sites_recorded_otherwise_are_left_out_with_a_note(tmp_path):
    few = {"axes": ("token", "neuron")}
    a = a_trace(tmp_path / "a", resid(0), site("mlp", details={"neurons": [1, 2, 3]}, **few))
    b = a_trace(
        tmp_path / "b", resid(0, rows="last"), site("mlp", details={"neurons": [1, 2, 4]}, **few)
    )
    with pytest.raises(StoreError, match=r"nothing that can be compared") as caught:
        pair_up(a, b, None, BESIDE)
    assert "resid_post is left out: recorded with positions: all, and with positions: last" in str(
        caught.value
    )
    assert "neurons: [1, 2, 3], and with positions: all, neurons: [1, 2, 4]" in str(caught.value)


def test_texts_that_are_cut_differently_are_compared_by_example(tmp_path):
    specs = (
        resid(0),
        resid(1, rows="example", details={"pool": "mean"}),
        site("out", rows="last"),
        site("in", rows="first"),
    )
    a, b = a_trace(tmp_path / "a", *specs), a_trace(tmp_path / "b", *specs)
    groups, notes = pair_up(a, b, None, CUT)
    assert [group.place for group in groups] == ["resid_post", "out/output"]
    assert [note.split(" is left out")[0] for note in notes] == ["h.0/output", "in/output"]
    assert "the two tokenizers cut the texts differently (example 1: token 0 is 'a'" in notes[0]
    with pytest.raises(StoreError, match=r"record with `positions: last`, or with `pool`"):
        pair_up(a, b, ["in"], CUT)


def test_nothing_in_common_is_an_error_that_says_what_there_is(tmp_path):
    a, b = a_trace(tmp_path / "a", resid(0)), a_trace(tmp_path / "b", site("h.0.mlp"))
    with pytest.raises(
        StoreError,
        match=r"in the first: h.0/output \(portable .*\); in the second: h.0.mlp/output",
    ):
        pair_up(a, b, None, BESIDE)
