"""Each identity can fail: a place that is another tensor is not offered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import every_family
import pytest
import tiny_models as tiny
import torch
from torch import nn
from transformers import AutoConfig

from probekit.models import families
from probekit.models.checkpoints import model_class
from probekit.models.places import ATTENTION_NAMES, Place, derived
from probekit.models.places.derive import derive
from probekit.models.places.found import Found, Key
from probekit.models.places.identities import checked, refuse_unshown
from probekit.models.places.tinyrun import Run, followed, tiny as built

N_OTHERS = 3  # wrong places tried for a name, of those near it


def run_of(family: str, **fields: Any) -> Run:
    config = every_family.tiny_config(family)
    for key, value in fields.items():
        setattr(config, key, value)
    return followed(built(model_class(config), config))


def value(run: Run, place: Place) -> torch.Tensor | None:
    call = run.passed.at(place.module)
    return None if call is None else call.read if place.kind == "input" else call.gave


def wrong(run: Run, places: dict[Key, Place], key: Key) -> Iterator[Place]:
    """Give places of other tensors: another side, another module, another layer, another factor."""
    place = places[key]
    if place.kind in ("input", "output"):
        right = value(run, place)
        assert right is not None
        yield replace(place, factor=place.factor * 1.01)
        paths = [path for path, module in run.model.named_modules() if run.passed.at(path)]
        at = paths.index(place.module)
        near = sorted(paths, key=lambda path: abs(paths.index(path) - at))
        n_given = 0
        for other in (Place(module=p, kind=k) for p in near for k in ("output", "input")):
            there = value(run, other)
            if there is None or there.numel() != right.numel() or n_given >= N_OTHERS:
                continue
            if not torch.equal(there.flatten(), right.flatten()):
                n_given += 1
                yield replace(other, factor=place.factor)
        name, layer = key
        if layer is not None and (name, layer + 1) in places:
            yield places[name, layer + 1]
        return
    alike = [p for (n, _), p in places.items() if n == key[0] and p.module != place.module]
    yield from alike[:1]
    kinds = ("rms", "std") if place.kind in ("rms", "std") else (*ATTENTION_NAMES, "head_out")
    yield from (replace(place, kind=kind) for kind in kinds[:2] if kind != place.kind)


def survivors(run: Run) -> list[tuple[Key, Place]]:
    found = derive(run)
    refuse_unshown(run, found, checked(run, found))
    right = dict(found.places)
    passing = []
    for key in [key for key in right if key[1] in (None, 1)]:
        for other in wrong(run, right, key):
            tried = Found(found.layers, found.kinds, right | {key: other}, {}, found.cap)
            tried.before = found.before
            refuse_unshown(run, tried, checked(run, tried))
            if key in tried.places:
                passing.append((key, other))
    assert right
    return passing


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_no_wrong_place_is_offered_on_llama() -> None:
    assert survivors(followed(tiny.build("llama", num_hidden_layers=2))) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("gemma2", {}),  # norms behind attention and MLP
        ("gptj", {}),  # parallel, with attention of its own
        ("cohere", {}),  # parallel, one norm
        ("bert", {}),  # the stream itself is normed
        ("granite", {}),  # factors
        ("phi3", {}),  # gate and value are one map's
        ("gpt_oss", {}),  # experts, and sinks of attention
        ("mamba", {}),
        ("qwen3_next", {}),
        ("bloom", {}),
    ],
)
def test_no_wrong_place_is_offered_elsewhere(family: str, fields: dict[str, Any]) -> None:
    assert survivors(run_of(family, **fields)) == []


def test_every_offered_place_was_shown_by_a_row_that_holds() -> None:
    for family in ("bert", "mixtral", "granite"):
        found = families.derived_of(every_family.tiny_config(family))
        shown = frozenset().union(*(row.shown for row in found.identities))
        there = {(name, layer) for name, layers in found.places.items() for layer in layers}
        assert there <= shown


def test_an_attention_output_behind_the_norm_of_the_stream_is_shown_by_its_heads() -> None:
    found = families.derived_of(every_family.tiny_config("bert"))
    row = next(r for r in found.identities if r.says.startswith("head_out over all heads"))
    assert row.holds
    assert ("attn_out", 1) in row.shown


class Hidden(nn.Module):
    """An RMS norm whose epsilon stands in no attribute, and shows on small inputs alone."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.weight = like.weight
        self._hidden = 1e-5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self._hidden)


def test_a_norm_whose_epsilon_is_not_known_has_no_scale() -> None:
    model = tiny.build("llama")
    norm = Hidden(model.model.layers[1].input_layernorm)
    norm.__class__.__name__ = "HiddenNorm"
    model.model.layers[1].input_layernorm = norm
    run = followed(model)
    found = derive(run)
    assert ("ln1_scale", 1) in found.places
    refuse_unshown(run, found, checked(run, found))
    assert "ln1_scale" not in {name for name, _ in found.places}
    assert "fails by" in found.missing["ln1_scale", 1]
    assert ("ln2_scale", 1) in found.places


def test_a_module_that_runs_twice_has_no_one_place() -> None:
    found = families.derived_of(every_family.tiny_config("nanochat"))
    assert found.refused["ln_final"] == ("the module where it lies runs 2 times in a forward pass")
    assert found.unembedding is not None  # what the head reads is known all the same


def test_what_lies_behind_the_mlp_is_not_what_it_reads() -> None:
    found = families.derived_of(every_family.tiny_config("inkling_text"))
    assert "mlp_in" in found.refused  # a convolution reads what the MLP gives


def test_factors_that_are_1_on_the_tiny_model_are_the_models_own() -> None:
    # hidden_size / dim_model_base is 1 at the tiny model's 32.
    config = AutoConfig.for_model(
        "minicpm3", num_hidden_layers=2, hidden_size=2560, dim_model_base=32, vocab_size=300
    )
    found = derived(model_class(config), config).unembedding
    assert found is not None
    assert found.before * found.after == pytest.approx(32 / 2560)
