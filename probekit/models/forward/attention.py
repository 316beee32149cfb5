"""transformers' attention interface: which kernels there are, and how a call of one is overheard.

Every attention module looks its kernel up in one registry;
while something listens, the kernel in use is replaced there by a dispatcher that calls it unchanged
and then tells whoever listens to that very module. The model's attention setting, its masks and its
output stay what they are, bit for bit; other modules pass through untouched.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.modeling_utils import AttentionInterface

from probekit.errors import CaptureError
from probekit.interrupts import Attachment

KERNELS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")  # whose masks we can read
OTHER_KEYS = (
    "the model looks at {n_more} keys more than it has tokens (it compresses several into one, or "
    "its cache has room for more), so keys are no tokens; record what its modules give instead"
)
SCORE_ARGUMENTS = frozenset({"scaling", "is_causal", "position_bias", "softcap", "s_aux"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCall:
    """One call of an attention kernel: what it was given and what it gave."""

    kernel: str
    query: torch.Tensor  # [batch, head, query, d_head], after rotary embedding
    key: torch.Tensor  # [batch, kv_head, key, d_head]; with a cache, all keys so far
    value: torch.Tensor  # [batch, kv_head, key, d_head]
    mask: torch.Tensor | None
    causal: bool  # where there is no mask
    options: Mapping[str, Any]  # the kernel's keyword arguments
    output: torch.Tensor  # [batch, query, head, d_head]
    weights: torch.Tensor | None  # [batch, head, query, key], from kernels that show them (eager)

    @property
    def scaling(self) -> float:
        """What the products of queries and keys are multiplied with."""
        asked = self.options.get("scaling")
        return float(self.query.shape[-1] ** -0.5 if asked is None else asked)

    def tensor(self, kind: str) -> torch.Tensor:
        """Give `q`, `k`, `v` or `z_kernel` of this call, `[batch, position, head, d_head]`."""
        if kind == "z_kernel":
            return self.output
        if kind == "q":
            return self.query.transpose(1, 2)
        held = self.key if kind == "k" else self.value
        return held[:, :, -self.query.shape[2] :].transpose(1, 2)


def shown_weights(weights: torch.Tensor) -> AttentionCall:
    """Wrap attention weights `[batch, head, query, key]` that a module itself has shown."""
    return AttentionCall(
        kernel="eager",
        query=weights,
        key=weights,
        value=weights,
        mask=None,
        causal=True,
        options={},
        output=weights,
        weights=weights,
    )


def attended(module: torch.nn.Module, call: AttentionCall) -> torch.Tensor:
    """Carry a call out again with the kernel it was made to, `[batch, query, head, d_head]`."""
    own = AttentionInterface._global_mapping.get(call.kernel) or _eager_of(module)
    output, _ = own(module, call.query, call.key, call.value, call.mask, **call.options)
    return output  # type: ignore[no-any-return]


AttentionListener = Callable[[AttentionCall], None]


class AttentionTap(Attachment):
    """Listen at the attention modules of a model for the time of a block.

    Args:
        model: any model that uses transformers' attention interface.
        listeners: module path -> who is told of each call.
    """

    def __init__(self, model: torch.nn.Module, listeners: Mapping[str, AttentionListener]) -> None:
        super().__init__()
        self._model = model
        self._listeners = dict(listeners)

    def _attach(self) -> None:
        modules = {path: self._model.get_submodule(path) for path in self._listeners}
        for kernel in {kernel_of(module, self._model) for module in modules.values()}:
            _REGISTRY.replace(kernel)
            self._stack.callback(_REGISTRY.put_back, kernel)
        for path, listener in self._listeners.items():
            _REGISTRY.listen(modules[path], listener)
            self._stack.callback(_REGISTRY.forget, modules[path], listener)


def kernel_of(module: torch.nn.Module, model: torch.nn.Module) -> str:
    """Name the attention kernel a module runs with."""
    config = getattr(module, "config", None) or getattr(model, "config", None)
    return str(getattr(config, "_attn_implementation", None) or "eager")


class _Registry:
    """Who listens where, over all taps of the process, and the kernels replaced for them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users: Counter[str] = Counter()
        self._kernels: dict[str, Callable[..., Any] | None] = {}
        self._listeners: WeakKeyDictionary[torch.nn.Module, list[AttentionListener]] = (
            WeakKeyDictionary()
        )

    def replace(self, kernel: str) -> None:
        with self._lock:
            self._users[kernel] += 1
            if self._users[kernel] == 1:
                known = AttentionInterface._global_mapping
                self._kernels[kernel] = known.get(kernel)  # None for eager: each model has its own
                AttentionInterface.register(kernel, self._dispatcher(kernel))

    def put_back(self, kernel: str) -> None:
        with self._lock:
            self._users[kernel] -= 1
            if not self._users[kernel]:
                own = self._kernels.pop(kernel)
                if own is None:
                    del AttentionInterface._global_mapping[kernel]
                else:
                    AttentionInterface.register(kernel, own)

    def listen(self, module: torch.nn.Module, listener: AttentionListener) -> None:
        with self._lock:
            self._listeners.setdefault(module, []).append(listener)

    def forget(self, module: torch.nn.Module, listener: AttentionListener) -> None:
        with self._lock:
            self._listeners[module].remove(listener)
            if not self._listeners[module]:
                del self._listeners[module]

    def _dispatcher(self, kernel: str) -> Callable[..., Any]:
        registered = self._kernels[kernel]

        def attend(
            module: torch.nn.Module,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            attention_mask: torch.Tensor | None,
            *args: Any,
            **options: Any,
        ) -> Any:
            own = registered or _eager_of(module)
            output, weights = own(module, query, key, value, attention_mask, *args, **options)
            listeners = self._listeners.get(module)
            if listeners:
                asked = options.get("is_causal")
                call = AttentionCall(
                    kernel=kernel,
                    query=query,
                    key=key,
                    value=value,
                    mask=attention_mask,
                    causal=bool(getattr(module, "is_causal", True) if asked is None else asked),
                    options=options,
                    output=output,
                    weights=weights,
                )
                for listener in tuple(listeners):
                    listener(call)
            return output, weights

        return attend


_REGISTRY = _Registry()


def _eager_of(module: torch.nn.Module) -> Callable[..., Any]:
    """Find the eager attention function in the file that defines an attention module."""
    for kind in type(module).__mro__:
        found = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if found is not None:
            return found  # type: ignore[no-any-return]
    raise CaptureError(f"{type(module).__name__} has no eager attention function beside it")
