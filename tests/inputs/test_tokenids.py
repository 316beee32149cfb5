"""Token ids as inputs: from every source, with every fault, and what they read as."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from probekit.config import ProbeConfig, load_config
from probekit.errors import ConfigError
from probekit.inputs.contents import Codec, Decoded
from probekit.inputs.examples import Examples, Limits
from probekit.inputs.making import look_through, make_examples

IDS = [[5, 17, 300], [0], [7, 7]]
D_VOCAB = 512


def config_of(**inputs: Any) -> ProbeConfig:
    return load_config(
        {
            "model": {"name": "any"},
            "inputs": inputs,
            "probes": [{"modules": "**"}],
            "store": {"path": "runs/any"},
        }
    )


def as_letters(lists: Sequence[Sequence[int]]) -> Decoded:
    """Decode: a character an id; of a list with 400 in it nobody knows which is whose."""
    return Decoded(
        texts=["".join(chr(id + 40) for id in ids) for ids in lists],
        spans=[None if 400 in ids else [(n, n + 1) for n in range(len(ids))] for ids in lists],
    )


def read(*, codec: Codec | None = None, n_tokens: int | None = None, **inputs: Any) -> Examples:
    config = config_of(**inputs)
    limits = Limits(n_tokens=n_tokens, d_vocab=D_VOCAB, too_long=config.inputs.too_long)
    look_through(config)
    return make_examples(config, codec or Codec(decode=as_letters), limits)


def lists_of(examples: Examples) -> list[list[int]]:
    return [examples.token_ids(n, n + 1).tolist() for n in range(len(examples))]


# --- sources


@pytest.mark.parametrize(
    "given",
    [
        IDS,
        tuple(map(tuple, IDS)),
        [np.array(ids) for ids in IDS],
        [np.array(ids, dtype=np.uint16) for ids in IDS],
        [torch.tensor(ids) for ids in IDS],
        [pyarrow.array(ids) for ids in IDS],
        [[np.int64(id) for id in ids] for ids in IDS],
        pyarrow.array(IDS),
        np.array([*map(np.array, IDS), None], dtype=object)[:3],
    ],
)
def test_lists_of_any_kind_are_the_ids(given: Any) -> None:
    config = config_of(tokens=given)
    assert lists_of(read(tokens=given)) == IDS
    assert config.digest == config_of(tokens=IDS).digest
    assert load_config(config.decisions | {"store": {"path": "x"}}).digest == config.digest


def test_a_table_of_numbers_is_an_example_a_row() -> None:
    assert lists_of(read(tokens=np.arange(6).reshape(2, 3))) == [[0, 1, 2], [3, 4, 5]]


def test_one_bare_list_is_one_example() -> None:
    assert lists_of(read(tokens=[5, 17])) == [[5, 17]]
    assert lists_of(read(tokens=np.array([5, 17]))) == [[5, 17]]
    assert config_of(tokens=[5, 17]) == config_of(tokens=[[5, 17]])


def rows() -> list[dict[str, Any]]:
    return [{"ids": ids, "label": n, "id": f"p{n}"} for n, ids in enumerate(IDS)]


def as_jsonl(path: Path) -> dict[str, Any]:
    (path / "a.jsonl").write_text("\n".join(map(json.dumps, rows())))
    return {"file": str(path / "a.jsonl")}


def as_csv(path: Path) -> dict[str, Any]:
    lines = [f'p{n},"{ids}",{n}' for n, ids in enumerate(IDS)]
    (path / "a.csv").write_text("\n".join(["id,ids,label", *lines]))
    return {"file": str(path / "a.csv")}


def as_parquet(path: Path) -> dict[str, Any]:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows()), path / "a.parquet")
    return {"file": str(path / "a.parquet")}


def as_dataset(path: Path) -> dict[str, Any]:
    datasets.Dataset.from_list(rows()).save_to_disk(str(path / "saved"))
    return {"dataset": {"name": str(path / "saved")}}


def as_numpy_dataset(path: Path) -> dict[str, Any]:
    datasets.Dataset.from_list(rows()).with_format("numpy").save_to_disk(str(path / "saved"))
    return {"dataset": {"name": str(path / "saved")}}


def as_examples(path: Path) -> dict[str, Any]:
    return {"examples": rows()}


@pytest.mark.parametrize(
    "write", [as_jsonl, as_csv, as_parquet, as_dataset, as_numpy_dataset, as_examples]
)
def test_a_field_of_any_source_can_hold_them(tmp_path: Path, write: Any) -> None:
    examples = read(**write(tmp_path), tokens="ids", columns=["label"])
    assert lists_of(examples) == IDS
    assert [examples.id(n) for n in range(3)] == ["p0", "p1", "p2"]
    assert [column.type.name for column in examples.columns(0, 3)] == ["label"]
    assert examples.columns(0, 3)[0].values.tolist() == [0, 1, 2]
    assert [examples.text(n) for n in range(3)] == ["".join(chr(i + 40) for i in x) for x in IDS]


def test_all_other_fields_can_be_columns_the_text_too() -> None:
    given = [{"ids": [1], "text": "one"}, {"ids": [2], "text": "two"}]
    (column,) = read(examples=given, tokens="ids").columns(0, 2)
    assert column.type.name == "text"
    assert column.values.tolist() == ["one", "two"]


def test_without_a_tokenizer_there_is_no_text() -> None:
    examples = read(codec=Codec(), tokens=IDS)
    assert lists_of(examples) == IDS
    assert [examples.text(n) for n in range(3)] == ["", "", ""]
    assert not examples.has_spans


def test_characters_that_one_example_does_not_tell_are_told_of_none() -> None:
    examples = read(tokens=[[1, 2], [400]])
    assert not examples.has_spans
    (note,) = examples.notes
    assert "what 1 of 2 examples decodes to does not tell which characters a token" in note
    assert read(tokens=IDS).has_spans


def test_a_list_of_a_hundred_thousand_ids_is_read_and_cut() -> None:
    long = [n % 300 for n in range(100_000)]
    assert lists_of(read(tokens=[long, [1]])) == [long, [1]]
    examples = read(tokens=np.array(long), n_tokens=1000)
    assert lists_of(examples) == [long[:1000]]
    assert (examples.n_truncated, examples.n_cut, examples.is_about) == (1, 99_000, False)
    assert len(examples.text(0)) == 100_000
    assert examples.spans(0, 1)["char_end"].tolist() == [*range(1, 1001)]


def test_ids_and_what_they_read_as_are_the_digest() -> None:
    one = read(tokens=IDS)
    assert one.digest == read(tokens=IDS).digest
    assert one.digest != read(tokens=[[5, 17, 300], [0], [7, 8]]).digest
    assert one.digest != read(codec=Codec(), tokens=IDS).digest


# --- faults


LITERAL = [
    (
        [[1, 2], [3, 512]],
        r"inputs\.tokens\[1\]\[1\]: given 512, the model's vocabulary is 0 to 511",
    ),
    ([[1, -2]], r"inputs\.tokens\[0\]\[1\]: given -2 .*, expected at least 0"),
    ([[1, 2**31]], r"inputs\.tokens\[0\]\[1\]: given 2147483648 .*expected at most 2147483647"),
    ([[1, 10**40]], r"inputs\.tokens\[0\]\[1\]: given 1000.*expected at most 2147483647"),
    ([1, 2.0], r"inputs\.tokens\[1\]: given 2\.0 \(a number\), expected a whole number; write 2"),
    ([[1], [True]], r"inputs\.tokens\[1\]\[0\]: given true, expected a whole number"),
    ([[1], ["5"]], r"inputs\.tokens\[1\]\[0\]: given '5' .*; write it without quotes"),
    ([[1], [None]], r"inputs\.tokens\[1\]\[0\]: given null, expected a whole number"),
    ([[1], None], r"inputs\.tokens\[1\]: given null, expected a list"),
    ([[1], 3], r"inputs\.tokens\[1\]: given 3 \(a whole number\), expected a list"),
    ([[1], [[2]]], r"inputs\.tokens\[1\]\[0\]: given \[2\] \(a list\), expected a whole number"),
    ([], r"inputs\.tokens: given \[\] \(a list\), expected at least one value: lists of token ids"),
    ([[1], []], r"inputs\.tokens\[1\]: given \[\] \(a list\), expected at least one value"),
    (5, r"inputs\.tokens: given 5 \(a whole number\), expected lists of token ids, such as \[\["),
    ({"a": 1}, r"inputs\.tokens: given \{a: 1\} \(a mapping\), expected lists of token ids"),
    (np.array([[1.5]]), r"inputs\.tokens\[0\]\[0\]: given 1\.5 .*, expected a whole number"),
    (np.array([True]), r"inputs\.tokens\[0\]: given true, expected a whole number"),
    (np.zeros((2, 0), int), r"inputs\.tokens\[0\]: given \[\] \(a list\), expected at least one"),
]


@pytest.mark.parametrize(("given", "said"), LITERAL)
def test_ids_that_are_none_are_refused_by_their_place(given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(tokens=given)


IN_FIELDS = [
    ("[1, 512]", r":2: ids\[1\] is 512, the model's vocabulary is 0 to 511"),
    ("[1, -1]", r":2: ids\[1\] is -1; a token id is a whole number from 0 to 2147483647"),
    ("[2147483648]", r":2: ids\[0\] is 2147483648; a token id is"),
    ("[1.0]", r":2: ids\[0\] is 1\.0; a token id is"),
    ("[true]", r":2: ids\[0\] is true; a token id is"),
    ('["5"]', r":2: ids\[0\] is '5'; a token id is"),
    ("[null]", r":2: ids\[0\] is null; a token id is"),
    ("[[1]]", r":2: ids\[0\] is \[1\]; a token id is"),
    ("[]", r":2: the field 'ids' is empty: there is no token to record; remove it"),
    ("null", r":2: the field 'ids' is null; expected a list of token ids such as \[5, 17\]"),
    ('"[1]"', r":2: the field 'ids' is '\[1\]'; expected a list of token ids"),
    ("5", r":2: the field 'ids' is 5; expected a list of token ids"),
    ("{}", r":2: the field 'ids' is \{\}; expected a list of token ids"),
    ("1" * 5000, r":2: is not JSON: "),
]


@pytest.mark.parametrize(("value", "said"), IN_FIELDS)
def test_a_field_that_holds_none_is_refused_by_its_line(
    tmp_path: Path, value: str, said: str
) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"ids": [1]}}\n{{"ids": {value}}}\n')
    with pytest.raises(ConfigError, match=said):
        read(file=str(tmp_path / "a.jsonl"), tokens="ids")


@pytest.mark.parametrize("cell", ["5 17", "", "[1", "{}", "[" * 100_000])
def test_a_cell_of_a_csv_holds_json(tmp_path: Path, cell: str) -> None:
    (tmp_path / "a.csv").write_text(f'ids,n\n"[1, 2]",1\n"{cell}",2\n')
    with pytest.raises(ConfigError, match=r"a\.csv:3: the field 'ids' is .*; expected a list of t"):
        read(file=str(tmp_path / "a.csv"), tokens="ids")


def test_faults_are_told_together_up_to_twenty() -> None:
    with pytest.raises(ConfigError) as caught:
        read(tokens=[[n] for n in range(500, 600)])
    found = [re.findall(r"tokens\[(\d+)\]", str(fault))[0] for fault in caught.value.faults]
    assert found == [str(n) for n in range(12, 32)]


def test_a_text_file_has_no_lists(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 2\n")
    with pytest.raises(ConfigError, match="has no fields, and so no lists of token ids; give a"):
        read(file=str(tmp_path / "a.txt"), tokens="ids")


def test_a_field_that_is_not_there_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no field 'id_s'.*Set inputs.tokens: ids"):
        read(**as_jsonl(tmp_path), tokens="id_s")
    with pytest.raises(ConfigError, match=r"'ids' is \[5, 17, 300\]; .*Write tokens: ids"):
        read(**as_jsonl(tmp_path), field="ids")


def test_too_long_a_list_is_refused_where_that_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"tokens\[0\]: the list has 3 tokens, the limit is 2"):
        read(n_tokens=2, tokens=IDS, too_long="error")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"tokens": "ids"}, r"inputs\.tokens: given 'ids', the name of a field, and none; give"),
        ({"tokens": "ids", "texts": ["a"]}, r"inputs\.tokens: texts have no field 'ids'; give"),
        ({"tokens": [1], "texts": ["a"]}, "given texts and tokens, expected exactly one of"),
        ({"tokens": [1], "file": "a.jsonl"}, "given file and tokens, expected exactly one of"),
        ({"tokens": "a", "file": "b", "examples": [{"a": 1}]}, "given examples and file, expected"),
        ({"tokens": [1], "field": "x"}, r"inputs\.field: the examples are token ids, and inputs"),
        ({"tokens": "i", "file": "a", "field": "text"}, r"inputs\.field: .*leave it out"),
        ({"tokens": [1], "special_tokens": "bos"}, r"inputs\.special_tokens: tokens are token ids"),
        ({"tokens": [1], "columns": "all"}, r"inputs\.columns: tokens have no fields; give"),
        (
            {"random": {"examples": 1, "max_tokens": 9}, "special_tokens": "none"},
            r"inputs\.special_tokens: random are token ids already",
        ),
        (
            {"examples": [{"i": [1], "x": [2]}], "tokens": "i"},
            r"examples\[0\]\.x: given \[2\] \(a list\), expected text, a number, true, false or nu",
        ),
        (
            {"examples": [{"i": [1]}, {"i": [{}]}], "tokens": "i"},
            r"examples\[1\]\.i: given \[\{\}\] \(a list\), expected a list of token ids",
        ),
        (
            {"examples": [{"i": [1]}], "tokens": "ids"},
            r"examples\[0\]\.i: inputs\.tokens names the field 'ids'; write tokens: i",
        ),
    ],
)
def test_what_makes_no_sense_beside_them_is_refused(inputs: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(**inputs)
