from __future__ import annotations

import contextlib
import copy
import json
import pickle
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from probekit.config import keyplaces as places, yamltext
from probekit.config.chats import TemplateInputs
from probekit.config.datasetinputs import BUILDERS, DatasetInputs
from probekit.config.fields import parse_slice
from probekit.config.generateconfig import GenerateConfig
from probekit.config.inputsconfig import InputsConfig, RandomInputs
from probekit.config.loading import json_schema, load_config
from probekit.config.probeconfig import (
    EinopsConfig,
    ModelConfig,
    ProbeConfig,
    ProbeRule,
    StoreConfig,
)
from probekit.config.recordkinds import PORTABLE_NAMES, RECORD_KINDS, RecordKind
from probekit.config.section import Part
from probekit.errors import ConfigError, Fault, PlanError, ProbekitError

CONFIGS = Path(__file__).parents[2] / "configs"
BASE = """\
model:
  name: gpt2
inputs:
  texts: [a, b]
probes:
  - modules: transformer.h.*.mlp
store:
  path: runs/a
"""


def tree(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = yaml.safe_load(BASE)
    return base | changes


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "a.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def faults_of(source: Any, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides=overrides)
    lines = str(caught.value).splitlines()
    assert lines == [str(fault) for fault in caught.value.faults]
    return lines


@pytest.fixture(params=["libyaml", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both of PyYAML's parsers: an install without libyaml must behave the same."""
    chosen = {"libyaml": yaml.CSafeLoader, "python": yaml.SafeLoader}[request.param]
    monkeypatch.setattr(yamltext, "_PARSER", chosen)
    yield


# --- what loads


def test_a_minimal_config_has_every_default(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, BASE))
    assert config.model_dump() == {
        "model": {
            "name": "gpt2",
            "revision": "main",
            "dtype": "auto",
            "device": "auto",
            "weights": "pretrained",
            "tokenizer": None,
            "attention": "auto",
            "trust_remote_code": False,
            "overrides": {},
        },
        "inputs": {
            "texts": ("a", "b"),
            "examples": None,
            "file": None,
            "dataset": None,
            "tokens": None,
            "messages": None,
            "chat_template": None,
            "template": None,
            "random": None,
            "field": "text",
            "columns": None,
            "special_tokens": "auto",
            "limit": None,
            "max_tokens": None,
            "too_long": "truncate",
            "stride": None,
            "batch_tokens": 8192,
        },
        "probes": (
            {
                "modules": ("transformer.h.*.mlp",),
                "sites": None,
                "record": ("output",),
                "layers": "all",
                "positions": "all",
                "heads": None,
                "neurons": None,
                "einops": None,
                "pool": None,
                "k": 5,
            },
        ),
        "execution_order": False,
        "generate": None,
        "early_stop": True,
        "store": {
            "path": "runs/a",
            "dtype": "auto",
            "shard_bytes": 2**30,
            "compression": None,
            "buffer_bytes": 2**28,
            "on_overflow": "warn",
        },
        "seed": 0,
    }


def test_a_path_a_text_path_a_mapping_and_a_config_load_alike(tmp_path: Path) -> None:
    path = written(tmp_path, BASE)
    config = load_config(path)
    assert load_config(str(path)) == config
    assert load_config(tree()) == config
    assert load_config(config) is config
    assert load_config(tree(store={"path": Path("runs/a")})) == config


def test_every_config_of_the_repository_loads() -> None:
    for path in CONFIGS.glob("*.yaml"):
        jsonschema.validate(json.loads(json.dumps(yaml.safe_load(path.read_text()))), json_schema())
        load_config(path)


@pytest.mark.parametrize(
    ("key", "given", "kept"),
    [
        ("modules", "a.b", ("a.b",)),
        ("modules", ["a", "b"], ("a", "b")),
        ("record", "pattern", ("pattern",)),
        ("record", ["output.1", "input.hidden_states@2"], ("output.1", "input.hidden_states@2")),
        ("layers", 3, (3,)),
        ("layers", [0, -1], (0, -1)),
        ("layers", "all", "all"),
        ("layers", "0..3", (0, 1, 2, 3)),
        ("layers", " 2..2 ", (2,)),
        ("layers", "2:10", "2:10"),
        ("layers", ":", "all"),
        ("positions", "last", "last"),
        ("positions", -1, (-1,)),
        ("positions", [0, 5], (0, 5)),
        ("positions", "2:10", "2:10"),
        ("positions", " 02:10:1 ", "2:10"),
        ("positions", "0:5", ":5"),
        ("positions", "::4", "::4"),
        ("positions", "-3:", "-3:"),
        ("positions", "-5:-1:2", "-5:-1:2"),
        ("positions", "0::1", "all"),
    ],
)
def test_a_probe_has_one_normal_form(key: str, given: Any, kept: Any) -> None:
    config = load_config(tree(probes=[{"modules": "m"} | {key: given}]))
    assert getattr(config.probes[0], key) == kept


@pytest.mark.parametrize(
    ("given", "n_bytes"),
    [
        (1, 1),
        ("700", 700),
        ("700B", 700),
        ("2GB", 2 * 10**9),
        ("512MiB", 2**29),
        ("1 GiB", 2**30),
        ("3KiB", 3072),
        ("1TB", 10**12),
    ],
)
def test_shard_bytes_may_have_a_unit(given: Any, n_bytes: int) -> None:
    config = load_config(tree(store={"path": "x", "shard_bytes": given}))
    assert config.store.shard_bytes == n_bytes


def test_probes_may_be_left_out_for_the_execution_order_alone() -> None:
    config = load_config({k: v for k, v in tree(execution_order=True).items() if k != "probes"})
    assert config.probes == ()


def test_a_config_is_frozen_and_can_be_pickled(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, BASE))
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.where("seed") == config.where("seed")


def test_loading_changes_no_mapping_of_the_caller() -> None:
    given = tree()
    before = copy.deepcopy(given)
    load_config(given, overrides=["probes[0].layers=1", "model.name=x", "inputs.texts[2]=c"])
    assert given == before


# --- scalars


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("010", 10),
        ("0o10", 8),
        ("0xff", 255),
        ("-7", -7),
        ("1_000", "1_000"),
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("1:5", "1:5"),
        ("2020-01-01", "2020-01-01"),
        ("0b1", "0b1"),
        ("=", "="),
        ("'10'", "10"),
        ('"true"', "true"),
        ("transformer.h.{0,2}.attn", "transformer.h.{0,2}.attn"),
    ],
)
def test_scalars_are_read_as_yaml_1_2_says(tmp_path: Path, text: str, value: Any) -> None:
    source = BASE.replace("  name: gpt2", f"  name: gpt2\n  overrides: {{}}\n  tokenizer: {text}")
    source = source.replace("{}\n  tokenizer:", "\n    x:")
    config = load_config(written(tmp_path, source))
    assert config.model.overrides == {"x": value}
    assert type(config.model.overrides["x"]) is type(value)


@pytest.mark.usefixtures("parser")
def test_anchors_aliases_and_merge_keys_are_carried_out(tmp_path: Path) -> None:
    text = BASE.replace(
        "  - modules: transformer.h.*.mlp\n",
        """\
  - &first
    modules: &pattern a.*
    layers: &layers [0, 1]
    positions: last
  - <<: *first
    layers: 3
  - modules: *pattern
    layers: *layers
  - <<: [{positions: first}, *first]
""",
    )
    probes = load_config(written(tmp_path, text)).probes
    assert [p.modules for p in probes] == [("a.*",)] * 4
    assert [p.layers for p in probes] == [(0, 1), (3,), (0, 1), (0, 1)]
    assert [p.positions for p in probes] == ["last", "last", "all", "first"]


# --- what does not load: each mistake, its place, and what is said

DATASET = "  dataset: {name: json"
SPLIT = "  texts: [a, b]\n  too_long: split"
MISTAKES = [
    (
        "  texts: [a, b]",
        f"{SPLIT}\n  stride: 0",
        "6: inputs.stride",
        "given 0.*expected at least 1",
    ),
    ("  texts: [a, b]", f"{SPLIT}\n  stride: -1", "6: inputs.stride", "expected at least 1"),
    ("  texts: [a, b]", f"{SPLIT}\n  stride: all", "6: inputs.stride", "expected a whole number"),
    (
        "  texts: [a, b]",
        "  texts: [a]\n  stride: 2",
        "5: inputs.stride",
        "with too_long: split alo",
    ),
    (
        "  texts: [a, b]",
        f"{SPLIT}\n  max_tokens: 8\n  stride: 8",
        "7: inputs.stride",
        "given 8, expected fewer than the tokens of a piece .max_tokens: 8.",
    ),
    (
        "  texts: [a, b]",
        "  messages: [[{role: user, content: hi}]]\n  too_long: split",
        "5: inputs.too_long",
        "a chat is not split",
    ),
    (
        "  texts: [a, b]",
        "  random: {examples: 2, max_tokens: 9}\n  too_long: split",
        "5: inputs.too_long",
        "random examples are as long as inputs.random says",
    ),
    (
        "  texts: [a, b]",
        f"{DATASET}}}",
        "4: inputs.dataset.name",
        "json is a kind of files; say wh",
    ),
    ("  texts: [a, b]", f"{DATASET}, data_files: []}}", "4: inputs.dataset.data_files", "at least"),
    ("  texts: [a, b]", f"{DATASET}, data_files: {{}}}}", "4: inputs.dataset.data_files", "at le"),
    ("  texts: [a, b]", f"{DATASET}, data_files: 3}}", "4: inputs.dataset.data_files", "expected"),
    (
        "  texts: [a, b]",
        f"{DATASET}, data_files: {{test: a}}}}",
        "4: inputs.dataset.split",
        "data_files have no 'train'; there is: test",
    ),
    (
        "  texts: [a, b]",
        "  dataset: {name: jsonl, data_files: a.jsonl}",
        "4: inputs.dataset.name",
        "no kind of files of datasets; write json",
    ),
    (
        "  texts: [a, b]",
        f"{DATASET}, data_files: a, split: 'train[:3]'}}",
        "4: inputs.dataset.split",
        "files that are given as paths are the split train",
    ),
    (
        "  texts: [a, b]",
        "  dataset: {name: mine, split: 'train[:3]', streaming: true}",
        "4: inputs.dataset.split",
        "a part of a split, which a stream has not",
    ),
    (
        "  texts: [a, b]",
        f"{SPLIT}\ngenerate: {{max_new_tokens: 5}}",
        "6: generate",
        "what comes behind a piece is the rest of its document",
    ),
    ("  name: gpt2", "  nam: gpt2", "2: model.nam", "unknown key; did you mean name?"),
    ("  name: gpt2", "  seed: 1", "2: model.seed", "unknown key; expected one of name, revision"),
    ("  name: gpt2", "  dtype: auto", "1: model.name", "missing; expected `name: ...`, hub id"),
    ("  name: gpt2", "  name: 10", "2: model.name", "given 10 .a whole number., expected text; if"),
    ("  name: gpt2", "  name:", "2: model.name", "given null, expected text"),
    ("  name: gpt2", "  name: ''", "2: model.name", "expected text that is not empty"),
    ("  name: gpt2", '  name: "a\\0"', "2: model.name", "expected text without NUL characters"),
    ("  name: gpt2", "  name: [a]", "2: model.name", r"given \['a'\] .a list., expected text"),
    ("  name: gpt2", "  name: a\n  name: b", "3: model.name", "first given on line 2; keep one"),
    ("  name: gpt2", "  name: a\n  dtype: fp16", "3: model.dtype", "did you mean float16?"),
    ("  name: gpt2", "  name: a\n  device: gpu", "3: model.device", "'gpu' .text., expected auto,"),
    ("  name: gpt2", "  name: a\n  overrides: {n: {a: 1}}", "3: model.overrides.n", "list of tho"),
    ("  name: gpt2", "  name: a\n  overrides: {n: .inf}", "3: model.overrides.n", "finite"),
    ("  name: gpt2", f"  name: a\n  overrides: {{n: {2**63}}}", "3: model.overrides.n", "64 bits"),
    ("  name: gpt2", "  name: a\n  overrides: {a b: 1}", "3: model.overrides.'a b'", "a name of"),
    ("  name: gpt2", "  name: a\n  overrides: {a b: {}}", "3: model.overrides.'a b'", "a name of"),
    ("model:\n  name: gpt2", "model: gpt2", "1: model", "given 'gpt2' .text., expected a mapping"),
    ("model:\n  name: gpt2", "", "2: model", "`model: {name: ...}`, the model to look"),
    ("model:", "'odd key': 1\nmodel:", "1: 'odd key'", "unknown key; expected one of model, inpu"),
    ("  texts: [a, b]", "  texts: a", "4: inputs.texts", "given 'a' .text., expected a list"),
    ("  texts: [a, b]", "  texts: []", "4: inputs.texts", "expected at least one value"),
    ("  texts: [a, b]", "  texts:\n  - a\n  - ''", "6: inputs.texts[1]", "not empty"),
    ("  texts: [a, b]", "  texts: [a, no, 3]", "4: inputs.texts[2]", "put it in quotes"),
    ("  texts: [a, b]", "  examples: {text: a}", "4: inputs.examples", "mapping.*expected a list"),
    ("  texts: [a, b]", "  examples: []", "4: inputs.examples", "expected at least one value"),
    ("  texts: [a, b]", "  examples: [a]", "4: inputs.examples[0]", "expected a mapping"),
    ("  texts: [a, b]", "  examples: [{}]", "4: inputs.examples[0]", "expected at least one val"),
    (
        "  texts: [a, b]",
        "  examples:\n  - text: a\n    n: [1]",
        "6: inputs.examples[0].n",
        "expected text, a number, true, false or null",
    ),
    (
        "  texts: [a, b]",
        "  examples: [{text: a}]\n  columns: some",
        "5: inputs.columns",
        "expected all, or a list of names",
    ),
    ("  texts: [a, b]", "  texts: [a]\n  columns: [n]", "5: inputs.columns", "have no fields"),
    ("  texts: [a, b]", "  tokens: [[1], [2, -3]]", "4: inputs.tokens[1][1]", "at least 0"),
    ("  texts: [a, b]", "  tokens: [1, 2.5]", "4: inputs.tokens[1]", "expected a whole number"),
    ("  texts: [a, b]", "  tokens: ids", "4: inputs.tokens", "the name of a field, and none; give"),
    ("  texts: [a, b]", "  tokens: [1]\n  field: x", "5: inputs.field", "leave it out"),
    (
        "  texts: [a, b]",
        "  tokens: [1]\n  special_tokens: bos",
        "5: inputs.special_tokens",
        "leave",
    ),
    ("  texts: [a, b]", "  messages: []", "4: inputs.messages", "expected lists of messages"),
    ("  texts: [a, b]", "  messages: [[a]]", "4: inputs.messages", "expected lists of messages"),
    ("  texts: [a, b]", "  messages: chat", "4: inputs.messages", "the name of a field, and none"),
    ("  texts: [a, b]", "  texts: [a]\n  chat_template: b", "5: inputs.chat_template", "goes with"),
    ("  texts: [a, b]", "  texts: [a]\n  template: {}", "5: inputs.template", "goes with messages"),
    (
        "  texts: [a, b]",
        "  messages: [{role: a, content: b}]\n  special_tokens: bos",
        "5: inputs.special_tokens",
        "the chat template writes those of messages",
    ),
    (
        "  texts: [a, b]",
        "  messages: [{role: a, content: b}]\n  field: c",
        "5: inputs.field",
        "the examples are messages",
    ),
    (
        "  texts: [a, b]",
        "  messages: [{role: a, content: b}]\n  tokens: [1]",
        "4: inputs.messages",
        "given tokens and messages, expected one of them",
    ),
    (
        "  texts: [a, b]",
        "  messages: [{role: a, content: b}]\n  template:\n    date: yesterday",
        "6: inputs.template.date",
        "expected a date such as 2024-07-26",
    ),
    (
        "  texts: [a, b]",
        "  messages: [{role: a, content: b}]\n  template:\n    arguments: {tools: 1}",
        "6: inputs.template.arguments",
        "has a key of its own in the config",
    ),
    (
        "  texts: [a, b]",
        "  messages: [{role: a, content: b}]\n  template:\n    add_generation_prompt: true\n"
        "    continue_final_message: true",
        "7: inputs.template.continue_final_message",
        "leave one out",
    ),
    (
        "mlp",
        "mlp\n    positions: {role: a, match: b, regex: c}",
        "7: probes[0].positions.regex",
        "given match and regex, expected exactly one",
    ),
    (
        "mlp",
        "mlp\n    positions: {role: a, in: all}",
        "7: probes[0].positions.in",
        "goes with match, regex, column",
    ),
    ("mlp", "mlp\n    positions: {content: 3}", "7: probes[0].positions.content", "true or false"),
    ("  texts: [a, b]", "  limit: 3", "3: inputs", "given none, expected exactly one of texts"),
    ("  texts: [a, b]", "  texts: [a]\n  file: b", "5: inputs.file", "given texts and file, exp"),
    ("  texts: [a, b]", "  texts: [a]\n  limit: 0", "5: inputs.limit", "expected at least 1"),
    ("  texts: [a, b]", "  texts: [a]\n  limit: 2.0", "5: inputs.limit", "2.0 .a number., expect"),
    (
        "  texts: [a, b]",
        f"  texts: [a]\n  limit: {10**18}",
        "5: inputs.limit",
        "at most 2147483647",
    ),
    ("  texts: [a, b]", "  random: {examples: 2}", "4: inputs.random.max_tokens", "missing; expe"),
    (
        "  texts: [a, b]",
        "  random:\n    examples: 2\n    max_tokens: 4",
        "6: inputs.random.max_tokens",
        r"given 4, expected at least min_tokens \(8\)",
    ),
    ("  - modules: transformer.h.*.mlp", "  []", "5: probes", "nothing to record; give at least"),
    ("  - modules: transformer.h.*.mlp", "", "5: probes", "given null, expected a list"),
    ("  - modules: transformer.h.*.mlp", "  - layers: 1", "6: probes[0]", "one of modules, sites"),
    ("  - modules: transformer.h.*.mlp", "  - 3", "6: probes[0]", "expected a mapping"),
    (
        "  - modules:",
        "  - sites: [z, resid_pots]\n    k:",
        "6: probes[0].sites[1]",
        "resid_post or",
    ),
    ("  - modules:", "  - sites: z\n    modules:", "6: probes[0].sites", "given modules and sites"),
    ("  - modules:", "  - record: z\n    sites: z #", "6: probes[0].record", "go with sites"),
    ("  - modules:", "  - heads: a\n    modules:", "6: probes[0].heads", "expected a whole number"),
    ("  - modules:", "  - heads: [1, 1]\n    modules:", "6: probes[0].heads", "stands there twice"),
    ("  - modules:", "  - neurons: 1.5\n    modules:", "6: probes[0].neurons", "whole number"),
    ("  - modules:", "  - k: 0\n    modules:", "6: probes[0].k", "at least 1"),
    ("  - modules:", "  - pool: median\n    modules:", "6: probes[0].pool", "mean, max"),
    ("  - modules:", "  - einops: {}\n    modules:", "6: probes[0].einops", "rearrange, reduce"),
    (
        "  - modules:",
        "  - einops: {reduce: t d -> t}\n    modules:",
        "6: probes[0].einops",
        "expected op: mean, max, sum or norm",
    ),
    (
        "  - modules:",
        "  - einops: {rearrange: t d -> t d, head: two}\n    modules:",
        "6: probes[0].einops.head",
        "whole number",
    ),
    ("probes:", "generate: {}\nprobes:", "5: generate.max_new_tokens", "missing"),
    (
        "probes:",
        "generate: {max_new_tokens: 5, strategy: beam}\nprobes:",
        "5: generate.strategy",
        "greedy, sample",
    ),
    (
        "probes:",
        "generate: {max_new_tokens: 5, temperature: 0}\nprobes:",
        "5: generate.temperature",
        "0",
    ),
    (
        "probes:",
        "generate: {max_new_tokens: 5, strategy: sample, samples: 0}\nprobes:",
        "5: generate.samples",
        "at least 1",
    ),
    (
        "probes:",
        "generate: {max_new_tokens: 5, samples: 8}\nprobes:",
        "5: generate.samples",
        "all 8 would be the same",
    ),
    (
        "probes:",
        "generate: {max_new_tokens: 5, strategy: top_k, beams: 4}\nprobes:",
        "5: generate.beams",
        "a beam search draws nothing",
    ),
    (
        "probes:",
        "generate: {max_new_tokens: 5, strategy: sample, samples: 2, beams: 4}\nprobes:",
        "5: generate.samples",
        "given 2 beside beams: 4; a beam search draws nothing",
    ),
    ("probes:", "execution_order: some\nprobes:", "5: execution_order", "as_run"),
    (
        "  - modules:",
        "  - record: outptu\n    modules:",
        "6: probes[0].record",
        "did you mean outp",
    ),
    ("  - modules:", "  - record: z@1\n    modules:", "6: probes[0].record", "takes no .element"),
    (
        "  - modules:",
        "  - record: [z, z]\n    modules:",
        "6: probes[0].record",
        "'z' stands there tw",
    ),
    ("  - modules:", "  - layers: 5..2\n    modules:", "6: probes[0].layers", "is no range"),
    ("  - modules:", "  - layers: 2:x\n    modules:", "6: probes[0].layers", "or a slice"),
    ("  - modules:", "  - layers: 1.5\n    modules:", "6: probes[0].layers", "a layer number"),
    ("  - modules:", "  - layers: none\n    modules:", "6: probes[0].layers", "expected all, a la"),
    (
        "  - modules:",
        "  - layers: [0, yes]\n    modules:",
        "6: probes[0].layers[1]",
        "'yes' .text.",
    ),
    (
        "  - modules:",
        "  - layers: true\n    modules:",
        "6: probes[0].layers",
        "given true, expected",
    ),
    (
        "  - modules:",
        "  - positions: 5:2\n    modules:",
        "6: probes[0].positions",
        "selects nothing",
    ),
    (
        "  - modules:",
        "  - positions: ::0\n    modules:",
        "6: probes[0].positions",
        "has step 0; exp",
    ),
    (
        "  - modules:",
        "  - positions: end\n    modules:",
        "6: probes[0].positions",
        "all, first, last",
    ),
    ("  - modules:", "  - positions: []\n    modules:", "6: probes[0].positions", "at least one"),
    (
        "  - modules:",
        "  - positions: [1, 1]\n    modules:",
        "6: probes[0].positions",
        "1 stands th",
    ),
    ("  path: runs/a", "  path: a\n  shard_bytes: 5 GB!", "9: store.shard_bytes", "such as 512MiB"),
    (
        "  path: runs/a",
        "  path: a\n  shard_bytes: 0",
        "9: store.shard_bytes",
        "expected at least 1",
    ),
    (
        "  path: runs/a",
        "  path: a\n  compression: gz",
        "9: store.compression",
        "did you mean gzip?",
    ),
    (
        "store:\n  path: runs/a",
        "",
        "1: store",
        "missing; expected `store: {path: ...}`, where the tr",
    ),
    ("  - modules:", "  - sites: a.0.b #", "6: probes[0].sites", "write `modules: a.0.b`"),
    (
        "  - modules:",
        "  - sites: resid_* #",
        "6: probes[0].sites",
        "do not go here; name each: resid_pre, resid_mid, resid_post",
    ),
    ("  - modules:", "  - sites: 'x*' #", "6: probes[0].sites", "go here; expected one of embed"),
    (
        "  - modules:",
        "  - positions: {match: a, take: frist}\n    modules:",
        "6: probes[0].positions.take",
        "did you mean first. expected all, first, last, or a number from 0",
    ),
    ("model:\n  name: gpt2", "model: sample:x", "1: model", "write {name: sample:x}"),
    ("store:", "execution_order: yes\nstore:", "7: execution_order", "expected true, false or as"),
    ("  name: gpt2", "  name:gpt2", "1: model", "write a colon and a space behind a key"),
    ("  name: gpt2", "  name\uff1agpt2", "1: model", "write a colon and a space behind a key"),
    ("  - modules:", "    modules:", "5: probes", 'expected a list; begin each item with "- "'),
    ("[a, b]", "[Q: what, b]", "4: inputs.texts[0]", 'put text with ": " in quotes'),
    ("store:", "early_stop: no\nstore:", "7: early_stop", "expected true or false; write false"),
    ("store:", "early_stop: On\nstore:", "7: early_stop", "expected true or false; write true"),
    ("store:", "seed: 1e3\nstore:", "7: seed", "expected a whole number; write 1000"),
    ("store:", "seed: '1'\nstore:", "7: seed", "expected a whole number; write it without quotes"),
    ("store:", "seed: -1\nstore:", "7: seed", "given -1 .a whole number., expected at least 0"),
]


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(("right", "wrong", "where", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_line_and_path(
    tmp_path: Path, right: str, wrong: str, where: str, message: str
) -> None:
    assert right in BASE
    path = written(tmp_path, BASE.replace(right, wrong, 1))
    found = [line for line in faults_of(path) if line.startswith(f"{path}:{where}: ")]
    assert [line for line in found if re.search(message, line)], faults_of(path)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("right", "wrong", "where", "message"),
    [
        ("transformer.h.*.mlp", "*.mlp", ":6", r'not valid YAML: .* in quotes: "\*\.mlp"$'),
        ("transformer.h.*.mlp", "[**.act, x]", ":6", r'in quotes: "\*\*\.act"$'),
        ("transformer.h.*.mlp", "{a,b}.mlp", ":6", r'in quotes: "\{a,b\}\.mlp"$'),
        ("transformer.h.*.mlp", "[x.{0,2}.y]", ":6", r'in quotes: "x\.\{0,2\}\.y"$'),
        ("transformer.h.*.mlp", "@x", ":6", 'in quotes: "@x"$'),
        ("transformer.h.*.mlp", "*mlp", ":6: probes[0].modules", r'no anchor; .* quotes: "\*mlp"'),
        ("transformer.h.*.mlp", "!x y", ":6: probes[0].modules", "given the tag '!x', expected pl"),
        (
            "gpt2",
            "!!python/name:os.system x",
            ":2: model.name",
            "the tag '!!python/name:os.system'",
        ),
        ("gpt2", "!!python/object/apply:os.system [x]", ":2: model.name", "given the tag"),
        ("gpt2", "1e999", ":2: model.name", "number 1e999 is too large; if it is text, put it"),
        ("gpt2", "9" * 5000, ":2: model.name", r"number 9+\.\.\. is too large"),
        ("gpt2", "'gpt2", ":2", "not valid YAML: found unexpected end of stream"),
        ("gpt2", "a: b", ":2", "not valid YAML: mapping values are not allowed .* reads 'name: a"),
        ("  name", "\tname", ":2", "indent with spaces, not with tabs"),
        (
            "  name",
            "  1: x\n  name",
            ":2: model",
            "given the key 1 .a whole number., expected text",
        ),
        ("  name", "  ? [a]\n  : x\n  name", ":2: model", "given a list, a mapping or an ali"),
        ("  name", "  <<: 3\n  name", ":2: model", "<< expects an alias of a mapping"),
        ("store:", "--- \nstore:", ":7", "a second document starts; expected one"),
        ("gpt2", "g\x00", ":2", r"character U\+0000 is not text; remove it"),
        ("gpt2", "g\x1b", ":2", r"character U\+001B is not text; remove it"),
        (
            "  name: gpt2",
            "  name: " + "[" * 60,
            ":2: model.name[0]",
            "nested deeper than 50 levels",
        ),
        ("  name: gpt2", "  name: " + "[" * 10**6, ":2: model.name[0]", "nested deeper than 50"),
        (BASE, BASE.replace("  name", "\u00a0 name"), ":2", r"U\+00A0; .* plain space only"),
        (BASE, BASE.replace("  - m", "  \u2013 m"), ":6: probes", r"U\+2013; .* plain hyphen only"),
        ("[a, b]", "[a, b", ":4", r"the \[ on line 4 is not closed, or text in it needs quotes"),
        (
            "[a, b]",
            "[a #1, b]",
            ":4",
            r"the \[ on line 4 is not closed, or text in it needs quotes",
        ),
        (
            BASE,
            "",
            "",
            "nothing is written in it, expected a mapping with the keys model, inputs, probes",
        ),
        (BASE, "# nothing\n", "", "expected a mapping with the keys"),
        (BASE, "- a\n", ":1", r"given \['a'\] .a list., expected a mapping"),
        (BASE, "model=gpt2", ":1", "given 'model=gpt2' .text., expected a mapping"),
    ],
)
def test_text_that_is_no_plain_yaml_is_refused(
    tmp_path: Path, right: str, wrong: str, where: str, message: str
) -> None:
    path = written(tmp_path, BASE.replace(right, wrong, 1))
    (line,) = faults_of(path)
    assert line.startswith(f"{path}{where}: ")
    assert re.search(message, line), line


def test_a_file_in_another_encoding_or_without_a_name_is_refused(tmp_path: Path) -> None:
    (line,) = faults_of(written(tmp_path, BASE.encode("utf-16")))
    assert line.endswith("a.yaml: is UTF-16; save the file as UTF-8")
    (line,) = faults_of("")
    assert line == "'': the path is empty; expected the path of a YAML file"
    (line,) = faults_of("a\0b")
    assert line.endswith("this is a path which holds a null character; no path does")


def test_a_file_that_cannot_be_read_as_text_is_refused(tmp_path: Path) -> None:
    def fault(source: Any) -> str:
        (line,) = faults_of(source)
        return line

    absent = tmp_path / "none.yaml"
    assert fault(absent) == f"{absent}: no such file; expected the path of a YAML file"
    assert fault(tmp_path) == f"{tmp_path}: this is a folder; expected the path of a YAML file"
    latin = written(tmp_path, BASE.replace("gpt2", "gpté").encode("latin-1"))
    assert fault(latin) == f"{latin}:2: not UTF-8 (byte 0xe9); save the file as UTF-8"
    large = written(tmp_path, b"#" * 4_000_001)
    assert fault(large).startswith(f"{large}: larger than 4,000,000 bytes; put texts in a file")
    assert fault("a\nb.yaml").startswith("'a\\nb.yaml': no such file")
    assert "null" in fault("a\0b") or "cannot be read" in fault("a\0b")
    assert fault("x" * 5000).endswith("File name too long")


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode()
    config = load_config(written(tmp_path, text))
    assert config == load_config(tree())
    assert config.where("store.path").endswith(":8: store.path")


@pytest.mark.usefixtures("parser")
def test_an_alias_bomb_is_refused_quickly(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20)]
    merges = [f"b{i}: &b{i}\n  <<: [{', '.join([f'*b{i - 1}'] * 10)}]" for i in range(1, 20)]
    start = time.perf_counter()
    for bomb in (["a0: &a0 [x]", *levels], ["b0: &b0 {x: 1}", *merges]):
        (line,) = faults_of(written(tmp_path, "\n".join(bomb)))
        assert re.search(r":\d+: more than 20,000 values, aliases written out; put texts", line)
    assert time.perf_counter() - start < 10


def test_an_alias_inside_its_own_anchor_is_refused(tmp_path: Path) -> None:
    (line,) = faults_of(written(tmp_path, "model: &a\n  name: *a\n"))
    assert "2: model.name: alias *a has no anchor" in line


def test_one_mistake_is_one_fault(tmp_path: Path) -> None:
    mistakes = ("layers: 1.5", "layers: [x]", "record: [x]", "positions: [x]")
    for mistake in (*mistakes, "positions: {match: a, take: x}"):
        (line,) = faults_of(written(tmp_path, BASE.replace("  - ", f"  - {mistake}\n    ", 1)))
        assert f"a.yaml:6: probes[0].{mistake.partition(':')[0]}" in line


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("stroe.path=a", "--set stroe.path=a: stroe: unknown key; did you mean store"),
        ("model.oder.x=a", "--set model.oder.x=a: model.oder: unknown key"),
        ("probes[1].layers=1", "--set probes[1].layers=1: probes[1]: given none, expected"),
        ("generate.strategy=greedy", "--set generate.strategy=greedy: generate.max_new_tokens: mi"),
    ],
)
def test_what_a_set_made_on_its_way_is_its_own(tmp_path: Path, assignment: str, said: str) -> None:
    (line,) = faults_of(written(tmp_path, BASE), assignment)
    assert line.startswith(said)


def test_a_later_stage_names_the_set_that_made_a_section(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, BASE), overrides=["model.overrides.n_layer=x"])
    assert config.where("model.overrides") == "--set model.overrides.n_layer: model.overrides"


def test_all_faults_come_together_in_the_order_of_the_text(tmp_path: Path) -> None:
    text = BASE.replace("  name: gpt2", "  name: 3\n  name: b\n  dtype: x") + "seed: a\nseed: 2\n"
    path = written(tmp_path, text)
    found = faults_of(path, "store.path=7", "probes[7].layers=1", "model.nam=gpt3")
    assert [line.partition(": ")[0].replace(str(path), "") for line in found] == [
        *(":2", ":3", ":4", ":11", ":12"),
        *("--set model.nam=gpt3", "--set store.path=7", "--set probes[7].layers=1"),
    ]


def test_a_mapping_can_be_wrong_too() -> None:
    (line,) = faults_of(tree(seed="x"))
    assert line == "config: seed: given 'x' (text), expected a whole number"
    (line,) = faults_of({**tree(), 3: 4})
    assert line == "config: given the key 3 (a whole number), expected text"
    (line,) = faults_of(tree(seed=10**6000))
    assert line.startswith(
        "config: seed: given a number of 19,932 bits (a whole number), expected at"
    )
    cyclic: dict[str, Any] = {}
    cyclic["model"] = [cyclic, cyclic]
    (line,) = faults_of(cyclic)
    assert line == "config: model[0].model: nested deeper than 50 levels"
    (line,) = faults_of(7)
    assert line.startswith("config: given 7 (a whole number), expected a mapping")


def is_section(field: Any) -> bool:
    return any(issubclass(one, Part) for one in classes_in(field.annotation))


def classes_in(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for argument in get_args(annotation):
        yield from classes_in(argument)


def every_field() -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Give each key, a tree in which it may stand, and its field."""
    random = {"examples": 2, "min_tokens": 1, "max_tokens": 3}
    sections: list[tuple[str, type[Part], dict[str, Any]]] = [
        ("", ProbeConfig, {}),
        ("model", ModelConfig, {"name": "gpt2"}),
        ("inputs", InputsConfig, {"texts": ["a"]}),
        ("inputs.random", RandomInputs, random),
        ("inputs.dataset", DatasetInputs, {"name": "a"}),
        ("inputs.template", TemplateInputs, {"date": "2024-07-26"}),
        ("probes[0]", ProbeRule, {"modules": "a"}),
        ("probes[0].einops", EinopsConfig, {"rearrange": "a b -> a b"}),
        ("generate", GenerateConfig, {"max_new_tokens": 3}),
        ("store", StoreConfig, {"path": "a"}),
    ]
    instead = {
        "messages": "texts",
        "file": "texts",
        "dataset": "texts",
        "random": "texts",
        "sites": "modules",
        "reduce": "rearrange",
        "op": "rearrange",
    }
    beside = {"reduce": {"op": "mean"}, "op": {"reduce": "a b -> a"}}
    for place, section, written_there in sections:
        for key, field in section.model_fields.items():
            inside = written_there | beside.get(key, {})
            inside.pop(instead.get(key, ""), None)
            whole = tree()
            if place.startswith("inputs."):
                chat = [{"role": "user", "content": "hi"}]
                whole["inputs"] = {"messages": chat} if place == "inputs.template" else {}
            if place:
                places.assign(whole, places.parse_path(place), inside)
            yield f"{place}.{key}" if place else key, whole, field


WRONG = [
    *(None, "", [], {}, 0, -1, -0.5, 2**70, 10**400, True, False, 1.5, "x y", "1"),
    *(["a", 1], [None], [[]], [""], [{}], {"x": 1}, [1, 2], ["a", "a"]),
    *(float("nan"), float("inf"), -float("inf"), b"x", {1}),
]
INSIDES = re.compile(
    r"Input should|pydantic|validation|union|literal\[|tuple|\bstr\b|\bint\b|\bdict\b|bool|"
    r"\\x00|None|Config\b|Inputs\b|Rule\b|another value|NoneType|instance"
)


@pytest.mark.parametrize(
    ("key", "whole", "field"), [pytest.param(*one, id=one[0]) for one in every_field()]
)
def test_every_wrong_value_of_every_key_is_one_fault_at_that_key(
    key: str, whole: dict[str, Any], field: Any
) -> None:
    n_refused = 0
    for wrong in WRONG:
        given_tree = copy.deepcopy(whole)
        places.assign(given_tree, places.parse_path(key), wrong)
        try:
            load_config(given_tree)
        except ConfigError as error:
            n_refused += 1
            shown = [fault.where.removeprefix("config: ") for fault in error.faults]
            # A section that was given as a mapping is wrong in its keys, a list in its items.
            below = isinstance(wrong, list) or (isinstance(wrong, dict) and len(wrong) < 2)
            assert all(one == key or (below and one.startswith(key)) for one in shown), (
                wrong,
                shown,
            )
            assert len(shown) == len(set(shown)), f"{wrong!r} is told twice: {error}"
            is_mapping = isinstance(wrong, dict) and not (wrong == {} and is_section(field))
            assert len(shown) == 1 or (below and not is_mapping), f"{wrong!r}: {error}"
            said = "\n".join(fault.message for fault in error.faults)
            assert not INSIDES.search(said), said
            assert re.search(r"expected|give ", said), said
    assert n_refused > len(WRONG) / 2


def test_one_mistake_between_keys_is_one_fault() -> None:
    for changes, place in [
        ({"model": {"nam": "gpt2"}}, "model.nam"),
        ({"model": {"id": "gpt2"}}, "model.id"),
        ({"inputs": {"text": ["a"]}}, "inputs.text"),
        ({"inputs": {"texts": None}}, "inputs.texts"),
        ({"inputs": {"texts": ["a"], "file": "b"}}, "inputs.file"),
        ({"inputs": {"random": {"examples": 2, "max_tokens": 2**40}}}, "inputs.random.max_tokens"),
        ({"probes": [{"module": "a"}]}, "probes[0].module"),
        ({"probes": [{"modules": "a", "einops": {"op": "mean"}}]}, "probes[0].einops"),
        ({"generate": {"tokens": 3}}, "generate.tokens"),
        ({"stor": {"path": "a"}}, "stor"),
    ]:
        whole = tree(**changes)
        if "stor" in changes:
            del whole["store"]
        (line,) = faults_of(whole)
        assert line.startswith(f"config: {place}: "), line


def test_what_is_missing_beside_a_misspelled_key_is_told_too() -> None:
    assert len(faults_of(tree(model={"dtyp": "float32"}))) == 2


def test_a_temperature_of_zero_is_told_what_it_means() -> None:
    for zero in (0, 0.0, -0.0):
        (line,) = faults_of(tree(generate={"max_new_tokens": 3, "temperature": zero}))
        assert "generate.temperature" in line
        assert "write strategy: greedy" in line


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["all", "last", "1:2", "auto", "z", "output", "cpu", "1GiB", b"x", {1}]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "texts",
                    "random",
                    "modules",
                    "sites",
                    "layers",
                    "x",
                    "a b",
                    "<list>",
                    "[key]",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
KEYS = sorted(
    f"{part}.{key}" if part else key
    for part, fields in [
        ("", ProbeConfig.model_fields),
        ("model", ModelConfig.model_fields),
        ("inputs", InputsConfig.model_fields),
        ("inputs.random", RandomInputs.model_fields),
        ("inputs.dataset", DatasetInputs.model_fields),
        ("probes[0]", ProbeRule.model_fields),
        ("store", StoreConfig.model_fields),
    ]
    for key in fields
)


@settings(max_examples=500, deadline=None)
@given(key=st.sampled_from(KEYS), junk=JUNK)
def test_no_value_whatever_is_answered_in_jargon(key: str, junk: Any) -> None:
    given_tree = tree()
    places.assign(given_tree, places.parse_path(key), junk)
    try:
        load_config(given_tree)
    except ConfigError as error:
        assert all(str(fault).isprintable() for fault in error.faults)
        assert not re.search(
            r"Input should|pydantic|validation error|<word>|instance|Keys",
            str(error),
        )


YAML_PIECES = st.sampled_from(
    [
        *(
            "model:",
            "name: ",
            "probes:",
            "- ",
            "modules: ",
            "layers: ",
            "a",
            "1",
            "<<: ",
            "<list>: ",
        ),
        *(
            "*a",
            "&a ",
            "? ",
            ": ",
            "!t ",
            "!!str ",
            "{",
            "}",
            "[",
            "]",
            ", ",
            "'",
            '"',
            "|",
            ">",
            "#",
        ),
        *("\n", "\n  ", "\n    ", "\t", "---\n", "...\n", "%YAML 1.1\n", "%TAG ! x\n", "\ufeff"),
        *(
            '"\\ud800"',
            '"\\UFFFFFFFF"',
            '"\\0"',
            "1e999",
            ".nan",
            "0x",
            "é",
            "\u2028",
            "@",
            "`",
            "*",
        ),
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    text=st.lists(YAML_PIECES, max_size=25).map("".join), by_c=st.booleans(), start=st.booleans()
)
def test_no_text_whatever_ends_in_another_error_than_ours(
    text: str, by_c: bool, start: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(yamltext, "_PARSER", yaml.CSafeLoader if by_c else yaml.SafeLoader)
        path = written(Path(folder), BASE + text if start else text)
        with contextlib.suppress(ConfigError):
            load_config(path, overrides=[f"model.overrides.x={text}"])


# --- places


def test_where_names_file_line_and_path(tmp_path: Path) -> None:
    text = BASE + "# a comment\nseed: 3\n"
    path = written(tmp_path, text.replace("modules: t", "layers:\n    - 0\n    modules: t"))
    config = load_config(path)
    assert config.where("probes[0].layers") == f"{path}:6: probes[0].layers"
    assert config.where("probes[0].layers[0]") == f"{path}:7: probes[0].layers[0]"
    assert config.where("probes[0].modules") == f"{path}:8: probes[0].modules"
    assert config.where("probes[0].positions") == f"{path}:6: probes[0].positions"
    assert config.where("probes[0]") == f"{path}:6: probes[0]"
    assert config.where("inputs.texts[1]") == f"{path}:4: inputs.texts[1]"
    assert config.where("seed") == f"{path}:12: seed"
    assert config.where("execution_order") == f"{path}:1: execution_order"
    assert config.where("model.overrides.a b") == f"{path}:1: model.overrides.a b"


def test_where_names_a_mapping_or_the_command_line(tmp_path: Path) -> None:
    overrides = ["probes[0].layers=[0, 1]", "model={name: x}"]
    config = load_config(tree(), overrides=overrides)
    assert config.where("seed") == "config: seed"
    assert config.where("probes[0].layers") == "--set probes[0].layers"
    assert config.where("probes[0].layers[1]") == "--set probes[0].layers: probes[0].layers[1]"
    assert config.where("probes[0].modules") == "config: probes[0].modules"
    assert config.where("model.name") == "--set model: model.name"
    path = written(tmp_path, BASE)
    config = load_config(load_config(path), overrides=["seed=3"])
    assert config.where("seed") == "--set seed"
    assert config.where("store.path") == f"{path}:8: store.path"


def test_a_merged_key_stands_where_it_was_written(tmp_path: Path) -> None:
    probes = "  - &a\n    modules: x\n    layers: 3\n  - <<: *a\n    modules: y\n"
    path = written(tmp_path, BASE.replace("  - modules: transformer.h.*.mlp\n", probes))
    config = load_config(path)
    assert config.where("probes[1].layers") == f"{path}:8: probes[1].layers"
    assert config.where("probes[1].modules") == f"{path}:10: probes[1].modules"


# --- --set


@pytest.mark.parametrize(
    ("overrides", "path", "value"),
    [
        (["model.name=x"], "model.name", "x"),
        (["model.name=a=b"], "model.name", "a=b"),
        (["probes[0].layers=[0, 1]"], "probes[0].layers", [0, 1]),
        (["probes[1].sites=z", "probes[1].layers=2"], "probes[1]", {"sites": ["z"], "layers": [2]}),
        (["inputs.texts[2]=c"], "inputs.texts", ["a", "b", "c"]),
        (["inputs.texts[0]='no'"], "inputs.texts", ["no", "b"]),
        (["model.overrides.n_layer=2"], "model.overrides", {"n_layer": 2}),
        (["model.tokenizer="], "model.tokenizer", None),
        (["model.tokenizer=x", "model.tokenizer=y"], "model.tokenizer", "y"),
        (["probes[0].modules=a.{0..3}.*"], "probes[0].modules", ["a.{0..3}.*"]),
        ([" seed = 3 "], "seed", 3),
        (["inputs={file: x.txt}"], "inputs", {"file": "x.txt"}),
    ],
)
def test_set_changes_one_key(overrides: list[str], path: str, value: Any) -> None:
    here: Any = load_config(tree(), overrides=overrides).model_dump(mode="json", exclude_unset=True)
    for step in places.parse_path(path):
        here = here[step]
    assert here == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "expected key=value, e.g. model.name=gpt2"),
        ("=3", "'' is not a key such as model.name"),
        ("a..b=3", "'a..b' is not a key such as"),
        ("model.name[x]=3", "is not a key such as"),
        ("model.nam=x", "unknown key; did you mean name?"),
        ("model.name=3", "given 3 (a whole number), expected text"),
        ("model.name.x=3", "model.name is 'gpt2' (text), expected a mapping"),
        ("probes.x=3", "probes is [{modules: 'transformer.h.*.mlp'}] (a list), expected a mapping"),
        ("model[0]=3", "model is {name: 'gpt2'} (a mapping), expected a list"),
        ("probes[2].layers=1", "probes has 1 item; expected an index up to 1, which appends"),
        ("inputs={texts: ['']}", "inputs.texts[0]: given '' (text), expected text that is not"),
        ("probes[0].modules=*.mlp", 'put text with special characters in quotes: "*.mlp"'),
        ("probes[0].modules=*mlp", "alias *mlp has no anchor; if it is text, put it in quotes"),
        ("inputs={file: a, file: b}", "file: duplicate key; keep one"),
        ("seed=1\n---\n2", "a second document starts"),
        ("seed=\udce9", "character U+DCE9 is not text"),
        ("model.name=!!python/name:os.system x", "given the tag"),
    ],
)
def test_a_wrong_set_is_named_as_it_was_given(override: str, message: str) -> None:
    found = faults_of(tree(), override)
    shown = override if override.isprintable() else repr(override)[1:-1]
    assert [line for line in found if line.startswith(f"--set {shown}: ") and message in line], (
        found
    )


# --- to_yaml and digest

ODD_TEXTS = [
    *("no", "on", "true", "null", "~", "010", "1e3", "1e-3", "0o7", "0x1f", "1:5", ".inf", "1_000"),
    *("=", "<<", "*a", "&a", "!a", "- a", "a: b", "a #b", "#", " x ", "\t", "\n", "a\nb\n", "---"),
    *("é\u2028", "\x85", "\ufeff", "🎉", "\x07", "\x7f", "'", '"', "2020-01-01", "{a,b}", "%"),
]
TEXT = st.sampled_from(ODD_TEXTS) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
)
COUNT = st.integers(1, 2**31 - 1)
NAME = TEXT.filter(str.isprintable)
SCALAR = (st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | TEXT) | st.floats(
    allow_nan=False, allow_infinity=False, width=32
)
DTYPE = st.sampled_from(["auto", "float32", "bfloat16", "float16"])


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def one_or_many(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values | st.lists(values, min_size=1, max_size=3, unique=True)


MODEL = st.builds(
    lambda name, rest: {"name": name} | rest,
    NAME,
    some(
        revision=st.none() | TEXT,
        dtype=DTYPE,
        device=st.sampled_from(["auto", "cpu", "cuda", "cuda:1", "mps"]),
        weights=st.sampled_from(["pretrained", "random"]),
        tokenizer=st.none() | NAME,
        attention=st.sampled_from(["auto", "sdpa", "eager", "flash_attention_2"]),
        overrides=st.dictionaries(
            st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True),
            SCALAR | st.lists(SCALAR, max_size=3),
            max_size=3,
        ),
    ),
)
FILES = NAME | st.lists(NAME, min_size=1, max_size=3)
SOURCE = st.one_of(
    st.fixed_dictionaries({"texts": st.lists(TEXT, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"file": NAME}, optional={"texts": st.none()}),
    st.fixed_dictionaries(
        {
            "dataset": st.fixed_dictionaries(
                {"name": TEXT.filter(lambda name: name not in BUILDERS)},
                optional={
                    "subset": st.none() | TEXT,
                    "split": TEXT.filter(lambda split: not set("[+") & set(split)),
                    "streaming": st.booleans(),
                    "data_files": st.none() | FILES | st.dictionaries(TEXT, FILES, min_size=1),
                },
            )
            | st.fixed_dictionaries(
                {"name": st.sampled_from(BUILDERS), "data_files": FILES},
                optional={"streaming": st.booleans()},
            )
        }
    ),
    st.fixed_dictionaries(
        {
            "random": st.fixed_dictionaries(
                {"examples": st.integers(1, 100_000), "max_tokens": st.integers(8, 99)},
                optional={"min_tokens": st.integers(1, 8), "seed": st.integers(0, 2**32 - 1)},
            )
        }
    ),
)
INPUTS = st.builds(
    lambda source, rest: source | rest,
    SOURCE,
    some(
        field=TEXT,
        limit=st.none() | COUNT,
        max_tokens=st.none() | COUNT,
        too_long=st.sampled_from(["truncate", "error"]),
        batch_tokens=COUNT,
    ),
) | st.builds(  # long documents
    lambda source, most, rest: {**source, "max_tokens": most, "too_long": "split", **rest},
    SOURCE.filter(lambda source: "random" not in source),
    st.integers(100, 1000),
    some(stride=st.none() | st.integers(1, 99), limit=st.none() | COUNT),
)
RECORD = st.sampled_from(RECORD_KINDS) | st.sampled_from(
    ["output.1", "output@1", "input.hidden_states", "input.0@12", "output._x9"]
)
CHOSEN = some(
    layers=st.just("all") | one_or_many(st.integers(-100, 100)),
    positions=st.sampled_from(["all", "first", "last", "2:10", ":-1", "::4", " 0:7:01", ":", "-3:"])
    | one_or_many(st.integers(-1000, 1000)),
)
PROBE = st.builds(
    lambda place, rest: place | rest,
    st.fixed_dictionaries({"modules": one_or_many(TEXT)}, optional={"record": one_or_many(RECORD)})
    | st.fixed_dictionaries({"sites": one_or_many(st.sampled_from(PORTABLE_NAMES))}),
    CHOSEN,
)
STORE = st.builds(
    lambda path, rest: {"path": path} | rest,
    NAME,
    some(
        dtype=DTYPE,
        shard_bytes=st.integers(1, 2**50) | st.sampled_from(["512MiB", "1 GiB", "2GB", "77"]),
        compression=st.sampled_from([None, "gzip", "lzf", "zstd"]),
    ),
)
SEVERAL = st.integers(1, 2**31 - 1)
GENERATE = st.builds(
    lambda new, rest: {"max_new_tokens": new} | rest,
    st.integers(1, 2**31 - 1),
    some(beams=SEVERAL, strategy=st.just("greedy"), stop_at_eos=st.booleans())
    | st.fixed_dictionaries(
        {"strategy": st.sampled_from(["sample", "top_k", "top_p"])},
        optional={"samples": SEVERAL, "beams": st.just(1), "seed": st.integers(0, 9)},
    ),
)


def _can_go_on(tree: dict[str, Any]) -> bool:
    """Say whether a model could go on from the texts of a config: not from pieces of them."""
    is_whole = tree["inputs"].get("too_long") != "split"
    return is_whole and all(probe.get("positions") != ":" for probe in tree["probes"])


TREE = st.builds(
    lambda required, rest: required | rest,
    st.fixed_dictionaries({"model": MODEL, "inputs": INPUTS, "store": STORE})
    .flatmap(lambda t: st.lists(PROBE, max_size=3).map(lambda probes: t | {"probes": probes}))
    .map(lambda t: t if t["probes"] else t | {"execution_order": True}),
    some(seed=st.integers(0, 2**32 - 1), generate=GENERATE),
).map(lambda t: t if _can_go_on(t) else t | {"generate": None})


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(given_tree=TREE)
def test_to_yaml_loads_again_as_an_equal_config(tmp_path: Path, given_tree: dict[str, Any]) -> None:
    SCHEMA.validate(given_tree)
    config = load_config(given_tree)
    text = config.to_yaml()
    again = load_config(written(tmp_path, text))
    assert again == config
    assert again.to_yaml() == text
    assert again.digest == config.digest
    SCHEMA.validate(json.loads(json.dumps(config.model_dump(mode="json", exclude_unset=True))))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(given_tree=TREE)
def test_python_s_own_parser_reads_the_same(given_tree: dict[str, Any]) -> None:
    text = load_config(given_tree).to_yaml()
    by_c = yamltext._read_text(text)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yamltext, "_PARSER", yaml.SafeLoader)
        assert yamltext._read_text(text)[1] == by_c


def test_to_yaml_is_the_effective_config_and_no_more(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, BASE), overrides=["model.name='010'", "seed=4"])
    assert config.to_yaml() == (
        "model:\n  name: '010'\ninputs:\n  texts:\n  - a\n  - b\n"
        "probes:\n- modules:\n  - transformer.h.*.mlp\nstore:\n  path: runs/a\nseed: 4\n"
    )


SAME_VALUES = [
    ("model:", "# a comment\nmodel:"),
    ("  name: gpt2", "  {name: 'gpt2', dtype: auto, revision: main}"),
    ("  name: gpt2", "  name: gpt2\n  device: cuda:1"),
    ("  texts: [a, b]", "  texts:\n  - a\n  - b\n  batch_tokens: 3"),
    ("transformer.h.*.mlp", "[transformer.h.*.mlp]\n    record: output\n    positions: '::1'"),
    ("runs/a", "elsewhere\n  shard_bytes: 1GiB"),
]
OTHER_VALUES = [
    ("gpt2", "gpt2\n  dtype: float16"),
    ("gpt2", "gpt2\n  attention: eager"),
    ("gpt2", "gpt2\n  overrides: {n_layer: 2}"),
    ("[a, b]", "[b, a]"),
    ("[a, b]", "[a, b]\n  max_tokens: 3"),
    ("mlp", "mlp\n    layers: 0"),
    ("runs/a", "runs/a\n  dtype: float16"),
    ("runs/a", "runs/a\n  shard_bytes: 1GB"),
    ("store:", "seed: 1\nstore:"),
    ("store:", "generate: {max_new_tokens: 3, beams: 2}\nstore:"),
    ("store:", "generate: {max_new_tokens: 3, strategy: sample, samples: 2}\nstore:"),
]


@pytest.mark.parametrize(("old", "new"), SAME_VALUES)
def test_the_digest_does_not_see_how_a_config_is_written(
    tmp_path: Path, old: str, new: str
) -> None:
    changed = load_config(written(tmp_path, BASE.replace(old, new, 1)))
    assert changed.digest == load_config(tree()).digest
    assert re.fullmatch("[0-9a-f]{64}", changed.digest)


@pytest.mark.parametrize(("old", "new"), OTHER_VALUES)
def test_the_digest_sees_what_decides_the_values(tmp_path: Path, old: str, new: str) -> None:
    changed = load_config(written(tmp_path, BASE.replace(old, new, 1)))
    assert changed.digest != load_config(tree()).digest


# --- the JSON Schema

SCHEMA = jsonschema.Draft202012Validator(json_schema())


def test_the_schema_file_is_current() -> None:
    text = (CONFIGS / "probe.schema.json").read_text(encoding="utf-8")
    assert text == json.dumps(json_schema(), indent=2) + "\n"


def test_the_schema_describes_every_field() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    parts = [schema, *schema["$defs"].values()]
    assert len(parts) == 10
    for part in parts:
        sizes = {"minimum": 1, "type": "integer"}  # of an einops pattern are keys of their own
        assert part["additionalProperties"] == (
            sizes if "rearrange" in part["properties"] else False
        )
        for field in part["properties"].values():
            assert field["title"]
            assert field["description"]


# What JSON Schema cannot say: relations of two numbers, and what is gone once the text is read.
BEYOND_SCHEMA = re.compile(
    r"write 1000|NUL|min_tokens|selects|step 0|2\.0 |finite|64 bits|keep one|no range|"
    r"have no fields|leave one out|such as 2024|goes with match|would be the same|draws nothing|"
    r"tokens of a piece|data_files have no|are the split train|a stream has not|"
    r"no kind of files"
)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [(right, wrong) for right, wrong, _, said in MISTAKES if not BEYOND_SCHEMA.search(said)],
)
def test_the_schema_refuses_what_the_loader_refuses(right: str, wrong: str) -> None:
    _, value = yamltext._read_text(BASE.replace(right, wrong, 1))
    assert not SCHEMA.is_valid(value)
    assert SCHEMA.is_valid(yamltext._read_text(BASE)[1])


# --- the vocabulary


@pytest.mark.parametrize(
    "text", [*RECORD_KINDS, "output.1", "output.last_hidden_state", "input@0", "input.x@31"]
)
def test_a_record_kind_gives_its_text_back(text: str) -> None:
    assert str(RecordKind.parse(text)) == text


def test_a_record_kind_has_a_name_an_element_and_a_call() -> None:
    assert RecordKind.parse("output.1@2") == RecordKind(name="output", element="1", call=2)
    assert RecordKind.parse("input@0") == RecordKind(name="input", element=None, call=0)
    assert RecordKind.parse("z") == RecordKind(name="z")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a record kind; expected name, name.element or name@call"),
        ("output.a.b", "is not a record kind"),
        ("output@-1", "is not a record kind"),
        ("output@01", "is not a record kind"),
        ("output.01", "is not a record kind"),
        ("output\n", "is not a record kind"),
        ("outptu", "unknown record kind 'outptu'; did you mean output"),
        ("pattern.0", "'pattern.0': pattern takes no .element and no @call"),
        ("q@0", "q takes no .element and no @call; only output and input do"),
    ],
)
def test_a_wrong_record_kind_says_what_is_right(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        RecordKind.parse(text)


def test_slices_are_python_s() -> None:
    assert parse_slice("2:10") == slice(2, 10)
    assert parse_slice(":-1") == slice(None, -1)
    assert parse_slice("::4") == slice(None, None, 4)


@settings(max_examples=300)
@given(
    start=st.none() | st.integers(-12, 12),
    stop=st.none() | st.integers(-12, 12),
    step=st.none() | st.integers(1, 5),
)
def test_a_slice_is_refused_exactly_if_it_selects_nothing_of_any_length(
    start: int | None, stop: int | None, step: int | None
) -> None:
    text = ":".join("" if part is None else str(part) for part in (start, stop, step))
    selected = [list(range(n))[start:stop:step] for n in range(40)]
    if not any(selected):
        with pytest.raises(ConfigError, match="selects nothing"):
            parse_slice(text)
        return
    assert [list(range(n))[parse_slice(text)] for n in range(40)] == selected
    kept = load_config(tree(probes=[{"modules": "m", "positions": text}])).probes[0].positions
    assert isinstance(kept, str)
    canonical = slice(None) if kept == "all" else parse_slice(kept)
    assert [list(range(n))[canonical] for n in range(40)] == selected


# --- errors and imports


def test_several_faults_make_one_error() -> None:
    error = PlanError.of([Fault("a.yaml:3: x", "is wrong"), Fault("a.yaml:9: y", "is missing")])
    assert isinstance(error, ProbekitError)
    assert str(error) == "a.yaml:3: x: is wrong\na.yaml:9: y: is missing"
    assert error.faults[1] == Fault(where="a.yaml:9: y", message="is missing")
    assert pickle.loads(pickle.dumps(error)).faults == error.faults
    assert PlanError("plain").faults == ()


def test_of_many_faults_the_first_twenty_are_told_and_all_are_kept() -> None:
    error = PlanError.of([Fault(f"a.yaml:{n}", "is wrong") for n in range(1, 26)])
    lines = str(error).splitlines()
    assert lines[19:] == ["a.yaml:20: is wrong", "... and more; these are the first 20"]
    assert len(error.faults) == 25


@pytest.mark.parametrize(
    ("odd", "shown"),
    [
        ("\x1b[2Jx", "\\x1b[2Jx"),  # a terminal's order to clear itself
        ("\u202eevil", "\\u202eevil"),  # turns the text around
        ("\x9b31m", "\\x9b31m"),
        ("a\ud800", "a\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\u200b", "\\u200b"),
        ("é中💥", "é中💥"),
    ],
)
def test_what_does_not_print_is_escaped_in_every_message(odd: str, shown: str) -> None:
    assert str(PlanError(f"no {odd} here")) == f"no {shown} here"
    assert str(PlanError.of([Fault(odd, odd)])) == f"{shown}: {shown}"
    assert str(Fault("x", f"{odd}\nb")) == f"x: {shown}\\nb"  # one fault is one line
    assert str(PlanError("two\nlines")) == "two\nlines"


def test_a_line_without_an_end_is_cut_in_its_middle() -> None:
    said = str(PlanError(f"{'a' * 5000} is the reason\nand more"))
    first, second = said.splitlines()
    assert len(first) < 2100
    assert first.endswith("a is the reason")
    assert second == "and more"


def test_a_list_of_wrong_values_is_told_quickly_and_shortly() -> None:
    start = time.perf_counter()
    for values in ([None] * 19_000, [*range(19_000), 0]):
        with pytest.raises(ConfigError) as caught:
            load_config(tree(probes=[{"modules": "x", "heads": values}]))
        assert len(str(caught.value).splitlines()) <= 21
    assert time.perf_counter() - start < 10


def test_more_patterns_than_anybody_writes_are_refused() -> None:
    (line,) = faults_of(tree(probes=[{"modules": [f"a.{n}" for n in range(2001)]}]))
    assert line.startswith("config: probes: 2001 patterns and sites in all, expected at most 2000")


@pytest.mark.parametrize(
    ("examples", "max_tokens", "message"),
    [
        (100_001, 8, "inputs.random.examples: given 100001 .*expected at most 100000"),
        (100_000, 501, "inputs.random.max_tokens: 100,000 examples of up to 501 tokens: more than"),
    ],
)
def test_more_random_tokens_than_a_disk_holds_are_refused(examples, max_tokens, message) -> None:
    random = {"examples": examples, "max_tokens": max_tokens}
    (line,) = faults_of(tree(inputs={"random": random}))
    assert re.search(message, line)


@pytest.mark.parametrize("key", ["model.name", "model.tokenizer", "inputs.file", "store.path"])
@pytest.mark.parametrize("odd", ["a\nb", "\u202egpt2", "a\x1b[2J"])
def test_a_name_that_does_not_print_is_refused(key: str, odd: str) -> None:
    given_tree = tree(inputs={})
    places.assign(given_tree, places.parse_path("inputs.file"), "a.txt")
    places.assign(given_tree, places.parse_path(key), odd)
    (line,) = faults_of(given_tree)
    assert line.endswith("expected a name of characters that print, on one line")


def test_a_set_deeper_than_any_config_is_refused() -> None:
    (line,) = faults_of(tree(), f"a{'.a' * 60}=1")
    assert "is nested deeper than 50 levels" in line


def test_configs_and_globs_need_no_torch() -> None:
    code = (
        "import sys; from probekit.config import load_config, match_paths;"
        "sys.exit(' '.join({'torch', 'transformers', 'h5py', 'numpy'} & {*sys.modules}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_key_that_begins_like_a_tag_of_ours_is_an_unknown_key() -> None:
    with pytest.raises(ConfigError, match="unknown key; expected one of model"):
        load_config({"\0x": 1, "model": {"name": "a"}})
