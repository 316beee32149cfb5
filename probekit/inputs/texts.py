"""Texts: what a config's inputs name, one text at a time, and where each was found.

Knows the forms of files and datasets; nothing of tokens.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from probekit.arguments import no_path
from probekit.config import InputsConfig, ProbeConfig
from probekit.errors import ConfigError
from probekit.wording import shorten


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One text as it was found, before it is tokenized."""

    where: str  # "inputs.texts[3]" or "prompts.jsonl:7"
    id: str
    text: str


def read_texts(config: ProbeConfig) -> Iterator[Text]:
    """Give the texts a config names, one at a time."""
    inputs = config.inputs
    if inputs.texts is not None:
        for number, text in enumerate(inputs.texts):
            yield Text(where=config.where(f"inputs.texts[{number}]"), id=str(number), text=text)
    elif inputs.file is not None:
        assert inputs.place is not None  # where the file is
        yield from _file(inputs.place, inputs.field, config.where("inputs.file"))
    else:
        yield from _dataset(inputs, config.where("inputs.dataset"))


def _file(path: Path, field: str, where: str) -> Iterator[Text]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"{where}: {path} has an ending that is not known; expected {', '.join(_READERS)}"
        )
    try:
        if not path.is_file():
            raise ConfigError(f"{where}: there is no file {path.absolute()}")
        yield from reader(path, field)
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


def _txt(path: Path, field: str) -> Iterator[Text]:
    for number, line in enumerate(_lines(path), 1):
        yield Text(where=f"{path}:{number}", id=str(number - 1), text=line.rstrip("\r\n"))


def _jsonl(path: Path, field: str) -> Iterator[Text]:
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}:{number}"
        try:
            row = json.loads(line, object_pairs_hook=partial(_pairs, where))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where}: is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(
                f"{where}: expected an object with the field {field!r}, given {_short(row)}"
            )
        yield _row(row, field, where, number - 1)


def _pairs(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; one that names a field twice could mean either."""
    if twice := _twice([name for name, _ in pairs]):
        raise ConfigError(f"{where}: names the field {twice!r} twice; remove one")
    return dict(pairs)


def _twice(names: Sequence[str]) -> str | None:
    return next((name for name, n in Counter(names).items() if n > 1), None)


def _csv(path: Path, field: str) -> Iterator[Text]:
    rows = csv.DictReader(_lines(path), strict=True)
    try:
        if twice := _twice(rows.fieldnames or ()):
            raise ConfigError(f"{path}:1: names the column {twice!r} twice; rename one")
        for number, row in enumerate(rows):
            where = f"{path}:{rows.line_num}"
            if None in row:
                raise ConfigError(
                    f"{where}: has more columns than the header; put a text with commas in quotes"
                )
            yield _row(row, field, where, number)
    except csv.Error as error:
        line = rows.reader.line_num  # the other one is of the last row that was whole
        raise ConfigError(f"{path}:{line}: is not CSV: {error}") from error


def _parquet(path: Path, field: str) -> Iterator[Text]:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path}: .parquet needs pyarrow; install probekit[datasets]") from error
    try:
        yield from _parquet_rows(path, pyarrow.parquet.ParquetFile(path), field)
    except (pyarrow.ArrowInvalid, OSError) as error:  # a damaged page is an OSError
        raise ConfigError(f"{path}: is not whole Parquet: {error}") from error


def _parquet_rows(path: Path, table: Any, field: str) -> Iterator[Text]:
    if field not in table.schema_arrow.names:
        raise ConfigError(_no_field(f"{path}", field, table.schema_arrow.names))
    wanted = [n for n in (field, "id") if n in table.schema_arrow.names]
    number = 0
    for batch in table.iter_batches(columns=wanted):
        for row in batch.to_pylist():
            yield _row(row, field, f"{path}: row {number}", number)
            number += 1


_READERS: dict[str, Callable[[Path, str], Iterator[Text]]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}


def _dataset(inputs: InputsConfig, where: str) -> Iterator[Text]:
    wanted = inputs.dataset
    assert wanted is not None  # the config has exactly one source
    if (wrong := no_path(wanted.name)) is not None:
        raise ConfigError(f"{where}.name: given {shorten(wanted.name)}, {wrong}")
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ConfigError(f"{where}: needs datasets; install probekit[datasets]") from error
    try:
        rows = datasets.load_dataset(
            wanted.name, wanted.subset, split=wanted.split, revision=wanted.revision
        )
    except Exception as error:
        # The hub client raises dozens of types; each means that the data set cannot be had.
        raise ConfigError(f"{where}: {wanted.name} cannot be loaded: {error}") from error
    for number, row in enumerate(rows):
        yield _row(row, inputs.field, f"{wanted.name}[{wanted.split}][{number}]", number)


def _row(row: dict[str, Any], field: str, where: str, number: int) -> Text:
    if field not in row or row[field] is None:
        raise ConfigError(_no_field(where, field, [str(key) for key in row]))
    if not isinstance(row[field], str):
        raise ConfigError(f"{where}: the field {field!r} is {_short(row[field])}; expected a text")
    given = row.get("id")
    return Text(where=where, id=str(number if given is None else given), text=row[field])


def _no_field(where: str, field: str, there: Iterable[str]) -> str:
    return f"{where}: there is no field {field!r}; there is: {', '.join(there)}. Set inputs.field"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
