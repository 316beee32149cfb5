"""The attention tap: what goes into and comes out of attention while the model runs its own kernel.

Knows transformers' attention interface. Every attention module looks its kernel up in one registry;
while something listens, the kernel in use is replaced there by a dispatcher that calls it unchanged
and then tells whoever listens to that very module. The model's attention setting, its masks and its
output stay what they are, bit for bit; other modules pass through untouched.

What the fused kernel hides is computed beside it, for the asked heads and queries only:
`pattern = softmax(scores)`, `scores = softcap(q k^T * scaling) + bias`, -inf where masked
(https://arxiv.org/abs/1706.03762, softcap: https://arxiv.org/abs/2408.00118).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.modeling_utils import AttentionInterface

from probekit.errors import CaptureError
from probekit.interrupts import Attachment
from probekit.planning import take

KERNELS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")  # whose masks we can read
SCORE_ARGUMENTS = frozenset({"scaling", "is_causal", "position_bias", "softcap", "s_aux"})
_BLOCK_BYTES = 16 << 20  # float32 scores computed at once


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
        """Give `q`, `k`, `v` or `z` of this call's tokens, `[batch, position, head, d_head]`."""
        if kind == "z":
            return self.output
        if kind == "q":
            return self.query.transpose(1, 2)
        held = self.key if kind == "k" else self.value
        return held[:, :, -self.query.shape[2] :].transpose(1, 2)

    def blocks(
        self,
        kind: str,
        *,
        example: int,
        heads: Sequence[int],
        queries: torch.Tensor,
        n_keys: int,
    ) -> Iterator[torch.Tensor]:
        """Give `pattern` or `scores` of one example, some queries at a time.

        Args:
            kind: "pattern" or "scores".
            example: its place in the batch.
            heads: which heads.
            queries: which of this call's positions, int64 `[query]`, on its device.
            n_keys: tokens of the example so far; keys behind them are padding. A sliding-window
                cache may hold only the last of them: the forgotten ones are masked.

        Yields:
            `[query, head, key]`, in the dtype of the queries.
        """
        size = max(1, _BLOCK_BYTES // (4 * len(heads) * n_keys))
        for block in queries.split(size):
            if kind == "pattern" and self.weights is not None:
                rows = take(self.weights[example], 0, heads)[:, block, :n_keys]
            else:
                rows = self._scores(example, heads, block, n_keys)
                if kind == "pattern":
                    rows = self._softmax(rows, heads)
            forgotten = n_keys - rows.shape[-1]
            if forgotten:
                fill = 0.0 if kind == "pattern" else -torch.inf
                rows = torch.nn.functional.pad(rows, (forgotten, 0), value=fill)
            yield rows.transpose(0, 1).to(self.query.dtype)

    def whole(self, kind: str) -> torch.Tensor:
        """Give any kind for the whole call: `[batch, head, query, key]` for pattern and scores."""
        if kind not in ("pattern", "scores"):
            return self.tensor(kind)
        n_batch, n_heads, n_queries, _ = self.query.shape
        everything = torch.arange(n_queries, device=self.query.device)
        rows = [
            torch.cat(
                tuple(
                    self.blocks(
                        kind,
                        example=example,
                        heads=range(n_heads),
                        queries=everything,
                        n_keys=self.key.shape[2],
                    )
                )
            )
            for example in range(n_batch)
        ]
        return torch.stack(rows).transpose(1, 2)

    def _scores(
        self, example: int, heads: Sequence[int], queries: torch.Tensor, n_keys: int
    ) -> torch.Tensor:
        """Compute `[head, query, key]` in float32; -inf where masked."""
        groups = self.query.shape[1] // self.key.shape[1]
        query = take(self.query[example], 0, heads)[:, queries].float()
        key = take(self.key[example], 0, [h // groups for h in heads])[:, :n_keys].float()
        scores = query @ key.transpose(1, 2) * self.scaling
        cap = self.options.get("softcap")
        # Older sdpa functions of transformers leave it away; newer ones refuse it before this.
        if cap is not None and self.kernel != "sdpa":
            scores = torch.tanh(scores / cap) * cap
        if (bias := self.options.get("position_bias")) is not None:
            scores += _part(bias, example, heads, queries, n_keys).float()
        return self._masked(scores, example, heads, queries, n_keys)

    def _masked(
        self,
        scores: torch.Tensor,
        example: int,
        heads: Sequence[int],
        queries: torch.Tensor,
        n_keys: int,
    ) -> torch.Tensor:
        if self.mask is not None and self.mask.ndim == 4:
            mask = _part(self.mask, example, heads, queries, n_keys)
            if mask.dtype == torch.bool:
                return scores.masked_fill(~mask, -torch.inf)
            # Additive masks hide a key with their dtype's lowest number; a bias is far above it.
            hidden = mask <= torch.finfo(mask.dtype).min / 2
            return (scores + mask.float()).masked_fill(hidden, -torch.inf)
        return scores.masked_fill(self._hidden(queries, n_keys), -torch.inf)

    def _hidden(self, queries: torch.Tensor, n_keys: int) -> torch.Tensor:
        """Say what a kernel hides on its own when it is given no mask, `[query, key]`."""
        n_queries, all_keys = self.query.shape[2], self.key.shape[2]
        keys = torch.arange(n_keys, device=queries.device)
        last = queries[:, None].expand(-1, n_keys)
        if "flash" in self.kernel:  # aligns the newest query with the newest key
            last = last + (all_keys - n_queries)
            hidden = (keys > last) & self.causal
            window = self.options.get("sliding_window")
            return hidden if window is None else hidden | (keys <= last - window)
        # sdpa aligns the first with the first, and hides nothing from a lone query; eager
        # attention hides nothing without a mask.
        by_itself = self.kernel == "sdpa" and self.causal and n_queries > 1
        return (keys > last) & by_itself

    def _softmax(self, scores: torch.Tensor, heads: Sequence[int]) -> torch.Tensor:
        sinks = self.options.get("s_aux")
        if sinks is None:
            # A query that may look nowhere (padding on the left) has no pattern, rather than NaN.
            nowhere = (scores == -torch.inf).all(dim=-1, keepdim=True)
            return torch.softmax(scores, dim=-1).masked_fill(nowhere, 0.0)
        # A sink is a learned score per head that takes its share and belongs to no key.
        column = take(sinks, 0, heads).float()[:, None, None].expand(-1, scores.shape[1], 1)
        return torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)[..., :-1]


def _part(
    tensor: torch.Tensor, example: int, heads: Sequence[int], queries: torch.Tensor, n_keys: int
) -> torch.Tensor:
    """Take one example's heads, queries and keys of a mask that may be shared over any of them."""
    one = tensor[example if tensor.shape[0] > 1 else 0]
    one = take(one, 0, heads) if one.shape[0] > 1 else one
    one = one[:, queries] if one.shape[1] > 1 else one
    return one[..., :n_keys]


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


Listener = Callable[[AttentionCall], None]


class AttentionTap(Attachment):
    """Listen at the attention modules of a model for the time of a block.

    Args:
        model: any model that uses transformers' attention interface.
        listeners: module path -> who is told of each call.
    """

    def __init__(self, model: torch.nn.Module, listeners: Mapping[str, Listener]) -> None:
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
        self._listeners: WeakKeyDictionary[torch.nn.Module, list[Listener]] = WeakKeyDictionary()

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

    def listen(self, module: torch.nn.Module, listener: Listener) -> None:
        with self._lock:
            self._listeners.setdefault(module, []).append(listener)

    def forget(self, module: torch.nn.Module, listener: Listener) -> None:
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
