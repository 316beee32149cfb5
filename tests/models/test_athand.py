"""Models in memory: what tells one from another, byte by byte, and what is put back on them."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import tiny_models as tiny
import torch
from torch import nn
from torch.utils._python_dispatch import return_and_correct_aliasing

from probekit.errors import CaptureError, PlanError, ProbekitWarning
from probekit.models import at_hand, borrowed
from probekit.models.athand import digests
from probekit.models.athand.digests import architecture_digest, weights_digest


class Held(nn.Module):
    """A module that holds one tensor, or several."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        super().__init__()
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"t{number}", tensor, persistent=bool(number % 2))


class Whole(torch.Tensor):
    """A tensor of a class of its own, which holds plain ones: as torchao's weights do."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Any:
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=torch.float32)
        made.held = inner
        return made

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["held"], "context"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return return_and_correct_aliasing(func, args, kwargs or {}, cls(args[0].held))
        raise NotImplementedError(func)


TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    "float32": lambda: torch.arange(24.0).view(4, 6),
    "bfloat16": lambda: torch.arange(24.0).view(4, 6).bfloat16(),
    "float8": lambda: torch.arange(24.0).view(4, 6).to(torch.float8_e4m3fn),
    "bool": lambda: torch.arange(24).view(4, 6) % 3 == 0,
    "int8": lambda: torch.arange(24, dtype=torch.int8),
    "scalar": lambda: torch.tensor(5.0),
    "complex": lambda: torch.arange(24.0).view(4, 6) + 1j,
    "a class of its own": lambda: Whole(torch.arange(24.0)),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_one_changed_byte_is_another_digest(kind):
    same, other = TENSORS[kind](), TENSORS[kind]()
    assert weights_digest(Held(same)) == weights_digest(Held(TENSORS[kind]()))
    plain = getattr(other, "held", other)
    plain.view(-1)[-1:].view(torch.uint8)[-1] ^= 1
    assert weights_digest(Held(same)) != weights_digest(Held(other))


def test_the_digest_is_of_values_whatever_way_they_lie_and_whatever_fits_at_once(monkeypatch):
    values = torch.arange(24.0).view(4, 6)
    whole = weights_digest(Held(values))
    assert weights_digest(Held(values.T.contiguous().T)) == whole
    monkeypatch.setattr(digests, "_BLOCK", 7)
    assert weights_digest(Held(values)) == whole
    assert weights_digest(Held(values.T.contiguous().T)) == whole


@pytest.mark.parametrize(
    "other",
    [
        Held(torch.arange(24.0)),
        Held(torch.arange(24.0).view(6, 4)),
        Held(torch.arange(24.0).view(4, 6).view(torch.int32)),
        Held(torch.arange(24.0).view(4, 6), torch.zeros(0)),
        nn.ModuleDict({"a": Held(torch.arange(24.0).view(4, 6))}),
    ],
)
def test_shapes_dtypes_and_names_are_in_it(other):
    assert weights_digest(Held(torch.arange(24.0).view(4, 6))) != weights_digest(other)


def test_a_model_has_one_digest_wherever_it_is_trained_on_and_copied():
    model = tiny.build("llama")
    before = weights_digest(model)
    assert weights_digest(copy.deepcopy(model).train().requires_grad_(False)) == before
    model(input_ids=torch.arange(5)[None]).logits.sum().backward()
    assert weights_digest(model) == before


def test_every_parameter_and_buffer_of_a_model_is_in_its_digest():
    model = tiny.build("gemma2")
    before = weights_digest(model)
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    assert len(tensors) > 30
    for name, tensor in tensors.items():
        kept = tensor.detach().clone()
        with torch.no_grad():
            tensor.view(-1)[-1] += 1
            assert weights_digest(model) != before, name
            tensor.copy_(kept)
    assert weights_digest(model) == before


def doubled(module: nn.Module, args: Any, output: Any) -> Any:
    return output * 2


class Steering:
    def __call__(self, module: nn.Module, args: Any) -> None: ...

    def again(self, module: nn.Module, args: Any) -> None: ...


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "a function": lambda m: m.register_forward_hook(doubled),
    "a part of one": lambda m: m.register_forward_hook(functools.partial(doubled)),
    "an object": lambda m: m.register_forward_pre_hook(Steering()),
    "a method": lambda m: m.register_forward_pre_hook(Steering().again),
    "before": lambda m: m.register_forward_pre_hook(doubled),
    "elsewhere": lambda m: m.get_submodule("0").register_forward_hook(doubled),
    "twice": lambda m: [m.register_forward_hook(doubled) for _ in range(2)],
}


def architecture(*hooks: str) -> str:
    """Digest what a model is built as, with some hooks of a user's on one of its maps."""
    model = tiny.build("gpt2")
    for hook in hooks:
        HOOKS[hook](model.transformer.h)
    return architecture_digest(model, model.config, "eager")


def test_hooks_of_the_user_s_are_in_what_a_model_is_built_as_by_place_and_name():
    digests = {hook: architecture(hook) for hook in HOOKS}
    assert digests == {hook: architecture(hook) for hook in HOOKS}, "by names, not by objects"
    assert digests.pop("a function") == digests.pop("a part of one")
    assert len({*digests.values(), architecture(), architecture("a function")}) == len(digests) + 2


def test_a_hook_that_is_gone_again_and_those_of_gradients_are_not_in_it():
    model = tiny.build("gpt2")
    model.transformer.h[0].register_forward_hook(doubled).remove()
    model.transformer.h[0].register_full_backward_hook(lambda *_: None)
    model.enable_input_require_grads()  # a hook that changes no value, of transformers'
    assert model.get_input_embeddings()._forward_hooks
    assert architecture_digest(model, model.config, "eager") == architecture()


def test_what_cannot_be_read_is_named_with_what_to_do():
    with pytest.raises(PlanError, match=r"bytes of t0 \(Tensor.*meta\).*digest=False"):
        weights_digest(Held(torch.empty(3, device="meta")))


def test_counters_and_modes_are_not_in_an_architecture_and_settings_are():
    def digest(*, training: bool = False, **changed: Any) -> str:
        model = tiny.build("gpt2").train(training)
        for name, value in changed.items():
            setattr(model.transformer.h[0].mlp, name, value)
        return architecture_digest(model, model.config, "sdpa")

    assert digest() == digest(n_calls=5) == digest(training=True)
    settings = ({"scaling": 2.0}, {"_active_adapter": "b"}, {"scales": {"a": 1.0}})
    changed = [digest(**one) for one in settings]
    assert len({digest(), *changed}) == 4


# --- borrowed


class Counting(nn.Module):
    """A module that counts its passes in a buffer, and keeps what it made."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("n", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n += 1
        self.table = x * 2
        self.register_buffer("late", x + 1)
        return self.inner(x)


def test_what_passes_change_in_buffers_and_attributes_is_put_back():
    model = tiny.build("gpt2")
    model.transformer.h[0].mlp = Counting(model.transformer.h[0].mlp)
    model.train()
    count = model.transformer.h[0].mlp.n
    with borrowed(at_hand(model)), torch.inference_mode():
        assert not any(module.training for module in model.modules())
        model(input_ids=torch.arange(5)[None])
        assert count.item() == 1
    mlp = model.transformer.h[0].mlp
    assert mlp.n is count
    assert count.item() == 0
    assert not hasattr(mlp, "table")
    assert "late" not in mlp._buffers
    assert all(module.training for module in model.modules())


class Large(nn.Module):
    """A module with buffers around the size whose values are kept, which it may change in place."""

    def __init__(self, inner: nn.Module, *changes: str) -> None:
        super().__init__()
        self.inner, self.changes = inner, changes
        self.register_buffer("kept", torch.zeros(1 << 18))  # 1 MiB of float32
        self.register_buffer("large", torch.zeros((1 << 18) + 1))
        self.register_buffer("masked", torch.zeros(1 << 19))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.changes:
            getattr(self, name)[-1:] += 1
        return self.inner(x)


def passed(*changes: str, mode: Any = torch.inference_mode) -> Large:
    model = tiny.build("gpt2")
    model.transformer.h[0].mlp = mlp = Large(model.transformer.h[0].mlp, *changes)
    with borrowed(at_hand(model)), mode():
        model(input_ids=torch.arange(5)[None])
    return mlp


def test_a_large_buffer_that_was_changed_in_place_is_told():
    with warnings.catch_warnings(action="error"):
        assert not passed("kept").kept.any()
        passed()
    said = (
        r"the run changed transformer\.h\.0\.mlp\.large \(1\.0 MiB\), "
        r"transformer\.h\.0\.mlp\.masked \(2\.0 MiB\) in place, and they are left so: .* a copy"
    )
    for mode in (torch.inference_mode, torch.no_grad):
        with pytest.warns(ProbekitWarning, match=said):
            mlp = passed("kept", "large", "masked", mode=mode)
        assert not mlp.kept.any()
        assert mlp.large[-1] == mlp.masked[-1] == 1


def test_a_large_buffer_that_was_made_in_inference_mode_cannot_be_told():
    model = tiny.build("gpt2")
    with torch.inference_mode():
        model.register_buffer("large", torch.zeros(1 << 20))
    with warnings.catch_warnings(action="error"), borrowed(at_hand(model)), torch.inference_mode():
        model.large += 1


def test_large_buffers_are_told_after_an_error_too():
    model = tiny.build("gpt2")
    model.register_buffer("large", torch.zeros(1 << 20))
    with (
        pytest.warns(ProbekitWarning, match=r"the run changed large \(4\.0 MiB\) in place"),
        pytest.raises(ZeroDivisionError),
        borrowed(at_hand(model)),
    ):
        model.large += 1
        raise ZeroDivisionError


def test_random_numbers_go_on_as_if_nothing_was():
    model = tiny.build("gpt2")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with borrowed(at_hand(model)):
        torch.rand(7)
    assert torch.equal(torch.rand(3), expected)


def test_a_model_is_borrowed_once_at_a_time_and_by_whatever_wraps_it():
    model = tiny.build("gpt2")
    said = pytest.raises(CaptureError, match="another run has this DataParallel already")
    with borrowed(at_hand(model)):
        with said, borrowed(at_hand(nn.DataParallel(model))):
            pass
        with borrowed(at_hand(tiny.build("gpt2"))):
            pass
    with borrowed(at_hand(model)):
        pass


def test_a_compiled_model_is_refused_with_the_one_inside():
    with pytest.raises(PlanError, match=r"compiled as a whole.*_orig_mod"):
        at_hand(torch.compile(tiny.build("gpt2"), backend="eager"))
