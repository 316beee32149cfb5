"""What a run leaves on disk, against hand-written hooks on the same batches."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import by_hand
import h5py
import numpy as np
import pytest
import tiny_models as tiny
import torch
from by_hand import EXAMPLES, N_TOKENS, Joined
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
)

import probekit
from probekit import models
from probekit.errors import CaptureError, PlanError, StoreError

EVERYTHING = [{"modules": "**", "record": ["output", "input"]}]
MLP = [{"modules": "transformer.h.*.mlp.act"}]
go = partial(probekit.run, self_check=False)  # tests/capture/test_selfcheck.py has it


@dataclass
class Captured:
    """A run over a model, and what hand-written hooks saw of the same model."""

    folder: Path  # of the trace
    padded: Joined  # on the very batches that probekit makes
    alone: Joined  # on one unpadded example at a time

    @property
    def index(self) -> Path:
        return self.folder / "trace.h5"

    @property
    def names(self) -> set[str]:
        return set(self.padded.layouts)


def capture(folder: Path, model: Any, **more: Any) -> Captured:
    """Record everything of a saved model, and watch it by hand on the same examples."""
    source = by_hand.save_model(folder / "model", model)
    probekit.run(by_hand.config(source, folder / "trace", probes=EVERYTHING, **more))
    dtype = getattr(torch, more.get("model__dtype", "float32"))
    plain = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    padded = by_hand.watch_batches(plain)
    alone = by_hand.watch_alone(plain, padded.layouts)
    return Captured(folder=folder / "trace", padded=padded, alone=alone)


@pytest.fixture(scope="module", params=tiny.by_family())
def captured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return capture(tmp_path_factory.mktemp(request.param), tiny.build(request.param))


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def captured_bfloat16(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Captured:
    folder = tmp_path_factory.mktemp(request.param)
    return capture(folder, tiny.build(request.param), model__dtype="bfloat16")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return by_hand.save_tiny(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.fixture(scope="module")
def gpt2_rows(gpt2: Path) -> Joined:
    """What hand-written hooks see of the tiny GPT-2, in float32, on probekit's batches."""
    return by_hand.watch_batches(AutoModelForCausalLM.from_pretrained(gpt2))


@pytest.fixture(scope="module")
def mlp(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `MLP`, to be read."""
    folder = tmp_path_factory.mktemp("mlp") / "t"
    go(by_hand.config(gpt2, folder, probes=MLP, seed=3))
    return folder


@pytest.fixture
def mlp_again(mlp: Path, gpt2: Path, tmp_path: Path) -> dict[str, Any]:
    """The config of a finished run of `MLP` in `tmp_path / "t"`, to be changed."""
    shutil.copytree(mlp, tmp_path / "t")
    return by_hand.config(gpt2, tmp_path / "t", probes=MLP, seed=3)


# --- true: what is stored is what a hook sees


def test_every_module_that_gives_token_rows_is_recorded_and_nothing_else(captured):
    assert by_hand.site_names(captured.index) == captured.names


def test_every_site_equals_a_hand_written_hook_bit_for_bit(captured):
    for name in captured.names:
        expected = captured.padded(name)
        assert by_hand.bits_of(captured.folder, name) == by_hand.tensor_bits(expected), name


def test_batched_equals_one_at_a_time_without_padding(captured):
    for name in captured.names:
        stored, expected = by_hand.numbers(captured.index, name), captured.alone(name).numpy()
        assert stored.shape == expected.shape, name
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(stored, expected, rtol=0, atol=1e-5 * scale, err_msg=name)


def test_bfloat16_is_stored_bit_exactly(captured_bfloat16):
    floats = [n for n in captured_bfloat16.names if captured_bfloat16.padded(n).is_floating_point()]
    assert len(floats) > 70
    for name in floats:
        expected = captured_bfloat16.padded(name)
        assert expected.dtype == torch.bfloat16, name
        assert by_hand.bits_of(captured_bfloat16.folder, name) == by_hand.tensor_bits(expected)
        # HDF5's own conversion, in any reader, gives the same numbers.
        stored = by_hand.numbers(captured_bfloat16.index, name)
        np.testing.assert_array_equal(stored, expected.float().numpy(), err_msg=name)


def test_bfloat16_reads_back_as_the_same_torch_tensor(captured_bfloat16):
    trace = probekit.open(captured_bfloat16.folder)
    name = sorted(n for n in captured_bfloat16.names if "mlp" in n)[0]
    tensor = trace[name].torch()
    assert tensor.dtype == torch.bfloat16
    assert torch.equal(tensor, captured_bfloat16.padded(name))


def test_token_ids_stay_integers(captured):
    ids = [n for n in captured.names if captured.padded(n).dtype == torch.int64]
    embeddings = ("wte/input", "embed_tokens/input", "embed_in/input")
    assert any(name.endswith(embeddings) for name in ids)
    for name in ids:
        assert by_hand.numbers(captured.index, name).dtype == np.int64


def test_rows_stand_in_example_order_whatever_the_batches(captured):
    with h5py.File(captured.index, "r") as file:
        assert file["tokens/id"][:].tolist() == [t for ids in EXAMPLES for t in ids]
        assert file["tokens/position"][:].tolist() == [
            p for ids in EXAMPLES for p in range(len(ids))
        ]
        examples = [number for number, ids in enumerate(EXAMPLES) for _ in ids]
        assert file["tokens/example"][:].tolist() == examples
        assert file["examples/n_tokens"][:].tolist() == [len(ids) for ids in EXAMPLES]
        assert [t.decode() for t in file["examples/text"]] == [by_hand.text_of(e) for e in EXAMPLES]


def test_a_run_leaves_torch_as_it_was(gpt2, tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    go(by_hand.config(gpt2, tmp_path / "t", probes=MLP, model__weights="random"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert torch.get_default_dtype() == torch.float32


# --- dtypes, positions, layouts


@pytest.mark.parametrize("store", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("model", ["float32", "bfloat16"])
def test_stored_values_are_cast_as_torch_casts_them(gpt2, tmp_path, model, store):
    probes = [{"modules": ["transformer.h.1.mlp.act", "transformer.wte"], "record": "output"}]
    probes.append({"modules": "transformer.wte", "record": "input"})
    folder = tmp_path / "trace"
    go(by_hand.config(gpt2, folder, probes=probes, model__dtype=model, store__dtype=store))
    plain = AutoModelForCausalLM.from_pretrained(gpt2, dtype=getattr(torch, model))
    rows = by_hand.watch_batches(plain)
    for name in ("transformer.h.1.mlp.act/output", "transformer.wte/output"):
        assert rows(name).dtype == getattr(torch, model)
        expected = rows(name).to(getattr(torch, store))
        assert by_hand.bits_of(folder, name) == by_hand.tensor_bits(expected), name
    ids = by_hand.numbers(folder / "trace.h5", "transformer.wte/input")
    assert ids.dtype == np.int64, "only floats are cast"


@pytest.mark.parametrize(
    ("positions", "kept"),
    [
        ("last", lambda rows: rows[-1:]),
        ("first", lambda rows: rows[:1]),
        (1, lambda rows: [rows[1]]),
        (-2, lambda rows: [rows[-2]]),
        ([0, -1], lambda rows: [rows[0], rows[-1]]),
        ([-1, 0, 1], lambda rows: rows if len(rows) == 2 else [rows[0], rows[1], rows[-1]]),
        ("1:3", lambda rows: rows[1:3]),
        ("3:", lambda rows: rows[3:]),  # the example of two tokens has none
        ("::4", lambda rows: rows[::4]),
        ("-5:", lambda rows: rows[-5:]),
    ],
)
def test_positions_keep_those_rows_of_each_example(gpt2, gpt2_rows, tmp_path, positions, kept):
    name = "transformer.h.2/output"
    probes = [{"modules": "transformer.h.2", "positions": positions}]
    folder = tmp_path / "trace"
    go(by_hand.config(gpt2, folder, probes=probes))
    begin, tokens = 0, []
    for ids in EXAMPLES:
        tokens += kept(range(begin, begin + len(ids)))
        begin += len(ids)
    expected = gpt2_rows(name)[list(tokens)]
    assert by_hand.bits_of(folder, name) == by_hand.tensor_bits(expected)
    with h5py.File(folder / "trace.h5", "r") as file:
        choice = file[f"sites/{name}"].attrs["rows"]
        assert file[f"rows/{choice}"][:].tolist() == list(tokens)


def test_several_choices_of_positions_live_in_one_trace(gpt2, gpt2_rows, tmp_path):
    probes = [
        {"modules": "transformer.h.0", "positions": "last"},
        {"modules": "transformer.h.1", "positions": "all"},
        {"modules": "transformer.h.2", "positions": "1:3"},
    ]
    folder = tmp_path / "trace"
    go(by_hand.config(gpt2, folder, probes=probes))
    ends = np.cumsum([len(ids) for ids in EXAMPLES])
    middle = [
        t for end, ids in zip(ends, EXAMPLES, strict=True) for t in range(end)[-len(ids) :][1:3]
    ]
    for layer, rows in enumerate((ends - 1, slice(None), middle)):
        name = f"transformer.h.{layer}/output"
        expected = gpt2_rows(name)[rows]
        assert by_hand.bits_of(folder, name) == by_hand.tensor_bits(expected)


def test_a_tensor_without_positions_gives_one_row_an_example(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    bert = BertForSequenceClassification(
        BertConfig(**sizes, intermediate_size=72, vocab_size=101, num_labels=5)
    ).eval()
    source = by_hand.save_model(tmp_path / "model", bert)
    probes = [{"modules": ["classifier", "bert.pooler", "bert.pooler.dense"], "record": "output"}]
    probes.append({"modules": "bert.pooler", "record": "input"})  # the whole sequence goes in
    go(by_hand.config(source, tmp_path / "trace", probes=probes))
    plain = type(bert).from_pretrained(source)
    for group in by_hand.batches():
        sites = by_hand.watch(plain, **by_hand.pad([EXAMPLES[n] for n in group])).sites()
        for name in ("classifier/output", "bert.pooler/output", "bert.pooler.dense/output"):
            stored = by_hand.numbers(tmp_path / "trace" / "trace.h5", name)
            assert len(stored) == len(EXAMPLES)
            np.testing.assert_array_equal(stored[list(group)], sites[name].numpy())
    with h5py.File(tmp_path / "trace" / "trace.h5", "r") as file:
        assert list(file["sites/classifier/output"].attrs["axes"]) == ["example", "d_5"]
        assert file["sites/classifier/output"].shape == (len(EXAMPLES), 5)
        assert list(file["sites/bert.pooler/input"].attrs["axes"]) == ["token", "d_model"]


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe"])
def test_routers_with_tokens_folded_into_the_batch_give_one_row_a_token(tmp_path, model_type):
    sizes = {"num_local_experts": 6, "num_experts_per_tok": 2}
    if model_type == "qwen2_moe":
        sizes = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
        sizes["shared_expert_intermediate_size"] = 48
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **tiny.LLAMA | sizes))
    tiny.randomize(model)
    source = by_hand.save_model(tmp_path / "model", model)
    probes = [{"modules": "model.layers.*.mlp.gate", "record": ["output", "output.1", "input"]}]
    probes.append({"modules": "model.layers.*.mlp"})
    trace = go(by_hand.config(source, tmp_path / "trace", probes=probes))
    plain = AutoModelForCausalLM.from_pretrained(source)
    rows = by_hand.watch_batches(plain)
    alone = by_hand.watch(plain, input_ids=torch.tensor([EXAMPLES[1]]))
    for layer in range(3):
        gate = f"model.layers.{layer}.mlp.gate"
        for name in (f"{gate}/output", f"{gate}/input", f"model.layers.{layer}.mlp/output"):
            assert by_hand.bits_of(tmp_path / "trace", name) == by_hand.tensor_bits(rows(name))
        logits = trace[gate]
        assert (logits.shape, logits.axes) == ((N_TOKENS, 6), ("token", "d_6"))
        (call,) = [c for c in alone.calls if c.module == gate]
        weights = trace[f"{gate}/output.1"].example(1)  # of the two experts that were chosen
        np.testing.assert_allclose(weights, call.outputs["1"].numpy(), rtol=0, atol=1e-5)


def test_a_value_is_taken_before_the_model_changes_it_in_place(gpt2, tmp_path, monkeypatch):
    def in_place(model: Any) -> None:
        # The dropout after c_proj adds 1 to the very tensor that c_proj gave.
        model.transformer.h[0].mlp.dropout.forward = lambda x: x.add_(1.0)

    alter_loaded_model(monkeypatch, in_place)
    probes = [{"modules": "transformer.h.0.mlp.{c_proj,dropout}", "record": ["output", "input"]}]
    go(by_hand.config(gpt2, tmp_path / "trace", probes=probes))
    plain = AutoModelForCausalLM.from_pretrained(gpt2)
    in_place(plain)
    rows = by_hand.watch_batches(plain)
    for name in ("c_proj/input", "c_proj/output", "dropout/input", "dropout/output"):
        name = f"transformer.h.0.mlp.{name}"
        stored = by_hand.numbers(tmp_path / "trace" / "trace.h5", name)
        np.testing.assert_array_equal(stored, rows(name).numpy(), err_msg=name)
    assert not torch.equal(
        *(rows(f"transformer.h.0.mlp.{n}/output") for n in ("c_proj", "dropout"))
    )


# --- planned: the bytes are known beforehand

PLANS = {
    "one shard": {"probes": EVERYTHING},
    "many shards": {"probes": EVERYTHING, "store__shard_bytes": 250_000},
    "an example each": {"probes": EVERYTHING, "store__shard_bytes": 1},
    "half the width": {"probes": EVERYTHING, "store__dtype": "bfloat16"},
    "computed in bfloat16": {"probes": EVERYTHING, "model__dtype": "bfloat16"},
    "positions": {
        "probes": [
            {"modules": "transformer.h.*", "positions": "last"},
            {"modules": "transformer.h.*.mlp.act", "positions": [0, -1]},
            {"modules": "transformer.h.*.attn", "positions": "4:"},
            {"modules": "transformer.wte"},
        ],
        "store__shard_bytes": "8KiB",
    },
}


@pytest.mark.few(3)
@pytest.mark.parametrize("case", PLANS)
def test_planned_bytes_are_the_bytes_in_the_sealed_store(gpt2, tmp_path, case):
    config = by_hand.config(gpt2, tmp_path / "trace", **PLANS[case])
    planned = probekit.plan(config).to_json()
    go(config)
    shards = by_hand.shard_files(tmp_path / "trace")
    assert len(shards) == planned["n_shards"]
    stored: dict[str, int] = {}
    for shard in shards:
        with h5py.File(shard, "r") as file:
            for name in by_hand.site_names(shard):
                size = file[f"sites/{name}"].id.get_storage_size()
                stored[name] = stored.get(name, 0) + size
    assert {site["name"]: site["bytes"] for site in planned["sites"]} == stored
    assert planned["total_bytes"] == sum(stored.values())
    with h5py.File(tmp_path / "trace" / "trace.h5", "r") as file:
        for site in planned["sites"]:
            dataset = file[f"sites/{site['name']}"]
            assert dataset.shape == (site["rows"], *site["row_shape"]), site
            assert list(dataset.attrs["axes"]) == site["axes"]
            assert dataset.attrs["dtype"] == site["dtype"]


def test_shards_hold_whole_examples_of_about_the_asked_size(gpt2, tmp_path):
    probes = [{"modules": "transformer.h.0"}]  # 32 float32 a token: 128 bytes
    go(by_hand.config(gpt2, tmp_path / "t", probes=probes, store__shard_bytes=2400))
    shards = by_hand.shard_files(tmp_path / "t")
    held = []
    for shard in shards:
        with h5py.File(shard, "r") as file:
            held.append(file["examples/n_tokens"][:].tolist())
    # 5 + 13 tokens are 2304 bytes, with 9 more they would be 3456; and so on.
    assert held == [[5, 13], [9], [13, 2], [7]]


def test_many_shards_hold_and_the_index_shows_what_hooks_see(gpt2, tmp_path):
    folder = tmp_path / "trace"
    config = by_hand.config(gpt2, folder, probes=EVERYTHING, store__shard_bytes=250_000)
    go(config)
    plain = AutoModelForCausalLM.from_pretrained(gpt2)
    rows = by_hand.watch_batches(plain, shards=[[0, 1], [2], [3, 4], [5]])
    assert len(by_hand.shard_files(folder)) == 4
    assert len(rows.layouts) == 84
    for name in rows.layouts:
        assert by_hand.bits_of(folder, name) == by_hand.tensor_bits(rows(name)), name
        np.testing.assert_array_equal(by_hand.numbers(folder / "trace.h5", name), rows(name))


def test_shards_follow_from_the_config_not_from_the_batches(gpt2, tmp_path):
    tables = []
    for size in (13, 30, 8192):
        go(
            by_hand.config(
                gpt2,
                tmp_path / f"{size}",
                probes=MLP,
                store__shard_bytes=20_000,
                inputs__batch_tokens=size,
            )
        )
        shards = by_hand.shard_files(tmp_path / f"{size}")
        assert len(shards) > 1
        tables.append([by_hand.everything(s)["tokens/id"] for s in shards])
    assert tables[0] == tables[1] == tables[2]


# --- execution order


def test_execution_is_what_hooks_log_for_every_batch(gpt2, tmp_path):
    folder = tmp_path / "trace"
    go(by_hand.config(gpt2, folder, probes=MLP, execution_order=True))
    plain = AutoModelForCausalLM.from_pretrained(gpt2)
    group = by_hand.batches()[0]
    logged = by_hand.watch(plain, **by_hand.pad([EXAMPLES[n] for n in group])).events
    with h5py.File(folder / "trace.h5", "r") as file:
        modules = file["execution/modules"].asstr()[:]
        assert list(file["execution/orders"]) == ["0"], "equal orders are stored once"
        events = file["execution/orders/0"][:]
        assert [(modules[m], entered, depth) for m, entered, depth in events] == logged
        assert "forwards" not in file["execution"], "which batches there are may differ"
    (made,) = (folder / "shards").glob("*.made.json")
    forwards = json.loads(made.read_text())["forwards"]
    assert len(set(forwards["order"])) == 1
    assert forwards["n_tokens"] == [26, 21, 2]
    assert forwards["examples"] == [list(group) for group in by_hand.batches()]
    assert min(forwards["seconds"]) > 0
    read = probekit.open(folder).execution.forwards
    assert [f.order for f in read] == [0, 0, 0]
    assert [list(f.examples) for f in read] == forwards["examples"]
    assert [f.seconds for f in read] == forwards["seconds"]


def test_examples_of_a_forward_pass_are_numbered_over_the_whole_run(gpt2, tmp_path):
    config = by_hand.config(
        gpt2, tmp_path / "t", probes=MLP, execution_order=True, store__shard_bytes=20_000
    )
    trace = go(config)
    assert len(by_hand.shard_files(tmp_path / "t")) > 1
    examples = sorted(e for f in trace.execution.forwards for e in f.examples)
    assert examples == list(range(len(EXAMPLES)))


def test_without_execution_order_there_is_none(mlp):
    with h5py.File(mlp / "trace.h5", "r") as file:
        assert "execution" not in file
    with pytest.raises(StoreError, match="execution_order: true"):
        probekit.open(mlp).execution_order  # noqa: B018


# --- a run that was cut short goes on


class Stop(Exception):  # noqa: N818
    """What cuts a run short."""


def stop_in_shard(folder: Path, n_sealed: int) -> Any:
    def watcher(progress: Any) -> None:
        if len(list((folder / "shards").glob("[0-9][0-9][0-9][0-9][0-9].json"))) == n_sealed:
            raise Stop

    return watcher


def resumable(model: Path, **more: Any) -> dict[str, Any]:
    """A config of five shards; its folder is relative, so equal in every directory."""
    probes = [{"modules": ["transformer.h.1.**", "lm_head"], "record": ["output", "input"]}]
    more = {"execution_order": True, "store__shard_bytes": 72_000, **more}
    return by_hand.config(model, "run", probes=probes, **more)


@pytest.fixture(scope="module")
def undisturbed(gpt2, tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        go(resumable(gpt2))
        return Path("run").absolute()


@pytest.mark.parametrize("n_sealed", [0, 3])
def test_a_run_cut_short_goes_on_to_the_same_trace(
    gpt2, undisturbed, tmp_path, monkeypatch, n_sealed
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    with pytest.raises(Stop):
        go(resumable(gpt2), on_progress=stop_in_shard(folder, n_sealed))
    sealed = by_hand.shard_files(folder)
    assert len(sealed) == n_sealed
    assert sorted(p.name for p in (folder / "shards").iterdir()) == sorted(
        f"{n:05d}.{ending}" for n in range(n_sealed) for ending in ("h5", "json", "made.json")
    ), "what is not sealed is not left behind"
    with pytest.raises(StoreError, match=f"{n_sealed} of 5 shards are sealed"):
        probekit.open(folder)

    before = [by_hand.fingerprint(file) for file in sealed]
    done: list[int] = []
    go(resumable(gpt2), on_progress=lambda p: done.append(p.examples))
    assert [by_hand.fingerprint(file) for file in sealed] == before, "sealed is never touched"
    first = sum(len(by_hand.everything(f)["examples/id"][2]) for f in sealed)
    assert min(done) > first and max(done) == len(EXAMPLES), "only the rest was run"

    files = ["trace.h5", *(f"shards/{shard.name}" for shard in by_hand.shard_files(undisturbed))]
    assert len(files) == 6
    for file in files:
        assert (folder / file).read_bytes() == (undisturbed / file).read_bytes(), file


def test_a_shard_without_its_record_is_not_sealed(gpt2, undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(undisturbed, "run")
    whole = Path("run/trace.h5").read_bytes()
    Path("run/trace.h5").unlink()
    Path("run/shards/00002.json").unlink()
    kept = by_hand.fingerprint(Path("run/shards/00001.h5"))
    loaded = count_loads(monkeypatch)
    go(resumable(gpt2))
    assert len(loaded) == 1
    assert by_hand.fingerprint(Path("run/shards/00001.h5")) == kept
    assert Path("run/trace.h5").read_bytes() == whole


def test_a_lost_index_is_built_again_without_the_model(gpt2, undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(undisturbed, "run")
    before = by_hand.everything(Path("run/trace.h5"))
    Path("run/trace.h5").unlink()
    refuse_to_load(monkeypatch)
    go(resumable(gpt2))
    assert by_hand.everything(Path("run/trace.h5")) == before


def test_going_on_with_another_batch_size_is_the_same_run(gpt2, undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stop):
        go(resumable(gpt2), on_progress=stop_in_shard(Path("run"), 2))
    go(resumable(gpt2, inputs__batch_tokens=13))
    assert len(by_hand.shard_files(Path("run"))) == 5
    for name in by_hand.site_names(undisturbed / "trace.h5"):
        ours = by_hand.numbers(Path("run/trace.h5"), name)
        np.testing.assert_allclose(
            ours, by_hand.numbers(undisturbed / "trace.h5", name), rtol=0, atol=2e-4
        )


def test_a_finished_run_is_opened_and_no_model_is_loaded(mlp_again, tmp_path, monkeypatch):
    files = [*by_hand.shard_files(tmp_path / "t"), tmp_path / "t/trace.h5", tmp_path / "t/run.json"]
    before = [by_hand.fingerprint(file) for file in files]
    refuse_to_load(monkeypatch)
    trace = go(mlp_again)
    assert trace["transformer.h.0.mlp.act"].shape == (N_TOKENS, 72)
    assert [by_hand.fingerprint(file) for file in files] == before


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"store__dtype": "float16"}, "store.dtype: was auto, now float16"),
        (
            {"probes": [{"modules": "transformer.h.*.mlp.act", "layers": 0}]},
            r"probes\[0\].layers\[0\]: was not set, now 0",
        ),
        ({"seed": 1}, "seed: was 3, now 1"),
        ({"inputs__texts": ["1 2 3"]}, r"inputs.texts\[0\]: was 5 17 99 3 3, now 1 2 3"),
    ],
)
def test_a_changed_config_is_refused_and_nothing_is_lost(
    gpt2, mlp_again, tmp_path, change, differs
):
    before = by_hand.fingerprint(tmp_path / "t" / "trace.h5")
    changed = by_hand.config(gpt2, tmp_path / "t", **{"probes": MLP, "seed": 3, **change})
    with pytest.raises(StoreError, match=rf"holds another run \(.*{differs}.*\).*overwrite"):
        go(changed)
    assert by_hand.fingerprint(tmp_path / "t" / "trace.h5") == before
    trace = go(changed, overwrite=True)
    assert trace.provenance["config"] == probekit.plan(changed).config.to_yaml()


def test_overwrite_runs_a_finished_run_again(mlp_again, monkeypatch):
    loaded = count_loads(monkeypatch)
    go(mlp_again, overwrite=True)
    assert len(loaded) == 1


def test_an_overwrite_that_cannot_begin_leaves_the_old_trace(mlp_again, tmp_path, monkeypatch):
    before = probekit.open(tmp_path / "t")["transformer.h.0.mlp.act"][:]

    def fail(*args: Any) -> None:
        raise CaptureError("out of memory")

    monkeypatch.setattr(models, "load_model", fail)
    with pytest.raises(CaptureError):
        go(mlp_again, overwrite=True)
    trace = probekit.open(tmp_path / "t")
    np.testing.assert_array_equal(trace["transformer.h.0.mlp.act"][:], before)


def test_an_overwrite_on_a_full_disk_makes_room_first(mlp_again, tmp_path, monkeypatch):
    left: list[int] = []
    load = models.load_model

    def look_and_load(*args: Any) -> Any:
        left.append(len(by_hand.shard_files(tmp_path / "t")))
        return load(*args)

    monkeypatch.setattr(models, "load_model", look_and_load)
    monkeypatch.setattr("probekit.capture.running.free_bytes", lambda path: 1000)
    go(mlp_again, overwrite=True)
    assert left == [0]


def test_overwrite_leaves_files_that_are_not_probekits(mlp_again, tmp_path):
    (tmp_path / "t" / "thesis.tex").write_text("five years of work")
    with pytest.raises(StoreError, match=r"not probekit's \(thesis.tex\)"):
        go(mlp_again, overwrite=True)
    assert (tmp_path / "t" / "thesis.tex").read_text() == "five years of work"
    assert (tmp_path / "t" / "trace.h5").exists()


# --- when the model does something else than was planned


def test_a_model_that_fails_names_the_batch_and_keeps_no_hooks(gpt2, tmp_path, monkeypatch):
    def fail_on_three(module: Any, args: Any) -> None:
        if args[0].shape[0] == 3:
            raise ValueError("bad luck")

    seen: list[Any] = []

    def plant(model: Any) -> None:
        model.transformer.h[1].register_forward_pre_hook(fail_on_three)
        seen.append((model, by_hand.n_hooks(model), model.training))

    alter_loaded_model(monkeypatch, plant)
    config = by_hand.config(gpt2, tmp_path / "t", probes=EVERYTHING, execution_order=True)
    with pytest.raises(CaptureError, match=r"on a batch of \[3, 9\] .*ValueError: bad luck"):
        go(config)
    ((model, n_hooks, training),) = seen
    assert by_hand.n_hooks(model) == n_hooks == 1
    assert model.training == training
    assert not list((tmp_path / "t" / "shards").iterdir()), "a shard is whole or not there"


def test_a_module_that_stays_silent_is_an_error(gpt2, tmp_path, monkeypatch):
    def skip(model: Any) -> None:
        mlp = model.transformer.h[1].mlp
        mlp.forward = lambda x: mlp.c_proj(mlp.c_fc(x))

    alter_loaded_model(monkeypatch, skip)
    with pytest.raises(CaptureError, match=r"transformer.h.1.mlp.act/output: did not run"):
        go(by_hand.config(gpt2, tmp_path / "t", probes=MLP))
    assert by_hand.shard_files(tmp_path / "t") == []


def test_a_tensor_of_another_shape_than_planned_is_an_error(gpt2, tmp_path, monkeypatch):
    def widen(model: Any) -> None:
        model.transformer.h[0].mlp.act.forward = lambda x: torch.cat([x, x], dim=-1)

    alter_loaded_model(monkeypatch, widen)
    said = r"transformer.h.0.mlp.act/output: .*\[2, 13, 72\], .*\[2, 13, 144\]"
    with pytest.raises(CaptureError, match=said):
        go(by_hand.config(gpt2, tmp_path / "t", probes=MLP))


def test_a_loaded_model_that_is_not_the_planned_one_is_refused(gpt2, tmp_path, monkeypatch):
    def swap(model: Any) -> None:
        model.transformer.h[0].mlp.act = torch.nn.ReLU()

    alter_loaded_model(monkeypatch, swap)
    with pytest.raises(
        CaptureError, match=r"not the planned one.*transformer.h.0.mlp.act \(ReLU\)"
    ):
        go(by_hand.config(gpt2, tmp_path / "t", probes=MLP))


def test_progress_counts_examples_tokens_and_bytes(gpt2, tmp_path):
    seen: list[Any] = []
    config = by_hand.config(gpt2, tmp_path / "t", probes=MLP)
    go(config, on_progress=seen.append)
    assert [p.examples for p in seen] == [2, 5, 6]
    assert [p.tokens for p in seen] == [26, 47, 49]
    assert {p.n_examples for p in seen} == {6}
    assert seen[-1].n_bytes == probekit.plan(config).to_json()["total_bytes"]
    assert all(a.seconds < b.seconds for a, b in pairwise(seen))


def test_the_plan_is_shown_before_the_model_loads(gpt2, tmp_path, monkeypatch):
    refuse_to_load(monkeypatch)
    shown: list[Any] = []
    with pytest.raises(AssertionError, match="loaded the model"):
        go(by_hand.config(gpt2, tmp_path / "t", probes=MLP), on_plan=shown.append)
    assert [len(plan.sites) for plan in shown] == [3]


def test_a_probe_that_cannot_be_carried_out_leaves_no_folder(gpt2, tmp_path):
    with pytest.raises(PlanError, match="matches no module"):
        go(by_hand.config(gpt2, tmp_path / "t", probes=[{"modules": "no.such"}]))
    assert not (tmp_path / "t").exists()


# --- what a trace says of itself


def test_index_and_shards_say_how_they_were_made(gpt2, mlp):
    for file in (mlp / "trace.h5", *by_hand.shard_files(mlp)):
        with h5py.File(file, "r") as opened:
            said = dict(opened.attrs)
        assert said["model_name"] == str(gpt2)
        assert said["model_class"] == "GPT2LMHeadModel"
        assert said["model_type"] == "gpt2"
        assert said["model_weights"] == "pretrained"
        assert said["n_parameters"] == tiny.N_PARAMETERS["gpt2"]
        assert said["dtype"] == "float32"
        assert said["seed"] == 3
        assert (said["n_layers"], said["n_heads"], said["d_model"]) == (3, 4, 32)
        assert said["torch_version"] == torch.__version__
        assert said["probekit_format"] == "1.1"
        assert "texts:" in said["config"]
    with h5py.File(by_hand.shard_files(mlp)[0], "r") as shard:
        assert shard.attrs["attention"] == "sdpa"
        assert shard.attrs["device"].startswith("cpu")


def test_the_index_holds_the_vocabulary(mlp):
    with h5py.File(mlp / "trace.h5", "r") as file:
        words = file["vocabulary"].asstr()[:]
    assert [word.strip() for word in words] == [str(n) for n in range(101)]


def test_attention_kernel_of_the_config_is_the_one_that_runs(gpt2, tmp_path):
    probes = [{"modules": "transformer.h.*.attn"}]
    config = by_hand.config(gpt2, tmp_path / "t", probes=probes, model__attention="eager")
    go(config)
    with h5py.File(by_hand.shard_files(tmp_path / "t")[0], "r") as shard:
        assert shard.attrs["attention"] == "eager"
    plain = AutoModelForCausalLM.from_pretrained(gpt2, attn_implementation="eager")
    rows = by_hand.watch_batches(plain)
    for layer in range(3):
        name = f"transformer.h.{layer}.attn/output"
        assert by_hand.bits_of(tmp_path / "t", name) == by_hand.tensor_bits(rows(name))


# --- models that are changed on their way in


def alter_loaded_model(monkeypatch: pytest.MonkeyPatch, alter: Any) -> None:
    load = models.load_model

    def loaded(*args: Any) -> Any:
        model = load(*args)
        alter(model)
        return model

    monkeypatch.setattr(models, "load_model", loaded)


def count_loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    loads: list[Any] = []
    alter_loaded_model(monkeypatch, loads.append)
    return loads


def refuse_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("loaded the model")

    monkeypatch.setattr(models, "load_model", refuse)


def change_one_weight(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def change_config(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def empty_config(folder: Path) -> None:
    (folder / "generation_config.json").write_text("")


@pytest.mark.parametrize("weights", ["pretrained", "random"])
@pytest.mark.parametrize(
    ("change", "is_another"),
    [
        (change_one_weight, {"pretrained"}),
        (change_config("config.json", hidden_act="relu"), {"pretrained", "random"}),
        (change_config("generation_config.json", eos_token_id=3), {"pretrained", "random"}),
        (
            lambda folder: (folder / "generation_config.json").write_text(""),
            {"pretrained", "random"},
        ),
        (change_config("config.json", transformers_version="5.99"), set()),
    ],
    ids=["a weight", "activation", "end of text", "no JSON", "version"],
)
def test_a_changed_model_in_the_same_folder_is_another(tmp_path, weights, change, is_another):
    tiny.build("llama").save_pretrained(tmp_path / "model")
    config = {
        "model": {"name": str(tmp_path / "model"), "weights": weights},
        "inputs": {"random": {"examples": 2, "max_tokens": 9}},
        "probes": [{"modules": "model.layers.0"}],
        "store": {"path": str(tmp_path / "run")},
    }
    go(config)
    change(tmp_path / "model")
    if weights in is_another:
        with pytest.raises(StoreError, match="the model in its folder has changed"):
            go(config)
    else:
        go(config)


def test_short_texts_of_a_longrope_model_are_not_batched_with_long_ones(tmp_path):
    """Its rotary factors follow the longest text of a batch."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    tiny.build(
        "phi3",
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 8,
            **factors,
        },
        original_max_position_embeddings=8,
    ).save_pretrained(tmp_path / "model")

    def values(batch_tokens):
        config = {
            "model": {"name": str(tmp_path / "model")},
            "inputs": {
                "random": {"examples": 9, "min_tokens": 3, "max_tokens": 14},
                "batch_tokens": batch_tokens,
            },
            "probes": [{"modules": "model.layers.1"}],
            "store": {"path": str(tmp_path / f"run{batch_tokens}")},
        }
        return go(config)["model.layers.1"][:]

    np.testing.assert_allclose(values(1000), values(1), rtol=1e-4, atol=1e-4)
