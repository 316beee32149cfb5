"""Which model it is that lies in memory: digests of what it is built as, and of its weights.

Knows modules, parameters, buffers and tensors of many kinds, as bytes; runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
import xxhash

from probekit.errors import PlanError

_BLOCK = 1 << 24  # values that are copied to the host at once
# What says nothing of what a model computes, or changes from process to process.
_OF_CONFIG = (
    *("_name_or_path", "name_or_path", "architectures", "dtype", "torch_dtype"),
    *("use_cache", "transformers_version"),
)
_OF_MODULES = (
    *("training", "gradient_checkpointing", "name_or_path", "loss_type", "hf_device_map"),
    "attention_scaling",  # of rotary embeddings that stretch
)
_OF_TRAINING = "make_inputs_require_grads"  # a hook of transformers' that changes no value
_SWITCHES = ("_active_adapter", "_disable_adapters")  # PEFT's


def architecture_digest(model: torch.nn.Module, hf_config: Any, kernel: str) -> str:
    """Digest what a model is built as: its config, the classes of its modules and their settings.

    Counts are left out, which a module may go on with: sizes show in shapes. Of hooks on forward
    passes their names are in it; what they do nobody can tell from outside.

    Args:
        model: any.
        hf_config: of the model of transformers in it.
        kernel: of attention.
    """
    said = {k: v for k, v in hf_config.to_dict().items() if k not in _OF_CONFIG}
    modules = {
        path: [type(module).__qualname__, _forward_of(module), _settings(module), *_hooks(module)]
        for path, module in model.named_modules()
    }
    whole = json.dumps([said, kernel, modules], sort_keys=True, default=str)
    return xxhash.xxh3_128_hexdigest(whole.encode())


def _forward_of(module: torch.nn.Module) -> str | None:
    """Name a forward that was put over the class's own."""
    own = vars(module).get("forward")
    return None if own is None else _named(own)


def _hooks(module: torch.nn.Module) -> Iterator[tuple[str, list[str]]]:
    """Name the hooks on a module's forward pass, in their order; nothing where there are none."""
    for kind in ("_forward_pre_hooks", "_forward_hooks"):
        there = (vars(module).get(kind) or {}).values()
        if names := [name for name in map(_named, there) if not name.endswith(_OF_TRAINING)]:
            yield kind, names


def _named(function: Any) -> str:
    function = getattr(function, "func", function)  # of functools.partial
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _settings(module: torch.nn.Module) -> dict[str, Any]:
    found = {k: v for k, v in vars(module).items() if k not in _OF_MODULES and _is_setting(v)}
    return {k: v for k, v in found.items() if not k.startswith("_") or k in _SWITCHES}


def _is_setting(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list | tuple):
        return all(isinstance(one, bool | float | str) for one in values)
    return isinstance(value, bool | float | str)


def weights_digest(model: torch.nn.Module) -> str:
    """Digest every byte of a model's parameters and buffers, a block at a time.

    A parameter that several modules share counts once. What a module saves in a form of its own
    (packed and quantized weights) is read from there.

    Raises:
        PlanError: if the bytes of one cannot be read.
    """
    digest = xxhash.xxh3_128()
    seen: set[int] = set()
    for name, tensor in _tensors(model):
        if id(tensor) in seen:
            continue
        if isinstance(tensor, torch.nn.Parameter):  # two tables may be one for a while
            seen.add(id(tensor))
        try:
            _add(digest, name, tensor.detach())
        except (RuntimeError, TypeError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise PlanError(
                f"digest: the bytes of {name} ({type(tensor).__name__}, {tensor.dtype} on "
                f"{tensor.device}) cannot be read: {reason}. digest=False does without, and a run "
                "that is cut short cannot go on then"
            ) from error
    return digest.hexdigest()


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Give what each module holds itself, saved with it or not, one module after another."""
    for path, module in model.named_modules():
        saved: dict[str, Any] = {}
        module._save_to_state_dict(saved, "", keep_vars=True)
        own = {name: t for name, t in module._buffers.items() if t is not None}
        for name, value in {**own, **saved}.items():
            for tensor in value if isinstance(value, tuple | list) else (value,):
                if isinstance(tensor, torch.Tensor):
                    yield f"{path}.{name}".lstrip("."), tensor


def _add(digest: Any, name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
    if hasattr(tensor, "__tensor_flatten__"):  # a class of its own, which holds plain tensors
        parts, context = tensor.__tensor_flatten__()
        digest.update(f"{type(tensor).__qualname__} {context}\n".encode())
        for part in parts:
            _add(digest, part, getattr(tensor, part))
        return
    if tensor.is_quantized:
        digest.update(f"{tensor.qscheme()} {_scales(tensor)}\n".encode())
        tensor = tensor.int_repr()
    if tensor.numel() == 0:
        return
    tensor = tensor if tensor.ndim else tensor.reshape(1)
    n_rows = max(1, _BLOCK // (tensor.numel() // len(tensor)))
    for rows in torch.split(tensor, n_rows):
        digest.update(rows.cpu().contiguous().view(torch.uint8).numpy())


def _scales(tensor: torch.Tensor) -> Any:
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return tensor.q_scale(), tensor.q_zero_point()
    scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return scales.tolist(), zeros.tolist(), tensor.q_per_channel_axis()
