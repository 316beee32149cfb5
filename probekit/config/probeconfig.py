"""ProbeConfig: what may be written in a config, key by key.

Knows each key's type, default and meaning, and what is wrong between keys. It does not know whether
a model has such a module or such a layer (planning), nor what a pattern of modules means
(config.patterns).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
)

from probekit.arguments import at_home
from probekit.config.fields import (
    AsRun,
    ByteCount,
    Count,
    Device,
    Dtype,
    Indices,
    Layers,
    Overrides,
    Patterns,
    Place,
    PortableNames,
    Records,
    Seed,
    Text,
    listed,
    one_or_many,
)
from probekit.config.generateconfig import GenerateConfig
from probekit.config.inputsconfig import InputsConfig
from probekit.config.keyplaces import (
    KEY_PATH,
    Places,
    parse_path,
)
from probekit.config.section import (
    Deciding,
    Free,
    Part,
    deciding_keys,
    exactly_one,
    one_source,
    sha256_of,
)
from probekit.config.spots import POSITIONS_HELP, Positions, Where
from probekit.config.yamltext import Dumper
from probekit.wording import show

IN_MEMORY = "memory:"  # before the name of a model that only a Python call gives
_MOST_PATTERNS = 2000  # of all probes; a glob stands for any number of modules
_DERIVED = ("top_k", "token_logprob", "entropy")  # kinds that are taken of what a site gives


def _one_or_some(words: Sequence[str]) -> dict[str, Any]:
    enum = {"enum": list(words)}
    return {"anyOf": [enum, {"type": "array", "items": enum}]}


class ModelConfig(Part):
    """Which model, and how it is loaded and run."""

    @property
    def is_in_memory(self) -> bool:
        """Whether a Python call gives the model, and `name` is what it is called."""
        return self.name.startswith(IN_MEMORY)

    name: Deciding[Place] = Field(
        description="Hub id, local folder, .gguf file, sample:tiny-gpt2 (ships with probekit), or "
        "memory: and a name, for a model that a Python call gives."
    )
    revision: Deciding[Text | None] = Field("main", description="Branch, tag or commit on the hub.")
    dtype: Deciding[Dtype] = Field(
        "auto", description="Dtype of the weights; auto: as they were saved."
    )
    device: Free[Device] = Field("auto", description="auto, cpu, cuda, cuda:1, ... or mps.")
    weights: Deciding[Literal["pretrained", "random"]] = Field(
        "pretrained", description="random: the architecture with seeded random weights."
    )
    tokenizer: Deciding[Place | None] = Field(
        None, description="Another tokenizer than the model's own."
    )
    attention: Deciding[Literal["auto", "sdpa", "eager", "flash_attention_2"]] = Field(
        "auto", description="The attention kernel that the model runs with."
    )
    trust_remote_code: Deciding[bool] = Field(
        False,
        description="true: run the code that the model's own folder or repository carries, with "
        "your rights on this machine. Only where you have read that code.",
    )
    overrides: Deciding[Overrides] = Field(
        {}, description="Fields of the model's own config to change, e.g. {num_hidden_layers: 2}."
    )


class EinopsConfig(Part):
    """An einops pattern; both sides begin with the rows' axis: ``token (head d) -> token head d``.

    Further keys are sizes (``head: 12``); those of the model are known: head, kv_head, d_head,
    d_model, d_mlp, d_vocab.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            **exactly_one("rearrange", "reduce"),
            "dependentRequired": {"reduce": ["op"], "op": ["reduce"]},
            "additionalProperties": {"type": "integer", "minimum": 1},
        },
    )
    __pydantic_extra__: dict[str, Count] = Field(init=False)

    rearrange: Deciding[Text | None] = Field(None, description="token (head d) -> token head d")
    reduce: Deciding[Text | None] = Field(None, description="token d -> token")
    op: Deciding[Literal["mean", "max", "sum", "norm"] | None] = Field(
        None, description="How to reduce; norm is the Euclidean one."
    )

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that were given."""
        return dict(self.__pydantic_extra__ or {})

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from one_source(given, ("rearrange", "reduce"), given)
        is_one = (given.get("rearrange") is None) != (given.get("reduce") is None)
        if is_one and (given.get("reduce") is None) != (given.get("op") is None):
            here = "op" if "op" in given else ""
            yield here, "reduce and op go together; expected op: mean, max, sum or norm"


class ProbeRule(Part):
    """One probe: which places, and what to record of them."""

    model_config = ConfigDict(
        json_schema_extra=exactly_one(
            "modules", "sites", beside={"sites": {"record": _one_or_some(_DERIVED)}}
        )
    )

    modules: Deciding[Patterns | None] = Field(
        None, description="Patterns of module paths, e.g. transformer.h.*.mlp.act."
    )
    sites: Deciding[PortableNames | None] = Field(
        None, description="Portable names, which mean the same on every model, e.g. resid_post."
    )
    record: Deciding[Records] = Field(
        ("output",),
        description="What to record of the modules, e.g. output, output.1, pattern, top_k.",
    )
    layers: Deciding[Layers] = Field(
        "all", description="Layers to keep, from 0; negative numbers count from the last."
    )
    positions: Deciding[Positions] = Field("all", description=f"Tokens to keep: {POSITIONS_HELP}.")
    heads: Deciding[Indices | None] = Field(
        None, description="Heads to keep, of attention kinds (pattern, q, z, ...); null: all."
    )
    neurons: Deciding[Indices | None] = Field(
        None, description="Entries of the last axis to keep; null: all."
    )
    einops: Deciding[EinopsConfig | None] = Field(
        None, description="An einops pattern over each row, after heads and neurons."
    )
    pool: Deciding[Literal["mean", "max", "last"] | None] = Field(
        None, description="Make one row an example, over the tokens kept."
    )
    k: Deciding[Count] = Field(5, description="How many, for record: [top_k].")

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from one_source(given, ("modules", "sites"), cls.model_fields)
        if given.get("sites") is not None and given.get("modules") is None and "record" in given:
            named = [kind for kind in one_or_many(given["record"]) if kind not in _DERIVED]
            if named:
                yield (
                    "record",
                    f"a site says by its name what is recorded; only {', '.join(_DERIVED)} go "
                    "with sites",
                )

    @property
    def unused(self) -> dict[str, str]:
        """Settings that are written and that nothing uses, with what to do."""
        if "top_k" in self.record or self._is_default("k"):
            return {}
        return {"k": "goes with record: [top_k] alone; leave it out, or write that"}


def _count_patterns(probes: object) -> int:
    rules = [rule for rule in one_or_many(probes) if isinstance(rule, Mapping)]
    asked = [rule[key] for rule in rules for key in ("modules", "sites") if key in rule]
    return max(len(rules), sum(len(one_or_many(value)) for value in asked))


def _whole_slices(probes: object) -> Iterator[tuple[int, str]]:
    """Give the slices that leave nothing out, by their probe."""
    for number, rule in enumerate(one_or_many(probes)):
        text = rule.get("positions") if isinstance(rule, Mapping) else None
        if isinstance(text, str) and re.fullmatch(r"\s*0*:(:0*1?)?\s*", text):
            yield number, text


class StoreConfig(Part):
    """The trace on disk."""

    @property
    def folder(self) -> Path:
        """Where `path` is on this machine."""
        return at_home(self.path)

    path: Free[Place] = Field(
        description="The folder of the trace; ~ is your home folder, and a relative one is "
        "relative to where probekit runs."
    )
    dtype: Deciding[Dtype] = Field("auto", description="Dtype on disk; auto: as computed.")
    shard_bytes: Deciding[ByteCount] = Field(
        2**30, description="Planned bytes of a shard: a number, or text such as 512MiB or 1GiB."
    )
    compression: Deciding[Literal["gzip", "lzf", "zstd"] | None] = Field(
        None, description="Compress the shards: saves little, costs most of the speed."
    )
    buffer_bytes: Free[ByteCount] = Field(
        2**28, description="Most bytes on the way from a GPU to the disk; changes only the speed."
    )
    on_overflow: Free[Literal["warn", "error"]] = Field(
        "warn", description="What to do when values are too large for store.dtype."
    )


def _is_split(inputs: object) -> bool:
    return isinstance(inputs, Mapping) and inputs.get("too_long") == "split"


_SPLIT: dict[str, Any] = {"properties": {"too_long": {"const": "split"}}}


class ProbeConfig(Part):
    """What to look at: a model, its inputs, the probes, and where the trace goes."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["probes"], "properties": {"probes": {"minItems": 1}}},
                {
                    "required": ["execution_order"],
                    "properties": {"execution_order": {"enum": [True, "as_run"]}},
                },
            ],
            "if": {
                "required": ["inputs"],
                "properties": {"inputs": {"required": ["too_long"], **_SPLIT}},
            },
            "then": {"properties": {"generate": {"type": "null"}}},
        }
    )

    model: Deciding[ModelConfig] = Field(description="The model to look at.")
    inputs: Deciding[InputsConfig] = Field(description="What the model reads.")
    probes: Deciding[Annotated[tuple[ProbeRule, ...], BeforeValidator(listed)]] = Field(
        (), description="What to record; may be empty only if execution_order is true."
    )
    execution_order: Deciding[AsRun] = Field(
        False,
        description="Record the order in which modules ran; true runs every forward pass to its "
        "end, as_run records it up to where it was stopped early.",
    )
    generate: Deciding[GenerateConfig | None] = Field(None, description="Go on from each text.")
    early_stop: Deciding[bool] = Field(
        True, description="End a forward pass after the last module that is asked for."
    )
    store: Deciding[StoreConfig] = Field(description="Where the trace goes, and in which form.")
    seed: Deciding[Seed] = Field(
        0, description="Seed of everything random, such as random weights."
    )

    _places: Places = PrivateAttr(default_factory=lambda: Places())

    @classmethod
    def _rules(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        probes = given.get("probes", ())
        if (
            isinstance(probes, list | tuple)
            and not probes
            and given.get("execution_order") not in (True, "as_run")
        ):
            yield "probes", "nothing to record; give at least one probe, or execution_order: true"
        if given.get("generate") is not None:
            if _is_split(given.get("inputs")):
                yield (
                    "generate",
                    "goes with whole texts alone: what comes behind a piece is the rest of its "
                    "document; write inputs.too_long: truncate or error",
                )
            for number, text in _whole_slices(probes):
                yield (
                    "probes",
                    f"positions {show(text)} of probes[{number}] could mean the text or all that "
                    "is generated too; write prompt or all",
                )
        if (n_patterns := _count_patterns(probes)) > _MOST_PATTERNS:
            yield (
                "probes",
                f"{n_patterns} patterns and sites in all, expected at most {_MOST_PATTERNS}; "
                "use globs such as transformer.h.*.mlp.{act,c_proj}",
            )

    @property
    def columns(self) -> tuple[str, ...] | str:
        """Fields kept beside each example: what is asked for, and what a probe looks at."""
        asked = self.inputs.wanted_columns
        if isinstance(asked, str):
            return asked
        spots = (probe.positions for probe in self.probes if isinstance(probe.positions, Where))
        return tuple(dict.fromkeys([*asked, *(name for spot in spots for name in spot.columns)]))

    def where(self, path: str) -> str:
        """Name the place of a key, for a message of a later stage.

        Args:
            path: Such as ``probes[1].layers``.

        Returns:
            ``configs/a.yaml:14: probes[1].layers``, with the line of the nearest key that was
            written; ``--set probes[1].layers`` or ``config: probes[1].layers`` where it came
            from the command line or from a mapping.
        """
        written = KEY_PATH.match(path)  # up to an odd name, which no key of ours has
        known = parse_path(written[0]) if written else ()
        return self._places.where(known, shown=path)

    def to_yaml(self) -> str:
        """Write what was set, overrides included; it loads again as an equal config."""
        return _yaml(self.model_dump(mode="json", exclude_unset=True))

    def decisions_yaml(self) -> str:
        """Write `decisions` as YAML: what is left out is at its default, or decides nothing."""
        return _yaml(self.decisions)

    @property
    def decisions(self) -> dict[str, Any]:
        """The deciding keys that are not at their default, as plain JSON values.

        They are all of the config that can change a recorded value or its place. It does not matter
        how the config is written, nor what a later version of probekit has for further keys.
        """
        return deciding_keys(self)

    @property
    def digest(self) -> str:
        """The sha256, in hex, of `decisions`."""
        return sha256_of(self.decisions)


def _yaml(tree: dict[str, Any]) -> str:
    return yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))
