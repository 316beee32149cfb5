"""Columns of the user's own: from every source, of every type, with every fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from probekit.config import ProbeConfig, load_config
from probekit.errors import ConfigError
from probekit.inputs.contents import Codec, Encoded
from probekit.inputs.examples import Examples, Limits
from probekit.inputs.making import make_examples
from probekit.store import SealedInputs, UserColumn

ROWS: list[dict[str, Any]] = [
    {"text": "one", "label": 1, "score": 0.5, "seen": True, "subject": " Japan"},
    {"text": "two", "label": -7, "score": 2, "seen": False, "subject": ""},
    {"text": "three", "label": None, "score": None, "seen": None, "subject": None},
]
TYPES = {"label": "int64", "score": "float64", "seen": "bool", "subject": "text"}


def config_of(**inputs: Any) -> ProbeConfig:
    return load_config(
        {
            "model": {"name": "any"},
            "inputs": inputs,
            "probes": [{"modules": "**"}],
            "store": {"path": "runs/any"},
        }
    )


def read(**inputs: Any) -> Examples:
    """Read inputs, one token a character."""
    limits = Limits(n_tokens=None, d_vocab=2**21, too_long="truncate")
    encode = lambda texts: Encoded(ids=[[*map(ord, text)] for text in texts])  # noqa: E731
    return make_examples(config_of(**inputs), Codec(encode=encode), limits)


def values_of(examples: Examples) -> dict[str, list[Any]]:
    """Give every column as Python values, None where there is none."""
    return {column.type.name: listed(column) for column in examples.columns(0, len(examples))}


def listed(column: UserColumn) -> list[Any]:
    missing = [False] * len(column.values) if column.missing is None else column.missing.tolist()
    pairs = zip(column.values.tolist(), missing, strict=True)
    return [None if gone else value for value, gone in pairs]


def types_of(examples: Examples) -> dict[str, str]:
    return {type.name: type.dtype for type in examples.column_types}


WANTED = {name: [row[name] for row in ROWS] for name in TYPES}


def test_examples_of_a_config_keep_all_that_stands_beside_the_text() -> None:
    found = read(examples=ROWS)
    assert types_of(found) == TYPES
    assert values_of(found) == WANTED
    assert [found.text(n) for n in range(3)] == ["one", "two", "three"]


@pytest.mark.parametrize("columns", [["score", "label"], "all"])
def test_lines_of_json_keep_what_is_named(tmp_path: Path, columns: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    found = values_of(read(file=str(path), columns=columns))
    assert found == (WANTED if columns == "all" else {k: WANTED[k] for k in columns})
    assert read(file=str(path)).column_types == ()


def test_parquet_keeps_what_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert values_of(read(file=str(path), columns="all")) == WANTED
    assert list(values_of(read(file=str(path), columns=["seen"]))) == ["seen"]


def test_a_dataset_keeps_what_is_named(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "rows")
    found = read(dataset={"name": str(tmp_path / "rows")}, columns="all")
    assert values_of(found) == WANTED


CELLS = {
    "whole": (["1", "-7", "+3"], "int64", [1, -7, 3]),
    "gaps": (["1", "", "3"], "int64", [1, None, 3]),
    "mixed": (["1", "0.5", "1e3"], "float64", [1.0, 0.5, 1000.0]),
    "words": (["true", "False", "TRUE"], "bool", [True, False, True]),
    "codes": (["007", "12", "3"], "text", ["007", "12", "3"]),
    "long": (["12345678901234567890", "1", "2"], "text", ["12345678901234567890", "1", "2"]),
    "some": (["1", "two", "0.5"], "text", ["1", "two", "0.5"]),
    "none": (["", "", ""], "text", [None, None, None]),
    "odd": (["NaN", "inf", "-Inf"], "float64", [np.nan, np.inf, -np.inf]),
    "points": (["1.", ".5", "1.5e-3"], "float64", [1.0, 0.5, 0.0015]),
    "dated": (["2024-01-01", "2024-01-02", "1"], "text", ["2024-01-01", "2024-01-02", "1"]),
}


def test_cells_of_a_csv_file_are_what_they_look_like(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = [["text", *CELLS], *(["a", *(c[0][n] for c in CELLS.values())] for n in range(3))]
    path.write_text("\n".join(map(",".join, rows)))
    found = read(file=str(path), columns="all")
    assert types_of(found) == {name: dtype for name, (_, dtype, _) in CELLS.items()}
    for name, values in values_of(found).items():
        np.testing.assert_equal(values, CELLS[name][2])


def test_fields_that_no_column_holds_are_left_out_of_all_and_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "n": 1, "meta": null}\n{"text": "b", "n": 2, "meta": {"k": 1}}')
    found = read(file=str(path), columns="all")
    assert values_of(found) == {"n": [1, 2]}
    assert "meta left out" in found.notes[0] and f"{path}:2" in found.notes[0]


def test_a_field_that_only_some_rows_have_is_missing_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b", "n": 2}')
    assert values_of(read(file=str(path), columns="all")) == {"n": [None, 2]}


def test_the_id_names_the_example_and_is_a_column_where_it_is_named() -> None:
    row = {"text": "a", "id": "x", "n": 1}
    assert values_of(read(examples=[row])) == {"n": [1]}
    found = read(examples=[row], columns=["id", "n"])
    assert found.id(0) == "x"
    assert values_of(found) == {"id": ["x"], "n": [1]}


@pytest.mark.parametrize("columns", ["all", ["label"]])
def test_a_file_without_fields_has_no_columns(tmp_path: Path, columns: Any) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.raises(ConfigError, match=r"a\.txt: a \.txt file has no fields"):
        read(file=str(tmp_path / "a.txt"), columns=columns)


def test_a_whole_number_is_not_rounded_to_stand_beside_others() -> None:
    rows = [{"text": "a", "n": 2**53 + 1}, {"text": "b", "n": 0.5}]
    with pytest.raises(ConfigError, match=r"examples\[0\]: the column 'n' holds numbers with a"):
        read(examples=rows)
    assert values_of(read(examples=rows[:1])) == {"n": [2**53 + 1]}


FAULTS = [
    ([{"text": "a", "n": 1}, {"text": "b"}], "all", r"examples\[1\]: has no 'n'"),
    ([{"text": "a"}, {"text": "b", "n": 1}], "all", r"examples\[1\]: is the first that has a 'n'"),
    ([{"text": "a", "n": 1}], ["m"], r"examples\[0\]: there is no field 'm', which inputs.columns"),
    (
        [{"text": "a", "n": 1}, {"text": "b", "n": "x"}],
        "all",
        r"'n' holds a whole number \(.*examples\[0\]\) and text \(.*examples\[1\]\)",
    ),
    ([{"text": "a", "n": 1}, {"text": "b", "n": True}], "all", "a whole number .* and true or fa"),
    ([{"text": "a", "a/b": 1}], "all", "cannot be called 'a/b': a name with / in it"),
    ([{"label": 1}], "all", "there is no field 'text'; there is: label"),
    ([{"text": None, "n": 1}], "all", "the field 'text' is null; expected a text"),
]


@pytest.mark.parametrize(("rows", "columns", "said"), FAULTS)
def test_faults_of_columns_name_the_example(rows: Any, columns: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(examples=rows, columns=columns)


def test_a_column_that_the_first_row_has_not_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "n": 1}\n' * 30)
    with pytest.raises(ConfigError) as error:
        read(file=str(path), columns=["m"])
    assert str(error.value).endswith(
        "rows.jsonl:1: there is no field 'm', which inputs.columns names; there is: text, n. Write "
        "null where an example has no value"
    )


JSON_FAULTS = [
    ('{"text": "a", "n": [1]}', r"rows.jsonl:1: the field 'n' is \[1\]; a column holds"),
    ('{"text": "a", "n": 99999999999999999999}', "more than 64 bits"),
    ('{"text": "a", "n": "\\u0000"}', "NUL character"),
    ('{"text": "a", "n": 1}\n{"text": "b"}', "rows.jsonl:2: there is no field 'n', which"),
]


@pytest.mark.parametrize(("lines", "said"), JSON_FAULTS)
def test_a_named_field_that_no_column_holds_is_refused_by_line(
    tmp_path: Path, lines: str, said: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines)
    with pytest.raises(ConfigError, match=said):
        read(file=str(path), columns=["n"])


def test_plain_texts_and_random_tokens_have_no_columns() -> None:
    for source in ({"texts": ["a"]}, {"random": {"examples": 1, "max_tokens": 9}}):
        with pytest.raises(ConfigError, match=r"have no fields; give inputs\.examples"):
            config_of(**source, columns=["n"])


@pytest.mark.parametrize("columns", [["n"], None])
def test_columns_come_back_from_a_runs_folder(tmp_path: Path, columns: Any) -> None:
    made = read(examples=[{"text": "a", "n": 1}, {"text": "b", "n": None}], columns=columns)
    made.sealed({}).seal(tmp_path)
    sealed = SealedInputs.read(tmp_path)
    assert sealed is not None
    found = Examples.of(sealed)
    assert values_of(found) == {"n": [1, None]}
    assert found.digest == made.digest


def test_another_value_is_another_digest() -> None:
    digests = {
        read(examples=rows).digest
        for rows in (
            [{"text": "a", "n": 1}],
            [{"text": "a", "n": 2}],
            [{"text": "a", "m": 1}],
            [{"text": "a", "n": 1.0}],
            [{"text": "a"}],
        )
    }
    assert len(digests) == 5


def test_texts_without_columns_have_the_digest_they_had() -> None:
    assert read(examples=[{"text": "a"}]).digest == read(texts=["a"]).digest
