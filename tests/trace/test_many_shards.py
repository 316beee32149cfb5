"""A trace of many shards: every number, and how few files it takes to read one example."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tiny_traces import Made, forget_checksums, same_bits, site, write_trace

import probekit
from probekit.errors import StoreError
from probekit.store import sealed_damages
from probekit.store.format.schema import RUN_FILE
from probekit.trace import summarize_trace

Array = np.ndarray[Any, Any]

FEW, MANY = 3, 70  # shards; an index over more than 64 says how many rows each of them has
SITES = (
    site("h.0", dtype="bfloat16", row_shape=(4,)),
    site("h.1", row_shape=(), dtype="int64"),
    site("h.2", rows="last"),
    site("h.3", rows="3:"),  # some shards have no rows of it
    site("h.4", rows="example", dtype="float64"),
    site("h.5", rows="90:"),  # no shard has
    site("h.6", row_shape=(0,)),
)
NAMES = [s.name for s in SITES]


def lengths_of(n_shards: int) -> list[list[int]]:
    """Give the tokens of each example of each shard; of the second it is 1, so that 3: is empty."""
    return [[1, 2] if n == 1 else [3 + n % 4, 1, 5][: 1 + n % 3] for n in range(n_shards)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Made]:
    return {
        n: write_trace(tmp_path_factory.mktemp("trace"), SITES, lengths_of(n)) for n in (FEW, MANY)
    }


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the HDF5 files that are opened, by name."""
    found: Counter[str] = Counter()
    own = h5py.File.__init__

    def counted(self: Any, name: Any, *more: Any, **named: Any) -> None:
        found[Path(name).name if isinstance(name, str | Path) else "in memory"] += 1
        own(self, name, *more, **named)

    monkeypatch.setattr(h5py.File, "__init__", counted)
    return found


def shards_in(opened: Counter[str]) -> dict[str, int]:
    return {name: n for name, n in opened.items() if name not in ("trace.h5", "in memory")}


def one_example(trace: probekit.Trace, number: int) -> None:
    assert trace.examples[number].number == number
    for name in NAMES[:-1]:  # of rows without values a small index holds all itself
        trace[name].example(number)


# --- every number


def test_every_row_is_what_was_written(made: dict[int, Made]) -> None:
    trace = probekit.open(made[MANY].folder)
    for name in NAMES:
        wanted = made[MANY].wanted(name)
        assert trace[name].shape == wanted.shape
        assert same_bits(trace[name][:], wanted)
        assert same_bits(trace[name].raw(slice(5, 150, 3)), made[MANY].bits[name][5:150:3])
        if len(wanted):
            rows = [len(wanted) - 1, 0, len(wanted) // 2, -1]
            assert same_bits(probekit.open(made[MANY].folder)[name][rows], wanted[rows])


def test_every_example_has_its_own_rows_whichever_is_read_first(made: dict[int, Made]) -> None:
    known = made[MANY]
    trace = probekit.open(known.folder)
    assert len(trace.examples) == len(known.ids)
    for number in reversed(range(len(known.ids))):
        own, found = known.tokens_of(number), trace.examples[number]
        assert (found.id, found.text) == (known.ids[number], known.texts[number])
        assert (found.first_token, found.n_tokens) == (own.start, len(own))
        assert found.token_ids.tolist() == known.token_ids[own.start : own.stop]
        assert same_bits(trace["h.0"].example(number), known.wanted("h.0/output")[own])
        for name in ("h.2", "h.3", "h.5"):
            places = np.array(known.token_rows[trace[name].rows], dtype=np.int64)
            rows = np.isin(places, own)
            assert same_bits(trace[name].example(number), known.wanted(f"{name}/output")[rows])
        assert same_bits(
            np.asarray(trace["h.4"].example(number)), known.wanted("h.4/output")[number]
        )


def test_tables_are_those_of_the_whole_run(made: dict[int, Made]) -> None:
    known = made[MANY]
    trace = probekit.open(known.folder)
    assert trace.tokens.id[:].tolist() == known.token_ids
    owners = [n for n, n_tokens in enumerate(known.n_tokens) for _ in range(n_tokens)]
    assert trace.tokens.example[:].tolist() == owners
    assert trace.tokens[100].example == owners[100]
    assert trace.examples.n_tokens.tolist() == known.n_tokens
    assert [*trace.examples.texts()] == known.texts
    assert trace.examples.text[[70, 3]].tolist() == [known.texts[70], known.texts[3]]
    assert trace["h.2"].axis_rows().tolist() == known.token_rows["last"]


def test_a_summary_of_many_shards_says_the_shapes(made: dict[int, Made]) -> None:
    found = {s["name"]: s for s in summarize_trace(probekit.open(made[MANY].folder))["sites"]}
    for name in NAMES:
        assert found[name]["shape"] == [*made[MANY].bits[name].shape]
        assert found[name]["bytes"] == made[MANY].bits[name].nbytes


def test_bare_h5py_reads_the_same_through_the_index(made: dict[int, Made]) -> None:
    with h5py.File(made[MANY].folder / "trace.h5") as file:
        for name in NAMES:
            wanted = made[MANY].wanted(name)
            found = file[f"sites/{name}"][()]
            assert np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f")


# --- few files


@pytest.mark.parametrize(
    ("use", "n_files"),
    [
        (lambda trace: len(trace.examples), 0),
        (lambda trace: summarize_trace(trace), 0),
        (lambda trace: [trace[name].shape for name in NAMES], 0),
        (lambda trace: one_example(trace, 2), 1),
        (lambda trace: trace.tokens[6], 1),
        (lambda trace: trace["h.0"][4:6], 1),
        (lambda trace: trace.context(2), 1),
    ],
)
def test_as_many_files_are_opened_of_few_shards_as_of_many(
    made: dict[int, Made], opened: Counter[str], use: Callable[[Any], Any], n_files: int
) -> None:
    counts = []
    for n_shards in (FEW, MANY):
        opened.clear()
        use(probekit.open(made[n_shards].folder))
        counts.append(shards_in(opened))
    assert counts[0] == counts[1]
    assert len(counts[0]) == n_files


@pytest.mark.parametrize("n_shards", [FEW, MANY])
def test_an_index_is_made_with_each_shard_opened_once(
    tmp_path: Path, opened: Counter[str], n_shards: int
) -> None:
    own = probekit.store.writing.index.build_index
    before = write_trace(tmp_path, SITES, lengths_of(n_shards))
    opened.clear()
    own(tmp_path, [s.spec for s in before.shards], SITES, {"probekit_format": 1}, None)
    assert shards_in(opened) == {f"{n:05d}.h5": 1 for n in range(n_shards)}


@pytest.mark.parametrize("n_shards", [FEW, MANY])
def test_a_run_that_goes_on_reads_each_record_once_and_opens_no_shard(
    tmp_path: Path, opened: Counter[str], monkeypatch: pytest.MonkeyPatch, n_shards: int
) -> None:
    write_trace(tmp_path, SITES[:1], lengths_of(n_shards))
    (tmp_path / RUN_FILE).unlink(missing_ok=True)
    read: Counter[str] = Counter()
    own = Path.read_bytes

    def counted(path: Path) -> bytes:
        read[path.name] += 1
        return own(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    opened.clear()
    assert {d.file for d in sealed_damages(tmp_path, sums=False)} == {RUN_FILE}
    assert not opened
    assert {n: read[f"{n:05d}.json"] for n in range(n_shards)} == dict.fromkeys(range(n_shards), 1)


ALL_ROWS = """
import os, resource, sys
import probekit
site = probekit.open(sys.argv[1])["m"]
site[:1]
n_open = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + 80, n_open + 80))
print(len(site[:]), len(site[::-1]), len(site[::2]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files as Linux tells them")
def test_rows_of_many_shards_keep_few_files_open(tmp_path: Path) -> None:
    write_trace(tmp_path, [site("m")], [[1]] * 150)
    read = subprocess.run(
        [sys.executable, "-c", ALL_ROWS, str(tmp_path)], capture_output=True, check=True, text=True
    )
    assert read.stdout.split() == ["150", "150", "75"]


# --- the table


def test_only_an_index_over_more_than_64_shards_has_a_table_of_them(tmp_path: Path) -> None:
    for n_shards in (64, 65):
        write_trace(tmp_path / str(n_shards), [site("m")], [[1]] * n_shards)
    with (
        h5py.File(tmp_path / "64" / "trace.h5") as few,
        h5py.File(tmp_path / "65/trace.h5") as many,
    ):
        assert "shards" not in few
        assert few["sites/m/output"].attrs.keys() == many["sites/m/output"].attrs.keys() - {
            "row_shape"
        }
        assert {name: table[:].tolist() for name, table in many["shards"].items()} == {
            "all": [1] * 65,
            "example": [1] * 65,
        }
        assert many["shards/all"].dims[0][0].name == "/shard"


def test_the_table_counts_the_rows_of_each_shard(made: dict[int, Made]) -> None:
    with h5py.File(made[MANY].folder / "trace.h5") as file:
        found = {rows: table[:].tolist() for rows, table in file["shards"].items()}
    lengths = lengths_of(MANY)
    assert found["all"] == [sum(n) for n in lengths]
    assert found["example"] == found["last"] == [len(n) for n in lengths]
    assert found["3:"] == [sum(max(0, n - 3) for n in of_shard) for of_shard in lengths]
    assert found["90:"] == [0] * MANY


@pytest.fixture
def copy(made: dict[int, Made], tmp_path: Path) -> Path:
    folder = shutil.copytree(made[MANY].folder, tmp_path / "copy")
    forget_checksums(folder)
    return Path(folder)


@pytest.mark.parametrize(
    ("rows", "counts", "said"),
    [
        ("all", [1] * MANY, "do not fit together"),
        ("all", [-1] * MANY, "does not say which rows shards have"),
        ("example", [2] * (MANY + 1), "does not say which rows shards have"),
        ("example", [0] * MANY, "out of range"),
    ],
)
def test_a_table_that_says_otherwise_is_refused(
    copy: Path, rows: str, counts: list[int], said: str
) -> None:
    with h5py.File(copy / "trace.h5", "r+") as file:
        del file[f"shards/{rows}"]
        file[f"shards/{rows}"] = counts
    with pytest.raises((StoreError, IndexError), match=said):
        probekit.open(copy).examples[2]


def test_a_table_without_the_rows_of_a_site_is_refused(copy: Path) -> None:
    with h5py.File(copy / "trace.h5", "r+") as file:
        del file["shards/last"]
    with pytest.raises(StoreError, match=r"no shard is said to have rows of it \(last\)"):
        probekit.open(copy)["h.2"]


def test_a_shard_that_links_elsewhere_is_refused(copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / "shards" / "00002.h5", tmp_path / "elsewhere.h5")
    (copy / "shards" / "00002.h5").symlink_to(tmp_path / "elsewhere.h5")
    trace = probekit.open(copy)
    assert len(trace["h.0"].example(0)) == 3
    example = sum(len(n) for n in lengths_of(2))
    with pytest.raises(StoreError, match="is a link that points outside the trace"):
        trace["h.0"].example(example)
    with pytest.raises(StoreError, match="is a link that points outside the trace"):
        trace.examples.text[example]


def test_a_site_whose_shape_is_not_its_shards_is_refused(copy: Path) -> None:
    with h5py.File(copy / "trace.h5", "r+") as file:
        file["sites/h.0/output"].attrs["row_shape"] = [3]
    with pytest.raises(StoreError, match=r"is \[3, 4\] bfloat16; the index says \[3, 3\]"):
        probekit.open(copy)["h.0"].example(0)


# --- what is generated, of which no shard knows how much came before


def test_generated_tokens_are_counted_over_the_whole_run(tmp_path: Path) -> None:
    """Against the shards themselves, each read by bare h5py and laid end to end."""
    config = {
        "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
        "inputs": {"texts": [f"Cats are {n}" for n in range(66)]},
        "generate": {"max_new_tokens": 2},
        "probes": [
            {"modules": "transformer.h.1"},
            {"modules": "transformer.h.0", "positions": "last"},
        ],
        "store": {"path": str(tmp_path / "run"), "shard_bytes": 1},
    }
    trace = probekit.run(config)
    assert trace.provenance["n_shards"] == 66
    counts, rows, last = [], [], []
    for number in range(66):
        with h5py.File(tmp_path / "run" / "shards" / f"{number:05d}.h5") as shard:
            counts += shard["examples/n_tokens"][:].tolist()
            rows.append(shard["sites/transformer.h.1/output"][:])
            last.append(shard["sites/transformer.h.0/output"][:])
    ends = [0, *np.cumsum(counts).tolist()]
    assert trace.examples.first_token.tolist() == ends[:-1]
    assert trace.tokens.example[:].tolist() == np.repeat(np.arange(66), counts).tolist()
    for number in (65, 0, 31):
        found = probekit.open(tmp_path / "run")
        assert found.examples[number].first_token == ends[number]
        assert same_bits(found["transformer.h.1"].example(number), rows[number])
        assert same_bits(found["transformer.h.0"].example(number), last[number])
    for (begin, end), own in zip(pairwise(ends), rows, strict=True):
        assert same_bits(trace["transformer.h.1"][begin:end], own)


@pytest.mark.parametrize("positions", ["8:", {"match": " is", "missing": "skip"}], ids=str)
def test_rows_of_documents_are_the_same_however_the_run_is_cut(
    tmp_path: Path, positions: Any
) -> None:
    """Also where a piece has no row of those that are kept, in a shard of its own."""
    words = "one two three four five six seven eight nine ten eleven twelve thirteen"
    texts = [f"is {words}", f"{words} a is b", f"red is {words} is", f"{words} red red is two is"]
    found = {}
    for shard_bytes in (1 << 30, 1):
        folder = tmp_path / str(shard_bytes)
        given = {
            "model": {"name": "sample:tiny-gpt2", "device": "cpu"},
            "inputs": {"texts": texts, "max_tokens": 16, "too_long": "split"},
            "probes": [{"modules": "transformer.h.0", "positions": positions}],
            "store": {"path": str(folder), "shard_bytes": shard_bytes},
        }
        trace = probekit.run(given)
        site = trace["transformer.h.0"]
        found[trace.provenance["n_shards"] > 1] = [
            [trace.documents.rows_of(site, n).tolist() for n in range(len(texts))],
            [site.rows_of(n) for n in range(len(trace.examples))],
        ]
    assert found[True] == found[False]
    rows = found[True][0]
    assert sum(map(len, rows)) > 4
    assert all(one == sorted(one) for one in rows)


def test_an_axis_of_the_users_may_be_called_shards(tmp_path: Path) -> None:
    write_trace(tmp_path, (site("h.0", row_shape=(4,), axes=("token", "shards")),), [[3, 1]] * 3)
    assert probekit.open(tmp_path)["h.0/output"].axes == ("token", "shards")


def test_a_slice_over_many_shards_is_put_together_once(made: dict[int, Made]) -> None:
    trace = probekit.open(made[70].folder)
    site = trace[made[70].sites[0].name]
    wanted = np.concatenate([site[n : n + 1] for n in range(len(site))])
    assert same_bits(site[:], wanted)
    assert same_bits(site[::-3], wanted[::-3])
    assert same_bits(site[2:-1, ..., 0], wanted[2:-1, ..., 0])
