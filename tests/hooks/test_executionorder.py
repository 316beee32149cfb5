"""Execution order, against a log that plain hooks write."""

from __future__ import annotations

from typing import Any

import by_hand
import numpy as np
import pytest
import tiny_models as tiny
import torch
from torch import Tensor, nn

from probekit.hooks.executionorder import OrderRecorder


class Branching(nn.Module):
    """Goes one way for large inputs and the other for small ones; runs one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.large = nn.Linear(2, 2)
        self.small = nn.Linear(2, 2)
        self.never = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.body(x))
        return self.large(x) if len(x) > 3 else self.small(x)


def run(model: nn.Module, sizes: list[int]) -> Any:
    """Run a branching model once a size and give the execution."""
    with OrderRecorder(model) as order:
        for number, size in enumerate(sizes):
            model(torch.randn(size, 2))
            order.end_forward(
                phase="forward", examples=[number, 9], n_tokens=size, seconds=0.5 * size
            )
        return order.execution()


def named(execution: Any, number: int) -> list[tuple[str, int, int]]:
    return [(execution.modules[m], e, depth) for m, e, depth in execution.orders[number].tolist()]


@pytest.mark.parametrize("model_type", tiny.FAMILIES)
def test_events_are_those_of_a_hand_written_log(model_type):
    model, inputs = tiny.build(model_type), tiny.batch()
    seen = by_hand.watch(model, **inputs)
    with OrderRecorder(model) as order, torch.no_grad():
        model(**inputs, use_cache=False)
        order.end_forward(phase="forward", examples=[0, 1, 2], n_tokens=27, seconds=0.1)
    execution = order.execution()
    assert named(execution, 0) == seen.events
    assert execution.orders[0].dtype == np.int32
    assert list(execution.modules) == [path for path, _ in model.named_modules() if path]


def test_children_of_gpt2s_mlp_come_in_the_order_they_run():
    model = tiny.build("gpt2")
    with OrderRecorder(model) as order, torch.no_grad():
        model(**tiny.batch())
        order.end_forward(phase="forward", examples=[0], n_tokens=1, seconds=0.1)
    entered = [module for module, into, _ in named(order.execution(), 0) if into]
    inside = "transformer.h.1.mlp."
    children = [m.removeprefix(inside) for m in entered if m.startswith(inside)]
    assert children == ["c_fc", "act", "c_proj", "dropout"]


def test_nesting_is_told_by_depth_and_every_entering_has_its_leaving():
    events = named(run(Branching(), [2]), 0)
    assert events == [
        ("body", 1, 0),
        ("body.0", 1, 1),
        ("body.0", 0, 1),
        ("body.1", 1, 1),
        ("body.1", 0, 1),
        ("body", 0, 0),
        ("body", 1, 0),
        ("body.0", 1, 1),
        ("body.0", 0, 1),
        ("body.1", 1, 1),
        ("body.1", 0, 1),
        ("body", 0, 0),
        ("small", 1, 0),
        ("small", 0, 0),
    ]


def test_equal_orders_are_kept_once_and_every_pass_points_at_its_own():
    execution = run(Branching(), [2, 5, 3, 5, 1])
    assert len(execution.orders) == 2
    assert [forward.order for forward in execution.forwards] == [0, 1, 0, 1, 0]
    assert named(execution, 0)[-1] == ("small", 0, 0)
    assert named(execution, 1)[-1] == ("large", 0, 0)


def test_a_pass_keeps_its_examples_tokens_and_seconds():
    first, second = run(Branching(), [2, 5]).forwards
    assert (first.examples, first.n_tokens, first.seconds) == ((0, 9), 2, 1.0)
    assert (second.examples, second.n_tokens, second.seconds) == ((1, 9), 5, 2.5)
    assert {first.phase, second.phase} == {"forward"}


def test_taking_an_execution_begins_anew():
    model = Branching()
    with OrderRecorder(model) as order:
        for size in (5, 2):
            model(torch.randn(size, 2))
            order.end_forward(phase="forward", examples=[0], n_tokens=size, seconds=0.0)
            taken = order.take()
            assert len(taken.orders) == len(taken.forwards) == 1
            assert taken.forwards[0].order == 0
        assert order.execution().forwards == ()
        assert order.execution().orders == ()


def test_a_pass_that_is_forgotten_leaves_nothing():
    model = Branching()
    with OrderRecorder(model) as order:
        model(torch.randn(5, 2))
        order.forget_forward()
        model(torch.randn(2, 2))
        order.end_forward(phase="forward", examples=[0], n_tokens=2, seconds=0.0)
    assert named(order.execution(), 0)[-1] == ("small", 0, 0)
    assert len(order.execution().orders) == 1


def test_a_batch_that_is_dropped_leaves_nothing():
    model = Branching()

    def forward(size: int) -> None:
        model(torch.randn(size, 2))
        order.end_forward(phase="forward", examples=[size], n_tokens=size, seconds=0.0)

    with OrderRecorder(model) as order:
        forward(2)
        order.keep_batch()
        forward(5)  # another order
        forward(2)
        model(torch.randn(2, 2))  # not filed
        order.drop_batch()
        forward(2)
        order.keep_batch()
    execution = order.execution()
    assert [(f.order, f.examples) for f in execution.forwards] == [(0, (2,)), (0, (2,))]
    assert len(execution.orders) == 1
    assert len(execution.orders[0]) == 14


def test_hooks_are_gone_after_the_block_and_the_users_stay():
    model, log = Branching(), []
    model.body.register_forward_hook(lambda m, a, o: log.append("mine"))
    before = by_hand.n_hooks(model)
    with OrderRecorder(model) as order:
        assert by_hand.n_hooks(model) == before + 2 * len(list(model.modules())) - 2
        model(torch.randn(1, 2))
    assert by_hand.n_hooks(model) == before
    model(torch.randn(1, 2))
    assert log == ["mine"] * 4
    order.end_forward(phase="forward", examples=[0], n_tokens=1, seconds=0.0)
    assert len(order.execution().orders[0]) == 14, "nothing was seen after the block"


def test_hooks_are_gone_after_an_error():
    model = Branching()
    model.small.register_forward_pre_hook(lambda m, a: 1 / 0)
    before = by_hand.n_hooks(model)
    with pytest.raises(ZeroDivisionError), OrderRecorder(model):
        model(torch.randn(1, 2))
    assert by_hand.n_hooks(model) == before


def test_a_pass_that_ends_early_has_the_events_up_to_there():
    model = Branching()
    mine = model.small.register_forward_hook(lambda m, a, o: 1 / 0)  # before the recorder's
    with OrderRecorder(model) as order:
        with pytest.raises(ZeroDivisionError):
            model(torch.randn(2, 2))
        order.end_forward(phase="forward", examples=[0], n_tokens=2, seconds=0.0)
        mine.remove()
        model(torch.randn(2, 2))
        order.end_forward(phase="forward", examples=[1], n_tokens=2, seconds=0.0)
    cut, whole = named(order.execution(), 0), named(order.execution(), 1)
    assert cut[-1] == ("small", 1, 0)
    assert whole == [*cut, ("small", 0, 0)], "nothing of the broken pass is left over"


def test_outputs_are_the_same_bits_while_it_listens():
    model = tiny.build("llama")
    with torch.no_grad():
        expected = model(**tiny.batch()).logits
        with OrderRecorder(model):
            assert torch.equal(model(**tiny.batch()).logits, expected)
