"""Texts to examples: every source, every fault, and what is kept off the heap."""

from __future__ import annotations

import csv
import io
import json
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings, strategies as st

from probekit.config.loading import load_config
from probekit.config.probeconfig import ProbeConfig
from probekit.errors import ConfigError
from probekit.inputs import making
from probekit.inputs.contents import Codec, Encoded
from probekit.inputs.datasets import opening
from probekit.inputs.examples import Examples, Limits
from probekit.inputs.making import look_through, make_examples

TEXTS = ["My favorite color is", "Cats", "  spaces kept ", "日本語 🙂", 'a "quoted", text']
NO_LIMITS = Limits(n_tokens=None, d_vocab=2**21, too_long="truncate")


def codes(texts: list[str]) -> list[list[int]]:
    """Tokenize: one token a character, its code point."""
    return [[ord(char) for char in text] for text in texts]


def encoded(texts: list[str]) -> Encoded:
    return Encoded(ids=codes(texts), spans=[[(n, n + 1) for n in range(len(t))] for t in texts])


def config_of(**inputs: Any) -> ProbeConfig:
    return load_config(
        {
            "model": {"name": "any"},
            "inputs": inputs,
            "probes": [{"modules": "**"}],
            "store": {"path": "runs/any"},
        }
    )


def read(limits: Limits = NO_LIMITS, **inputs: Any) -> Examples:
    return make_examples(config_of(**inputs), Codec(encode=encoded), limits)


def texts_of(examples: Examples) -> list[str]:
    return [examples.text(n) for n in range(len(examples))]


def ids_of(examples: Examples) -> list[str]:
    return [examples.id(n) for n in range(len(examples))]


def put(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


# --- examples


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), min_size=1)
)
def test_examples_hold_every_text_and_token(texts: list[str]) -> None:
    examples = read(texts=texts)
    wanted = codes(texts)
    assert texts_of(examples) == texts
    assert ids_of(examples) == [str(n) for n in range(len(texts))]
    assert examples.n_tokens.tolist() == [len(ids) for ids in wanted]
    assert examples.total_tokens == sum(map(len, wanted))
    for number in range(len(texts)):
        assert examples.token_ids(number, number + 1).tolist() == wanted[number]
    assert examples.token_ids(0, len(texts)).tolist() == [token for ids in wanted for token in ids]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abc é", min_size=1).filter(str.strip), min_size=1, max_size=6), st.data())
def test_a_prompt_can_be_several_examples(texts: list[str], data: Any) -> None:
    """Every accessor against the prompts, written out one after another."""
    n_each = data.draw(st.integers(2, 4))
    prompts = read(examples=[{"text": t, "id": f"q{n}", "n": n} for n, t in enumerate(texts)],
                   columns=["n"])  # fmt: skip
    several = prompts.each(n_each)
    owners = [n for n in range(len(texts)) for _ in range(n_each)]
    begin = data.draw(st.integers(0, len(owners) - 1))
    end = data.draw(st.integers(begin + 1, len(owners)))
    some = owners[begin:end]
    assert len(several) == len(owners)
    assert several.n_tokens.tolist() == [int(prompts.n_tokens[n]) for n in owners]
    assert several.total_tokens == int(several.n_tokens.sum())
    ids = [t for n in some for t in prompts.token_ids(n, n + 1).tolist()]
    assert several.token_ids(begin, end).tolist() == ids
    assert [several.text(e) for e in range(len(owners))] == [texts[n] for n in owners]
    assert several.id(begin) == f"q{owners[begin]}:{begin % n_each}"
    spans = [s for n in some for s in prompts.spans(n, n + 1)["char_start"].tolist()]
    assert several.spans(begin, end)["char_start"].tolist() == spans
    (column,) = several.columns(begin, end)
    assert [column.value(at) for at in range(len(some))] == some
    places = several.places(begin, end)
    assert places["prompt"].tolist() == some
    assert places["sample"].tolist() == [e % n_each for e in range(begin, end)]
    assert several.digest == prompts.digest and len(several.prompts) == len(texts)
    assert (several.string_bytes > np.repeat(prompts.string_bytes, n_each)).all()
    assert prompts.places(0, 1) == {} and prompts.id(0) == "q0"


def test_more_texts_than_are_tokenized_at_once_keep_their_order() -> None:
    groups: list[int] = []

    def encode(texts: list[str]) -> Encoded:
        groups.append(len(texts))
        return encoded(texts)

    texts = [f"{n:05d}" for n in range(2500)]
    examples = make_examples(config_of(texts=texts), Codec(encode=encode), NO_LIMITS)
    assert texts_of(examples) == texts
    assert sum(groups) == 2500 and max(groups) <= 1000


def test_tokens_are_mapped_and_not_held_in_memory() -> None:
    examples = read(texts=TEXTS)
    ids = examples.token_ids(0, 2)
    assert isinstance(ids, np.memmap) and ids.dtype == np.int32
    assert not ids.flags.writeable


@pytest.mark.slow
def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    text = "x" * 4000
    path = put(tmp_path / "a.txt", f"{text}\n" * 5000)  # 20 MB of text, 80 MB of tokens
    one = [[120] * 4000]
    covers = [[(n, n + 1) for n in range(4000)]]

    def encode(texts: list[str]) -> Encoded:
        return Encoded(ids=one * len(texts), spans=covers * len(texts))

    tracemalloc.start()
    examples = make_examples(config_of(file=path), Codec(encode=encode), NO_LIMITS)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert examples.total_tokens == 20_000_000
    assert held < 5_000_000


# --- files


def as_txt(path: Path) -> str:
    return put(path / "a.txt", "".join(f"{text}\n" for text in TEXTS))


def as_jsonl(path: Path) -> str:
    rows = [json.dumps({"n": 1, "text": text}) for text in TEXTS]
    return put(path / "a.jsonl", "\n".join(rows))


def as_csv(path: Path) -> str:
    out = io.StringIO()
    rows = csv.DictWriter(out, ["n", "text"])
    rows.writeheader()
    rows.writerows({"n": 1, "text": text} for text in TEXTS)
    return put(path / "a.csv", out.getvalue())


def as_parquet(path: Path) -> str:
    table = pyarrow.table({"n": [1] * len(TEXTS), "text": TEXTS})
    pyarrow.parquet.write_table(table, path / "a.parquet", row_group_size=2)
    return str(path / "a.parquet")


@pytest.mark.parametrize("write", [as_txt, as_jsonl, as_csv, as_parquet])
def test_every_kind_of_file_gives_its_texts(tmp_path: Path, write: Any) -> None:
    examples = read(file=write(tmp_path))
    assert texts_of(examples) == TEXTS
    assert ids_of(examples) == ["0", "1", "2", "3", "4"]
    assert [examples.token_ids(n, n + 1).tolist() for n in range(5)] == codes(TEXTS)


def test_the_ending_may_be_in_capitals(tmp_path: Path) -> None:
    assert texts_of(read(file=put(tmp_path / "A.TXT", "one\n"))) == ["one"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_of_any_system_are_read_alike(tmp_path: Path, end: str) -> None:
    assert texts_of(read(file=put(tmp_path / "a.txt", f"one{end}two"))) == ["one", "two"]
    rows = end.join(['{"text": "one"}', '{"text": "two"}', ""])
    assert texts_of(read(file=put(tmp_path / "a.jsonl", rows))) == ["one", "two"]
    rows = end.join(["text", "one", '"two"', ""])
    assert texts_of(read(file=put(tmp_path / "a.csv", rows))) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", "one\n"), ("a.jsonl", '{"text": "one"}\n'), ("a.csv", "text\none\n")],
)
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str, content: str) -> None:
    assert texts_of(read(file=put(tmp_path / name, "\ufeff" + content))) == ["one"]


def test_a_csv_text_may_span_lines(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", 'text,n\n"two\nlines, one text",1\n\nlast,2\n')
    assert texts_of(read(file=path)) == ["two\nlines, one text", "last"]


def test_json_escapes_are_read(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", r'{"text": "\u00e9 \ud83d\ude42 \n"}')
    assert texts_of(read(file=path)) == ["é 🙂 \n"]


def test_another_field_can_hold_the_text(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"text": 1, "prompt": "hi"}\n')
    assert texts_of(read(file=path, field="prompt")) == ["hi"]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_ids_of_the_file_are_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        put(path, '{"id": 7, "text": "a"}\n{"id": "b-2", "text": "b"}\n')
    elif kind == "csv":
        put(path, "id,text\n7,a\nb-2,b\n")
    else:
        table = pyarrow.table({"id": ["7", "b-2"], "text": ["a", "b"]})
        pyarrow.parquet.write_table(table, path)
    assert ids_of(read(file=str(path))) == ["7", "b-2"]


def test_a_row_without_id_has_its_number(tmp_path: Path) -> None:
    path = put(
        tmp_path / "a.jsonl", '{"id": null, "text": "a"}\n{"text": "b"}\n{"id": 7, "text": "c"}'
    )
    assert ids_of(read(file=path)) == ["0", "1", "7"]


def test_a_row_without_id_never_has_anothers(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b", "id": 2}, {"text": "c"}, {"text": "d", "id": "0"}]
    path = put(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError) as caught:
        read(file=path)
    told = [fault.message for fault in caught.value.faults]
    assert [re.findall(r"number (\d+)", message) for message in told] == [["0"], ["2"]]


@pytest.mark.parametrize(("name", "text"), [("a.txt", "one\n\n  \ntwo\n"), ("a.jsonl", None)])
def test_blank_lines_are_left_out_and_counted(tmp_path: Path, name: str, text: str | None) -> None:
    path = put(tmp_path / name, text or '{"text": "one"}\n\n\n{"text": "two"}\n')
    examples = read(file=path)
    assert [examples.text(n) for n in range(len(examples))] == ["one", "two"]
    assert ids_of(examples) == ["0", "3"]  # a line keeps its number
    assert examples.notes == ("config: inputs.file: 2 blank lines are left out",)
    assert len(read(file=path, limit=2)) == 2


def test_a_cell_of_a_csv_may_be_long(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = put(tmp_path / "a.csv", "text\n" + "x" * 300_000 + "\n")
    assert len(read(file=path).text(0)) == 300_000
    assert csv.field_size_limit() == before


# --- data sets


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give a local folder that `datasets` reads, and a cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "prompts").mkdir()
    rows = [{"text": text, "id": f"p{n}"} for n, text in enumerate(TEXTS)]
    put(tmp_path / "prompts" / "train.jsonl", "\n".join(map(json.dumps, rows)))
    put(tmp_path / "prompts" / "test.jsonl", '{"text": "only", "id": "t"}')
    datasets.disable_progress_bars()
    yield str(tmp_path / "prompts")
    datasets.enable_progress_bars()


def test_a_local_data_set_gives_its_texts(dataset: str) -> None:
    examples = read(dataset={"name": dataset})
    assert texts_of(examples) == TEXTS
    assert ids_of(examples) == ["p0", "p1", "p2", "p3", "p4"]
    assert texts_of(read(dataset={"name": dataset, "split": "test"})) == ["only"]


def test_a_data_set_that_cannot_be_had_is_named(dataset: str, tmp_path: Path) -> None:
    message = r"inputs\.dataset: .*nowhere cannot be loaded: .*"
    with pytest.raises(ConfigError, match=message):
        read(dataset={"name": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match=r"prompts cannot be loaded: Unknown split .validation."):
        read(dataset={"name": dataset, "split": "validation"})


def test_a_hub_out_of_reach_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "hub_in_reach", lambda: False)
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(ConfigError, match=r"inputs\.dataset: imdb .*hub is out of reach, .*Give"):
        read(dataset={"name": "imdb"})
    assert before == datasets.config.HF_HUB_OFFLINE


def test_a_data_set_without_the_field_says_which_there_are(dataset: str) -> None:
    message = r"prompts\[test\]\[0\]: there is no field 'prompt'; there is: text, id\. Set inputs"
    with pytest.raises(ConfigError, match=message):
        read(dataset={"name": dataset, "split": "test"}, field="prompt")


# --- limits


def test_only_so_many_texts_are_read(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"text": "one"}\n{"text": "two"}\nnot JSON\n')
    assert texts_of(read(file=path, limit=2)) == ["one", "two"]
    assert texts_of(read(texts=TEXTS, limit=99)) == TEXTS


def test_long_texts_are_cut_and_counted() -> None:
    limits = Limits(n_tokens=4, d_vocab=1000, too_long="truncate")
    examples = read(limits, texts=["12345678", "1234", "1"])
    assert examples.n_tokens.tolist() == [4, 4, 1]
    assert examples.token_ids(0, 1).tolist() == codes(["1234"])[0]
    assert examples.text(0) == "12345678"
    assert (examples.n_truncated, examples.n_cut) == (1, 4)
    assert read(texts=["12345678"]).n_truncated == 0


def test_long_texts_are_refused_where_that_is_asked_for() -> None:
    limits = Limits(n_tokens=4, d_vocab=1000, too_long="error")
    message = (
        r"inputs\.texts\[0\]: the text has 8 tokens, the limit is 4; shorten.*\n"
        r".*inputs\.texts\[2\]: the text has 5 tokens"
    )
    with pytest.raises(ConfigError, match=message):
        read(limits, texts=["12345678", "1234", "12345"])


def few(texts: list[str]) -> Encoded:
    """Encode six tokens of a text at most, and guess how many more there are."""
    return Encoded(ids=codes([text[:6] for text in texts]), n_more=[len(t[6:]) for t in texts])


def test_tokens_that_were_cut_uncounted_are_told_as_about_so_many() -> None:
    limits = Limits(n_tokens=4, d_vocab=1000, too_long="truncate")
    examples = make_examples(config_of(texts=["x" * 5000, "12345"]), Codec(encode=few), limits)
    assert (examples.n_truncated, examples.n_cut, examples.is_about) == (2, 4997, True)
    assert not make_examples(config_of(texts=["12345"]), Codec(encode=few), limits).is_about
    refused = Limits(n_tokens=4, d_vocab=1000, too_long="error")
    with pytest.raises(ConfigError, match="has about 5,000 tokens, the limit is 4"):
        make_examples(config_of(texts=["x" * 5000]), Codec(encode=few), refused)


def test_few_long_texts_are_tokenized_at_once() -> None:
    sizes = []

    def noted(texts: list[str]) -> Encoded:
        sizes.append(len(texts))
        return Encoded(ids=[[1]] * len(texts))

    texts = ["x" * 400_000] * 9 + ["y"] * 1500
    assert texts_of(make_examples(config_of(texts=texts), Codec(encode=noted), NO_LIMITS)) == texts
    assert sizes == [3, 3, 3, 1000, 500]


def test_a_token_outside_the_models_vocabulary_is_refused() -> None:
    limits = Limits(n_tokens=None, d_vocab=ord("d"), too_long="truncate")
    assert len(read(limits, texts=["abc"])) == 1
    message = (
        r"texts\[1\]: token id 100 is out of the model's vocabulary \(0\.\.99\); the tokenizer"
    )
    with pytest.raises(ConfigError, match=message):
        read(limits, texts=["abc", "abd"])
    with pytest.raises(ConfigError, match=r"texts\[0\]: .*; so it is in 2 more texts$") as caught:
        read(limits, texts=["abd", "abc", "dd", "d"])
    assert len(caught.value.faults) == 1
    with pytest.raises(ConfigError, match=r"so it is in 19 more texts at least$"):
        read(limits, texts=["d"] * 50)


# --- faults


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": ""}\n', r"a\.jsonl:2: the text is empty"),
        ("a.jsonl", '{"text": "a"}\n{\n', r"a\.jsonl:2: is not JSON: Expecting property"),
        ("a.jsonl", '{"text": "a"}\n{"a": {"b": 1, "b": 2}}\n', r"names the field 'b' twice"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"a\.jsonl:2: is not JSON: "),
        ("a.jsonl", "[" * 200_000, r"a\.jsonl:1: is not JSON: "),
        ("a.jsonl", '["a"]\n', r"a\.jsonl:1: expected an object with the field 'text', given \['a"),
        ("a.jsonl", '{"txt": "a", "n": 1}', r"1: there is no field 'text'; there is: txt, n\. Did"),
        ("a.jsonl", '{"txt": "a"}', r"Did you mean txt\? Set inputs.field: txt$"),
        ("a.jsonl", '{"text": "a" 1}\n', r"a\.jsonl:1: .* delimiter at column 14$"),
        ("a.jsonl", '{"text": "a"\n', r":1: .* at column 13; the line ends too early"),
        ("a.csv", "text;n\na;1\n", r"a\.csv:1: the separator looks like ';': save it with commas"),
        ("a.csv", "text\tn\na\t1\n", r"a\.csv:1: the separator looks like a tab: save it"),
        ("a.csv", 'text\nb\n"a" b\n', r"a\.csv:3: .* closing quote, in the row .* on line 3"),
        ("a.csv", "", r"inputs\.file: there are no texts in it: .*a\.csv is empty"),
        ("a.txt", "\n \n", r"inputs\.file: there are no texts in it: .* only blank lines"),
        ("a.json", "[]", r"not known; did you mean \.jsonl, one object a line\? expected"),
        ("a.jsonl", '{"text": null}', r"a\.jsonl:1: the field 'text' is null; expected a text"),
        ("a.jsonl", '{"text": 3}', r"a\.jsonl:1: the field 'text' is 3; expected a text"),
        ("a.jsonl", r'{"text": "a\u0000b"}', r"a\.jsonl:1: the text has a NUL character"),
        ("a.jsonl", r'{"text": "\ud83d"}', r"a\.jsonl:1: the text has .* a lone surrogate"),
        ("a.jsonl", r'{"text": "a", "id": "\ud83d"}', r"a\.jsonl:1: the id has .*surrogate"),
        ("a.txt", "a\0b\n", r"a\.txt:1: the text has a NUL character"),
        ("a.csv", "txt,n\na,1\n", r"a\.csv:2: there is no field 'text'; there is: txt, n\."),
        ("a.csv", "n,text\n1\n", r"a\.csv:2: has fewer columns than the header, and no 'text'"),
        ("a.csv", "text\nHello, world\n", r"a\.csv:2: has more columns than the header; put a"),
        ("a.csv", 'text\n"a\n', r"a\.csv:2: is not CSV: a quote opened in this row is never"),
        ("a.csv", 'text\nb\n"a\nb\n', r"a\.csv:3: is not CSV: a quote opened in this row"),
        ("a.csv", "text\na\n\n  ,\n", r"a\.csv:4: has more columns"),
        (
            "a.csv",
            "text\n",
            r"inputs\.file: there are no texts in it: .* holds only a header",
        ),
        ("a.txt", "", r"inputs\.file: there are no texts in it: .*a\.txt is empty"),
        ("a.parquet", "PAR0", r"a\.parquet: is not whole Parquet: "),
        ("a.md", "# hi", r"a\.md has an ending that is not known; expected \.txt, \.jsonl, \.csv"),
    ],
)
def test_a_fault_in_a_file_is_named_by_its_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(file=put(tmp_path / name, content))


@pytest.mark.parametrize(
    ("name", "before"), [("a.txt", "one\n"), ("a.jsonl", '{"text": "a"}\n'), ("a.csv", "text\n")]
)
def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path, name: str, before: str) -> None:
    path = put(tmp_path / name, before.encode() + "naïve\n".encode("latin-1"))
    message = r"a\.\w+:2: is not UTF-8 \(byte 0xef at column 3\); save the file as UTF-8"
    with pytest.raises(ConfigError, match=message):
        read(file=path)


def test_a_parquet_file_without_the_field_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.parquet: there is no field 'q'; there is: n, text"):
        read(file=as_parquet(tmp_path), field="q")


def test_a_parquet_file_that_is_damaged_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a" * 500, "b" * 500]}), path)
    damaged = bytearray(path.read_bytes())
    damaged[40:60] = b"\xff" * 20
    path.write_bytes(damaged)
    with pytest.raises(ConfigError, match=r"a\.parquet: is not whole Parquet: "):
        read(file=str(path))


def test_a_field_that_is_no_text_is_refused_in_parquet(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"a\.parquet: row 0: the field 'n' is 1; expected a text"
    ):
        read(file=as_parquet(tmp_path), field="n")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"inputs\.file: there is no file {tmp_path}/a\.txt"):
        read(file=str(tmp_path / "a.txt"))


def test_a_folder_is_no_file_of_texts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"inputs\.file: .* is a folder; expected a file, \.txt"):
        read(file=str(tmp_path))


def test_a_column_that_is_not_there_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match=r"names; did you mean label\? there is: text, label"):
        read(examples=[{"text": "a", "label": 1}], columns=["lable"])


def test_all_faults_are_reported_together_up_to_twenty(tmp_path: Path) -> None:
    wrong = ['{"text": ""}', "no JSON", '{"text": 5}']  # of every kind, and of any stage
    path = put(tmp_path / "a.jsonl", "".join(f'{{"text": "ok"}}\n{line}\n' for line in wrong))
    with pytest.raises(ConfigError) as caught:
        read(file=path)
    assert {fault.where for fault in caught.value.faults} == {f"{path}:{n}" for n in (2, 4, 6)}
    path = put(tmp_path / "b.jsonl", "[]\n" * 3000)
    with pytest.raises(ConfigError) as caught:
        read(file=path)
    assert [fault.where for fault in caught.value.faults] == [f"{path}:{n + 1}" for n in range(20)]


def test_a_long_value_is_shortened_in_a_message(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", json.dumps({"text": ["x" * 10_000]}))
    with pytest.raises(ConfigError, match=r"the field 'text' is \['x+\.\.\.; expected") as caught:
        read(file=path)
    assert len(str(caught.value)) < 300


def test_texts_without_a_tokenizer_are_refused() -> None:
    with pytest.raises(ConfigError, match="texts need a tokenizer, and none is at hand"):
        make_examples(config_of(texts=TEXTS), Codec(), NO_LIMITS)


# --- random inputs


def random(**given: Any) -> Examples:
    wanted = {"examples": 50, "min_tokens": 2, "max_tokens": 9, **given}
    return make_examples(
        config_of(random=wanted), Codec(), Limits(n_tokens=16, d_vocab=30, too_long="error")
    )


def test_random_inputs_need_no_tokenizer_and_stay_in_bounds() -> None:
    examples = random()
    assert len(examples) == 50
    assert set(examples.n_tokens.tolist()) == set(range(2, 10))
    assert set(examples.token_ids(0, 50).tolist()) == set(range(30))
    assert texts_of(examples) == [""] * 50
    assert ids_of(examples)[:2] == ["random-0", "random-1"]
    assert examples.n_truncated == 0


def test_random_inputs_depend_on_the_seed_alone() -> None:
    assert random().digest == random().digest
    assert random().digest != random(seed=1).digest


def test_the_first_random_inputs_do_not_depend_on_how_many_there_are() -> None:
    few, many = random(examples=5), random()
    n = few.total_tokens
    assert few.token_ids(0, 5).tolist() == many.token_ids(0, 50)[:n].tolist()


def test_random_inputs_longer_than_the_model_takes_are_refused() -> None:
    message = r"inputs\.random\.max_tokens: 17 tokens are more than the limit of 16"
    with pytest.raises(ConfigError, match=message):
        random(max_tokens=17)


# --- digest


def digest(tmp_path: Path, rows: list[tuple[str, str]], n_tokens: int | None = None) -> str:
    path = put(
        tmp_path / "a.jsonl", "\n".join(json.dumps({"id": i, "text": text}) for i, text in rows)
    )
    limits = Limits(n_tokens=n_tokens, d_vocab=2**21, too_long="truncate")
    return read(limits, file=path).digest


ROWS = [("a", "abc"), ("b", "abd")]


def test_equal_inputs_have_equal_digests(tmp_path: Path) -> None:
    assert digest(tmp_path, ROWS) == digest(tmp_path, list(ROWS))


@pytest.mark.parametrize(
    "changed",
    [
        [("a", "abc"), ("b", "abe")],
        [("a", "abc"), ("c", "abd")],
        [("a", "abca"), ("b", "bd")],
        [("ab", "abc"), ("", "abd")],
        [("b", "abd"), ("a", "abc")],
        [("a", "abc")],
        [("a", "abc"), ("b", "abd"), ("c", "abc")],
    ],
)
def test_a_change_of_a_text_or_an_id_changes_the_digest(
    tmp_path: Path, changed: list[tuple[str, str]]
) -> None:
    assert digest(tmp_path, changed) != digest(tmp_path, ROWS)


def test_a_text_that_is_cut_counts_as_it_was_given(tmp_path: Path) -> None:
    # The tokens are the same, and so are all texts one after another.
    one, two = [("a", "abab"), ("b", "abc")], [("a", "ab"), ("b", "ababc")]
    assert digest(tmp_path, one, 2) != digest(tmp_path, two, 2)


def test_a_change_of_the_tokens_alone_changes_the_digest() -> None:
    config = config_of(texts=TEXTS)
    one = make_examples(config, Codec(encode=encoded), NO_LIMITS)

    def backwards(texts: list[str]) -> Encoded:
        found = encoded(texts)
        return Encoded(ids=[ids[::-1] for ids in found.ids], spans=found.spans)

    two = make_examples(config, Codec(encode=backwards), NO_LIMITS)
    assert one.digest != two.digest
    assert one.digest_of_format_1 != two.digest_of_format_1


def test_which_characters_a_token_covers_is_part_of_the_digest() -> None:
    config = config_of(texts=TEXTS)
    one = make_examples(config, Codec(encode=encoded), NO_LIMITS)
    two = make_examples(config, Codec(encode=lambda texts: Encoded(ids=codes(texts))), NO_LIMITS)
    assert one.has_spans and not two.has_spans
    assert one.digest != two.digest
    assert one.digest_of_format_1 == two.digest_of_format_1 == two.digest


def test_spans_are_cut_with_the_tokens() -> None:
    examples = read(Limits(n_tokens=3, d_vocab=2**21, too_long="truncate"), texts=TEXTS)
    spans = examples.spans(1, 3)
    assert spans["char_start"].tolist() == [0, 1, 2, 0, 1, 2]
    assert spans["char_end"].tolist() == [1, 2, 3, 1, 2, 3]
    assert read(texts=TEXTS).spans(3, 4)["char_end"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "text,id,text\na,b,c\n", r"a\.csv:1: names the column 'text' twice"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b", "text": "c"}\n', r":2: names the field 'text'"),
    ],
)
def test_a_name_that_stands_twice_is_refused(
    tmp_path: Path, name: str, content: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        read(file=put(tmp_path / name, content))


@pytest.mark.parametrize("several", [False, True])
def test_a_folder_that_save_to_disk_wrote_is_a_dataset(tmp_path: Path, several: bool) -> None:
    rows = datasets.Dataset.from_list([{"text": "a"}, {"text": "b"}])
    saved = datasets.DatasetDict({"train": rows, "test": rows}) if several else rows
    saved.save_to_disk(str(tmp_path / "saved"))
    given = {"name": str(tmp_path / "saved"), "split": "test"}
    examples = read(dataset=given)
    assert [examples.text(n) for n in range(2)] == ["a", "b"]
    if several:
        with pytest.raises(ConfigError, match="no 'dev'; there is: train, test"):
            read(dataset={**given, "split": "dev"})


# --- looked through, without a tokenizer


def test_what_needs_no_tokenizer_is_found_without_one(tmp_path: Path) -> None:
    lines = ['{"text": "Cats"}', "nope", '{"text": ""}', '{"text": "a\\u0000b"}', '{"text": "x"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(ConfigError) as told:
        look_through(config_of(file=str(tmp_path / "a.jsonl")))
    places = [str(fault).split(": ")[0].rpartition(":")[2] for fault in told.value.faults]
    assert places == ["2", "3", "4"]
    look_through(config_of(file=str(tmp_path / "a.jsonl"), limit=1))
    look_through(config_of(random={"examples": 1, "max_tokens": 8}))


def test_only_the_beginning_of_much_text_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "Cats"}\n' * 5 + "nope\n")
    monkeypatch.setattr(making, "_LOOKED_AT", 5)
    look_through(config_of(file=str(tmp_path / "a.jsonl")))
    monkeypatch.setattr(making, "_LOOKED_AT", 6)
    with pytest.raises(ConfigError, match=r"a\.jsonl:6: is not JSON"):
        look_through(config_of(file=str(tmp_path / "a.jsonl")))
    monkeypatch.setattr(making, "_LOOKED_AT_CHARACTERS", 19)
    look_through(config_of(file=str(tmp_path / "a.jsonl")))
