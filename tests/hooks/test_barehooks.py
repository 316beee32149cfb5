"""Bare hooks: an example's rows as plain torch hands them over, found by its tokens."""

from __future__ import annotations

from typing import Any

import by_hand
import pytest
import tiny_models as tiny
import torch
from by_hand import EXAMPLES

from probekit.hooks.barehooks import BareHooks
from probekit.models.forward import BATCH, POSITION, TOKEN
from probekit.planning.tensors import Source

PLAIN = (BATCH, POSITION, tiny.D_MODEL)


def source(module: str, side: str = "output", axes: Any = PLAIN, **given: Any) -> Source:
    return Source(module=module, side=side, axes=axes, **{"element": None, "call": 0, **given})


def kept(model: Any, sources: dict[str, Source], example: int, batch: list[int]) -> dict[str, Any]:
    with BareHooks(model, sources, EXAMPLES[example]) as hooks, torch.no_grad():
        model(**by_hand.pad([EXAMPLES[n] for n in batch]), use_cache=False)
    return hooks.rows


@pytest.mark.parametrize("batch", [[1, 0], [0, 1], [3, 2, 0]])
def test_rows_are_those_of_the_example_wherever_it_is_in_the_batch(batch):
    model = tiny.build("gpt2")
    sources = {
        "out": source("transformer.h.1"),
        "in": source("transformer.h.1.mlp", "input"),
        "first": source("transformer.h.0.attn", element="0"),
    }
    rows = kept(model, sources, 0, batch)
    seen = by_hand.watch(model, **by_hand.pad([EXAMPLES[n] for n in batch])).sites()
    place, n_tokens = batch.index(0), len(EXAMPLES[0])
    for name, site in (
        ("out", "transformer.h.1/output"),
        ("in", "transformer.h.1.mlp/input"),
        ("first", "transformer.h.0.attn/output"),
    ):
        assert torch.equal(rows[name], seen[site][place, :n_tokens]), name


def test_rows_of_folded_and_of_turned_tensors_are_the_examples(tmp_path):
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fold, self.turn, self.pool = (torch.nn.Identity() for _ in range(3))

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
            wide = input_ids[..., None] * torch.arange(3.0)  # [batch, pos, 3]
            self.fold(wide.flatten(0, 1))
            self.turn(wide.permute(2, 1, 0)[:, None])  # [3, 1, pos, batch]
            self.pool(wide.sum(1))

    rows = kept(
        Odd(),
        {
            "fold": source("fold", axes=(TOKEN, 3)),
            "turn": source("turn", axes=(3, 1, POSITION, BATCH)),
            "pool": source("pool", axes=(BATCH, 3)),
        },
        2,
        [1, 2],
    )
    ids = torch.tensor(EXAMPLES[2])
    wanted = ids[:, None] * torch.arange(3.0)
    assert torch.equal(rows["fold"], wanted)
    assert torch.equal(rows["turn"][..., 0], wanted)
    assert torch.equal(rows["pool"], wanted.sum(0)[None])


def test_an_example_that_begins_like_another_is_told_apart_by_the_mask():
    model = tiny.build("gpt2")
    whole, half = EXAMPLES[1], EXAMPLES[1][:5]
    with BareHooks(model, {"x": source("transformer.wpe")}, half) as hooks, torch.no_grad():
        model(**by_hand.pad([whole, half]), use_cache=False)
    assert hooks.rows["x"].shape == (5, tiny.D_MODEL)
    with BareHooks(model, {"x": source("transformer.wpe")}, [7, 7]) as hooks, torch.no_grad():
        model(**by_hand.pad([whole, half]), use_cache=False)
    assert hooks.rows == {}  # it is not in the batch


def test_what_is_kept_is_what_was_there_before_a_later_change():
    class InPlace(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Identity()

        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            self.inner(input_ids[..., None] * torch.ones(2)).add_(100)

    rows = kept(InPlace(), {"x": source("inner", axes=(BATCH, POSITION, 2))}, 0, [0])
    assert rows["x"][:, 0].tolist() == list(EXAMPLES[0])


def test_hooks_are_gone_after_the_block_and_after_an_error():
    model = tiny.build("gpt2")
    before = by_hand.n_hooks(model)
    with (
        pytest.raises(RuntimeError, match="mine"),
        BareHooks(model, {"x": source("transformer.h.0")}, EXAMPLES[0]),
    ):
        assert by_hand.n_hooks(model) == before + 2
        raise RuntimeError("mine")
    assert by_hand.n_hooks(model) == before
    with (
        pytest.raises(AttributeError),
        BareHooks(model, {"x": source("transformer.h.0"), "y": source("missing")}, EXAMPLES[0]),
    ):
        pass
    assert by_hand.n_hooks(model) == before
