"""Packer: of every tensor of a pass, which of its rows are tokens; or why that cannot be said.

Knows a checked mask, the pass that runs, and the axes of its tensors; nothing of what is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import torch

from probekit.config import RecordKind
from probekit.errors import CaptureError
from probekit.hooks.keeping import Packing
from probekit.hooks.padding import refuse_untold
from probekit.hooks.passes import Pass
from probekit.hooks.realtokens import RealTokens, TokenRows
from probekit.hooks.tokenaxes import TokenAxes, token_axes
from probekit.models.forward import (
    BATCH,
    MIXED,
    POSITION,
    TOKEN,
    AttentionCall,
    Axes,
    HeadsAt,
    mixes_tokens,
    sizes_of,
)
from probekit.wording import counted

_ALONE = (
    "it ran outside of a call of {model}, so which of its rows are tokens is not known; call the "
    "whole model, or record that module as the model"
)


class Packer:
    """Say which rows are tokens.

    Args:
        name: of the recorded model's class, for messages.
        tokens: of the batch.
        sites: that modules give, by name: module path and kind.
    """

    def __init__(
        self, name: str, tokens: RealTokens, sites: Mapping[str, tuple[str, RecordKind]]
    ) -> None:
        self._name = name
        self._tokens = tokens
        self._sites = dict(sites)
        self._tables: dict[str, _Table] = {}  # by the path of what was called
        self._calls: Counter[str] = Counter()  # of a site, in the pass that runs
        self._pass: Pass | None = None

    def begin(self, seen: Pass) -> None:
        """See a pass begin.

        Raises:
            CaptureError: if the mask is not one of its texts, or if what is asked for has no rows
                of tokens.
        """
        self._calls.clear()
        self._pass = None
        self._check_mask(seen)
        if seen.path not in self._tables:
            self._tables[seen.path] = table = _Table(seen)
            self._check_sites(table)
        rows = self._rows(seen, 0)
        refuse_untold(seen, rows.keys, rows.n_keys)
        self._refuse_mixed(self._tables[seen.path], rows)
        self._pass = seen

    def end(self) -> None:
        """Forget the pass."""
        self._pass = None

    def of_site(self, name: str, tensor: torch.Tensor) -> Packing:
        """Say which rows are tokens of what a site's module was given or gives."""
        seen = self._running(name)
        module, kind = self._sites[name]
        number = self._calls[name] if kind.call is None else kind.call
        self._calls[name] += 1
        try:
            axes = self._tables[seen.path].axes(module, kind, number)
        except CaptureError as error:
            shape = list(tensor.shape)
            raise CaptureError(f"record: mask: {name} is {shape} here: {error}") from error
        return self._packing(name, kind.name, axes, tensor)

    def of_choices(self, name: str, tensor: torch.Tensor) -> Packing:
        """Say which rows are tokens of what is worked out of a site's module: `[token, ...]`."""
        # Its router has rows of tokens, or it was refused; what is made of them is as long.
        axes = (TOKEN, *tensor.shape[1:])
        return self._packing(name, self._sites[name][1].name, axes, tensor)

    def of_heads(self, name: str, at: HeadsAt, tensor: torch.Tensor) -> Packing:
        """Say which rows are tokens of heads that another module gives or reads.

        The heads are taken out of the tensor first: its places come in front.
        """
        packing = self._packing(name, "z", at.axes, tensor)
        front = (BATCH, POSITION) if BATCH in at.axes else (TOKEN,)
        return Packing(rows=packing.rows, axes=(*front, *at.sizes), kind=packing.kind)

    def of_call(self, module: str, kind: str, call: AttentionCall) -> Packing:
        """Say which rows are tokens of what an attention kernel is given or gives."""
        given = call.query.transpose(1, 2)  # [batch, query, head, d_head]
        axes = (BATCH, POSITION, *given.shape[2:])
        return self._packing(f"{module}/{kind}", kind, axes, given)

    def _running(self, name: str) -> Pass:
        if self._pass is None:
            raise CaptureError(f"record: mask: {name}: {_ALONE.format(model=self._name)}")
        return self._pass

    def _packing(self, name: str, kind: str, axes: Axes, tensor: torch.Tensor) -> Packing:
        seen = self._running(name)
        assert seen.shape is not None  # or it would have been refused when it began
        n_batch, n_positions = seen.shape
        for n_last in (0, seen.n_logits):
            expected = sizes_of(axes, n_batch, n_last or n_positions)
            if tuple(tensor.shape) == expected:
                return Packing(rows=self._rows(seen, n_last), axes=axes, kind=kind)
        whole = list(sizes_of(axes, n_batch, n_positions))
        shown = f"[{', '.join(str(axis) for axis in axes)}]"
        raise CaptureError(
            f"record: mask: {name} is {list(tensor.shape)}; on plain tokens it is {shown}, here "
            f"{whole}, so which of its rows are tokens cannot be told (positions that all texts "
            "share have one row: give the model position_ids); record it without mask="
        )

    def _rows(self, seen: Pass, n_last: int) -> TokenRows:
        assert seen.shape is not None
        assert seen.n_past is not None
        return self._tokens.at(first=seen.n_past, n_positions=seen.shape[1], n_last=n_last)

    def _check_mask(self, seen: Pass) -> None:
        tokens, shape = self._tokens, seen.shape
        shown = f"[{tokens.n_texts}, {tokens.n_positions}]"
        if shape is None:
            raise CaptureError(
                f"record: mask is {shown}; {type(seen.model).__name__} is called with no "
                "[batch, pos] tensor"
            )
        if shape[0] != tokens.n_texts:
            raise CaptureError(
                f"record: mask is {shown}; the model is called with {counted(shape[0], 'text')}: "
                f"{list(shape)} (beams and several answers to a prompt are texts of their own: "
                "repeat the mask's rows, mask.repeat_interleave(n, 0))"
            )
        if isinstance(seen.given.get("logits_to_keep"), torch.Tensor):
            raise CaptureError(
                "record: mask: logits_to_keep is a tensor of positions, and whose rows the logits "
                "are is not known; give the model a number, or leave it out"
            )
        if seen.n_past is None:
            raise CaptureError(
                "record: mask: the model goes on from a state that does not say how many tokens it "
                "has read, so which positions these are is not known; record a pass over whole "
                "texts (use_cache=False)"
            )
        fits = shape[1] <= tokens.n_positions if seen.has_cache else shape[1] == tokens.n_positions
        if not seen.n_past and not fits:
            raise CaptureError(
                f"record: mask is {shown}; the model reads {counted(shape[1], 'position')}: "
                f"{list(shape)}; give the mask of this very batch"
            )
        tokens.at(first=seen.n_past, n_positions=shape[1])
        given = seen.given.get("attention_mask")
        # Later, `generate` says that a text goes on which has come to its end.
        if not seen.n_past and isinstance(given, torch.Tensor) and given.shape == shape:
            tokens.check_given(np.asarray(given.detach().cpu() != 0))

    def _refuse_mixed(self, table: _Table, rows: TokenRows) -> None:
        """Refuse a batch in which a text's rows would not be those of it alone."""
        is_alone = rows.counts == (rows.n_positions,)  # one text, without padding
        if table.mixes is not None and not is_alone:
            raise CaptureError(
                f"record: mask: {table.mixes}: {MIXED}, padding and other texts among them; record "
                "one text at a time, without padding (or without mask=, as the batch has it)"
            )

    def _check_sites(self, table: _Table) -> None:
        """Name all sites that have no rows of tokens, before the pass goes on."""
        faults: dict[str, list[str]] = {}  # by reason
        for name, (module, kind) in self._sites.items():
            n_calls = table.n_calls(module)
            for number in range(n_calls) if kind.call is None else [kind.call]:
                try:
                    table.axes(module, kind, number)
                except CaptureError as error:
                    if n_calls and name not in faults.setdefault(str(error), []):
                        faults[str(error)].append(name)
        said = [f"{_few(names)}: {why}" for why, names in faults.items() if names]
        if said:
            raise CaptureError("\n".join(f"record: mask: {line}" for line in said))


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


class _Table:
    """The axes of what runs in a pass, by paths of the recorded model."""

    def __init__(self, seen: Pass) -> None:
        self._axes: TokenAxes = token_axes(seen)
        self._before = f"{seen.path}." if seen.path else ""
        # A module that is reachable under two names runs under its first.
        firsts = {module: path for path, module in seen.model.named_modules()}
        every = seen.model.named_modules(remove_duplicate=False)
        self._known = {path: firsts[module] for path, module in every}
        self._own = seen.path
        mixing = (path for path, m in seen.model.named_modules() if mixes_tokens(m))
        self.mixes = next(mixing, None)  # a module whose tokens' rows depend on one another

    def n_calls(self, module: str) -> int:
        path = self._path(module)
        return 0 if path is None else self._axes.n_calls(path)

    def axes(self, module: str, kind: RecordKind, number: int) -> Axes:
        path = self._path(module)
        if path is None:
            raise CaptureError("it is no part of the model that was called")
        return self._axes.of(path, kind.name, kind.element, number)

    def _path(self, module: str) -> str | None:
        if module == self._own:
            return ""
        if not module.startswith(self._before):
            return None
        return self._known.get(module.removeprefix(self._before))
