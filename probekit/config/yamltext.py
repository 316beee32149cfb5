"""YAML text <-> a tree of plain values with the line of every key.

No other scalars than YAML 1.2's core schema, no tags, no surprises; nothing of configs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from probekit.arguments import at_home, no_path
from probekit.config.keyplaces import MAX_DEPTH, KeyPath, Mistake, Places, path_text
from probekit.errors import ConfigError, Fault
from probekit.wording import shorten, show, show_typed

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # its events only, never its objects
# A second's work each; a longer list of texts belongs in a file of its own.
_MAX_FILE_BYTES = 4_000_000
_MAX_VALUES = 20_000  # aliases written out

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_WORDS = dict.fromkeys(("", "~", "null", "Null", "NULL")) | {
    spelled(word): value
    for word, value in (("true", True), ("false", False))
    for spelled in (str.lower, str.title, str.upper)
}
_TOKEN = re.compile(r"""(?:\{[^{}\s]*\}|[^\s\[\],"'#])+""")
_SPECIAL = re.compile(r"[*&!@`%]|\{.*\}")
_NO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"
# What editors and web pages put in the place of an indent, or of a list's hyphen.
_ODD_START = re.compile(rf"[^\S ]|[{_NO_WIDTH}]|[\u2010-\u2015\u2212\u2022\u00b7](?=\s)")
_UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _TextError(Exception):
    def __init__(self, message: str, line: int | None = None, path: KeyPath = ()) -> None:
        super().__init__(message)
        self.line, self.path = line, path


@dataclass(frozen=True, slots=True)
class _Node:
    line: int
    value: Any  # a scalar, a list of nodes, or _Pairs


@dataclass(frozen=True, slots=True)
class _Pairs:
    items: list[tuple[str, int, _Node]]  # key, its line, value; merge keys not yet carried out


class _Reader:
    """Reads one YAML document: events -> nodes (`read`) -> values and lines (`plain`)."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.duplicates: list[Mistake] = []
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_PARSER))
        self._anchors: dict[str, _Node] = {}
        self._n_values = 0

    def read(self) -> _Node | None:
        """Read the only document; None where there is none."""
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        root = self._node(next(self._events), ())
        next(self._events)
        if not isinstance(event := next(self._events), yaml.StreamEndEvent):
            raise _TextError("a second document starts; expected one", _line(event))
        return root

    def _node(self, event: Any, path: KeyPath) -> _Node:
        line = _line(event)
        self._count(line, path)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self._anchors:
                return self._anchors[event.anchor]
            name = f"*{event.anchor}"
            message = f'alias {name} has no anchor; if it is text, put it in quotes: "{name}"'
            raise _TextError(message, line, path)
        if event.tag:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            message = f"given the tag {show(tag)}, expected plain YAML; remove the tag"
            raise _TextError(f"{message}, or put text that starts with ! in quotes", line, path)
        node = _Node(line, self._value(event, path))
        if event.anchor:
            self._anchors[event.anchor] = node  # only now: a node cannot hold itself
        return node

    def _value(self, event: Any, path: KeyPath) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event, path)
        if isinstance(event, yaml.SequenceStartEvent):
            nodes: list[_Node] = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                nodes.append(self._node(event, (*path, len(nodes))))
            return nodes
        pairs: list[tuple[str, int, _Node]] = []
        first_lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, line = _key(event, path), _line(event)
            if key in first_lines:
                message = f"duplicate key, first given on line {first_lines[key]}; keep one"
                self.duplicates.append(Mistake(path=(*path, key), message=message, line=line))
            first_lines.setdefault(key, line)
            pairs.append((key, line, self._node(next(self._events), (*path, key))))
        return _Pairs(pairs)

    def plain(self, node: _Node, path: KeyPath = ()) -> Any:
        """Return the value of a node, aliases and merge keys written out; note every line."""
        self._count(node.line, path)
        self.lines.setdefault(path, node.line)
        if isinstance(node.value, list):
            return [self.plain(item, (*path, i)) for i, item in enumerate(node.value)]
        if not isinstance(node.value, _Pairs):
            return node.value
        pairs = self._merged(node, path, depth=0)
        self.lines.update({(*path, key): line for key, (line, _) in pairs.items()})
        return {key: self.plain(child, (*path, key)) for key, (_, child) in pairs.items()}

    def _merged(self, node: _Node, path: KeyPath, depth: int) -> dict[str, tuple[int, _Node]]:
        """Carry out ``<<``: a key of the mapping's own wins, then the earlier source."""
        own: dict[str, tuple[int, _Node]] = {}
        inherited: dict[str, tuple[int, _Node]] = {}
        for key, line, child in node.value.items:
            self._count(line, path)
            if key != "<<":
                own.setdefault(key, (line, child))
                continue
            for source in child.value if isinstance(child.value, list) else [child]:
                if not isinstance(source.value, _Pairs) or depth > MAX_DEPTH:
                    raise _TextError("<< expects an alias of a mapping, e.g. *base", line, path)
                inherited = self._merged(source, path, depth + 1) | inherited
        return inherited | own

    def _count(self, line: int, path: KeyPath) -> None:
        self._n_values += 1
        if self._n_values > 2 * _MAX_VALUES:  # each is counted as a node and as a value
            message = f"more than {_MAX_VALUES:,} values, aliases written out"
            raise _TextError(f"{message}; put texts in a file and use inputs.file", line)
        if len(path) > MAX_DEPTH:
            raise _TextError(f"nested deeper than {MAX_DEPTH} levels", line, path[:3])


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _key(event: Any, path: KeyPath) -> str:
    key = _scalar(event, path) if isinstance(event, yaml.ScalarEvent) else None
    if isinstance(key, str) and not event.tag:
        if (odd := _ODD_START.match(key)) and event.implicit[0]:
            what = "space" if odd[0].isspace() or odd[0] in _NO_WIDTH else "hyphen"
            message = (
                f"{show(key)} begins with U+{ord(odd[0]):04X}; YAML knows the plain {what} only"
            )
            raise _TextError(message, _line(event), path)
        return key
    given = f"the key {show_typed(key)}"
    if not isinstance(event, yaml.ScalarEvent):
        given = "a list, a mapping or an alias as a key"
    message = f"given {given}, expected text; put text and patterns in quotes"
    raise _TextError(message, _line(event), path)


def _scalar(event: Any, path: KeyPath) -> Any:
    text = event.value
    if not event.implicit[0]:  # quoted
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text) and len(text) <= 40:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if not _FLOAT.fullmatch(text) and not _INT.fullmatch(text):
        return text
    number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan")[:400])
    if _INT.fullmatch(text) or (abs(number) == float("inf") and "inf" not in text.lower()):
        message = f"number {shorten(text)} is too large; if it is text, put it in quotes"
        raise _TextError(message, _line(event), path)
    return number


def read_file(source: str | Path) -> tuple[Any, Places, list[Mistake]]:
    """Read a YAML file: its tree, where each key stands, and the keys that stand twice."""
    name = str(source) if str(source) and str(source).isprintable() else show(str(source))
    try:
        reader, tree = _read_text(_file_text(source))
    except _TextError as error:
        places = Places(name, {} if error.line is None else {error.path: error.line})
        raise ConfigError.of([Fault(places.where(error.path), str(error))]) from None
    return tree, Places(name, reader.lines), reader.duplicates


def read_value(text: str) -> Any:
    """Read the value of a ``--set``."""
    try:
        reader, value = _read_text(text)
    except _TextError as error:
        raise ConfigError(str(error)) from None
    for duplicate in reader.duplicates:
        raise ConfigError(f"{path_text(duplicate.path)}: duplicate key; keep one")
    return value


def _read_text(text: str) -> tuple[_Reader, Any]:
    if unprintable := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, unprintable.start()) + 1
        raise _TextError(f"character U+{ord(unprintable[0]):04X} is not text; remove it", line)
    reader = _Reader(text)
    try:
        root = reader.read()
        return reader, reader.plain(root) if root else None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text) from None
    except (
        ValueError,
        OverflowError,
    ) as error:  # PyYAML's own chr() of an escape such as \UFFFFFFFF
        raise _TextError(f"not valid YAML: {error}") from None


_BRACKETS = {"flow sequence": "[", "flow mapping": "{"}


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> _TextError:
    unclosed = "quoted" in (error.context or "")
    mark = error.context_mark if unclosed else error.problem_mark
    lines = text.splitlines() or [""]
    number = min(mark.line if mark else 0, len(lines) - 1)
    line = lines[number]
    opened = (error.context or "").removeprefix("while parsing a ")
    if "\t" in line[: len(line) - len(line.lstrip())]:
        advice = "indent with spaces, not with tabs"
    elif special := next(filter(_SPECIAL.search, _TOKEN.findall(line)), ""):
        advice = f'put text with special characters in quotes: "{shorten(special)}"'
    elif opened in _BRACKETS and error.context_mark is not None:
        begin = error.context_mark.line + 1
        what = f"the {_BRACKETS[opened]} on line {begin} is not closed, or text in it needs quotes"
        return _TextError(f"not valid YAML: {error.problem}; {what}", begin)
    else:
        advice = f"the line reads {show(line.strip())}"
        if (error.problem or "").startswith("mapping values"):
            advice += '; put text with ": " in quotes, and indent the keys of a mapping alike'
    return _TextError(f"not valid YAML: {error.problem}; {advice}", number + 1)


def _file_text(source: str | Path) -> str:
    if not str(source):
        raise _TextError("the path is empty; expected the path of a YAML file")
    if (wrong := no_path(str(source))) is not None:
        raise _TextError(f"this is {'a path ' if wrong.startswith('which') else ''}{wrong}")
    try:
        with at_home(source).open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise _TextError("no such file; expected the path of a YAML file") from None
    except IsADirectoryError:
        raise _TextError("this is a folder; expected the path of a YAML file") from None
    except (OSError, ValueError) as error:
        raise _TextError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > _MAX_FILE_BYTES:
        message = f"larger than {_MAX_FILE_BYTES:,} bytes; put texts in a file and use inputs.file"
        raise _TextError(message)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _TextError("is UTF-16; save the file as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{raw[error.start]:02x}"
        raise _TextError(f"not UTF-8 ({byte}); save the file as UTF-8", line) from None


class Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or our own reading would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


def _quoted_if_odd(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, _quoted_if_odd)
for _number in (_INT, _FLOAT):
    Dumper.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(rf"(?:{_number.pattern})\Z"), list("+-.0123456789")
    )
