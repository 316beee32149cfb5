"""The whole walk: a config in, a trace out; beginning.py has looked at the config before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from probekit import models
from probekit.capture import selfcheck
from probekit.capture.beams import search_shard
from probekit.capture.generation import shard_generator
from probekit.capture.oddvalues import Tally
from probekit.capture.provenance import about, about_model, run_record, session
from probekit.capture.read import Read
from probekit.capture.receiver import Receiver
from probekit.capture.shardwalk import Meter, Progress, Walk, Watcher, forward_shard
from probekit.capture.transfer import Transfer
from probekit.config import ProbeConfig
from probekit.errors import CaptureError, PlanError, ProbekitWarning, StoreError
from probekit.hooks import OrderRecorder
from probekit.inputs import ALONE, ANY_LENGTHS, ONE_LENGTH, Budget, tokenizing
from probekit.models import AtHand, FreshState
from probekit.planning import Plan, free_bytes, make_plan, shortage
from probekit.stages import FIRST_BATCH, SELF_CHECK, WEIGHTS, OnStage
from probekit.store import (
    FIRST,
    NEWEST,
    Damage,
    Format,
    RunFolder,
    RunRecord,
    ShardSpec,
    build_index,
    discard_inputs,
    discard_partial,
    format_of,
    index_is_whole,
    schema,
    sealed_damages,
    sealed_specs,
    sessions_of,
    wrong_inputs,
)
from probekit.trace import Trace, open_trace
from probekit.wording import by_count, counted

__all__ = ["Progress", "Watcher", "capture", "carry_out"]


def carry_out(
    config: ProbeConfig,
    *,
    hand: AtHand | None,
    overwrite: bool,
    repair: bool,
    force: bool,
    self_check: bool,
    on_plan: Callable[[Plan], None] | None,
    on_note: Callable[[str], None],
    on_start: Callable[[int, int], None] | None,
    on_stage: OnStage,
    on_progress: Watcher | None,
) -> Trace:
    """Carry out a config, after a look at what needs no model; see `run` in beginning.py."""
    read = Read.of(config)
    plan = make_plan(config, hand=hand, anew=overwrite, on_stage=on_stage)
    if on_plan is not None:
        on_plan(plan)
    if not force and (short := shortage(plan.contents, overwrite=overwrite)) is not None:
        raise PlanError(f"{short}. Make room, record less, or begin anyway with --force")
    device = plan.device
    path, where = config.store.folder, config.where("store.path")
    layout = NEWEST if overwrite else format_of(path, repair=repair)
    record = run_record(plan, layout)
    now = None if layout == FIRST else session(plan)
    with RunFolder(path, record, now, overwrite=overwrite, repair=repair, where=where) as folder:
        damages = [] if overwrite else sealed_damages(path, sums=repair)
        if damages and not repair:
            raise StoreError(_damaged(path, damages))
        damaged = {d.shard for d in damages if d.shard is not None}
        sealed = folder.sealed() - damaged
        todo = [shard for shard in plan.shards if shard.number not in sealed]
        for note in _notes(folder, len(sealed), len(todo), damages):
            on_note(note)
        if on_start is not None:
            on_start(len(sealed), len(plan.shards))
        if overwrite and free_bytes(path) < selfcheck.ROOM_BYTES:
            folder.reopen()  # or the self-check has no room beside the old run
        checked: Mapping[str, Any] = {}
        if not todo:
            models.forget_parsed()
        else:
            on_stage(WEIGHTS)
            model = hand.model if hand else _loaded(plan)
            _check_model(model, plan)
            fresh = FreshState(model)
            on_stage(SELF_CHECK)
            found = _checked(model, plan, path, device, fresh, rehearse=self_check)
            checked, company = found.said, found.company
            for note in found.notes:
                on_note(note)
        if todo or damages or overwrite:
            # Not earlier: what is old or damaged is better than nothing.
            folder.reopen(damaged, checked)
            if layout != FIRST:
                _seal_inputs(plan, path)
        if todo:
            attributes = {"run_digest": record.digest, **(checked if layout == FIRST else {})}
            on_stage(FIRST_BATCH)
            capture(
                model,
                plan,
                todo,
                path,
                device,
                on_progress,
                attributes=attributes,
                layout=layout,
                company=company,
                fresh=fresh,
            )
        counts: Mapping[str, Mapping[str, int]] = {}
        if todo or damages or not index_is_whole(path, sums=repair):
            folder.sum_up()
            counts = _index(plan, record, path, layout)
        if now is not None and not repair:  # a whole run that is checked stays as it is
            read.remember(folder, plan.notes)
    if todo:
        _warn_of_counts(counts)
    return open_trace(path)


def _loaded(plan: Plan) -> torch.nn.Module:
    loaded: torch.nn.Module = models.load_model(
        plan.config, plan.skeleton.hf_config, plan.device, plan.attention
    )
    return loaded


def _checked(
    model: torch.nn.Module,
    plan: Plan,
    path: Path,
    device: torch.device,
    fresh: FreshState,
    *,
    rehearse: bool,
) -> selfcheck.Checked:
    """Find out which texts may share a batch, by the plan, earlier sessions and a rehearsal."""
    known = [session.get("self_check_batches") for session in sessions_of(path)]
    narrowest_first = (ALONE, ONE_LENGTH, ANY_LENGTHS)
    company = next(k for k in narrowest_first if k in (plan.company, *known))
    if not rehearse:
        return selfcheck.Checked(company=company, said={"self_check": "skipped"}, notes=())

    def record(small: Plan, folder: Path, company: str) -> None:
        capture(model, small, small.shards, folder, device, company=company, fresh=fresh)

    return selfcheck.self_check(model, plan, record, path, company)


def _seal_inputs(plan: Plan, path: Path) -> None:
    """Write the inputs into a run's folder, unless they lie there whole."""
    assert plan.examples is not None  # a plan that runs has its inputs
    if wrong_inputs(path, plan.examples.digest) is not None:
        discard_inputs(path)
        plan.examples.sealed(plan.origin.digests).seal(path)
    discard_partial(path)


def _damaged(path: Path, damages: Sequence[Damage]) -> str:
    more = f" (and {len(damages) - 3} more)" if len(damages) > 3 else ""
    return (
        f"{path}: is damaged: {'; '.join(map(str, damages[:3]))}{more}. "
        "The same `probekit run` with --repair (in Python repair=True) computes the "
        "damaged shards again"
    )


def _notes(
    folder: RunFolder, n_sealed: int, n_todo: int, damages: Sequence[Damage]
) -> Iterator[str]:
    """Say what of the state of a run's folder its user should know."""
    for damage in damages:
        yield f"damaged, and computed again: {damage}"
    if n_sealed and n_todo and folder.changed:
        yield (
            f"{counted(n_sealed, 'sealed shard')} {by_count(n_sealed, 'was', 'were')} made "
            f"otherwise ({folder.changed}): the rows that come now agree with what they would have "
            "given to rounding, not bit for bit"
        )


def capture(
    model: torch.nn.Module,
    plan: Plan,
    todo: Sequence[ShardSpec],
    path: Path,
    device: torch.device,
    on_progress: Watcher | None = None,
    *,
    attributes: Mapping[str, Any] | None = None,
    layout: Format = NEWEST,
    company: str = ANY_LENGTHS,
    fresh: FreshState | None = None,
) -> None:
    """Run the model over some shards of a plan and seal each.

    Args:
        model: loaded, on the device.
        plan: of the run.
        todo: its shards that are to be made.
        path: the run's folder.
        device: that the model is on.
        on_progress: told how far it is.
        attributes: more of each shard.
        layout: the format.
        company: which texts may share a batch.
        fresh: what the model was loaded with; taken now where it is not given.
    """
    record_shard = _recorder(plan, path)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        order = None
        if plan.config.execution_order:
            # Attached first: its hooks run before the one that ends a forward pass early.
            order = stack.enter_context(OrderRecorder(model))
        transfer = stack.enter_context(
            Transfer(
                device,
                buffer_bytes=plan.config.store.buffer_bytes,
                row_bytes=max((site.spec.row_bytes for site in plan.sites), default=0),
            )
        )
        tally = Tally(len(plan.sites), device)
        walk = Walk(
            model=model,
            plan=plan,
            device=device,
            path=path,
            attributes={**about_model(plan, model, device, layout), **(attributes or {})},
            layout=layout,
            transfer=transfer,
            tally=tally,
            receiver=stack.enter_context(
                Receiver(model, plan.sites, transfer, tally, plan.stop, plan.choices)
            ),
            order=order,
            meter=Meter(plan.shards, todo, on_progress),
            budget=Budget.on(device.type, plan.config.inputs.batch_tokens),
            company=company,
            fresh=FreshState(model) if fresh is None else fresh,
        )
        for shard in todo:
            record_shard(walk, shard)


def _recorder(plan: Plan, path: Path) -> Callable[[Walk, ShardSpec], None]:
    """Give what records a shard: reads its texts, goes on from them, or searches and reads."""
    generate = plan.config.generate
    if generate is None:
        return forward_shard
    return search_shard if generate.beams > 1 else shard_generator(path)


def _warn_of_counts(counts: Mapping[str, Mapping[str, int]]) -> None:
    """Say at the end how many values of which sites are not finite."""
    words = {
        schema.NONFINITE: "values were NaN or infinite as the model computed them",
        schema.OVERFLOW: "values were too large for the dtype they are stored in and are infinite "
        "there (store.dtype: bfloat16 or float32 holds them)",
    }
    for attribute, what in words.items():
        found = {name: n for name, of_site in counts.items() if (n := of_site.get(attribute, 0))}
        if found:
            shown = ", ".join(f"{name} ({n:,})" for name, n in [*found.items()][:5])
            more = ", ..." if len(found) > 5 else ""
            message = f"{sum(found.values()):,} {what}: {shown}{more}"
            warnings.warn(message, ProbekitWarning, stacklevel=3)


def _check_model(model: torch.nn.Module, plan: Plan) -> None:
    """Refuse a model that is not the planned one."""
    there = {path: type(module).__name__ for path, module in model.named_modules() if path}
    if there != plan.skeleton.modules:
        odd = sorted(set(there.items()) ^ set(plan.skeleton.modules.items()))
        raise CaptureError(
            f"the loaded model is not the planned one; it differs at: "
            f"{', '.join(f'{path} ({kind})' for path, kind in odd[:5])}"
        )


def _index(
    plan: Plan, record: RunRecord, path: Path, layout: Format
) -> Mapping[str, Mapping[str, int]]:
    """Write the index; give what was counted at each site."""
    vocabulary = None if plan.tokenizer is None else tokenizing.token_bytes(plan.tokenizer)
    attributes = {**about(plan, layout), "run_digest": record.digest}
    return build_index(
        path, sealed_specs(path), [s.spec for s in plan.sites], attributes, vocabulary
    )
