"""How values and alternatives are written in a message: on one line, and not too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches


def one_of(given: object, options: Sequence[str]) -> str:
    """Name the alternatives, and the one that was probably meant."""
    found = near(given, options)
    hint = f"did you mean {' or '.join(found)}? " if found else ""
    return f"{hint}expected one of {', '.join(options)}"


def near(given: object, options: Sequence[str]) -> list[str]:
    """Give the one or two of some words that another was probably meant to be."""
    return get_close_matches(str(given)[:100], options, n=2, cutoff=0.54)  # fp16 finds float16


def numbered(n: int) -> str:
    """Say how many things there are, and which numbers they have."""
    return f"there are {n:,}: 0 to {n - 1}" if n > 1 else "there is 1: 0" if n else "there are none"


def values_of(kind: str) -> str:
    """Name values by the kind of their numpy dtype: f is floats, U is text."""
    names = {"b": "bools", "i": "whole numbers", "u": "whole numbers", "f": "floats"}
    names |= {"c": "complex numbers", "U": "text", "S": "bytes", "M": "dates", "m": "durations"}
    return names.get(kind, "objects")


def is_number(value: object) -> bool:
    """Say whether a value is a number, true and false included."""
    return isinstance(value, int | float)


def show(value: object) -> str:
    """Write a value as YAML would, on one line and not too long."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {counted(value.bit_length(), 'bit')}"
    if isinstance(value, list | tuple):
        return shorten(f"[{', '.join(map(show, value[:10]))}]")
    if isinstance(value, Mapping):
        pairs = [f"{key}: {show(value[key])}" for key in [*value][:10]]
        return shorten(f"{{{', '.join(pairs)}}}")
    return shorten(repr(value[:100] if isinstance(value, str) else value))


def show_typed(value: object) -> str:
    """Write a value and its kind: ``'a' (text)``."""
    kinds = {
        str: "text",
        int: "a whole number",
        float: "a number",
        list: "a list",
        tuple: "a list",
        dict: "a mapping",
    }
    if value is None or isinstance(value, bool):
        return show(value)
    kind = kinds.get(type(value), type(value).__name__)
    if type(value).__repr__ is object.__repr__:  # it says nothing but an address
        return f"a value of the class {kind}"
    return f"{show(value)} ({kind})"


def shorten(text: str, n_chars: int = 60) -> str:
    """Write text on one line, and no longer than so many characters."""
    line = text if text.isprintable() else repr(text)[1:-1]
    return line if len(line) <= n_chars else f"{line[: n_chars - 3]}..."


def human_bytes(n: float) -> str:
    """Give a size as people read it: `74.2 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """Say how long something takes, in its two largest units: `3 h 20 min`."""
    n = round(seconds)
    parts: list[tuple[int, str]] = []
    for unit, n_seconds in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, n = divmod(n, n_seconds)
        if parts or count:
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count) or "0 s"


def counted(n: int, noun: str, plural: str | None = None, *, of: int | None = None) -> str:
    """Count things as people read it: `1 shard`, `12,345 tokens`, `1 of 3 shards`.

    Args:
        n: how many.
        noun: of one of them.
        plural: of several, where it is not the noun and an s.
        of: how many there are, where `n` is a part of them.
    """
    most = n if of is None else of
    part = "" if of is None else f"{n:,} of "
    return f"{part}{most:,} {by_count(most, noun, plural or f'{noun}s')}"


def by_count(n: int, one: str, several: str) -> str:
    """Choose the word that fits a number of things: `is` or `are`."""
    return one if n == 1 else several
