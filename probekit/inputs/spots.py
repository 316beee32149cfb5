"""Spots: the tokens of an example by what it says.

Knows characters of texts, and which of them a token covers. A spot is every token that shares a
character with it, so that it does not matter how a tokenizer cuts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex

from probekit.config import ProbeConfig, Spot, Where
from probekit.errors import ConfigError, Fault
from probekit.inputs.chats import NOBODY, Owners
from probekit.inputs.choosing import Choice, Choices
from probekit.inputs.examples import Examples
from probekit.inputs.piecespool import PieceSpool
from probekit.store import TEXT, Pieces, Scalar
from probekit.wording import by_count, counted, one_of, shorten, show

Array = np.ndarray[Any, Any]
Span = tuple[int, int]  # of characters: the first, and the one behind the last

_MOST_SECONDS = 10.0  # for one pattern on one text; a pattern can take for ever
_AT_ONCE = 1000  # examples whose columns are read together


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """An example as spots look at it."""

    number: int
    text: str
    columns: Mapping[str, Scalar]
    begins: Array  # [token]: its first character
    ends: Array  # [token]: the character behind its last
    owners: Owners | None = None  # whose each token is; None where the text is no chat
    contents: Sequence[Span] = ()  # of a chat, in order
    roles: Sequence[str] = ()  # by their numbers


def find_spots(config: ProbeConfig, examples: Examples) -> tuple[Choices, list[str]]:
    """Find what the spots of a config's probes keep of every example.

    Returns:
        The choices, and what the user should know.

    Raises:
        ConfigError: where an example has nothing of the kind, unless its probe skips those.
    """
    asked: dict[str, tuple[Where, str]] = {}
    for number, probe in enumerate(config.probes):
        if isinstance(probe.positions, Where):
            where = config.where(f"probes[{number}].positions")
            asked.setdefault(Choice.of(probe.positions).name, (probe.positions, where))
    faults: list[Fault] = []
    notes: list[str] = []
    found = {}
    for name, (spot, where) in asked.items():
        _check(spot, examples, where)
        found[name], empty = _found(spot, examples, where)
        lacking = _nowhere(empty, examples)
        if lacking and spot.missing == "error":
            faults.append(Fault(where, _said_missing(spot, examples, lacking)))
        elif len(empty) == len(examples):
            (first,) = _some(examples, spot.columns, 0, 1)
            why = f"{_why(spot, first)}, in example 0 ({shorten(first.text)!r})"
            faults.append(Fault(where, f"{spot}: no example has a token of it; it {why}"))
        elif empty:
            notes.append(
                f"{where}: {counted(len(empty), 'example', of=len(examples))} "
                f"{by_count(len(empty), 'has', 'have')} no token of "
                f"{{{spot}}}, and no row ({_why_no_fault(lacking)})"
            )
    if faults:
        raise ConfigError.of(faults)
    return Choices(found=found), notes


def _nowhere(empty: list[int], examples: Examples) -> list[int]:
    """Give the examples in which a spot is missing: of a document's pieces, the first if all do.

    Args:
        empty: examples that have no token of it.
        examples: of the run.
    """
    if examples.documents is None or not empty:
        return empty
    n_pieces, n_empty = (
        np.bincount(numbers, minlength=int(examples.documents[-1]) + 1)
        for numbers in (examples.documents, examples.documents[empty])
    )
    firsts = np.cumsum(n_pieces) - n_pieces
    found: list[int] = firsts[n_pieces == n_empty].tolist()
    return found


def _why_no_fault(lacking: list[int]) -> str:
    return "missing: skip" if lacking else "another piece of the document has one"


def _check(spot: Where, examples: Examples, where: str) -> None:
    """Refuse a spot that no example can have."""
    if spot.is_of_chats and not examples.roles:
        key = next(k for k in ("role", "content", "turn", "in") if f"{k}: " in str(spot))
        raise ConfigError(
            f"{where}: {key} is of chats, and the inputs are none; give inputs.messages"
        )
    if spot.role is not None and spot.role not in examples.roles:
        there = one_of(spot.role, [role for role in examples.roles if role])
        raise ConfigError(f"{where}: no chat has a turn of {spot.role!r}; {there}")
    if not examples.has_spans:
        raise ConfigError(
            f"{where}: nobody says which characters a token covers (the inputs are random, or the "
            "tokenizer does not tell), so no text can be found; give numbers or a slice"
        )
    types = {type.name: type.dtype for type in examples.column_types}
    for name in spot.columns:
        if name not in types:
            there = f"; {one_of(name, [*types])}" if types else ""
            raise ConfigError(f"{where}: the inputs have no column {name!r}{there}")
        if types[name] != TEXT:
            raise ConfigError(f"{where}: the column {name!r} holds {types[name]}, expected texts")


def _found(spot: Where, examples: Examples, where: str) -> tuple[Pieces, list[int]]:
    """Find a spot in every example; give its positions, and the examples that have none."""
    empty: list[int] = []
    with PieceSpool() as spool:
        for example in _reads(examples, spot.columns):
            try:
                kept = _taken(spot, sorted(set(_tokens(spot, example))))
            except TimeoutError as error:
                raise ConfigError(
                    f"{where}: {spot} took more than {_MOST_SECONDS:g} s on example "
                    f"{example.number}; give a simpler pattern"
                ) from error
            if not kept:
                empty.append(example.number)
            spool.append(np.array(kept, dtype="<i4").tobytes())
        return spool.pieces("<i4"), empty


def _reads(examples: Examples, names: Sequence[str]) -> Iterator[_Read]:
    for begin in range(0, len(examples), _AT_ONCE):
        yield from _some(examples, names, begin, min(begin + _AT_ONCE, len(examples)))


def _some(examples: Examples, names: Sequence[str], begin: int, end: int) -> Iterator[_Read]:
    columns = {c.type.name: c for c in examples.columns(begin, end, names)}
    for number in range(begin, end):
        spans = examples.spans(number, number + 1)
        starts, ends = spans["char_start"], spans["char_end"]
        chat = examples.chat(number) if examples.roles else None
        yield _Read(
            number=number,
            text=examples.text(number),
            columns={name: column.value(number - begin) for name, column in columns.items()},
            begins=starts,
            ends=ends,
            owners=None if chat is None else chat.owners(starts, ends),
            contents=() if chat is None else [(b, e) for b, e, _, _ in chat.contents],
            roles=examples.roles,
        )


def _tokens(spot: Where, example: _Read) -> Iterator[int]:
    """Give the positions of a spot's tokens; some may come twice."""
    own = _of_turns(spot, example)
    for position in _sought(spot, example):
        if own is None or own[position]:
            yield position


def _of_turns(spot: Where, example: _Read) -> Array | None:
    """Say which tokens are of the turns that a spot asks for, bool `[token]`; None for all."""
    owners = example.owners
    if owners is None:
        return None
    found: Array = np.ones(len(owners.turn), dtype=bool)
    if spot.role is not None:
        found &= owners.role == example.roles.index(spot.role)
    if spot.turn is not None and spot.turn >= 0 and spot.role is None:
        found &= owners.turn == spot.turn  # a message's number, though others be left out
    elif spot.turn is not None:
        turns = np.unique(owners.turn[found & (owners.turn != NOBODY)])
        is_there = -len(turns) <= spot.turn < len(turns)
        found &= owners.turn == turns[spot.turn] if is_there else False
    if spot.content is not None:
        found &= owners.is_content == spot.content
    return found


def _sought(spot: Where, example: _Read) -> Iterator[int]:
    """Give the positions of what a spot looks for, whosever turn it is."""
    if spot.sought is None:
        yield from range(len(example.begins))
        return
    for span in _spans(spot.sought, example, _stretches(spot, example)):
        covering = _covering(span, example)
        if not len(covering):
            continue
        if spot.after is None and spot.before is None:
            yield from covering.tolist()
            continue
        at = covering[-1] + spot.offset if spot.after else covering[0] - spot.offset
        if 0 <= at < len(example.begins):
            yield int(at)


def _stretches(spot: Where, example: _Read) -> Sequence[Span]:
    """Give where in a text is looked: everywhere, but in chats in contents alone."""
    if example.owners is None or spot.looks_everywhere:
        return [(0, len(example.text))]
    return example.contents


def _is_elsewhere(spot: Where, example: _Read) -> bool:
    """Say whether what is looked for is there, but of other turns than are asked for."""
    own = _of_turns(spot, example)
    return own is not None and any(not own[position] for position in _sought(spot, example))


def _spans(spot: Spot, example: _Read, stretches: Sequence[Span]) -> Iterator[Span]:
    """Give the characters of each place where a spot is, inside of one of some stretches."""
    for begin, end in stretches:
        # Cut out, so that ^, $ and looking around see no more than one content.
        text = example.text if (begin, end) == (0, len(example.text)) else example.text[begin:end]
        for low, high in _spans_in(spot, example, text):
            yield begin + low, begin + high


def _spans_in(spot: Spot, example: _Read, text: str) -> Iterator[Span]:
    if spot.regex is not None:
        for match in regex.finditer(spot.regex, text, timeout=_MOST_SECONDS):
            if match.end() > match.start():  # no token shares a character with empty text
                yield match.span()
        return
    wanted = spot.match if spot.column is None else example.columns[spot.column]
    if not isinstance(wanted, str) or not wanted:
        return  # an example without a value has no such place
    at = text.find(wanted)
    while at >= 0:
        yield at, at + len(wanted)
        at = text.find(wanted, at + len(wanted))


def _covering(span: Span, example: _Read) -> Array:
    """Give the tokens that share a character with a span."""
    found: Array = np.flatnonzero((example.begins < span[1]) & (example.ends > span[0]))
    return found


def _taken(spot: Where, tokens: list[int]) -> list[int]:
    if spot.take == "all" or not tokens:
        return tokens
    number = {"first": 0, "last": -1}.get(str(spot.take), spot.take)
    assert isinstance(number, int)
    return [tokens[number]] if -len(tokens) <= number < len(tokens) else []


def _said_missing(spot: Where, examples: Examples, empty: Sequence[int]) -> str:
    (example,) = _some(examples, spot.columns, empty[0], empty[0] + 1)
    place = spot.after or spot.before or spot
    value = "" if place.column is None else f" ({show(example.columns[place.column])})"
    try:
        why = _why(spot, example)
    except TimeoutError:  # it was just in time before
        why = "is not there"
    more, of_documents = len(empty) - 1, examples.documents
    noun = "example" if of_documents is None else "document"
    same = f"; the same in {more:,} more {by_count(more, noun, f'{noun}s')}" if more else ""
    others = ""
    if of_documents is not None and np.count_nonzero(of_documents == of_documents[empty[0]]) > 1:
        others = (
            f", nor in another piece of document {of_documents[empty[0]]}: what stands across two "
            "pieces is in neither, unless inputs.stride makes them share it"
        )
    return (
        f"{spot}{value} {why}, in example {example.number} "
        f"({shorten(example.text)!r}){others}{same}. Mend the text, or write missing: skip"
    )


def _why(spot: Where, example: _Read) -> str:
    """Say why an example has no token of a spot."""
    if not list(_tokens(spot, example)) and _is_elsewhere(spot, example):
        return "has no token of such a turn"
    place = spot.sought
    if place is None:
        n = len(set(_tokens(spot, example)))
        return f"is {counted(n, 'token')} there, so there is no number {spot.take}"
    spans = [*_spans(place, example, _stretches(spot, example))]
    if not spans:
        if [*_spans(place, example, [(0, len(example.text))])]:
            return "is in no content, but in what the template writes (in: all looks there, too)"
        is_empty = place.regex is not None and regex.search(
            place.regex, example.text, timeout=_MOST_SECONDS
        )
        return "matches only empty text" if is_empty else "is not there"
    covering = [tokens for span in spans if len(tokens := _covering(span, example))]
    if not covering:
        return "is there, but no such token among those that are kept"
    if n_kept := len(set(_tokens(spot, example))):
        return f"is {counted(n_kept, 'token')} there, so there is no number {spot.take}"
    side, which = ("after", "last") if spot.after else ("before", "first")
    last = len(example.begins) - 1
    room = max(int(last - one[-1] if spot.after else one[0]) for one in covering)
    if room:
        comes = by_count(room, "comes", "come")
        return f"is not there: only {counted(room, 'token')} {comes} {side} it"
    kept = " that is kept" if spot.after and _is_cut(example) else ""
    return f"is not there: nothing comes {side} it, the {which} of the tokens{kept}"


def _is_cut(example: _Read) -> bool:
    return int(example.ends.max()) < len(example.text.rstrip())
