"""Token axes: which axis of a tensor inside a model is the batch's, and which the position's.

Knows torch's modules. The sizes of one tensor cannot tell: of `[2, 8, 32]` the 8 may be positions
or heads. So a copy of the model that has shapes and no values (no memory, none of its hooks) runs
twice, with other numbers of texts and of positions, and every axis shows what it is by how it
moves.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from probekit.errors import CaptureError
from probekit.hooks.passes import Pass
from probekit.models import plain_tokens
from probekit.models.forward import (
    BATCH,
    FIRST,
    POSITION,
    SECOND,
    TOKEN,
    Answers,
    Axes,
    Call,
    Slot,
    compared,
    observe,
)
from probekit.wording import counted

_OTHERWISE = "record without mask=, and choose the rows of its tensors yourself"


class TokenAxes:
    """What the axes of a model's tensors are, by module, side and element."""

    def __init__(
        self, calls: Sequence[Call], *, is_text_by_text: bool, experts: Sequence[str] = ()
    ) -> None:
        self._is_text_by_text = is_text_by_text  # flattened places: one text's after another's
        self._experts = tuple(f"{path}." for path in experts)
        self._calls: dict[str, list[Call]] = {}
        for call in calls:
            self._calls.setdefault(call.module, []).append(call)

    def n_calls(self, module: str) -> int:
        """Count the calls of a module in one pass."""
        return len(self._calls.get(module, ()))

    def of(self, module: str, side: str, element: str | None, number: int) -> Axes:
        """Give the axes of one tensor.

        Args:
            module: its path.
            side: "input" or "output".
            element: of what goes in or comes out; None for the first tensor.
            number: of the module's call in a pass.

        Raises:
            CaptureError: if they are not the batch's and the positions', or nobody knows.
        """
        if module.startswith(self._experts):
            raise CaptureError(
                "it is inside of experts, which get the tokens in the order that routing gives; "
                f"record the experts as a whole, or {_OTHERWISE}"
            )
        calls = self._calls.get(module, [])
        if number >= len(calls):
            raise CaptureError(
                f"on plain tokens it runs {counted(len(calls), 'time')} in a pass, and this is "
                f"call {number}: what its rows are cannot be told; {_OTHERWISE}"
            )
        call = calls[number]
        slot = _slot(call.inputs if side == "input" else call.outputs, element)
        if slot is None:
            raise CaptureError(
                "on plain tokens it has no such tensor: what its rows are cannot be told; "
                f"{_OTHERWISE}"
            )
        self._check(slot.axes)
        return slot.axes

    def _check(self, axes: Axes) -> None:
        moving = sorted(axis for axis in axes if isinstance(axis, str))
        shown = f"it is [{', '.join(str(axis) for axis in axes)}]"
        if moving == [TOKEN] and not self._is_text_by_text:
            raise CaptureError(
                f"{shown}, texts and positions in one axis, and in which order cannot be told; "
                f"{_OTHERWISE}"
            )
        if moving in ([BATCH, POSITION], [TOKEN], [BATCH]):
            return
        if moving == [BATCH, POSITION, POSITION]:
            raise CaptureError(
                f"{shown}, with two position axes; ask for the pattern or scores of the attention "
                "module instead"
            )
        if 0 in axes:  # the answer to which places they are: none
            raise CaptureError(
                "it gets those places alone that its model's numbers choose, and which they are is "
                f"not known; {_OTHERWISE}"
            )
        if moving in ([], [POSITION]):
            raise CaptureError(f"{shown}, the same for every text: it has no rows of tokens")
        raise CaptureError(f"{shown}: no axis of it is the tokens'; {_OTHERWISE}")


def token_axes(seen: Pass) -> TokenAxes:
    """Find the axes of what a model's modules are given and give.

    Args:
        seen: a call of the model, with `[batch, pos, ...]` tensors. One that takes `input_ids` is
            run on those alone; any other on what it was given, in other sizes. It is left as it
            was.

    Raises:
        CaptureError: if that cannot be found out.
    """
    model = seen.model
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise CaptureError(
            f"record: mask: {type(model).__name__} reads two sequences, and one mask cannot say "
            f"of which a tensor is; record its encoder or decoder as the model, or {_OTHERWISE}"
        )
    replaced = [
        path for path, m in model.named_modules() if inspect.isfunction(vars(m).get("forward"))
    ]
    if replaced:
        raise CaptureError(
            f"record: mask: the forward of {replaced[0] or type(model).__name__} was replaced by a "
            f"function, which may run another module than its own; {_OTHERWISE}"
        )
    flattening = _Flattening()
    # Not in inference mode: the copy's tensors would be none that autograd knows.
    with torch.inference_mode(False), torch.no_grad():
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as fake:
                twin = _without_values(model, fake)
                run = partial(_run, twin, seen)
                with Answers():  # type: ignore[no-untyped-call]
                    first = observe(twin, partial(run, FIRST))
                    with flattening:
                        second = observe(twin, partial(run, SECOND))
        except Exception as error:
            # Whatever a model's own code raises when its tensors have no values.
            reason = next(iter(str(error).strip().splitlines()), "")
            raise CaptureError(
                f"record: mask: {type(model).__name__} does not run on tensors without values, so "
                f"which axes are the tokens' cannot be told ({type(error).__name__}: {reason}); "
                f"{_OTHERWISE}"
            ) from error
    calls = compared(first, second)
    if calls is None:
        raise CaptureError(
            f"record: mask: {type(model).__name__} runs other modules on longer texts, so which "
            f"axes are the tokens' cannot be told; {_OTHERWISE}"
        )
    # Kernels of experts differ in what they do inside (see `_without_values`): transformers marks
    # the modules that have several.
    experts = [path for path, m in model.named_modules() if hasattr(m, "_is_expert_parallel")]
    return TokenAxes(calls, is_text_by_text=flattening.is_text_by_text, experts=experts)


def _without_values(model: torch.nn.Module, fake: FakeTensorMode) -> Any:
    """Copy a model with fake tensors for its weights, and without anyone's hooks."""
    known: dict[int, Any] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
                known[id(value)] = OrderedDict()
            for leaf in tree_leaves(value):  # a state of its own, beside parameters and buffers
                if isinstance(leaf, torch.Tensor):
                    known[id(leaf)] = fake.from_tensor(leaf)
    twin: Any = copy.deepcopy(model, known).eval()
    # Kernels that are not defined on tensors without values; others have the same shapes.
    config: Any = getattr(twin, "config", None)
    if "flash" in str(getattr(config, "_attn_implementation", "")):
        twin.set_attn_implementation("sdpa")
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    if getattr(text, "_experts_implementation", None) is not None:
        twin.set_experts_implementation("batched_mm")
    return twin


def _run(twin: Any, seen: Pass, shape: tuple[int, int]) -> None:
    if "input_ids" in inspect.signature(twin.forward).parameters:
        device = next((p.device for p in twin.parameters()), torch.device("cpu"))
        tokens = plain_tokens(twin, *shape)
        twin(**tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), tokens))
    else:
        given = (seen.args, dict(seen.kwargs))
        args, kwargs = tree_map_only(torch.Tensor, partial(_resized, seen.shape, shape), given)
        twin(*args, **kwargs)


def _resized(
    sizes: tuple[int, int] | None, shape: tuple[int, int], tensor: torch.Tensor
) -> torch.Tensor:
    """Give a tensor of another batch: what is `[batch, pos, ...]` in the call is so in this one."""
    if tensor.ndim < 2 or tuple(tensor.shape[:2]) != sizes:
        return tensor
    return torch.ones((*shape, *tensor.shape[2:]), dtype=tensor.dtype, device=tensor.device)


def _slot(slots: Sequence[Slot], element: str | None) -> Slot | None:
    if element is None:
        return slots[0] if slots else None
    return next((slot for slot in slots if element in (str(slot.index), slot.key)), None)


_N_PLACES = SECOND[0] * SECOND[1]
_UNKNOWN = (0, 0)  # flattened in some other way, or in an order that numbers give
_TAKING = (torch.ops.aten.index, torch.ops.aten.index_select)


class _Flattening(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Look how texts and positions become one axis, in a pass of `SECOND` tokens."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: set[tuple[int, int]] = set()

    @property
    def is_text_by_text(self) -> bool:
        """Say whether all that was flattened was `[batch, pos]`, and something was."""
        return self._seen == {SECOND}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry an operation out, and look at a new axis of all places."""
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs))
        given = [leaf.shape for leaf in leaves if isinstance(leaf, torch.Tensor)]
        is_new = isinstance(result, torch.Tensor) and _N_PLACES in result.shape
        is_cut = func.overloadpacket == torch.ops.aten.slice  # at any number, in loops over chunks
        # Made of nothing, or of an axis of several for each place, it has the order of that.
        from_many = any(n % _N_PLACES == 0 for shape in given for n in shape)
        if is_new and given and not is_cut and not from_many:
            pairs = {pair for shape in given for pair in _neighbours(shape)}
            self._seen |= pairs & {SECOND, SECOND[::-1]} or {_UNKNOWN}
        # As routers to one expert a token do, which sort the places by what they hold.
        if func.overloadpacket in _TAKING and is_new and given[0][:1] == (_N_PLACES,):
            self._seen.add(_UNKNOWN)
        return result


def _neighbours(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    return pairwise(size for size in shape if size != 1)
