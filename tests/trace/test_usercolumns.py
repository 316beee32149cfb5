"""Columns of the user's own in a trace: what a run keeps, against what was given and bare h5py."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import probekit
from probekit.errors import StoreError
from probekit.trace import Trace

WORDS = ["Cats are", "The capital of Japan is", "a", "One, two, three"]
LABELS = [3, 0, 2, 1]
SCORES = [0.5, None, 2.25, -1.0]
SUBJECTS = ["Cats", " Japan", None, "ü"]
SEEN = [True, None, False, True]
ROWS = [
    {"text": t, "label": n, "score": x, "subject": s, "seen": b}
    for t, n, x, s, b in zip(WORDS, LABELS, SCORES, SUBJECTS, SEEN, strict=True)
]


def config(folder: Path, rows: list[dict[str, Any]] = ROWS, **more: Any) -> dict[str, Any]:
    return {
        "model": {"name": "sample:tiny-gpt2"},
        "inputs": {"examples": rows},
        "probes": [
            {"sites": "resid_post", "layers": 0},
            {"sites": "resid_post", "layers": 1, "positions": "last"},
            {"sites": "resid_mid", "layers": 0, "pool": "mean"},
        ],
        "store": {"path": str(folder), "shard_bytes": 4000},
        **more,
    }


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    found = probekit.run(config(tmp_path_factory.mktemp("columns") / "run"), self_check=False)
    assert len(list((found.path.parent / "shards").glob("*.h5"))) > 1
    return found


def test_a_column_comes_back_as_it_was_given(trace: Trace) -> None:
    assert list(trace.columns) == ["label", "score", "seen", "subject"]
    assert trace.columns["label"].tolist() == LABELS
    assert trace.columns["label"].dtype == np.int64
    assert trace.columns["score"].tolist() == SCORES
    assert trace.columns["subject"].tolist() == SUBJECTS
    assert trace.columns["seen"].tolist() == SEEN
    for number, row in enumerate(ROWS):
        given = {name: row[name] for name in ("label", "score", "seen", "subject")}
        assert trace.examples[number].columns == given


def test_any_hdf5_reader_finds_them_beside_the_examples(trace: Trace) -> None:
    with h5py.File(trace.path) as file:
        assert file["examples/columns/label"][:].tolist() == LABELS
        subjects = file["examples/columns/subject"].asstr()[:].tolist()
        assert subjects == [subject or "" for subject in SUBJECTS]
        assert file["examples/missing/subject"][:].tolist() == [s is None for s in SUBJECTS]
        assert "label" not in file["examples/missing"]
    first, *_ = sorted((trace.path.parent / "shards").glob("*.h5"))
    alone = probekit.open(first)
    assert alone.columns["label"].tolist() == LABELS[: len(alone.examples)]


def test_a_table_of_examples_has_them_with_gaps(trace: Trace) -> None:
    frame = trace.to_pandas("examples")
    assert frame["label"].tolist() == LABELS
    assert frame["score"].isna().tolist() == [x is None for x in SCORES]
    assert frame["subject"].isna().tolist() == [s is None for s in SUBJECTS]
    assert frame["seen"].dtype == "boolean"


def test_xarray_has_them_along_examples_and_along_tokens(trace: Trace) -> None:
    found = trace.to_xarray()
    n_tokens = np.diff([*trace.examples.first_token[:], len(trace.tokens)])
    assert found["example_label"].values.tolist() == LABELS
    assert found["token_label"].values.tolist() == np.repeat(LABELS, n_tokens).tolist()
    spread = np.repeat(np.array(SUBJECTS, dtype=object), n_tokens)
    assert found["token_subject"].values.tolist() == spread.tolist()
    wanted = np.repeat([np.nan if x is None else x for x in SCORES], n_tokens)
    np.testing.assert_equal(found["token_score"].values, wanted)
    layer = found["transformer.h.0/output"]
    assert layer[found["token_label"] == 0].shape[0] == n_tokens[1]


@pytest.mark.parametrize("site", ["transformer.h.0/output", "transformer.h.1/output"])
def test_batches_carry_the_columns_of_their_rows(trace: Trace, site: str) -> None:
    data = trace.dataset(
        site, batch_size=3, shuffle=True, origin=True, columns=["label", "score", "subject"]
    )
    n_rows = 0
    for batch in data:
        owners = batch["example"].tolist()
        assert batch["label"].tolist() == [LABELS[n] for n in owners]
        assert batch["label"].dtype == torch.int64
        assert batch["subject"] == [SUBJECTS[n] or "" for n in owners]
        scores = [np.nan if SCORES[n] is None else SCORES[n] for n in owners]
        np.testing.assert_equal(batch["score"].numpy(), scores)
        n_rows += len(owners)
    assert n_rows == len(trace[site])


def test_one_row_an_example_carries_its_own_columns(trace: Trace) -> None:
    items = trace.map_dataset("resid_mid", columns="label")
    assert [int(items[n]["label"]) for n in range(4)] == LABELS
    assert pickle.loads(pickle.dumps(items))[2]["label"] == LABELS[2]


def test_a_gap_that_a_tensor_cannot_show_is_refused_unless_left_out(trace: Trace) -> None:
    with pytest.raises(StoreError, match="example 1 has no seen, and a tensor of bool"):
        trace.dataset("resid_mid", batch_size=2, columns=["seen"])
    whole = probekit.run(
        config(
            trace.path.parent.parent / "gaps",
            [{"text": "a", "n": 1}, {"text": "b", "n": None}, {"text": "c", "n": 3}],
        ),
        self_check=False,
    )
    items = whole.map_dataset("resid_mid", columns=["n"], rows=np.array([0, 2]))
    assert [int(items[n]["n"]) for n in range(2)] == [1, 3]
    known = ~np.ma.getmaskarray(trace.columns["seen"])
    data = trace.dataset("resid_mid", batch_size=4, columns=["seen"], rows=known)
    assert [batch["seen"].tolist() for batch in data] == [[True, False, True]]


def test_a_merged_file_has_them(trace: Trace, tmp_path: Path) -> None:
    merged = trace.merge(tmp_path / "merged.h5")
    assert [merged.examples[n].columns for n in range(4)] == [
        trace.examples[n].columns for n in range(4)
    ]


def test_a_name_that_is_none_is_refused_with_the_near_one(trace: Trace) -> None:
    with pytest.raises(StoreError, match="no column 'lable'; did you mean label"):
        trace.columns["lable"]
    assert "label" in trace.columns and "lable" not in trace.columns


def test_a_trace_without_columns_has_none(tmp_path: Path) -> None:
    plain = [{"text": text} for text in WORDS]
    found = probekit.run(config(tmp_path / "plain", plain), self_check=False)
    assert dict(found.columns) == {}
    assert found.examples[0].columns == {}
    with h5py.File(found.path) as file:
        assert set(file["examples"]) == {"id", "text", "first_token", "n_tokens"}
    with pytest.raises(StoreError, match="the config keeps none"):
        found.columns["label"]


def test_texts_that_the_model_goes_on_from_keep_their_columns(tmp_path: Path) -> None:
    more = {"generate": {"max_new_tokens": 3}}
    found = probekit.run(config(tmp_path / "said", **more), self_check=False)
    assert found.columns["label"].tolist() == LABELS
    assert probekit.verify(found.path.parent).whole


def test_a_field_called_as_a_column_of_the_trace_stays_apart(tmp_path: Path) -> None:
    rows = [{"prompt": "Cats are", "text": "other", "n_tokens": 99}]
    given = config(tmp_path / "named", rows)
    given["inputs"]["field"] = "prompt"
    found = probekit.run(given, self_check=False)
    assert found.examples[0].text == "Cats are"
    assert found.examples[0].columns == {"text": "other", "n_tokens": 99}
    assert found.to_pandas("examples")["columns.n_tokens"].tolist() == [99]
    assert found.to_xarray()["example_column_text"].values.tolist() == ["other"]
