"""Listening at modules: every tensor as a hand-written hook sees it, and no mark left behind."""

from __future__ import annotations

from typing import Any

import by_hand
import pytest
import tiny_models as tiny
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from probekit.errors import CaptureError
from probekit.hooks.executionorder import OrderRecorder
from probekit.hooks.taps import HookManager, Tap, pick_input, pick_output


class Kept:
    """Sinks that keep copies."""

    def __init__(self) -> None:
        self.tensors: dict[str, list[Tensor]] = {}

    def tap(
        self, module: str, side: str = "output", element: str | None = None, call: int | None = None
    ) -> Tap:
        kept = self.tensors.setdefault(f"{module}/{side}", [])
        return Tap(
            module=module,
            side=side,
            element=element,
            call=call,
            sink=lambda tensor: kept.append(tensor.clone()),
        )


class Twice(nn.Module):
    """One layer under two names, called three times; a block that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.other = nn.ModuleDict({"shared": self.shared})
        self.idle = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.other["shared"](self.shared(x)))


class Odd(nn.Module):
    """Takes keyword arguments only and returns whatever it is told to."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, *, left: Tensor, right: Tensor | None = None, flag: bool = True) -> Any:
        return self.make(left, right)


class Around(nn.Module):
    def __init__(self, make: Any = lambda left, right: left) -> None:
        super().__init__()
        self.odd = Odd(make)

    def forward(self, x: Tensor) -> Any:
        return self.odd(left=x, right=x + 1)


def foreign(model: nn.Module) -> list[str]:
    """Register every kind of hook a user may have, and return the log they write to."""
    log: list[str] = []
    model.register_forward_pre_hook(lambda m, a: log.append("pre"))
    model.register_forward_hook(lambda m, a, o: log.append("post"))
    model.register_full_backward_hook(lambda m, i, o: None)
    model.register_full_backward_pre_hook(lambda m, o: None)
    model.register_state_dict_post_hook(lambda m, s, p, x: None)
    return log


# --- as a hand-written hook sees it


@pytest.mark.parametrize("model_type", tiny.FAMILIES)
def test_logits_with_everything_attached_are_the_logits_without(model_type):
    model, inputs = tiny.build(model_type), by_hand.pad([by_hand.EXAMPLES[n] for n in (1, 2, 4)])
    seen = by_hand.watch(model, **inputs)
    kept = Kept()
    sites = [(call, side) for call in seen.calls for side in ("input", "output")]
    taps = [
        kept.tap(call.module, side, call=call.number)
        for call, side in sites
        if call.first(side) is not None
    ]
    assert len(taps) > 70
    n_hooks = by_hand.n_hooks(model)
    with torch.no_grad():
        without = model(**inputs, use_cache=False).logits
        with HookManager(model, taps), OrderRecorder(model):
            attached = model(**inputs, use_cache=False).logits
        after = model(**inputs, use_cache=False).logits
    assert torch.equal(attached, without)
    assert torch.equal(after, without)
    assert by_hand.n_hooks(model) == n_hooks == 0
    for call, side in sites:
        if (expected := call.first(side)) is not None:
            assert torch.equal(kept.tensors[f"{call.module}/{side}"][call.number], expected)


def test_each_call_of_a_module_can_be_told_apart():
    model, kept, every, inputs = Twice(), Kept(), Kept(), Kept()
    x = torch.randn(2, 4)
    taps = [kept.tap("shared", call=n) for n in (0, 1, 2)]
    taps += [every.tap("shared"), inputs.tap("shared", "input", call=2)]
    with HookManager(model, taps):
        model(x)
        model(x + 1)  # a second pass begins again at call 0
    first = model.shared(x)
    chain = [first, model.shared(first), model.shared(model.shared(first))]
    again = model.shared(x + 1)
    expected = [*chain, again, model.shared(again), model.shared(model.shared(again))]
    assert len(kept.tensors["shared/output"]) == len(every.tensors["shared/output"]) == 6
    for tensors in (kept.tensors, every.tensors):
        for got, by_hand_value in zip(tensors["shared/output"], expected, strict=True):
            assert torch.equal(got, by_hand_value)
    assert torch.equal(inputs.tensors["shared/input"][0], chain[1])


def test_a_call_that_does_not_come_is_silent():
    model, kept = Twice(), Kept()
    with HookManager(model, [kept.tap("shared", call=3), kept.tap("idle")]):
        model(torch.randn(2, 4))
    assert kept.tensors == {"shared/output": [], "idle/output": []}


def test_calls_are_counted_anew_after_a_pass_that_failed():
    model, kept = Twice(), Kept()
    fail = model.other["shared"].register_forward_pre_hook(stop_at_second_call())
    with HookManager(model, [kept.tap("shared", "output", call=0)]):
        with pytest.raises(RuntimeError, match="second call"):
            model(torch.randn(2, 4))
        fail.remove()
        x = torch.randn(2, 4)
        model(x)
    assert len(kept.tensors["shared/output"]) == 2
    assert torch.equal(kept.tensors["shared/output"][1], model.shared(x))


def stop_at_second_call() -> Any:
    calls = iter(range(9))

    def hook(module: nn.Module, args: Any) -> None:
        if next(calls) == 1:
            raise RuntimeError("second call")

    return hook


@pytest.mark.parametrize(("element", "expected"), [(None, 0.0), ("left", 0.0), ("right", 1.0)])
def test_keyword_only_inputs_are_seen(element, expected):
    model, kept = Around(), Kept()
    with HookManager(model, [kept.tap("odd", "input", element)]):
        model(torch.zeros(2, 3))
    assert [t.unique().tolist() for t in kept.tensors["odd/input"]] == [[expected]]


def test_positional_inputs_have_the_names_of_their_parameters():
    model, kept = nn.Sequential(nn.Bilinear(3, 4, 5)), Kept()
    model.forward = lambda a, b: model[0](a, b)
    a, b = torch.randn(2, 3), torch.randn(2, 4)
    named, placed = Kept(), Kept()
    taps = [
        kept.tap("0", "input"),
        named.tap("0", "input", "input2"),
        placed.tap("0", "input", "1"),
    ]
    with HookManager(model, taps):
        model(a, b)
    assert torch.equal(kept.tensors["0/input"][0], a)
    assert torch.equal(named.tensors["0/input"][0], b)
    assert torch.equal(placed.tensors["0/input"][0], b)


RETURNS: dict[str, tuple[Any, str | None, float]] = {
    "a tensor": (lambda a, b: a, None, 0.0),
    "a tuple": (lambda a, b: (a, b), None, 0.0),
    "its second": (lambda a, b: (a, b), "1", 1.0),
    "a tuple that begins with None": (lambda a, b: (None, b), None, 1.0),
    "a list": (lambda a, b: [a, b], "1", 1.0),
    "a dict": (lambda a, b: {"x": a, "y": b}, None, 0.0),
    "a key of it": (lambda a, b: {"x": a, "y": b}, "y", 1.0),
    "a model output": (lambda a, b: BaseModelOutputWithPast(last_hidden_state=a), None, 0.0),
    "a field of it": (
        lambda a, b: BaseModelOutputWithPast(last_hidden_state=b),
        "last_hidden_state",
        1.0,
    ),
}


@pytest.mark.parametrize("case", RETURNS)
def test_outputs_of_every_kind_are_seen(case):
    make, element, expected = RETURNS[case]
    model, kept = Around(make), Kept()
    with HookManager(model, [kept.tap("odd", "output", element)]):
        model(torch.zeros(2, 3))
    assert [t.unique().tolist() for t in kept.tensors["odd/output"]] == [[expected]]


@pytest.mark.parametrize(
    ("side", "element", "said"),
    [
        ("output", "3", "odd: its output has no tensor '3' in this forward pass"),
        ("output", "y", "odd: its output has no tensor 'y'"),
        ("input", "flag", "odd: its input has no tensor 'flag'"),
        ("input", "0", "odd: its input has no tensor '0'"),  # keywords have no place
    ],
)
def test_a_tensor_that_is_not_there_is_an_error(side, element, said):
    model = Around()
    manager = HookManager(model, [Kept().tap("odd", side, element)])
    with pytest.raises(CaptureError, match=said), manager:
        model(torch.zeros(2, 3))
    assert by_hand.n_hooks(model) == 0


def test_nothing_but_tensors_is_ever_picked():
    assert pick_input((1, "a"), {"x": None}, None) is None
    assert pick_input((1,), {"x": 1}, "x") is None
    assert pick_output("text", None) is None
    assert pick_output(torch.zeros(1), "0") is None, "a bare tensor has no parts"


def test_a_tensor_is_seen_before_it_is_changed_in_place():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).relu_().add_(1)

    model, kept = InPlace(), Kept()
    x = torch.randn(4, 3)
    with HookManager(model, [kept.tap("inner")]), torch.no_grad():
        model(x)
    assert torch.equal(kept.tensors["inner/output"][0], model.inner(x))


def test_what_a_users_hook_made_of_an_output_is_what_the_model_uses_and_we_see():
    model, kept = Twice(), Kept()
    model.shared.register_forward_hook(lambda m, a, output: output * 0 + 5)
    with HookManager(model, [kept.tap("shared")]):
        result = model(torch.randn(2, 4))
    assert all((t == 5).all() for t in [result, *kept.tensors["shared/output"]])


# --- no mark left behind


def test_hooks_are_gone_after_the_block_and_the_users_stay():
    model = Twice()
    log, kept = foreign(model.shared), Kept()
    before = by_hand.n_hooks(model)
    assert before >= 5
    with HookManager(model, [kept.tap("shared"), kept.tap("shared", "input", call=0)]) as hooks:
        assert isinstance(hooks, HookManager)
        assert by_hand.n_hooks(model) == before + 3  # two taps, and one that counts calls
        model(torch.randn(2, 4))
    assert by_hand.n_hooks(model) == before
    model(torch.randn(2, 4))
    assert log == ["pre", "post"] * 6
    assert len(kept.tensors["shared/output"]) == 3, "nothing listens any more"


def test_hooks_are_gone_after_an_error_of_the_user():
    model = Twice()
    foreign(model.shared)
    before = by_hand.n_hooks(model)
    manager = HookManager(model, [Kept().tap("shared", call=0)])
    with pytest.raises(ZeroDivisionError), manager, OrderRecorder(model):
        model(torch.randn(2, 4))
        1 / 0  # noqa: B018
    assert by_hand.n_hooks(model) == before


def test_hooks_are_gone_after_an_error_in_the_middle_of_a_forward_pass():
    model = Twice()
    foreign(model.shared)
    model.other["shared"].register_forward_pre_hook(stop_at_second_call())
    before = by_hand.n_hooks(model)
    manager = HookManager(model, [Kept().tap("shared", call=0)])
    with pytest.raises(RuntimeError, match="second call"), manager, OrderRecorder(model):
        model(torch.randn(2, 4))
    assert by_hand.n_hooks(model) == before


def test_hooks_are_gone_after_an_error_in_a_sink():
    def full(tensor: Tensor) -> None:
        raise OSError("disk full")

    model = Twice()
    tap = Tap(module="shared", side="output", element=None, call=1, sink=full)
    with pytest.raises(OSError, match="disk full"), HookManager(model, [tap]):
        model(torch.randn(2, 4))
    assert by_hand.n_hooks(model) == 0


@pytest.mark.parametrize("bad", ["no.such.module", "shared.weight"])
def test_all_hooks_are_attached_or_none(bad):
    model, kept = Twice(), Kept()
    foreign(model.shared)
    before = by_hand.n_hooks(model)
    manager = HookManager(model, [kept.tap("shared", call=0), kept.tap(bad), kept.tap("idle")])
    with pytest.raises(AttributeError):
        manager.__enter__()
    assert by_hand.n_hooks(model) == before
    model(torch.randn(2, 4))
    assert kept.tensors["shared/output"] == []


def test_a_block_can_be_entered_again_but_not_twice_at_once():
    model, kept = Twice(), Kept()
    manager = HookManager(model, [kept.tap("shared", call=0)])
    for n in (1, 2):
        with manager:
            model(torch.randn(2, 4))
        assert len(kept.tensors["shared/output"]) == n
        assert by_hand.n_hooks(model) == 0
    with manager, pytest.raises(CaptureError, match="attached already"):
        manager.__enter__()
    assert by_hand.n_hooks(model) == 0


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_stays(training):
    model = Twice().train(training)
    with HookManager(model, [Kept().tap("shared")]), OrderRecorder(model):
        model(torch.randn(2, 4))
        assert model.training == training
    assert all(module.training == training for module in model.modules())


def test_gradients_flow_as_if_nothing_listened():
    model, x = Twice(), torch.randn(2, 4)
    model(x).sum().backward()
    expected = model.shared.weight.grad.clone()
    model.zero_grad()
    with HookManager(model, [Kept().tap("shared"), Kept().tap("shared", "input")]):
        model(x).sum().backward()
    assert torch.equal(model.shared.weight.grad, expected)
