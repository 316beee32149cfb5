"""What is said of a model's modules, in the order they run, as plain data.

Knows skeletons and portable names; draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from probekit.config import ProbeConfig, match_paths, no_match
from probekit.errors import PlanError
from probekit.models.checkpoints import compute_dtype, load_hf_config
from probekit.models.details import Details, OwnTensor
from probekit.models.families import portable_names
from probekit.models.forward import Slot, expert_names
from probekit.models.skeleton import Skeleton, build_skeleton


def rows_of(config: ProbeConfig, match: str) -> list[dict[str, Any]]:
    """List the modules of a config's model that a glob matches; `list_modules` says what of them.

    Raises:
        PlanError: the glob matches nothing.
    """
    hf_config = load_hf_config(config, bundled=True)
    dtype = compute_dtype(config.model, hf_config)
    skeleton = build_skeleton(
        hf_config,
        dtype,
        config.model.attention,
        details=True,
        where=config.where("model.name"),
    )
    paths = match_paths(match, tuple(skeleton.modules))
    if not paths:
        raise PlanError(no_match(match, skeleton.modules, skeleton.model_class))
    return summarize_modules(skeleton, paths)


def summarize_modules(skeleton: Skeleton, paths: Iterable[str]) -> list[dict[str, Any]]:
    """List modules in execution order, those that never run last, as plain JSON values.

    What they are made of is said where the skeleton was asked for it.
    """
    portable: dict[str, list[str]] = {}
    names = portable_names(skeleton.hf_config) | expert_names(skeleton.mixtures)
    for place, (name, _) in names.items():
        module, _, kind = place.partition("/")
        portable.setdefault(module, []).append(f"{name} ({kind})")
    wanted = dict.fromkeys(paths)
    ran = [p for p in dict.fromkeys(c.module for c in skeleton.calls) if p in wanted]
    never = [p for p in wanted if p not in set(ran)]
    return [
        {
            "path": path,
            "class": skeleton.modules[path],
            "calls": len(skeleton.calls_of(path)),
            "inputs": _tensors(skeleton, path, "inputs"),
            "outputs": _tensors(skeleton, path, "outputs"),
            "portable": portable.get(path, []),
            **(_made_of(skeleton.details[path]) if skeleton.details else {}),
        }
        for path in (*ran, *never)
    ]


def _tensors(skeleton: Skeleton, path: str, side: str) -> list[dict[str, Any]]:
    calls = skeleton.calls_of(path)
    slots: tuple[Slot, ...] = getattr(calls[0], side) if calls else ()
    return [{"index": s.index, "key": s.key, "axes": list(s.axes), "dtype": s.dtype} for s in slots]


def _made_of(details: Details) -> dict[str, Any]:
    return {
        "n_parameters": sum(tensor.n_values for tensor in details.parameters),
        "parameters": [_own(tensor) for tensor in details.parameters],
        "buffers": [_own(tensor) for tensor in details.buffers],
        "settings": dict(details.settings),
    }


def _own(tensor: OwnTensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "n_values": tensor.n_values,
        "shared_with": list(tensor.shared_with),
    }
