"""InputsConfig: what may be written of what the model reads.

Knows each key's type, default and meaning, and what is wrong between keys; reads no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, cast

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
)

from probekit.arguments import at_home, plain
from probekit.config.chats import Messages, TemplateInputs
from probekit.config.datasetinputs import DatasetInputs
from probekit.config.fields import (
    ALL_COLUMNS,
    MAX_COUNT,
    ROW_VALUE_TEXT,
    SCALAR,
    ColumnNames,
    Count,
    ExampleRows,
    Place,
    Seed,
    Text,
    Texts,
)
from probekit.config.keyplaces import KeyPath
from probekit.config.section import (
    Deciding,
    Free,
    Part,
    exactly_one,
    one_source,
)
from probekit.config.tokenids import Tokens
from probekit.wording import counted, show, show_typed

_MOST_EXAMPLES, _MOST_RANDOM = 100_000, 50_000_000  # random examples, and tokens of them


def _not_zero(value: object) -> object:
    if type(value) is int and value == 0:
        raise ValueError(
            "expected at least 1: so many tokens a piece shares with the one before; leave it out "
            "for pieces that share none"
        )
    return value


_Stride = Annotated[Count, BeforeValidator(_not_zero)]


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT


class RandomInputs(Part):
    """Seeded random tokens: for benchmarks, and for models without a tokenizer."""

    examples: Deciding[Annotated[int, Field(ge=1, le=_MOST_EXAMPLES)]] = Field(
        description="How many examples."
    )
    min_tokens: Deciding[Count] = Field(8, description="Least tokens of an example.")
    max_tokens: Deciding[Count] = Field(description="Most tokens of an example.")
    seed: Deciding[Seed] = Field(0, description="Seed of the tokens and the lengths.")

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        low, high = given.get("min_tokens", 8), given.get("max_tokens")
        if _is_count(low) and _is_count(high) and high < low:
            yield "max_tokens", f"given {show(high)}, expected at least min_tokens ({show(low)})"
        n_examples = given.get("examples")
        if (
            _is_count(high)
            and _is_count(n_examples)
            and n_examples <= _MOST_EXAMPLES
            and n_examples * high > _MOST_RANDOM
        ):
            yield (
                "max_tokens",
                f"{counted(n_examples, 'example')} of up to {counted(high, 'token')}: more than "
                f"{_MOST_RANDOM:,} tokens; give fewer or shorter ones",
            )


_SOURCES = ("texts", "examples", "file", "dataset", "tokens", "messages", "random")
_NAMING = ("tokens", "messages")  # sources of their own, or the name of a field of another
_WITH_FIELDS = ("examples", "file", "dataset")
_GIVE_FIELDS = "give inputs.examples, a file or a dataset"

_NEVER_SPLIT: Mapping[str, str] = {
    "messages": "a chat is not split, since a piece would begin in the middle of a turn; write "
    "truncate or error",
    "random": "random examples are as long as inputs.random says; leave it out",
}
_IS_SPLIT: dict[str, Any] = {
    "required": ["too_long"],
    "properties": {"too_long": {"const": "split"}},
}

_UNNAMED: dict[str, Any] = {key: {"not": {"type": "string"}} for key in _NAMING}
_SAYS_IDS: dict[str, Any] = {"special_tokens": {"const": "auto"}}


def _there(key: str) -> dict[str, Any]:
    return {"required": [key], "properties": {key: {"not": {"type": "null"}}}}


_SCHEMA = {
    **exactly_one(*_SOURCES, beside={"texts": _UNNAMED, "random": {**_UNNAMED, **_SAYS_IDS}}),
    "if": {"anyOf": [_there(key) for key in _NAMING]},
    "then": {"properties": {**_SAYS_IDS, "field": False}},
    "else": {"properties": {"examples": {"items": {"additionalProperties": SCALAR}}}},
    "allOf": [
        {"if": _there("stride"), "then": _IS_SPLIT},
        {
            "if": _IS_SPLIT,
            "then": {"properties": {key: {"type": "null"} for key in _NEVER_SPLIT}},
        },
        {
            "if": _there("messages"),
            "then": {"properties": {"tokens": {"type": "null"}}},
            "else": {
                "properties": {key: {"type": "null"} for key in ("chat_template", "template")}
            },
        },
    ],
}
for _name in _NAMING:
    _SCHEMA["oneOf"][_SOURCES.index(_name)]["properties"] = {_name: {"type": "array"}}


class InputsConfig(Part):
    """The inputs: exactly one of texts, examples, file, dataset, tokens, messages and random."""

    model_config = ConfigDict(json_schema_extra=_SCHEMA)

    texts: Deciding[Texts | None] = Field(
        None, description="The texts themselves; one is one example."
    )
    examples: Deciding[ExampleRows | None] = Field(
        None, description="Texts with values beside them, e.g. {text: ..., label: 1}."
    )
    file: Deciding[Place | None] = Field(None, description="A .jsonl, .txt, .csv or .parquet file.")
    dataset: Deciding[DatasetInputs | None] = Field(None, description="A dataset of the hub.")
    tokens: Deciding[Tokens | None] = Field(
        None,
        description="Token ids, a list for each example; or the name of the field of examples, a "
        "file or a dataset that holds such lists.",
    )
    messages: Deciding[Messages | None] = Field(
        None,
        description="Conversations, each a list of {role: ..., content: ...}; or the name of the "
        "field of examples, a file or a dataset that holds such lists.",
    )
    chat_template: Deciding[Place | None] = Field(
        None, description="A file with the chat template; null: the tokenizer's own."
    )
    template: Deciding[TemplateInputs | None] = Field(
        None, description="What the chat template is given beside the messages."
    )
    random: Deciding[RandomInputs | None] = Field(None, description="Seeded random tokens.")
    field: Deciding[Text] = Field("text", description="The field or column that holds the text.")
    columns: Deciding[ColumnNames | None] = Field(
        None,
        description="Fields to keep beside each example, or all; null: all of examples, none of "
        "a file or dataset.",
    )
    special_tokens: Deciding[Literal["auto", "none", "bos"]] = Field(
        "auto",
        description="What is put beside a text: what the tokenizer puts there by itself, nothing, "
        "or its BOS token alone. A text that begins with BOS gets no second one.",
    )
    limit: Deciding[Count | None] = Field(None, description="Only the first so many examples.")
    max_tokens: Deciding[Count | None] = Field(
        None, description="Most tokens of an example; null: the model's context length."
    )
    too_long: Deciding[Literal["truncate", "error", "split"]] = Field(
        "truncate",
        description="What to do with an example of more than max_tokens; split: it is a document, "
        "and each piece of it an example.",
    )
    stride: Deciding[_Stride | None] = Field(
        None,
        description="With too_long: split, how many tokens a piece shares with the one before; "
        "null: none.",
    )
    batch_tokens: Free[Count] = Field(8192, description="Most tokens of a batch, padding included.")

    @property
    def place(self) -> Path | None:
        """Where `file` is on this machine."""
        return None if self.file is None else at_home(self.file)

    @property
    def tokens_field(self) -> str | None:
        """The field that holds lists of token ids, where `tokens` names one."""
        return self.tokens if isinstance(self.tokens, str) else None

    @property
    def token_lists(self) -> tuple[tuple[int, ...], ...] | None:
        """The lists of token ids, where `tokens` is those."""
        # A lone list is several with one in them by now, which its type cannot say.
        return (
            None if self.tokens is None or isinstance(self.tokens, str) else cast(Any, self.tokens)
        )

    @property
    def messages_field(self) -> str | None:
        """The field that holds messages, where `messages` names one."""
        return self.messages if isinstance(self.messages, str) else None

    @property
    def conversations(self) -> tuple[list[dict[str, Any]], ...] | None:
        """The conversations, where `messages` is those."""
        return None if isinstance(self.messages, str) else self.messages

    @property
    def template_place(self) -> Path | None:
        """Where `chat_template` is on this machine."""
        return None if self.chat_template is None else at_home(self.chat_template)

    @property
    def is_streamed(self) -> bool:
        """Whether the source is read once, as it comes."""
        return self.dataset is not None and self.dataset.streaming

    @property
    def needs_tokenizer(self) -> bool:
        """Whether texts, or chats, have to become token ids."""
        return self.random is None and self.tokens is None

    @property
    def unused(self) -> dict[str, str]:
        """Settings that are written and that nothing uses, with what to do."""
        source = (
            "texts" if self.texts is not None else "random" if self.random is not None else None
        )
        if source is None or self._is_default("field"):
            return {}
        return {"field": f"{source} have no fields; leave it out"}

    @property
    def wanted_columns(self) -> tuple[str, ...] | str:
        """Which fields are kept beside each example: names, or ALL_COLUMNS."""
        if self.columns is not None:
            return self.columns
        return () if self.examples is None else ALL_COLUMNS

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str | KeyPath, str]]:
        key = next((key for key in reversed(_NAMING) if given.get(key) is not None), "tokens")
        said, is_name = given.get(key), isinstance(given.get(key), str)
        fieldless = ("texts", "random") if is_name else ("texts", *_NAMING, "random")
        bare = next((one for one in fieldless if given.get(one) is not None), None)
        if all(given.get(one) is not None for one in _NAMING):
            yield "messages", "given tokens and messages, expected one of them"
        elif not is_name:
            yield from one_source(given, _SOURCES, cls.model_fields)
        elif bare is not None:
            yield key, f"{bare} have no field {show(said)}; {_GIVE_FIELDS}"
        elif all(given.get(one) is None for one in _WITH_FIELDS):
            yield key, f"given {show(said)}, the name of a field, and none; {_GIVE_FIELDS}"
        else:
            yield from one_source(given, _WITH_FIELDS, cls.model_fields)
        if given.get("columns") is not None and bare is not None:
            yield "columns", f"{bare} have no fields; {_GIVE_FIELDS}"
        yield from _special_tokens(given)
        yield from _splitting(given)
        if said is not None and "field" in given:
            what = "token ids" if key == "tokens" else "messages"
            yield "field", f"the examples are {what}, and inputs.{key} says where; leave it out"
        if given.get("messages") is None:
            for one in ("chat_template", "template"):
                if given.get(one) is not None:
                    yield one, "goes with messages alone: give inputs.messages, or leave it out"
        yield from _lists_in(given.get("examples"), key, said)


def _special_tokens(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if given.get("special_tokens") not in ("none", "bos"):
        return
    ids = next((key for key in ("tokens", "random") if given.get(key) is not None), None)
    if ids is not None:
        yield (
            "special_tokens",
            f"{ids} are token ids already, and nothing is put beside them; leave it out",
        )
    elif given.get("messages") is not None:
        yield "special_tokens", "the chat template writes those of messages; leave it out"


def _splitting(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    stride, most = given.get("stride"), given.get("max_tokens")
    if given.get("too_long") == "split":
        found = next((key for key in _NEVER_SPLIT if given.get(key) is not None), None)
        if found is not None:
            yield "too_long", _NEVER_SPLIT[found]
    elif stride is not None:
        yield "stride", "goes with too_long: split alone; write that, or leave it out"
    if _is_count(stride) and _is_count(most) and stride >= most:
        yield (
            "stride",
            f"given {show(stride)}, expected fewer than the tokens of a piece (max_tokens: "
            f"{show(most)}): it is how many tokens a piece shares with the one before",
        )


def _lists_in(rows: object, key: str, named: object) -> Iterator[tuple[KeyPath, str]]:
    """Give what stands as a list in a row, and is not what the key names."""
    for number, row in enumerate(rows if isinstance(rows, list | tuple) else ()):
        for name, value in row.items() if isinstance(row, Mapping) else ():
            items, place = plain(value), ("examples", number, name)
            if not isinstance(items, list | tuple):
                continue
            if name == named:
                if key == "tokens" and any(isinstance(one, Mapping) for one in items):
                    yield place, f"given {show_typed(value)}, expected a list of token ids"
            elif isinstance(named, str) and named not in row:
                yield place, f"inputs.{key} names the field {named!r}; write {key}: {name}"
            else:
                yield place, f"given {show_typed(value)}, expected {ROW_VALUE_TEXT}"
