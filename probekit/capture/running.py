"""The whole walk: a config in, a trace out; beginning.py has looked at the config before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from probekit import models
from probekit.capture import selfcheck
from probekit.capture.beams import search_shard
from probekit.capture.generation import shard_generator
from probekit.capture.oddvalues import Tally
from probekit.capture.provenance import about, about_model, run_record, session
from probekit.capture.ranks import spread
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
    Beat,
    Claims,
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
    is_sealed,
    schema,
    sealed_damages,
    sealed_specs,
    sessions_of,
    wrong_inputs,
)
from probekit.trace import Trace, open_trace
from probekit.wording import by_count, counted

SETUP, INDEX = "setup", "index"  # steps of a run that one worker at a time does

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
    with RunFolder(
        path,
        record,
        now,
        overwrite=overwrite,
        repair=repair,
        alone=layout == FIRST,  # where a shard follows on the one before it
        where=where,
    ) as folder:
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
        if not todo:
            models.forget_parsed()
            _reopen(folder, plan, damaged, {}, layout)
        else:
            on_stage(WEIGHTS)
            model = hand.model if hand else _loaded(plan)
            _check_model(model, plan)
            fresh = FreshState(model)
            on_stage(SELF_CHECK)
            with folder.claims.turn(SETUP):  # one worker checks, the others wait and take it over
                found = _checked(model, plan, folder, now, device, fresh, rehearse=self_check)
                for note in found.notes:
                    on_note(note)
                _reopen(folder, plan, damaged, found.said, layout)
            said = found.said if layout == FIRST else {}
            on_stage(FIRST_BATCH)
            capture(
                model,
                plan,
                spread(todo),
                path,
                device,
                on_progress,
                attributes={"run_digest": record.digest, **said},
                layout=layout,
                company=found.company,
                fresh=fresh,
                claims=folder.claims,
            )
        counts: Mapping[str, Mapping[str, int]] = {}
        with folder.claims.turn(INDEX):
            if not index_is_whole(path, sums=repair):
                folder.sum_up()
                counts = _index(plan, record, path, layout)
            if now is not None and not repair:  # a whole run that is checked stays as it is
                read.remember(folder, plan.notes)
    if todo:
        _warn_of_counts(counts)
    return open_trace(path)


def _reopen(
    folder: RunFolder,
    plan: Plan,
    damaged: Collection[int],
    checked: Mapping[str, Any],
    layout: Format,
) -> None:
    """Make a run's folder ready for the shards that are missing; not where none is.

    Not earlier: what is old or damaged is better than nothing.
    """
    with folder.claims.turn(INDEX):  # or it could go a moment after another has written it
        if folder.sealed() - set(damaged) == {shard.number for shard in plan.shards}:
            return
        folder.reopen(damaged, checked)
        if layout != FIRST:
            _seal_inputs(plan, folder.path)


def _loaded(plan: Plan) -> torch.nn.Module:
    loaded: torch.nn.Module = models.load_model(
        plan.config, plan.skeleton.hf_config, plan.device, plan.attention
    )
    return loaded


def _checked(
    model: torch.nn.Module,
    plan: Plan,
    folder: RunFolder,
    now: Mapping[str, Any] | None,
    device: torch.device,
    fresh: FreshState,
    *,
    rehearse: bool,
) -> selfcheck.Checked:
    """Find out which texts may share a batch, by the plan, earlier sessions and a rehearsal."""
    sessions = sessions_of(folder.path)
    known = [each.get("self_check_batches") for each in sessions]
    company = next((k for k in (ALONE, ONE_LENGTH) if k in known), plan.company)
    if not rehearse:
        return selfcheck.Checked(company=company, said={"self_check": "skipped"}, notes=())
    if (said := _checked_beside(folder.claims.others(), sessions, now)) is not None:
        return selfcheck.Checked(company=company, said=said, notes=())

    def record(small: Plan, folder: Path, company: str) -> None:
        capture(model, small, small.shards, folder, device, company=company, fresh=fresh)

    return selfcheck.self_check(model, plan, record, folder.path, company)


def _checked_beside(
    others: Sequence[Beat], sessions: Sequence[Mapping[str, Any]], now: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """Give what a living worker found on such a device with such versions; None where none did."""
    living = {(beat.host, beat.process) for beat in others}
    for earlier in reversed(sessions):
        is_alike = now is not None and all(
            earlier.get(key) == value
            for key, value in now.items()
            if key == "device" or key.endswith("_version")
        )
        if is_alike and (earlier.get("host"), earlier.get("process")) in living:
            found = {k: v for k, v in earlier.items() if k.startswith("self_check")}
            if found.get("self_check", "skipped") != "skipped":
                return found
    return None


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
    claims: Claims | None = None,
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
        claims: by which this worker shares the shards with others; None where there are none.
    """
    record_shard = _recorder(plan, path, layout)
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
        meter = Meter(plan.shards, todo, on_progress, claims)
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
            meter=meter,
            budget=Budget.on(device.type, plan.config.inputs.batch_tokens),
            company=company,
            fresh=FreshState(model) if fresh is None else fresh,
        )
        if claims is None:
            mine: Iterable[ShardSpec] = todo
        else:
            mine = claims.shards(todo, partial(is_sealed, path), meter.elsewhere, meter.wait)
        for shard in mine:
            record_shard(walk, shard)


def _recorder(plan: Plan, path: Path, layout: Format) -> Callable[[Walk, ShardSpec], None]:
    """Give what records a shard: reads its texts, goes on from them, or searches and reads."""
    generate = plan.config.generate
    if generate is None:
        return forward_shard
    return search_shard if generate.beams > 1 else shard_generator(path, layout)


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
