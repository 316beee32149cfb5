"""What may be written in a field of a config, and the one normal form it takes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from probekit.arguments import no_path, plain
from probekit.config.recordkinds import PORTABLE_NAMES, RECORD_PATTERN, RecordKind, portable_like
from probekit.errors import ConfigError
from probekit.wording import one_of, shorten, show

ALL_COLUMNS = "all"  # every field beside the text


@dataclass(frozen=True, slots=True)
class Expected:
    """Beside a field's type: all that may stand there, in the words of a message."""

    words: str


TAG = "\0"  # what the tags of a choice between types begin with
_MOST_LAYERS = 10_000
_SLICE = re.compile(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?(?::(-?[0-9]{1,9})?)?")
_LAYERS_TEXT = (
    "all, a layer number, a list of them, a range 0..5 (both included) or a slice "
    '"2:10" (as in Python)'
)
_POSITION_WORDS = ("all", "first", "last", "prompt", "generated")
POSITIONS_TEXT = (
    f'{", ".join(_POSITION_WORDS)}, a number, a list of numbers, or a slice such as "2:10" or "::4"'
)


def parse_slice(text: str) -> slice:
    """Parse a slice of positions such as ``2:10``, ``:-1`` or ``::4``.

    Returns:
        The slice; its step is None or at least 1.

    Raises:
        ConfigError: The text is no slice, or one that selects nothing of any length.
    """
    parts = _SLICE.fullmatch(text.strip())
    if not parts:
        raise ConfigError(f"given {show(text)}, expected {POSITIONS_TEXT}")
    start, stop, step = (None if part is None else int(part) for part in parts.groups())
    if step is not None and step < 1:
        raise ConfigError(f"slice {show(text)} has step {step}; expected at least 1")
    low = start or 0
    if stop == 0 or (stop is not None and (low < 0) == (stop < 0) and low >= stop):
        raise ConfigError(f"slice {show(text)} selects nothing; expected start before stop")
    return slice(start, stop, step)


def _parsed_by(parse: Callable[[str], Any], text: str) -> Any:
    # pydantic gathers its own errors with their places, and lets every other one through at once.
    try:
        return parse(text)
    except ConfigError as error:
        raise rule_error(str(error)) from None


def rule_error(message: str) -> PydanticCustomError:
    """Make an error of pydantic's that is told as it stands."""
    return PydanticCustomError("rule", "{message}", {"message": message})


def _storable(text: str) -> str:
    if re.search("[\0\ud800-\udfff]", text):  # HDF5's variable-length strings hold neither
        raise ValueError("expected text without NUL characters and lone surrogates")
    return text


def _printing(text: str) -> str:
    if not text.isprintable():  # in a name such a character is a mistake or a trick
        raise ValueError("expected a name of characters that print, on one line")
    return text


def listed(value: object) -> object:
    """Make a tuple of a list: strict pydantic takes no list for a tuple."""
    return tuple(value) if isinstance(value, list | tuple) else value


def one_or_many(value: object) -> tuple[Any, ...]:
    """Make a tuple of a list, or of one lone value."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if twice := [value for value, n in Counter(values).items() if n > 1]:
        raise ValueError(f"expected each value once, but {show(twice[0])} stands there twice")
    return values


def _portable(name: str) -> str:
    if name in PORTABLE_NAMES:
        return name
    if "." in name:
        raise rule_error(f"{show(name)} looks like a module path: write `modules: {shorten(name)}`")
    if re.search(r"[*?{\[]", name):
        meant = portable_like(name)
        each = f"name each: {', '.join(meant)}" if meant else one_of(name, PORTABLE_NAMES)
        raise rule_error(f"{show(name)}: globs do not go here; {each}")
    raise rule_error(f"unknown portable name {show(name)}; {one_of(name, PORTABLE_NAMES)}")


def _record(text: str) -> str:
    return str(_parsed_by(RecordKind.parse, text))


def _local(text: str) -> str:
    if (wrong := no_path(text)) is not None:
        raise ValueError(wrong)
    return text


def _device(text: str) -> str:
    if not re.fullmatch(_DEVICE, text):
        raise ValueError(f"expected {_DEVICES_TEXT}")
    return text


def _layer_range(value: object) -> object:
    """Write ``0..5``, both ends included as in a pattern, out as a list."""
    ends = re.fullmatch(r"\s*(\d{1,5})\.\.(\d{1,5})\s*", value) if isinstance(value, str) else None
    if ends is None:
        return value
    first, last = int(ends[1]), int(ends[2])
    if not first <= last <= _MOST_LAYERS:
        raise ValueError(f"{first}..{last} is no range; expected such as 0..5, both included")
    return list(range(first, last + 1))


def _layer_words(text: str) -> str:
    if text == "all":
        return text
    if not _SLICE.fullmatch(text.strip()):
        raise ValueError(f"expected {_LAYERS_TEXT}")
    return _positions(text)


def _positions(text: str) -> str:
    """Give equal selections one spelling: ``0:5:1`` is ``:5``, ``::`` is ``all``."""
    if text in _POSITION_WORDS:
        return text
    cut: slice = _parsed_by(parse_slice, text)
    ends = f"{cut.start or ''}:{'' if cut.stop is None else cut.stop}"
    step = f":{cut.step}" if (cut.step or 1) > 1 else ""
    return "all" if ends + step == ":" else ends + step


def _bytes(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = re.fullmatch(_SIZE, value)
    if not parts:
        raise ValueError(f"expected {_SIZE_TEXT}")
    number, prefix, binary = parts.groups()
    return int(number) * (1024 if binary else 1000) ** " KMGT".index(prefix or " ")


def _override(value: object) -> object:
    for item in value if isinstance(value, list | tuple) else (value,):
        if not (item is None or isinstance(item, str | int | float)):
            raise ValueError("expected text, a number, true, false, null, or a list of those")
        if isinstance(item, str):
            _storable(item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError("expected finite numbers")
        elif isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise ValueError("expected whole numbers that fit 64 bits")
    return list(value) if isinstance(value, list | tuple) else value


def _row_value(value: object) -> object:
    """Check a value beside an example; a list can be token ids or messages, read like a file's."""
    value = listed(plain(value))
    if isinstance(value, tuple) and value and all(isinstance(one, dict) for one in value):
        return value
    if isinstance(value, tuple) and all(isinstance(one, str | int | float) for one in value):
        return value
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"expected {ROW_VALUE_TEXT}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("expected a whole number that fits 64 bits")
    return _storable(value) if isinstance(value, str) else value


def _all_columns(text: str) -> str:
    if text != ALL_COLUMNS:
        raise ValueError(f"expected {_COLUMNS_TEXT}")
    return text


def _as_float(value: object) -> object:
    # `temperature: 1` is a number; strict mode takes no int for a float.
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value.bit_length() > 1000:
        raise ValueError("expected a smaller number")
    return float(value)


def _not_zero(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        raise ValueError(
            "expected a number above 0; for the likeliest token every time leave it out and "
            "write strategy: greedy"
        )
    return value


def _sorted_keys(values: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(values.items()))


def _word_or_list(value: object) -> str:
    return _WORD if isinstance(value, str) else _LIST


def _word_or_switch(value: object) -> str:
    return _WORD if isinstance(value, str) else _SWITCH


def _written_as(*single: dict[str, Any]) -> WithJsonSchema:
    """Describe what may be written where the normal form is a tuple: one, or a list of the last."""
    many = {"type": "array", "items": single[-1], "minItems": 1, "uniqueItems": True}
    return WithJsonSchema({"anyOf": [*single, many]})


# pydantic puts tags into its paths; no key is spelled so.
_WORD, _LIST, _SWITCH = (f"{TAG}{name}" for name in ("word", "list", "switch"))
MAX_COUNT = 2**31 - 1
ROW_VALUE_TEXT = "text, a number, true, false or null"
_COLUMNS_TEXT = f"{ALL_COLUMNS}, or a list of names such as [label, subject]"
_DEVICES_TEXT = "auto, cpu, cuda, cuda:1 or mps"
_SIZE_TEXT = "a number of bytes, or text such as 512MiB, 1GiB or 2GB"
_DEVICE = r"auto|cpu|cuda(:[0-9]{1,3})?|mps"
_SIZE = r"([0-9]{1,15}) ?(?:(?:([KMGT])(i)?)?B)?"
_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_KIND: dict[str, Any] = {
    "type": "string",
    "pattern": RECORD_PATTERN,
}
_LAYER: dict[str, Any] = {"type": "integer", "minimum": -_MOST_LAYERS, "maximum": _MOST_LAYERS}
_RANGE_WORD = {"type": "string", "pattern": r"^\s*[0-9]{1,5}\.\.[0-9]{1,5}\s*$"}
_POSITION: dict[str, Any] = {"type": "integer", "minimum": -MAX_COUNT, "maximum": MAX_COUNT}
_SLICE_WORD = {"type": "string", "pattern": rf"^\s*({_SLICE.pattern})\s*$"}
SCALAR = {"type": ["string", "number", "boolean", "null"]}
_NUMBERS = {"type": "array", "items": {"type": "integer"}}  # token ids
_MESSAGES = {"type": "array", "items": {"type": "object"}}
_ROW = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"anyOf": [SCALAR, _NUMBERS, _MESSAGES]},
}
_ATTRIBUTE = "^[A-Za-z_][A-Za-z0-9_]{0,99}$"

Text = Annotated[str, Field(min_length=1), AfterValidator(_storable)]
Name = Annotated[Text, AfterValidator(_printing)]
Place = Annotated[Name, AfterValidator(_local)]  # a path of this machine, or a name on the hub
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_listing = (Field(min_length=1), BeforeValidator(listed))
_several = (Field(min_length=1), BeforeValidator(one_or_many), AfterValidator(_distinct))

Texts = Annotated[
    tuple[Text, ...], *_listing, Expected('a list of texts, such as ["One text", "Another"]')
]
_RowValue = Annotated[Any, AfterValidator(_row_value)]
ExampleRows = Annotated[
    tuple[Annotated[dict[Text, _RowValue], Field(min_length=1)], ...],
    *_listing,
    Expected("a list of mappings, such as [{text: One text, label: 1}]"),
    WithJsonSchema({"type": "array", "minItems": 1, "items": _ROW}),
]
ColumnNames = Annotated[
    Annotated[str, AfterValidator(_all_columns), Tag(_WORD)]
    | Annotated[tuple[Name, ...], *_several, Tag(_LIST)],
    Discriminator(_word_or_list),
    Expected(_COLUMNS_TEXT),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": ALL_COLUMNS},
                {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True},
            ]
        }
    ),
]
Patterns = Annotated[
    tuple[Text, ...],
    *_several,
    Expected("a pattern of module paths such as transformer.h.*.mlp, or a list of them"),
    _written_as(_TEXT),
]
PortableNames = Annotated[
    tuple[Annotated[str, AfterValidator(_portable)], ...],
    *_several,
    Expected("a portable name such as resid_post, or a list of them"),
    _written_as({"enum": list(PORTABLE_NAMES)}),
]
Records = Annotated[
    tuple[Annotated[str, AfterValidator(_record)], ...],
    *_several,
    Expected("a record kind such as output or pattern, or a list of them"),
    _written_as(_KIND),
]
Layers = Annotated[
    Annotated[str, AfterValidator(_layer_words), Tag(_WORD)]
    | Annotated[
        tuple[Annotated[int, Field(ge=-_MOST_LAYERS, le=_MOST_LAYERS)], ...],
        *_several,
        Tag(_LIST),
    ],
    Discriminator(_word_or_list),
    BeforeValidator(_layer_range),
    Expected(_LAYERS_TEXT),
    _written_as({"const": "all"}, _RANGE_WORD, _SLICE_WORD, _LAYER),
]
PositionWord = Annotated[str, AfterValidator(_positions)]
PositionNumbers = Annotated[
    tuple[Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT)], ...], *_several
]
POSITIONS_WRITTEN = (
    {"enum": list(_POSITION_WORDS)},
    _SLICE_WORD,
    _POSITION,
    {"type": "array", "items": _POSITION, "minItems": 1, "uniqueItems": True},
)
_INDEX: dict[str, Any] = {"type": "integer", "minimum": -MAX_COUNT, "maximum": MAX_COUNT}
Indices = Annotated[
    tuple[Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT)], ...],
    *_several,
    Expected("a whole number, or a list of them"),
    _written_as(_INDEX),
]
Positive = Annotated[
    float,
    Field(gt=0, le=1e6),
    BeforeValidator(_as_float),
    Expected("a number above 0, at most 1000000"),
]
Temperature = Annotated[Positive, BeforeValidator(_not_zero)]
Share = Annotated[
    float,
    Field(gt=0, le=1),
    BeforeValidator(_as_float),
    Expected("a number above 0, at most 1"),
]
AsRun = Annotated[
    Annotated[bool, Tag(_SWITCH)] | Annotated[Literal["as_run"], Tag(_WORD)],
    Discriminator(_word_or_switch),
    Expected("true, false or as_run"),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"const": "as_run", "type": "string"}]}),
]
Both = Annotated[
    Annotated[bool, Tag(_SWITCH)] | Annotated[Literal["both"], Tag(_WORD)],
    Discriminator(_word_or_switch),
    Expected("true, false or both"),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"const": "both", "type": "string"}]}),
]
Device = Annotated[
    str,
    AfterValidator(_device),
    Expected(_DEVICES_TEXT),
    WithJsonSchema({"type": "string", "pattern": f"^({_DEVICE})$"}),
]
ByteCount = Annotated[
    int,
    BeforeValidator(_bytes),
    Field(ge=1, le=2**50),
    Expected(_SIZE_TEXT),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 2**50},
                {"type": "string", "pattern": f"^{_SIZE}$"},
            ]
        }
    ),
]
Overrides = Annotated[
    dict[Annotated[str, Field(pattern=_ATTRIBUTE)], Annotated[Any, AfterValidator(_override)]],
    AfterValidator(_sorted_keys),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": _ATTRIBUTE},
            "additionalProperties": {"anyOf": [SCALAR, {"type": "array", "items": SCALAR}]},
        }
    ),
]
