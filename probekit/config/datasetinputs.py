"""DatasetInputs: what may be written of a dataset that the library `datasets` reads.

Knows each key's type, default and meaning; reads no file, and imports no such library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema

from probekit.config.fields import TAG, Expected, Name, Text, one_or_many
from probekit.config.section import Deciding, Free, Part
from probekit.wording import show

_SUCH_AS = {"json": "a.jsonl", "csv": "a.csv", "parquet": "a.parquet", "text": "a.txt"}
_MEANT = {"jsonl": "json", "jsonlines": "json", "ndjson": "json", "txt": "text", "tsv": "csv"}
_SLICED = re.compile(r"[\[+]")  # train[:10], train+test
BUILDERS = tuple(_SUCH_AS)  # names that read files, whichever data_files says

_FILES, _SPLITS = f"{TAG}files", f"{TAG}splits"
_PATH: dict[str, Any] = {"type": "string", "minLength": 1}
_PATHS: dict[str, Any] = {
    "anyOf": [_PATH, {"type": "array", "items": _PATH, "minItems": 1}],
}
_Files = Annotated[tuple[Name, ...], Field(min_length=1), BeforeValidator(one_or_many)]
DataFiles = Annotated[
    Annotated[_Files, Tag(_FILES)]
    | Annotated[dict[Text, _Files], Field(min_length=1), Tag(_SPLITS)],
    Discriminator(lambda value: _SPLITS if isinstance(value, Mapping) else _FILES),
    Expected("a path or a glob, a list of them, or a mapping such as {train: a.jsonl}"),
    WithJsonSchema(
        {
            "anyOf": [
                *_PATHS["anyOf"],
                {"type": "object", "minProperties": 1, "additionalProperties": _PATHS},
            ]
        }
    ),
]


class DatasetInputs(Part):
    """A dataset of the hub, or files that datasets reads (needs probekit[datasets])."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"name": {"enum": list(BUILDERS)}}},
            "then": {
                "required": ["data_files"],
                "properties": {"data_files": {"not": {"type": "null"}}},
            },
        }
    )

    name: Deciding[Text] = Field(
        description=f"Hub id or local folder of the dataset; or {', '.join(BUILDERS)}, for "
        "data_files of that kind."
    )
    subset: Deciding[Text | None] = Field(
        None, description="Configuration of the dataset, where it has any."
    )
    split: Deciding[Text] = Field("train", description="Split to read, e.g. train or validation.")
    revision: Deciding[Text | None] = Field(None, description="Branch, tag or commit on the hub.")
    data_files: Deciding[DataFiles | None] = Field(
        None,
        description="Files to read: a path or a glob, a list of them, or such for each split. "
        "Relative to where probekit runs, or to the dataset's own folder.",
    )
    streaming: Free[bool] = Field(
        False,
        description="Read rows as they come, once, without a copy of the dataset on this machine.",
    )

    @property
    def is_builder(self) -> bool:
        """Whether the name is a kind of files."""
        return self.name in BUILDERS

    @property
    def own_files(self) -> tuple[str, ...]:
        """Which files of this machine, or URLs, the split is: globs among them.

        None of a dataset with a folder of its own, which knows them.
        """
        if not self.is_builder or self.data_files is None:
            return ()
        if isinstance(self.data_files, tuple):
            return self.data_files
        return self.data_files.get(self.split, ())

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        name, files = given.get("name"), given.get("data_files")
        if name in BUILDERS and files is None:
            yield (
                "name",
                f"{name} is a kind of files; say which in data_files, such as data_files: "
                f"{_SUCH_AS[name]}",
            )
        meant = _MEANT.get(name) if isinstance(name, str) else None
        if meant is not None and files is not None:
            yield "name", f"given {name}, which is no kind of files of datasets; write {meant}"
        split = given.get("split", "train")
        if name in BUILDERS and isinstance(split, str) and not isinstance(files, Mapping):
            if split != "train":
                yield (
                    "split",
                    f"given {show(split)}, and files that are given as paths are the split train; "
                    "leave it out, or name them: data_files: {test: ...}. inputs.limit takes the "
                    "first rows",
                )
        elif given.get("streaming") is True and isinstance(split, str) and _SLICED.search(split):
            yield (
                "split",
                f"given {show(split)}, a part of a split, which a stream has not; leave "
                "streaming out, or take the first rows with inputs.limit",
            )
        if name in BUILDERS and isinstance(files, Mapping) and files and split not in files:
            yield (
                "split",
                f"data_files have no {show(split)}; there is: {', '.join(map(str, files))}",
            )
