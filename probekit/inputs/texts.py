"""Texts: what a config's inputs name, one example at a time, and where each was found.

Knows the forms of files and datasets; nothing of what a row says.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probekit.config import ProbeConfig
from probekit.errors import ConfigError, Fault
from probekit.inputs.chats import read_conversation
from probekit.inputs.contents import TokenIds
from probekit.inputs.datasets import dataset_rows
from probekit.inputs.rows import Blank, Fields, Found, Given, example_of, no_field, short

_ROWS_AT_ONCE = 1000  # of Parquet


def read_texts(config: ProbeConfig) -> Generator[Found, None, None]:
    """Give what a config's inputs hold, one text at a time.

    Raises:
        ConfigError: if the source as a whole cannot be read.
    """
    inputs = config.inputs
    if inputs.texts is not None:
        for number, text in enumerate(inputs.texts):
            yield Given(where=config.where(f"inputs.texts[{number}]"), id=str(number), said=text)
    elif inputs.examples is not None:
        fields = Fields.of(config)
        for number, row in enumerate(inputs.examples):
            yield example_of(row, fields, config.where(f"inputs.examples[{number}]"), number)
    elif inputs.token_lists is not None:
        for number, ids in enumerate(inputs.token_lists):
            where = config.where(f"inputs.tokens[{number}]")
            yield Given(where=where, id=str(number), said=TokenIds(ids))
    elif inputs.conversations is not None:
        for number, chat in enumerate(inputs.conversations):
            where, said = config.where(f"inputs.messages[{number}]"), read_conversation(chat)
            if isinstance(said, str):
                yield Fault(where, said)
            else:
                yield Given(where=where, id=str(number), said=said)
    elif inputs.file is not None:
        assert inputs.place is not None  # where the file is
        yield from _file(inputs.place, Fields.of(config), config.where("inputs.file"))
    else:
        yield from _dataset(config)


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
    if fields.wanted.names or fields.are_ids:
        lacks = "lists of token ids" if fields.are_ids else "columns"
        raise ConfigError(
            f"{path}: a .txt file has no fields, and so no {lacks}; give a .jsonl, .csv or "
            ".parquet file"
        )
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield Given(where=f"{path}:{number}", id=str(number - 1), said=line.rstrip("\r\n"))
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
            where, f"expected an object with the field {fields.content!r}, given {short(row)}"
        )
    return example_of(row, fields, where, number)


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
        alone = header[0] if len(header) == 1 and fields.content not in header else ""
        if (odd := next((s for s in _SEPARATORS if s in alone), None)) is not None:
            name = "a tab" if odd == "\t" else repr(odd)
            raise ConfigError(f"{path}:1: the separator looks like {name}: save it with commas")
        if twice := _twice(header):
            raise ConfigError(f"{path}:1: names the column {twice!r} twice; rename one")
        for number, row in enumerate(rows):
            where = f"{path}:{rows.line_num}"
            if row.get(fields.content, "") is None:
                yield Fault(where, f"has fewer columns than the header, and no {fields.content!r}")
            elif None in row:
                yield Fault(
                    where, "has more columns than the header; put a text with commas in quotes"
                )
            else:
                yield example_of(row, fields, where, number)
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
    if fields.content not in there:
        raise ConfigError(f"{path}: {no_field(fields, there)}")
    named = fields.wanted.names
    read = there if isinstance(named, str) else (fields.content, "id", *named)
    wanted = [name for name in there if name in read]
    number = 0
    for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted):
        for row in batch.to_pylist():
            yield example_of(row, fields, f"{path}: row {number}", number)
            number += 1


_READERS: dict[str, Callable[[Path, Fields], Iterator[Found]]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
_ENDINGS = ", ".join(_READERS)
_SEPARATORS = ("\t", ";", "|")  # of files that are called CSV, and have no commas


def _dataset(config: ProbeConfig) -> Iterator[Found]:
    wanted = config.inputs.dataset
    assert wanted is not None  # the config has exactly one source
    fields = Fields.of(config)
    rows = dataset_rows(config, fields.names, fields.pick)
    for number, row in enumerate(rows):
        yield example_of(row, fields, f"{wanted.name}[{wanted.split}][{number}]", number)
