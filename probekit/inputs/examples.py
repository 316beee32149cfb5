"""Texts to examples: read them from where the config says, tokenize, keep the result off the heap.

Knows file formats and token ids; nothing of modules or sites. The tokenizer comes in as a function,
so this file needs no torch.
"""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from probekit.config import InputsConfig, ProbeConfig, RandomInputs
from probekit.errors import ConfigError, Fault
from probekit.store import explained

Array = np.ndarray[Any, Any]
Encode = Callable[[list[str]], list[list[int]]]

_TOKENIZED_AT_ONCE = 1000
_FAULTS_SHOWN = 20
_TEMPORARY = "temporary files (TMPDIR)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One text as it was found, before it is tokenized."""

    where: str  # "inputs.texts[3]" or "prompts.jsonl:7"
    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the model can take."""

    n_tokens: int | None  # the longest example: the smaller of the context and inputs.max_tokens
    d_vocab: int
    too_long: str  # "truncate" or "error"


class _Spool:
    """Bytes in an unnamed temporary file: appended to, then mapped; a map outlives the file."""

    def __init__(self) -> None:
        with explained(_TEMPORARY):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._ends = array("q", [0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with explained(_TEMPORARY):  # closing writes what is left in its buffer
            self._file.close()

    def append(self, data: bytes) -> None:
        with explained(_TEMPORARY):
            self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def mapped(self, dtype: str) -> tuple[Array, Array]:
        """Give all values, and where each appended piece ends, in values."""
        width = np.dtype(dtype).itemsize
        ends = np.array(self._ends, dtype=np.int64) // width
        if not self._ends[-1]:
            return np.empty(0, dtype=dtype), ends
        with explained(_TEMPORARY):
            self._file.flush()
            return np.memmap(self._file, dtype=dtype, mode="r"), ends


class Examples:
    """All examples of a run: tokens and texts lie in temporary files, not in memory."""

    def __init__(self, *, n_truncated: int, tokens: _Spool, texts: _Spool, ids: _Spool) -> None:
        self.n_truncated = n_truncated  # examples cut at the limit
        self._tokens, self._token_ends = tokens.mapped("<i4")
        self._texts, self._text_ends = texts.mapped("u1")
        self._ids, self._id_ends = ids.mapped("u1")

    def __len__(self) -> int:
        return len(self._token_ends) - 1

    @cached_property
    def n_tokens(self) -> Array:
        """Tokens of each example, int64 `[example]`."""
        n_tokens = np.diff(self._token_ends)
        n_tokens.flags.writeable = False
        return n_tokens

    @property
    def total_tokens(self) -> int:
        """Tokens of all examples."""
        return int(self._token_ends[-1])

    def token_ids(self, begin: int, end: int) -> Array:
        """Give the token ids of examples `begin` to `end`, int32 `[token]`."""
        return self._tokens[self._token_ends[begin] : self._token_ends[end]]

    def text(self, example: int) -> str:
        """Give an example's text as it was given, also where its tokens were cut."""
        return _string(self._texts, self._text_ends, example)

    def id(self, example: int) -> str:
        """Give an example's id."""
        return _string(self._ids, self._id_ends, example)

    @property
    def string_bytes(self) -> Array:
        """Bytes of the text and the id of each example, int64 `[example]`."""
        return np.diff(self._text_ends) + np.diff(self._id_ends)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every id, text and token."""
        digest = hashlib.sha256()
        ends = (self._token_ends, self._text_ends, self._id_ends)
        for values in (*ends, self._tokens, self._texts, self._ids):
            for begin in range(0, len(values), 1 << 22):
                digest.update(values[begin : begin + (1 << 22)].tobytes())
        return digest.hexdigest()


def _string(values: Array, ends: Array, number: int) -> str:
    return bytes(values[ends[number] : ends[number + 1]]).decode()


def few_examples(texts: Iterable[Array]) -> Examples:
    """Make examples of token ids, each int `[token]`; their texts are empty."""
    with _Spool() as tokens, _Spool() as bodies, _Spool() as ids:
        for number, text in enumerate(texts):
            tokens.append(np.asarray(text, dtype="<i4").tobytes())
            bodies.append(b"")
            ids.append(str(number).encode())
        return Examples(n_truncated=0, tokens=tokens, texts=bodies, ids=ids)


def read_examples(config: ProbeConfig, encode: Encode | None, limits: Limits) -> Examples:
    """Read and tokenize the inputs a config names.

    Args:
        config: where the texts are.
        encode: texts to token ids; may be None for random inputs, which need no tokenizer.
        limits: what the model can take.

    Raises:
        ConfigError: naming every text (up to twenty) that cannot be used, and why.
    """
    if config.inputs.random is not None:
        return _random(config.inputs.random, limits, config)
    if encode is None:
        raise ConfigError(f"{config.where('inputs')}: texts need a tokenizer, and none is at hand")
    texts = islice(read_texts(config), config.inputs.limit)
    return _tokenize(texts, encode, limits, config)


def _tokenize(
    texts: Iterable[Text], encode: Encode, limits: Limits, config: ProbeConfig
) -> Examples:
    with _Spool() as tokens, _Spool() as bodies, _Spool() as ids:
        faults: list[Fault] = []
        n_truncated = 0
        rest = iter(texts)
        while group := list(islice(rest, _TOKENIZED_AT_ONCE)):
            if unfit := [fault for text in group if (fault := _unfit(text)) is not None]:
                raise ConfigError.of((faults + unfit)[:_FAULTS_SHOWN])
            for text, found in zip(group, encode([t.text for t in group]), strict=True):
                fault = _fault(text, found, limits)
                if fault is not None:
                    faults.append(fault)
                    if len(faults) == _FAULTS_SHOWN:
                        raise ConfigError.of(faults)
                    continue
                n_truncated += limits.n_tokens is not None and len(found) > limits.n_tokens
                tokens.append(np.array(found[: limits.n_tokens], dtype="<i4").tobytes())
                bodies.append(text.text.encode())
                ids.append(text.id.encode())
        if faults:
            raise ConfigError.of(faults)
        examples = Examples(n_truncated=n_truncated, tokens=tokens, texts=bodies, ids=ids)
        if not len(examples):
            raise ConfigError(f"{config.where('inputs')}: there are no texts in it")
        return examples


def _unfit(text: Text) -> Fault | None:
    for name, value in (("text", text.text), ("id", text.id)):
        if not _storable(value):
            return Fault(text.where, f"the {name} has a NUL character or a lone surrogate")
    return None


def _storable(text: str) -> bool:
    # JSON can spell both; HDF5 holds neither, and a tokenizer not the second.
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _fault(text: Text, ids: Sequence[int], limits: Limits) -> Fault | None:
    if not text.text or not ids:
        return Fault(text.where, "the text is empty: there is no token to record; remove it")
    if max(ids) >= limits.d_vocab:
        return Fault(
            text.where,
            f"token id {max(ids)} is out of the model's vocabulary (0..{limits.d_vocab - 1}); "
            "the tokenizer does not belong to this model",
        )
    if limits.too_long == "error" and limits.n_tokens is not None and len(ids) > limits.n_tokens:
        return Fault(
            text.where,
            f"the text has {len(ids)} tokens, the limit is {limits.n_tokens}; "
            "shorten it, raise inputs.max_tokens, or set inputs.too_long: truncate",
        )
    return None


def _random(wanted: RandomInputs, limits: Limits, config: ProbeConfig) -> Examples:
    if limits.n_tokens is not None and wanted.max_tokens > limits.n_tokens:
        raise ConfigError(
            f"{config.where('inputs.random.max_tokens')}: {wanted.max_tokens} tokens are more than "
            f"the limit of {limits.n_tokens} (the model's context, or inputs.max_tokens)"
        )
    draw = np.random.default_rng(wanted.seed)
    with _Spool() as tokens, _Spool() as bodies, _Spool() as ids:
        for number in range(wanted.examples):
            length = draw.integers(wanted.min_tokens, wanted.max_tokens, endpoint=True)
            tokens.append(draw.integers(0, limits.d_vocab, size=length).astype("<i4").tobytes())
            bodies.append(b"")
            ids.append(f"random-{number}".encode())
        return Examples(n_truncated=0, tokens=tokens, texts=bodies, ids=ids)


def read_texts(config: ProbeConfig) -> Iterator[Text]:
    """Give the texts a config names, one at a time."""
    inputs = config.inputs
    if inputs.texts is not None:
        for number, text in enumerate(inputs.texts):
            yield Text(where=config.where(f"inputs.texts[{number}]"), id=str(number), text=text)
    elif inputs.file is not None:
        yield from _file(Path(inputs.file), inputs.field, config.where("inputs.file"))
    else:
        yield from _dataset(inputs, config.where("inputs.dataset"))


def _file(path: Path, field: str, where: str) -> Iterator[Text]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"{where}: {path} has an ending that is not known; expected {', '.join(_READERS)}"
        )
    if not path.is_file():
        raise ConfigError(f"{where}: there is no file {path.absolute()}")
    yield from reader(path, field)


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
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where}: is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(
                f"{where}: expected an object with the field {field!r}, given {_short(row)}"
            )
        yield _row(row, field, where, number - 1)


def _csv(path: Path, field: str) -> Iterator[Text]:
    rows = csv.DictReader(_lines(path), strict=True)
    try:
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
