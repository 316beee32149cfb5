"""`probekit.record`: look at a model in a notebook, in memory, with no config and no files.

Knows globs, portable names and hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from probekit.config import RecordKind, match_paths, nearest
from probekit.errors import CaptureError, Fault, PlanError
from probekit.hooks import attention
from probekit.hooks.projections import config_of, heads_elsewhere, projections
from probekit.hooks.taps import HookManager, Tap
from probekit.interrupts import Attachment
from probekit.models import changed_later, families, places_inside
from probekit.models.forward import (
    BATCH,
    OTHER_KEYS,
    POSITION,
    SCALE_KINDS,
    AttentionCall,
    AttentionListener as Listener,
    AttentionTap,
    HeadsAt,
    head_writes,
    scale,
)
from probekit.models.places import Place
from probekit.planning import BLOCK_KINDS, HEAD_KINDS, KERNEL_KINDS, in_heads
from probekit.wording import show_typed

ATTENTION_KINDS = (*HEAD_KINDS, *BLOCK_KINDS, "head_out")


Patterns = str | Iterable[str] | Mapping[str, str | Iterable[str]]


def record(model: torch.nn.Module, patterns: Patterns) -> Recording:
    """Record modules of any torch model while a block runs.

    Args:
        model: any module; it is left as it was.
        patterns: globs over module paths, each with an optional record kind
            (`"transformer.h.*.mlp.act"`, `"transformer.h.0.attn/pattern"`), or portable names
            (`"resid_post"`) where the model's family is known. A mapping gives each glob its
            kinds: `{"transformer.h.0.attn": ["pattern", "z"]}`.

    Returns:
        A context manager; inside and after its block, `rec[site]` is the tensor of the last call,
        of which `repr(rec)` counts how many there were, and `rec.calls(site)` those of every call;
        `rec.select("resid_post", layer=3)` goes by portable name.

    Raises:
        PlanError: if a pattern matches nothing, with the nearest module paths.
        CaptureError: at the end of the block, if nothing that a pattern matches has run.

    Example:
        >>> with probekit.record(model, ["transformer.h.*.mlp.act"]) as rec:
        ...     model(**inputs)
        >>> rec["transformer.h.0.mlp.act"].shape      # [batch, pos, d_mlp]
    """
    if not isinstance(model, torch.nn.Module):
        raise PlanError(f"record: model is {show_typed(model)}; expected a torch.nn.Module")
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise PlanError(
            "record: the model is compiled as a whole, which hides its modules; record the model "
            "that was compiled (model._orig_mod), or compile its blocks alone"
        )
    return Recording(model, _matched(model, _given(patterns)))


def _given(patterns: Any) -> list[str]:
    """Write out what is asked for as `glob/kind`."""
    found: list[Any] = []
    if isinstance(patterns, Mapping):
        for glob, kinds in patterns.items():
            several = (
                [kinds] if isinstance(kinds, str) or not isinstance(kinds, Iterable) else kinds
            )
            found += [f"{glob}/{k}" if isinstance(k, str) else k for k in several]
    elif isinstance(patterns, str):
        found = [patterns]
    elif isinstance(patterns, Iterable) and not isinstance(patterns, bytes):
        found = list(patterns)
    if not found or not all(isinstance(pattern, str) and pattern for pattern in found):
        raise PlanError(
            f"record: patterns are {show_typed(patterns)}; expected globs over module paths or "
            'portable names: "transformer.h.*.mlp.act", or a list of at least one'
        )
    return found


@dataclass(frozen=True, slots=True)
class _Kept:
    tensor: torch.Tensor
    version: int | None  # torch's count of in-place changes when the module gave it
    copy: torch.Tensor | None = None  # where the model is known to change it afterwards

    @property
    def is_changed(self) -> bool:
        return self.version is not None and self.tensor._version != self.version


@dataclass(frozen=True, slots=True)
class _Site:
    path: str  # of the module
    kind: RecordKind
    factor: float  # of what is read there


_Sites = dict[str, _Site]  # by name
_Change = Callable[[torch.Tensor], torch.Tensor]


class Recording(Attachment):
    """What was recorded, by site name: `module` or `module/kind`."""

    def __init__(self, model: torch.nn.Module, matched: Mapping[str, _Sites]) -> None:
        super().__init__()
        self._model = model
        self._matched = matched  # by pattern
        self._sites = {name: site for sites in matched.values() for name, site in sites.items()}
        paths = [site.path for site in self._sites.values()]
        self._changed = changed_later(config_of(model), paths)
        self._calls: dict[str, list[_Kept]] = {name: [] for name in self._sites}
        self._changes = _changes(model, self._sites)
        inside = {name: at for name, at in self._sites.items() if at.kind.name in ATTENTION_KINDS}
        asked = {name: (at.path, _heads_of(at.kind.name)) for name, at in inside.items()}
        elsewhere = heads_elsewhere(model, asked.values())
        inside = {name: at for name, at in inside.items() if asked[name] not in elsewhere}
        outside = [self._tap(name, elsewhere) for name in self._sites if name not in inside]
        self._hooks = HookManager(model, outside)
        self._past = _Past()
        self._attention = AttentionTap(model, self._listeners(inside))

    def _attach(self) -> None:
        begin = self._model.register_forward_pre_hook(self._past.see, with_kwargs=True)
        self._stack.callback(begin.remove)
        self._stack.enter_context(self._hooks)
        self._stack.enter_context(self._attention)

    def _left(self, error: BaseException | None) -> None:
        # Of what a glob matches some may never run, as lists of modules do not; not all of it.
        silent = [
            pattern
            for pattern, sites in self._matched.items()
            if not any(self._calls[name] for name in sites)
        ]
        if silent and error is None:
            raise CaptureError(
                f"never ran inside the block: {', '.join(silent)}; "
                "ask for modules that the forward pass calls (and for attention kinds, modules "
                "that use transformers' attention interface)"
            )

    def __iter__(self) -> Iterator[str]:
        """Give the names of the sites that have run."""
        return (name for name, calls in self._calls.items() if calls)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        ran = [f"{name} ({len(calls)}x)" for name, calls in self._calls.items() if calls]
        more = f", ... {len(ran) - 8} more" if len(ran) > 8 else ""
        return f"<Recording of {len(ran)} sites: {', '.join(ran[:8]) or 'nothing yet'}{more}>"

    def select(self, name: str, *, layer: int | None = None) -> torch.Tensor:
        """Give the tensor of the last call at a portable name, the same on every model.

        Raises:
            PlanError: if the model has no such place.
            CaptureError: if it was not recorded.
        """
        paths = [path for path, _ in self._model.named_modules(remove_duplicate=False)]
        places = places_inside(config_of(self._model), name, paths, type(self._model).__name__)
        numbers = [number for number in places if number is not None]
        wanted = layer + len(numbers) if layer is not None and layer < 0 else layer
        if wanted not in places:
            there = f"0 to {len(numbers) - 1}" if numbers else "no layers: leave layer= out"
            raise CaptureError(f"{name}: layer {layer} is not there; there are {there}")
        return self[str(places[wanted])]

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
            if kept.is_changed and kept.copy is None:
                raise CaptureError(
                    f"{name}: the model changed this tensor in place after the module gave it; "
                    "record inside torch.inference_mode(), where a copy is kept"
                )
        return tuple(
            kept.copy if kept.is_changed and kept.copy is not None else kept.tensor
            for kept in self._calls[name]
        )

    def live(self, site: str) -> tuple[torch.Tensor, ...]:
        """Give the tensors of every call as the model went on with them; gradients go through them.

        A model may have changed them in place since (Falcon, Llama 4, XLM and others do): then
        `rec[site]` is a copy, detached, of what the module gave, and these are not. They hold the
        autograd graph of the pass for as long as the recording lives. Kinds of attention are taken
        apart here (`q`, `z`, ...): the model goes on with what they were taken of.
        """
        return tuple(kept.tensor for kept in self._calls[self._name(site)])

    def _name(self, site: str) -> str:
        for name in (site, f"{site}/output"):
            if name in self._sites:
                return name
        meant = list(self._matched.get(site, ()))
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise CaptureError(f"{site} means {len(meant)} sites; name one: {', '.join(meant)}")
        raise CaptureError(f"{site} was not asked for; recorded: {', '.join(self._sites)}")

    def _tap(self, name: str, elsewhere: Mapping[tuple[str, str], HeadsAt]) -> Tap:
        module, kind = self._sites[name].path, self._sites[name].kind
        change = self._changes.get(name)
        twice = kind.name == "output" and module in self._changed
        keep = partial(_keep_twice if twice else _keep, self._calls[name])
        at = elsewhere.get((module, _heads_of(kind.name)))
        if at is not None:
            heads = partial(_keep_heads, self._calls[name], at, change)
            return Tap(module=at.module, side=at.side, element=None, call=None, sink=heads)
        side = "input" if kind.name in SCALE_KINDS else kind.name
        if change is not None:
            keep = partial(_keep_changed, self._calls[name], change)
        return Tap(module=module, side=side, element=kind.element, call=kind.call, sink=keep)

    def _listeners(self, inside: _Sites) -> dict[str, Listener]:
        wanted: dict[str, list[_Asked]] = {}
        for name, site in inside.items():
            kind = _heads_of(site.kind.name)
            element = KERNEL_KINDS.get(kind, kind)  # here they are one
            asked = (self._calls[name], element, self._changes.get(name))
            wanted.setdefault(site.path, []).append(asked)
        past = self._past
        return {module: partial(_keep_parts, asked, past) for module, asked in wanted.items()}


# Neither of these knows the Recording: a circle of references would hold tensors, and with them a
# device's memory, until Python happens to look for circles.


def _keep_twice(kept: list[_Kept], tensor: torch.Tensor) -> None:
    """Keep a copy beside the live tensor: twice its bytes."""
    if tensor.is_inference():
        _keep(kept, tensor)
    else:
        kept.append(_Kept(tensor, tensor._version, tensor.detach().clone()))


def _keep(kept: list[_Kept], tensor: torch.Tensor) -> None:
    if tensor.is_inference():  # has no count of changes, so only a copy is sure
        kept.append(_Kept(tensor.clone(), None))
    else:
        kept.append(_Kept(tensor, tensor._version))


def _keep_changed(kept: list[_Kept], change: _Change, tensor: torch.Tensor) -> None:
    kept.append(_Kept(change(tensor), None))  # nobody else has it


def _keep_heads(
    kept: list[_Kept], at: HeadsAt, change: _Change | None, tensor: torch.Tensor
) -> None:
    n_front = 1  # tokens of the whole batch, or its texts and their positions
    if BATCH in at.axes:
        tensor = tensor.movedim((at.axes.index(BATCH), at.axes.index(POSITION)), (0, 1))
        n_front = 2
    heads = in_heads(tensor, n_front, at.sizes, at.channels)
    _keep(kept, heads if change is None else change(heads))


class _Past:
    """How many tokens a cache holds when a model begins a pass."""

    def __init__(self) -> None:
        self._n_tokens: int | None = None  # None: nobody knows

    def see(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        """Look at a call of the model."""
        cache = kwargs.get("past_key_values")
        count = getattr(cache, "get_seq_length", None)
        self._n_tokens = 0 if cache is None else int(count()) if count is not None else None

    def n_more(self, call: AttentionCall) -> int:
        """Say how many keys a call has that are no tokens'."""
        if self._n_tokens is None:
            return 0
        return max(0, call.key.shape[2] - call.query.shape[2] - self._n_tokens)


_Asked = tuple[list[_Kept], str, _Change | None]


def _keep_parts(asked: list[_Asked], past: _Past, call: AttentionCall) -> None:
    n_more = past.n_more(call)
    for kept, kind, change in asked:
        if n_more and kind not in ("q", "z_kernel"):
            raise CaptureError(f"{kind}: {OTHER_KEYS.format(n_more=n_more)}")
        whole = attention.whole(call, kind)
        _keep(kept, whole if change is None else change(whole))


def _heads_of(kind: str) -> str:
    """Name what is read for a kind: each head's write is computed of its `z`."""
    return "z" if kind == "head_out" else kind


def _changes(model: torch.nn.Module, sites: _Sites) -> dict[str, _Change]:
    """Give what is computed of what is read, for the sites whose values no module holds."""
    written = {site.path for site in sites.values() if site.kind.name == "head_out"}
    maps = projections(model, written)
    found: dict[str, _Change] = {}
    for name, site in sites.items():
        kind = site.kind.name
        if kind == "head_out":
            projection = model.get_submodule(maps[site.path])
            found[name] = partial(_write, projection, site.factor)
        elif kind in SCALE_KINDS:
            found[name] = partial(scale, model.get_submodule(site.path), kind=kind)
        elif site.factor != 1.0:
            found[name] = partial(torch.mul, other=site.factor)
    return found


def _matched(model: torch.nn.Module, wanted: list[str]) -> dict[str, _Sites]:
    # A module that is reachable under two names is found by either; a lone one is its own root.
    every = tuple(path for path, _ in model.named_modules(remove_duplicate=False))
    paths = every if len(every) == 1 else every[1:]
    matched: dict[str, _Sites] = {}
    faults: list[Fault] = []
    for pattern in wanted:
        try:
            found = _matches(model, pattern, paths)
            matched[pattern] = {_site_name(site): site for site in found}
        except PlanError as error:
            faults.append(Fault("record", str(error)))
    if faults:
        raise PlanError.of(faults)
    return matched


def _write(projection: torch.nn.Module, factor: float, heads: torch.Tensor) -> torch.Tensor:
    writes = head_writes(heads, projection)
    return writes if factor == 1.0 else writes * factor


def _site_name(site: _Site) -> str:
    place = Place(module=site.path, kind=str(site.kind), factor=site.factor)
    return str(place)


def _matches(model: torch.nn.Module, pattern: str, paths: tuple[str, ...]) -> Iterator[_Site]:
    glob, _, given = pattern.partition("/")
    kind = RecordKind.parse(given or "output")
    found = paths if paths == ("",) and glob in ("*", "**") else match_paths(glob, paths)
    if found:
        if kind.name not in ("output", "input", *SCALE_KINDS, *ATTENTION_KINDS):
            raise PlanError(
                f"{pattern!r}: {kind.name} is taken in runs of a config; here, take it of the "
                "recorded logits"
            )
        yield from (_Site(path, kind, 1.0) for path in found)
    elif not given and glob in families.PORTABLE_NAMES:
        places = places_inside(config_of(model), glob, paths, type(model).__name__)
        yield from (_Site(p.module, RecordKind.parse(p.kind), p.factor) for p in places.values())
    else:
        near = nearest(glob, paths)
        raise PlanError(
            f"{pattern!r} matches no module of {type(model).__name__}; "
            f"the nearest: {', '.join(near) or 'none'}"
        )
