"""Selecting and reducing, against numpy on the record that was not reduced."""

import numpy as np
import pytest
import torch
from tiny_models import build

import probekit
from probekit.capture import run
from probekit.planning import recipe
from probekit.planning.recipe import Recipe

ATTN = "model.layers.1.self_attn"
MLP = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    build("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def record(model_folder, tmp_path):
    """Run one probe and give its trace."""
    runs = iter(range(100))

    def one(dtype="auto", **probe):
        return run(
            {
                "model": {"name": str(model_folder), "dtype": dtype},
                "inputs": {
                    "random": {"examples": 6, "min_tokens": 2, "max_tokens": 15, "seed": 1},
                    "batch_tokens": 40,
                },
                "probes": [probe],
                "store": {"path": str(tmp_path / f"run{next(runs)}"), "shard_bytes": 20_000},
            }
        )

    return one


def groups(trace, values):
    """Cut token rows `[token, ...]` into the examples they belong to."""
    return np.split(values, [trace.examples.extent(n)[0] for n in range(1, len(trace.examples))])


def test_neurons_are_those_of_the_last_axis(record):
    every = record(modules=MLP)[f"{MLP}/output"][:]
    some = record(modules=MLP, neurons=[3, -1, 0])[f"{MLP}/output"]
    np.testing.assert_array_equal(some[:], every[:, [3, -1, 0]])
    assert some.axes == ("token", "neuron")


def test_rearranging_takes_sizes_from_the_model(record):
    every = record(modules=f"{ATTN}.q_proj")[f"{ATTN}.q_proj/output"][:]
    site = record(modules=f"{ATTN}.q_proj", einops={"rearrange": "token (head d) -> token head d"})[
        f"{ATTN}.q_proj/output"
    ]
    assert site.shape[1:] == (4, 8) and site.axes == ("token", "head", "d")
    np.testing.assert_array_equal(site[:], every.reshape(len(every), 4, 8))


def test_sizes_can_be_given(record):
    every = record(modules=f"{ATTN}.k_proj")[f"{ATTN}.k_proj/output"][:]
    step = {"rearrange": "token (group d) -> token d group", "group": 2}
    site = record(modules=f"{ATTN}.k_proj", einops=step)[f"{ATTN}.k_proj/output"]
    np.testing.assert_array_equal(site[:], every.reshape(len(every), 2, -1).swapaxes(1, 2))


@pytest.mark.few(4)
@pytest.mark.parametrize("op", ["mean", "max", "sum", "norm"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reductions_are_numpys(record, op, dtype):
    every = record(modules=MLP, dtype=dtype)[f"{MLP}/output"][:].astype(np.float64)
    site = record(modules=MLP, dtype=dtype, einops={"reduce": "token d -> token", "op": op})
    expected = {
        "mean": every.mean(-1),
        "max": every.max(-1),
        "sum": every.sum(-1),
        "norm": np.sqrt((every**2).sum(-1)),
    }[op]
    site = site[f"{MLP}/output"]
    assert site.axes == ("token",)
    assert site.dtype == ("bfloat16" if op == "max" and dtype == "bfloat16" else "float32")
    np.testing.assert_allclose(site[:], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["mean", "max", "last"])
def test_pooling_gives_one_row_an_example(record, how):
    every = record(modules=MLP)
    parts = groups(every, every[f"{MLP}/output"][:])
    site = record(modules=MLP, pool=how)[f"{MLP}/output"]
    expected = {
        "mean": [p.mean(0) for p in parts],
        "max": [p.max(0) for p in parts],
        "last": [p[-1] for p in parts],
    }[how]
    assert site.axes == ("example", "d_model") and site.shape[0] == 6
    np.testing.assert_allclose(site[:], np.stack(expected), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(site.example(3), expected[3], rtol=1e-5, atol=1e-6)


def test_pooling_is_over_the_tokens_that_are_kept(record):
    every = record(modules=MLP)
    parts = groups(every, every[f"{MLP}/output"][:])
    site = record(modules=MLP, pool="mean", positions="1:")[f"{MLP}/output"]
    expected = np.stack([p[1:].mean(0) for p in parts])
    np.testing.assert_allclose(site[:], expected, rtol=1e-5, atol=1e-6)


def test_top_k_of_activations_is_numpys(record):
    every = record(modules=MLP)[f"{MLP}/output"][:]
    trace = record(modules=MLP, record="top_k", k=4)
    order = np.argsort(-every, axis=-1)[:, :4]
    np.testing.assert_array_equal(trace[f"{MLP}/top_k.index"][:], order)
    np.testing.assert_array_equal(
        trace[f"{MLP}/top_k.value"][:], np.take_along_axis(every, order, axis=-1)
    )


def test_pattern_reduces_too(record):
    every = record(modules=ATTN, record="pattern")[f"{ATTN}/pattern"][:]
    step = {"reduce": "token head key -> token head", "op": "max"}
    site = record(modules=ATTN, record="pattern", einops=step)[f"{ATTN}/pattern"]
    np.testing.assert_allclose(site[:], every.max(-1), atol=1e-6)


def softmax(logits):
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def test_what_the_model_says_is_numpys_of_its_logits(record):
    raw = record(modules="lm_head")
    probabilities = softmax(raw["lm_head"][:].astype(np.float64))
    said = record(modules="lm_head", record=["top_k", "token_logprob", "entropy"], k=5)
    order = np.argsort(-probabilities, axis=-1)[:, :5]
    np.testing.assert_array_equal(said["lm_head/top_k.id"][:], order)
    np.testing.assert_allclose(
        np.exp(said["lm_head/top_k.logprob"][:]),
        np.take_along_axis(probabilities, order, axis=-1),
        rtol=1e-4,
    )
    entropy = -(probabilities * np.log(probabilities)).sum(-1)
    np.testing.assert_allclose(said["lm_head/entropy"][:], entropy, rtol=1e-4)
    ids = np.asarray(raw.tokens.id[:])
    for number in range(len(raw.examples)):
        first, n_tokens = raw.examples.extent(number)
        logprob = said["lm_head/token_logprob"].example(number)
        rows = np.arange(first, first + n_tokens - 1)
        expected = np.log(probabilities[rows, ids[rows + 1]])
        np.testing.assert_allclose(logprob[:-1], expected, rtol=1e-4, atol=1e-5)
        assert np.isnan(logprob[-1])  # nothing came after the last token


def test_portable_logits_say_the_same(record):
    by_module = record(modules="lm_head", record="top_k", positions="last")
    by_name = record(sites="logits", record="top_k", positions="last")
    assert by_name.site_names == by_module.site_names
    np.testing.assert_array_equal(by_name["lm_head/top_k.id"][:], by_module["lm_head/top_k.id"][:])


def test_capped_logits_are_those_the_model_returns(tmp_path):
    """Gemma 2 caps what its head gives: candidates are taken of what the model returns."""
    model = build("gemma2", final_logit_softcapping=3.0)
    model.save_pretrained(tmp_path / "model")
    trace = run(
        {
            "model": {"name": str(tmp_path / "model")},
            "inputs": {"random": {"examples": 1, "min_tokens": 9, "max_tokens": 9}},
            "probes": [{"modules": "lm_head", "record": ["top_k", "entropy"]}],
            "store": {"path": str(tmp_path / "run")},
        }
    )
    ids = torch.from_numpy(np.asarray(trace.examples[0].token_ids, dtype=np.int64))[None]
    with torch.no_grad():
        logits = model(ids, attention_mask=torch.ones_like(ids)).logits[0].double()
    logprobs = torch.log_softmax(logits, -1)
    np.testing.assert_allclose(
        trace["lm_head/top_k.logprob"][:], logprobs.topk(5).values, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ({"modules": MLP, "neurons": 32}, r"neuron 32 is out of range \(32 there: 0..31"),
        (
            {"modules": MLP, "record": "top_k", "k": 33},
            r"probes\[0\].k: .* has 32 numbers to choose from; expected k: at most 32",
        ),
        (
            {"modules": MLP, "record": "top_k", "neurons": [0, 1]},
            "has 2 numbers .* at most 2",
        ),
        ({"sites": "mlp_post", "record": "top_k"}, r"goes with the portable name logits"),
        ({"modules": "model.embed_tokens", "record": "input", "pool": "mean"}, r"int64"),
        ({"modules": MLP, "record": "entropy"}, r"taken of the model's logits.*lm_head"),
        (
            {"modules": MLP, "einops": {"rearrange": "token (a b) -> token a b"}},
            r"\.einops: .*einops on rows of \[32\]: Could not infer sizes",
        ),
        (
            {"modules": MLP, "einops": {"rearrange": "token (a b) -> token a b", "a": 5}},
            r"einops on rows of \[32\]: .*can't divide axis of length 32 in chunks of 5",
        ),
        (
            {"modules": MLP, "einops": {"rearrange": "token d -> d token"}},
            r"first axis is the rows' and stays where it is",
        ),
        (
            {"modules": MLP, "einops": {"rearrange": "token d -> token -> token d"}},
            r"expected `token ... -> token ...`",
        ),
        (
            {"modules": MLP, "einops": {"rearrange": "token (a b -> token a b"}},
            r"\.einops: einops pattern .*: a \( is never closed in 'token \(a b'; add",
        ),
        ({"modules": MLP, "einops": {"rearrange": "token a) -> token a"}}, r"a \) closes nothing"),
        ({"modules": MLP, "einops": {"rearrange": "t ((a) b) -> t a b"}}, "inside of another"),
        ({"modules": MLP, "k": 3}, r"probes\[0\].k: goes with record: \[top_k\] alone"),
        ({"modules": "model.embed_tokens", "layers": 0}, "embed_tokens is in no layer; leave la"),
        ({"modules": "resid_post"}, "'resid_post' is a portable name: write `sites: resid_post`"),
        ({"modules": "resid_m*"}, "means portable names: write `sites: resid_mid`"),
        (
            {"modules": "ln?_scale"},
            r"portable names: write `sites: \[ln1_scale, ln2_scale\]`",
        ),
        (
            {"modules": f"{MLP}/output.1"},
            rf"'{MLP}/output.1' ends in a record kind: write `modules: {MLP}` and `record: \[outp",
        ),
        ({"modules": ATTN, "record": "pattern", "pool": "mean"}, r"no pool"),
        ({"modules": MLP, "record": "top_k", "pool": "mean"}, r"a mean of token ids"),
        ({"sites": "logits", "record": "token_logprob", "pool": "mean"}, r"NaN at the last"),
        ({"modules": MLP, "pool": "mean", "positions": "9:"}, r"no example is long enough"),
        ({"modules": MLP, "pool": "mean", "positions": "6:"}, r"example 1 has no token at 6:"),
    ],
)
def test_what_does_not_fit_is_refused_in_the_plan(model_folder, tmp_path, probe, message):
    with pytest.raises(probekit.PlanError, match=message):
        probekit.plan(
            {
                "model": {"name": str(model_folder)},
                "inputs": {"random": {"examples": 3, "min_tokens": 5, "max_tokens": 9, "seed": 5}},
                "probes": [probe],
                "store": {"path": str(tmp_path / "run")},
            }
        )


def test_the_plan_shows_the_final_shape_and_bytes(model_folder, tmp_path):
    plan = probekit.plan(
        {
            "model": {"name": str(model_folder)},
            "inputs": {"random": {"examples": 3, "min_tokens": 10, "max_tokens": 10}},
            "probes": [
                {"modules": ATTN, "record": "pattern", "heads": [0, 2]},
                {"modules": MLP, "neurons": [1, 2, 3], "pool": "mean"},
            ],
            "store": {"path": str(tmp_path / "run")},
        }
    )
    shapes = {s["name"]: (s["rows"], s["row_shape"], s["bytes"]) for s in plan.to_json()["sites"]}
    assert shapes == {
        f"{ATTN}/pattern": (30, [2, 10], 30 * 2 * 10 * 4),
        f"{MLP}/output": (3, [3], 3 * 3 * 4),
    }


@pytest.mark.parametrize("ending", ["top_k", "token_logprob", "entropy"])
def test_a_large_vocabulary_is_taken_a_block_at_a_time(monkeypatch, ending):
    logits, ids = (
        torch.randn(9, 101, dtype=torch.bfloat16),
        torch.tensor([5, 7, -1, 0, 1, 2, 3, 4, 9]),
    )
    asked = Recipe(ending=ending, k=3, logits=True)
    whole = asked.apply(logits, ids, [9])
    seen, softmax = [], torch.log_softmax

    def watched(rows, dim):
        seen.append(rows.nbytes)
        return softmax(rows, dim=dim)

    monkeypatch.setattr(torch, "log_softmax", watched)
    for n_rows, n_bytes in ((4, 4 * 404 + 100), (1, 10)):  # a row is 404 bytes; one is always taken
        monkeypatch.setattr(recipe, "_BLOCK_BYTES", n_bytes)
        seen.clear()
        parts = asked.apply(logits, ids, [9])
        assert max(seen) == n_rows * 404 and sum(seen) == 9 * 404
        for part, expected in zip(parts, whole, strict=True):
            assert torch.equal(part.nan_to_num(-1), expected.nan_to_num(-1))
