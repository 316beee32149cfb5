"""A comparison's results, made by hand: tables, frames, JSON, and what is not there."""

import json
from math import nan

import numpy as np
import pytest

from probekit.analysis.ckamatrix import CKAMatrix
from probekit.analysis.comparisonresult import MEASURES, Comparison, SitePair
from probekit.errors import StoreError

PAIR = SitePair(
    place="resid_post",
    layer=1,
    a="h.1/output",
    b="model.layers.1/output",
    cka=0.5,
    cka_debiased=0.25,
    cosine=nan,
    relative_difference=nan,
    largest_difference=nan,
    n_rows=17,
    n_left_out=1,
)


def a_matrix(place="resid_post"):
    return CKAMatrix(
        place=place,
        a_model="gpt2",
        b_model="llama",
        a=("h.0/output", "h.1/output"),
        b=("model.layers.0/output",),
        a_layers=("0", "1"),
        b_layers=("0",),
        values=np.array([[0.5], [nan]]),
        debiased=np.array([[0.25], [nan]]),
        n_rows=17,
        n_left_out=1,
    )


def a_comparison(*matrices):
    return Comparison(
        a="runs/a",
        b="runs/b",
        a_model="gpt2, float32",
        b_model="llama, bfloat16",
        n_examples=3,
        n_tokens=18,
        by_token=True,
        pairs=(PAIR,),
        matrices=matrices,
        notes=("something was left out",),
    )


def test_it_prints_as_a_table():
    a, b, counts, columns, pair, note = repr(a_comparison()).splitlines()
    assert (a, b) == ("A: gpt2, float32 (runs/a)", "B: llama, bfloat16 (runs/b)")
    assert (counts, note) == ("3 texts, 18 tokens", "note: something was left out")
    assert columns.startswith("place       layer  cka  cka debiased  cosine  relative difference")
    assert pair.split() == ["resid_post", "1", "0.5", "0.25", "–", "–", "–", "17"]
    assert repr(a_matrix()).splitlines() == [
        "linear CKA at resid_post: layers of gpt2 down, of llama across",
        "     0",
        "0  0.5",
        "1    –",
        "over 17 rows",
    ]


def test_json_has_null_where_nothing_is():
    plain = a_comparison(a_matrix()).to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == json.loads(json.dumps(plain))
    assert [plain["pairs"][0][name] for name in MEASURES] == [0.5, 0.25, None, None, None]
    assert plain["matrices"][0]["values"] == [[0.5], [None]]
    assert plain["matrices"][0]["debiased"] == [[0.25], [None]]


def test_frames_are_named_by_sites_and_layers():
    frame = a_comparison().to_pandas()
    assert frame.loc[0, "b"] == "model.layers.1/output"
    square = a_matrix().to_pandas(debiased=True)
    assert (list(square.index), list(square)) == (["0", "1"], ["0"])
    assert square.loc["0", "0"] == 0.25


def test_matrices_are_given_by_place():
    one, two = a_matrix(), a_matrix("mlp_out")
    assert a_comparison(one).matrix() is one
    assert a_comparison(one, two).matrix("mlp_out") is two
    for found, asked, message in (
        (a_comparison(one, two), None, "no CKA matrix there is to choose; there is: resid_post, m"),
        (a_comparison(one), "z", "no CKA matrix of z; there is: resid_post"),
        (a_comparison(), None, "no CKA matrix was made; there is: none"),
    ):
        with pytest.raises(StoreError, match=message):
            found.matrix(asked)
