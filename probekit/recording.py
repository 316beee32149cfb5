"""`probekit.record`: look at a model in a notebook, in memory, with no config and no files.

Knows globs, portable names and hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

from probekit import families
from probekit.config import RecordKind
from probekit.errors import CaptureError, Fault, PlanError
from probekit.globs import match_paths, nearest
from probekit.hooks import HookManager, Tap

_SHOWN = 5


def record(model: torch.nn.Module, patterns: str | Iterable[str]) -> Recording:
    """Record modules of any torch model while a block runs.

    Args:
        model: any module; it is left as it was.
        patterns: globs over module paths, each with an optional record kind
            (`"transformer.h.*.mlp.act"`, `"transformer.h.0/input"`), or portable names
            (`"resid_post"`) where the model's family is known.

    Returns:
        A context manager; inside and after its block, `rec[site]` is the tensor of the last call
        and `rec.calls(site)` those of every call.

    Raises:
        PlanError: if a pattern matches nothing, with the nearest module paths.

    Example:
        >>> with probekit.record(model, ["transformer.h.*.mlp.act"]) as rec:
        ...     model(**inputs)
        >>> rec["transformer.h.0.mlp.act"].shape      # [batch, pos, d_mlp]
    """
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    return Recording(model, _sites(model, wanted))


@dataclass(frozen=True, slots=True)
class _Kept:
    tensor: torch.Tensor
    version: int | None  # torch's count of in-place changes when the module gave it


class Recording:
    """What was recorded, by site name: `module` or `module/kind`."""

    def __init__(self, model: torch.nn.Module, sites: dict[str, tuple[str, RecordKind]]) -> None:
        self._sites = sites
        self._calls: dict[str, list[_Kept]] = {name: [] for name in sites}
        self._hooks = HookManager(model, [self._tap(name) for name in sites])

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.__exit__(kind, error, trace)
        silent = [name for name, calls in self._calls.items() if not calls]
        if silent and error is None:
            raise CaptureError(
                f"never ran inside the block: {', '.join(silent[:_SHOWN])}"
                f"{f' and {len(silent) - _SHOWN} more' if len(silent) > _SHOWN else ''}; "
                "ask for modules that the forward pass calls"
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __getitem__(self, site: str) -> torch.Tensor:
        """Give the tensor of the site's last call, as the module made it."""
        calls = self.calls(site)
        if not calls:
            raise CaptureError(f"{site} has not run yet")
        return calls[-1]

    def calls(self, site: str) -> tuple[torch.Tensor, ...]:
        """Give the tensors of every call in the block, oldest first.

        Raises:
            CaptureError: if the site was not asked for, or if the model has since changed one of
                the tensors in place.
        """
        name = self._name(site)
        for kept in self._calls[name]:
            if kept.version is not None and kept.tensor._version != kept.version:
                raise CaptureError(
                    f"{name}: the model changed this tensor in place after the module gave it; "
                    "record inside torch.inference_mode(), where a copy is kept"
                )
        return tuple(kept.tensor for kept in self._calls[name])

    def _name(self, site: str) -> str:
        for name in (site, f"{site}/output"):
            if name in self._sites:
                return name
        raise CaptureError(f"{site} was not asked for; recorded: {', '.join(self._sites)}")

    def _tap(self, name: str) -> Tap:
        module, kind = self._sites[name]
        calls = self._calls[name]

        def keep(tensor: torch.Tensor) -> None:
            if tensor.is_inference():  # has no count of changes, so only a copy is sure
                calls.append(_Kept(tensor.clone(), None))
            else:
                calls.append(_Kept(tensor, tensor._version))

        return Tap(module=module, side=kind.name, element=kind.element, call=kind.call, sink=keep)


def _sites(model: torch.nn.Module, wanted: list[str]) -> dict[str, tuple[str, RecordKind]]:
    paths = tuple(path for path, _ in model.named_modules() if path)
    sites: dict[str, tuple[str, RecordKind]] = {}
    faults: list[Fault] = []
    for pattern in wanted:
        try:
            for module, kind in _matches(model, pattern, paths):
                sites[f"{module}/{kind}"] = (module, kind)
        except PlanError as error:
            faults.append(Fault("record", str(error)))
    if faults:
        raise PlanError.of(faults)
    return sites


def _matches(
    model: torch.nn.Module, pattern: str, paths: tuple[str, ...]
) -> Iterator[tuple[str, RecordKind]]:
    glob, _, given = pattern.partition("/")
    kind = RecordKind.parse(given or "output")
    found = match_paths(glob, paths)
    if found:
        if kind.name not in ("output", "input"):
            raise PlanError(f"{pattern!r}: the record kind {kind.name} cannot be recorded yet")
        yield from ((path, kind) for path in found)
    elif not given and glob in families.PORTABLE_NAMES:
        places = families.places(getattr(model, "config", None), glob)
        yield from ((p.module, RecordKind.parse(p.kind)) for p in places.values())
    else:
        near = nearest(glob, paths)
        raise PlanError(
            f"{pattern!r} matches no module of {type(model).__name__}; "
            f"the nearest: {', '.join(near) or 'none'}"
        )
