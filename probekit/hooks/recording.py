"""`probekit.record`: look at a model in a notebook, in memory, with no config and no files.

Knows globs, portable names and hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from probekit.arguments import whole
from probekit.config import RecordKind, runs, said_once
from probekit.errors import CaptureError, PlanError
from probekit.hooks import attention
from probekit.hooks.changing import Change, changes_of, heads_of, keep_changed
from probekit.hooks.keeping import Keeps, Kept, Packing, keep, keep_twice, packed_blocks
from probekit.hooks.packer import Packer
from probekit.hooks.passes import Passes
from probekit.hooks.patterns import (
    ATTENTION_KINDS,
    Patterns,
    Sites,
    matched,
    places_of,
    reading_of,
    written_out,
)
from probekit.hooks.projections import config_of, heads_elsewhere
from probekit.hooks.realtokens import RealTokens
from probekit.hooks.taps import HookManager, Sink, Tap
from probekit.interrupts import Attachment
from probekit.models import changed_later, is_compiled
from probekit.models.forward import (
    BATCH,
    EACH_EXPERT,
    EXPERT_KINDS,
    OTHER_KEYS,
    POSITION,
    SCALE_KINDS,
    AttentionCall,
    AttentionListener as Listener,
    AttentionTap,
    HeadsAt,
    mixtures_of,
)
from probekit.planning import BLOCK_KINDS, KERNEL_KINDS, in_heads
from probekit.wording import counted, shorten, show_typed


def record(model: torch.nn.Module, patterns: Patterns, *, mask: Any = None) -> Recording:
    """Record modules of any torch model while a block runs.

    Without `mask` a tensor is given as the module made it: `[batch, pos, d_mlp]`, attention
    `[batch, head, query, key]`, padding included. With it, rows are real tokens, one text after
    another, as in a trace: `[token, d_mlp]`, attention `[token, head, key]`, where a key is a
    position in the token's own text, and beyond that zero (scores: -inf).

    Args:
        model: any module; it is left as it was.
        patterns: globs over module paths, each with an optional record kind
            (`"transformer.h.*.mlp.act"`, `"transformer.h.0.attn/pattern"`), or portable names
            (`"resid_post"`) where the model's family is known. A mapping gives each glob its
            kinds: `{"transformer.h.0.attn": ["pattern", "z"]}`.
        mask: which places of the batch are tokens, `[batch, pos]` of 0 and 1 or of booleans: the
            attention_mask that the model is given (which is not made of it). Padding may stand on
            either side; on the left, the model must be given `position_ids`, too. In a block with
            `model.generate` it is the prompt's, and what comes after it counts as tokens where
            there is one text; of several, give a mask as long as they get.

    Returns:
        A context manager; inside and after its block, `rec[site]` is the tensor of the last call,
        of which `repr(rec)` counts how many there were, and `rec.calls(site)` those of every call;
        `rec.select("resid_post", layer=3)` goes by portable name. With `mask`,
        `rec.example(site, 0)` is the rows of the first text, and `rec.n_rows(site)` how many each
        has. A tensor without a token axis has one row a text.

    Raises:
        PlanError: if a pattern matches nothing, with the nearest module paths; if `mask` is none.
        CaptureError: at the end of the block, if nothing that a pattern matches has run. With
            `mask`, when the model is called: if it is not the mask of that batch, if the model is
            not told of padding that moves tokens, if a text's rows depend on the others of its
            batch (Doge), or if a tensor has no axis that is the tokens' for certain.

    Example:
        >>> with probekit.record(model, ["transformer.h.*.mlp.act"]) as rec:
        ...     model(**inputs)
        >>> rec["transformer.h.0.mlp.act"].shape      # [batch, pos, d_mlp]

        >>> mask = inputs["attention_mask"]
        >>> with probekit.record(model, ["transformer.h.*.mlp.act"], mask=mask) as rec:
        ...     model(**inputs)
        >>> rec["transformer.h.0.mlp.act"].shape      # [token, d_mlp]
    """
    if not isinstance(model, torch.nn.Module):
        raise PlanError(f"record: model is {show_typed(model)}; expected a torch.nn.Module")
    if is_compiled(model):
        raise PlanError(
            "record: the model is compiled as a whole, which hides its modules; record the model "
            "that was compiled (model._orig_mod), or compile its blocks alone"
        )
    tokens = None if mask is None else RealTokens(mask)
    return Recording(model, matched(model, written_out(patterns)), tokens)


class Recording(Attachment):
    """What was recorded, by site name: `module` or `module/kind`."""

    def __init__(
        self,
        model: torch.nn.Module,
        by_pattern: Mapping[str, Sites],
        tokens: RealTokens | None = None,
    ) -> None:
        super().__init__()
        self._entered = False
        self._model = model
        self._matched = by_pattern
        self._sites = {name: site for sites in by_pattern.values() for name, site in sites.items()}
        paths = [site.path for site in self._sites.values()]
        self._changed = changed_later(config_of(model), paths)
        self._calls: dict[str, list[Kept]] = {name: [] for name in self._sites}
        self._changes = changes_of(model, self._sites.values())
        self._mixtures = mixtures_of(model)
        inside = {name: at for name, at in self._sites.items() if at.kind.name in ATTENTION_KINDS}
        asked = {name: (at.path, heads_of(at.kind.name)) for name, at in inside.items()}
        elsewhere = heads_elsewhere(model, asked.values())
        inside = {name: at for name, at in inside.items() if asked[name] not in elsewhere}
        outside = {name: at for name, at in self._sites.items() if name not in inside}
        self._packer: Packer | None = None
        self._passes = Passes(model)
        if tokens is not None:
            own = {
                name: self._read_at(at.path, at.kind)
                for name, at in outside.items()
                if (at.path, heads_of(at.kind.name)) not in elsewhere
            }
            self._packer = Packer(type(model).__name__, tokens, own)
            self._passes = Passes(model, self._packer.begin, self._packer.end)
        self._hooks = HookManager(model, [self._tap(name, elsewhere) for name in outside])
        self._attention = AttentionTap(model, self._listeners(inside))

    def _attach(self) -> None:
        self._entered = True
        self._passes.attach_begin(self._stack)
        self._stack.enter_context(self._hooks)
        self._stack.enter_context(self._attention)
        self._passes.attach_end(self._stack)

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
        shown = ", ".join(ran[:8]) or "nothing yet"
        return f"<Recording of {counted(len(ran), 'site')}: {shown}{more}>"

    def select(self, name: str, *, layer: int | None = None) -> torch.Tensor:
        """Give the tensor of the last call at a portable name, the same on every model.

        Raises:
            PlanError: if the model has no such place.
            CaptureError: if it was not recorded.
        """
        places = places_of(self._model, name)
        numbers = [number for number in places if number is not None]
        layer = None if layer is None else whole("layer", layer)
        wanted = layer + len(numbers) if layer is not None and layer < 0 else layer
        if wanted not in places:
            there = f"{runs(numbers).strip('{}').replace('..', ' to ')}" if numbers else ""
            if layer is None:
                raise CaptureError(f"{name} is in layers {there}; say which with layer=")
            there = there or "no layers: leave layer= out"
            raise CaptureError(f"{name}: layer {layer} is not there; there are {there}")
        site = places[wanted].name
        if site not in self._sites:
            asked = name if layer is None else f"{name} of layer {layer}"
            there = ", ".join(said_once(self._sites))
            raise CaptureError(f"{asked} ({site}) was not asked for; recorded: {there}")
        return self[site]

    def __getitem__(self, site: str) -> torch.Tensor:
        """Give the tensor of the site's last call, as the module made it; with a mask, its rows."""
        calls = self.calls(site)
        if not calls:
            how = "" if self._entered else ": use it as `with probekit.record(...) as rec:`"
            raise CaptureError(f"{site} has not run yet{how}")
        return calls[-1]

    def calls(self, site: str) -> tuple[torch.Tensor, ...]:
        """Give the tensors of every call in the block, oldest first.

        Raises:
            CaptureError: if the site was not asked for, or if the model has since changed one of
                the tensors in place.
        """
        name = self._name(site)
        for kept in self._calls[name]:
            if kept.is_lost:
                raise CaptureError(
                    f"{name}: the model changed this tensor in place after the module gave it; "
                    "record inside torch.inference_mode(), where a copy is kept"
                )
        return tuple(kept.read() for kept in self._calls[name])

    def n_rows(self, site: str) -> tuple[int, ...]:
        """Say how many rows each text has in the site's last call: `rec[site].split(...)`.

        Raises:
            CaptureError: if the recording has no mask, or the site has not run.
        """
        return self._last(site).counts

    def example(self, site: str, number: int) -> torch.Tensor:
        """Give the rows of one text in the site's last call.

        Returns:
            `[token, ...]`; as of a trace, of attention (`pattern`, `scores`) `[head, query, key]`,
            keys as many as the text has tokens; `[1, ...]` where there is no token axis.

        Raises:
            CaptureError: if the recording has no mask, the site has not run, or there is no such
                text.
        """
        last = self._last(site)
        n_texts = len(last.counts)
        if not -n_texts <= whole("number", number) < n_texts:
            raise CaptureError(
                f"there is no text {number}; there are {n_texts}: 0 to {n_texts - 1}"
            )
        return last.example(self[site], number)

    def _last(self, site: str) -> Packing:
        if self._packer is None:
            raise CaptureError(
                "this recording has no mask, so its rows are not told by text; give "
                "record(..., mask=attention_mask) to read by text"
            )
        self[site]
        packing = self._calls[self._name(site)][-1].packing
        assert packing is not None  # a recording with a mask packs every tensor
        return packing

    def live(self, site: str) -> tuple[torch.Tensor, ...]:
        """Give the tensors of every call as the model went on with them; gradients go through them.

        A model may have changed them in place since (Falcon, Llama 4, XLM and others do): then
        `rec[site]` is a copy, detached, of what the module gave, and these are not. They hold the
        autograd graph of the pass for as long as the recording lives. Kinds of attention are taken
        apart here (`q`, `z`, ...): the model goes on with what they were taken of. A mask takes
        nothing out of them: only `pattern`, `scores` and `sink` are rows of tokens here too.
        """
        return tuple(kept.tensor for kept in self._calls[self._name(site)])

    def _name(self, site: str) -> str:
        for name in (site, f"{site}/output") if isinstance(site, str) else ():
            if name in self._sites:
                return name
        meant = list(self._matched.get(site, ())) if isinstance(site, str) else []
        if len(meant) == 1:
            return meant[0]
        if meant:
            there = ", ".join(said_once(meant))
            said = counted(len(meant), "site")
            by_layer = self._by_layer(site)
            raise CaptureError(f"{site} means {said}; name one: {there}{by_layer}")
        there = ", ".join(said_once(self._sites))
        asked = shorten(site) if isinstance(site, str) else show_typed(site)
        by_layer = self._by_layer(site) if isinstance(site, str) else ""
        raise CaptureError(f"{asked} was not asked for; recorded: {there}{by_layer}")

    def _by_layer(self, name: str) -> str:
        """Say how a portable name is read, if one of its places was recorded."""
        try:
            places = places_of(self._model, name)
        except PlanError:
            return ""
        is_there = any(place.name in self._sites for place in places.values())
        layer = ", layer=..." if None not in places else ""
        return f'; or by layer: rec.select("{name}"{layer})' if is_there else ""

    def _read_at(self, module: str, kind: RecordKind) -> tuple[str, RecordKind]:
        """Say which module gives a site, and as what."""
        if kind.name in SCALE_KINDS:
            return module, RecordKind(name="input")
        if kind.name not in EXPERT_KINDS:
            return module, kind
        at = reading_of(self._mixtures, module, kind.name)
        if at.routed is not None:
            return at.routed.module, RecordKind(name="output", element=at.routed.logits)
        if at.side == EACH_EXPERT:
            raise PlanError(
                f"record: mask: {module}/{kind.name} is worked out expert by expert, and which of "
                "its rows are tokens cannot be told; record it without mask="
            )
        return at.module, RecordKind(name=at.side, element=at.element)

    def _tap(self, name: str, elsewhere: Mapping[tuple[str, str], HeadsAt]) -> Tap:
        module, kind = self._sites[name].path, self._sites[name].kind
        calls, packer, change = self._calls[name], self._packer, self._changes.get(name)
        at = elsewhere.get((module, heads_of(kind.name)))
        if at is not None:
            heads = partial(_keep_heads, calls, at, packer, name, change)
            return Tap(module=at.module, side=at.side, element=None, call=None, sink=heads)
        keeps: Keeps = keep_twice if kind.name == "output" and module in self._changed else keep
        if change is not None:
            keeps = partial(keep_changed, change)
        sink: Sink = partial(keeps, calls)
        held = None
        if kind.name in EXPERT_KINDS:
            held = reading_of(self._mixtures, module, kind.name)
        if packer is not None:
            is_made = held is not None and held.routed is not None
            of_rows = packer.of_choices if is_made else packer.of_site
            sink = partial(_keep_rows, keeps, calls, of_rows, name)
        if held is not None:
            return Tap(
                module=held.module, side=held.side, element=held.element, call=None, sink=sink
            )
        side = "input" if kind.name in SCALE_KINDS else kind.name
        return Tap(module=module, side=side, element=kind.element, call=kind.call, sink=sink)

    def _listeners(self, inside: Sites) -> dict[str, Listener]:
        wanted: dict[str, list[_Asked]] = {}
        for name, site in inside.items():
            kind = heads_of(site.kind.name)
            element = KERNEL_KINDS.get(kind, kind)  # here they are one
            asked = (self._calls[name], element, self._changes.get(name))
            wanted.setdefault(site.path, []).append(asked)
        return {
            module: partial(_keep_parts, module, asked, self._passes, self._packer)
            for module, asked in wanted.items()
        }


_Asked = tuple[list[Kept], str, Change | None]

# None of these knows the Recording: a circle of references would hold tensors, and with them a
# device's memory, until Python happens to look for circles.


def _keep_rows(
    keeps: Keeps,
    kept: list[Kept],
    of_rows: Callable[[str, torch.Tensor], Packing],
    name: str,
    tensor: torch.Tensor,
) -> None:
    keeps(kept, tensor, of_rows(name, tensor))


def _keep_heads(
    kept: list[Kept],
    at: HeadsAt,
    packer: Packer | None,
    name: str,
    change: Change | None,
    tensor: torch.Tensor,
) -> None:
    packing = None if packer is None else packer.of_heads(name, at, tensor)
    n_front = 1  # tokens of the whole batch, or its texts and their positions
    if BATCH in at.axes:
        tensor = tensor.movedim((at.axes.index(BATCH), at.axes.index(POSITION)), (0, 1))
        n_front = 2
    heads = in_heads(tensor, n_front, at.sizes, at.channels)
    (keep if change is None else partial(keep_changed, change))(kept, heads, packing)


def _keep_parts(
    module: str,
    asked: list[_Asked],
    passes: Passes,
    packer: Packer | None,
    call: AttentionCall,
) -> None:
    n_more = 0 if passes.now is None else passes.now.n_more(call)
    for kept, kind, change in asked:
        if n_more and kind not in ("q", "z_kernel"):
            raise CaptureError(f"{kind}: {OTHER_KEYS.format(n_more=n_more)}")
        keeps: Keeps = keep if change is None else partial(keep_changed, change)
        if packer is None:
            keeps(kept, attention.whole(call, kind), None)
            continue
        packing = packer.of_call(module, kind, call)
        if kind in BLOCK_KINDS:
            rows = packed_blocks(call, f"{module}/{kind}", packing.rows)
            keep(kept, rows, replace(packing, axes=()))
        else:
            given = call.tensor(kind)
            keeps(kept, given, replace(packing, axes=(BATCH, POSITION, *given.shape[2:])))
