"""`q_pre_rot` and `k_pre_rot`: what is rotated, against a model that rotates nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import by_hand
import every_family
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import probekit
from probekit import PlanError
from probekit.models import build_skeleton
from probekit.models.forward import AttentionCall, AttentionTap

KINDS = ("q_pre_rot", "k_pre_rot")
go = partial(probekit.run, self_check=False)  # tests/capture/test_selfcheck.py has it
# A plain projection, a fused one (two layouts), a norm in between (by head, of all heads), a part
# of the head alone, layers without rotation, compressed keys, complex numbers, none at all.
FAMILIES = (
    *("llama", "phi3", "gpt_neox", "qwen3", "olmo2", "phi", "glm", "persimmon", "smollm3"),
    *("gemma3_text", "deepseek_v2", "deepseek_v3", "llama4_text", "moshi", "gpt2", "opt"),
)


@contextmanager
def turning_nothing(model: torch.nn.Module) -> Iterator[None]:
    """Have the rotary functions of a model's files give back what they are given."""
    files = {sys.modules[type(module).__module__] for module in model.modules()}
    with pytest.MonkeyPatch.context() as patch:
        for file in files:
            for name, function in vars(file).copy().items():
                if re.match(r"apply_(rot|rope|multi)", name):
                    patch.setattr(file, name, as_given(function))
        yield


def as_given(function: Any) -> Any:
    def give_back(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
        return tuple(tensors[: len(result)]) if isinstance(result, tuple) else tensors[0]

    return give_back


def kernel_inputs(model: torch.nn.Module, ids: list[int]) -> dict[tuple[str, str], torch.Tensor]:
    """Give what each kernel is given when nothing is rotated, `[position, head, d_head]`."""
    seen: dict[tuple[str, str], torch.Tensor] = {}

    def listener(path: str) -> Any:
        def listen(call: AttentionCall) -> None:
            seen[path, "q_pre_rot"] = call.query[0].transpose(0, 1)
            seen[path, "k_pre_rot"] = call.key[0].transpose(0, 1)

        return listen

    paths = build_skeleton(model.config, torch.float32).attention
    with AttentionTap(model, {p: listener(p) for p in paths}), torch.no_grad():
        model(input_ids=torch.tensor([ids]), use_cache=False)
    return seen


def compare(family: str) -> list[str]:
    """Hold every site of a family against the model that rotates nothing; give what is refused."""
    model = every_family.build(family)
    shapes = build_skeleton(model.config, torch.float32).attention
    sites = [(path, kind) for path in shapes for kind in KINDS]
    refused = [f"{s}/{k}" for s, k in sites if isinstance(shapes[s].elsewhere.get(k), str)]
    refused += [f"{s}/{k}" for s, k in sites if shapes[s].n_calls > 1]
    refused += [f"{s}/{k}" for s, k in sites if shapes[s].joins_keys]
    asked = [(s, k) for s, k in sites if f"{s}/{k}" not in refused]
    ids = [5, 17, 3, 40, 8, 5, 77, 23, 9]
    with turning_nothing(model):
        wanted = kernel_inputs(model, ids)
        names = [f"{s}/{k}" for s, k in asked] or "**"
        with probekit.record(model, names) as rec, torch.no_grad():
            model(input_ids=torch.tensor([ids]), use_cache=False)
    for path, kind in asked:
        found, kernel = rec[f"{path}/{kind}"][0], wanted[path, kind]
        if kernel.shape[1] != found.shape[1]:  # keys repeated for every query head
            found = found.repeat_interleave(kernel.shape[1] // found.shape[1], dim=1)
        assert torch.equal(found, kernel), (path, kind)
    return refused


@pytest.mark.few(5)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_what_the_kernel_would_be_given_if_nothing_were_rotated(family: str) -> None:
    refused = compare(family)
    compressed = family.startswith("deepseek")
    assert all(name.endswith("k_pre_rot") for name in refused)
    assert len(refused) == (every_family.N_LAYERS if compressed else 0)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(every_family.FAMILIES) - set(FAMILIES)))
def test_it_is_so_on_every_family(family: str) -> None:
    try:
        build_skeleton(every_family.tiny_config(family), torch.float32)
    except PlanError as error:
        pytest.skip(f"cannot be planned: {error}")
    compare(family)


@pytest.mark.few(2)
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "qwen3", "phi3"])
def test_a_run_stores_it_for_each_text_alone(tmp_path: Path, family: str) -> None:
    model = every_family.build(family)
    folder = by_hand.save_model(tmp_path / "model", model)
    probes = [{"sites": "q_pre_rot"}, {"sites": "k_pre_rot", "positions": "last"}]
    trace = go(by_hand.config(folder, tmp_path / "t", probes=probes))
    assert len({e.n_tokens for e in trace.examples}) > 1
    for example in trace.examples:
        with turning_nothing(model):
            wanted = kernel_inputs(model, example.token_ids.tolist())
        for layer in (0,):  # what later layers read was computed with rotation
            q = trace.select("q_pre_rot", layer=layer)
            k = trace.select("k_pre_rot", layer=layer)
            path = q.name.rpartition("/")[0]
            close(q.example(example.number), wanted[path, "q_pre_rot"])
            close(k.example(example.number), wanted[path, "k_pre_rot"][-1:])
            assert q.axes == ("token", "head", "d_head")
            assert q.attributes["given_by"].startswith(path)


def close(found: Any, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5 * float(wanted.abs().max()))


def test_rotating_it_by_hand_gives_q(tmp_path: Path) -> None:
    folder = by_hand.save_model(tmp_path / "model", every_family.build("llama"))
    probes = [{"sites": ["q", "q_pre_rot", "k", "k_pre_rot"]}]
    trace = go(by_hand.config(folder, tmp_path / "t", probes=probes))
    inverse = 10_000.0 ** -(np.arange(0, 8, 2) / 8)  # https://arxiv.org/abs/2104.09864
    for example in trace.examples:
        angles = np.arange(example.n_tokens)[:, None, None] * np.tile(inverse, 2)
        for layer in range(4):
            for kind in "qk":
                plain = trace.select(f"{kind}_pre_rot", layer=layer).example(example.number)
                half = np.concatenate([-plain[..., 4:], plain[..., :4]], axis=-1)
                turned = plain * np.cos(angles) + half * np.sin(angles)
                close(trace.select(kind, layer=layer).example(example.number), torch.tensor(turned))


def test_generated_tokens_have_it_too(tmp_path: Path) -> None:
    folder = by_hand.save_model(tmp_path / "model", every_family.build("qwen3"))
    generate = {"max_new_tokens": 4}
    probes = [{"sites": ["k_pre_rot", "q_pre_rot"]}]
    trace = go(by_hand.config(folder, tmp_path / "t", probes=probes, generate=generate))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for example in trace.examples:
        with turning_nothing(model):
            wanted = kernel_inputs(model, example.token_ids.tolist())
        site = trace.select("k_pre_rot", layer=0)
        rows = site.example(example.number)
        close(rows, wanted[site.name.rpartition("/")[0], "k_pre_rot"][: len(rows)])


@pytest.mark.parametrize("family", ["olmo", "olmoe"])
def test_what_is_changed_in_place_before_is_refused(family: str) -> None:
    """`clip_qkv` clamps what the projection gave, or the norm."""
    config = every_family.tiny_config(family)
    config.clip_qkv = 0.05
    model = AutoModelForCausalLM.from_config(config).eval()
    for kind in KINDS:
        with pytest.raises(PlanError, match="computed between the module that gives it and"):
            probekit.record(model, f"model.layers.0.self_attn/{kind}")


@pytest.mark.slow
def test_keys_that_are_no_tokens_are_refused(tmp_path: Path) -> None:
    """DeepSeek-V4 compresses keys: at lengths that the plan does not look at, too."""
    config = every_family.tiny_config("deepseek_v4")
    config.compress_rates = dict.fromkeys(config.compress_rates, 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    folder = by_hand.save_model(tmp_path / "model", model)
    recording = probekit.record(model, "model.layers.0.self_attn/k")
    with pytest.raises(probekit.CaptureError, match="keys more"), recording, torch.no_grad():
        model(input_ids=torch.randint(3, 101, (1, 30)), use_cache=False)
    for kind in ("k", "v", "pattern", "k_pre_rot"):
        probes = [{"modules": "model.layers.0.self_attn", "record": [kind]}]
        with pytest.raises(PlanError, match="looks at other keys than its tokens' own"):
            probekit.plan(by_hand.config(folder, tmp_path / "t", probes=probes))
    probes = [{"modules": "model.layers.0.self_attn", "record": ["q", "z_kernel"]}]
    assert go(by_hand.config(folder, tmp_path / "t", probes=probes)).site_names


def test_what_is_no_one_tensor_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = every_family.build("deepseek_v3")
    folder = by_hand.save_model(tmp_path / "model", model)
    reason = r"kv_a_proj_with_mqa gives a part of it, so there is no k_pre_rot; /?k is what"
    probes = [{"modules": "model.layers.*.self_attn", "record": ["k_pre_rot"]}]
    with pytest.raises(PlanError, match=reason):
        probekit.plan(by_hand.config(folder, tmp_path / "t", probes=probes))
    with pytest.raises(PlanError, match=reason):
        probekit.record(model, "model.layers.*.self_attn/k_pre_rot")
    scaled = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("ministral3", **every_family.known("ministral3"))
    )
    with pytest.raises(PlanError, match="computed between the module that gives it and"):
        probekit.record(scaled, "model.layers.0.self_attn/q_pre_rot")
