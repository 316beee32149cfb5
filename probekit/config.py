"""YAML text <-> ProbeConfig, its JSON Schema, and ``--set key=value``.

This file knows what may be written in a config, and where each key stood in the text, so that
every later stage can name the place. It does not know whether a model has such a module or such
a layer (plan.py), nor what a module pattern means (globs.py).

In this order: the vocabulary, the types of fields, the models, loading, YAML text, plain words.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    PrivateAttr,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from probekit.errors import ConfigError, Fault

__all__ = [
    "PORTABLE_NAMES",
    "RECORD_KINDS",
    "DatasetInputs",
    "InputsConfig",
    "ModelConfig",
    "ProbeConfig",
    "ProbeRule",
    "RandomInputs",
    "RecordKind",
    "StoreConfig",
    "json_schema",
    "load_config",
    "parse_slice",
]

# --- the vocabulary

# TransformerLens's names of the places that every decoder has.
PORTABLE_NAMES = (
    *("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post"),
    *("q", "k", "v", "z", "pattern", "scores", "ln_final", "logits"),
)
_MODULE_KINDS = ("output", "input")  # the only ones that take `.element` and `@call`
_DERIVED_KINDS = ("pattern", "scores", "q", "k", "v", "z", "top_k", "token_logprob", "entropy")
RECORD_KINDS = (*_MODULE_KINDS, *_DERIVED_KINDS)

_ELEMENT = r"[A-Za-z_][A-Za-z0-9_]{0,99}|0|[1-9][0-9]{0,5}"
_CALL = r"0|[1-9][0-9]{0,5}"
_RECORD = re.compile(rf"([A-Za-z_]{{1,99}})(?:\.({_ELEMENT}))?(?:@({_CALL}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordKind:
    """What to record of a module: ``output``, ``output.1``, ``input.hidden_states@2``, ``z``."""

    name: str  # one of RECORD_KINDS
    element: str | None = None  # of a tuple, a dict or keyword arguments; an index is text too
    call: int | None = None  # which call of the module within one forward pass, from 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``name[.element][@call]``; ``str()`` gives the text back.

        Raises:
            ConfigError: The name is unknown, or takes no element and no call.
        """
        parts = _RECORD.fullmatch(text)
        if not parts:
            raise ConfigError(
                f"{_show(text)} is not a record kind; expected name, name.element or name@call,"
                " e.g. output, output.1, input.hidden_states@0"
            )
        name, element, call = parts.groups()
        if name not in RECORD_KINDS:
            raise ConfigError(f"unknown record kind {_show(name)}; {_one_of(name, RECORD_KINDS)}")
        if name in _DERIVED_KINDS and (element or call):
            raise ConfigError(
                f"{_show(text)}: {name} takes no .element and no @call; only output and input do"
            )
        return cls(name=name, element=element, call=None if call is None else int(call))

    def __str__(self) -> str:
        element = "" if self.element is None else f".{self.element}"
        call = "" if self.call is None else f"@{self.call}"
        return f"{self.name}{element}{call}"


_SLICE = re.compile(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?(?::(-?[0-9]{1,9})?)?")
_POSITIONS = 'all, first, last, a number, a list of numbers, or a slice such as "2:10" or "::4"'


def parse_slice(text: str) -> slice:
    """Parse a slice of positions such as ``2:10``, ``:-1`` or ``::4``.

    Returns:
        The slice; its step is None or at least 1.

    Raises:
        ConfigError: The text is no slice, or one that selects nothing of any length.
    """
    parts = _SLICE.fullmatch(text.strip())
    if not parts:
        raise ConfigError(f"given {_show(text)}, expected {_POSITIONS}")
    start, stop, step = (None if part is None else int(part) for part in parts.groups())
    if step is not None and step < 1:
        raise ConfigError(f"slice {_show(text)} has step {step}; expected at least 1")
    low = start or 0
    if stop is not None and (low < 0) == (stop < 0) and low >= stop:
        raise ConfigError(f"slice {_show(text)} selects nothing; expected start before stop")
    return slice(start, stop, step)


# --- the types of fields: each turns what may be written into one normal form


def _parsed_by(parse: Callable[[str], Any], text: str) -> Any:
    # pydantic gathers its own errors with their places, and lets every other one through at once.
    try:
        return parse(text)
    except ConfigError as error:
        raise _rule(str(error)) from None


def _rule(message: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{message}", {"message": message})


def _storable(text: str) -> str:
    # HDF5's variable-length strings hold neither.
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("expected text without NUL characters and lone surrogates")
    return text


def _listed(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else value


def _one_or_many(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        twice = next(value for i, value in enumerate(values) if value in values[:i])
        raise ValueError(f"expected each value once, but {_show(twice)} stands there twice")
    return values


def _portable(name: str) -> str:
    if name not in PORTABLE_NAMES:
        raise _rule(f"unknown portable name {_show(name)}; {_one_of(name, PORTABLE_NAMES)}")
    return name


def _record(text: str) -> str:
    return str(_parsed_by(RecordKind.parse, text))


def _device(text: str) -> str:
    if not re.fullmatch(_DEVICE, text):
        raise ValueError("expected auto, cpu, cuda, cuda:1 or mps")
    return text


def _all_layers(value: object) -> object:
    if value != "all":
        raise ValueError("expected all, a layer number, or a list of layer numbers")
    return value


def _positions(text: str) -> str:
    """Give equal selections one spelling: ``0:5:1`` is ``:5``, ``::`` is ``all``."""
    if text in ("all", "first", "last"):
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
        raise ValueError("expected a number of bytes, or text such as 512MiB, 1GiB or 2GB")
    number, prefix, binary = parts.groups()
    return int(number) * (1024 if binary else 1000) ** " KMGT".index(prefix or " ")


def _override(value: object) -> object:
    for item in value if isinstance(value, list | tuple) else (value,):
        if not (item is None or isinstance(item, str | int | float)):
            raise ValueError("expected text, a number, true, false, null, or a list of those")
        if not isinstance(item, str | None) and not abs(item) < 2**63:
            raise ValueError("expected numbers that are finite and fit 64 bits")
        if isinstance(item, str):
            _storable(item)
    return list(value) if isinstance(value, list | tuple) else value


def _sorted_keys(values: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(values.items()))


def _word_or_list(value: object) -> str:
    return "<word>" if isinstance(value, str) else "<list>"


def _written_as(*single: dict[str, Any], many: dict[str, Any] | None = None) -> WithJsonSchema:
    """Describe to editors what may be written where the normal form is a tuple."""
    item = many or single[-1]
    listed = {"type": "array", "items": item, "minItems": 1, "uniqueItems": True}
    return WithJsonSchema({"anyOf": [*single, listed]})


_MAX_COUNT = 2**31 - 1
_DEVICE = r"auto|cpu|cuda(:[0-9]{1,3})?|mps"
_SIZE = r"([0-9]{1,15}) ?(?:(?:([KMGT])(i)?)?B)?"
_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_KIND: dict[str, Any] = {
    "type": "string",
    "pattern": rf"^((output|input)(\.({_ELEMENT}))?(@({_CALL}))?|{'|'.join(_DERIVED_KINDS)})$",
}
_LAYER: dict[str, Any] = {"type": "integer", "minimum": -10_000, "maximum": 10_000}
_POSITION: dict[str, Any] = {"type": "integer", "minimum": -_MAX_COUNT, "maximum": _MAX_COUNT}
_SLICE_WORD = {"type": "string", "pattern": rf"^\s*({_SLICE.pattern})\s*$"}
_SCALAR = {"type": ["string", "number", "boolean", "null"]}

Text = Annotated[str, Field(min_length=1), AfterValidator(_storable)]
Count = Annotated[int, Field(ge=1, le=_MAX_COUNT)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_listing = (Field(min_length=1), BeforeValidator(_listed))
_several = (Field(min_length=1), BeforeValidator(_one_or_many), AfterValidator(_distinct))

Texts = Annotated[tuple[Text, ...], *_listing]
Patterns = Annotated[tuple[Text, ...], *_several, _written_as(_TEXT)]
PortableNames = Annotated[
    tuple[Annotated[str, AfterValidator(_portable)], ...],
    *_several,
    _written_as({"enum": list(PORTABLE_NAMES)}),
]
Records = Annotated[
    tuple[Annotated[str, AfterValidator(_record)], ...], *_several, _written_as(_KIND)
]
Layers = Annotated[
    Annotated[Literal["all"], BeforeValidator(_all_layers), Tag("<word>")]
    | Annotated[tuple[Annotated[int, Field(ge=-10_000, le=10_000)], ...], *_several, Tag("<list>")],
    Discriminator(_word_or_list),
    _written_as({"const": "all"}, _LAYER),
]
Positions = Annotated[
    Annotated[str, AfterValidator(_positions), Tag("<word>")]
    | Annotated[
        tuple[Annotated[int, Field(ge=-_MAX_COUNT, le=_MAX_COUNT)], ...], *_several, Tag("<list>")
    ],
    Discriminator(_word_or_list),
    _written_as({"enum": ["all", "first", "last"]}, _SLICE_WORD, _POSITION),
]
Device = Annotated[
    str, AfterValidator(_device), WithJsonSchema({"type": "string", "pattern": f"^({_DEVICE})$"})
]
ByteCount = Annotated[
    int,
    BeforeValidator(_bytes),
    Field(ge=1, le=2**50),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 2**50},
                {"type": "string", "pattern": f"^{_SIZE}$"},
            ]
        }
    ),
]
OverrideValue = Annotated[
    str | int | float | list[str | int | float | None] | None,
    PlainValidator(_override),
    WithJsonSchema({"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]}),
]
Overrides = Annotated[
    dict[Annotated[str, Field(pattern="^[A-Za-z_][A-Za-z0-9_]{0,99}$")], OverrideValue],
    AfterValidator(_sorted_keys),
]


# --- the models


def _exactly_one(*keys: str, without: Mapping[str, tuple[str, ...]] | None = None) -> Any:
    """Say in JSON Schema that one of these keys is there and not null."""

    def branch(key: str) -> dict[str, Any]:
        absent = dict.fromkeys((without or {}).get(key, ()), False)
        return {"required": [key], "properties": {key: {"not": {"type": "null"}}} | absent}

    return {"oneOf": [branch(key) for key in keys]}


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield what is wrong between keys: the key to point at (or ``""``), and a message."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _with_rules(cls, given: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        # An "after" validator would stay silent until every single field is right.
        rules = cls._rules(given) if isinstance(given, Mapping) else ()
        wrong = [
            InitErrorDetails(type=_rule(message), loc=(key,) if key else (), input=given)
            for key, message in rules
        ]
        try:
            part = validate(given)
        except ValidationError as error:
            wrong = [*map(_once_more, error.errors(include_url=False)), *wrong]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return part


def _once_more(error: ErrorDetails) -> InitErrorDetails:
    context = error.get("ctx", {})
    kind = _rule(context["message"]) if error["type"] == "rule" else error["type"]
    return InitErrorDetails(type=kind, loc=error["loc"], input=error["input"], ctx=context)


def _one_source(given: Mapping[str, Any], keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    found = [key for key in keys if given.get(key) is not None]
    if len(found) != 1:
        yield (
            found[-1] if found else "",
            f"given {' and '.join(found) or 'none'}, expected exactly one of {', '.join(keys)}",
        )


class ModelConfig(_Part):
    """The model to look at."""

    name: Text = Field(
        description="Hub id, local folder, .gguf file, or sample:tiny-gpt2 (ships with probekit)."
    )
    revision: Text | None = Field("main", description="Branch, tag or commit on the hub.")
    dtype: Dtype = Field("auto", description="Dtype of the weights; auto: as they were saved.")
    device: Device = Field("auto", description="auto, cpu, cuda, cuda:1, ... or mps.")
    weights: Literal["pretrained", "random"] = Field(
        "pretrained", description="random: the architecture with seeded random weights."
    )
    tokenizer: Text | None = Field(None, description="Another tokenizer than the model's own.")
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto", description="The attention kernel that the model runs with."
    )
    overrides: Overrides = Field(
        {}, description="Fields of the model's own config to change, e.g. {num_hidden_layers: 2}."
    )


class DatasetInputs(_Part):
    """A dataset of the hub (needs probekit[datasets])."""

    name: Text = Field(description="Hub id or local folder of the dataset.")
    subset: Text | None = Field(None, description="Configuration of the dataset, where it has any.")
    split: Text = Field("train", description="Split to read, e.g. train or validation.")
    revision: Text | None = Field(None, description="Branch, tag or commit on the hub.")


class RandomInputs(_Part):
    """Seeded random tokens: for benchmarks, and for models without a tokenizer."""

    examples: Count = Field(description="How many examples.")
    min_tokens: Count = Field(8, description="Least tokens of an example.")
    max_tokens: Count = Field(description="Most tokens of an example.")
    seed: Seed = Field(0, description="Seed of the tokens and the lengths.")

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        low, high = given.get("min_tokens", 8), given.get("max_tokens")
        if isinstance(low, int) and isinstance(high, int) and high < low:
            yield "max_tokens", f"given {_show(high)}, expected at least min_tokens ({_show(low)})"


_SOURCES = ("texts", "file", "dataset", "random")


class InputsConfig(_Part):
    """The inputs: exactly one of texts, file, dataset and random."""

    model_config = ConfigDict(json_schema_extra=_exactly_one(*_SOURCES))

    texts: Texts | None = Field(None, description="The texts themselves; one is one example.")
    file: Text | None = Field(None, description="A .jsonl, .txt, .csv or .parquet file.")
    dataset: DatasetInputs | None = Field(None, description="A dataset of the hub.")
    random: RandomInputs | None = Field(None, description="Seeded random tokens.")
    field: Text = Field("text", description="The field or column that holds the text.")
    limit: Count | None = Field(None, description="Only the first so many examples.")
    max_tokens: Count | None = Field(
        None, description="Most tokens of an example; null: the model's context length."
    )
    too_long: Literal["truncate", "error"] = Field(
        "truncate", description="What to do with an example of more than max_tokens."
    )
    batch_tokens: Count = Field(8192, description="Most tokens of a batch, padding included.")

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        return _one_source(given, _SOURCES)


class ProbeRule(_Part):
    """One probe: which places, and what to record of them."""

    model_config = ConfigDict(
        json_schema_extra=_exactly_one("modules", "sites", without={"sites": ("record",)})
    )

    modules: Patterns | None = Field(
        None, description="Patterns of module paths, e.g. transformer.h.*.mlp.act."
    )
    sites: PortableNames | None = Field(
        None, description="Portable names, which mean the same on every model, e.g. resid_post."
    )
    record: Records = Field(
        ("output",),
        description="What to record of the modules, e.g. output, output.1, pattern, top_k.",
    )
    layers: Layers = Field(
        "all", description="Layers to keep, from 0; negative numbers count from the last."
    )
    positions: Positions = Field("all", description=f"Tokens of an example to keep: {_POSITIONS}.")

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from _one_source(given, ("modules", "sites"))
        if given.get("sites") is not None and given.get("modules") is None and "record" in given:
            yield "record", "goes with modules only: a site says by its name what is recorded"


class StoreConfig(_Part):
    """The trace on disk."""

    path: Text = Field(description="The folder of the trace.")
    dtype: Dtype = Field("auto", description="Dtype on disk; auto: as computed.")
    shard_bytes: ByteCount = Field(
        2**30, description="Planned bytes of a shard: a number, or text such as 512MiB or 1GiB."
    )
    compression: Literal["gzip", "lzf", "zstd"] | None = Field(
        None, description="Compress the shards: saves little, costs most of the speed."
    )


class ProbeConfig(_Part):
    """What to look at: a model, its inputs, the probes, and where the trace goes."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["probes"], "properties": {"probes": {"minItems": 1}}},
                {
                    "required": ["execution_order"],
                    "properties": {"execution_order": {"const": True}},
                },
            ]
        }
    )

    model: ModelConfig = Field(description="The model to look at.")
    inputs: InputsConfig = Field(description="What the model reads.")
    probes: Annotated[tuple[ProbeRule, ...], BeforeValidator(_listed)] = Field(
        (), description="What to record; may be empty only if execution_order is true."
    )
    execution_order: bool = Field(False, description="Record the order in which modules ran.")
    store: StoreConfig = Field(description="Where the trace goes, and in which form.")
    seed: Seed = Field(0, description="Seed of everything random, such as random weights.")

    _places: _Places = PrivateAttr(default_factory=lambda: _Places())

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        probes = given.get("probes", ())
        if (
            isinstance(probes, list | tuple)
            and not probes
            and given.get("execution_order") is not True
        ):
            yield "probes", "nothing to record; give at least one probe, or execution_order: true"

    def where(self, path: str) -> str:
        """Name the place of a key, for a message of a later stage.

        Args:
            path: Such as ``probes[1].layers``.

        Returns:
            ``configs/a.yaml:14: probes[1].layers``, with the line of the nearest key that was
            written; ``--set probes[1].layers`` or ``config: probes[1].layers`` where it came
            from the command line or from a mapping.
        """
        written = _PATH.match(path)  # up to an odd name, which no key of ours has
        known = _parse_path(written[0]) if written else ()
        return self._places.where(known, shown=path)

    def to_yaml(self) -> str:
        """Write what was set, overrides included; it loads again as an equal config."""
        return yaml.dump(
            self.model_dump(mode="json", exclude_unset=True),
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            width=float("inf"),
        )

    @property
    def digest(self) -> str:
        """The sha256, in hex, of all that decides the recorded values, defaults included.

        It depends neither on how the config is written, nor on the device, the batch size or
        the folder of the trace.
        """
        free = {"model": {"device"}, "inputs": {"batch_tokens"}, "store": {"path"}}
        decisive = self.model_dump(mode="json", exclude=free)
        text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a config, for editors."""
    schema = ProbeConfig.model_json_schema() | {"title": "probekit config"}
    for part in (schema, *schema["$defs"].values()):
        for key, described in part["properties"].items():
            described.setdefault("title", key.capitalize())  # pydantic leaves it out beside $ref
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# --- loading: source and overrides -> places and a tree -> ProbeConfig

_Path = tuple[str | int, ...]
_NAME = r"[A-Za-z_][A-Za-z0-9_-]*"
_PATH = re.compile(rf"{_NAME}(\[[0-9]{{1,6}}\])*(\.{_NAME}(\[[0-9]{{1,6}}\])*)*")
_STEP = re.compile(rf"({_NAME})|\[([0-9]+)\]")


@dataclass(frozen=True, slots=True)
class _Places:
    """Where each key was written. Two configs are equal wherever they were written."""

    source: str = field(default="config", compare=False)
    given: Mapping[_Path, int | str] = field(default_factory=dict, compare=False)
    # path -> its line in the source, or the `key=value` of a --set

    def where(self, path: _Path, *, shown: str = "", with_value: bool = False) -> str:
        """Name a place; ``shown`` stands for a path that only begins with ``path``."""
        shown = shown or _path_text(path)
        known, place = self.find(path)
        if isinstance(place, str):
            at = f"--set {_shorten(place) if with_value else _path_text(known)}"
            return at if _path_text(known) == shown else f"{at}: {shown}"
        at = self.source if place is None else f"{self.source}:{place}"
        return f"{at}: {shown}" if shown else at

    def find(self, path: _Path) -> tuple[_Path, int | str | None]:
        """Return the nearest ancestor that was written, and its place."""
        ancestors = (path[:end] for end in range(len(path), -1, -1))
        known = next((path for path in ancestors if path in self.given), ())
        return known, self.given.get(known)

    def with_set(self, path: _Path, assignment: str) -> _Places:
        kept = {old: at for old, at in self.given.items() if old[: len(path)] != path}
        return _Places(self.source, {**kept, path: assignment})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mistake:
    path: _Path
    message: str
    line: int | None = None  # where it is not the line of the path: a key's second appearance


def load_config(
    source: str | Path | Mapping[str, Any] | ProbeConfig, *, overrides: Sequence[str] = ()
) -> ProbeConfig:
    """Load a config, or say everything that is wrong with it.

    Args:
        source: The path of a YAML file, a mapping, or a config.
        overrides: ``key=value`` each, as given to ``--set``: ``model.name=gpt2``,
            ``probes[0].layers=[0, 1]``. An index one past the end appends.

    Returns:
        The config.

    Raises:
        ConfigError: With one line for every fault, in the order of the text.
    """
    if isinstance(source, ProbeConfig) and not overrides:
        return source
    mistakes: list[_Mistake] = []
    if isinstance(source, str | Path):
        tree, places, mistakes = _read_file(source)
    else:
        tree = _copied(source, ())
        places = source._places if isinstance(source, ProbeConfig) else _Places()
    if not isinstance(tree, dict):
        keys = ", ".join(ProbeConfig.model_fields)
        message = f"given {_show_typed(tree)}, expected a mapping with the keys {keys}"
        raise ConfigError.of([Fault(places.where(()), message)])
    places, unusable = _with_overrides(tree, places, overrides)
    return _validated(tree, places, mistakes, unusable)


def _validated(
    tree: dict[str, Any], places: _Places, mistakes: Iterable[_Mistake], unusable: Iterable[Fault]
) -> ProbeConfig:
    try:
        config = ProbeConfig.model_validate(tree)
    except ValidationError as error:
        mistakes = [*mistakes, *_mistakes(error, tree)]
    if faults := [*_in_order(mistakes, places), *unusable]:
        raise ConfigError.of(faults)
    config._places = places
    return config


def _in_order(mistakes: Iterable[_Mistake], places: _Places) -> Iterator[Fault]:
    """Make faults in the order of the text; what came from --set follows."""

    def line(mistake: _Mistake) -> float:
        at = mistake.line or places.find(mistake.path)[1]
        return at if isinstance(at, int) else float("inf") if at else 0

    for mistake in sorted(mistakes, key=line):
        where = places.where(mistake.path, with_value=True)
        if mistake.line:
            where = f"{places.source}:{mistake.line}: {_path_text(mistake.path)}"
        yield Fault(where, mistake.message)


def _copied(value: Any, path: _Path) -> Any:
    """Copy a mapping of Python's into what a YAML file could have said."""
    if len(path) > _MAX_DEPTH:
        message = f"nested deeper than {_MAX_DEPTH} levels"
        raise ConfigError.of([Fault(_Places().where(path[:3]), message)])
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                message = f"given the key {_show_typed(key)}, expected text"
                raise ConfigError.of([Fault(_Places().where(path), message)])
        return {key: _copied(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item, (*path, i)) for i, item in enumerate(value)]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _with_overrides(
    tree: dict[str, Any], places: _Places, overrides: Iterable[str]
) -> tuple[_Places, list[Fault]]:
    """Carry out each ``key=value`` on the tree; returns the new places and what was wrong."""
    faults: list[Fault] = []
    for assignment in overrides:
        key, equals, text = assignment.partition("=")
        try:
            if not equals:
                raise ConfigError("expected key=value, e.g. model.name=gpt2")
            path = _parse_path(key.strip())
            _assign(tree, path, _read_value(text))
            places = places.with_set(path, assignment)
        except ConfigError as error:
            faults.append(Fault(f"--set {_shorten(assignment)}", str(error)))
    return places, faults


def _assign(tree: dict[str, Any], path: _Path, value: Any) -> None:
    """Set one value; what is missing on the way there is made, a list one item at a time."""
    here: Any = tree
    for depth, step in enumerate(path):
        _make_room(here, step, _path_text(path[:depth]))
        if depth == len(path) - 1:
            here[step] = value
        elif here[step] is None:
            here[step] = [] if isinstance(path[depth + 1], int) else {}
        here = here[step]


def _make_room(here: Any, step: str | int, parent: str) -> None:
    if isinstance(step, str):
        if not isinstance(here, dict):
            raise ConfigError(f"{parent} is {_show_typed(here)}, expected a mapping")
        here.setdefault(step, None)
        return
    if not isinstance(here, list):
        raise ConfigError(f"{parent} is {_show_typed(here)}, expected a list")
    if step > len(here):
        size = f"{parent} has {len(here)} items"
        raise ConfigError(f"{size}; expected an index up to {len(here)}, which appends")
    if step == len(here):
        here.append(None)


def _parse_path(text: str) -> _Path:
    if not _PATH.fullmatch(text):
        raise ConfigError(f"{_show(text)} is not a key such as model.name or probes[0].layers")
    return tuple(name or int(index) for name, index in _STEP.findall(text))


def _path_text(path: _Path) -> str:
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            dot = "." if text else ""
            text += dot + (step if re.fullmatch(_NAME, step) else _show(step))
    return text


# --- YAML text <-> a tree: no other scalars than YAML 1.2's core schema, no tags, no surprises

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # its events only, never its objects
_MAX_DEPTH = 50
_MAX_FILE_BYTES = 10_000_000
_MAX_VALUES = 100_000  # aliases written out

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
_SPECIAL = re.compile(r"""[^\s\[\],:"']*[*&!@`%{][^\s"'\]#]*""")
_UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class _TextError(Exception):
    def __init__(self, message: str, line: int | None = None, path: _Path = ()) -> None:
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
        self.lines: dict[_Path, int] = {}
        self.duplicates: list[_Mistake] = []
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

    def _node(self, event: Any, path: _Path) -> _Node:
        line = _line(event)
        self._count(line, path)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self._anchors:
                return self._anchors[event.anchor]
            name = f"*{event.anchor}"
            message = f'alias {name} has no anchor; if it is text, put it in quotes: "{name}"'
            raise _TextError(message, line, path)
        if event.tag:
            message = f"given the tag {_show(event.tag)}, expected plain YAML; remove the tag"
            raise _TextError(f"{message}, or put text that starts with ! in quotes", line, path)
        node = _Node(line, self._value(event, path))
        if event.anchor:
            self._anchors[event.anchor] = node  # only now: a node cannot hold itself
        return node

    def _value(self, event: Any, path: _Path) -> Any:
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
                self.duplicates.append(_Mistake(path=(*path, key), message=message, line=line))
            first_lines.setdefault(key, line)
            pairs.append((key, line, self._node(next(self._events), (*path, key))))
        return _Pairs(pairs)

    def plain(self, node: _Node, path: _Path = ()) -> Any:
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

    def _merged(self, node: _Node, path: _Path, depth: int) -> dict[str, tuple[int, _Node]]:
        """Carry out ``<<``: a key of the mapping's own wins, then the earlier source."""
        own: dict[str, tuple[int, _Node]] = {}
        inherited: dict[str, tuple[int, _Node]] = {}
        for key, line, child in node.value.items:
            self._count(line, path)
            if key != "<<":
                own.setdefault(key, (line, child))
                continue
            for source in child.value if isinstance(child.value, list) else [child]:
                if not isinstance(source.value, _Pairs) or depth > _MAX_DEPTH:
                    raise _TextError("<< expects an alias of a mapping, e.g. *base", line, path)
                inherited = self._merged(source, path, depth + 1) | inherited
        return inherited | own

    def _count(self, line: int, path: _Path) -> None:
        self._n_values += 1
        if self._n_values > 2 * _MAX_VALUES:  # each is counted as a node and as a value
            message = f"more than {_MAX_VALUES} values, aliases written out"
            raise _TextError(f"{message}; put texts in a file and use inputs.file", line)
        if len(path) > _MAX_DEPTH:
            raise _TextError(f"nested deeper than {_MAX_DEPTH} levels", line, path[:3])


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _key(event: Any, path: _Path) -> str:
    key = _scalar(event, path) if isinstance(event, yaml.ScalarEvent) else None
    if isinstance(key, str) and not event.tag:
        return key
    given = _show_typed(key) if isinstance(event, yaml.ScalarEvent) else "a list, mapping or alias"
    message = f"given the key {given}, expected text; put text and patterns in quotes"
    raise _TextError(message, _line(event), path)


def _scalar(event: Any, path: _Path) -> Any:
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
        message = f"number {_shorten(text)} is too large; if it is text, put it in quotes"
        raise _TextError(message, _line(event), path)
    return number


def _read_file(source: str | Path) -> tuple[Any, _Places, list[_Mistake]]:
    name = str(source) if str(source).isprintable() else _show(str(source))
    try:
        reader, tree = _read_text(_file_text(source))
    except _TextError as error:
        places = _Places(name, {} if error.line is None else {error.path: error.line})
        raise ConfigError.of([Fault(places.where(error.path), str(error))]) from None
    return tree, _Places(name, reader.lines), reader.duplicates


def _read_value(text: str) -> Any:
    """Read the value of a ``--set``."""
    try:
        reader, value = _read_text(text)
    except _TextError as error:
        raise ConfigError(str(error)) from None
    for duplicate in reader.duplicates:
        raise ConfigError(f"{_path_text(duplicate.path)}: duplicate key; keep one")
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


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> _TextError:
    unclosed = "quoted" in (error.context or "")
    mark = error.context_mark if unclosed else error.problem_mark
    lines = text.splitlines() or [""]
    number = min(mark.line if mark else 0, len(lines) - 1)
    line = lines[number]
    if "\t" in line[: len(line) - len(line.lstrip())]:
        advice = "indent with spaces, not with tabs"
    elif special := _SPECIAL.search(line):
        advice = f'put text with special characters in quotes: "{_shorten(special[0])}"'
    else:
        advice = f"the line reads {_show(line.strip())}"
    return _TextError(f"not valid YAML: {error.problem}; {advice}", number + 1)


def _file_text(source: str | Path) -> str:
    try:
        with Path(source).open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise _TextError("no such file; expected the path of a YAML file") from None
    except IsADirectoryError:
        raise _TextError("this is a folder; expected the path of a YAML file") from None
    except (OSError, ValueError) as error:
        raise _TextError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > _MAX_FILE_BYTES:
        message = f"larger than {_MAX_FILE_BYTES} bytes; put texts in a file and use inputs.file"
        raise _TextError(message)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{raw[error.start]:02x}"
        raise _TextError(f"not UTF-8 ({byte}); save the file as UTF-8", line) from None


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or our own reading would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _quoted_if_odd(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted_if_odd)
for _number in (_INT, _FLOAT):
    _Dumper.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(rf"(?:{_number.pattern})\Z"), list("+-.0123456789")
    )


# --- plain words: what pydantic found, for somebody who has never heard of pydantic

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "a name of letters, digits and _",
    "too_short": "at least one value",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}


def _mistakes(error: ValidationError, tree: Any) -> Iterator[_Mistake]:
    for detail in error.errors(include_url=False):
        path = _written_path(detail["loc"], tree)
        yield _Mistake(path=path, message=_plain_words(detail, path))


def _written_path(loc: _Path, tree: Any) -> _Path:
    """Turn pydantic's place into what was written: no branch names, no [0] of a lone value."""
    path: _Path = ()
    here: Any = tree
    for step in loc:
        if step in ("<word>", "<list>", "[key]"):
            continue
        if isinstance(step, int) and not isinstance(here, list):
            break
        path = (*path, step)
        held = here if isinstance(here, dict) else dict(enumerate(here or ()))
        here = held.get(step)
    return path


def _plain_words(detail: ErrorDetails, path: _Path) -> str:
    kind, context, given = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "rule":
        return str(context["message"])
    if kind == "extra_forbidden":
        return f"unknown key; {_one_of(str(path[-1]), tuple(_model_of(path[:-1]).model_fields))}"
    if kind == "missing":
        description = _model_of(path[:-1]).model_fields[str(path[-1])].description or ""
        return f"missing; expected {description[:1].lower()}{description[1:].rstrip('.')}"
    if kind == "value_error":
        return f"given {_show_typed(given)}, {context['error']}"
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", context["expected"])
        return f"given {_show_typed(given)}, {_one_of(str(given), options)}"
    expected = _EXPECTED.get(kind, detail["msg"]).format(**context)
    quote = (
        "; if it is text, put it in quotes" if kind == "string_type" and _is_number(given) else ""
    )
    return f"given {_show_typed(given)}, expected {expected}{quote}"


def _model_of(path: _Path) -> type[BaseModel]:
    model: type[BaseModel] = ProbeConfig
    for step in path:
        if isinstance(step, str):
            model = next(_models_in(model.model_fields[step].annotation))
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _one_of(given: str, options: Sequence[str]) -> str:
    near = get_close_matches(given[:100], options, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}expected one of {', '.join(options)}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _show(value: object) -> str:
    """Write a value as YAML would, on one line and not too long."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, list | tuple):
        return _shorten(f"[{', '.join(map(_show, value[:10]))}]")
    if isinstance(value, Mapping):
        pairs = [f"{key}: {_show(value[key])}" for key in [*value][:10]]
        return _shorten(f"{{{', '.join(pairs)}}}")
    return _shorten(repr(value[:100] if isinstance(value, str) else value))


def _show_typed(value: object) -> str:
    kinds = {
        str: "text",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a mapping",
    }
    if value is None or isinstance(value, bool):
        return _show(value)
    return f"{_show(value)} ({kinds.get(type(value), type(value).__name__)})"


def _shorten(text: str, n_chars: int = 60) -> str:
    line = text if text.isprintable() else repr(text)[1:-1]
    return line if len(line) <= n_chars else f"{line[: n_chars - 3]}..."
