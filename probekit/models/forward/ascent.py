"""Ascent: where what an attention kernel is given comes from, before it was rotated by position.

Knows torch's operations on tensors that have no values; nothing of models. Operations are noted
while a model runs, and a query or key is followed back to the module that gave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from probekit.models.forward.calls import BATCH, POSITION

_ATEN = torch.ops.aten
_LARGE = 1 << 20  # values; what a few tokens give on their way to a kernel are fewer


def _named(*names: str) -> frozenset[Any]:
    return frozenset(getattr(_ATEN, name) for name in names)


_MOVING = _named(  # operations that change the place of numbers, or their dtype; not the numbers
    *("view", "_unsafe_view", "_reshape_alias", "clone", "alias", "detach", "_to_copy"),
    *("transpose", "permute", "t", "unsqueeze", "squeeze", "expand", "select", "slice"),
    *("split", "split_with_sizes", "unbind", "chunk", "unfold"),
)
_TURNING = _MOVING | _named("neg", "cat", "stack", "view_as_complex", "view_as_real")
_MINUS = _named("neg", "sub", "rsub", "view_as_complex")  # no rotation is without one
_PRODUCTS = _named("mul", "mul_")


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation, and which of its results a tensor is."""

    function: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    result: int | None  # None: the only one

    @property
    def given(self) -> list[torch.Tensor]:
        return [v for v in tree_leaves((self.args, self.kwargs)) if isinstance(v, torch.Tensor)]

    def repeat(self, tensor: torch.Tensor) -> torch.Tensor:
        """Carry the operation out on another tensor."""
        args, kwargs = tree_map_only(torch.Tensor, lambda _: tensor, (self.args, dict(self.kwargs)))
        if self.function.overloadpacket == _ATEN._to_copy:
            return tensor
        if self.function.overloadpacket in (_ATEN.view, _ATEN._unsafe_view, _ATEN._reshape_alias):
            return tensor.reshape(args[1])
        result: Any = self.function(*args, **kwargs)
        moved: torch.Tensor = result if self.result is None else result[self.result]
        return moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A module's output, and how its numbers are moved until they are rotated."""

    module: str
    moves: tuple[_Step, ...]
    shape: tuple[int, ...]  # of the output

    def channels(self, axes: Sequence[int | str], d_head: int) -> tuple[int, tuple[int, ...]]:
        """Say which channels of a token's output are which head's.

        Args:
            axes: of the output.
            d_head: size of a head.

        Returns:
            How many heads, and the channels of each in order; 0 where the output is not moved into
            `[batch, head, position, d_head]` or `[batch, position, head, d_head]`.
        """
        places = _numbered(self.shape, axes)
        n_channels = places.numel() // (self.shape[axes.index(BATCH)] * _size(self.shape, axes))
        found: tuple[int, tuple[int, ...]] = (0, ())
        for tensor in _moved(places, self.moves):
            if tensor.ndim == 4 and tensor.shape[-1] == d_head:
                for by_token in (tensor, tensor.transpose(1, 2)):  # the last that fits
                    found = _channels(by_token, n_channels, _size(self.shape, axes)) or found
        return found


def _size(shape: Sequence[int], axes: Sequence[int | str]) -> int:
    return shape[axes.index(POSITION)]


def _numbered(shape: Sequence[int], axes: Sequence[int | str]) -> torch.Tensor:
    """Number the entries of a tensor: batch first, then position, then the channels in order."""
    front = [axes.index(BATCH), axes.index(POSITION)]
    order = [*front, *(n for n in range(len(shape)) if n not in front)]
    numbers = torch.arange(torch.Size(shape).numel()).view([shape[n] for n in order])
    return numbers.permute([order.index(n) for n in range(len(shape))])


def _moved(places: torch.Tensor, moves: Sequence[_Step]) -> Iterator[torch.Tensor]:
    yield places
    for step in moves:
        places = step.repeat(places)
        yield places


def _channels(
    places: torch.Tensor, n_channels: int, n_positions: int
) -> tuple[int, tuple[int, ...]] | None:
    """Read the channels off `[batch, position, head, d_head]`, if that is what the axes are."""
    n_batch, n_here, n_heads, _ = places.shape
    if n_here != n_positions:
        return None
    tokens = torch.arange(n_batch * n_positions).view(n_batch, n_positions, 1, 1)
    channels = places - tokens * n_channels
    first = channels[:1, :1]
    if not bool(((channels == first) & (first >= 0) & (first < n_channels)).all()):
        return None
    return n_heads, tuple(first.flatten().tolist())


def _joined(step: _Step) -> Iterator[tuple[list[torch.Tensor], int]]:
    """Give the tensors that a step joins, and along which axis."""
    if step.function.overloadpacket == _ATEN.cat:
        axis = step.kwargs.get("dim", step.args[1] if len(step.args) > 1 else 0)
        joined = [tensor for tensor in step.given if tensor.ndim > 1]  # not an empty one, [0]
        if len(joined) > 1:
            yield joined, axis


def _without_large(given: Any) -> Any:
    """Let go of weights, which a quantized model may have made for this one operation."""
    if all(leaf.numel() <= _LARGE for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)):
        return given
    return tree_map_only(torch.Tensor, lambda t: t if t.numel() <= _LARGE else None, given)


class Ascent(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Note operations for the time of a block."""

    def __init__(self, n_positions: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._n_positions = n_positions
        self._steps: dict[int, _Step] = {}  # by the id of what it gave; steps hold what they took
        self._written: dict[int, list[_Step]] = {}  # by id: what was written into it, or a part
        self._held: list[torch.Tensor] = []
        self._given: dict[int, tuple[str, bool]] = {}  # by id: which module gave it, if linear

    def gave(self, module: str, tensor: Any, *, is_linear: bool) -> None:
        """See a module that has weights give a tensor."""
        # A module around a linear map gives what the map gave.
        if isinstance(tensor, torch.Tensor) and not self._given.get(id(tensor), ("", False))[1]:
            self._given[id(tensor)] = (module, is_linear)
            self._held.append(tensor)

    def before_rotation(self, tensor: torch.Tensor) -> Origin | str | None:
        """Find what a query or key was before it was rotated.

        Returns:
            Where it is; why it is nowhere; None for a tensor that is not rotated.
        """
        steps = list(self._behind(tensor))
        turned = [d for step in steps for d in self._turned(step)]
        if not turned or not any(step.function.overloadpacket in _MINUS for step in steps):
            return None
        origins = [origin for each in turned for origin in self._origins(each)]
        if None in origins:
            return "it is computed between the module that gives it and its rotation"
        found = [origin for origin in origins if origin is not None]
        if len({origin.module for origin in found}) > 1:
            return "it is put together of what several modules give"
        moves = found[0].moves
        for origin in found[1:]:
            same = [a is b for a, b in zip(moves, origin.moves, strict=False)]
            moves = moves[: same.index(False) if False in same else len(same)]
        return Origin(module=found[0].module, moves=moves, shape=found[0].shape)

    def joins_keys(self, keys: torch.Tensor) -> bool:
        """Say whether keys of other things than tokens are put behind or before the tokens' own.

        `keys` are `[batch, head, key, d_head]`; those joined along heads or channels are tokens'.
        """
        if keys.shape[2] != self._n_positions:
            return True
        return any(
            self._n_positions in (tensor.shape[axis] for tensor in joined)
            for step in self._behind(keys)
            for joined, axis in _joined(step)
        )

    def _behind(self, tensor: torch.Tensor) -> Iterator[_Step]:
        """Give the operations that lead to a tensor, back to linear maps."""
        todo, seen = [tensor], set()
        while todo:
            here = todo.pop()
            if id(here) in seen:
                continue
            seen.add(id(here))
            _, is_linear = self._given.get(id(here), ("", False))
            made = self._steps.get(id(here))
            if not is_linear:
                for step in (*([] if made is None else [made]), *self._written.get(id(here), ())):
                    yield step
                    todo.extend(step.given)

    def _turned(self, step: _Step) -> list[torch.Tensor]:
        """Give what a step multiplies with numbers that depend on positions alone."""
        given = step.given
        if step.function.overloadpacket not in _PRODUCTS or len(given) != 2:
            return []
        of_data = [self._is_data(tensor) for tensor in given]
        if of_data.count(True) != 1:
            return []
        data, other = given if of_data[0] else reversed(given)
        return [data] if self._n_positions in other.shape and other.ndim > 1 else []

    def _is_data(self, tensor: torch.Tensor) -> bool:
        """Say whether a tensor is computed of what a module with weights gave."""
        if id(tensor) in self._given:
            return True
        return any(
            id(given) in self._given for step in self._behind(tensor) for given in step.given
        )

    def _origins(self, tensor: torch.Tensor) -> Iterator[Origin | None]:
        """Give the module's outputs that a rotated tensor is made of, back through signs."""
        origin = self._origin(tensor)
        step = self._steps.get(id(tensor))
        if origin is not None or step is None or step.function.overloadpacket not in _TURNING:
            yield origin
        else:
            for given in step.given:
                yield from self._origins(given)

    def _origin(self, tensor: torch.Tensor) -> Origin | None:
        if id(self._whole(tensor)) in self._written:
            return None  # changed in place since the module gave it
        moves: list[_Step] = []
        while id(tensor) not in self._given:
            step = self._steps.get(id(tensor))
            if step is None or step.function.overloadpacket not in _MOVING:
                return None
            moves.append(step)
            (tensor,) = step.given
        module, _ = self._given[id(tensor)]
        return Origin(module=module, moves=tuple(reversed(moves)), shape=tuple(tensor.shape))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry an operation out, and note it."""
        result = func(*args, **(kwargs or {}))
        given = {id(leaf) for leaf in tree_leaves((args, kwargs))}
        several = result if isinstance(result, tuple | list) else None
        for number, leaf in enumerate([result] if several is None else several):
            if isinstance(leaf, torch.Tensor) and leaf.numel() <= _LARGE:
                took = _without_large(args), _without_large(kwargs or {})
                step = _Step(func, *took, None if several is None else number)
                if id(leaf) in given:
                    self._written.setdefault(id(self._whole(leaf)), []).append(step)
                else:
                    self._steps[id(leaf)] = step
                self._held.append(leaf)
        return result

    def _whole(self, part: torch.Tensor) -> torch.Tensor:
        """Give the tensor that a part, written in place, is a view of."""
        step = self._steps.get(id(part))
        while step is not None and step.function.overloadpacket in _MOVING:
            (part,) = step.given
            step = self._steps.get(id(part))
        return part
