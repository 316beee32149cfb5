"""The self-check: a small rehearsal before a run's first batch, compared with what must equal it.

The first texts of the run, cut short, are recorded into a scratch folder by the very code that will
record the run, twice:

- together in a batch, while bare torch hooks watch the same forward passes: what is stored must be
  what they saw, bit for bit;
- the shorter text alone: its rows must be those it had in the batch, to rounding. Where they are
  not, a third pass with other padding tells whether padding reaches the rows.

Knows plans and traces; nothing of how rows are recorded. The run itself is not touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from probekit.capture import packing
from probekit.errors import CaptureError
from probekit.hooks import BareHooks
from probekit.inputs import Choice, few_examples, shards
from probekit.interrupts import uninterrupted
from probekit.planning import Plan, Recipe, SitePlan
from probekit.store import FLOATS, PER_EXAMPLE, SCRATCH, explained, this_process, widen
from probekit.trace import Site, Trace, open_trace

_MOST_TOKENS = 128  # of a text, where it can be cut
_LEAST_TOKENS = 16
_MOST_BYTES = 64 << 20  # of rows in a rehearsal
ROOM_BYTES = 3 * _MOST_BYTES  # of a disk, that all that is rehearsed fits beside the run
_MOST_SITES = 64
# The largest difference, as a share of the largest value of a site, that rounding explains. In 16
# bits the other order of a sum is a different last bit, and deep models make more of it.
TOLERANCES = {"float64": 1e-6, "float32": 1e-3, "float16": 0.05, "bfloat16": 0.2}

Array = np.ndarray[Any, Any]
Record = Callable[[Plan, Path], None]  # carries a plan out into a folder


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worst:
    """The site that differs most, and by how much of its largest value."""

    site: str
    difference: float
    tolerance: float

    def __str__(self) -> str:
        return f"{self.site} by {self.difference:.2g} of its largest value"


def self_check(model: torch.nn.Module, plan: Plan, record: Record, place: Path) -> dict[str, Any]:
    """Rehearse a run and compare.

    Args:
        model: loaded, as the run will use it.
        plan: of the run.
        record: what will carry the run out.
        place: the run's folder; what is rehearsed lies there meanwhile.

    Returns:
        Attributes for the trace: `self_check` ("passed"), `self_check_sites` (how many sites equal
        a bare hook), and of the site that differs most between alone and in a batch
        `self_check_site`, `self_check_difference` and `self_check_tolerance`, shares of its
        largest value.

    Raises:
        CaptureError: if a site is not what a bare hook sees, or a text has other rows in a batch
            than alone.
    """
    small = _rehearsal(plan)
    if small is None:
        return {"self_check": "nothing to check"}
    assert small.examples is not None
    short = int(small.examples.n_tokens.argmin())
    with _scratch(place) as folder:
        together, n_equal = _against_hooks(model, small, short, record, folder / "together")
        found: dict[str, Any] = {"self_check": "passed", "self_check_sites": n_equal}
        if len(small.examples) == 1:
            return found
        lone = _planned(plan, small.sites, [_tokens(small, short)])
        alone = _recorded(lone, record, folder / "alone")
        worst = _compare(lone, _rows(together, short), _rows(alone, 0))
        if worst is None:
            return found
        found |= {
            "self_check_difference": worst.difference,
            "self_check_tolerance": worst.tolerance,
            "self_check_site": worst.site,
        }
        if worst.difference > worst.tolerance:
            with _other_padding(model):
                padded = _recorded(small, record, folder / "padded")
            others = _compare(lone, _rows(together, short), _rows(padded, short))
            raise _refusal(plan, worst, others)
    return found


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    """Give a folder for the time of a block; a signal waits while it is removed."""
    with explained(place):
        scratch = TemporaryDirectory(prefix=f"{SCRATCH}{this_process()}-", dir=place)
    try:
        yield Path(scratch.name)
    finally:
        with uninterrupted():
            scratch.cleanup()


def _refusal(plan: Plan, worst: _Worst, padded: _Worst | None) -> CaptureError:
    """Say that a text has other rows in a batch than alone, and what the cause is."""
    if padded is not None and padded.difference > padded.tolerance:
        cause = f"its padding reaches them: with other padding the same text differs at {padded}"
    else:
        cause = "not by the padding's own values: the batch's width or the other texts reach them"
    return CaptureError(
        f"self-check: {plan.skeleton.model_class} gives a text other rows in a batch than alone, "
        f"at {worst} (rounding explains {worst.tolerance:g}); {cause}. inputs.batch_tokens: 1 "
        "runs every text alone; --no-self-check records the batches as they are"
    )


# --- what is rehearsed


def _rehearsal(plan: Plan) -> Plan | None:
    """Plan the first texts of a run, cut short where its probes allow that."""
    examples = plan.examples
    assert examples is not None  # a plan that runs has its inputs
    if not plan.sites:
        return None
    sites = _affordable(plan)
    n_tokens = examples.n_tokens
    others = np.flatnonzero(n_tokens != n_tokens[0])
    second = int(others[0]) if len(others) else 1
    numbers = [0, second] if len(examples) > 1 else [0]
    whole = [examples.token_ids(n, n + 1) for n in numbers]
    row_bytes = sum(site.spec.row_bytes for site in sites)
    room = min(_MOST_TOKENS, max(_LEAST_TOKENS, _MOST_BYTES // max(1, row_bytes)))
    first = min(room, len(whole[0]))
    # While tokens are generated only texts of one length share a batch.
    other = first if plan.config.generate else max(1, 2 * first // 3)
    cut = [ids[:n] for ids, n in zip(whole, (first, other), strict=False)]
    if plan.config.generate:
        shortest = min(map(len, cut))
        cut = [ids[:shortest] for ids in cut]
    return _planned(plan, sites, cut if _have_rows(sites, cut) else whole)


def _affordable(plan: Plan) -> tuple[SitePlan, ...]:
    """Choose sites, few enough and of few enough bytes: the deepest of each kind goes first."""
    kinds = {(re.sub(r"\d+", "*", site.spec.name), site.recipe): site for site in plan.sites}
    deepest = {site.spec.name: site for site in kinds.values()}
    chosen: set[str] = set()
    n_bytes = 0
    for name, site in {**deepest, **{site.spec.name: site for site in plan.sites}}.items():
        n_bytes += site.spec.row_bytes * 2 * _LEAST_TOKENS
        if not chosen or (n_bytes <= _MOST_BYTES and len(chosen) < _MOST_SITES):
            chosen.add(name)
    return tuple(site for site in plan.sites if site.spec.name in chosen)


def _have_rows(sites: Sequence[SitePlan], texts: Sequence[Array]) -> bool:
    """Say whether texts that were cut still have what the probes ask for."""
    n_tokens = np.array([len(ids) for ids in texts])
    for site in sites:
        try:
            counts = shards.count_rows(n_tokens, site.choice)
        except IndexError:  # a position asked for by its number
            return False
        if site.recipe.pool is not None and not counts.all():
            return False
    return True


def _planned(plan: Plan, sites: tuple[SitePlan, ...], texts: Sequence[Array]) -> Plan:
    config = plan.config
    generate = config.generate
    if generate is not None:
        few = {"max_new_tokens": 1, "strategy": "greedy"}
        once = {"use_cache": True} if generate.use_cache == "both" else {}
        generate = generate.model_copy(update={**few, **once})
    small = config.model_copy(
        update={
            "execution_order": False,
            "generate": generate,
            "store": config.store.model_copy(update={"compression": None}),
        }
    )
    extra = 0 if generate is None else generate.max_new_tokens
    n_tokens = np.array([len(ids) for ids in texts]) + extra
    return replace(
        plan,
        config=small,
        sites=sites,
        examples=few_examples(texts),
        shards=shards.split(n_tokens, [site.spec for site in sites], 2**62),
    )


def _tokens(plan: Plan, example: int) -> Array:
    assert plan.examples is not None
    return plan.examples.token_ids(example, example + 1)


# --- recording and comparing


def _recorded(plan: Plan, record: Record, folder: Path) -> Trace:
    record(plan, folder)
    return open_trace(folder / plan.shards[0].file)


def _against_hooks(
    model: torch.nn.Module, plan: Plan, example: int, record: Record, folder: Path
) -> tuple[Trace, int]:
    """Record under bare hooks; give the trace, and how many sites equal what they saw."""
    tokens = _tokens(plan, example)
    plain = {site.spec.name: site for site in plan.sites if _is_plain(site)}
    sources = {name: site.source for name, site in plain.items()}
    with BareHooks(model, sources, tokens) as hooks:
        trace = _recorded(plan, record, folder)
    wrong: list[str] = []
    for name, site in plain.items():
        stored = _site_rows(trace[name], example)
        seen = _expected(site, hooks.rows.get(name), len(tokens))
        stored = stored[: len(seen)] if plan.config.generate else stored
        if stored.tobytes() != seen.tobytes():
            wrong.append(f"{name} by {_largest(stored, seen, site.spec.dtype)}")
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise CaptureError(
            "self-check: what would be stored is not what a bare torch hook sees on the same "
            f"forward pass: {', '.join(wrong[:3])}{more}. This is a defect of probekit or of a "
            "hook that changes the model while it runs; --no-self-check records it all the same"
        )
    return trace, len(plain)


def _is_plain(site: SitePlan) -> bool:
    """Say whether a site's rows are a tensor of the model as it is, but for a choice of entries."""
    chosen = Recipe(heads=site.recipe.heads, neurons=site.recipe.neurons)
    return (
        site.source.side in ("input", "output")
        and site.recipe == chosen
        and not (site.source.n_keys)
    )


def _expected(site: SitePlan, seen: torch.Tensor | None, n_tokens: int) -> Array:
    """Give what a site must have stored of what a bare hook saw, as stored bits."""
    if seen is None:
        return np.empty(0, dtype=np.uint8)
    rows = seen
    if site.choice != PER_EXAMPLE:
        rows = rows[torch.as_tensor(Choice(site.choice).positions(n_tokens), device=seen.device)]
    if site.recipe.heads is not None:
        rows = rows[:, list(site.recipe.heads)]
    if site.recipe.neurons is not None:
        rows = rows[..., list(site.recipe.neurons)]
    stored = rows.to(getattr(torch, site.spec.dtype)).cpu().contiguous()
    return packing.to_storage(stored)


def _site_rows(site: Site, example: int) -> Array:
    """Give an example's rows as stored bits."""
    per_example = site.rows == PER_EXAMPLE
    rows = slice(example, example + 1) if per_example else site.rows_of(example)
    stored: Array = site.raw(rows)
    return stored


def _largest(stored: Array, seen: Array, dtype: str) -> str:
    if stored.shape != seen.shape:
        return f"{list(stored.shape)} rows instead of {list(seen.shape)}"
    difference = _numbers(stored, dtype) - _numbers(seen, dtype)
    return f"up to {np.abs(difference).max():.3g}"


def _numbers(stored: Array, dtype: str) -> Array:
    return widen(stored, dtype).astype(np.float64)


def _rows(trace: Trace, example: int) -> Callable[[str], Array]:
    return lambda name: _numbers(_site_rows(trace[name], example), trace[name].dtype)


def _compare(
    plan: Plan, ours: Callable[[str], Array], theirs: Callable[[str], Array]
) -> _Worst | None:
    """Find the site whose rows differ most between two recordings, against its tolerance."""
    n_prompt = len(_tokens(plan, 0)) if plan.config.generate else None
    found = []
    for site in plan.sites:
        spec = site.spec
        if spec.dtype not in FLOATS:
            continue  # ids of equal values can change places
        precisions = (spec.dtype, spec.source_dtype, str(plan.dtype).removeprefix("torch."))
        tolerance = max(TOLERANCES.get(dtype, 0.0) for dtype in precisions)
        a, b = ours(spec.name)[:n_prompt], theirs(spec.name)[:n_prompt]
        found.append(_Worst(site=spec.name, difference=_share(a, b), tolerance=tolerance))
    return max(found, key=lambda worst: worst.difference / worst.tolerance, default=None)


def _share(a: Array, b: Array) -> float:
    """Give the largest difference as a share of the largest value; infinite if NaNs differ."""
    if a.shape != b.shape:
        return float("inf")
    odd = ~(np.isfinite(a) & np.isfinite(b))
    if not np.array_equal(a[odd], b[odd], equal_nan=True):
        return float("inf")
    if odd.all():
        return 0.0
    largest = np.abs(b[~odd]).max()
    difference = np.abs(a[~odd] - b[~odd]).max()
    return float(difference / largest) if difference else 0.0


@contextmanager
def _other_padding(model: torch.nn.Module) -> Iterator[None]:
    """Give the model other tokens where the mask says that there are none."""

    def hook(module: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> Any:
        mask = kwargs.get("attention_mask")
        ids = kwargs["input_ids"]
        if mask is None or mask.shape != ids.shape:
            return None
        return args, {**kwargs, "input_ids": torch.where(mask.bool(), ids, ids + 1)}

    handle = model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
