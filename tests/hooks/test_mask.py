"""`record(mask=)`: rows of real tokens, against hand-written hooks and numpy, and a trace."""

from __future__ import annotations

from typing import Any

import by_hand
import every_family
import numpy as np
import pytest
import tiny_models as tiny
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, BartModel

import probekit
from probekit.errors import CaptureError, PlanError

Array = np.ndarray[Any, Any]
N_TEXTS, WIDTH = 3, 8  # as wide as a head: no size tells an axis
PADDED = {  # where padding is, of each text
    "right": [[], [5, 6, 7], [2, 3, 4, 5, 6, 7]],
    "left": [[0, 1, 2], [], [0, 1, 2, 3, 4]],
    "both and between": [[0, 3, 4], [7], [0, 1, 5, 6]],
    "none": [[], [], []],
}


def padded(where: str, n_texts: int = N_TEXTS) -> tuple[dict[str, Tensor], Array]:
    """Make a batch, and its mask as numpy's booleans."""
    mask = np.ones((n_texts, WIDTH), dtype=np.int64)
    for text, places in enumerate(PADDED[where][:n_texts]):
        mask[text, places] = 0
    ids = torch.randint(3, 90, mask.shape, generator=torch.Generator().manual_seed(0))
    given = torch.from_numpy(mask)
    positions = (given.cumsum(-1) - 1).clamp(0)
    batch = {"input_ids": ids * given, "attention_mask": given, "position_ids": positions}
    return batch, mask.astype(bool)


def hooked(model: nn.Module, paths: list[str], run: Any) -> dict[str, list[Array]]:
    """Give the first tensor of every call by hand-written hooks."""
    seen: dict[str, list[Array]] = {path: [] for path in paths}
    handles = []
    for path in paths:

        def see(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
            given = output[0] if isinstance(output, tuple) else output
            seen[path].append(given.detach().clone().numpy())

        handles.append(model.get_submodule(path).register_forward_hook(see))
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return seen


def same(found: Tensor, wanted: Array) -> None:
    np.testing.assert_array_equal(found.detach().numpy(), wanted, strict=True)


# --- rows are what a hook sees at the tokens


@pytest.mark.few(6)
@pytest.mark.parametrize("where", PADDED)
@pytest.mark.parametrize(
    ("family", "glob", "n_sites"),
    [
        ("gpt2", "**.{mlp,ln_1,c_attn}", 9),
        ("llama", "**.{mlp,up_proj}", 6),
        ("opt", "**.fc{1,2}", 6),
    ],
)
def test_rows_are_a_hooks_tensor_indexed_by_the_mask(where, family, glob, n_sites):
    model, (batch, mask) = tiny.build(family), padded(where)
    with probekit.record(model, glob, mask=batch["attention_mask"]) as rec, torch.no_grad():
        model(**batch)
    paths = [name.removesuffix("/output") for name in rec]
    assert len(paths) == n_sites
    for path, (tensor,) in hooked(model, paths, lambda: model(**batch)).items():
        by_text = tensor.reshape(N_TEXTS, WIDTH, -1)  # OPT's MLP flattens them
        same(rec[path], by_text[mask])
        assert rec.n_rows(path) == tuple(mask.sum(1))
        for text in range(N_TEXTS):
            same(rec.example(path, text), by_text[text][mask[text]])
        same(rec.example(path, -1), by_text[-1][mask[-1]])


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("family", "where"),
    [*(("gpt2", where) for where in PADDED), ("gemma2", "left"), ("qwen3", "both and between")],
)
def test_attention_is_by_token_head_and_key_of_its_own_text(family, where):
    model, (batch, mask) = tiny.build(family, attn_implementation="eager"), padded(where)
    kinds = ["pattern", "scores", "q", "v", "z"]
    with torch.no_grad():
        wanted = model(**batch, output_attentions=True).attentions
        with probekit.record(model, kinds, mask=batch["attention_mask"]) as rec:
            model(**batch)
    width = mask.sum(1).max()
    for layer, weights in enumerate(wanted):
        rows = np.zeros((mask.sum(), tiny.N_HEADS, width), dtype=np.float32)
        texts = []
        for own, one in zip(mask, weights.numpy(), strict=True):
            inner = one[:, own][..., own]
            texts.append(inner)
            begin = sum(text.shape[1] for text in texts[:-1])
            rows[begin : begin + own.sum(), :, : own.sum()] = inner.transpose(1, 0, 2)
        same(rec.select("pattern", layer=layer), rows)
        site = [name for name in rec if name.endswith("/pattern")][layer]
        for text, inner in enumerate(texts):
            same(rec.example(site, text), inner)
        scores = rec.select("scores", layer=layer)
        assert torch.equal(torch.isinf(scores), torch.from_numpy(rows == 0))
        softmax = torch.softmax(scores, -1)
        assert torch.allclose(softmax, torch.from_numpy(rows), atol=1e-6)
    for kind in ("q", "v", "z"):
        with probekit.record(model, kind) as whole, torch.no_grad():
            model(**batch)
        same(rec.select(kind, layer=1), whole.select(kind, layer=1).numpy()[mask])


@pytest.mark.parametrize("family", ["opt", "phi3"])
def test_rows_are_those_of_a_trace_bit_for_bit(tmp_path, family):
    folder = by_hand.save_tiny(tmp_path / "model", family)
    kinds = ["pattern", "scores", "q", "k", "v", "z", "z_kernel"]
    probes = [{"modules": "**.self_attn", "record": kinds}, {"sites": ["resid_post", "mlp_out"]}]
    trace = probekit.run(
        by_hand.config(folder, tmp_path / "t", probes=probes, inputs__batch_tokens=1000)
    )
    (order,) = by_hand.batches(batch_tokens=1000)
    batch = by_hand.pad([by_hand.EXAMPLES[number] for number in order])
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad(), probekit.record(model, [*trace], mask=batch["attention_mask"]) as rec:
        model(**batch, use_cache=False)
    assert len(rec) == len(trace.site_names) == 27
    for name in rec:
        assert rec[name].shape == trace[name].shape
        for text, number in enumerate(order):
            same(rec.example(name, text), np.asarray(trace[name].example(number)))


def test_rows_are_what_each_text_gives_alone():
    model, (batch, mask) = tiny.build("llama"), padded("left")
    with torch.no_grad():
        with probekit.record(model, ["resid_post", "pattern"], mask=mask) as rec:
            model(**batch)
        for text, own in enumerate(mask):
            alone = batch["input_ids"][text : text + 1, own]
            with probekit.record(model, ["resid_post", "pattern"]) as single:
                model(alone)
            for name in rec:
                assert torch.allclose(rec.example(name, text), single[name][0], atol=1e-5)


@pytest.mark.parametrize("as_given", [torch.from_numpy, np.asarray, np.ndarray.tolist])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_a_mask_may_be_booleans_or_whole_numbers_of_any_kind(as_given, dtype):
    model, (batch, mask) = tiny.build("gpt2"), padded("left", 1)
    path = "transformer.h.0.mlp"
    with torch.no_grad(), probekit.record(model, path, mask=as_given(mask.astype(dtype))) as rec:
        model(**batch)
    (tensor,) = hooked(model, [path], lambda: model(**batch))[path]
    same(rec[path], tensor[mask])


# --- modules that flatten, transpose, run twice


class Odd(nn.Module):
    """Not of transformers: every way of laying a batch out."""

    def __init__(self, size: int = WIDTH) -> None:
        super().__init__()
        self.embed = nn.Embedding(101, size)
        self.conv = nn.Conv1d(size, size, 3, padding=1)
        self.longer = nn.Conv1d(size, size, 3, padding=2)
        self.turned = nn.Linear(size, size)
        self.pooled = nn.Linear(size, size)
        self.pairs = Outer()
        self.shared = nn.Linear(size, size)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        self.longer(x.transpose(1, 2))
        self.pairs(x)
        self.shared(torch.ones(ids.shape[1], x.shape[-1]))
        x = x + self.turned(self.turned(x.transpose(0, 1))).transpose(0, 1)
        return x + self.pooled(x.mean(1))[:, None]


class Outer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x.transpose(1, 2)


class Flat(nn.Module):
    """Flattens a batch, its texts or its positions first."""

    def __init__(self, *, is_text_by_text: bool) -> None:
        super().__init__()
        self.is_text_by_text = is_text_by_text
        self.embed = nn.Embedding(101, WIDTH)
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x if self.is_text_by_text else x.transpose(0, 1)
        return self.inner(x.reshape(-1, WIDTH))


def test_axes_are_told_by_how_they_move_not_by_their_size():
    torch.manual_seed(0)
    model, (batch, mask) = Odd(), padded("both and between")
    ids = batch["input_ids"]  # as many positions as channels
    with probekit.record(model, ["embed", "conv", "turned", "pooled"], mask=mask) as rec:
        model(ids)
        model(ids.flip(0))
    for number, given in enumerate((ids, ids.flip(0))):
        seen = hooked(
            model, ["embed", "conv", "turned", "pooled"], lambda given=given: model(given)
        )
        same(rec.calls("embed")[number], seen["embed"][0][mask])
        same(rec.calls("conv")[number], seen["conv"][0].transpose(0, 2, 1)[mask])
        for call in (0, 1):
            wanted = seen["turned"][call].transpose(1, 0, 2)[mask]
            same(rec.calls("turned")[2 * number + call], wanted)
        same(rec.calls("pooled")[number], seen["pooled"][0])
    assert rec.n_rows("pooled") == (1, 1, 1), "it has no token axis: one row a text"
    same(rec.example("pooled", 1), seen["pooled"][0][1:2])


def test_one_call_of_several_has_its_own_rows():
    torch.manual_seed(0)
    model, (batch, mask) = Odd(), padded("right")
    with probekit.record(model, ["turned/output@1", "turned/input@0"], mask=mask) as rec:
        model(batch["input_ids"])
    seen = hooked(model, ["turned"], lambda: model(batch["input_ids"]))["turned"]
    same(rec["turned/output@1"], seen[1].transpose(1, 0, 2)[mask])
    assert rec["turned/input@0"].shape == (mask.sum(), WIDTH)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("longer", r"longer/output: it is \[batch, 8, \?\]: no axis of it is the tokens'"),
        ("pairs", r"\[batch, position, position\], with two position axes; ask for the pattern"),
        ("shared", r"\[position, 8\], the same for every text: it has no rows of tokens"),
    ],
)
def test_what_has_no_rows_of_tokens_is_refused_before_the_pass_goes_on(path, said):
    model, (batch, mask) = Odd(), padded("right")
    ran: list[int] = []
    model.embed.register_forward_hook(lambda *_: ran.append(1))
    before = by_hand.n_hooks(model)
    with pytest.raises(CaptureError, match=said), probekit.record(model, path, mask=mask):
        model(batch["input_ids"])
    assert not ran
    assert by_hand.n_hooks(model) == before


def test_all_that_is_refused_is_named_together():
    model, (batch, mask) = Odd(), padded("right")
    with pytest.raises(CaptureError) as caught, probekit.record(model, "**", mask=mask):
        model(batch["input_ids"])
    assert len(str(caught.value).splitlines()) == 3


def test_flattened_places_are_taken_text_by_text_or_refused():
    batch, mask = padded("left")
    model = Flat(is_text_by_text=True)
    with probekit.record(model, "inner", mask=mask) as rec:
        model(batch["input_ids"])
    (wanted,) = hooked(model, ["inner"], lambda: model(batch["input_ids"]))["inner"]
    same(rec["inner"], wanted.reshape(N_TEXTS, WIDTH, -1)[mask])
    said = r"inner/output: it is \[token, 8\], texts and positions in one axis, and in which"
    for other in (Flat(is_text_by_text=False), Sorted(is_text_by_text=True)):
        with pytest.raises(CaptureError, match=said), probekit.record(other, "inner", mask=mask):
            other(batch["input_ids"])


def test_blocks_of_experts_flatten_a_batch_and_their_rows_are_tokens():
    model, (batch, mask) = every_family.build("qwen2_moe"), padded("left")
    asked = ["**.1.mlp", "**.1.mlp.gate", "**.1.mlp.shared_expert", "**.1.mlp.experts"]
    with torch.no_grad(), probekit.record(model, asked, mask=mask) as rec:
        model(**batch)
    paths = [name.removesuffix("/output") for name in rec]
    for path, (tensor,) in hooked(model, paths, lambda: model(**batch)).items():
        same(rec[path], tensor.reshape(N_TEXTS, WIDTH, -1)[mask])


def test_what_runs_inside_of_experts_is_refused():
    model, (batch, mask) = every_family.build("zaya"), padded("right")
    said = "inside of experts, which get the tokens in the order that routing gives"
    with (
        pytest.raises(CaptureError, match=said),
        probekit.record(model, "**.experts.act_fn", mask=mask),
    ):
        model(**batch)


class Sorted(Flat):
    """Sorts the places by what they hold."""

    def forward(self, ids: Tensor) -> Tensor:
        order = ids.flatten().argsort()
        return self.inner(self.embed(ids).reshape(-1, WIDTH)[order])


class Routed(nn.Module):
    """Each expert is a module that gets the tokens that chose it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(101, WIDTH)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).flatten(0, 1)
        for number, expert in enumerate(self.experts):
            chosen = (ids.flatten() % 2 == number).nonzero()[:, 0]
            x = x.index_add(0, chosen, expert(x.index_select(0, chosen)))
        return x


def test_an_expert_that_gets_some_of_the_tokens_is_refused():
    model, (batch, mask) = Routed(), padded("right")
    said = r"experts\.0/output, experts\.1/output: it gets those places alone that its model's"
    with (
        pytest.raises(CaptureError, match=said),
        probekit.record(model, "experts.*", mask=mask),
    ):
        model(batch["input_ids"])


# --- passes with a cache


def generate(model: Any, batch: dict[str, Tensor], n: int, **more: Any) -> Tensor:
    given = {k: v for k, v in batch.items() if k != "position_ids"}
    with torch.no_grad():
        ids: Tensor = model.generate(
            **given, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0, **more
        )
    return ids


@pytest.mark.parametrize("family", ["gpt2", "mistral"])  # the latter forgets all but 8 positions
def test_what_comes_after_the_prompt_of_a_lone_text_counts_as_tokens(family):
    model = tiny.build(family, attn_implementation="eager")
    batch, mask = padded("left", 1)
    mask[0, 3] = False  # 4 tokens behind 4 places of padding
    batch["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
    with probekit.record(model, ["mlp_out", "pattern", "logits"], mask=mask) as rec:
        ids = generate(model, batch, 4)
    site = next(name for name in rec if name.endswith("mlp/output"))
    assert [len(call) for call in rec.calls(site)] == [4, 1, 1, 1]
    assert [len(call) for call in rec.calls("lm_head")] == [1, 1, 1, 1], "of the last position"
    pattern = next(name for name in rec if name.endswith("/pattern"))
    assert [tuple(c.shape) for c in rec.calls(pattern)] == [
        *((4, 4, 4), (1, 4, 5), (1, 4, 6), (1, 4, 7))
    ]
    whole = ids[:, 4:-1]  # the text alone, without what was generated last
    with torch.no_grad(), probekit.record(model, ["mlp_out", "pattern"]) as alone:
        model(whole, use_cache=False)
    assert torch.allclose(torch.cat(rec.calls(site)), alone[site][0], atol=1e-5)
    for step, call in enumerate(rec.calls(pattern)[1:], start=4):
        wanted = alone[pattern][0, :, step, : step + 1]
        assert torch.allclose(call[0], wanted, atol=1e-5)


def test_of_several_texts_that_are_gone_on_from_a_longer_mask_says_which_are_tokens():
    model, (batch, mask) = tiny.build("gpt2"), padded("left")
    with (
        pytest.raises(CaptureError, match=r"reads position 8, and the mask has 8: of 3 texts.*pad"),
        probekit.record(model, "mlp_out", mask=mask),
    ):
        generate(model, batch, 3)
    longer = np.pad(mask, ((0, 0), (0, 3)), constant_values=True)
    longer[1, 9:] = False  # the second text ended early
    with probekit.record(model, ["transformer.h.1.mlp", "logits"], mask=longer) as rec:
        generate(model, batch, 3)
    path = "transformer.h.1.mlp"
    seen = hooked(model, [path, "lm_head"], lambda: generate(model, batch, 3))
    wanted = [seen[path][0][mask], seen[path][1][:, 0], seen[path][2][[0, 2], 0]]
    for found, rows in zip(rec.calls(path), wanted, strict=True):
        same(found, rows)
    same(rec.calls("lm_head")[0], seen["lm_head"][0][:, 0])
    assert rec.n_rows(path) == (1, 0, 1)


def test_a_state_that_does_not_say_how_far_it_is_is_refused():
    model, (batch, mask) = tiny.build("gpt2"), padded("right")
    with (
        pytest.raises(CaptureError, match="goes on from a state that does not say how many"),
        probekit.record(model, "mlp_out", mask=mask),
    ):
        model(batch["input_ids"], past_key_values=object())


# --- a mask that is none, or another's

INPUTS, MASK = padded("right")


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (MASK[0], r"mask is \[8\]; expected \[batch, pos\] of 0 and 1.*of one text, give mask\[No"),
        (MASK[:, None, None], r"mask is \[3, 1, 1, 8\].*made of it, for the kernel"),
        (MASK[:0], r"mask is \[0, 8\]; expected"),
        (MASK.astype(np.float32), r"float32 numbers.*mask == 0.*mask.bool\(\)"),
        (torch.where(torch.tensor(MASK), 0.0, -torch.inf).bfloat16(), "added to scores"),
        (MASK.astype(int) * 2, r"mask has 15 values such as 2; expected"),
        (np.where(MASK, 0, -10000), r"mask has \d+ values such as -10000"),
        (
            MASK & np.array([[True], [False], [False]]),
            r"text 1 has no token \(2 of 3 texts have none\); leave",
        ),
        (torch.ones(2, 3, device="meta"), "on the device 'meta', without values"),
        ([[1, 1], [1]], "rows of different lengths"),
        ("1101", r"mask is '1101' \(text\); expected"),
        (INPUTS, r"mask is \{.*\(a mapping\); expected .*inputs\[\"attention_mask\"\]"),
        ([["a"]], "mask is text; expected"),
    ],
)
def test_a_mask_that_is_none_is_refused_with_what_to_give(mask, said):
    model = tiny.build("gpt2")
    with pytest.raises(PlanError, match=f"record: .*{said}"):
        probekit.record(model, "mlp_out", mask=mask)


LEFT, LEFT_MASK = padded("left")
NO_POSITIONS = r"text 0 is padded in front of its tokens.*no position_ids.*mask.cumsum\(-1\) - 1"


@pytest.mark.few(4)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "biogpt"])
@pytest.mark.parametrize("where", ["left", "both and between"])
def test_positions_that_count_padding_are_refused(family, where):
    model, (batch, mask) = every_family.build(family), padded(where)
    del batch["position_ids"]
    with (
        pytest.raises(CaptureError, match=NO_POSITIONS),
        probekit.record(model, "**.0", mask=mask),
    ):
        model(**batch)
    assert by_hand.n_hooks(model) == 0


def test_positions_that_count_padding_give_other_values():
    model, (batch, mask) = tiny.build("gpt2"), padded("left")
    path, own = "transformer.h.1", mask[0]
    (alone,) = hooked(model, [path], lambda: model(batch["input_ids"][:1, own]))[path]
    unnumbered = {k: v for k, v in batch.items() if k != "position_ids"}
    for given, is_same in ((unnumbered, False), (batch, True)):
        (rows,) = hooked(model, [path], lambda given=given: model(**given))[path]
        assert np.allclose(rows[0, own], alone[0], atol=1e-5) is is_same


@pytest.mark.few(3)
@pytest.mark.parametrize("family", ["opt", "bloom", "falcon", "roberta", "esm", "mamba"])
def test_models_that_number_tokens_by_themselves_need_no_positions(family):
    sizes = {"falcon": {"alibi": True}, "esm": {"vocab_size": 101, "pad_token_id": 0}}
    more = tiny.MULTI_HEAD | {"pad_token_id": 0} | sizes.get(family, {})
    config = AutoConfig.for_model(family, **more)
    head = AutoModelForMaskedLM if family in ("roberta", "esm") else AutoModelForCausalLM
    model = head.from_config(config).eval()
    given = {k: v for k, v in LEFT.items() if k != "position_ids"}
    layers = next(path for path, m in model.named_modules() if isinstance(m, nn.ModuleList))
    path, own = f"{layers}.1", LEFT_MASK[0]
    with torch.no_grad(), probekit.record(model, path, mask=LEFT_MASK) as rec:
        model(**given)
    alone = given["input_ids"][:1, own]
    run = lambda: model(alone, attention_mask=torch.ones_like(alone))  # noqa: E731
    (wanted,) = hooked(model, [path], run)[path]
    np.testing.assert_allclose(rec.example(path, 0).numpy(), wanted[0], atol=1e-4)


@pytest.mark.parametrize(
    ("family", "where", "text"), [("gpt2", "left", 0), ("bloom", "left", 0), ("bert", "right", 1)]
)
def test_a_model_that_is_told_of_no_padding_is_refused(family, where, text):
    config = AutoConfig.for_model(family, **tiny.MULTI_HEAD)
    head = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    model, (batch, mask) = head.from_config(config).eval(), padded(where)
    said = rf"text {text} is padded and the model is given no attention_mask.*attention_mask=mask"
    with (
        pytest.raises(CaptureError, match=said),
        probekit.record(model, "**.0", mask=mask),
    ):
        model(batch["input_ids"])


def test_of_a_causal_model_padding_behind_all_tokens_need_not_be_told():
    model = tiny.build("gpt2")
    given = {k: v for k, v in INPUTS.items() if k == "input_ids"}
    with torch.no_grad(), probekit.record(model, "transformer.h.1", mask=MASK) as rec:
        model(**given)
    alone = INPUTS["input_ids"][1:2, MASK[1]]
    (wanted,) = hooked(model, ["transformer.h.1"], lambda: model(alone))["transformer.h.1"]
    np.testing.assert_allclose(rec.example("transformer.h.1", 1).numpy(), wanted[0], atol=1e-5)


def run_with(**more: Any) -> dict[str, Any]:
    return {k: v for k, v in (INPUTS | more).items() if v is not None}


@pytest.mark.parametrize(
    ("mask", "given", "said"),
    [
        (MASK[:2], INPUTS, r"mask is \[2, 8\]; the model is called with 3 texts: \[3, 8\]"),
        (MASK[:, :7], INPUTS, r"mask is \[3, 7\]; the model reads 8 positions: .*very batch"),
        (np.pad(MASK, ((0, 0), (0, 1))), INPUTS, "the model reads 8 positions"),
        (MASK[::-1], INPUTS, "another attention_mask: of text 0 they differ at position 2"),
        (MASK, run_with(position_ids=None), r"wpe/output is \[1, 8, 32\]; on plain.*position_ids"),
    ],
)
def test_a_mask_of_another_batch_is_refused(mask, given, said):
    model = tiny.build("gpt2")
    with pytest.raises(CaptureError, match=said), probekit.record(model, "**.wpe", mask=mask):
        model(**given)
    assert by_hand.n_hooks(model) == 0


def test_a_module_that_is_called_alone_is_refused():
    model = tiny.build("gpt2")
    said = r"h.0.mlp/output: it ran outside of a call of GPT2LMHeadModel"
    with pytest.raises(CaptureError, match=said), probekit.record(model, "mlp_out", mask=MASK):
        model.transformer.h[0].mlp(torch.ones(3, 8, 32))


def test_tokens_that_look_at_padding_are_refused():
    config = AutoConfig.for_model("bert", **tiny.MULTI_HEAD)
    model = AutoModelForMaskedLM.from_config(config).eval()
    asked = "**.attention.self/pattern"
    with (
        pytest.raises(CaptureError, match=r"self/pattern: tokens of text 1 look at padding; give"),
        probekit.record(model, asked, mask=MASK),
    ):  # a mask of its own for every query, which says that all keys are tokens
        model(INPUTS["input_ids"], attention_mask=torch.ones(3, 1, 8, 8))
    with torch.no_grad(), probekit.record(model, [asked, "**.layer.*"], mask=MASK) as rec:
        model(INPUTS["input_ids"], attention_mask=INPUTS["attention_mask"])
    for name in rec:
        if name.endswith("pattern"):
            assert torch.allclose(rec[name].sum(-1), torch.ones(()), atol=1e-6)


def test_a_model_of_two_sequences_is_refused():
    config = AutoConfig.for_model("bart", d_model=32, vocab_size=101, encoder_layers=1)
    model = BartModel(config).eval()
    said = "reads two sequences, and one mask cannot say of which"
    with pytest.raises(CaptureError, match=said), probekit.record(model, "**.fc1", mask=MASK):
        model(INPUTS["input_ids"], decoder_input_ids=INPUTS["input_ids"])


# --- what stays as it was


def test_no_mark_is_left_and_nobody_elses_hook_is_told():
    model = tiny.build("gpt2").train()
    told: list[str] = []
    model.transformer.h[0].register_forward_hook(lambda *_: told.append("after"))
    model.transformer.h[0].register_forward_pre_hook(lambda *_: told.append("before"))
    before, state = by_hand.n_hooks(model), {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(5)
    model(**INPUTS)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    with probekit.record(model, ["mlp_out", "pattern"], mask=MASK):
        model(**INPUTS)
    assert torch.equal(torch.get_rng_state(), after), "looking at axes draws no random number"
    assert told == ["before", "after"] * 2, "once for each pass"
    assert by_hand.n_hooks(model) == before
    assert model.training
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())


def test_logits_are_the_same_bits():
    model = tiny.build("gemma2")
    with torch.no_grad():
        wanted = model(**INPUTS).logits
        with probekit.record(model, ["model.layers.*", "pattern", "z"], mask=MASK):
            assert torch.equal(model(**INPUTS).logits, wanted)


def test_what_is_live_is_as_the_model_went_on_with_it_and_rows_carry_gradients():
    model = tiny.build("gpt2")
    with probekit.record(model, "transformer.h.1", mask=MASK) as rec:
        loss = model(**INPUTS).logits.sum()
    (live,) = rec.live("transformer.h.1")
    assert live.shape == (3, 8, 32)
    (gradient,) = torch.autograd.grad(loss, live, retain_graph=True)
    assert gradient.abs().sum() > 0
    (weights,) = torch.autograd.grad(rec["transformer.h.1"].sum(), model.transformer.wpe.weight)
    assert weights.abs().sum() > 0


def test_a_tensor_that_is_changed_later_has_the_rows_that_the_module_gave():
    model = every_family.build("falcon")
    paths = ["transformer.h.0.mlp", "transformer.h.1.mlp"]
    seen = hooked(model, paths, lambda: model(**INPUTS))
    with torch.enable_grad(), probekit.record(model, paths, mask=MASK) as rec:
        model(**INPUTS)
    for path in paths:
        same(rec[path], seen[path][0][MASK])


def test_a_model_that_is_wrapped_or_without_its_head_has_the_same_rows():
    model = tiny.build("gpt2")
    asked = ["**.mlp", "**.attn/pattern"]
    with torch.no_grad(), probekit.record(model, asked, mask=MASK) as plain:
        model(**INPUTS)
    holder = nn.ModuleDict({"base": model})
    parts = [
        (nn.DataParallel(model), model, "module."),
        (holder, model, "base."),
        (model.transformer, model.transformer, None),
    ]
    for around, called, before in parts:
        with torch.no_grad(), probekit.record(around, asked, mask=MASK) as rec:
            called(**INPUTS)
        assert len(rec) == len(plain) == 6
        for name in plain:
            there = name.removeprefix("transformer.") if before is None else before + name
            assert torch.equal(rec[there], plain[name])


def test_rows_by_text_need_a_mask():
    model = tiny.build("gpt2")
    with probekit.record(model, "mlp_out") as rec:
        model(**INPUTS)
    for ask in (lambda: rec.example("transformer.h.0.mlp", 0), lambda: rec.n_rows("mlp_out")):
        with pytest.raises(CaptureError, match=r"give record\(..., mask=attention_mask\) to read"):
            ask()
    with probekit.record(model, "transformer.h.0.mlp", mask=MASK) as rec:
        with pytest.raises(CaptureError, match="has not run yet"):
            rec.n_rows("transformer.h.0.mlp")
        model(**INPUTS)
    with pytest.raises(CaptureError, match="there is no text 3; there are 3: 0 to 2"):
        rec.example("transformer.h.0.mlp", 3)
