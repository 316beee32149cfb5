"""Every family records, plans and runs true: in ragged batches, against each text alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import by_hand
import every_family
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import probekit
from probekit import PlanError

pytestmark = pytest.mark.rehearsed

Array = np.ndarray[Any, Any]

REFUSED = {
    "xmod": "cannot be built and run on token ids alone"
}  # it asks which languages there are
# An indexer names its best keys; of those behind a query, which it names is left to chance.
BY_CHANCE = ("indexer",)
ORDERS = {"the short text last": [1, 4], "the short text first": [4, 1]}  # of by_hand.EXAMPLES


def saved(folder: Path, family: str) -> torch.nn.Module:
    """Save a family's model whose norms and biases do something, and give it as it loads."""
    model = every_family.build(family)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    by_hand.save_model(folder, model)
    loaded: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder).eval()
    return loaded


def alone(model: torch.nn.Module, ids: list[int]) -> dict[str, Array]:
    """Give the first tensor that each module of a fresh model gives, by bare hooks."""
    fresh, seen = copy.deepcopy(model), {}

    def hook(path: str) -> Any:
        def see(module: torch.nn.Module, args: Any, output: Any) -> None:
            given = output.values() if isinstance(output, dict) else output
            given = (output,) if isinstance(output, torch.Tensor) else given
            first = next((v for v in given or () if isinstance(v, torch.Tensor)), None)
            if first is not None and not first.is_complex():  # which HDF5 has no type for
                seen.setdefault(path, first.detach().float().clone().numpy())

        return see

    for path, module in fresh.named_modules():
        module.register_forward_hook(hook(path))
    tokens = torch.tensor([ids])
    with torch.no_grad():
        fresh(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    return seen


def off(found: Array, wanted: Array) -> float:
    """Give the largest difference, as a share of the largest value; the tokens may be any axis."""
    assert found.size == wanted.size
    if not found.size:
        return 0.0
    ways = [wanted.reshape(found.shape)]
    for one in (None, *(axis for axis in range(wanted.ndim) if wanted.shape[axis] == 1)):
        rest = wanted if one is None else np.squeeze(wanted, one)
        fits = (axis for axis in range(rest.ndim) if rest.shape[axis] == len(found))
        ways += [np.moveaxis(rest, axis, 0).reshape(found.shape) for axis in fits]
    apart = []
    for way in ways:
        both = np.isfinite(way) & np.isfinite(found)
        assert (np.isfinite(way) == np.isfinite(found)).all() or len(ways) > 1
        largest = np.abs(way[both]).max(initial=1e-30)
        apart.append(float(np.abs(found[both] - way[both]).max(initial=0)) / largest)
    return min(apart)


def check(tmp_path: Path, family: str, examples: list[int] | None = None) -> probekit.Trace:
    model = saved(tmp_path / "model", family)
    texts = [" ".join(map(str, by_hand.EXAMPLES[n])) for n in examples or range(6)]
    config = by_hand.config(tmp_path / "model", tmp_path / "t", probes=[{"modules": "**"}])
    trace = probekit.run(config | {"inputs": config["inputs"] | {"texts": texts}})
    assert len(list(trace)) > (1 if family == "cpmant" else every_family.N_LAYERS)
    for example in trace.examples:
        seen = alone(model, example.token_ids.tolist())
        for name in trace:
            path, _, kind = name.rpartition("/")
            if kind == "output" and path in seen and not path.endswith(BY_CHANCE):
                found = np.asarray(trace[name].example(example.number), dtype=np.float32)
                assert off(found, seen[path]) < 1e-3, name
    return trace


@pytest.mark.slow
@pytest.mark.parametrize("family", every_family.FAMILIES)
def test_a_row_is_what_its_text_gives_alone(tmp_path: Path, family: str) -> None:
    if family in REFUSED:
        with pytest.raises(PlanError, match=REFUSED[family]):
            check(tmp_path, family)
        return
    check(tmp_path, family)


@pytest.mark.few(2)
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("family", ["deepseek_v32", "gemma4_text", "diffllama"])
def test_so_it_is_in_both_orders_of_texts(tmp_path: Path, family: str, order: list[int]) -> None:
    check(tmp_path, family, order)
