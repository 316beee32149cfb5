"""Messages that repeat from layer to layer, or from module to module, said once.

Knows text only: `h.0.mlp never runs` and `h.1.mlp never runs` are `h.{0..1}.mlp never runs`, in the
words of a pattern, which matches the modules that are meant and no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from probekit.config.patterns.nearmatches import runs
from probekit.errors import Fault

_NUMBER = re.compile(
    r"(?<=\w\.)(?:0|[1-9][0-9]{0,8})(?=[./ :;,)@]|$)|^(?:0|[1-9][0-9]{0,8})(?=[./])"
)
_PATH = re.compile(r"[\w.]*(?:\{[0-9.,]+\}[\w.]*)*")
_PLACE = "\0"  # where a number stood; no message has one
_OWN = re.compile(rf"[\w.{_PLACE}]*")  # the path that a message begins with

_Numbers = tuple[str, ...]


def said_once(messages: Iterable[str]) -> list[str]:
    """Join messages that differ in the numbers of a path alone, then in its last name alone.

    Returns:
        The messages, in the order in which each was said first.
    """
    shapes: dict[str, dict[_Numbers, None]] = {}
    for message in messages:
        numbers = tuple(_NUMBER.findall(message))
        shapes.setdefault(_NUMBER.sub(_PLACE, message), {})[numbers] = None
    joined = [
        _filled(shape, written)
        for shape, numbers in shapes.items()
        for written in _blocks(list(numbers), n_own=_leading(_OWN, shape).count(_PLACE))
    ]
    return _by_last_name(joined)


def faults_once(faults: Iterable[Fault]) -> list[Fault]:
    """Join the faults of one place whose messages differ in a module's path alone."""
    places: dict[str, list[str]] = {}
    for fault in faults:
        places.setdefault(fault.where, []).append(fault.message)
    return [Fault(where, one) for where, said in places.items() for one in said_once(said)]


def _leading(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.match(text)
    return found[0] if found else ""


def _filled(shape: str, numbers: _Numbers) -> str:
    texts = shape.split(_PLACE)
    return texts[0] + "".join(f"{n}{text}" for n, text in zip(numbers, texts[1:], strict=True))


def _blocks(rows: list[_Numbers], n_own: int) -> list[_Numbers]:
    """Write rows of numbers as few rows of choices that mean these rows and no others.

    The first numbers are those of the path that it is about. What is said further on may repeat
    them: it goes along.
    """
    columns = list(zip(*rows, strict=True))
    own, others = columns[:n_own], columns[n_own:]
    distinct = [*own, *(column for column in dict.fromkeys(others) if column not in own)]
    free = [column for column in distinct if len(set(column)) > 1]
    n_all = 1
    for column in free:
        n_all *= len(set(column))
    if n_all == len(rows):
        return [tuple(runs(sorted({int(n) for n in column})) for column in columns)] if rows else []
    groups: dict[str, list[_Numbers]] = {}
    for row, key in zip(rows, free[0], strict=True):
        groups.setdefault(key, []).append(row)
    return [block for group in groups.values() for block in _blocks(group, n_own)]


def _by_last_name(messages: Sequence[str]) -> list[str]:
    """Join messages that begin with paths of one parent and go on alike."""
    groups: dict[tuple[str, str], list[str]] = {}
    for message in messages:
        path = _leading(_PATH, message)
        parent, dot, name = path.rpartition(".")
        is_name = bool(dot) and name.isidentifier()
        key = (parent, message[len(path) :]) if is_name else ("", message)
        groups.setdefault(key, []).append(name if is_name else "")
    return [
        f"{parent}.{names[0] if len(names) == 1 else '{' + ','.join(names) + '}'}{rest}"
        if names[0]
        else rest
        for (parent, rest), names in groups.items()
    ]
