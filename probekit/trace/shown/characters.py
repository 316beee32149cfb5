"""Text that is safe to look at: what cannot be seen is named.

Texts and tokens are a stranger's: control characters, marks that turn the direction of writing,
half a surrogate pair. HTML escapes none of these.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np

# Format characters that join emoji and letters; they change nothing around them.
_JOINERS = "\u200c\u200d"
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_SPACES = {"\n": "⏎", "\r": "␍", "\t": "⇥"}
_PLAIN = re.compile(r"[ -~]*")


def visible(text: str) -> str:
    """Name what cannot be seen, but keep line breaks and tabs: for texts in paragraphs."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(c if c in "\n\t" else _visible(c) for c in text)


def visible_token(text: str) -> str:
    """Name what cannot be seen, line breaks too: for one token in a line."""
    if _PLAIN.fullmatch(text):
        return text
    if text and all(c in _JOINERS for c in text):
        return "".join(map(_code, text))
    return "".join(_SPACES.get(c) or _visible(c) for c in text)


def said_value(value: object, longest: int) -> str:
    """Write a column's value as a config has it, and no longer than so many characters."""
    text = str(value).lower() if isinstance(value, bool | np.bool_) else str(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def _visible(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _HIDDEN:
        return character
    number = ord(character)
    if number < 0x20:
        return chr(0x2400 + number)  # Unicode has pictures of the old control codes
    return "␡" if number == 0x7F else _code(character)


def _code(character: str) -> str:
    return f"‹U+{ord(character):04X}›"
