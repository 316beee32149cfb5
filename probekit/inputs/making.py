"""Making examples: texts that are found, tokenized, checked and laid end to end.

Knows what is wrong with a text; nothing of models but their limits.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any, Self

import numpy as np

from probekit.config import ProbeConfig, RandomInputs
from probekit.errors import ConfigError, Fault
from probekit.inputs.examples import Encode, Examples, Limits
from probekit.inputs.piecespool import PieceSpool
from probekit.inputs.texts import Blank, Fields, Found, Text, read_texts
from probekit.inputs.usercolumns import ColumnReading, storable
from probekit.store import SealedColumns
from probekit.wording import by_count, counted

Array = np.ndarray[Any, Any]


_TOKENIZED_AT_ONCE = 1000
_CHARACTERS_AT_ONCE = 1 << 20
_FAULTS_SHOWN = 20
_LOOKED_AT, _LOOKED_AT_CHARACTERS = 10_000, 4_000_000  # before there is a tokenizer
_EMPTY = "the text is empty: there is no token to record; remove it"
_DIGITS = 18  # of an id that is a number


def few_examples(texts: Iterable[Array]) -> Examples:
    """Make examples of token ids, each int `[token]`; their texts are empty."""
    with _Making() as making:
        for number, text in enumerate(texts):
            making.add(str(number), "", np.asarray(text, dtype="<i4"))
        return making.examples()


def make_examples(config: ProbeConfig, encode: Encode | None, limits: Limits) -> Examples:
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
    return _tokenize(read_texts(config), encode, limits, config)


def look_through(config: ProbeConfig) -> None:
    """Look through the texts a config names, as far as no tokenizer is needed, and not for long.

    Of much text only the beginning is looked at; `make_examples` reads all of it again.

    Raises:
        ConfigError: naming every text (up to twenty) that cannot be used, and why.
    """
    if config.inputs.random is not None:
        return
    n_texts = n_characters = 0
    sorting = _Sorting(read_texts(config), config.inputs.limit, config.where("inputs"))
    for text in sorting.texts():
        if not text.text:
            sorting.tell(Fault(text.where, _EMPTY))
        n_texts += 1
        n_characters += len(text.text)
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
        self._reading = reading

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._tokens, self._texts, self._ids, self._spans, self._columns = (
                stack.enter_context(PieceSpool()) for _ in range(5)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(
        self,
        id: str,
        text: str,
        tokens: Array,
        spans: Sequence[tuple[int, int]] | None = None,
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
            ends = np.fromiter(chain.from_iterable(spans), dtype="<i4", count=2 * len(spans))
            self._spans.append(ends.tobytes())

    def examples(self, notes: Sequence[str] = ()) -> Examples:
        return Examples(
            ids=self._ids.pieces("u1"),
            texts=self._texts.pieces("u1"),
            tokens=self._tokens.pieces("<i4"),
            spans=self._spans.pieces("<i4").values.reshape(-1, 2) if self._has_spans else None,
            columns=self._sealed_columns(),
            n_truncated=self._n_truncated,
            n_cut=self._n_cut,
            is_about=self._is_about,
            notes=notes,
        )

    def _sealed_columns(self) -> SealedColumns | None:
        types = () if self._reading is None else self._reading.types()
        return SealedColumns(types=types, rows=self._columns.pieces("u1")) if types else None


class _Sorting:
    """What a source holds, sorted: texts to go on with, faults to tell together, blank lines."""

    def __init__(self, found: Iterable[Found], limit: int | None, where: str) -> None:
        self._found, self._limit, self._where = found, limit, where
        self.faults: list[Fault] = []
        self.n_blank = 0
        self._foreign: Fault | None = None  # of the first text with tokens that the model has not
        self._n_foreign = 0
        self._numbered, self._given = array("q"), array("q")  # ids that are a number

    def texts(self) -> Iterator[Text]:
        """Give the texts, as many as are wanted.

        Raises:
            ConfigError: after so many faults as are shown at once.
        """
        n_taken = 0
        for one in self._found:
            if n_taken == self._limit:
                return
            if isinstance(one, Blank):
                self.n_blank += 1
                continue
            n_taken += 1
            fault = one if isinstance(one, Fault) else _unfit(one)
            if fault is not None:
                self.tell(fault)
            elif isinstance(one, Text):
                self._see_id(one)
                yield one

    def tell(self, fault: Fault) -> None:
        """Note what is wrong with a text; raise when there is more than anyone reads."""
        self.faults.append(fault)
        if len(self.faults) == _FAULTS_SHOWN:
            raise ConfigError.of(self.all_faults())

    def tell_foreign(self, text: Text, id: int, limits: Limits) -> None:
        """Note a token that the model has not: once for all texts, which will have more of them."""
        self._n_foreign += 1
        if self._foreign is None:
            self._foreign = Fault(
                text.where,
                f"token id {id} is out of the model's vocabulary (0..{limits.d_vocab - 1}); the "
                "tokenizer does not belong to this model",
            )
        if self._n_foreign == _FAULTS_SHOWN:
            raise ConfigError.of(self.all_faults(" at least"))

    def all_faults(self, least: str = "") -> list[Fault]:
        """Give what was told, and the tokens that the model has not."""
        if self._foreign is None:
            return self.faults
        n = self._n_foreign - 1
        more = f"; so it is in {counted(n, 'more text')}{least}" if n else ""
        return [*self.faults, Fault(self._foreign.where, self._foreign.message + more)]

    def _see_id(self, text: Text) -> None:
        if text.id.isdecimal() and len(text.id) <= _DIGITS and str(int(text.id)) == text.id:
            (self._numbered if text.is_numbered else self._given).append(int(text.id))

    def check_ids(self) -> None:
        """Tell of texts without an id whose number is another's id."""
        for number in np.intersect1d(self._numbered, self._given)[:_FAULTS_SHOWN].tolist():
            what = f"the text of number {number} has no id, and {number} is the id of another"
            self.tell(Fault(self._where, f"{what}; give an id to all of them, or to none"))


def _tokenize(
    found: Iterable[Found], encode: Encode, limits: Limits, config: ProbeConfig
) -> Examples:
    sorting = _Sorting(found, config.inputs.limit, config.where("inputs"))
    wanted = Fields.of(config).wanted
    reading = ColumnReading(wanted, _where_columns(config)) if wanted.names else None
    with _Making(reading) as making:
        n_texts = 0
        for group in _groups(sorting.texts()):
            n_texts += len(group)
            encoded = encode([text.text for text in group])
            for number, (text, ids) in enumerate(zip(group, encoded.ids, strict=True)):
                columns = None if reading is None else reading.add(text.columns, text.where)
                if isinstance(columns, Fault):
                    sorting.tell(columns)
                    continue
                n_more = 0 if encoded.n_more is None else encoded.n_more[number]
                if ids and max(ids) >= limits.d_vocab:
                    sorting.tell_foreign(text, max(ids), limits)
                    continue
                if (fault := _fault(text, ids, limits, n_more)) is not None:
                    sorting.tell(fault)
                    continue
                kept = np.array(ids[: limits.n_tokens], dtype="<i4")
                spans = None if encoded.spans is None else encoded.spans[number][: limits.n_tokens]
                about, n_cut = n_more > 0, len(ids) - len(kept) + n_more
                making.add(
                    text.id, text.text, kept, spans, columns=columns, n_cut=n_cut, about=about
                )
        sorting.check_ids()
        for fault in () if reading is None else reading.faults():
            sorting.tell(fault)
        if faults := sorting.all_faults():
            raise ConfigError.of(faults)
        if not n_texts:
            raise ConfigError(_no_texts(config, sorting.n_blank))
        blank = f"{config.where('inputs.file')}: {sorting.n_blank} blank lines are left out"
        left_out = () if reading is None else reading.notes()
        return making.examples(notes=[*([blank] if sorting.n_blank else []), *left_out])


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


def _groups(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """Give texts some at a time: so many, or of so many characters together."""
    group: list[Text] = []
    n_chars = 0
    for text in texts:
        group.append(text)
        n_chars += len(text.text)
        if len(group) == _TOKENIZED_AT_ONCE or n_chars > _CHARACTERS_AT_ONCE:
            yield group
            group, n_chars = [], 0
    if group:
        yield group


def _unfit(text: Text) -> Fault | None:
    for name, value in (("text", text.text), ("id", text.id)):
        if not storable(value):
            return Fault(text.where, f"the {name} has a NUL character or a lone surrogate")
    return None


def _fault(text: Text, ids: Sequence[int], limits: Limits, n_more: int) -> Fault | None:
    if not text.text or not ids:
        return Fault(text.where, _EMPTY)
    about = "about " if n_more else ""
    if limits.too_long == "error" and limits.n_tokens is not None and len(ids) > limits.n_tokens:
        return Fault(
            text.where,
            f"the text has {about}{counted(len(ids) + n_more, 'token')}, the limit is "
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
