"""Axes and their tables, each declared once: what the rows of sites are, and what is said of them.

A site lies along an axis, `token` or `example`. An axis has a table: a group of the file, with a
dataset for each column. Whoever writes, links, reads, checks or hands over a table goes by what is
declared here, so that a new column, or a new axis, is a line of this file and nothing else but the
code that knows its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

TEXT = "text"  # the dtype of a column of strings

ALL_TOKENS = "all"  # the rows of a site with one row for every token
PER_EXAMPLE = "example"  # the rows of a site with one row for every example

EXAMPLE, TOKEN = "example", "token"
NAMES = "names"  # the attribute of a column whose values number names


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One fact of each row of an axis."""

    name: str
    dtype: str  # as stored: numpy's name for it, or TEXT
    means: str  # what a value is, for the file and the docs
    source: str  # where the values come from, for the docs
    unit: str = ""  # what a value counts, where it counts something
    numbers: str | None = None  # the axis whose rows its values number, counted over the whole run
    since: int = 0  # the minor number of the format that brought it
    default: int | None = None  # the value of every row where a trace has no such column
    spelled: str | None = None  # where values are token ids: the name under which their strings go
    is_named: bool = False  # values number the names that the dataset's attribute NAMES lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Values of a column that numbers names."""

    names: tuple[str, ...]
    codes: np.ndarray[Any, Any]  # [row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What a row is.

    Every axis but `example` lies inside of the examples: each example has a run of its rows, one
    after another, and the table of examples says where it begins and how long it is.
    """

    name: str
    table: str  # the group that holds its columns
    columns: tuple[Column, ...]

    @property
    def is_inner(self) -> bool:
        """Whether each example has a run of these rows."""
        return self.name != EXAMPLE

    @property
    def first(self) -> str:
        """The column of the examples that says where an example's rows begin."""
        return f"first_{self.name}"

    @property
    def count(self) -> str:
        """The column of the examples that says how many rows an example has."""
        return f"n_{self.table}"

    @property
    def whole(self) -> str:
        """The word by which a site says that it has all rows of this axis, its `rows`."""
        return ALL_TOKENS if self.name == TOKEN else self.name

    def column(self, name: str) -> Column | None:
        """Give one of its columns; None where none is called that."""
        return next((column for column in self.columns if column.name == name), None)


def position(of: str) -> Column:
    """Declare where in its example a row stands."""
    return Column(
        name="position",
        dtype="<i4",
        unit=of,
        means=f"place of the {of} in its example, from 0",
        source="the plan",
    )


def example(of: str) -> Column:
    """Declare whose a row is."""
    return Column(
        name=EXAMPLE,
        dtype="<i8",
        numbers=EXAMPLE,
        means=f"number of the example that the {of} is of",
        source="the plan",
    )


def declare(examples: Axis, *inner: Axis) -> Mapping[str, Axis]:
    """Declare axes; the table of examples gets the columns that say where each one's rows lie."""
    extents = [
        column
        for axis in inner
        for column in (
            Column(
                name=axis.first,
                dtype="<i8",
                numbers=axis.name,
                means=f"row of the example's first {axis.name}",
                source="the plan",
            ),
            Column(
                name=axis.count,
                dtype="<i8",
                unit=axis.name,
                means=f"how many {axis.table} the example has",
                source="the plan",
            ),
        )
    ]
    whole = replace(examples, columns=(*examples.columns, *extents))
    return {axis.name: axis for axis in (whole, *inner)}


_OF_DOCUMENTS = "`inputs.too_long: split`"
_OF_CHATS = "where contents stand in what the chat template writes; there for chats alone"
_OF_SEVERAL = "`generate.samples` or `generate.beams`; not there where a prompt is one example"
_OF_TEXTS = "the tokenizer's offsets; not there where it says none, as for random tokens"

AXES: Mapping[str, Axis] = declare(
    Axis(
        name=EXAMPLE,
        table="examples",
        columns=(
            Column(
                name="id", dtype=TEXT, means="name of the example in the inputs", source="inputs"
            ),
            Column(name="text", dtype=TEXT, means="the text as it was given", source="inputs"),
            Column(
                name="prompt",
                dtype="<i8",
                since=1,
                means="number in the run of the prompt that the example goes on from, from 0",
                source=_OF_SEVERAL,
            ),
            Column(
                name="sample",
                dtype="<i4",
                since=1,
                means="number of the example among the completions of its prompt, from 0",
                source=_OF_SEVERAL,
            ),
            Column(
                name="score",
                dtype="<f4",
                since=1,
                means="what the beam search ranked the sequence by: its log-probability, divided "
                "by the number of generated tokens",
                source="`generate.beams`; there for beams alone",
            ),
            Column(
                name="document",
                dtype="<i8",
                since=1,
                means="number of the document that the example is a piece of, over the whole run",
                source=_OF_DOCUMENTS,
            ),
            Column(
                name="document_start",
                dtype="<i4",
                since=1,
                unit=TOKEN,
                means="place in its document of the example's first own token, from 0",
                source=_OF_DOCUMENTS,
            ),
            Column(
                name="document_char_start",
                dtype="<i4",
                since=1,
                unit="character",
                means="place in its document's text of the example's own, from 0",
                source=f"{_OF_DOCUMENTS}, and where tokens have char_start",
            ),
        ),
    ),
    Axis(
        name=TOKEN,
        table="tokens",
        columns=(
            Column(
                name="id",
                dtype="<i4",
                spelled="text",
                means="number of the token in the vocabulary",
                source="the tokenizer, or what was generated",
            ),
            position(TOKEN),
            example(TOKEN),
            Column(
                name="step",
                dtype="<i4",
                default=0,
                means="0 for a text's own token; 1, 2, ... for generated ones",
                source="`generate`",
            ),
            Column(
                name="char_start",
                dtype="<i4",
                since=1,
                unit="character",
                means="first character of the text that the token covers; -1 for a generated one",
                source=_OF_TEXTS,
            ),
            Column(
                name="char_end",
                dtype="<i4",
                since=1,
                unit="character",
                means="the character behind the last one: char_start where it covers none",
                source=_OF_TEXTS,
            ),
            Column(
                name="document_position",
                dtype="<i4",
                since=1,
                unit=TOKEN,
                means="place of the token in its document, from 0; -1 for a special token",
                source=_OF_DOCUMENTS,
            ),
            Column(
                name="role",
                dtype="<i2",
                since=1,
                is_named=True,
                means="whose turn of a chat the token is of, as a number of the attribute names; "
                "empty for nobody's",
                source=_OF_CHATS,
            ),
            Column(
                name="turn",
                dtype="<i4",
                since=1,
                means="number of the message in its chat, from 0; -1 for nobody's",
                source=_OF_CHATS,
            ),
            Column(
                name="is_content",
                dtype="bool",
                since=1,
                means="whether the token has a character of what was said, or is the template's",
                source=_OF_CHATS,
            ),
        ),
    ),
)


def known_axes() -> tuple[Axis, ...]:
    """Give all axes, `example` first."""
    return tuple(AXES.values())


def axis_of(rows: str) -> Axis:
    """Give the axis that a site lies along, by its `rows`: all of one, or a choice of tokens."""
    return next((axis for axis in known_axes() if axis.whole == rows), AXES[TOKEN])


def is_choice(rows: str) -> bool:
    """Say whether a site's `rows` are a choice of an axis' rows, and not all of them."""
    return all(axis.whole != rows for axis in known_axes())
