"""Datasets and long texts that nobody means well with: files, and what a config says of them.

Nothing here imports probekit.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from campaigns.hostile_values import ABSURD_NUMBERS, JUNK, ODD_NAMES, READ_TEXTS, WORDS

_ROWS: tuple[dict[str, Any], ...] = (
    {"text": "The capital of Japan is", "label": 1, "ids": [1, 2, 3]},
    {"text": "Cats are animals. " * 30, "label": 2, "ids": [5] * 40},
)


def _lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


FILES: dict[str, bytes] = {
    "rows.jsonl": _lines(*_ROWS),
    "more[1].jsonl": _lines(*_ROWS, *_ROWS),
    "rows.csv": b'text,label\nCats are,1\n"a,b",2\n',
    "rows.txt": b"The capital of Japan is\n\nCats are animals\n",
    "torn.jsonl": _lines(*_ROWS)[:-9],
    "torn later.jsonl": _lines(*_ROWS * 400) + b'{"text": ',
    "other types.jsonl": _lines({"text": 5}, {"text": "a"}, {"text": None}, {"text": ["a"]}),
    "no mappings.jsonl": _lines(1, "a", None, [1]),
    "other fields.jsonl": _lines({"text": "a"}, {"body": "b"}, {"text": "c", "label": {"x": 1}}),
    "odd fields.jsonl": _lines({"text": "a\u202e\x1b[2J\0", "\u202e": 1, "": 2, "a/b": 3}),
    "empty.jsonl": b"",
    "blank.jsonl": b"\n\n\n",
    # At some ten thousand levels Arrow's reader runs out of its stack, and the process ends.
    "deep.jsonl": b'{"text": ' + b"[" * 3000 + b"]" * 3000 + b"}\n",
    "long number.jsonl": b'{"text": "a", "n": ' + b"9" * 5000 + b"}\n",
    "no text.jsonl": b'{"text": "\xff\xfe\xfd"}\n',
    "utf-16.jsonl": _lines(*_ROWS).decode().encode("utf-16"),
    "one line.jsonl": _lines({"text": "a " * 200_000}),
    "a header.csv": b"text,label\n",
    "two headers.csv": b"text,text,text\na,b,c\n",
    "ragged.csv": b'text,label\na\nb,1,2,3\n"c',
    "no bytes.csv": b"text\n\0\0\0\n",
    "noise.parquet": random.Random(0).randbytes(3000),
    "a signature.parquet": b"PAR1" + bytes(90) + b"\xff\xff\xff\x7fPAR1",
    "\u202eodd\x1b.jsonl": _lines(*_ROWS),
}


def write_files(folder: Path) -> None:
    """Write the files that configs here name, each where the campaign's configs lie."""
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "folder.jsonl").mkdir()
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_bytes(FILES["rows.jsonl"])


_PATH = (
    st.sampled_from([*FILES])
    | st.sampled_from([*FILES])
    | st.sampled_from(
        [
            *("*.jsonl", "*.csv", "*", "**", "[", "[!a]*.jsonl", "more[1].jsonl", "{a,b}", "r*.j*"),
            *("none*.jsonl", "no.jsonl", "folder.jsonl", ".", "..", "data", "data/*", "./rows.csv"),
            *("/dev/zero", "/dev/stdin", "/proc/self/mem", "/proc/self/environ", "~/x", "~root/*"),
            *("http://127.0.0.1:9/x", "s3://a/b", "hf://datasets/a/b", "zip://a::b.zip", "x://y"),
            *("file:///etc/passwd", "ftp://127.0.0.1:9/x", "https://", "://", "a::b", "a" * 300),
        ]
    )
    | ODD_NAMES
    | WORDS
)
_FILES = st.one_of(
    *(_PATH, _PATH, _PATH, st.lists(_PATH, max_size=3)),
    st.dictionaries(st.sampled_from(["train", "test", "train[:1]", "a+b", ""]) | WORDS, _PATH),
    JUNK,
)
_SPLITS = st.sampled_from(
    ["train", "train", "test", "all", "train[:1]", "train[:-1]", "train[5%:]", "train+train", "["]
)
_HERE = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["json", "json", "csv", "text", "parquet"]),
        "data_files": _FILES,
    },
    optional={"streaming": st.booleans() | st.booleans() | WORDS, "split": _SPLITS | WORDS},
)
_NAMED = st.fixed_dictionaries(
    {"name": st.sampled_from(["jsonl", "data", ".", "a/b", "imdb", "rows.jsonl", "x.py"]) | WORDS},
    optional={
        "data_files": _FILES,
        "streaming": st.booleans(),
        "split": _SPLITS,
        "subset": WORDS | ODD_NAMES,
        "revision": WORDS,
    },
)
_READ: dict[str, Any] = {
    "field": st.sampled_from(["text", "body", "label", ""]) | WORDS,
    "columns": st.just("all") | st.lists(st.sampled_from(["label", "text", "\u202e", "ids"])),
    "limit": st.integers(-1, 5) | ABSURD_NUMBERS,
    "max_tokens": st.integers(0, 70),
}
_SPLIT: dict[str, Any] = {
    "too_long": st.sampled_from(["split", "split", "truncate", "error"]) | WORDS,
    "stride": st.integers(-1, 70) | ABSURD_NUMBERS,
    "special_tokens": st.sampled_from(["auto", "none", "bos"]),
}
_RIGHT: dict[str, Any] = {
    "limit": st.integers(1, 5),
    "max_tokens": st.integers(8, 70),
    "too_long": st.sampled_from(["split", "split", "truncate"]),
    "columns": st.just("all") | st.just(["label"]),
}
_RIGHT_ROWS = st.fixed_dictionaries(
    {
        "name": st.just("json"),
        "data_files": st.sampled_from(["rows.jsonl", "more[1].jsonl", "r*.jsonl", "data/*"])
        | st.just({"train": ["rows.jsonl", "more[1].jsonl"]}),
    },
    optional={"streaming": st.booleans(), "split": st.just("train")},
)
DATASETS = st.one_of(
    *[st.fixed_dictionaries({"dataset": _RIGHT_ROWS}, optional=_RIGHT)] * 2,
    st.fixed_dictionaries({"dataset": _HERE}, optional=_READ | _SPLIT),
    st.fixed_dictionaries(
        {"dataset": _HERE | _NAMED},
        optional={**_READ, "tokens": st.sampled_from(["ids", "text", "label"])},
    ),
)
LONG_INPUTS = st.one_of(
    *[
        st.fixed_dictionaries(
            {
                "texts": st.lists(READ_TEXTS.filter(str.strip), min_size=1, max_size=3),
                "too_long": st.just("split"),
                "max_tokens": st.integers(8, 200),
            },
            optional={"stride": st.integers(1, 7), "limit": st.integers(1, 3)},
        )
    ]
    * 2,
    st.fixed_dictionaries(
        {"texts": st.lists(READ_TEXTS | WORDS, min_size=1, max_size=3)},
        optional={**_SPLIT, "max_tokens": st.integers(0, 70), "limit": st.integers(0, 3)},
    ),
    st.fixed_dictionaries(
        {"file": st.sampled_from([name for name in FILES if name.endswith((".jsonl", ".csv"))])},
        optional=_READ | _SPLIT,
    ),
)
