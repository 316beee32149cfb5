"""The whole walk: a config in, a trace out; beginning.py has looked at the config before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from probekit import models
from probekit.capture import selfcheck
from probekit.capture.asked import Asked
from probekit.capture.beams import search_shard
from probekit.capture.begun import INDEX, SETUP, Begun, begin, reopen
from probekit.capture.generation import shard_generator
from probekit.capture.progress import Watcher
from probekit.capture.provenance import about, about_model
from probekit.capture.rows import Receiver, Tally, Transfer
from probekit.capture.shardwalk import Meter, Walk, forward_shard
from probekit.config import ProbeConfig
from probekit.errors import CaptureError, ProbekitWarning, StoreError
from probekit.hooks import OrderRecorder
from probekit.inputs import ALONE, ANY_LENGTHS, ONE_LENGTH, Budget, tokenizing
from probekit.models import AtHand, FreshState
from probekit.planning import Plan, free_bytes
from probekit.ranks import spread
from probekit.stages import FIRST_BATCH, SELF_CHECK, WEIGHTS
from probekit.store import (
    FIRST,
    NEWEST,
    Beat,
    Claims,
    Format,
    RunRecord,
    ShardSpec,
    build_index,
    index_is_whole,
    is_sealed,
    made_on,
    schema,
    sealed_specs,
    sessions_of,
)
from probekit.trace import Trace, open_trace


def carry_out(config: ProbeConfig, asked: Asked, hand: AtHand | None = None) -> Trace:
    """Carry out a config, after a look at what needs no model; see `run` in beginning.py."""
    with begin(config, asked, hand) as begun:
        folder, plan, todo, layout = begun.folder, begun.plan, begun.todo, begun.layout
        path, device = folder.path, plan.device
        if asked.overwrite and free_bytes(path) < selfcheck.ROOM_BYTES:
            folder.reopen()  # or the self-check has no room beside the old run
        if not todo:
            models.forget_parsed()
            reopen(begun)
        else:
            asked.on_stage(WEIGHTS)
            model = hand.model if hand else _loaded(plan)
            _check_model(model, plan)
            fresh = FreshState(model)
            asked.on_stage(SELF_CHECK)
            with folder.claims.turn(SETUP):  # one worker checks, the others wait and take it over
                found = _checked(model, begun, fresh, rehearse=asked.self_check)
                for note in found.notes:
                    asked.on_note(note)
                reopen(begun, found.said)
            said = found.said if layout == FIRST else {}
            asked.on_stage(FIRST_BATCH)
            capture(
                model,
                plan,
                spread(todo),
                path,
                device,
                asked.on_progress,
                attributes={"run_digest": begun.record.digest, **said},
                layout=layout,
                company=found.company,
                fresh=fresh,
                claims=folder.claims,
            )
        counts = _finish(begun, asked)
    if todo:
        _warn_of_counts(counts)
    return open_trace(path)


def make_ready(config: ProbeConfig, asked: Asked) -> int:
    """Make a run's folder ready for workers, with its inputs; give how many shards are missing.

    Where none is, the run is brought to its end.

    Raises:
        StoreError: if the run was begun in a format whose shards follow on each other.
    """
    with begin(config, asked) as begun:
        models.forget_parsed()
        if begun.layout == FIRST and begun.todo:
            raise StoreError(
                f"{begun.folder.path}: was begun in format {FIRST}, whose shards are made one "
                "after another; finish it without --workers"
            )
        reopen(begun)
        if not begun.todo:
            _finish(begun, asked)
    return len(begun.todo)


def _finish(begun: Begun, asked: Asked) -> Mapping[str, Mapping[str, int]]:
    """Write the index where it is missing, once for all workers; give what was counted then."""
    folder, counts = begun.folder, {}
    with folder.claims.turn(INDEX):
        if not index_is_whole(folder.path, sums=asked.repair):
            folder.sum_up()
            counts = dict(_index(begun.plan, begun.record, folder.path, begun.layout))
        if begun.now is not None and not asked.repair:  # what is only checked stays as it is
            begun.read.remember(folder, begun.plan.notes)
    return counts


def _loaded(plan: Plan) -> torch.nn.Module:
    loaded: torch.nn.Module = models.load_model(
        plan.config, plan.skeleton.hf_config, plan.device, plan.attention
    )
    return loaded


def _checked(
    model: torch.nn.Module, begun: Begun, fresh: FreshState, *, rehearse: bool
) -> selfcheck.Checked:
    """Find out which texts may share a batch, by the plan, earlier sessions and a rehearsal."""
    plan, folder = begun.plan, begun.folder
    sessions = sessions_of(folder.path)
    known = [each.get("self_check_batches") for each in sessions]
    narrowest_first = (ALONE, ONE_LENGTH, ANY_LENGTHS)
    company = next(k for k in narrowest_first if k in (plan.company, *known))
    if not rehearse:
        return selfcheck.Checked(company=company, said={"self_check": "skipped"}, notes=())
    if (said := _checked_beside(folder.claims.others(), sessions, begun.now)) is not None:
        return selfcheck.Checked(company=company, said=said, notes=())

    def record(small: Plan, place: Path, company: str) -> None:
        capture(model, small, small.shards, place, plan.device, company=company, fresh=fresh)

    return selfcheck.self_check(model, plan, record, folder.path, company)


def _checked_beside(
    others: Sequence[Beat], sessions: Sequence[Mapping[str, Any]], now: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """Give what a living worker found on such a device with such versions; None where none did."""
    living = {(beat.host, beat.process) for beat in others}
    for earlier in reversed(sessions):
        is_alike = now is not None and made_on(earlier) == made_on(now)
        if is_alike and (earlier.get("host"), earlier.get("process")) in living:
            found = {k: v for k, v in earlier.items() if k.startswith("self_check")}
            if found.get("self_check", "skipped") != "skipped":
                return found
    return None


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
        mine: Iterable[ShardSpec] = todo
        if claims is not None:
            # Closed here: a generator that is left to the garbage would give up a later claim.
            mine = stack.enter_context(
                closing(claims.shards(todo, partial(is_sealed, path), meter.elsewhere, meter.wait))
            )
        for shard in mine:
            meter.begin(shard)
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
    shards = sealed_specs(path, [shard.number for shard in plan.shards])
    return build_index(path, shards, [s.spec for s in plan.sites], attributes, vocabulary)
