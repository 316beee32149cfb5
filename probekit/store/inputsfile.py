"""inputs.h5: the examples of a run and their token ids, sealed before its first shard.

Knows how they lie on disk; nothing of where they came from. Whoever resumes, repairs or joins a run
takes them from here, and neither reads texts nor tokenizes again. Pieces lie end to end, in whole
numbers as narrow as they fit: a token takes 4 bytes, and as few as 2 for its characters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import h5py
import numpy as np

from probekit.errors import StoreError
from probekit.store.format import (
    INPUTS_FILE,
    INPUTS_RECORD,
    LIBVER,
    NEWEST,
    USER_DTYPES,
    ColumnType,
    FileRecord,
    HDF5Out,
    attributes_of,
    check_plain,
    dataset_in,
    explained,
    fsync,
    node_in,
    part_of,
    rest_checksum,
)
from probekit.store.reading import MappedRows, open_file
from probekit.store.writing import ALIGNED, publish_sealed
from probekit.wording import counted

Array = np.ndarray[Any, Any]

_SEGMENT = 4  # whole numbers of a part of a chat
_BLOCK = 1 << 22  # values written at a time
_FROM = "from_"  # attributes that say what the inputs were made from begin so


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Arrays or texts laid end to end, one for each example."""

    values: Array  # [value]; of texts uint8, their UTF-8
    ends: Array  # int64 [example + 1]: where each ends, behind a first 0

    def __len__(self) -> int:
        return len(self.ends) - 1

    def piece(self, begin: int, end: int) -> Array:
        """Give the values of the pieces from `begin` to `end`."""
        return self.values[self.ends[begin] : self.ends[end]]

    @property
    def sizes(self) -> Array:
        """How many values each has, int64 `[example]`."""
        return np.diff(self.ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedColumns:
    """Values of the user's own beside the examples."""

    types: tuple[ColumnType, ...]
    rows: Pieces  # of each example its values, JSON: {"label": 1}

    @property
    def said(self) -> Array:
        """The types as bytes, JSON."""
        plain = [[type.name, type.dtype, type.has_missing] for type in self.types]
        return np.frombuffer(json.dumps(plain).encode(), dtype=np.uint8)

    @classmethod
    def of(cls, said: bytes, rows: Pieces) -> Self:
        """Read the types from bytes.

        Raises:
            ValueError: if they are none.
        """
        plain = json.loads(said)
        types = tuple(ColumnType(name=n, dtype=d, has_missing=m) for n, d, m in plain)
        for type in types:
            if type.dtype not in USER_DTYPES or type.has_missing not in (False, True):
                raise ValueError(f"{type.dtype} is no type of a column")
        return cls(types=types, rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedChats:
    """Whose each character of the texts is."""

    roles: tuple[str, ...]  # names, by their numbers; the first is nobody's, empty
    segments: Pieces  # of each example int32 [segment, (end, turn, role, is_content)], flat

    @property
    def said(self) -> Array:
        """The names as bytes, JSON."""
        return np.frombuffer(json.dumps(self.roles).encode(), dtype=np.uint8)

    def wrong(self, texts: Pieces) -> str | None:
        """Say what cannot be in chats that were sealed; None if they are whole."""
        if len(self.segments) != len(texts) or len(self.segments.values) % _SEGMENT:
            return "its chats are not those of its texts"
        if (self.segments.ends % _SEGMENT).any():
            return "its chats do not lie end to end"
        rows = self.segments.values.reshape(-1, _SEGMENT)
        if len(rows) and not (rows[:, 2].min() >= 0 and rows[:, 2].max() < len(self.roles)):
            return "a part of a chat is of no role"
        firsts = self.segments.ends[:-1][self.segments.sizes > 0] // _SEGMENT
        rises = np.diff(rows[:, 0], prepend=0) >= 0
        rises[firsts] = True
        return None if rises.all() else "the parts of a chat end before they begin"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedDocuments:
    """Of which document each example is a piece, and which."""

    WIDTH: ClassVar[int] = 5

    rows: Array
    # [example, (document, place of its first own token there, special tokens before that one in
    # the example, own tokens, place of its text there in characters)]

    def wrong(self, n_tokens: Array) -> str | None:
        """Say what cannot be in documents that were sealed; None if they are whole.

        Args:
            n_tokens: of each example, int64 `[example]`.
        """
        if self.rows.shape != (len(n_tokens), self.WIDTH) or self.rows.dtype.kind not in "iu":
            return "its documents are not those of its texts"
        document, start, n_before, n_own, _ = self.rows.astype(np.int64).T
        steps = np.diff(document, prepend=-1)
        is_first = steps == 1
        if not np.isin(steps, (0, 1)).all() or not is_first[0] or start[is_first].any():
            return "its documents are not numbered one after another, or do not begin"
        ends = np.concatenate([[0], (start + n_own)[:-1]])
        before = np.concatenate([[0], start[:-1]])
        goes_on = (start > before) & (start <= ends)
        if not (is_first | goes_on).all():
            return "the pieces of a document do not follow one another"
        is_inside = (n_before >= 0) & (n_own > 0) & (n_before + n_own <= n_tokens)
        return None if is_inside.all() else "a piece has other tokens than its example"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedInputs:
    """What a model reads in a run."""

    ids: Pieces  # names of the examples
    texts: Pieces
    tokens: Pieces  # int32 token ids
    spans: Array | None  # which characters of its text a token covers, [token, (start, end)]
    columns: SealedColumns | None  # values of the user's own
    chats: SealedChats | None = None  # whose each character is; None where texts are no chats
    documents: SealedDocuments | None = None  # whose piece each example is; None: they are whole
    n_truncated: int  # examples whose tokens were cut at the limit
    digest: str  # of all of it
    made_from: Mapping[str, str]  # digests of what decided it: settings, file, tokenizer

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read what a run's folder holds, mapped and not copied; None where it holds none.

        Raises:
            StoreError: if it is not what was written.
        """
        path = folder / INPUTS_FILE
        with explained(folder, "looked into"):
            there = [name for name in (INPUTS_FILE, INPUTS_RECORD) if (folder / name).exists()]
        if not there:
            return None
        if len(there) == 1:
            (lost,) = {INPUTS_FILE, INPUTS_RECORD}.difference(there)
            raise StoreError(f"{folder / lost}: is missing")
        record = FileRecord.read(folder / INPUTS_RECORD)
        with explained(path, "read"):
            check_plain(path)
            size = path.stat().st_size
        if size != record.file_bytes:
            raise StoreError(
                f"{path}: has {counted(size, 'byte')}, {record.file_bytes:,} were written"
            )
        return cls._of_file(path)  # opening it compares every byte with the record, once

    @classmethod
    def _of_file(cls, path: Path) -> Self:
        with open_file(path) as file:
            said = attributes_of(file)
            found = cls(
                ids=_pieces(file, path, "ids", np.uint8),
                texts=_pieces(file, path, "texts", np.uint8),
                tokens=_pieces(file, path, "tokens", np.int32),
                spans=_values(file, path, "spans") if node_in(file, "spans") else None,
                columns=_columns(file, path) if node_in(file, "columns") else None,
                chats=_chats(file, path) if node_in(file, "chats") else None,
                documents=_documents(file, path) if node_in(file, "documents") else None,
                n_truncated=said.get("n_truncated", -1),
                digest=said.get("inputs_digest", ""),
                made_from={
                    key.removeprefix(_FROM): str(value)
                    for key, value in said.items()
                    if key.startswith(_FROM)
                },
            )
        if (wrong := found._wrong()) is not None:
            raise StoreError(f"{path}: {wrong}")
        return found

    def _wrong(self) -> str | None:
        """Say what cannot be in inputs that were sealed; None if they are whole."""
        n_examples = len(self.tokens)
        rows = [] if self.columns is None else [len(self.columns.rows)]
        if not n_examples or {len(self.ids), len(self.texts), *rows} != {n_examples}:
            return "its ids, texts, tokens and columns are not of the same examples"
        if not self.tokens.sizes.all() or self.tokens.values.min() < 0:
            return "an example has no tokens, or one below 0"
        if not isinstance(self.n_truncated, int) or not 0 <= self.n_truncated <= n_examples:
            return f"n_truncated is {self.n_truncated!r}"
        if not isinstance(self.digest, str) or not self.digest:
            return "it has no digest"
        if self.chats is not None and (wrong := self.chats.wrong(self.texts)) is not None:
            return wrong
        if self.documents is not None and (wrong := self.documents.wrong(self.tokens.sizes)):
            return wrong
        if self.spans is None:
            return None
        if self.spans.shape != (len(self.tokens.values), 2) or self.spans.dtype.kind != "u":
            return "its spans are not those of its tokens"
        return "its spans end before they begin" if self._spans_turn() else None

    def _spans_turn(self) -> bool:
        assert self.spans is not None
        blocks = (self.spans[n : n + _BLOCK] for n in range(0, len(self.spans), _BLOCK))
        return any((block[:, 0] > block[:, 1]).any() for block in blocks)

    def seal(self, folder: Path) -> None:
        """Write them into a run's folder; another who was quicker wins."""
        path = folder / INPUTS_FILE
        part = part_of(path)
        with explained(path):
            try:
                with HDF5Out(part, libver=LIBVER, **ALIGNED) as out:
                    self._write(out.file)
                record = FileRecord(
                    file_bytes=part.stat().st_size, rest=rest_checksum(part, ()), sites={}
                )
                fsync(part)
                publish_sealed(part, path, record)
            finally:
                part.unlink(missing_ok=True)

    def _write(self, file: h5py.File) -> None:
        file.attrs["probekit_format"] = NEWEST.attribute
        file.attrs["inputs_digest"] = self.digest
        file.attrs["n_truncated"] = self.n_truncated
        file.attrs.update({f"{_FROM}{key}": value for key, value in self.made_from.items()})
        for name, pieces in (("ids", self.ids), ("texts", self.texts), ("tokens", self.tokens)):
            _write(file, f"{name}/values", pieces.values)
            _write(file, f"{name}/ends", pieces.ends, narrow=True)
        if self.spans is not None:
            _write(file, "spans", self.spans, narrow=True)
        if self.columns is not None:
            _write(file, "columns/types", self.columns.said)
            _write(file, "columns/values", self.columns.rows.values)
            _write(file, "columns/ends", self.columns.rows.ends, narrow=True)
        if self.chats is not None:
            _write(file, "chats/roles", self.chats.said)
            _write(file, "chats/values", self.chats.segments.values)
            _write(file, "chats/ends", self.chats.segments.ends, narrow=True)
        if self.documents is not None:
            _write(file, "documents", self.documents.rows, narrow=True)


def wrong_inputs(
    folder: Path, digest: str | None = None, *, sums: bool = False
) -> tuple[str, str] | None:
    """Say of the inputs in a run's folder which file is wrong, and what; None if they are whole.

    Args:
        folder: of the run.
        digest: what the run says of its inputs.
        sums: read every byte again, also where this process has read them before.
    """
    try:
        found = SealedInputs.read(folder)
    except StoreError as error:
        for name in (INPUTS_RECORD, INPUTS_FILE):
            if str(error).startswith(place := f"{folder / name}: "):
                return name, str(error).removeprefix(place)
        return INPUTS_FILE, str(error)
    if found is None:
        return INPUTS_FILE, "is missing"
    if digest not in (None, found.digest):
        return INPUTS_FILE, "is of another run"
    path = folder / INPUTS_FILE
    if sums and rest_checksum(path, ()) != FileRecord.read(folder / INPUTS_RECORD).rest:
        return INPUTS_FILE, "does not have its checksum"
    return None


def discard_inputs(folder: Path) -> None:
    """Remove the inputs of a run, their record first."""
    for name in (INPUTS_RECORD, INPUTS_FILE):
        with explained(folder / name, "removed"):
            (folder / name).unlink(missing_ok=True)


def _write(file: h5py.File, name: str, values: Array, *, narrow: bool = False) -> None:
    dtype = np.min_scalar_type(int(values.max()) if values.size else 0) if narrow else values.dtype
    made = file.create_dataset(name, shape=values.shape, dtype=dtype)
    for begin in range(0, len(values), _BLOCK):
        made[begin : begin + _BLOCK] = values[begin : begin + _BLOCK]


def _values(file: h5py.File, path: Path, name: str) -> Array:
    return np.asarray(MappedRows(dataset_in(file, name), path)[:])


def _columns(file: h5py.File, path: Path) -> SealedColumns:
    try:
        rows = _pieces(file, path, "columns", np.uint8)
        return SealedColumns.of(bytes(_values(file, path, "columns/types")), rows)
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path}: its columns are none: {error}") from error


def _chats(file: h5py.File, path: Path) -> SealedChats:
    segments = _pieces(file, path, "chats", np.int32)
    try:
        roles = json.loads(bytes(_values(file, path, "chats/roles")))
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path}: its roles are none: {error}") from error
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise StoreError(f"{path}: its roles are no list of names")
    return SealedChats(roles=tuple(roles), segments=segments)


def _documents(file: h5py.File, path: Path) -> SealedDocuments:
    return SealedDocuments(rows=_values(file, path, "documents"))


def _pieces(file: h5py.File, path: Path, name: str, dtype: Any) -> Pieces:
    values, ends = (_values(file, path, f"{name}/{part}") for part in ("values", "ends"))
    are_numbers = values.dtype == dtype and ends.dtype.kind == "u"
    if not are_numbers or values.ndim != 1 or ends.ndim != 1:
        raise StoreError(f"{path}: its {name} are no list of pieces")
    ends = ends.astype(np.int64)
    whole = len(ends) and ends[0] == 0 and ends[-1] == len(values)
    if not whole or not (ends[1:] >= ends[:-1]).all():
        raise StoreError(f"{path}: its {name} do not lie end to end")
    return Pieces(values=values, ends=ends)
