"""Texts: what a config's inputs name, one text at a time, and where each was found.

Knows the forms of files and datasets; nothing of tokens.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probekit.arguments import at_home, no_path
from probekit.config import DatasetInputs, ProbeConfig
from probekit.errors import ConfigError, Fault
from probekit.inputs.usercolumns import Wanted
from probekit.models import hub_in_reach
from probekit.wording import near, shorten

_ROWS_AT_ONCE = 1000  # of Parquet


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One text as it was found, before it is tokenized."""

    where: str  # "inputs.texts[3]" or "prompts.jsonl:7"
    id: str
    text: str
    is_numbered: bool = True  # it came without an id, and has its number for one
    columns: Mapping[str, Any] = field(
        default_factory=dict
    )  # the user's own, as the source has them


@dataclass(frozen=True, slots=True)
class Blank:
    """A line with nothing on it, which is no text."""


Found = Text | Blank | Fault  # what a source holds, in order; a fault is of one text


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """What is read of a row."""

    text: str  # the name of the field that holds the text
    wanted: Wanted  # of the others

    @classmethod
    def of(cls, config: ProbeConfig) -> Fields:
        """Take what a config names."""
        inputs = config.inputs
        wanted = Wanted(
            names=config.columns,
            beside=(inputs.field, "id"),
            is_spelled=inputs.place is not None and inputs.place.suffix.lower() == ".csv",
            is_alike=inputs.examples is not None,
        )
        return cls(text=inputs.field, wanted=wanted)


def read_texts(config: ProbeConfig) -> Iterator[Found]:
    """Give what a config's inputs hold, one text at a time.

    Raises:
        ConfigError: if the source as a whole cannot be read.
    """
    inputs = config.inputs
    if inputs.texts is not None:
        for number, text in enumerate(inputs.texts):
            yield Text(where=config.where(f"inputs.texts[{number}]"), id=str(number), text=text)
    elif inputs.examples is not None:
        fields = Fields.of(config)
        for number, row in enumerate(inputs.examples):
            yield _row(row, fields, config.where(f"inputs.examples[{number}]"), number)
    elif inputs.file is not None:
        assert inputs.place is not None  # where the file is
        yield from _file(inputs.place, Fields.of(config), config.where("inputs.file"))
    else:
        yield from _dataset(config, config.where("inputs.dataset"))


def _file(path: Path, fields: Fields, where: str) -> Iterator[Found]:
    reader = _READERS.get(path.suffix.lower())
    try:
        if path.is_dir():
            raise ConfigError(f"{where}: {path} is a folder; expected a file, {_ENDINGS}")
        if reader is None:
            meant = "did you mean .jsonl, one object a line? " if path.suffix == ".json" else ""
            raise ConfigError(
                f"{where}: {path} has an ending that is not known; {meant}expected {_ENDINGS}"
            )
        if not path.is_file():
            raise ConfigError(f"{where}: there is no file {path.absolute()}")
        yield from reader(path, fields)
    except OSError as error:  # no rights, a name too long, a broken disk
        raise ConfigError(f"{where}: {path} cannot be read: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[str]:
    """Give the lines with their ends, naming the line that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"{path}:{number}: is not UTF-8 (byte {line[error.start]:#04x} at column "
                    f"{error.start + 1}); save the file as UTF-8"
                ) from error


def _txt(path: Path, fields: Fields) -> Iterator[Found]:
    if fields.wanted.names:
        raise ConfigError(
            f"{path}: a .txt file has no fields, and so no columns; give a .jsonl, .csv or "
            ".parquet file"
        )
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield Text(where=f"{path}:{number}", id=str(number - 1), text=line.rstrip("\r\n"))
        else:
            yield Blank()


def _jsonl(path: Path, fields: Fields) -> Iterator[Found]:
    for number, line in enumerate(_lines(path), 1):
        yield _json(line, fields, f"{path}:{number}", number - 1) if line.strip() else Blank()


def _json(line: str, fields: Fields, where: str, number: int) -> Found:
    try:
        row = json.loads(line, object_pairs_hook=_pairs)
    except json.JSONDecodeError as error:
        end = len(line.rstrip())
        advice = "; the line ends too early: one object a line" if error.pos >= end else ""
        column = min(error.pos, end) + 1
        return Fault(where, f"is not JSON: {error.msg} at column {column}{advice}")
    except (ValueError, RecursionError) as error:
        return Fault(where, f"is not JSON: {error}")
    if isinstance(row, _Twice):
        return Fault(where, f"names the field {row.name!r} twice; remove one")
    if not isinstance(row, dict):
        return Fault(
            where, f"expected an object with the field {fields.text!r}, given {_short(row)}"
        )
    return _row(row, fields, where, number)


@dataclass(frozen=True, slots=True)
class _Twice:
    name: str


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Twice:
    """Make an object; one that names a field twice could mean either, as does one around it."""
    if twice := _twice([name for name, _ in pairs]):
        return _Twice(twice)
    inner = next((value for _, value in pairs if isinstance(value, _Twice)), None)
    return dict(pairs) if inner is None else inner


def _twice(names: Sequence[str]) -> str | None:
    return next((name for name, n in Counter(names).items() if n > 1), None)


def _csv(path: Path, fields: Fields) -> Iterator[Found]:
    rows = csv.DictReader(_lines(path), strict=True)
    before = csv.field_size_limit(sys.maxsize)  # a text may be longer than 131 072 characters
    try:
        header = rows.fieldnames or ()
        alone = header[0] if len(header) == 1 and fields.text not in header else ""
        if (odd := next((s for s in _SEPARATORS if s in alone), None)) is not None:
            name = "a tab" if odd == "\t" else repr(odd)
            raise ConfigError(f"{path}:1: the separator looks like {name}: save it with commas")
        if twice := _twice(header):
            raise ConfigError(f"{path}:1: names the column {twice!r} twice; rename one")
        for number, row in enumerate(rows):
            where = f"{path}:{rows.line_num}"
            if row.get(fields.text, "") is None:
                yield Fault(where, f"has fewer columns than the header, and no {fields.text!r}")
            elif None in row:
                yield Fault(
                    where, "has more columns than the header; put a text with commas in quotes"
                )
            else:
                yield _row(row, fields, where, number)
    except csv.Error as error:
        begin, line = rows.line_num + 1, rows.reader.line_num  # the first is behind a whole row
        if "unexpected end" in str(error):
            said = f"{path}:{begin}: is not CSV: a quote opened in this row is never closed"
        elif "expected after" in str(error):
            said = (
                f"{path}:{line}: is not CSV: text goes on behind a closing quote, in the row that "
                f"begins on line {begin}; write a quote inside of a text twice"
            )
        else:
            said = f"{path}:{line}: is not CSV: {error}"
        raise ConfigError(said) from error
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path, fields: Fields) -> Iterator[Found]:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path}: .parquet needs pyarrow; install probekit[datasets]") from error
    try:
        yield from _parquet_rows(path, pyarrow.parquet.ParquetFile(path), fields)
    except (pyarrow.ArrowInvalid, OSError) as error:  # a damaged page is an OSError
        raise ConfigError(f"{path}: is not whole Parquet: {error}") from error


def _parquet_rows(path: Path, table: Any, fields: Fields) -> Iterator[Found]:
    there = table.schema_arrow.names
    if fields.text not in there:
        raise ConfigError(f"{path}: {_no_field(fields.text, there)}")
    named = fields.wanted.names
    read = there if isinstance(named, str) else (fields.text, "id", *named)
    wanted = [name for name in there if name in read]
    number = 0
    for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted):
        for row in batch.to_pylist():
            yield _row(row, fields, f"{path}: row {number}", number)
            number += 1


_READERS: dict[str, Callable[[Path, Fields], Iterator[Found]]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
_ENDINGS = ", ".join(_READERS)
_SEPARATORS = ("\t", ";", "|")  # of files that are called CSV, and have no commas


def _dataset(config: ProbeConfig, where: str) -> Iterator[Found]:
    wanted = config.inputs.dataset
    assert wanted is not None  # the config has exactly one source
    if (wrong := no_path(wanted.name)) is not None:
        raise ConfigError(f"{where}.name: given {shorten(wanted.name)}, {wrong}")
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ConfigError(f"{where}: needs datasets; install probekit[datasets]") from error
    try:
        rows = _saved_rows(datasets, wanted, where)
        if rows is None:
            with _hub_as_it_is(datasets, wanted):
                rows = datasets.load_dataset(
                    wanted.name, wanted.subset, split=wanted.split, revision=wanted.revision
                )
    except ConfigError:
        raise
    except ConnectionError as error:
        raise ConfigError(
            f"{where}: {wanted.name} cannot be loaded: the hub is out of reach, it is not in the "
            "local cache, and there is no folder of that name here. Give a folder, or load it once "
            f"where there is a network ({shorten(str(error), 200)})"
        ) from error
    except Exception as error:
        # The hub client raises dozens of types; each means that the data set cannot be had.
        raise ConfigError(f"{where}: {wanted.name} cannot be loaded: {error}") from error
    fields = Fields.of(config)
    for number, row in enumerate(rows):
        yield _row(row, fields, f"{wanted.name}[{wanted.split}][{number}]", number)


@contextmanager
def _hub_as_it_is(datasets: Any, wanted: DatasetInputs) -> Iterator[None]:
    """Take what the cache holds where the hub is out of reach: its client retries for 23 s."""
    from huggingface_hub import constants

    if at_home(wanted.name).exists() or hub_in_reach():
        yield
        return
    modules: tuple[Any, ...] = (constants, datasets.config)
    before = [(module, module.HF_HUB_OFFLINE) for module in modules]
    try:
        for module, _ in before:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in before:
            module.HF_HUB_OFFLINE = value


def _saved_rows(datasets: Any, wanted: DatasetInputs, where: str) -> Any:
    """Give the rows of a folder that `save_to_disk` wrote; None for what is none."""
    folder = at_home(wanted.name)
    if (folder / "state.json").is_file():
        rows = datasets.load_from_disk(str(folder))
        splits = {wanted.split if rows.split is None else str(rows.split): rows}
    elif (folder / "dataset_dict.json").is_file():
        splits = datasets.load_from_disk(str(folder))
    else:
        return None
    if wanted.split not in splits:
        there = ", ".join(splits)
        raise ConfigError(f"{where}.split: there is no {wanted.split!r}; there is: {there}")
    return splits[wanted.split]


def _row(row: Mapping[str, Any], fields: Fields, where: str, number: int) -> Text | Fault:
    field = fields.text
    if field not in row:
        fault = Fault(where, _no_field(field, [str(key) for key in row]))
        if number == 0:  # most likely so in every row
            raise ConfigError.of([fault])
        return fault
    text, given = row[field], row.get("id")
    if not isinstance(text, str):
        shown = "null" if text is None else _short(text)
        return Fault(where, f"the field {field!r} is {shown}; expected a text")
    columns = fields.wanted.of(row, where)
    if isinstance(columns, Fault):
        return columns
    return Text(
        where=where,
        id=str(number if given is None else given),
        text=text,
        is_numbered=given is None,
        columns=columns,
    )


def _no_field(field: str, there: Iterable[str]) -> str:
    names = [*there]
    meant = near(field, names)
    hint = f"Did you mean {shorten(meant[0])}? " if meant else ""
    hint += f"Set inputs.field: {shorten(meant[0])}" if meant else "Set inputs.field"
    return f"there is no field {field!r}; there is: {', '.join(names)}. {hint}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
