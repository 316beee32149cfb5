"""Configs that nobody means well with: hypothesis strategies of texts and of `--set` strings.

Six kinds: right configs with values that a hasty hand would write, right configs with absurd ones,
datasets and long texts, texts made to break a YAML reader, right configs whose very characters were
changed, and odd `--set` strings. Nothing here imports probekit.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import yaml
from hypothesis import strategies as st

from campaigns.hostile_datasets import DATASETS, LONG_INPUTS
from campaigns.hostile_values import (
    ABSURD_NUMBERS,
    EINOPS,
    GLOBS,
    HUGE_LISTS,
    JUNK,
    LONG_TEXTS,
    MANY_GLOBS,
    ODD_CHARACTERS,
    ODD_NAMES,
    OVERRIDES,
    READ_TEXTS,
    SCALARS,
    WORDS,
    Strategy,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileConfig:
    """The bytes of a config file, and what goes with it on the command line."""

    text: bytes
    settings: tuple[str, ...] = ()


def right() -> dict[str, Any]:
    """Make a config with every kind of value in it, that plans in a twentieth of a second."""
    return {
        "model": {
            "name": "sample:tiny-gpt2",
            "weights": "random",
            "device": "cpu",
            "overrides": {"n_layer": 2},
        },
        "inputs": {
            "random": {"examples": 4, "min_tokens": 2, "max_tokens": 9},
            "batch_tokens": 64,
        },
        "probes": [
            {"modules": "transformer.h.*.mlp.act", "positions": "0:4", "neurons": [0, 3]},
            {"modules": ["transformer.h.{0,1}.attn"], "record": ["pattern", "z"], "heads": [0]},
            {
                "modules": "transformer.h.*.attn.c_proj",
                "record": "input",
                "einops": {"rearrange": "token (head d_head) -> token head d_head"},
            },
            {"sites": "resid_post", "layers": [0, -1], "pool": "mean"},
            {"modules": "lm_head", "record": ["top_k"], "k": 3},
        ],
        "generate": None,
        "execution_order": True,
        "store": {"path": "runs/x", "dtype": "auto", "shard_bytes": "1MiB"},
        "seed": 0,
    }


# --- right configs with wrong values


def paths_of(tree: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Give the path of every value of a tree."""
    found = [here] if here else []
    if isinstance(tree, dict):
        found += [path for key, value in tree.items() for path in paths_of(value, (*here, key))]
    elif isinstance(tree, list):
        found += [path for n, value in enumerate(tree) for path in paths_of(value, (*here, n))]
    return found


PATHS = (
    *paths_of(right()),
    *(("model", key) for key in ("dtype", "attention", "tokenizer", "revision", "weights")),
    *(
        ("inputs", key)
        for key in (
            "texts",
            "examples",
            "columns",
            "file",
            "dataset",
            "tokens",
            "special_tokens",
            "messages",
            "chat_template",
            "template",
            "field",
            "limit",
            "max_tokens",
            "too_long",
            "stride",
        )
    ),
    *(("inputs", "dataset", key) for key in ("name", "data_files", "streaming")),
    *(("probes", 0, key) for key in ("pool", "einops", "heads", "layers", "k", "record", "sites")),
    *(("generate", key) for key in ("max_new_tokens", "strategy", "temperature", "top_p")),
    *(("generate", key) for key in ("samples", "beams")),
    ("store", "compression"),
    ("early_stop",),
)


def with_value(tree: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Give a copy of a tree with one value changed, or as it was if the place is no more."""
    made = copy.deepcopy(tree)
    here: Any = made
    for step in path[:-1]:
        if isinstance(here, dict) and here.get(step) is None:
            here[step] = {}
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            return tree
    try:
        here[path[-1]] = value
    except (IndexError, TypeError):
        return tree
    return made


NUMBERS = st.integers(-3, 9)
SEVERAL = st.one_of(NUMBERS, st.lists(NUMBERS, min_size=1, max_size=4))
KINDS = st.sampled_from(
    [
        *(
            "output",
            "input",
            "pattern",
            "scores",
            "q",
            "k",
            "z",
            "top_k",
            "entropy",
            "token_logprob",
        ),
        *("output.0", "output.1", "output@0", "input@1", "input.hidden_states"),
    ]
)
MODULES = st.sampled_from(
    [
        *("**", "*", "*.*", "transformer.**", "**.{0..1}.**", "lm_head", "**.attn", "**.c_*"),
        *("transformer.h.{0,1}", "transformer.h.{0..2}.mlp", "transformer.wte", "**.{mlp,attn}.*"),
    ]
)
EXAMPLES = st.lists(
    st.fixed_dictionaries(
        {"text": WORDS | READ_TEXTS},
        optional={"label": NUMBERS | WORDS | st.none(), "a/b": NUMBERS, "score": ABSURD_NUMBERS},
    ),
    min_size=1,
    max_size=3,
)
TOKEN_ID = st.integers(0, 60_000) | st.integers(-2, 9) | ABSURD_NUMBERS | WORDS | st.booleans()
TOKEN_LIST = st.lists(st.integers(0, 1600), max_size=30) | st.lists(TOKEN_ID, max_size=4)
TOKEN_LISTS = st.lists(TOKEN_LIST, max_size=4) | TOKEN_LIST | HUGE_LISTS
TOKEN_INPUTS = st.fixed_dictionaries(
    {"tokens": TOKEN_LISTS},
    optional={
        "special_tokens": st.sampled_from(["auto", "none", "bos"]),
        "too_long": st.sampled_from(["error", "truncate", "split"]),
        "stride": st.integers(1, 40),
        "max_tokens": NUMBERS,
        "field": WORDS,
        "columns": st.just("all"),
    },
) | st.fixed_dictionaries(
    {
        "examples": st.lists(
            st.fixed_dictionaries(
                {"ids": TOKEN_LIST | WORDS}, optional={"n": NUMBERS | TOKEN_LIST}
            ),
            min_size=1,
            max_size=3,
        ),
        "tokens": st.sampled_from(["ids", "ids", "n", "x"]),
    },
    optional={"columns": st.just("all") | st.just(["n"])},
)
SAID = WORDS | READ_TEXTS | st.just("") | st.lists(st.just({"type": "text", "text": "a"}))
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]) | WORDS,
        "content": SAID | ABSURD_NUMBERS,
    },
    optional={"tool_calls": WORDS, "thinking": WORDS},
) | st.fixed_dictionaries({"from": WORDS, "value": WORDS})
CHAT = st.lists(MESSAGE, max_size=3)
TEMPLATE = st.fixed_dictionaries(
    {},
    optional={
        "add_generation_prompt": st.booleans() | WORDS,
        "continue_final_message": st.booleans(),
        "tools": st.lists(st.just({"name": "f"}), max_size=2) | WORDS,
        "arguments": st.dictionaries(WORDS | st.just("messages"), NUMBERS, max_size=2),
        "date": WORDS | st.just("2024-07-26"),
    },
)
CHAT_INPUTS = st.fixed_dictionaries(
    {"messages": st.lists(CHAT, max_size=3) | CHAT | WORDS},
    optional={
        "template": TEMPLATE,
        "chat_template": WORDS | ODD_NAMES,
        "special_tokens": st.sampled_from(["auto", "none", "bos"]),
        "columns": st.just("all"),
    },
)
COLUMNS = st.just("all") | st.lists(WORDS | st.just("label"), max_size=2)
SPOTS = st.fixed_dictionaries(
    {},
    optional={
        "match": WORDS | LONG_TEXTS,
        "regex": st.sampled_from(["a", "(", "(a|aa)+$", ".*", "\\p{L}+", "(?<=a)b", "[" * 99]),
        "column": WORDS | st.just("label"),
        "after": st.fixed_dictionaries({"match": WORDS}),
        "offset": NUMBERS,
        "role": WORDS | st.just("user"),
        "content": st.booleans(),
        "turn": NUMBERS,
        "in": st.sampled_from(["all", "contents"]),
        "take": NUMBERS | st.sampled_from(["all", "first", "last"]),
        "missing": st.sampled_from(["skip", "error"]),
    },
)
# What a hasty hand would write; much of it is right.
PLAUSIBLE: tuple[tuple[tuple[Any, ...], Strategy], ...] = (
    (("model", "overrides"), OVERRIDES),
    (("model", "overrides", "n_layer"), NUMBERS),
    (("model", "overrides", "n_head"), NUMBERS),
    (("model", "dtype"), st.sampled_from(["float32", "bfloat16", "float16", "float64"])),
    (("model", "attention"), st.sampled_from(["eager", "sdpa", "flash_attention_2"])),
    (("inputs",), st.fixed_dictionaries({"examples": EXAMPLES}, optional={"columns": COLUMNS})),
    (("inputs",), TOKEN_INPUTS),
    (("inputs",), CHAT_INPUTS),
    (("inputs",), DATASETS),
    (("inputs",), LONG_INPUTS),
    (
        ("inputs",),
        st.fixed_dictionaries(
            {"texts": st.lists(WORDS, max_size=2)},
            optional={
                "special_tokens": WORDS | st.sampled_from(["auto", "none", "bos"]),
                "field": WORDS,
            },
        ),
    ),
    (("inputs", "random", "examples"), st.integers(0, 300)),
    (("inputs", "random", "max_tokens"), st.integers(0, 300)),
    (("inputs", "batch_tokens"), st.integers(0, 300)),
    (("inputs", "max_tokens"), st.integers(0, 20)),
    *(((("probes", n, "modules"), MODULES)) for n in range(3)),
    *(((("probes", n, "record"), st.lists(KINDS, min_size=1, max_size=2))) for n in range(3)),
    *(((("probes", n, "layers"), SEVERAL)) for n in range(4)),
    *(((("probes", n, "heads"), SEVERAL)) for n in range(2)),
    *(((("probes", n, "neurons"), SEVERAL)) for n in range(3)),
    *(
        (("probes", n, "positions"), SEVERAL | st.sampled_from(["last", "1:3", "-2:", "::2", "9:"]))
        for n in range(5)
    ),
    *((("probes", n, "positions"), SPOTS) for n in range(5)),
    *((("probes", n, "pool"), st.sampled_from(["mean", "max", "last", None])) for n in range(5)),
    (("probes", 3, "sites"), st.sampled_from(["resid_mid", "q", "scores", "logits", "mlp_post"])),
    (("probes", 2, "einops"), st.fixed_dictionaries({"rearrange": EINOPS})),
    (("probes", 2, "einops"), st.fixed_dictionaries({"reduce": EINOPS, "op": st.just("norm")})),
    (("probes", 4, "k"), st.integers(0, 4000)),
    (("generate",), st.fixed_dictionaries({"max_new_tokens": st.integers(0, 70)})),
    (
        ("generate",),
        st.fixed_dictionaries(
            {"max_new_tokens": st.integers(1, 9)},
            optional={
                "samples": st.integers(0, 9),
                "beams": st.integers(0, 2000),
                "strategy": st.sampled_from(["greedy", "sample", "top_k"]),
            },
        ),
    ),
    (("execution_order",), st.sampled_from([True, False, "as_run"])),
    (("store", "shard_bytes"), st.integers(0, 5000)),
    (("store", "path"), WORDS | ODD_NAMES | LONG_TEXTS),
)


@st.composite
def plausible_trees(draw: Any) -> HostileConfig:
    tree = right()
    for path, values in draw(st.lists(st.sampled_from(PLAUSIBLE), min_size=1, max_size=3)):
        tree = with_value(tree, path, draw(values))
    return HostileConfig(text=written(tree))


COMBINED = st.fixed_dictionaries(
    {"max_new_tokens": st.integers(1, 5)},
    optional={
        "samples": st.integers(0, 9) | ABSURD_NUMBERS,
        "beams": st.integers(0, 20) | ABSURD_NUMBERS,
        "strategy": st.sampled_from(["greedy", "sample", "top_k"]),
    },
)


@st.composite
def other_inputs(draw: Any) -> HostileConfig:
    """Draw datasets, streams and long texts, as examples or as prompts."""
    tree = with_value(right(), ("inputs",), draw(DATASETS | LONG_INPUTS))
    if draw(st.integers(0, 3)) == 0:
        tree["generate"] = draw(COMBINED)
    return HostileConfig(text=written(tree))


@st.composite
def wrong_trees(draw: Any) -> HostileConfig:
    tree = right()
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(PATHS))
        kind = draw(st.integers(0, 5))
        if kind == 0:
            tree = with_value(tree, (*path[:-1], draw(ODD_NAMES)), 1)  # a key nobody knows
        elif kind == 1:
            tree = with_value(tree, ("probes", 0, "modules"), draw(GLOBS))
        elif kind == 2:
            tree = with_value(tree, ("probes", 0, "modules"), draw(MANY_GLOBS))
        elif kind == 3:
            tree = with_value(tree, path, draw(ABSURD_NUMBERS))
        else:
            tree = with_value(tree, path, draw(JUNK))
    return HostileConfig(text=written(tree, draw(st.booleans())))


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def written(tree: Any, wide: bool = False) -> bytes:
    text = yaml.dump(
        tree,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=wide,
        default_flow_style=None if wide else False,
    )
    return text.encode("utf-8", "surrogatepass")


# --- texts made to break a reader


def laughs(levels: int, fan: int) -> str:
    """Write lists of aliases of lists of aliases: fan ** levels values, if all are written out."""
    lines = ["l0: &l0 [x, x]"]
    for level in range(1, levels):
        lines.append(f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * fan)}]")
    return "\n".join([*lines, f"model: *l{levels - 1}", ""])


def merge_laughs(levels: int, fan: int) -> str:
    """The same with merge keys."""
    lines = ["m0: &m0 {a0: 1, b0: 2}"]
    for level in range(1, levels):
        merged = ", ".join([f"*m{level - 1}"] * fan)
        lines.append(f"m{level}: &m{level} {{<<: [{merged}], a{level}: 1}}")
    return "\n".join([*lines, f"model: *m{levels - 1}", ""])


TAGS = st.builds(
    lambda tag, value: f"model: {{name: {tag} {value}}}\n",
    st.sampled_from(
        [
            *("!!python/object/apply:os.system", "!!python/name:os.system", "!!python/tuple"),
            *("!!python/object/new:subprocess.Popen", "!!python/module:os", "!!binary", "!!set"),
            *(
                "!!python/object/apply:builtins.eval",
                "!custom",
                "!<tag:x>",
                "!!timestamp",
                "!!omap",
            ),
            *("!!str", "!!int", "!!float", "!", "!e!x", "!!" + "a" * 5000, "!\u202ex", "!!merge"),
        ]
    ),
    st.sampled_from(["['touch /tmp/hostile']", "x", "1", "{a: 1}", "aGk=", "&a *a", "", "'x'"]),
)
DEEP = st.builds(
    lambda opening, n, close: f"model: {opening * n}x{close * n}\n",
    st.sampled_from(["[", "{a: ", "[[", "- ", "? ", "[{a: ", "!!x ", "&a ", "'", '"', "| ", "{? "]),
    st.sampled_from([10, 49, 51, 500, 5000, 100_000]),
    st.sampled_from(["", "]", "}"]),
)
BLOCK_DEEP = st.builds(
    lambda n, mark: "".join(f"{' ' * i}{mark}\n" for i in range(n)),
    st.sampled_from([40, 60, 1000]),
    st.sampled_from(["a:", "-", "? a\n:"]),
)
BROAD = st.builds(
    lambda piece, n: "model: {name: sample:tiny-gpt2}\n" + piece * n,
    st.sampled_from(
        [
            *("x: 1\n", "model: 1\n", "? x\n", "- a\n", "---\n", "...\n", "#\n", "%YAML 1.2\n"),
            *(
                "&a x: *a\n",
                "'",
                '"',
                "{",
                "a: b: c\n",
                "\t",
                "\u2028",
                "\x85",
                "\r",
                "[a, ",
                "a b ",
            ),
        ]
    ),
    st.sampled_from([2, 100, 20_000]),
)
BIG_NUMBERS = st.builds(
    lambda sign, digit, n, end: f"seed: {sign}{digit * n}{end}\n",
    st.sampled_from(["", "-", "0x", "0o", "+", ".", "1e", "1_", "0b"]),
    st.sampled_from(["9", "0", "f", "1"]),
    st.sampled_from([1, 30, 41, 5000, 1_000_000]),
    st.sampled_from(["", ".", "e9", "e999999999", ":00", "_"]),
)
ESCAPES = st.builds(
    lambda where, what: f'model: {{name: {"" if where else "a, "}"{what}"}}\n',
    st.booleans(),
    st.sampled_from(
        [
            *("\\0", "\\x00", "\\e[2J", "\\u202e", "\\ud800", "\\U0010FFFF", "\\U00110000", "\\N"),
            *("\\UFFFFFFFF", "\\x9b31m", "\\", "\\z", "\\u12", "\\r\\n", "\\L\\P", "\\_" * 3000),
        ]
    ),
)
EXPANDING = st.one_of(
    st.builds(laughs, st.sampled_from([3, 9, 20]), st.sampled_from([2, 9, 100])),
    st.builds(merge_laughs, st.sampled_from([3, 9, 20]), st.sampled_from([2, 9, 100])),
    st.sampled_from(
        [
            "a: &a [*a]\n",
            "a: &a {<<: *a}\n",
            "a: &a {b: &b {<<: [*a, *b]}}\n",
            "x: &x [a]\ny: *x\nz: *missing\n",
            "<<: [1, 2]\n",
            "<<: {<<: {<<: {model: 1}}}\n",
        ]
    ),
)
ENCODED = st.builds(
    lambda text, code: text.encode(code, "surrogatepass"),
    st.sampled_from(["model: {name: x}\n", "seed: \u202e1\n", "model: \U0001f4a5\n"]),
    st.sampled_from(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7"]),
)
RAW = st.one_of(ENCODED, st.binary(max_size=60), st.binary(max_size=20).map(lambda b: b * 999))
TEXTS = st.one_of(TAGS, DEEP, BLOCK_DEEP, BROAD, BIG_NUMBERS, ESCAPES, EXPANDING)


@st.composite
def hostile_texts(draw: Any) -> HostileConfig:
    if draw(st.integers(0, 5)) == 0:
        return HostileConfig(text=draw(RAW))
    before = written(right()) if draw(st.booleans()) else b""
    return HostileConfig(text=before + draw(TEXTS).encode("utf-8", "surrogatepass"))


# --- right configs whose characters were changed


@st.composite
def changed_texts(draw: Any) -> HostileConfig:
    text = written(right(), draw(st.booleans())).decode()
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(text)))
        n = draw(st.sampled_from([0, 1, 1, 5, 40]))
        put = draw(
            st.one_of(
                st.text(alphabet=ODD_CHARACTERS + "[]{}:,-'\"&*!|>%@`#\n\t 0a", max_size=3),
                st.just(text[at : at + 30]),
                st.just(text[:at][-200:]),
            )
        )
        text = text[:at] + put + text[at + n :]
    return HostileConfig(text=text.encode("utf-8", "surrogatepass"))


# --- --set


KEYS = st.one_of(
    st.sampled_from(
        [
            *("model.name", "model.overrides.n_layer", "inputs.texts[0]", "probes[0].modules"),
            *("probes[9].modules", "probes[5].modules", "probes[0].layers[0]", "store.path"),
            *("seed", "model", "inputs.random.examples", "generate.max_new_tokens", "<<", "", "."),
            *(
                "a[999999]",
                "probes[-1]",
                "probes[0][0]",
                "model[name]",
                "inputs.texts[99999999999]",
            ),
            *("model.name.x", "probes[0].einops.rearrange", "x" * 5000, "a." * 3000 + "a"),
            *(
                "probes" + "[0]" * 2000,
                "model.overrides.\u202e",
                "\u202e",
                "\x1b[2J",
                "execution_order",
            ),
        ]
    ),
    ODD_NAMES,
)
SET_TEXTS = st.one_of(
    SCALARS.map(str),
    TAGS,
    DEEP,
    EXPANDING,
    BIG_NUMBERS,
    ESCAPES,
    st.sampled_from(["=", "a=b", "[", "{a: 1, a: 2}", "---\na\n---\nb", "# x", ""]),
)


@st.composite
def hostile_settings(draw: Any) -> HostileConfig:
    pairs = draw(
        st.lists(st.tuples(KEYS, st.sampled_from(["=", "=", "=", ""]), SET_TEXTS), max_size=4)
    )
    return HostileConfig(
        text=written(right()), settings=tuple(f"{key}{equals}{text}" for key, equals, text in pairs)
    )


HOSTILE_CONFIGS = st.one_of(
    *(plausible_trees(), plausible_trees(), wrong_trees(), wrong_trees(), other_inputs()),
    *(hostile_texts(), changed_texts(), hostile_settings()),
)
