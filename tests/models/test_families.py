"""The oracle: each family's residual stream, worked out by hand from the model's own weights."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib import resources
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models as tiny
import torch
from tiny_models import batch, build, real, watch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from probekit.errors import PlanError
from probekit.models.families import (
    ATTENTION_NAMES,
    FAMILIES,
    PORTABLE_NAMES,
    Place,
    Sizes,
    family_of,
    places,
    portable_names,
    sizes,
)

Inputs = dict[str, Tensor]
Values = dict[tuple[str, int | None], Tensor]  # (name, layer) -> [batch, pos, d]
Activation = Callable[[Tensor], Tensor]

gelu_tanh = partial(functional.gelu, approximate="tanh")
silu = functional.silu

# --- The families by hand: the modelling code of each, read and written out again ---


def walk(
    embed: Tensor,
    resid: Tensor,
    blocks: Iterable[Any],
    step: Callable[[int, Any, Tensor], dict[str, Tensor]],
    norm: Callable[[Tensor], Tensor],
    head: Any,
) -> Values:
    """Carry the residual stream through the blocks and keep what each `step` says it saw."""
    values: Values = {("embed", None): embed}
    for layer, block in enumerate(blocks):
        here = step(layer, block, resid)
        values |= {(name, layer): value for name, value in here.items()}
        resid = here["resid_post"]
    final = norm(resid)
    logits = final @ head.weight.T + (0 if head.bias is None else head.bias)
    return values | {("ln_final", None): final, ("logits", None): logits}


def causal_mask(inputs: Inputs, window: int = tiny.N_CTX) -> Tensor:
    """What a query may not see, as a term to add to its scores: [batch, 1, query, key]."""
    key = torch.arange(inputs["input_ids"].shape[1])
    query = key[:, None]
    seen = (key <= query) & (query - key < window)
    seen = seen & inputs["attention_mask"].bool()[:, None, None, :]
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)


def plain(up: Any, down: Any, x: Tensor, act: Activation) -> tuple[Tensor, Tensor]:
    post = act(x @ up.weight.T + up.bias)
    return post, post @ down.weight.T + down.bias


def gated(mlp: Any, x: Tensor, act: Activation) -> tuple[Tensor, Tensor]:
    post = act(x @ mlp.gate_proj.weight.T) * (x @ mlp.up_proj.weight.T)
    return post, post @ mlp.down_proj.weight.T


def fused_gated(mlp: Any, x: Tensor, act: Activation) -> tuple[Tensor, Tensor]:
    gate, up = (x @ mlp.gate_up_proj.weight.T).chunk(2, dim=-1)
    post = act(gate) * up
    return post, post @ mlp.down_proj.weight.T


def ungated(mlp: Any, x: Tensor, act: Activation) -> tuple[Tensor, Tensor]:
    return plain(mlp.c_fc, mlp.c_proj, x, act)


def sequential(resid: Tensor, attn_out: Tensor, mlp: Callable[[Tensor], Any]) -> dict[str, Tensor]:
    mid = resid + attn_out
    post, mlp_out = mlp(mid)
    return {
        "resid_pre": resid,
        "attn_out": attn_out,
        "resid_mid": mid,
        "mlp_post": post,
        "mlp_out": mlp_out,
        "resid_post": mid + mlp_out,
    }


def parallel(resid: Tensor, attn_out: Tensor, mlp: Callable[[Tensor], Any]) -> dict[str, Tensor]:
    post, mlp_out = mlp(resid)
    return {
        "resid_pre": resid,
        "attn_out": attn_out,
        "mlp_post": post,
        "mlp_out": mlp_out,
        "resid_post": resid + attn_out + mlp_out,
    }


def llama(
    model: Any,
    inputs: Inputs,
    act: Activation = silu,
    mlp: Callable[[Any, Tensor, Activation], tuple[Tensor, Tensor]] = gated,
    window: int = tiny.N_CTX,
    scale: float = 1.0,
) -> Values:
    trunk, mask = model.model, causal_mask(inputs, window)
    embed = trunk.embed_tokens.weight[inputs["input_ids"]] * scale
    rope = trunk.rotary_emb(embed, inputs["position_ids"])

    def step(_: int, block: Any, resid: Tensor) -> dict[str, Tensor]:
        attn = block.self_attn(
            block.input_layernorm(resid), position_embeddings=rope, attention_mask=mask
        )
        return sequential(
            resid, attn[0], lambda mid: mlp(block.mlp, block.post_attention_layernorm(mid), act)
        )

    return walk(embed, embed, trunk.layers, step, trunk.norm, model.lm_head)


def stablelm(model: Any, inputs: Inputs) -> Values:
    if not model.config.use_parallel_residual:
        return llama(model, inputs)
    trunk, mask = model.model, causal_mask(inputs)
    embed = trunk.embed_tokens.weight[inputs["input_ids"]]
    rope = trunk.rotary_emb(embed, inputs["position_ids"])

    def step(_: int, block: Any, resid: Tensor) -> dict[str, Tensor]:
        normed = block.input_layernorm(resid)
        attn = block.self_attn(normed, position_embeddings=rope, attention_mask=mask)
        return parallel(resid, attn[0], lambda _: gated(block.mlp, normed, silu))

    return walk(embed, embed, trunk.layers, step, trunk.norm, model.lm_head)


def phi(model: Any, inputs: Inputs) -> Values:
    trunk, mask = model.model, causal_mask(inputs)
    embed = trunk.embed_tokens.weight[inputs["input_ids"]]
    rope = trunk.rotary_emb(embed, inputs["position_ids"])

    def step(_: int, block: Any, resid: Tensor) -> dict[str, Tensor]:
        normed = block.input_layernorm(resid)
        attn = block.self_attn(normed, position_embeddings=rope, attention_mask=mask)
        return parallel(
            resid, attn[0], lambda _: plain(block.mlp.fc1, block.mlp.fc2, normed, gelu_tanh)
        )

    return walk(embed, embed, trunk.layers, step, trunk.final_layernorm, model.lm_head)


def olmo2(model: Any, inputs: Inputs) -> Values:
    trunk, mask = model.model, causal_mask(inputs)
    embed = trunk.embed_tokens.weight[inputs["input_ids"]]
    rope = trunk.rotary_emb(embed, inputs["position_ids"])

    def step(_: int, block: Any, resid: Tensor) -> dict[str, Tensor]:
        attn = block.self_attn(resid, position_embeddings=rope, attention_mask=mask)[0]

        def mlp(mid: Tensor) -> tuple[Tensor, Tensor]:
            post, out = gated(block.mlp, mid, silu)
            return post, block.post_feedforward_layernorm(out)

        return sequential(resid, block.post_attention_layernorm(attn), mlp)

    return walk(embed, embed, trunk.layers, step, trunk.norm, model.lm_head)


def gemma_sandwich(model: Any, inputs: Inputs, rope: Callable[[int, Tensor], Any]) -> Values:
    """Gemma 2 and 3: norms before and after each half; windows on layers 0 and 2."""
    trunk = model.model
    masks = [causal_mask(inputs, window) for window in (tiny.WINDOW, tiny.N_CTX, tiny.WINDOW)]
    embed = trunk.embed_tokens.weight[inputs["input_ids"]] * tiny.D_MODEL**0.5

    def step(layer: int, block: Any, resid: Tensor) -> dict[str, Tensor]:
        attn = block.self_attn(
            block.input_layernorm(resid),
            position_embeddings=rope(layer, embed),
            attention_mask=masks[layer],
        )[0]

        def mlp(mid: Tensor) -> tuple[Tensor, Tensor]:
            post, out = gated(block.mlp, block.pre_feedforward_layernorm(mid), gelu_tanh)
            return post, block.post_feedforward_layernorm(out)

        return sequential(resid, block.post_attention_layernorm(attn), mlp)

    return walk(embed, embed, trunk.layers, step, trunk.norm, model.lm_head)


def gemma2(model: Any, inputs: Inputs) -> Values:
    def rope(_: int, x: Tensor) -> Any:
        return model.model.rotary_emb(x, inputs["position_ids"])

    return gemma_sandwich(model, inputs, rope)


def gemma3(model: Any, inputs: Inputs) -> Values:
    kinds = ("sliding_attention", "full_attention", "sliding_attention")

    def rope(layer: int, x: Tensor) -> Any:
        return model.model.rotary_emb(x, inputs["position_ids"], kinds[layer])

    return gemma_sandwich(model, inputs, rope)


def gpt2(model: Any, inputs: Inputs) -> Values:
    trunk, mask = model.transformer, causal_mask(inputs)
    embed = trunk.wte.weight[inputs["input_ids"]]

    def conv1d(layer: Any, x: Tensor) -> Tensor:  # Conv1D keeps its weight as [in, out]
        out: Tensor = x @ layer.weight + layer.bias
        return out

    def step(_: int, block: Any, resid: Tensor) -> dict[str, Tensor]:
        attn = block.attn(block.ln_1(resid), attention_mask=mask)

        def mlp(mid: Tensor) -> tuple[Tensor, Tensor]:
            post = gelu_tanh(conv1d(block.mlp.c_fc, block.ln_2(mid)))
            return post, conv1d(block.mlp.c_proj, post)

        return sequential(resid, attn[0], mlp)

    resid = embed + trunk.wpe.weight[inputs["position_ids"]]
    return walk(embed, resid, trunk.h, step, trunk.ln_f, model.lm_head)


def gpt_neo(model: Any, inputs: Inputs) -> Values:
    trunk, mask = model.transformer, causal_mask(inputs)
    embed = trunk.wte.weight[inputs["input_ids"]]

    def step(_: int, block: Any, resid: Tensor) -> dict[str, Tensor]:
        attn = block.attn(block.ln_1(resid), attention_mask=mask)
        return sequential(
            resid, attn[0], lambda mid: ungated(block.mlp, block.ln_2(mid), gelu_tanh)
        )

    resid = embed + trunk.wpe.weight[inputs["position_ids"]]
    return walk(embed, resid, trunk.h, step, trunk.ln_f, model.lm_head)


def gptj(model: Any, inputs: Inputs) -> Values:
    trunk, mask = model.transformer, causal_mask(inputs)
    embed = trunk.wte.weight[inputs["input_ids"]]

    def step(_: int, block: Any, resid: Tensor) -> dict[str, Tensor]:
        normed = block.ln_1(resid)
        attn = block.attn(normed, attention_mask=mask, position_ids=inputs["position_ids"])
        return parallel(
            resid,
            attn[0],
            lambda _: plain(block.mlp.fc_in, block.mlp.fc_out, normed, gelu_tanh),
        )

    return walk(embed, embed, trunk.h, step, trunk.ln_f, model.lm_head)


def gpt_neox(model: Any, inputs: Inputs) -> Values:
    trunk, mask = model.gpt_neox, causal_mask(inputs)
    embed = trunk.embed_in.weight[inputs["input_ids"]]
    rope = trunk.rotary_emb(embed, inputs["position_ids"])
    join = parallel if model.config.use_parallel_residual else sequential

    def step(_: int, block: Any, resid: Tensor) -> dict[str, Tensor]:
        attn = block.attention(
            block.input_layernorm(resid), attention_mask=mask, position_embeddings=rope
        )

        def mlp(x: Tensor) -> tuple[Tensor, Tensor]:
            up, down = block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h
            return plain(up, down, block.post_attention_layernorm(x), functional.gelu)

        return join(resid, attn[0], mlp)

    return walk(embed, embed, trunk.layers, step, trunk.final_layer_norm, model.lm_head)


def opt(model: Any, inputs: Inputs) -> Values:
    trunk, mask = model.model.decoder, causal_mask(inputs)
    embed = trunk.embed_tokens.weight[inputs["input_ids"]]

    def step(_: int, block: Any, resid: Tensor) -> dict[str, Tensor]:
        attn = block.self_attn(block.self_attn_layer_norm(resid), attention_mask=mask)
        return sequential(
            resid,
            attn[0],
            lambda mid: plain(block.fc1, block.fc2, block.final_layer_norm(mid), functional.relu),
        )

    # OPT's table of positions starts with two rows that no token uses.
    resid = embed + trunk.embed_positions.weight[inputs["position_ids"] + 2]
    return walk(embed, resid, trunk.layers, step, trunk.final_layer_norm, model.lm_head)


def post_norm_opt(model: Any, inputs: Inputs) -> Values:
    """OPT-350m: narrow embeddings, and the stream itself is normed, so it has no mid or post."""
    trunk, mask = model.model.decoder, causal_mask(inputs)
    narrow = trunk.embed_tokens.weight[inputs["input_ids"]]
    resid = narrow @ trunk.project_in.weight.T
    resid = resid + trunk.embed_positions.weight[inputs["position_ids"] + 2]
    values: Values = {}
    for layer, block in enumerate(trunk.layers):
        attn_out = block.self_attn(resid, attention_mask=mask)[0]
        mid = block.self_attn_layer_norm(resid + attn_out)
        post, mlp_out = plain(block.fc1, block.fc2, mid, functional.relu)
        here = {"resid_pre": resid, "attn_out": attn_out, "mlp_post": post, "mlp_out": mlp_out}
        values |= {(name, layer): value for name, value in here.items()}
        resid = block.final_layer_norm(mid + mlp_out)
    logits = resid @ trunk.project_out.weight.T @ model.lm_head.weight.T
    return values | {("logits", None): logits}


gemma = partial(llama, act=gelu_tanh, scale=tiny.D_MODEL**0.5)
windowed = partial(llama, window=tiny.WINDOW)
starcoder2 = partial(windowed, mlp=ungated, act=gelu_tanh)
OPT_350M = {"do_layer_norm_before": False, "word_embed_proj_dim": 16}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A tiny model, what differs in its config, and its family by hand."""

    model_type: str
    by_hand: Callable[[Any, Inputs], Values]
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join((self.model_type, *(f"{k}={v}" for k, v in self.fields.items())))


CASES = (
    Case("gemma", gemma),
    Case("gemma2", gemma2),
    Case("gemma2", gemma2, {"final_logit_softcapping": None}),
    Case("gemma3_text", gemma3),
    Case("gpt2", gpt2),
    Case("gpt2", gpt2, {"n_inner": None}),
    Case("gpt_neo", gpt_neo),
    Case("gpt_neox", gpt_neox),
    Case("gpt_neox", gpt_neox, {"use_parallel_residual": False}),
    Case("gptj", gptj),
    Case("llama", llama),
    Case("mistral", windowed),
    Case("olmo", llama),
    Case("olmo2", olmo2),
    Case("opt", opt),
    Case("opt", post_norm_opt, OPT_350M),
    Case("phi", phi),
    Case("phi3", partial(windowed, mlp=fused_gated)),
    Case("qwen2", llama),
    Case("qwen3", llama),
    Case("smollm3", llama),
    Case("stablelm", stablelm),
    Case("stablelm", stablelm, {"use_parallel_residual": True}),
    Case("starcoder2", starcoder2),
)
BY_HAND = (  # the names that are worked out here; others have tests of their own
    *("embed", "resid_pre", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post"),
    *("ln_final", "logits"),
)
every_case = pytest.mark.parametrize("case", CASES, ids=str)
DERIVED = {"mistral", "olmo2", "qwen3"}  # taken out of the table: derived, and no worse for it
every_family = pytest.mark.parametrize("model_type", tiny.FAMILIES)


@dataclasses.dataclass(frozen=True)
class Run:
    """One forward pass of a case, seen three ways; real tokens only: [token, d]."""

    config: Any
    seen: Values  # by plain hooks, at the places of the table
    expected: Values  # by hand
    returned: Tensor  # the logits the model returned


@cache
def run(case: Case) -> Run:
    model, inputs = build(case.model_type, **case.fields), batch()
    with torch.no_grad():
        expected = case.by_hand(model, inputs)
        returned = model(**inputs).logits
    return Run(
        config=model.config,
        seen=read(model, inputs),
        expected={key: real(value, inputs) for key, value in expected.items()},
        returned=real(returned, inputs),
    )


def has(config: object, name: str) -> bool:
    try:
        places(config, name)
    except PlanError:
        return False
    return True


def read(model: Any, inputs: Inputs) -> Values:
    """Read every portable name but the tapped ones with plain hooks: real tokens only."""
    names = [n for n in BY_HAND if has(model.config, n)]
    where: dict[tuple[str, int | None], tuple[str, str]] = {
        (name, layer): (place.module, place.kind)
        for name in names
        for layer, place in places(model.config, name).items()
    }
    seen = watch(model, inputs, set(where.values()))
    return {key: real(seen[site], inputs) for key, site in where.items()}


def assert_close(left: Tensor, right: Tensor, what: object) -> None:
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5, msg=lambda m: f"{what}: {m}")


# --- What the table promises ---


@every_case
def test_every_name_is_the_value_worked_out_by_hand(case: Case) -> None:
    seen, expected = run(case).seen, run(case).expected
    capped = getattr(run(case).config, "final_logit_softcapping", None) is not None
    assert seen.keys() == expected.keys() - ({("logits", None)} if capped else set())
    for key, value in seen.items():
        assert_close(value, expected[key], key)


@every_case
def test_the_work_by_hand_ends_in_the_logits_the_model_returns(case: Case) -> None:
    logits = run(case).expected["logits", None]
    cap = getattr(run(case).config, "final_logit_softcapping", None)
    assert_close(cap * torch.tanh(logits / cap) if cap else logits, run(case).returned, "logits")


@pytest.mark.parametrize("case", [case for case in CASES if case.fields != OPT_350M], ids=str)
def test_the_residual_stream_adds_up(case: Case) -> None:
    seen = run(case).seen
    for layer in range(tiny.N_LAYERS):
        pre, post = seen["resid_pre", layer], seen["resid_post", layer]
        attn_out, mlp_out = seen["attn_out", layer], seen["mlp_out", layer]
        assert_close(post, pre + attn_out + mlp_out, ("resid_post", layer))
        if has(run(case).config, "resid_mid"):
            assert_close(seen["resid_mid", layer], pre + attn_out, ("resid_mid", layer))
        if layer:
            assert torch.equal(pre, seen["resid_post", layer - 1])


@every_case
def test_no_two_names_read_the_same_value(case: Case) -> None:
    seen = run(case).seen
    for (name, layer), (other, other_layer) in itertools.combinations(seen, 2):
        value, other_value = seen[name, layer], seen[other, other_layer]
        # One block ends where the next begins, and without position embeddings the first begins
        # with the token embeddings.
        same = {name, other} in ({"resid_pre", "resid_post"}, {"embed", "resid_pre"})
        if value.shape == other_value.shape and not same:
            assert (value - other_value).abs().max() > 0.05, (name, layer, other, other_layer)


@pytest.mark.parametrize("case", [case for case in CASES if not case.fields], ids=str)
def test_widths(case: Case) -> None:
    n_tokens = int(batch()["attention_mask"].sum())
    widths = {"mlp_post": tiny.D_MLP, "logits": tiny.D_VOCAB}
    for (name, _), value in run(case).seen.items():
        assert value.shape == (n_tokens, widths.get(name, tiny.D_MODEL)), name


@pytest.mark.parametrize(
    "model_type",
    [t for t in tiny.FAMILIES if t in DERIVED or "q" in FAMILIES[t].templates],
)
def test_attention_names_lie_on_the_module_that_transformers_hands_to_its_kernel(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(model_type, attn_implementation="eager")
    called: list[Any] = []

    def kernel(module: Any, query: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        called.append(module)
        return query.transpose(1, 2).contiguous(), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "eager", kernel)
    model(**batch())
    for name in ATTENTION_NAMES:
        found = places(model.config, name)
        assert [model.get_submodule(place.module) for place in found.values()] == called
        assert {place.kind for place in found.values()} == {name}


@every_family
def test_the_reverse_map_names_every_place_once(model_type: str) -> None:
    config = build(model_type).config
    reverse = portable_names(config)
    forward = {
        (name, layer): str(place)
        for name in PORTABLE_NAMES
        if has(config, name)
        for layer, place in places(config, name).items()
    }
    assert {key: text for text, key in reverse.items()} == forward
    assert len(reverse) == len(forward)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_name_has_a_place_or_a_reason(model_type: str) -> None:
    family = family_of(model_type)
    assert family is not None
    reasons = {name for refusal in family.refusals for name in refusal.names}
    assert set(PORTABLE_NAMES) == family.templates.keys() | reasons


def test_every_family_of_the_table_has_a_tiny_model_and_a_case() -> None:
    assert set(FAMILIES) | DERIVED == set(tiny.FAMILIES) == {case.model_type for case in CASES}
    assert not set(FAMILIES) & DERIVED


def test_a_place_reads_as_module_and_kind() -> None:
    config = build("gpt2").config
    assert places(config, "mlp_post")[1] == Place(module="transformer.h.1.mlp.act", kind="output")
    assert portable_names(config)["transformer.h.0.mlp.act/output"] == ("mlp_post", 0)
    assert list(places(config, "resid_post")) == [0, 1, 2]
    assert places(config, "logits") == {None: Place(module="lm_head", kind="output")}


# --- What it refuses ---


@pytest.mark.parametrize(
    ("model_type", "fields", "name", "reason"),
    [
        ("gpt_neox", {}, "resid_mid", r"run in parallel .*use_parallel_residual"),
        ("stablelm", {"use_parallel_residual": True}, "resid_mid", "run in parallel"),
        ("phi", {}, "resid_mid", "run in parallel"),
        ("gptj", {}, "resid_mid", "run in parallel"),
        ("gptj", {}, "pattern", "the model's own code"),
        ("gpt_neo", {}, "q", "the model's own code"),
        ("gemma2", {}, "logits", r"caps the output of lm_head .*`modules: lm_head`"),
        ("gemma3_text", {"final_logit_softcapping": 5.0}, "logits", "caps the output of lm_head"),
        ("opt", OPT_350M, "resid_mid", "do_layer_norm_before is false"),
        ("opt", OPT_350M, "resid_post", "do_layer_norm_before is false"),
        ("opt", OPT_350M, "ln_final", "no final norm"),
        ("opt", OPT_350M, "embed", r"`modules: model\.decoder\.project_in`"),
        ("opt", {"_remove_final_layer_norm": True}, "ln_final", "saved without a final norm"),
    ],
)
def test_a_name_the_model_does_not_have_is_refused_with_the_reason(
    model_type: str, fields: dict[str, Any], name: str, reason: str
) -> None:
    config = build(model_type, **fields).config
    with pytest.raises(
        PlanError, match=rf"'{name}' does not exist on this {model_type}: .*{reason}"
    ):
        places(config, name)
    assert name not in {found for found, _ in portable_names(config).values()}


def test_what_is_no_model_of_transformers_is_refused_and_told_what_to_do() -> None:
    config = SimpleNamespace(model_type="mine")
    with pytest.raises(PlanError, match=r"'mine' is not in the table .* `modules:`"):
        places(config, "resid_pre")
    assert portable_names(config) == {}
    assert family_of("mine") is None


def test_a_family_of_which_no_tiny_model_runs_is_refused_with_what_it_said() -> None:
    config = AutoConfig.for_model("dbrx")
    with pytest.raises(PlanError, match=r"'dbrx' is not .*no tiny model of it shows .*: \w+Error"):
        places(config, "resid_pre")


def test_an_unknown_name_is_refused_and_told_the_names() -> None:
    with pytest.raises(PlanError, match=r"'resid_past' is not a portable name .*resid_pre"):
        places(build("gpt2").config, "resid_past")


# --- Sizes ---


@every_family
def test_sizes_of_every_family(model_type: str) -> None:
    config = build(model_type).config
    wide_heads = {"gemma", "gemma2", "gemma3_text", "qwen3"}
    multi_head = {"gpt2", "gpt_neo", "gpt_neox", "gptj", "opt"}
    assert sizes(config) == Sizes(
        n_layers=tiny.N_LAYERS,
        n_heads=tiny.N_HEADS,
        n_kv_heads=tiny.N_HEADS if model_type in multi_head else tiny.N_KV_HEADS,
        d_model=tiny.D_MODEL,
        d_mlp=tiny.D_MLP,
        d_head=12 if model_type in wide_heads else 8,
        d_vocab=tiny.D_VOCAB,
        n_ctx=tiny.N_CTX,
    )


@pytest.mark.parametrize("model_type", ["gpt2", "gptj", "gpt_neo"])
def test_an_mlp_width_left_out_is_four_times_d_model(model_type: str) -> None:
    width = "intermediate_size" if model_type == "gpt_neo" else "n_inner"
    model = build(model_type, **{width: None})
    assert sizes(model.config).d_mlp == 4 * tiny.D_MODEL
    place = places(model.config, "mlp_post")[0]
    seen = watch(model, batch(), [(place.module, place.kind)])
    assert seen[place.module, place.kind].shape[-1] == 4 * tiny.D_MODEL


def test_sizes_of_other_configs() -> None:
    assert set(dataclasses.asdict(sizes(SimpleNamespace())).values()) == {None}
    assert sizes(SimpleNamespace(hidden_size=30, num_attention_heads=4)).d_head is None
    assert sizes(SimpleNamespace(hidden_size=32, intermediate_size=[8, 16])).d_mlp is None
    assert sizes(AutoConfig.for_model("mamba")).n_heads is None
    assert sizes(AutoConfig.for_model("gpt_bigcode")).n_kv_heads == 1
    falcon = AutoConfig.for_model("falcon", new_decoder_architecture=True, num_kv_heads=8)
    assert sizes(falcon).n_kv_heads == 8
    assert sizes(AutoConfig.for_model("gemma3")).n_layers == 26  # nested in text_config


# --- The architecture files ---

ARCHITECTURES = resources.files("probekit.models") / "architectures"


@pytest.mark.parametrize(
    ("name", "n_parameters", "expected"),
    [
        ("distilgpt2", 81_912_576, (6, 12, 12, 768, 3072, 64, 50257, 1024)),
        ("gpt2", 124_439_808, (12, 12, 12, 768, 3072, 64, 50257, 1024)),
        ("phi-3-mini-4k-instruct", 3_821_079_552, (32, 32, 32, 3072, 8192, 96, 32064, 4096)),
    ],
)
def test_architecture_files_have_the_published_size(
    name: str, n_parameters: int, expected: tuple[int, ...]
) -> None:
    text = (ARCHITECTURES / f"{name}.json").read_text(encoding="utf-8")
    config = AutoConfig.for_model(**json.loads(text))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    assert tiny.n_parameters(model) == n_parameters
    assert [type(model).__name__] == config.architectures
    found = sizes(config)
    assert (found.n_layers, found.n_heads, found.n_kv_heads, found.d_model) == expected[:4]
    assert (found.d_mlp, found.d_head, found.d_vocab, found.n_ctx) == expected[4:]
    for place_text in portable_names(config):
        model.get_submodule(place_text.rpartition("/")[0])


def test_phi_3_keeps_its_published_position_settings() -> None:
    text = (ARCHITECTURES / "phi-3-mini-4k-instruct.json").read_text(encoding="utf-8")
    config = AutoConfig.for_model(**json.loads(text))
    assert (config.sliding_window, config.dtype) == (2047, torch.bfloat16)
    assert config.rope_parameters["rope_theta"] == 10000.0
    assert config.rope_parameters["rope_type"] == "default"
