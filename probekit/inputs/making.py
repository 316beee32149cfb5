"""Making examples: contents that are found, tokenized, checked and laid end to end.

Knows what is wrong with an example; nothing of models but their limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from itertools import chain
from typing import Any, Self

import numpy as np

from probekit.config import ProbeConfig, RandomInputs
from probekit.errors import ConfigError, Fault
from probekit.inputs.chats import NO_ROLE, Conversation, Parts
from probekit.inputs.chatting import template_in
from probekit.inputs.contents import Codec, Reading, Spans, TokenIds, Unread, place_of_id, readings
from probekit.inputs.datasets import check_files
from probekit.inputs.documents import Splitting
from probekit.inputs.examples import Examples, Limits
from probekit.inputs.piecespool import PieceSpool
from probekit.inputs.rows import Fields, Found, Given
from probekit.inputs.sorting import Sorting
from probekit.inputs.texts import read_texts
from probekit.inputs.usercolumns import ColumnReading
from probekit.store import SealedChats, SealedColumns, SealedDocuments
from probekit.wording import by_count, counted

Array = np.ndarray[Any, Any]


_TOKENIZED_AT_ONCE = 1000
_CHARACTERS_AT_ONCE = 1 << 20
_LOOKED_AT, _LOOKED_AT_CHARACTERS = 10_000, 4_000_000  # before there is a tokenizer
_EMPTY = "the text is empty: there is no token to record; remove it"


def few_examples(texts: Iterable[Array]) -> Examples:
    """Make examples of token ids, each int `[token]`; their texts are empty."""
    with _Making() as making:
        for number, text in enumerate(texts):
            making.add(str(number), "", np.asarray(text, dtype="<i4"))
        return making.examples()


def make_examples(config: ProbeConfig, codec: Codec, limits: Limits) -> Examples:
    """Read and tokenize the inputs a config names.

    Args:
        config: where they are.
        codec: what the tokenizer does; texts need one, token ids and random inputs do not.
        limits: what the model can take.

    Raises:
        ConfigError: naming every text (up to twenty) that cannot be used, and why.
    """
    if config.inputs.random is not None:
        return _random(config.inputs.random, limits, config)
    if codec.encode is None and codec.chats is None and config.inputs.needs_tokenizer:
        raise ConfigError(f"{config.where('inputs')}: texts need a tokenizer, and none is at hand")
    with (
        closing(codec.chats) if codec.chats is not None else nullcontext(),
        closing(read_texts(config)) as found,
    ):
        return _tokenize(found, codec, limits, config)


def look_through(config: ProbeConfig) -> None:
    """Look through the texts a config names, as far as no tokenizer is needed, and not for long.

    Of much text only the beginning is looked at; `make_examples` reads all of it again.

    Raises:
        ConfigError: naming every text (up to twenty) that cannot be used, and why.
    """
    if config.inputs.random is not None:
        return
    template_in(config)
    if config.inputs.is_streamed:
        assert config.inputs.dataset is not None  # it is what is streamed
        check_files(config.inputs.dataset, config.where("inputs.dataset"))
        return  # what is read once is not read twice
    n_texts = n_characters = 0
    sorting = Sorting(read_texts(config), config.inputs.limit, config.where("inputs"))
    for given in sorting.examples():
        if not given.said:
            sorting.tell(Fault(given.where, _EMPTY))
        n_texts += 1
        n_characters += len(given.said)
        if n_texts == _LOOKED_AT or n_characters > _LOOKED_AT_CHARACTERS:
            break
    else:
        sorting.check_ids()
    if sorting.faults:
        raise ConfigError.of(sorting.faults)
    if not n_texts:
        raise ConfigError(_no_texts(config, sorting.n_blank))


class _Making:
    """Examples while they are made."""

    def __init__(self, reading: ColumnReading | None = None) -> None:
        self._n_truncated = self._n_cut = 0
        self._is_about = False
        self._has_spans = True
        self._roles = {NO_ROLE: 0}
        self._reading = reading
        self._n_documents = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            spools = (stack.enter_context(PieceSpool()) for _ in range(7))
            self._tokens, self._texts, self._ids, self._spans, *more = spools
            self._columns, self._parts, self._documents = more
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(
        self,
        id: str,
        text: str,
        tokens: Array,
        spans: Spans | None = None,
        *,
        columns: bytes | None = None,
        n_cut: int = 0,
        about: bool = False,
    ) -> None:
        if columns is not None:
            self._columns.append(columns)
        self._ids.append(id.encode())
        self._texts.append(text.encode())
        self._tokens.append(tokens.tobytes())
        self._n_truncated += n_cut > 0
        self._n_cut += n_cut
        self._is_about |= about
        if spans is None:
            self._has_spans = False
        else:
            self._spans.append(_flat(spans).tobytes())

    def add_reading(
        self, id: str, reading: Reading, limits: Limits, *, columns: bytes | None
    ) -> None:
        """Add an example as far as the model takes it."""
        most = limits.n_tokens
        kept = np.array(reading.ids[:most], dtype="<i4")
        if reading.chat is not None:
            self._parts.append(Parts.of(reading.chat, self._roles).rows.tobytes())
        self.add(
            id,
            reading.text,
            kept,
            None if reading.spans is None else reading.spans[:most],
            columns=columns,
            n_cut=len(reading.ids) - len(kept) + reading.n_more,
            about=reading.n_more > 0,
        )

    def add_pieces(
        self, id: str, reading: Reading, splitting: Splitting, *, columns: bytes | None
    ) -> None:
        """Add the pieces of a document, each as an example."""
        pieces = splitting.pieces(reading.text, reading.ids, reading.spans)
        for number, piece in enumerate(pieces):
            place = (self._n_documents, piece.start, piece.n_before, piece.n_own, piece.char_start)
            self._documents.append(np.array(place, dtype="<i8").tobytes())
            self.add(f"{id}:{number}", piece.text, piece.ids, piece.spans, columns=columns)
        self._n_documents += 1

    def examples(self, notes: Sequence[str] = ()) -> Examples:
        return Examples(
            ids=self._ids.pieces("u1"),
            texts=self._texts.pieces("u1"),
            tokens=self._tokens.pieces("<i4"),
            spans=self._spans.pieces("<i4").values.reshape(-1, 2) if self._has_spans else None,
            columns=self._sealed_columns(),
            chats=self._sealed_chats(),
            documents=self._sealed_documents(),
            n_truncated=self._n_truncated,
            n_cut=self._n_cut,
            is_about=self._is_about,
            notes=notes,
        )

    def _sealed_chats(self) -> SealedChats | None:
        segments = self._parts.pieces("<i4")
        return SealedChats(roles=tuple(self._roles), segments=segments) if len(segments) else None

    def _sealed_documents(self) -> SealedDocuments | None:
        rows = self._documents.pieces("<i8").values
        return SealedDocuments(rows=rows.reshape(-1, SealedDocuments.WIDTH)) if len(rows) else None

    def _sealed_columns(self) -> SealedColumns | None:
        types = () if self._reading is None else self._reading.types()
        return SealedColumns(types=types, rows=self._columns.pieces("u1")) if types else None


def _tokenize(
    found: Iterable[Found], codec: Codec, limits: Limits, config: ProbeConfig
) -> Examples:
    sorting = Sorting(found, config.inputs.limit, config.where("inputs"))
    wanted = Fields.of(config).wanted
    columns = ColumnReading(wanted, _where_columns(config)) if wanted.names else None
    splitting = codec.splitting
    n_texts = n_with_bos = n_without_spans = 0
    with _Making(columns) as making:
        for group in _groups(sorting.examples()):
            n_texts += len(group)
            read = readings([given.said for given in group], codec)
            for given, reading in zip(group, read, strict=True):
                values = None if columns is None else columns.add(given.columns, given.where)
                if isinstance(reading, Unread):
                    sorting.tell(Fault(given.where, reading.reason))
                    if reading.is_last:
                        raise ConfigError.of(sorting.all_faults())
                elif isinstance(values, Fault):
                    sorting.tell(values)
                elif _is_right(given, reading, limits, sorting, splitting):
                    if splitting is None:
                        making.add_reading(given.id, reading, limits, columns=values)
                    else:
                        making.add_pieces(given.id, reading, splitting, columns=values)
                    n_with_bos += reading.has_bos
                    n_without_spans += reading.spans is None
        sorting.check_ids()
        for fault in () if columns is None else columns.faults():
            sorting.tell(fault)
        if faults := sorting.all_faults():
            raise ConfigError.of(faults)
        if not n_texts:
            raise ConfigError(_no_texts(config, sorting.n_blank))
        notes = [] if columns is None else [*columns.notes()]
        if sorting.n_blank:
            where = config.where("inputs.file")
            notes.insert(0, f"{where}: {sorting.n_blank} blank lines are left out")
        if n_with_bos:
            notes.append(_said_bos(config, codec, n_with_bos, n_texts))
        if n_without_spans and codec.decode is not None and config.inputs.tokens is not None:
            notes.append(_said_spans(config, n_without_spans, n_texts))
        notes += () if codec.chats is None else codec.chats.notes()
        return making.examples(notes=notes)


def _said_bos(config: ProbeConfig, codec: Codec, n: int, n_texts: int) -> str:
    """Say which texts got no BOS token, since they have one."""
    return (
        f"{config.where('inputs.special_tokens')}: {counted(n, 'text', of=n_texts)} "
        f"{by_count(n, 'begins', 'begin')} with the BOS token {codec.bos} already, so none is "
        f"added there"
    )


def _said_spans(config: ProbeConfig, n: int, n_examples: int) -> str:
    """Say why no characters are known, although there is a tokenizer."""
    return (
        f"{config.where('inputs.tokens')}: what {counted(n, 'example', of=n_examples)} "
        f"{by_count(n, 'decodes', 'decode')} to does not tell which characters a token covers: "
        "the trace has no tokens/char_start and char_end"
    )


def _is_right(
    given: Given, reading: Reading, limits: Limits, sorting: Sorting, splitting: Splitting | None
) -> bool:
    """Say whether an example can be recorded; tell what is wrong with it."""
    ids = reading.ids
    beside = () if splitting is None else (*splitting.before, *splitting.behind)
    if len(ids) and (top := max((max(ids), *beside))) >= limits.d_vocab:
        if isinstance(given.said, TokenIds):
            number = next(n for n, id in enumerate(ids) if id >= limits.d_vocab)
            where, said = place_of_id(given.where, given.said, number)
            known = f"the model's vocabulary is 0 to {limits.d_vocab - 1}"
            sorting.tell(Fault(where, f"{said}{known}"))
        else:
            sorting.tell_foreign(given, int(top), limits)
        return False
    if (fault := _fault(given, reading, limits)) is not None:
        sorting.tell(fault)
    return fault is None


def _flat(spans: Spans) -> Array:
    """Give the characters that tokens cover end to end, int32 `[2 * token]`."""
    if isinstance(spans, np.ndarray):  # of a document, which can be long
        return spans.astype("<i4").reshape(-1)
    return np.fromiter(chain.from_iterable(spans), dtype="<i4", count=2 * len(spans))


def _no_texts(config: ProbeConfig, n_blank: int) -> str:
    """Say that a source holds no text, and what it holds."""
    place, dataset = config.inputs.place, config.inputs.dataset
    if place is None:
        name = "it" if dataset is None else f"{dataset.name}[{dataset.split}]"
        return f"{config.where('inputs')}: there are no texts in {name}"
    if not place.stat().st_size:
        what = "is empty"
    elif n_blank:
        what = "holds only blank lines"
    else:
        what = "holds only a header" if place.suffix.lower() == ".csv" else "has no rows"
    return f"{config.where('inputs.file')}: there are no texts in it: {place} {what}"


def _where_columns(config: ProbeConfig) -> str:
    return config.where("inputs.examples" if config.inputs.columns is None else "inputs.columns")


def _groups(examples: Iterable[Given]) -> Iterator[list[Given]]:
    """Give examples some at a time: so many, or of so many characters or ids together."""
    group: list[Given] = []
    n_chars = 0
    for given in examples:
        group.append(given)
        n_chars += len(given.said)
        if len(group) == _TOKENIZED_AT_ONCE or n_chars > _CHARACTERS_AT_ONCE:
            yield group
            group, n_chars = [], 0
    if group:
        yield group


def _fault(given: Given, reading: Reading, limits: Limits) -> Fault | None:
    n_tokens, n_more = len(reading.ids), reading.n_more
    if not given.said or not n_tokens:
        return Fault(given.where, _EMPTY)
    about = "about " if n_more else ""
    if limits.too_long == "error" and limits.n_tokens is not None and n_tokens > limits.n_tokens:
        kinds = {TokenIds: "list", Conversation: "chat"}
        what = kinds.get(type(given.said), "text")
        return Fault(
            given.where,
            f"the {what} has {about}{counted(n_tokens + n_more, 'token')}, the limit is "
            f"{limits.n_tokens:,}; "
            "shorten it, raise inputs.max_tokens, or set inputs.too_long: truncate",
        )
    return None


def _random(wanted: RandomInputs, limits: Limits, config: ProbeConfig) -> Examples:
    if limits.n_tokens is not None and wanted.max_tokens > limits.n_tokens:
        raise ConfigError(
            f"{config.where('inputs.random.max_tokens')}: "
            f"{counted(wanted.max_tokens, 'token')} "
            f"{by_count(wanted.max_tokens, 'is', 'are')} more than the limit of "
            f"{limits.n_tokens:,} (the model's context, or inputs.max_tokens)"
        )
    draw = np.random.default_rng(wanted.seed)
    with _Making() as making:
        for number in range(wanted.examples):
            length = draw.integers(wanted.min_tokens, wanted.max_tokens, endpoint=True)
            tokens = draw.integers(0, limits.d_vocab, size=length).astype("<i4")
            making.add(f"random-{number}", "", tokens)
        return making.examples()
