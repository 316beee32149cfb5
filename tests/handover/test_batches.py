"""A trace as torch datasets: rows against the bits that were written, in every way to read them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_traces import Made, a_shard, site, write_trace
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

import probekit
from probekit.errors import StoreError
from probekit.handover.torch.batches import RowBatches
from probekit.trace.trace import Trace

LENGTHS = ((30, 1, 57), (20,), (44, 6, 13), (80, 31))  # 282 tokens
N_TOKENS = 282
SITES = (
    site("h.0", row_shape=(4,), dtype="bfloat16", portable="resid_post", layer=0),
    site("h.1", row_shape=(4,), portable="resid_post", layer=1),
    site("h.2", row_shape=(), dtype="float16"),
    site("h.0.attn", "pattern", row_shape=(2, 9), axes=("token", "head", "key")),
    site("h.3", dtype="int64", rows="0,-1"),
    site("h.4", rows="example", dtype="float64"),
    site("h.5", rows="example", dtype="bool"),
)
TORCH = {
    "h.0/output": torch.bfloat16,
    "h.1/output": torch.float32,
    "h.2/output": torch.float16,
    "h.0.attn/pattern": torch.float32,
    "h.3/output": torch.int64,
    "h.4/output": torch.float64,
    "h.5/output": torch.bool,
}
EVERY_TOKEN = ("h.0", "h.1", "h.2", "h.0.attn/pattern")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return write_trace(tmp_path_factory.mktemp("trace"), SITES, LENGTHS)


@pytest.fixture(scope="module")
def trace(made: Made) -> Trace:
    return probekit.open(made.folder)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else b""


def assert_rows(made: Made, batch: dict[str, torch.Tensor], rows: list[int]) -> None:
    for name, tensor in batch.items():
        if "/" in name:
            assert tensor.dtype == TORCH[name]
            wanted = made.bits[name][rows]
            assert tuple(tensor.shape) == wanted.shape
            assert tensor.view(torch.uint8).numpy().tobytes() == wanted.tobytes()


def tokens(batches: Any) -> list[int]:
    return [int(token) for batch in batches for token in batch["token"]]


def shuffled(trace: Trace, **given: Any) -> RowBatches:
    chosen = {"batch_size": 16, "shuffle": True, "buffer_rows": 64, "origin": True}
    return trace.dataset(EVERY_TOKEN, **{**chosen, **given})


# --- what a batch holds


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("compression", [None, "lzf"])
def test_a_batch_holds_the_bits_that_were_written(
    tmp_path: Path, shuffle: bool, compression: str | None
) -> None:
    made = write_trace(tmp_path, SITES, LENGTHS, compression=compression)
    dataset = shuffled(probekit.open(tmp_path), shuffle=shuffle)
    seen = []
    for batch in dataset:
        assert list(batch) == [
            *("h.0/output", "h.1/output", "h.2/output", "h.0.attn/pattern"),
            *("token", "token_id", "position", "example"),
        ]
        rows = batch["token"].tolist()
        assert_rows(made, batch, rows)
        seen += rows
    assert sorted(seen) == list(range(N_TOKENS))
    assert (seen == sorted(seen)) is not shuffle


def test_where_a_row_comes_from_is_what_the_tables_say(made: Made, trace: Trace) -> None:
    owners = [n for n, length in enumerate(made.n_tokens) for _ in range(length)]
    places = [p for length in made.n_tokens for p in range(length)]
    for batch in shuffled(trace):
        rows = batch["token"].tolist()
        assert batch["token_id"].tolist() == [made.token_ids[row] for row in rows]
        assert batch["example"].tolist() == [owners[row] for row in rows]
        assert batch["position"].tolist() == [places[row] for row in rows]
        assert all(batch[k].dtype == torch.int64 for k in ("token", "token_id", "position"))


def test_rows_at_some_positions_say_which_tokens_they_are(made: Made, trace: Trace) -> None:
    wanted = made.token_rows["0,-1"]
    (batch,) = trace.dataset("h.3", batch_size=1000, origin=True)
    assert batch["token"].tolist() == wanted
    assert_rows(made, batch, list(range(len(wanted))))
    (mixed,) = trace.dataset("h.3", batch_size=1000, origin=True, shuffle=True)
    assert mixed["token"].tolist() != wanted
    assert_rows(made, mixed, [wanted.index(token) for token in mixed["token"].tolist()])


def test_sites_with_a_row_an_example_say_the_example(made: Made, trace: Trace) -> None:
    (batch,) = trace.dataset(["h.4", "h.5"], batch_size=100, origin=True, shuffle=True)
    assert list(batch) == ["h.4/output", "h.5/output", "example"]
    assert sorted(batch["example"].tolist()) == list(range(9))
    assert_rows(made, batch, batch["example"].tolist())


def test_a_shard_alone_counts_from_its_own_start(made: Made) -> None:
    alone = probekit.open(made.shards[2].file)
    batches = list(shuffled(alone, batch_size=7))
    rows = tokens(batches)
    assert sorted(rows) == list(range(63))
    ids = [int(i) for batch in batches for i in batch["token_id"]]
    assert ids == [made.token_ids[108 + row] for row in rows]
    assert {int(e) for batch in batches for e in batch["example"]} == {0, 1, 2}


def test_a_batch_is_memory_of_its_own(trace: Trace) -> None:
    for shuffle in (False, True):
        dataset = trace.dataset("h.1", batch_size=64, shuffle=shuffle)
        before = [bits(batch["h.1/output"]) for batch in dataset]
        for batch in dataset:
            batch["h.1/output"].fill_(1.0)
        assert [bits(batch["h.1/output"]) for batch in dataset] == before


def test_only_the_rows_that_were_asked_for_come(made: Made, trace: Trace) -> None:
    later = np.array([p > 0 for length in made.n_tokens for p in range(length)])
    for rows in (later, np.flatnonzero(later)[::-1].copy()):
        batches = list(shuffled(trace, rows=rows))
        assert sorted(tokens(batches)) == np.flatnonzero(later).tolist()
        assert min(int(batch["position"].min()) for batch in batches) == 1
        for batch in batches:
            assert_rows(made, batch, batch["token"].tolist())


def test_a_pass_beside_a_later_one_stays_right(tmp_path: Path) -> None:
    made = write_trace(tmp_path, SITES, LENGTHS, compression="gzip")
    dataset = shuffled(probekit.open(tmp_path))
    early = iter(dataset)
    seen = [next(early)]
    assert len(list(dataset)) == len(dataset)
    seen += early
    assert sorted(tokens(seen)) == list(range(N_TOKENS))
    for batch in seen:
        assert_rows(made, batch, batch["token"].tolist())


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_shard_that_is_gone_is_an_error_and_no_gap(tmp_path: Path, n_workers: int) -> None:
    made = write_trace(tmp_path, SITES, LENGTHS)
    dataset = shuffled(probekit.open(tmp_path))
    made.shards[2].file.unlink()
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=n_workers,
        multiprocessing_context="fork" if n_workers else None,
    )
    with pytest.raises(StoreError, match=r"00002.h5: cannot be read: there is no such file"):
        list(loader)


def test_a_dataset_says_what_it_is(trace: Trace) -> None:
    assert repr(trace.dataset("resid_post", batch_size=100, shuffle=True)) == (
        "<RowBatches of h.0/output, h.1/output: 282 rows, 3 batches of 100, shuffled>"
    )
    assert repr(trace.map_dataset("h.4")) == "<RowItems of h.4/output: 9 rows>"


# --- workers and processes


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")  # on two cores
@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_batches_in_the_same_order(
    trace: Trace, n_workers: int
) -> None:
    dataset = shuffled(trace)
    wanted = [{k: bits(v) for k, v in batch.items()} for batch in dataset]
    loader = DataLoader(
        dataset, batch_size=None, num_workers=n_workers, multiprocessing_context="fork"
    )
    assert len(loader) == len(wanted)
    assert [{k: bits(v) for k, v in batch.items()} for batch in loader] == wanted


def test_a_spawned_worker_opens_the_files_itself(trace: Trace) -> None:
    dataset = shuffled(trace)
    next(iter(dataset))  # so that files are open here
    wanted = tokens(dataset)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert tokens(loader) == wanted


def test_a_new_epoch_reaches_workers_that_live_on(trace: Trace) -> None:
    dataset = shuffled(trace)
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        persistent_workers=True,
    )
    orders = []
    for epoch in (0, 1, 5, 0):
        dataset.set_epoch(epoch)
        orders.append(tokens(loader))
        assert sorted(orders[-1]) == list(range(N_TOKENS))
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3


def test_a_collate_function_makes_what_a_trainer_wants(made: Made, trace: Trace) -> None:
    dataset = trace.dataset("resid_post", batch_size=64)
    one = DataLoader(dataset, batch_size=None, collate_fn=itemgetter("h.1/output"))
    rows = torch.cat(list(one))
    assert rows.numpy().tobytes() == made.bits["h.1/output"].tobytes()
    crosscoder = DataLoader(
        dataset,
        batch_size=None,
        collate_fn=lambda b: torch.stack([t.float() for t in b.values()], 1),
    )
    assert next(iter(crosscoder)).shape == (64, 2, 4)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("n_workers", [0, 2])
def test_every_row_comes_once_over_workers_and_processes(
    trace: Trace, world_size: int, n_workers: int
) -> None:
    counts: Counter[int] = Counter()
    lengths = set()
    for rank in range(world_size):
        dataset = shuffled(trace, rank=rank, world_size=world_size)
        loader = DataLoader(
            dataset,
            batch_size=None,
            num_workers=n_workers,
            multiprocessing_context="fork" if n_workers else None,
        )
        batches = list(loader)
        lengths.add((len(batches), len(dataset)))
        counts.update(tokens(batches))
    assert counts == Counter(range(N_TOKENS))
    assert len(lengths) == 1


DISTRIBUTED = """
import sys, torch, probekit
rank, store, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
dataset = probekit.open(folder).dataset("h.1", batch_size=16, shuffle=True, origin=True)
print(*[int(token) for batch in dataset for token in batch["token"]])
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_of_torch_distributed_share_the_rows(made: Made, tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                DISTRIBUTED,
                str(rank),
                str(tmp_path / "store"),
                str(made.folder),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    shares = [set(map(int, process.communicate()[0].split())) for process in running]
    assert shares[0] | shares[1] == set(range(N_TOKENS))
    assert not shares[0] & shares[1]
    assert {len(share) for share in shares} == {N_TOKENS // 2}


# --- going on in the middle of an epoch


def test_a_state_goes_on_where_it_was_taken(trace: Trace) -> None:
    dataset = shuffled(trace)
    dataset.set_epoch(3)
    wanted = tokens(dataset)
    for n_taken in (0, 1, 7, len(dataset)):
        passing = iter(dataset)
        taken = [next(passing) for _ in range(n_taken)]
        state = pickle.loads(pickle.dumps(dataset.state_dict()))
        again = shuffled(trace)
        again.load_state_dict(state)
        assert again.state_dict() == state
        again.set_epoch(3)  # the epoch it is: changes nothing
        assert tokens(taken) + tokens(again) == wanted
        assert tokens(again) == wanted  # a later pass begins at the beginning


def test_another_epoch_begins_at_its_beginning(trace: Trace) -> None:
    dataset = shuffled(trace)
    passing = iter(dataset)
    next(passing)
    again = shuffled(trace)
    again.load_state_dict(dataset.state_dict())
    again.set_epoch(1)
    assert sorted(tokens(again)) == list(range(N_TOKENS))


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_go_on_where_a_state_says_and_only_once(trace: Trace, persistent: bool) -> None:
    dataset = shuffled(trace)
    wanted = tokens(dataset)
    state = dataset.state_dict(batch=5)
    again = shuffled(trace)
    again.load_state_dict(state)
    loader = DataLoader(
        again,
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        persistent_workers=persistent,
    )
    assert tokens(loader) == wanted[5 * 16 :]
    assert tokens(loader) == wanted
    again.load_state_dict(state)  # workers may be there already
    assert tokens(loader) == wanted[5 * 16 :]
    assert tokens(loader) == wanted


def test_what_workers_went_on_with_the_process_itself_does_not(trace: Trace) -> None:
    dataset = shuffled(trace)
    wanted = tokens(dataset)
    dataset.load_state_dict(dataset.state_dict(batch=5))
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
    assert tokens(loader) == wanted[5 * 16 :]
    assert tokens(dataset) == wanted
    dataset.load_state_dict(dataset.state_dict(batch=5))
    assert tokens(dataset) == wanted[5 * 16 :]
    assert tokens(loader) == wanted


def test_what_workers_gave_only_the_caller_knows(trace: Trace) -> None:
    dataset = shuffled(trace)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
    next(iter(loader))
    with pytest.raises(StoreError, match=r"say how many of this epoch you took, state_dict\(batch"):
        dataset.state_dict()
    assert dataset.state_dict(batch=1)["batch"] == 1


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 on torch 2.13
@pytest.mark.parametrize("n_workers", [0, 2])
def test_torchs_stateful_loader_goes_on(trace: Trace, n_workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader() -> Any:
        return stateful.StatefulDataLoader(
            shuffled(trace),
            batch_size=None,
            num_workers=n_workers,
            multiprocessing_context="fork" if n_workers else None,
        )

    wanted = tokens(loader())
    first = loader()
    passing = iter(first)
    taken = [next(passing) for _ in range(7)]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    again = loader()
    again.load_state_dict(state)
    assert tokens(taken) + tokens(again) == wanted
    assert tokens(again) == wanted


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, "seed: was 0, is 1"),
        ({"batch_size": 8}, "batch_size: was 16, is 8"),
        ({"rank": 0, "world_size": 2}, "world_size: was 1, is 2"),
        ({"shuffle": False}, "shuffle: was True, is False"),
        ({"rows": np.arange(280)}, "n_rows: was 282, is 280"),
    ],
)
def test_a_state_of_another_order_is_refused(
    trace: Trace, change: dict[str, Any], says: str
) -> None:
    state = shuffled(trace).state_dict()
    with pytest.raises(StoreError, match=f"batches in another order.*{says}"):
        shuffled(trace, **change).load_state_dict(state)


def test_a_state_that_is_none_is_refused(trace: Trace) -> None:
    with pytest.raises(
        StoreError, match="expected what `state_dict` gave, given a mapping of step"
    ):
        shuffled(trace).load_state_dict({"step": 3})


def test_other_rows_of_the_same_number_are_another_order(trace: Trace) -> None:
    state = shuffled(trace, rows=np.arange(100)).state_dict()
    with pytest.raises(StoreError, match=r"rows: was [0-9a-f]{16}, is [0-9a-f]{16}"):
        shuffled(trace, rows=np.arange(1, 101)).load_state_dict(state)


def test_an_order_that_numpy_draws_differently_is_noticed(trace: Trace) -> None:
    state = {**shuffled(trace).state_dict(), "order": "0" * 16}
    with pytest.raises(StoreError, match="order: was 0000000000000000, is "):
        shuffled(trace).load_state_dict(state)


# --- any row by its number


def test_a_row_by_its_number(made: Made, trace: Trace) -> None:
    data = trace.map_dataset(EVERY_TOKEN, origin=True)
    assert len(data) == N_TOKENS
    for key in (0, 281, -1, np.int64(7)):
        row = data[key]
        number = int(key) % N_TOKENS
        assert int(row["token"]) == number
        assert_rows(made, {k: v[None] for k, v in row.items()}, [number])
    for key in ([5, 200, 5], slice(100, 20, -3), np.array([-1, 0])):
        rows = np.arange(N_TOKENS)[key]
        assert_rows(made, data[key], [int(r) for r in rows])
    assert data[[]]["h.0/output"].shape == (0, 4)


@pytest.mark.parametrize("key", [282, -283, [0, 282]])
def test_a_row_out_of_range_is_an_index_error(trace: Trace, key: Any) -> None:
    with pytest.raises(IndexError, match="out of range: there are 282"):
        trace.map_dataset("h.1")[key]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_torchs_samplers_work(made: Made, trace: Trace, n_workers: int) -> None:
    data = trace.map_dataset(["h.0", "h.1"], origin=True)
    context = "fork" if n_workers else None
    ways: Iterator[Any] = iter(
        (
            DataLoader(
                data,
                batch_size=16,
                shuffle=True,
                num_workers=n_workers,
                multiprocessing_context=context,
            ),
            DataLoader(
                data,
                batch_size=None,
                sampler=BatchSampler(RandomSampler(data), 16, False),
                num_workers=n_workers,
                multiprocessing_context=context,
            ),
        )
    )
    for loader in ways:
        seen = []
        for batch in loader:
            assert_rows(made, batch, batch["token"].tolist())
            seen += batch["token"].tolist()
        assert sorted(seen) == list(range(N_TOKENS))
        assert seen != sorted(seen)


def test_rows_of_a_map_can_be_chosen(made: Made, trace: Trace) -> None:
    data = trace.map_dataset("h.1", rows=np.array([9, 3, 200]))
    assert len(data) == 3
    assert_rows(made, data[:], [3, 9, 200])


# --- files


def n_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks /proc for open files")
def test_maps_hold_no_file_open(made: Made) -> None:
    trace = probekit.open(made.folder)
    before = n_open()
    dataset = shuffled(trace)
    passing = iter(dataset)
    next(passing)
    assert n_open() <= before + 1  # the memory that it shares with workers


def test_an_empty_site_is_refused(tmp_path: Path) -> None:
    shard = a_shard(tmp_path, [site("h.0", rows="90:")]).write()
    with pytest.raises(StoreError, match="there are 0 rows for 1 process"):
        probekit.open(shard.file).dataset("h.0", batch_size=4)
