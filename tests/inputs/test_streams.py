"""Streams: rows that come once, kept until they are sealed; the oracle is the list of rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest

import probekit
from probekit.config import ProbeConfig, load_config
from probekit.errors import ConfigError, PlanError
from probekit.inputs.contents import Codec, Encoded
from probekit.inputs.datasets import opening
from probekit.inputs.datasets.streaming import Source
from probekit.inputs.examples import Examples, Limits
from probekit.inputs.making import look_through, make_examples
from probekit.inputs.reading import Origin, read_inputs
from probekit.inputs.rows import Fields
from probekit.planning import view_example
from probekit.store.partialrows import PartialRows

ROWS = [{"text": f"text {n}", "label": n % 3, "id": f"r{n}"} for n in range(2500)]
PARTIAL = Path("run/inputs.partial")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder with files of rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    put("a.jsonl", ROWS[:2000])
    put("b.jsonl", ROWS[2000:])
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def put(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def config(**dataset: Any) -> ProbeConfig:
    inputs = {k: dataset.pop(k) for k in ("columns", "limit", "field") if k in dataset}
    given = {"name": "json", "data_files": "[ab].jsonl", "streaming": True, **dataset}
    return load_config(
        {
            "model": {"name": "sample:tiny-gpt2"},
            "inputs": {"dataset": given, "columns": ["label"], **inputs},
            "probes": [{"sites": "resid_post", "layers": 0, "positions": "last"}],
            "store": {"path": "run"},
        }
    )


def encoded(texts: list[str]) -> Encoded:
    spans = [[(n, n + 1) for n in range(len(text))] for text in texts]
    return Encoded(ids=[[ord(c) for c in text] for text in texts], spans=spans)


LIMITS = Limits(n_tokens=None, d_vocab=2**21, too_long="truncate")


def read(given: ProbeConfig) -> Examples:
    return make_examples(given, Codec(encode=encoded), LIMITS)


def said(examples: Examples) -> list[dict[str, Any]]:
    n = len(examples)
    (label,) = examples.columns(0, n)
    labels = label.values.tolist()
    return [{"text": examples.text(k), "label": labels[k], "id": examples.id(k)} for k in range(n)]


def source_of(given: ProbeConfig) -> str:
    assert given.inputs.dataset is not None
    return Source.of(given, given.inputs.dataset, Fields.of(given).names).digest


class Failing:
    """A source whose rows are counted, and that fails behind some row as often as is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *fails: int, rows: Any = ROWS) -> None:
        self.given: list[int] = []
        self.fails, self.rows = [*fails], rows
        monkeypatch.setattr(opening, "_opened", lambda *_: self)
        self.begin = 0

    def state_dict(self) -> Mapping[str, int]:
        return {"next": self.given[-1] + 1}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.begin = state["next"]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        fail = self.fails.pop(0) if self.fails else len(self.rows)
        begin, self.begin = self.begin, 0
        for number in range(begin, len(self.rows)):
            if number == fail:
                raise ConnectionError("the line is dead")
            self.given.append(number)
            yield self.rows[number]


# --- files by name


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    "files", ["[ab].jsonl", ["a.jsonl", "b.jsonl"], {"train": ["a.jsonl", "b.jsonl"]}]
)
def test_files_are_read_in_order(files: Any, streaming: bool) -> None:
    assert said(read(config(data_files=files, streaming=streaming))) == ROWS


def test_a_split_says_which_files() -> None:
    files = {"train": "a.jsonl", "test": "~/none.jsonl"}
    assert said(read(config(data_files=files))) == ROWS[:2000]
    put("c.jsonl", ROWS[:3])
    given = config(data_files={"train": "a.jsonl", "test": "c.jsonl"}, split="test")
    assert said(read(given)) == ROWS[:3]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            {"data_files": "c.jsonl"},
            r"inputs\.dataset\.data_files: there is no such file .*c\.jsonl",
        ),
        ({"data_files": "c*.jsonl"}, r"data_files: c\*\.jsonl matches no file"),
        ({"data_files": "."}, "data_files: is a folder; write a glob"),
        ({"data_files": "/dev/null"}, "data_files: is no plain file .a device, a pipe"),
        ({"data_files": "a" * 300}, r"data_files: cannot be read: File name too long .*aaa\.\.\."),
        ({"data_files": "[" * 300}, r"data_files: \[+\.\.\. matches no file"),
        ({"data_files": "/root_of_none/" + "a/" * 3000}, r"^.{0,300}$"),
        ({"field": "prompt"}, r"there is no field 'prompt'; there is: text, label, id"),
    ],
)
@pytest.mark.parametrize("streaming", [True, False])
def test_what_is_not_there_is_told(dataset: Any, message: str, streaming: bool) -> None:
    with pytest.raises(ConfigError, match=message):
        read(config(**dataset, streaming=streaming))


@pytest.mark.parametrize("streaming", [True, False])
def test_a_url_out_of_reach_is_told_as_one(
    monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(datasets, "load_dataset", refused)
    url = "https://127.0.0.1:9/a.jsonl"
    with pytest.raises(ConfigError, match=rf"inputs\.dataset: {url} cannot be loaded: .*refused$"):
        read(config(data_files=url, streaming=streaming))


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ('{"text": "a", "mark": 1}', "Couldn't cast .* because column names don't match"),
        ('{"text": "a", "label": "x"}', "Failed to parse string: 'x' as a scalar of type int64"),
        ('{"text": "a", "label":', r"JSON parse error: .* in row 0"),
    ],
)
def test_a_file_that_does_not_fit_is_told_with_its_reason(rows: str, why: str) -> None:
    Path("c.jsonl").write_text(rows + "\n")
    files = ["b.jsonl", "c.jsonl"]
    with pytest.raises(ConfigError, match=rf"b\.jsonl, c\.jsonl cannot be loaded: {why}"):
        read(config(data_files=files, streaming=False))
    with pytest.raises(ConfigError, match=rf"c\.jsonl failed after 500 rows: {why}") as error:
        read(config(data_files=files))
    assert "\n" not in str(error.value)
    assert "goes on" not in str(error.value)  # a file that is mended is another source


def test_a_column_that_no_row_has_is_told_once_with_all_that_there_are() -> None:
    for columns, whose in ((["nope"], "inputs.columns names"), (None, "positions look at")):
        given = config(columns=columns).model_dump(exclude_unset=True)
        given["probes"][0]["positions"] = {"column": "nope"}
        with pytest.raises(ConfigError) as error:
            read(load_config(given))
        assert str(error.value) == (
            f"json[train][0]: there is no field 'nope', which {whose}; there is: text, label, id. "
            "Write null where an example has no value"
        )


def test_a_look_ahead_reads_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Failing(monkeypatch)
    look_through(config())
    plan = probekit.plan(config())
    assert plan.examples is None
    assert any("read once, by the run" in note for note in plan.notes)
    with pytest.raises(PlanError, match="the run alone reads the texts of a stream; --set"):
        view_example(plan, 0)
    assert not source.given
    assert not Path("run").exists()
    with pytest.raises(ConfigError, match="there is no such file"):
        look_through(config(data_files="c.jsonl"))


# --- a source that fails


def test_a_source_that_fails_is_gone_on_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Failing(monkeypatch, 1700, 2300)
    for row in (1700, 2300):
        message = rf"json failed after {row:,} rows: the line is dead\. .*goes on from row {row}"
        with pytest.raises(ConfigError, match=message):
            read(config())
    assert said(read(config())) == ROWS
    # Each time what stands behind the last mark comes once more, and is compared.
    assert source.given == [*range(1700), *range(1000, 2300), *range(1000, 2500)]
    asked = len(source.given)
    assert said(read(config())) == ROWS  # all of it is kept now
    assert len(source.given) == asked


def test_a_source_without_marks_is_gone_through_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Failing, "state_dict")
    source = Failing(monkeypatch, 1700)
    with pytest.raises(ConfigError, match="after 1,700 rows"):
        read(config())
    assert said(read(config())) == ROWS
    assert source.given == [*range(1700), *range(2500)]


@pytest.mark.parametrize("change", ["another row", "fewer rows"])
def test_a_source_that_has_changed_is_refused(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    with pytest.raises(ConfigError, match="after 1,700 rows"):
        Failing(monkeypatch, 1700)
        read(config())
    other = [*ROWS]
    other[1500] = {**ROWS[1500], "text": "another"}
    Failing(monkeypatch, rows=other if change == "another row" else ROWS[:1650])
    row = 1500 if change == "another row" else 1650
    with pytest.raises(ConfigError, match=rf"not what it was: row {row} .*remove that file"):
        read(config())
    PARTIAL.unlink()
    assert len(read(config())) == (2500 if change == "another row" else 1650)


@pytest.mark.parametrize("damage", ["torn", "a byte", "noise behind"])
def test_what_is_not_whole_counts_as_never_kept(
    monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    source = Failing(monkeypatch, 500)
    with pytest.raises(ConfigError, match="after 500 rows"):
        read(config())
    data = PARTIAL.read_bytes()
    lines = data.splitlines(keepends=True)
    assert len(lines) == 501
    if damage == "torn":
        PARTIAL.write_bytes(data[:-5])
    elif damage == "a byte":
        at = len(b"".join(lines[:101])) + 30
        PARTIAL.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    else:
        PARTIAL.write_bytes(data + b"\0" * 4096)
    assert said(read(config())) == ROWS
    assert source.given == [*range(500), *range(2500)]


def test_rows_of_another_source_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="after 1,700 rows"):
        Failing(monkeypatch, 1700)
        read(config())
    source = Failing(monkeypatch, rows=ROWS[:10])
    assert len(read(config(split="test", data_files={"test": "a.jsonl"}))) == 10
    assert source.given == [*range(10)]


def test_the_limit_ends_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Failing(monkeypatch)
    assert said(read(config(limit=7))) == ROWS[:7]
    assert len(source.given) == 7


def test_what_no_column_can_hold_is_left_out_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    rows = [{"text": "a", "label": 1, "when": datetime.date(2024, 1, n + 1)} for n in range(20)]
    with pytest.raises(ConfigError, match="after 10 rows"):
        Failing(monkeypatch, 10, rows=rows)
        read(config(columns="all"))
    Failing(monkeypatch, rows=rows)
    examples = read(config(columns="all"))
    assert [type.name for type in examples.column_types] == ["label"]
    assert any("when left out" in note for note in examples.notes)


# --- through the library itself


def test_a_mark_of_another_version_of_the_library_is_not_taken() -> None:
    assert said(read(config(limit=1800))) == ROWS[:1800]
    with PartialRows(Path("run"), source_of(config(limit=1800))) as partial:
        assert len([*partial.kept()]) == 1800
        partial.mark(["another version", {"of": "it"}])
    assert said(read(config())) == ROWS


def test_a_file_that_breaks_off_is_told_by_its_row() -> None:
    with Path("b.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(ConfigError, match=r"b.jsonl failed after 2,000 rows: .*JSON"):
        read(config())


def test_the_library_s_own_state_leads_behind_the_rows_that_are_kept() -> None:
    given = config(limit=1800)
    assert said(read(given)) == ROWS[:1800]
    assert sum(line[17:18] == b"s" for line in PARTIAL.read_bytes().splitlines()) == 1
    assert said(read(config())) == ROWS


# --- and what is sealed


def test_sealed_inputs_are_taken_without_asking_the_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = config()
    origin = Origin(config=given, limits=LIMITS, tokenizer="one")
    codec = Codec(encode=encoded)
    made, _ = read_inputs(origin, codec, sealed_in=tmp_path / "run")
    made.sealed(origin.digests).seal(tmp_path / "run")
    source = Failing(monkeypatch)
    again = Origin(config=config(streaming=False), limits=LIMITS, tokenizer="one")
    found, notes = read_inputs(again, codec, sealed_in=tmp_path / "run")
    assert (found.digest, notes, source.given) == (made.digest, [], [])
    os.utime("a.jsonl", (1, 1))  # the same bytes
    fresh = Origin(config=given, limits=LIMITS, tokenizer="one")
    assert fresh.digests == origin.digests
    put("a.jsonl", ROWS[:5])
    changed = Origin(config=given, limits=LIMITS, tokenizer="one")
    _, notes = read_inputs(changed, codec, sealed_in=tmp_path / "run")
    assert any("has changed since" in note for note in notes)
