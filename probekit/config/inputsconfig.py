"""InputsConfig: what may be written of what the model reads.

Knows each key's type, default and meaning, and what is wrong between keys; reads no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import (
    ConfigDict,
    Field,
)

from probekit.arguments import at_home
from probekit.config.fields import (
    ALL_COLUMNS,
    MAX_COUNT,
    ColumnNames,
    Count,
    ExampleRows,
    Place,
    Seed,
    Text,
    Texts,
)
from probekit.config.section import (
    Deciding,
    Free,
    Part,
    exactly_one,
    one_source,
)
from probekit.wording import counted, show

_MOST_EXAMPLES, _MOST_RANDOM = 100_000, 50_000_000  # random examples, and tokens of them


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT


class DatasetInputs(Part):
    """A dataset of the hub (needs probekit[datasets])."""

    name: Deciding[Text] = Field(description="Hub id or local folder of the dataset.")
    subset: Deciding[Text | None] = Field(
        None, description="Configuration of the dataset, where it has any."
    )
    split: Deciding[Text] = Field("train", description="Split to read, e.g. train or validation.")
    revision: Deciding[Text | None] = Field(None, description="Branch, tag or commit on the hub.")


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


_SOURCES = ("texts", "examples", "file", "dataset", "random")


class InputsConfig(Part):
    """The inputs: exactly one of texts, examples, file, dataset and random."""

    model_config = ConfigDict(json_schema_extra=exactly_one(*_SOURCES))

    texts: Deciding[Texts | None] = Field(
        None, description="The texts themselves; one is one example."
    )
    examples: Deciding[ExampleRows | None] = Field(
        None, description="Texts with values beside them, e.g. {text: ..., label: 1}."
    )
    file: Deciding[Place | None] = Field(None, description="A .jsonl, .txt, .csv or .parquet file.")
    dataset: Deciding[DatasetInputs | None] = Field(None, description="A dataset of the hub.")
    random: Deciding[RandomInputs | None] = Field(None, description="Seeded random tokens.")
    field: Deciding[Text] = Field("text", description="The field or column that holds the text.")
    columns: Deciding[ColumnNames | None] = Field(
        None,
        description="Fields to keep beside each example, or all; null: all of examples, none of "
        "a file or dataset.",
    )
    limit: Deciding[Count | None] = Field(None, description="Only the first so many examples.")
    max_tokens: Deciding[Count | None] = Field(
        None, description="Most tokens of an example; null: the model's context length."
    )
    too_long: Deciding[Literal["truncate", "error"]] = Field(
        "truncate", description="What to do with an example of more than max_tokens."
    )
    batch_tokens: Free[Count] = Field(8192, description="Most tokens of a batch, padding included.")

    @property
    def place(self) -> Path | None:
        """Where `file` is on this machine."""
        return None if self.file is None else at_home(self.file)

    @property
    def wanted_columns(self) -> tuple[str, ...] | str:
        """Which fields are kept beside each example: names, or ALL_COLUMNS."""
        if self.columns is not None:
            return self.columns
        return () if self.examples is None else ALL_COLUMNS

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from one_source(given, _SOURCES, cls.model_fields)
        plain = next((key for key in ("texts", "random") if given.get(key) is not None), None)
        if given.get("columns") is not None and plain is not None:
            yield (
                "columns",
                f"{plain} have no fields; give inputs.examples, a file or a dataset",
            )
